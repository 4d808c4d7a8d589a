//! A further device of a member, and a server that shows it a group in which are others than the device was told of.

use openmls::prelude::{Extension, UnknownExtension};
use postern_protocol::{
    mls::GROUP_POLICY,
    problem::{Problem, ProblemType},
    qs::{QueueKind, QueuePayload},
};

use super::{
    super::{forget_early, join_at_last, late_welcomes, strayed},
    devices::{bring_in, device_apart, device_of, keep_own_devices},
    rights::{haunted, haunted_unread},
    *,
};
use crate::receive::{Tree, take_effect};

/// A device tries to come into what another one handed over, as the server shows it.
pub(super) fn comes_in(
    device: &Person,
    id: &GroupId,
    shown: &CurrentGroup,
    accepted: &Differences,
) -> Result<()> {
    device.store.write(|tx| {
        let entry = entry(tx, id)?.expect("it is to come in");
        GroupState::enter(tx, &entry, shown, accepted)
    })
}

/// The differences for which a device does not come into the group that the server shows.
fn strangers_to(device: &Person, id: &GroupId, shown: &CurrentGroup) -> Differences {
    let refused = comes_in(device, id, shown, &Differences::default()).unwrap_err();
    let Error::Strangers(differences) = refused else { panic!("{refused}") };
    assert!(device.outstanding(id).is_none(), "nothing was changed");
    *differences
}

#[test]
fn a_further_device_takes_no_ghost_and_no_new_admin_without_a_persons_consent() {
    let issuer = SigningKey::generate();
    let ([_, bob, mallory], id) = three(&issuer);
    let ghost = person("ghost", &issuer);
    let groups = bob.store.read(handover).unwrap();
    for (shown, strangers, admins) in
        [(haunted(&mallory, &id, Some(&ghost), false), 1, 0), (haunted(&mallory, &id, None, true), 0, 1)]
    {
        let tablet = device_of(&bob, &issuer);
        tablet.store.write(|tx| take_over(tx, &groups)).unwrap();
        let differences = strangers_to(&tablet, &id, &shown);
        assert_eq!((differences.strangers.len(), differences.admins.len()), (strangers, admins));
        assert!(differences.users_to_ask_about().is_empty(), "no lookup makes a known one of them");
        comes_in(&tablet, &id, &shown, &differences).unwrap();
        assert!(tablet.outstanding(&id).is_some());
        // The next attempt knows what a person accepted, if that one is too late.
        comes_in(&tablet, &id, &shown, &Differences::default()).unwrap();
    }
}

#[test]
fn a_device_that_moves_into_its_users_place_takes_no_ghost_either() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let tablet = device_apart(&bob, &alice, [&bob, &mallory], &id, &issuer);
    let handover = bob.store.read(handover).unwrap().remove(0);
    let entry = handover::PendingEntry { handover, delivery: delivery() };
    let shown = haunted(&mallory, &id, Some(&person("ghost", &issuer)), false);
    let enters = |tx: &Tx<'_>| GroupState::enter(tx, &entry, &shown, &Differences::default());
    let refused = tablet.store.write(enters).unwrap_err();
    let Error::Strangers(differences) = refused else { panic!("{refused}") };
    assert_eq!(differences.strangers.len(), 1);
    assert_eq!(tablet.members(&id).len(), 4, "it is where it was");
    // It looks before it leaves its place.
    let shown = alice.shown(&id);
    let enters = |tx: &Tx<'_>| GroupState::enter(tx, &entry, &shown, &Differences::default());
    tablet.store.trial(enters).unwrap();
    assert!(tablet.outstanding(&id).is_none());
    alice.receive(&tablet.say(&id, "still here")).unwrap();
}

#[test]
fn a_further_device_comes_into_no_group_with_a_member_that_it_cannot_read() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let apart = device_apart(&bob, &alice, [&bob, &mallory], &id, &issuer);
    let (tablet, groups) = (device_of(&bob, &issuer), bob.store.read(handover).unwrap());
    tablet.store.write(|tx| take_over(tx, &groups)).unwrap();
    let entry = handover::PendingEntry { handover: groups[0].clone(), delivery: delivery() };
    for has_pseudonym in [false, true] {
        let shown = haunted_unread(&mallory, &id, has_pseudonym);
        let refused = comes_in(&tablet, &id, &shown, &Differences::default()).unwrap_err();
        assert!(matches!(refused, Error::Mls { .. }), "{refused}");
        assert!(tablet.outstanding(&id).is_none(), "nothing was changed");
        let moves = |tx: &Tx<'_>| GroupState::enter(tx, &entry, &shown, &Differences::default());
        let refused = apart.store.write(moves).unwrap_err();
        assert!(matches!(refused, Error::Mls { .. }), "{refused}");
        assert_eq!(apart.members(&id).len(), 4, "it is where it was");
    }
}

