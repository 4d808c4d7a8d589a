//! A device in a group, and what another device of its user tells of that: first of all one in a place of its own.

use super::{
    super::{outstanding::Kind, roster::Roster, strayed},
    coming_in::{comes_in, of_device},
    devices::{device_of, keep_own_devices, second_device},
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
        commits(&self.alice, &self.id, change, &[&self.bob])
    }

    /// The tablet reads a letter.
    fn hears(&self, letter: &handover::GroupHandover) -> Vec<News> {
        let news = hears(&self.tablet, letter);
        assert_ne!(state(&self.tablet, &self.id), strayed::State::ByHand, "nobody is silenced");
        news
    }

    /// The tablet asks the server, which shows this epoch.
    fn asks(&self, shown: u64) -> Vec<News> {
        asks(&self.tablet, &self.id, shown)
    }

    /// The server is put back to the state that it has now: what Alice and Bob's phone are in the time that it loses.
    fn lost_time(&self) -> [Person; 2] {
        [&self.alice, &self.bob].map(Person::copy)
    }
}

/// Somebody commits, and others follow.
fn commits(by: &Person, id: &GroupId, change: &Change, others: &[&Person]) -> SubmitMessage {
    let submission = by.stage(id, change);
    by.confirm(id);
    for other in others {
        other.receive(&submission.message).unwrap();
    }
    submission
}

/// A device asks the server, which shows this epoch.
fn asks(person: &Person, id: &GroupId, shown: u64) -> Vec<News> {
    person.events();
    person.store.write(|tx| GroupState::load(tx, id)?.hear_of_epoch(tx, shown)).unwrap();
    news(person)
}

/// A device comes back, and has no answer yet.
fn begins_to_come_back(person: &Person, id: &GroupId, shown: &CurrentGroup) {
    let known = GroupState::epoch_of(shown).unwrap();
    let comes = |tx: &Tx<'_>| {
        GroupState::load(tx, id)?.rejoin(tx, known, shown, &Differences::default(), &delivery())
    };
    person.store.write(comes).unwrap();
}

/// The handover by which a device comes into a group next.
fn word(person: &Person, id: &GroupId) -> handover::GroupHandover {
    person.store.read(|tx| handover::kept_handover(tx, id)).unwrap().expect("it is to come in")
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
    // Members whom it met are another matter.
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

/// The server refuses the way in by what the phone told after Mallory's removal, and shows the group where she is, by the word of a
/// device that was idle.
#[test]
fn a_device_that_came_in_by_an_earlier_word_than_another_ones_finds_out_that_it_is_elsewhere() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let (tablet, shown) = (device_of(&bob, &issuer), mallory.shown(&id));
    let idle = of_device(2, vec![letter(&bob)]).remove(0);
    for change in [Change::Remove(vec![mallory.leaf(&id)]), Change::Update] {
        commits(&alice, &id, &change, &[&bob]);
    }
    let told = letter(&bob);
    for letter in [&told, &idle] {
        assert!(hears(&tablet, letter).is_empty());
    }
    tablet.store.write(|tx| crate::group::go_by_next(tx, &id)).unwrap();
    comes_in(&tablet, &id, &shown, &Differences::default()).unwrap();
    tablet.confirm(&id);
    let reached = tablet.epoch(&id);
    assert!(reached < told.epoch && reached > idle.epoch);
    assert!(news(&tablet).is_empty());
    assert_eq!(state(&tablet, &id), strayed::State::Doubtful, "the server is asked");
    // It leads the group on from there, to the other one's epoch.
    let led_on = tablet.copy();
    led_on.stage(&id, &Change::Update);
    led_on.confirm(&id);
    assert_eq!(led_on.epoch(&id), told.epoch);
    assert_eq!(news(&led_on), [News::Divided(told.epoch)]);
    assert_eq!(asks(&tablet, &id, reached), [News::Divided(told.epoch)]);
}

