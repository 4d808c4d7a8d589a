//! A device in a place of its own, and what another device of its user tells of the group.

use super::{
    super::{roster::Roster, strayed},
    devices::device_of,
    *,
};

/// Alice's group with Mallory, an admin as she is, with Bob's phone, and his tablet, which came last and in a place to which the
/// phone is to come.
struct Untold {
    alice: Person,
    bob: Person,
    mallory: Person,
    tablet: Person,
    id: GroupId,
}

impl Untold {
    fn new() -> Self {
        let issuer = SigningKey::generate();
        let ([alice, bob, mallory], id) = three(&issuer);
        let tablet = device_of(&bob, &issuer);
        let group = Self { alice, bob, mallory, tablet, id };
        group.commit(&Change::Admins(group.admins().to_vec()));
        let leaf_key = group.tablet.offer_as(Pseudonym([0; 16]), &group.alice);
        let welcome = group.commit(&Change::Add(vec![leaf_key])).welcome.unwrap();
        group.tablet.join(&welcome, Some(&group.alice.tree(&group.id))).unwrap();
        group
    }

    /// Mallory and the server made up a group with a ghost, into which they brought the tablet. It knows no other one.
    fn made_up() -> Self {
        let issuer = SigningKey::generate();
        let ([alice, bob, mallory], id) = three(&issuer);
        let tablet = device_of(&bob, &issuer);
        mallory.add_freely(&id, &person("ghost", &issuer).offer_to(&mallory));
        let welcome = mallory.add_freely(&id, &tablet.offer_as(Pseudonym([0; 16]), &mallory));
        tablet.join(&welcome, Some(&mallory.tree(&id))).unwrap();
        Self { alice, bob, mallory, tablet, id }
    }

    fn admins(&self) -> [Pseudonym; 2] {
        [&self.alice, &self.mallory].map(|admin| admin.pseudonym(&self.id))
    }

    /// Alice commits, and Bob's phone follows.
    fn commit(&self, change: &Change) -> SubmitMessage {
        let submission = self.alice.stage(&self.id, change);
        self.alice.confirm(&self.id);
        self.bob.receive(&submission.message).unwrap();
        submission
    }

    /// The tablet reads a letter.
    fn hears(&self, letter: &handover::GroupHandover) -> Vec<News> {
        let news = hears(&self.tablet, letter);
        assert_ne!(state(&self.tablet, &self.id), strayed::State::ByHand, "nobody is silenced");
        news
    }

    /// The tablet asks the server, which shows this epoch.
    fn asks(&self, shown: u64) -> Vec<News> {
        let asks = |tx: &Tx<'_>| GroupState::load(tx, &self.id)?.hear_of_epoch(tx, shown);
        self.tablet.store.write(asks).unwrap();
        news(&self.tablet)
    }
}

/// An event of which a letter is the reason.
#[derive(Debug, PartialEq, Eq)]
enum News {
    /// The numbers of strangers and of admins.
    Untold(usize, usize),
    Divided(u64),
}

fn news(person: &Person) -> Vec<News> {
    let news = |event| match event {
        Event::Untold { strangers, admins, .. } => Some(News::Untold(strangers.len(), admins.len())),
        Event::Divided { epoch, .. } => Some(News::Divided(epoch)),
        _ => None,
    };
    person.events().into_iter().filter_map(news).collect()
}

/// Somebody reads a letter.
fn hears(person: &Person, letter: &handover::GroupHandover) -> Vec<News> {
    person.events();
    person.store.write(|tx| take_over(tx, std::slice::from_ref(letter))).unwrap();
    news(person)
}

/// The handover by which a device tells of the group as it is.
fn letter(of: &Person) -> handover::GroupHandover {
    of.store.read(handover).unwrap().remove(0)
}

fn state(person: &Person, id: &GroupId) -> strayed::State {
    person.store.read(|tx| strayed::state(tx, id)).unwrap()
}

fn is_to_enter(person: &Person, id: &GroupId) -> bool {
    person.store.read(|tx| crate::group::is_due_to_enter(tx, id)).unwrap()
}

#[test]
fn an_admin_who_was_none_for_a_while_makes_no_other_group() {
    let group = Untold::new();
    let [alice, mallory] = group.admins();
    let demotion = group.commit(&Change::Admins(vec![alice])).message;
    let letter = letter(&group.bob);
    let naming = group.commit(&Change::Admins(vec![alice, mallory])).message;
    for commit in [&demotion, &naming] {
        group.tablet.receive(commit).unwrap();
    }
    assert!(group.hears(&letter).is_empty());
}

/// Members may have come back, or had no room in the roster.
#[test]
fn of_an_epoch_that_both_devices_know_no_roster_is_compared() {
    let group = Untold::new();
    let alice = (group.alice.leaf(&group.id), group.alice.pseudonym(&group.id));
    let mut letter = letter(&group.bob);
    for further in [0, 1400] {
        letter.roster = Roster::made([7; 32], &vec![alice; further], &[]);
        assert!(group.hears(&letter).is_empty(), "with {further} devices");
    }
    assert_eq!(state(&group.tablet, &group.id), strayed::State::Follows);
}

#[test]
fn a_letter_that_overtook_a_removal_makes_no_stranger_of_who_went() {
    let group = Untold::new();
    let removal = group.commit(&Change::Remove(vec![group.mallory.leaf(&group.id)])).message;
    let letter = letter(&group.bob);
    assert!(letter.epoch > group.tablet.epoch(&group.id));
    assert!(group.hears(&letter).is_empty());
    assert!(group.asks(letter.epoch).is_empty(), "the server shows the group as it is");
    group.tablet.receive(&removal).unwrap();
    assert!(news(&group.tablet).is_empty());
    assert!(group.asks(group.tablet.epoch(&group.id)).is_empty(), "nothing waits any more");
    assert!(group.hears(&letter).is_empty());
}