/// The server, as Eve, knows the group's id and policy, and makes a group of its own with them.
fn made_up(id: &GroupId, member: &Person, issuer: &SigningKey) -> Person {
    let eve = person("eve", issuer);
    let reserved = GroupIdReserved { group_id: id.clone(), server_key: SigningKey::generate().public_key() };
    eve.store.write(|tx| GroupState::create(tx, &reserved, "climbing", &delivery()).map(drop)).unwrap();
    eve.confirm(id);
    let policy = member.store.read(|tx| rules::policy(&GroupState::load(tx, id)?.mls)).unwrap();
    eve.commit_freely(id, |_, group| {
        let mut context = group.mls.extensions().clone();
        let extension = Extension::Unknown(GROUP_POLICY, UnknownExtension(policy.to_bytes()));
        context.add_or_replace(extension).unwrap();
        Free { context: Some(context), ..Free::default() }
    });
    while eve.epoch(id) < member.epoch(id) {
        eve.commit_freely(id, |_, _| Free::default());
    }
    eve
}

#[test]
fn a_further_device_does_not_come_into_a_group_that_the_server_made_up() {
    let issuer = SigningKey::generate();
    let ([_, bob, _], id) = three(&issuer);
    let eve = made_up(&id, &bob, &issuer);
    let tablet = device_of(&bob, &issuer);
    let groups = bob.store.read(handover).unwrap();
    tablet.store.write(|tx| take_over(tx, &groups)).unwrap();
    let differences = strangers_to(&tablet, &id, &eve.shown(&id));
    let strangers: Vec<_> = differences.strangers.iter().map(|member| member.leaf_key).collect();
    assert_eq!(strangers, [eve.leaf(&id)]);
}

/// A Welcome comes to a device, and this is the tree that the DS has for it.
pub(super) fn takes_welcome(device: &Person, welcome: &Welcome, tree: WelcomeTree) {
    let (payload, options) = (QueuePayload::Welcome(welcome.clone()), Options::default());
    let tree = Tree::Fetched(tree);
    let take = |tx: &Tx<'_>| take_effect(tx, &options, QueueKind::Group, &payload, Some(&tree));
    device.store.write(|tx| Ok(told(tx.attempt(|| take(tx))))).unwrap().unwrap();
}

pub(super) fn is_in(device: &Person, id: &GroupId) -> bool {
    device.store.read(|tx| GroupState::load(tx, id).map(drop)).is_ok()
}

/// How many Welcomes wait at a device.
pub(super) fn waiting(device: &Person) -> i64 {
    let sql = "SELECT count(*) FROM welcomes";
    device.store.read(|tx| Ok(tx.sql().query_row(sql, [], |row| row.get(0))?)).unwrap()
}

/// The server has a KeyPackage of the device's.
#[test]
fn a_further_device_does_not_join_a_group_that_the_server_made_up_either() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let eve = made_up(&id, &bob, &issuer);
    // One with all members in it, and a ghost.
    let copy = mallory.copy();
    copy.add_freely(&id, &person("ghost", &issuer).offer_to(&copy));
    let groups = bob.store.read(handover).unwrap();
    for maker in [&eve, &copy] {
        let tablet = device_of(&bob, &issuer);
        tablet.store.write(|tx| take_over(tx, &groups)).unwrap();
        let welcome = maker.add_freely(&id, &tablet.offer_to(maker));
        takes_welcome(&tablet, &welcome, maker.tree(&id));
        assert!(!is_in(&tablet, &id));
        assert!(matches!(&tablet.events()[..], [Event::Ignored { .. }]));
        let again = |tx: &Tx<'_>| Ok(join_at_last(tx, &welcome, Some(&maker.tree(&id))).is_err());
        assert!(tablet.store.write(again).unwrap());
        assert!(!is_in(&tablet, &id));
        // The true one it comes into, and no other any more.
        comes_in(&tablet, &id, &alice.shown(&id), &Differences::default()).unwrap();
        tablet.confirm(&id);
        assert!(tablet.store.write(again).unwrap());
        assert_eq!((tablet.members(&id).len(), waiting(&tablet)), (4, 0));
    }
}