#[test]
fn two_devices_in_one_place_are_compared_too() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let tablet = second_device(&bob, [&alice, &mallory], &id, &issuer);
    let [others_alice, others_bob] = [&alice, &bob].map(Person::copy);
    commits(&alice, &id, &Change::Update, &[&bob, &tablet]);
    commits(&others_alice, &id, &Change::Update, &[&others_bob]);
    let letter_of_another = letter(&others_bob);
    assert_eq!(hears(&tablet, &letter_of_another), [News::Divided(letter_of_another.epoch)]);
    assert!(hears(&tablet, &letter_of_another).is_empty(), "once");
    assert!(hears(&tablet, &letter(&bob)).is_empty());
    assert_eq!(state(&tablet, &id), strayed::State::Follows);
    assert!(!is_to_enter(&tablet, &id));
}

#[test]
fn the_server_is_asked_again_for_what_waits_after_a_device_came_back() {
    let group = Untold::new();
    let behind = group.alice.shown(&group.id);
    for _ in 0..3 {
        group.commit(&Change::Update);
    }
    let letter = letter(&group.bob);
    let strays = |tx: &Tx<'_>| {
        let state = (strayed::State::Strayed, 2);
        strayed::note(tx, &group.id, state, "messages were lost", &Options::default())
    };
    group.tablet.store.write(strays).unwrap();
    assert!(group.hears(&letter).is_empty());
    assert_eq!(state(&group.tablet, &group.id), strayed::State::Strayed);
    group.tablet.rejoin(&group.id, &behind, &Differences::default()).unwrap();
    let reached = group.tablet.epoch(&group.id);
    assert!(reached < letter.epoch);
    assert_eq!(state(&group.tablet, &group.id), strayed::State::Doubtful);
    assert_eq!(group.asks(reached), [News::Divided(letter.epoch)]);
}

/// The server was restored: the phone told of an epoch that it lost, and came back.
#[test]
fn a_later_word_of_a_device_does_not_wait_any_more_once_that_one_told_of_an_earlier_epoch() {
    let group = Untold::new();
    let [alice, bob] = group.lost_time();
    for _ in 0..3 {
        commits(&alice, &group.id, &Change::Update, &[&bob]);
    }
    let lost = letter(&bob);
    assert!(group.hears(&lost).is_empty());
    let update = group.commit(&Change::Update).message;
    group.tablet.receive(&update).unwrap();
    let back = letter(&group.bob);
    assert!(back.epoch < lost.epoch);
    assert!(group.hears(&back).is_empty());
    assert!(group.asks(back.epoch).is_empty());
    for _ in 0..3 {
        let update = group.commit(&Change::Update).message;
        group.tablet.receive(&update).unwrap();
    }
    assert!(group.tablet.epoch(&group.id) > lost.epoch);
    assert!(news(&group.tablet).is_empty());
}

#[test]
fn of_an_epoch_that_the_server_may_never_have_had_a_device_tells_nobody() {
    let group = Untold::new();
    keep_own_devices(&group.bob, &[&group.tablet]);
    let tells = || {
        let told = group.bob.store.read(crate::group::to_tell).unwrap();
        (told.len(), group.bob.store.read(handover).unwrap().len())
    };
    assert_eq!(tells(), (1, 1));
    let shown = group.alice.shown(&group.id);
    begins_to_come_back(&group.bob, &group.id, &shown);
    assert_eq!(tells(), (0, 0));
    // Another commit was first.
    let too_late = |tx: &Tx<'_>| GroupState::load(tx, &group.id)?.too_late(tx, Kind::Rejoin);
    group.bob.store.write(too_late).unwrap();
    assert_eq!(tells(), (0, 0));
    group.bob.rejoin(&group.id, &shown, &Differences::default()).unwrap();
    assert_eq!(tells(), (1, 1));
}

