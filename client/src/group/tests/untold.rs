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

    /// The handover by which Bob's phone tells of the group as it is.
    fn letter(&self) -> handover::GroupHandover {
        self.bob.store.read(handover).unwrap().remove(0)
    }

    /// The tablet reads a letter: the numbers of strangers and of admins of whom it tells its user, and whether it goes on.
    fn hears(&self, letter: &handover::GroupHandover) -> (Vec<(usize, usize)>, strayed::State) {
        self.tablet.events();
        self.tablet.store.write(|tx| take_over(tx, std::slice::from_ref(letter))).unwrap();
        let strangers = |event| match event {
            Event::Strangers { strangers, admins, .. } => Some((strangers.len(), admins.len())),
            _ => None,
        };
        let found = self.tablet.events().into_iter().filter_map(strangers).collect();
        (found, self.tablet.store.read(|tx| strayed::state(tx, &self.id)).unwrap())
    }
}

#[test]
fn an_admin_who_was_none_for_a_while_makes_no_other_group() {
    let group = Untold::new();
    let [alice, mallory] = group.admins();
    let demotion = group.commit(&Change::Admins(vec![alice])).message;
    let letter = group.letter();
    let naming = group.commit(&Change::Admins(vec![alice, mallory])).message;
    for commit in [&demotion, &naming] {
        group.tablet.receive(commit).unwrap();
    }
    assert_eq!(group.hears(&letter), (vec![(0, 1)], strayed::State::Follows));
}

#[test]
fn a_roster_without_room_for_all_makes_no_other_group() {
    let group = Untold::new();
    let [alice, bob] = [&group.alice, &group.bob].map(|it| (it.leaf(&group.id), it.pseudonym(&group.id)));
    let mut letter = group.letter();
    for (further, state) in [(1400, strayed::State::Follows), (0, strayed::State::ByHand)] {
        let leaves = [vec![alice, bob], vec![alice; further]].concat();
        letter.roster = Roster::made([7; 32], &leaves, &group.admins());
        assert_eq!(group.hears(&letter), (vec![(1, 0)], state), "with {further} further devices");
    }
}

#[test]
fn a_letter_that_overtook_a_removal_makes_no_stranger_of_who_went() {
    let group = Untold::new();
    let removal = group.commit(&Change::Remove(vec![group.mallory.leaf(&group.id)])).message;
    let letter = group.letter();
    assert!(letter.epoch > group.tablet.epoch(&group.id));
    assert_eq!(group.hears(&letter), (vec![], strayed::State::Follows));
    group.tablet.receive(&removal).unwrap();
    assert_eq!(group.hears(&letter), (vec![], strayed::State::Follows), "she is gone");
}