/// The server shows the group as a member knows it who was there then, and adds the device there.
#[test]
fn a_further_device_joins_no_group_that_is_older_than_what_it_was_told_of() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let older = mallory.copy();
    for _ in 0..2 {
        let update = alice.stage(&id, &Change::Update).message;
        alice.confirm(&id);
        bob.receive(&update).unwrap();
    }
    let (tablet, groups) = (device_of(&bob, &issuer), bob.store.read(handover).unwrap());
    tablet.store.write(|tx| take_over(tx, &groups)).unwrap();
    let welcome = older.add_freely(&id, &tablet.offer_to(&older));
    assert_eq!(older.epoch(&id) + 1, bob.epoch(&id));
    takes_welcome(&tablet, &welcome, older.tree(&id));
    assert!(!is_in(&tablet, &id), "all that are there are known, and it is not the group as it is");
    assert_eq!(waiting(&tablet), 1);
    comes_in(&tablet, &id, &alice.shown(&id), &Differences::default()).unwrap();
    alice.receive(&tablet.outstanding(&id).unwrap().message).unwrap();
}

#[test]
fn of_members_that_came_after_a_letter_was_written_a_device_in_the_group_tells_nothing() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let apart = device_apart(&bob, &alice, [&bob, &mallory], &id, &issuer);
    let [bobs, aparts] = [&bob, &apart].map(|device| device.store.read(handover).unwrap().remove(0));
    let addition = alice.add(&id, &[&person("carol", &issuer)]);
    for device in [&bob, &apart] {
        device.receive(&addition).unwrap();
        device.events();
    }
    // One of them is to come to where the other one is, and that one compares.
    for (device, told) in [(&bob, &aparts), (&apart, &bobs)] {
        device.store.write(|tx| take_over(tx, std::slice::from_ref(told))).unwrap();
        assert!(device.events().is_empty());
        assert_eq!(device.store.read(|tx| strayed::state(tx, &id)).unwrap(), strayed::State::Follows);
    }
    let is_to_enter =
        |device: &Person| device.store.read(|tx| crate::group::is_due_to_enter(tx, &id)).unwrap();
    assert_ne!(is_to_enter(&bob), is_to_enter(&apart));
}

#[test]
fn a_device_whose_user_has_it_stay_out_does_not_join_later_by_a_welcome_that_waited() {
    let issuer = SigningKey::generate();
    let ([_, bob, _], id) = three(&issuer);
    let (eve, tablet) = (made_up(&id, &bob, &issuer), device_of(&bob, &issuer));
    let groups = bob.store.read(handover).unwrap();
    tablet.store.write(|tx| take_over(tx, &groups)).unwrap();
    let welcome = eve.add_freely(&id, &tablet.offer_to(&eve));
    takes_welcome(&tablet, &welcome, eve.tree(&id));
    assert_eq!(waiting(&tablet), 1);
    assert!(tablet.store.write(|tx| crate::group::stay_out(tx, &id)).unwrap());
    assert_eq!(waiting(&tablet), 0);
}

#[test]
fn a_device_that_is_to_come_in_joins_by_a_welcome_once_it_was_told_of_all_that_are_there() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let groups = bob.store.read(handover).unwrap();
    // An admin adds the tablet, and nobody came meanwhile.
    let tablet = device_of(&bob, &issuer);
    tablet.store.write(|tx| take_over(tx, &groups)).unwrap();
    let addition = alice.add(&id, &[&tablet]);
    for other in [&bob, &mallory] {
        other.receive(&addition).unwrap();
    }
    assert!(tablet.store.write(|tx| entry(tx, &id)).unwrap().is_none(), "it is in");

    // To the laptop, the tablet and Carol are news.
    let laptop = device_of(&bob, &issuer);
    laptop.store.write(|tx| take_over(tx, &groups)).unwrap();
    bob.receive(&alice.add(&id, &[&person("carol", &issuer)])).unwrap();
    let addition = alice.stage(&id, &Change::Add(vec![laptop.offer_to(&alice)]));
    alice.confirm(&id);
    bob.receive(&addition.message).unwrap();
    let welcome = addition.welcome.unwrap();
    takes_welcome(&laptop, &welcome, alice.tree(&id));
    assert!(!is_in(&laptop, &id));
    assert_eq!(waiting(&laptop), 1);
    laptop.receive(&alice.say(&id, "to all")).unwrap();
    // Bob's phone tells of them.
    let groups = bob.store.read(handover).unwrap();
    laptop.store.write(|tx| take_over(tx, &groups)).unwrap();
    assert_eq!(laptop.store.read(late_welcomes).unwrap(), std::slice::from_ref(&welcome));
    let joins = |tx: &Tx<'_>| Ok(join_at_last(tx, &welcome, Some(&alice.tree(&id))).is_ok());
    assert!(laptop.store.write(joins).unwrap());
    assert_eq!((laptop.members(&id).len(), waiting(&laptop)), (6, 0));
    for message in laptop.store.write(|tx| crate::group::take_early(tx, &id)).unwrap() {
        laptop.receive(&message).unwrap();
    }
    assert_eq!(laptop.texts(), ["to all"]);
}