#[test]
fn letters_wait_while_a_device_does_not_know_whether_it_came_back() {
    let group = Untold::new();
    let shown = group.alice.shown(&group.id);
    let late = group.tablet.copy();
    for tablet in [&group.tablet, &late] {
        begins_to_come_back(tablet, &group.id, &shown);
    }
    group.commit(&Change::Update);
    let letter = letter(&group.bob);
    assert_eq!(letter.epoch, group.tablet.epoch(&group.id), "of two commits the server takes one");
    for tablet in [&group.tablet, &late] {
        assert!(hears(tablet, &letter).is_empty());
        assert_eq!(state(tablet, &group.id), strayed::State::Follows, "its own answer comes first");
    }
    // It says to each that its own was the one.
    group.tablet.confirm(&group.id);
    assert_eq!(news(&group.tablet), [News::Divided(letter.epoch)]);

    let too_late = |tx: &Tx<'_>| GroupState::load(tx, &group.id)?.too_late(tx, Kind::Rejoin);
    late.store.write(too_late).unwrap();
    let back = late.rejoin(&group.id, &group.alice.shown(&group.id), &Differences::default()).unwrap();
    group.alice.receive(&back).unwrap();
    assert!(news(&late).is_empty());
}

/// The server was restored, and lost what an idle laptop told of.
#[test]
fn after_an_attempt_that_failed_the_word_that_came_last_is_the_first() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let tablet = device_of(&bob, &issuer);
    let [lost_alice, lost_bob] = [&alice, &bob].map(Person::copy);
    for _ in 0..5 {
        commits(&lost_alice, &id, &Change::Update, &[&lost_bob]);
    }
    let lost = of_device(2, vec![letter(&lost_bob)]).remove(0);
    commits(&alice, &id, &Change::Update, &[&bob, &mallory]);
    for letter in [&letter(&bob), &lost] {
        hears(&tablet, letter);
    }
    assert_eq!(word(&tablet, &id).epoch, lost.epoch);
    tablet.store.write(|tx| crate::group::go_by_next(tx, &id)).unwrap();
    tablet.store.write(|tx| crate::group::entry_failed(tx, &id)).unwrap();
    for name in ["carol", "dave"] {
        bob.receive(&alice.add(&id, &[&person(name, &issuer)])).unwrap();
        let told = letter(&bob);
        hears(&tablet, &told);
        assert_eq!(word(&tablet, &id).epoch, told.epoch);
    }
    comes_in(&tablet, &id, &alice.shown(&id), &Differences::default()).unwrap();
}

#[test]
fn words_of_devices_that_were_removed_from_the_user_do_not_count() {
    let issuer = SigningKey::generate();
    let ([_, bob, _], id) = three(&issuer);
    let (tablet, told) = (device_of(&bob, &issuer), letter(&bob));
    keep_own_devices(&tablet, &[&bob]);
    let mut thiefs = told.clone();
    thiefs.epoch = 1_000_000_000;
    hears(&tablet, &of_device(2, vec![thiefs]).remove(0));
    hears(&tablet, &told);
    assert_eq!(word(&tablet, &id).epoch, told.epoch);
    tablet.store.write(|tx| crate::group::go_by_next(tx, &id)).unwrap();
    assert_eq!(word(&tablet, &id).epoch, told.epoch, "there is no other one");
}

/// A group with Bob's phone, and two devices of his that are each in a place of its own, after the phone's: the first one is to go
/// there.
fn apart(issuer: &SigningKey) -> ([Person; 2], [Person; 2], GroupId) {
    let ([alice, bob, _], id) = three(issuer);
    let tablets = [254, 255].map(|last| {
        let tablet = device_of(&bob, issuer);
        let mut pseudonym = [255; 16];
        pseudonym[15] = last;
        (tablet.offer_as(Pseudonym(pseudonym), &alice), tablet)
    });
    let leaf_keys = tablets.iter().map(|(leaf_key, _)| *leaf_key).collect();
    let addition = commits(&alice, &id, &Change::Add(leaf_keys), &[&bob]);
    let welcome = addition.welcome.unwrap();
    let tablets = tablets.map(|(_, tablet)| {
        tablet.join(&welcome, Some(&alice.tree(&id))).unwrap();
        tablet
    });
    ([alice, bob], tablets, id)
}

#[test]
fn the_letter_of_each_device_waits() {
    let issuer = SigningKey::generate();
    let ([alice, bob], [tablet, desk], id) = apart(&issuer);
    let update = commits(&alice, &id, &Change::Update, &[&bob, &desk]).message;
    for letter in [&letter(&bob), &letter(&desk)] {
        assert!(hears(&tablet, letter).is_empty());
    }
    assert!(!is_to_enter(&tablet, &id));
    tablet.receive(&update).unwrap();
    assert_eq!(word(&tablet, &id).pseudonym, bob.pseudonym(&id));
    assert!(news(&tablet).is_empty());
}