/// The letter was held back until the true group was past the other one.
#[test]
fn a_made_up_group_that_stays_behind_what_another_device_tells_is_found_out() {
    let group = Untold::made_up();
    while group.bob.epoch(&group.id) <= group.tablet.epoch(&group.id) {
        group.commit(&Change::Update);
    }
    let letter = letter(&group.bob);
    assert!(group.hears(&letter).is_empty(), "commits may be on their way");
    assert_eq!(state(&group.tablet, &group.id), strayed::State::Doubtful, "the server is asked");
    let shown = group.tablet.epoch(&group.id);
    assert_eq!(group.asks(shown), [News::Divided(letter.epoch)]);
    assert!(group.hears(&letter).is_empty());
    assert!(group.asks(shown).is_empty(), "once");
}

#[test]
fn a_letter_of_a_later_epoch_is_compared_once_that_is_reached() {
    let group = Untold::made_up();
    while group.bob.epoch(&group.id) <= group.tablet.epoch(&group.id) {
        group.commit(&Change::Update);
    }
    let letter = letter(&group.bob);
    assert!(group.hears(&letter).is_empty());
    let update = group.mallory.stage(&group.id, &Change::Update).message;
    group.mallory.confirm(&group.id);
    group.tablet.receive(&update).unwrap();
    assert_eq!(news(&group.tablet), [News::Divided(letter.epoch)]);
    assert!(group.hears(&letter).is_empty(), "once");
}

#[test]
fn a_device_moves_to_the_place_of_another_one_once_it_is_as_far_as_that_one_was() {
    let issuer = SigningKey::generate();
    let ([alice, bob, _], id) = three(&issuer);
    let tablet = device_of(&bob, &issuer);
    let addition = alice.stage(&id, &Change::Add(vec![tablet.offer_as(Pseudonym([255; 16]), &alice)]));
    alice.confirm(&id);
    bob.receive(&addition.message).unwrap();
    tablet.join(&addition.welcome.unwrap(), Some(&alice.tree(&id))).unwrap();
    let update = alice.stage(&id, &Change::Update).message;
    alice.confirm(&id);
    bob.receive(&update).unwrap();
    assert!(hears(&tablet, &letter(&bob)).is_empty());
    assert!(!is_to_enter(&tablet, &id), "it may be another group");
    tablet.receive(&update).unwrap();
    assert!(is_to_enter(&tablet, &id));
    assert!(news(&tablet).is_empty());
}

#[test]
fn of_those_whom_it_met_and_another_device_did_not_know_before_a_device_tells_once() {
    let group = Untold::made_up();
    let mut letter = letter(&group.bob);
    assert!(letter.epoch < group.tablet.epoch(&group.id), "the ghost may have come since");
    let alice = (group.alice.leaf(&group.id), group.alice.pseudonym(&group.id));
    let known = std::mem::replace(&mut letter.roster, Roster::made([7; 32], &vec![alice; 1400], &[]));
    assert!(group.hears(&letter).is_empty(), "who is missing in a full roster is chance");
    letter.roster = known;
    assert_eq!(group.hears(&letter), [News::Untold(1, 0)]);
    assert!(group.hears(&letter).is_empty(), "once");
}

#[test]
fn of_those_who_came_since_it_joined_a_device_tells_nothing_for_a_letter_of_before() {
    let group = Untold::new();
    let mut letter = letter(&group.bob);
    letter.epoch -= 1;
    let carol = person("carol", &SigningKey::generate()).offer_to(&group.alice);
    let addition = group.commit(&Change::Add(vec![carol]));
    group.tablet.receive(&addition.message).unwrap();
    assert!(group.hears(&letter).is_empty());
    // Those whom it met are another matter.
    letter.roster = Roster::made([7; 32], &[], &group.admins());
    assert_eq!(group.hears(&letter), [News::Untold(3, 0)]);
}

/// It cannot tell which of the two groups is the true one, either.
#[test]
fn a_device_in_the_true_group_tells_of_one_in_another_and_goes_on() {
    let group = Untold::made_up();
    while group.bob.epoch(&group.id) < group.tablet.epoch(&group.id) {
        group.commit(&Change::Update);
    }
    let letter = letter(&group.tablet);
    assert_eq!(hears(&group.bob, &letter), [News::Divided(letter.epoch)]);
    assert!(hears(&group.bob, &letter).is_empty(), "once");
    assert_eq!(state(&group.bob, &group.id), strayed::State::Follows);
    assert!(!is_to_enter(&group.bob, &group.id));
    group.alice.receive(&group.bob.say(&group.id, "still here")).unwrap();
}

/// The server was restored, and the phone had not come back yet when it wrote.
#[test]
fn of_two_groups_a_device_tells_once_until_a_letter_fits_again() {
    let group = Untold::new();
    let [alice, bob] = [&group.alice, &group.bob].map(Person::copy);
    let update = alice.stage(&group.id, &Change::Update).message;
    alice.confirm(&group.id);
    bob.receive(&update).unwrap();
    let lost = letter(&bob);
    let update = group.commit(&Change::Update).message;
    group.tablet.receive(&update).unwrap();
    for _ in 0..2 {
        assert_eq!(group.hears(&lost), [News::Divided(lost.epoch)]);
        assert!(group.hears(&lost).is_empty());
        assert!(group.hears(&letter(&group.bob)).is_empty(), "it is back");
    }
    assert_eq!(state(&group.tablet, &group.id), strayed::State::Follows);
}