#[test]
fn a_device_that_came_in_by_itself_tells_nothing_of_a_welcome_that_waited() {
    let issuer = SigningKey::generate();
    let ([alice, bob, _], id) = three(&issuer);
    let (tablet, groups) = (device_of(&bob, &issuer), bob.store.read(handover).unwrap());
    tablet.store.write(|tx| take_over(tx, &groups)).unwrap();
    bob.receive(&alice.add(&id, &[&person("carol", &issuer)])).unwrap();
    let addition = alice.stage(&id, &Change::Add(vec![tablet.offer_to(&alice)]));
    alice.confirm(&id);
    bob.receive(&addition.message).unwrap();
    takes_welcome(&tablet, &addition.welcome.unwrap(), alice.tree(&id));
    tablet.receive(&alice.say(&id, "to all")).unwrap();
    assert_eq!(waiting(&tablet), 1);
    tablet.events();

    let groups = bob.store.read(handover).unwrap();
    tablet.store.write(|tx| take_over(tx, &groups)).unwrap();
    comes_in(&tablet, &id, &alice.shown(&id), &Differences::default()).unwrap();
    tablet.confirm(&id);
    tablet.store.write(forget_early).unwrap();
    assert_eq!(waiting(&tablet), 0);
    let events = tablet.events();
    assert!(events.iter().any(|event| matches!(event, Event::Joined { .. })), "{events:?}");
    assert!(!events.iter().any(|event| matches!(event, Event::Ignored { .. })), "{events:?}");
}

#[test]
fn a_device_on_its_way_is_told_of_members_that_came_meanwhile() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let (tablet, carol) = (device_of(&bob, &issuer), person("carol", &issuer));
    keep_own_devices(&bob, &[&tablet]);
    let client_key = tablet.account().client_key().public_key();
    let groups = bob.store.read(handover).unwrap();
    tablet.store.write(|tx| take_over(tx, &groups)).unwrap();
    bob.store.write(|tx| crate::group::told(tx, &id, &client_key)).unwrap();
    let to_tell = || bob.store.read(crate::group::to_tell).unwrap();
    let update = alice.stage(&id, &Change::Update).message;
    alice.confirm(&id);
    for other in [&bob, &mallory] {
        other.receive(&update).unwrap();
    }
    assert!(to_tell().is_empty(), "nobody came");

    let addition = alice.add(&id, &[&carol]);
    for other in [&bob, &mallory] {
        other.receive(&addition).unwrap();
    }
    assert_eq!(strangers_to(&tablet, &id, &alice.shown(&id)).strangers.len(), 1);
    let found = to_tell();
    let [(told, group)] = &found[..] else { panic!("{} devices are to be told", found.len()) };
    assert_eq!(*told, client_key);
    tablet.store.write(|tx| take_over(tx, std::slice::from_ref(group))).unwrap();
    comes_in(&tablet, &id, &alice.shown(&id), &Differences::default()).unwrap();
    alice.receive(&tablet.outstanding(&id).unwrap().message).unwrap();
}