#[test]
fn no_earlier_word_of_a_device_that_is_in_another_group_leads_there() {
    let issuer = SigningKey::generate();
    let ([alice, bob], [tablet, _], id) = apart(&issuer);
    assert!(hears(&tablet, &letter(&bob)).is_empty());
    let others = of_device(2, vec![letter(&bob)]).remove(0);
    let [others_alice, others_bob] = [&alice, &bob].map(Person::copy);
    commits(&alice, &id, &Change::Update, &[&bob, &tablet]);
    commits(&others_alice, &id, &Change::Update, &[&others_bob]);
    assert!(is_to_enter(&tablet, &id));
    let lost = letter(&others_bob);
    // A device that has proposed to leave its place for that one is out without a way in.
    for (has_another, leaves) in [(false, false), (true, false), (false, true)] {
        let tablet = tablet.copy();
        if has_another {
            assert!(hears(&tablet, &others).is_empty());
        }
        if leaves {
            tablet.store.write(|tx| GroupState::load(tx, &id)?.stage_leaving(tx)).unwrap();
        }
        assert_eq!(hears(&tablet, &lost), [News::Divided(lost.epoch)]);
        assert_eq!(is_to_enter(&tablet, &id), has_another || leaves);
    }
}

#[test]
fn a_device_that_moved_tells_nothing_of_those_whom_it_met_where_it_was_before() {
    let issuer = SigningKey::generate();
    let ([alice, bob, _], id) = three(&issuer);
    let early = letter(&bob);
    bob.receive(&alice.add(&id, &[&person("carol", &issuer)])).unwrap();
    let tablet = device_of(&bob, &issuer);
    let addition = alice.stage(&id, &Change::Add(vec![tablet.offer_as(Pseudonym([255; 16]), &alice)]));
    alice.confirm(&id);
    tablet.join(&addition.welcome.unwrap(), Some(&alice.tree(&id))).unwrap();
    assert!(hears(&tablet, &early).is_empty());
    comes_in(&tablet, &id, &alice.shown(&id), &Differences::default()).unwrap();
    tablet.confirm(&id);
    let of_another = of_device(2, vec![early]).remove(0);
    assert!(hears(&tablet, &of_another).is_empty());
}

#[test]
fn a_device_leaves_its_place_for_no_other_group_of_its_epoch() {
    let issuer = SigningKey::generate();
    let ([alice, bob], [tablet, _], id) = apart(&issuer);
    let entry = handover::PendingEntry { handover: letter(&bob), delivery: delivery() };
    let others_alice = alice.copy();
    commits(&alice, &id, &Change::Update, &[&bob, &tablet]);
    commits(&others_alice, &id, &Change::Update, &[]);
    let moves = |shown: &CurrentGroup| {
        tablet.store.trial(|tx| GroupState::enter(tx, &entry, shown, &Differences::default()))
    };
    let refused = moves(&others_alice.shown(&id)).unwrap_err();
    assert!(crate::group::is_elsewhere(&refused), "{refused}");
    moves(&alice.shown(&id)).unwrap();
}

/// No letter that fits came between.
#[test]
fn of_two_groups_a_device_tells_again_after_it_came_back() {
    let group = Untold::new();
    for _ in 0..2 {
        let [alice, bob] = group.lost_time();
        commits(&alice, &group.id, &Change::Update, &[&bob]);
        let lost = letter(&bob);
        let update = group.commit(&Change::Update).message;
        group.tablet.receive(&update).unwrap();
        assert_eq!(group.hears(&lost), [News::Divided(lost.epoch)]);
        let shown = group.alice.shown(&group.id);
        let back = group.tablet.rejoin(&group.id, &shown, &Differences::default()).unwrap();
        for other in [&group.alice, &group.bob] {
            other.receive(&back).unwrap();
        }
    }
}