#[test]
fn a_device_on_its_way_is_told_of_members_that_went_meanwhile() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let tablet = device_of(&bob, &issuer);
    keep_own_devices(&bob, &[&tablet]);
    let client_key = tablet.account().client_key().public_key();
    let groups = bob.store.read(handover).unwrap();
    tablet.store.write(|tx| take_over(tx, &groups)).unwrap();
    bob.store.write(|tx| crate::group::told(tx, &id, &client_key)).unwrap();
    let before = mallory.shown(&id);
    let removal = alice.stage(&id, &Change::Remove(vec![mallory.leaf(&id)])).message;
    alice.confirm(&id);
    bob.receive(&removal).unwrap();
    let found = bob.store.read(crate::group::to_tell).unwrap();
    let [(told, group)] = &found[..] else { panic!("{} devices are to be told", found.len()) };
    assert_eq!(*told, client_key);
    tablet.store.write(|tx| take_over(tx, std::slice::from_ref(group))).unwrap();
    // The server shows the group with Mallory in it, as it was.
    let refused = comes_in(&tablet, &id, &before, &Differences::default()).unwrap_err();
    assert!(matches!(refused, Error::Mls { .. }), "{refused}");
    comes_in(&tablet, &id, &alice.shown(&id), &Differences::default()).unwrap();
}

#[test]
fn a_device_comes_into_no_group_that_is_older_than_what_it_was_told_of() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let apart = device_apart(&bob, &alice, [&bob, &mallory], &id, &issuer);
    let (older, older_groups) = (alice.shown(&id), bob.store.read(handover).unwrap());
    let entry = handover::PendingEntry { handover: older_groups[0].clone(), delivery: delivery() };
    let update = alice.stage(&id, &Change::Update).message;
    alice.confirm(&id);
    for other in [&bob, &mallory, &apart] {
        other.receive(&update).unwrap();
    }
    let groups = bob.store.read(handover).unwrap();
    let told = || {
        let tablet = device_of(&bob, &issuer);
        tablet.store.write(|tx| take_over(tx, &groups)).unwrap();
        tablet
    };
    let refuses = |device: &Person| {
        let refused = comes_in(device, &id, &older, &Differences::default()).unwrap_err();
        assert!(matches!(refused, Error::Mls { .. }), "{refused}");
        assert!(refused.is_final() && device.outstanding(&id).is_none(), "nothing was changed");
    };
    // All leaves are known, and somebody who was there then may have its secrets.
    let tablet = told();
    refuses(&tablet);
    comes_in(&tablet, &id, &alice.shown(&id), &Differences::default()).unwrap();

    // The server was restored, as another device tells that came back there.
    let tablet = told();
    refuses(&tablet);
    tablet.store.write(|tx| crate::group::entry_failed(tx, &id)).unwrap();
    tablet.store.write(|tx| take_over(tx, &older_groups)).unwrap();
    comes_in(&tablet, &id, &older, &Differences::default()).unwrap();

    // One that is in a place of its own knows how far the group is.
    let moves = |shown: &CurrentGroup| {
        let enters = |tx: &Tx<'_>| GroupState::enter(tx, &entry, shown, &Differences::default());
        apart.store.trial(enters)
    };
    let refused = moves(&older).unwrap_err();
    assert!(matches!(refused, Error::Mls { .. }), "{refused}");
    moves(&alice.shown(&id)).unwrap();
}

/// The handovers of a device, as another one of its user's would write them.
pub(super) fn of_device(
    number: u8,
    mut groups: Vec<handover::GroupHandover>,
) -> Vec<handover::GroupHandover> {
    groups.iter_mut().for_each(|group| group.by = PublicKey::new([number; 32]));
    groups
}

/// The letters, also one of a device that was idle, came before the first attempt.
#[test]
fn a_device_that_was_offline_while_the_server_was_restored_comes_into_the_group_as_it_is_then() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let (alice_then, bob_then) = (alice.copy(), bob.copy());
    let told = |by: &Person| by.store.read(handover).unwrap();
    let goes_by_next = |tablet: &Person| tablet.store.write(|tx| crate::group::go_by_next(tx, &id)).unwrap();
    let commits = |by: &Person, others: &[&Person]| {
        let update = by.stage(&id, &Change::Update).message;
        by.confirm(&id);
        others.iter().for_each(|other| other.receive(&update).unwrap());
    };
    let idle = told(&bob);
    for _ in 0..2 {
        commits(&alice, &[&bob, &mallory]);
    }
    let in_the_lost_time = told(&bob);
    commits(&alice, &[&bob, &mallory]);
    let lost = told(&bob);
    // The server was restored, and Bob's phone is back there.
    commits(&alice_then, &[&bob_then]);
    let back = told(&bob_then);
    let shown = alice_then.shown(&id);
    let laptops = of_device(2, lost.clone());
    let (desks, idle_ones) = (of_device(3, in_the_lost_time.clone()), of_device(4, idle.clone()));
    for (letters, refusals) in [
        // The word of the device that came back takes the place of what it told before.
        ([&lost, &idle_ones, &back], 0),
        ([&laptops, &back, &idle_ones], 1),
        ([&back, &laptops, &idle_ones], 1),
        ([&idle_ones, &back, &laptops], 1),
        ([&laptops, &desks, &back], 2),
        ([&back, &desks, &laptops], 2),
    ] {
        let tablet = device_of(&bob, &issuer);
        letters.iter().for_each(|groups| tablet.store.write(|tx| take_over(tx, groups)).unwrap());
        for _ in 0..refusals {
            let refused = comes_in(&tablet, &id, &shown, &Differences::default()).unwrap_err();
            assert!(crate::group::is_before_told(&refused), "{refused}");
            goes_by_next(&tablet);
        }
        comes_in(&tablet, &id, &shown, &Differences::default()).unwrap();
        alice_then.copy().receive(&tablet.outstanding(&id).unwrap().message).unwrap();
    }

    // The group is as a device told of it last: an older word of the same one does not count.
    let tablet = device_of(&bob, &issuer);
    for groups in [&in_the_lost_time, &idle, &lost] {
        tablet.store.write(|tx| take_over(tx, groups)).unwrap();
    }
    goes_by_next(&tablet);
    let refused = comes_in(&tablet, &id, &shown, &Differences::default()).unwrap_err();
    assert!(crate::group::is_before_told(&refused), "{refused}");
}

/// The phone made another user's key in the lost time, which the server does not know any more.
#[test]
fn a_device_whose_users_key_a_restored_server_lost_comes_in_by_the_other_letter() {
    let issuer = SigningKey::generate();
    let ([alice, bob, _], id) = three(&issuer);
    let bob_then = bob.copy();
    for change in [Change::UserKey, Change::Update] {
        bob.stage(&id, &change);
        bob.confirm(&id);
    }
    let update = alice.stage(&id, &Change::Update).message;
    alice.confirm(&id);
    bob_then.receive(&update).unwrap();
    let [lost, back] = [&bob, &bob_then].map(|phone| phone.store.read(handover).unwrap());
    let [lost, back] = [of_device(2, lost), back].map(|mut groups| groups.remove(0));
    assert!(lost.epoch > back.epoch && lost.public_user_key() != back.public_user_key());

    let tablet = device_of(&bob, &issuer);
    for letter in [&lost, &back] {
        tablet.store.write(|tx| take_over(tx, std::slice::from_ref(letter))).unwrap();
    }
    for kind in [ProblemType::NotAllowed, ProblemType::NotFound] {
        assert!(crate::group::is_before_told(&Problem::new(kind).into()));
    }
    assert!(!crate::group::is_before_told(&Problem::new(ProblemType::TokenSpent).into()));
    let falls_back = || {
        tablet.store.write(|tx| crate::group::go_by_next(tx, &id)).unwrap();
        tablet.store.read(|tx| handover::kept_handover(tx, &id)).unwrap().unwrap().epoch
    };
    // Where the server refused for another reason, the later one gets its turn again.
    assert_eq!([(); 3].map(|()| falls_back()), [back.epoch, lost.epoch, back.epoch]);
    comes_in(&tablet, &id, &alice.shown(&id), &Differences::default()).unwrap();
    alice.receive(&tablet.outstanding(&id).unwrap().message).unwrap();
}

/// A member that commits after the group was handed over changes nothing about who comes in.
#[test]
fn a_device_that_was_told_of_an_older_epoch_comes_into_the_group_as_it_is() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let (tablet, groups) = (device_of(&bob, &issuer), bob.store.read(handover).unwrap());
    tablet.store.write(|tx| take_over(tx, &groups)).unwrap();
    for _ in 0..3 {
        let update = alice.stage(&id, &Change::Update).message;
        alice.confirm(&id);
        for other in [&bob, &mallory] {
            other.receive(&update).unwrap();
        }
    }
    comes_in(&tablet, &id, &alice.shown(&id), &Differences::default()).unwrap();
    // Its commit came too late, and the answer to it was lost.
    let update = mallory.stage(&id, &Change::Update).message;
    alice.receive(&update).unwrap();
    comes_in(&tablet, &id, &alice.shown(&id), &Differences::default()).unwrap();
    alice.receive(&tablet.outstanding(&id).unwrap().message).unwrap();
}

#[test]
fn of_two_devices_that_come_in_at_once_the_later_one_knows_the_other_by_its_card() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let [laptop, tablet] = [(); 2].map(|()| device_of(&bob, &issuer));
    let groups = bob.store.read(handover).unwrap();
    tablet.store.write(|tx| take_over(tx, &groups)).unwrap();
    let entry = bring_in(&laptop, &bob, &id, &bob.shown(&id));
    for other in [&alice, &bob, &mallory] {
        other.receive(&entry).unwrap();
    }
    let mut attributes = bob.shown(&id).attributes;
    attributes.extend(laptop.shown(&id).attributes);
    let shown = CurrentGroup { attributes, ..alice.shown(&id) };
    let differences = strangers_to(&tablet, &id, &shown);
    let [stranger] = &differences.strangers[..] else { panic!("{differences:?}") };
    assert_eq!((stranger.user.as_ref(), stranger.verified), (Some(&bob.user), false));
    assert_eq!(differences.users_to_ask_about(), std::slice::from_ref(&bob.user));
    // The user is told who it says to be, though its card was not kept.
    let event = Event::Strangers {
        group: id.clone(),
        strangers: differences.strangers.clone(),
        admins: Vec::new(),
        removed: Vec::new(),
        coming_in: true,
    };
    tablet.store.write(|tx| event.record(tx)).unwrap();
    assert_eq!(tablet.events(), [event]);
    // The AS confirms it.
    tablet.knows(&[&bob, &laptop]);
    comes_in(&tablet, &id, &shown, &Differences::default()).unwrap();
}

#[test]
fn of_two_devices_that_come_in_without_cards_the_later_one_is_told_of_the_other() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let [laptop, tablet] = [(); 2].map(|()| device_of(&bob, &issuer));
    keep_own_devices(&bob, &[&laptop, &tablet]);
    let client_key = tablet.account().client_key().public_key();
    let groups = bob.store.read(handover).unwrap();
    tablet.store.write(|tx| take_over(tx, &groups)).unwrap();
    for device in [&laptop, &tablet] {
        let client_key = device.account().client_key().public_key();
        bob.store.write(|tx| crate::group::told(tx, &id, &client_key)).unwrap();
    }
    let entry = bring_in(&laptop, &bob, &id, &bob.shown(&id));
    for other in [&alice, &bob, &mallory] {
        other.receive(&entry).unwrap();
    }
    let shown = CurrentGroup { attributes: Vec::new(), ..alice.shown(&id) };
    assert_eq!(strangers_to(&tablet, &id, &shown).strangers.len(), 1);
    bob.receive(&laptop.send(&id)).unwrap();
    let found = bob.store.read(crate::group::to_tell).unwrap();
    let [(told, group)] = &found[..] else { panic!("{} devices are to be told", found.len()) };
    assert_eq!(*told, client_key, "the other one is in");
    tablet.store.write(|tx| take_over(tx, std::slice::from_ref(group))).unwrap();
    comes_in(&tablet, &id, &shown, &Differences::default()).unwrap();
}

#[test]
fn a_device_that_its_user_has_stay_out_is_not_brought_in_again() {
    let issuer = SigningKey::generate();
    let ([_, bob, _], id) = three(&issuer);
    let tablet = device_of(&bob, &issuer);
    let groups = bob.store.read(handover).unwrap();
    let stays_out = || tablet.store.write(|tx| crate::group::stay_out(tx, &id)).unwrap();
    assert!(!stays_out(), "it knows nothing of it");
    tablet.store.write(|tx| take_over(tx, &groups)).unwrap();
    let delivery = tablet.store.write(|tx| entry(tx, &id)).unwrap().unwrap().delivery;
    assert!(stays_out());
    assert!(!stays_out(), "once");
    let is_revoked = |tx: &Tx<'_>| {
        let sql = "SELECT EXISTS (SELECT 1 FROM revocations WHERE address = ?1)";
        Ok(tx.sql().query_row(sql, [delivery.address.as_bytes()], |row| row.get::<_, bool>(0))?)
    };
    assert!(tablet.store.read(is_revoked).unwrap(), "its address leads nowhere");
    tablet.store.write(|tx| take_over(tx, &groups)).unwrap();
    assert!(tablet.store.write(|tx| entry(tx, &id)).unwrap().is_none());
    let found = tablet.store.read(crate::group::summaries).unwrap();
    let found: Vec<_> = found.iter().map(|it| (it.title.as_str(), it.active)).collect();
    assert_eq!(found, [("climbing", false)]);
}

#[test]
fn what_an_idle_device_hands_over_does_not_replace_what_is_newer() {
    let issuer = SigningKey::generate();
    let ([alice, bob, _], id) = three(&issuer);
    let tablet = device_of(&bob, &issuer);
    let older = of_device(2, bob.store.read(handover).unwrap());
    bob.receive(&alice.add(&id, &[&person("carol", &issuer)])).unwrap();
    let newer = bob.store.read(handover).unwrap();
    let takes = |groups: &[handover::GroupHandover]| tablet.store.write(|tx| take_over(tx, groups)).unwrap();
    takes(&newer);
    takes(&older);
    comes_in(&tablet, &id, &alice.shown(&id), &Differences::default()).unwrap();

    // Where the DS refuses the newer one, it may have been restored to an earlier state.
    let phone = device_of(&bob, &issuer);
    let takes = |groups: &[handover::GroupHandover]| phone.store.write(|tx| take_over(tx, groups)).unwrap();
    takes(&older);
    takes(&newer);
    phone.store.write(|tx| crate::group::go_by_next(tx, &id)).unwrap();
    assert_eq!(strangers_to(&phone, &id, &alice.shown(&id)).strangers.len(), 1);
    // It was not: the latest word has its turn again.
    phone.store.write(|tx| crate::group::go_by_latest(tx, &id)).unwrap();
    comes_in(&phone, &id, &alice.shown(&id), &Differences::default()).unwrap();
}

#[test]
fn of_strangers_a_user_is_told_again_once_the_group_was_handed_over_again() {
    let issuer = SigningKey::generate();
    let ([_, bob, _], id) = three(&issuer);
    let tablet = device_of(&bob, &issuer);
    let groups = bob.store.read(handover).unwrap();
    let meets = || tablet.store.write(|tx| crate::group::met_strangers(tx, &id)).unwrap();
    for _ in 0..2 {
        tablet.store.write(|tx| take_over(tx, &groups)).unwrap();
        assert_eq!([(); 8].map(|()| meets()), [false, false, false, false, false, false, true, false]);
    }
}

#[test]
fn of_a_member_that_comes_and_goes_without_end_a_device_on_its_way_is_told_ever_more_seldom() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let tablet = device_of(&bob, &issuer);
    keep_own_devices(&bob, &[&tablet]);
    let client_key = tablet.account().client_key().public_key();
    bob.store.write(|tx| crate::group::told(tx, &id, &client_key)).unwrap();
    let is_due = || !bob.store.read(crate::group::to_tell).unwrap().is_empty();
    let comes = |name: &str| {
        let addition = alice.add(&id, &[&person(name, &issuer)]);
        for other in [&bob, &mallory] {
            other.receive(&addition).unwrap();
        }
    };
    let seconds_pass = |seconds: u32| {
        let sql = "UPDATE told_devices SET due = due - ?1";
        bob.store.write(|tx| Ok(tx.sql().execute(sql, [seconds])?)).unwrap();
    };
    for (number, pause) in [0, 0, 0, 600, 1200, 2400].into_iter().enumerate() {
        comes(&format!("guest{number}"));
        assert_eq!(is_due(), pause == 0, "without the pause of {pause} s");
        if pause > 0 {
            seconds_pass(pause / 2);
            comes(&format!("other{number}"));
            assert!(!is_due(), "one letter tells of both");
            seconds_pass(pause / 2);
            assert!(is_due(), "after {pause} s");
        }
        bob.store.write(|tx| crate::group::told(tx, &id, &client_key)).unwrap();
        assert!(!is_due());
    }
    // A change of the user's key is told at once.
    comes("carol");
    assert!(!is_due());
    let commit = bob.stage(&id, &Change::UserKey).message;
    bob.confirm(&id);
    for other in [&alice, &mallory] {
        other.receive(&commit).unwrap();
    }
    assert!(is_due());
}
