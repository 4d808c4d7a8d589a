//! Removed devices in places of their own: admins' clients put them out, by whatever leaf they stay.

use std::collections::{BTreeSet, HashSet};

use super::{
    devices::{bring_in, device_apart, device_of, second_device},
    names::claim_to,
    *,
};
use crate::{errands::casting_out, group::strayed, identity};

/// Alice's group with Bob and Mallory, and with Bob's tablet, which Alice added as a user of its own.
pub(super) struct Apart {
    pub(super) issuer: SigningKey,
    pub(super) alice: Person,
    pub(super) bob: Person,
    pub(super) mallory: Person,
    pub(super) tablet: Person,
    pub(super) id: GroupId,
}

impl Apart {
    pub(super) fn new() -> Self {
        let issuer = SigningKey::generate();
        let ([alice, bob, mallory], id) = three(&issuer);
        let tablet = device_apart(&bob, &alice, [&bob, &mallory], &id, &issuer);
        Self { issuer, alice, bob, mallory, tablet, id }
    }
}

/// A lookup shows a person that a device is its user's no more.
pub(super) fn hears_of_removal(person: &Person, device: &Person) {
    let client_key = device.account().client_key().public_key();
    person
        .store
        .write(|tx| {
            tx.sql().execute("DELETE FROM identities WHERE client_key = ?1", [client_key.as_bytes()])?;
            crate::group::was_removed(tx, &device.user, &client_key)
        })
        .unwrap();
}

/// The leaves that an admin's client is about to put out.
pub(super) fn to_cast_out(admin: &Person, id: &GroupId) -> Vec<PublicKey> {
    to_cast_out_without(admin, id, &[])
}

/// The same while the AS of some users does not answer.
fn to_cast_out_without(admin: &Person, id: &GroupId, unanswered: &[&UserName]) -> Vec<PublicKey> {
    let unanswered: BTreeSet<UserName> = unanswered.iter().copied().cloned().collect();
    let cast_out = |tx: &Tx<'_>| crate::group::cast_out(tx, &GroupState::load(tx, id)?, &unanswered);
    let change = admin.store.read(cast_out).unwrap();
    let Some(change) = change else { return Vec::new() };
    let Change::Remove(mut leaves) = change else { panic!("{change:?}") };
    leaves.sort();
    leaves
}

pub(super) fn look(admin: &Person, id: &GroupId) {
    let looked_for = admin.store.read(|tx| crate::group::removed_devices(tx, id)).unwrap();
    admin.store.write(|tx| crate::group::look_for_outcasts_again(tx, id, &looked_for)).unwrap();
}

/// The users whom an admin's client asks the AS about before it puts anybody out.
pub(super) fn to_ask_about(admin: &Person, id: &GroupId) -> Vec<UserName> {
    let users = admin.store.read(|tx| crate::group::users_of_suspects(tx, &GroupState::load(tx, id)?));
    users.unwrap().into_iter().collect()
}

pub(super) fn a_day_passes(admin: &Person) {
    let sql = "UPDATE doubted_places SET since = since - 24 * 60 * 60, grown = grown - 24 * 60 * 60";
    admin.store.write(|tx| Ok(tx.sql().execute(sql, [])?)).unwrap();
}

pub(super) fn count(person: &Person, table: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM {table}");
    person.store.read(|tx| Ok(tx.sql().query_row(&sql, [], |row| row.get(0))?)).unwrap()
}

fn leaves_of(devices: &[&Person], id: &GroupId) -> Vec<PublicKey> {
    let mut leaves: Vec<_> = devices.iter().map(|device| device.leaf(id)).collect();
    leaves.sort();
    leaves
}

/// Has an admin's client put out these devices and nobody else, of which all hear.
pub(super) fn puts_out(admin: &Person, devices: &[&Person], others: &[&Person], id: &GroupId) {
    others.iter().chain([&admin]).for_each(|person| drop(person.events()));
    let leaves = leaves_of(devices, id);
    assert_eq!(to_cast_out(admin, id), leaves);
    look(admin, id);
    assert_eq!(to_cast_out(admin, id), leaves, "until they are out");
    let removal = admin.stage(id, &Change::Remove(leaves));
    admin.confirm(id);
    for device in devices {
        device.receive(&removal.message).unwrap();
        assert!(device.events().iter().any(|event| matches!(event, Event::Left { .. })));
    }
    let removed =
        |event: &Event| matches!(event, Event::Removed { members, .. } if members.len() == devices.len());
    for other in others {
        other.receive(&removal.message).unwrap();
        assert!(other.events().iter().any(removed));
    }
    assert!(admin.events().iter().any(removed));
    look(admin, id);
    assert!(to_cast_out(admin, id).is_empty());
    assert_eq!(["outcasts", "former_leaves", "doubted_places"].map(|table| count(admin, table)), [0; 3]);
}

/// Has a device come back in its place under another leaf key, and not say who it is.
pub(super) fn comes_back_unknown(device: &Person, others: &[&Person], id: &GroupId) {
    device.store.write(|tx| GroupState::load(tx, id)?.stage_leaving(tx)).unwrap();
    let leaving = device.outstanding(id).unwrap().message;
    device.confirm(id);
    for other in others {
        other.receive(&leaving).unwrap();
    }
    let handover = device.store.read(handover).unwrap().remove(0);
    let entry = handover::PendingEntry { handover, delivery: delivery() };
    let shown = CurrentGroup { proposals: vec![leaving], ..others[0].shown(id) };
    device.store.write(|tx| GroupState::enter(tx, &entry, &shown, &Differences::default())).unwrap();
    let back = device.outstanding(id).unwrap().message;
    device.confirm(id);
    for other in others {
        other.receive(&back).unwrap();
        let members = other.members(id);
        let shown = members.iter().find(|member| member.leaf_key == device.leaf(id)).unwrap();
        assert_eq!(shown.user, None);
    }
}

#[test]
fn a_removed_device_that_came_back_under_a_key_that_nobody_knows_is_put_out() {
    for hears_first in [true, false] {
        let Apart { alice, bob, mallory, tablet, id, .. } = Apart::new();
        if hears_first {
            hears_of_removal(&alice, &tablet);
            assert_eq!(to_cast_out(&alice, &id), [tablet.leaf(&id)]);
        }
        comes_back_unknown(&tablet, &[&alice, &bob, &mallory], &id);
        if !hears_first {
            hears_of_removal(&alice, &tablet);
        }
        puts_out(&alice, &[&tablet], &[&bob, &mallory], &id);
    }
}

#[test]
fn what_a_removed_device_let_in_goes_with_it_and_without_it() {
    let Apart { issuer, alice, bob, mallory, tablet, id } = Apart::new();
    let ghost = device_of(&bob, &issuer);
    let entry = bring_in(&ghost, &tablet, &id, &tablet.shown(&id));
    for other in [&alice, &bob, &mallory, &tablet] {
        other.receive(&entry).unwrap();
    }
    {
        let [alice, bob, mallory] = [&alice, &bob, &mallory].map(Person::copy);
        let [tablet, ghost] = [&tablet, &ghost].map(Person::copy);
        hears_of_removal(&alice, &tablet);
        puts_out(&alice, &[&tablet, &ghost], &[&bob, &mallory], &id);
    }
    let removal = ghost.stage(&id, &Change::Remove(vec![tablet.leaf(&id)]));
    ghost.confirm(&id);
    for other in [&alice, &bob, &mallory, &tablet] {
        other.receive(&removal.message).unwrap();
    }
    hears_of_removal(&alice, &tablet);
    puts_out(&alice, &[&ghost], &[&bob, &mallory], &id);
}

#[test]
fn what_a_removed_device_of_ones_own_left_in_its_place_goes() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let tablet = device_apart(&alice, &alice, [&bob, &mallory], &id, &issuer);
    comes_back_unknown(&tablet, &[&alice, &bob, &mallory], &id);
    let client_key = tablet.account().client_key().public_key();
    alice.store.write(|tx| crate::group::remove_own_device(tx, &client_key)).unwrap();
    let evict = || alice.store.read(|tx| crate::group::evict(tx, &GroupState::load(tx, &id)?)).unwrap();
    let change = evict().expect("it is in the group");
    let Change::Remove(leaves) = &change else { panic!("{change:?}") };
    assert_eq!(leaves[..], [tablet.leaf(&id)]);
    let removal = alice.stage(&id, &change);
    alice.confirm(&id);
    for other in [&bob, &mallory] {
        other.receive(&removal.message).unwrap();
        assert_eq!(other.members(&id).len(), 3);
    }
    assert!(!matches!(evict(), Some(Change::Remove(_))));
}

/// Bob and his tablet are in one place, as Alice knows, and Alice hears that the tablet was removed.
pub(super) fn with_removed_second_device(issuer: &SigningKey) -> ([Person; 3], Person, GroupId) {
    let (people, id) = three(issuer);
    let [alice, bob, mallory] = &people;
    let tablet = second_device(bob, [alice, mallory], &id, issuer);
    alice.receive(&tablet.send(&id)).unwrap();
    hears_of_removal(alice, &tablet);
    (people, tablet, id)
}

#[test]
fn a_removed_device_beside_one_that_its_user_has_is_left_to_that_one() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], tablet, id) = with_removed_second_device(&issuer);
    let ghost = device_of(&bob, &issuer);
    let entry = bring_in(&ghost, &tablet, &id, &tablet.shown(&id));
    for other in [&alice, &bob, &mallory, &tablet] {
        other.receive(&entry).unwrap();
    }
    for _ in 0..2 {
        assert_eq!(to_cast_out(&alice, &id), []);
        look(&alice, &id);
        a_day_passes(&alice);
    }
    assert_eq!(count(&alice, "outcasts"), 1, "it is looked for again");
    let client_key = tablet.account().client_key().public_key();
    bob.store.write(|tx| crate::group::remove_own_device(tx, &client_key)).unwrap();
    let change = bob.store.read(|tx| crate::group::evict(tx, &GroupState::load(tx, &id)?)).unwrap();
    let removal = bob.stage(&id, &change.expect("it is in the group"));
    bob.confirm(&id);
    for other in [&alice, &mallory, &tablet, &ghost] {
        other.receive(&removal.message).unwrap();
    }
    assert_eq!(alice.members(&id).len(), 3);
    look(&alice, &id);
    assert_eq!(count(&alice, "outcasts"), 1, "it may come back");
    assert_eq!(to_cast_out(&alice, &id), []);
}

/// Bob's phone is off when the tablet goes, so that the user's key stays.
#[test]
fn a_removed_device_that_went_and_comes_back_unknown_is_known_by_its_place() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], tablet, id) = with_removed_second_device(&issuer);
    let known = tablet.store.read(handover).unwrap();
    tablet.store.write(|tx| GroupState::load(tx, &id)?.stage_leaving(tx)).unwrap();
    let leaving = tablet.outstanding(&id).unwrap().message;
    for other in [&alice, &mallory] {
        other.receive(&leaving).unwrap();
    }
    let departure = alice.stage(&id, &Change::Update);
    alice.confirm(&id);
    mallory.receive(&departure.message).unwrap();
    for _ in 0..2 {
        assert_eq!(to_cast_out(&alice, &id), []);
        look(&alice, &id);
    }
    let ghost = device_of(&bob, &issuer);
    ghost.store.write(|tx| take_over(tx, &known)).unwrap();
    ghost
        .store
        .write(|tx| {
            GroupState::enter(tx, &entry(tx, &id)?.unwrap(), &alice.shown(&id), &Differences::default())
        })
        .unwrap();
    let entry = ghost.outstanding(&id).unwrap().message;
    ghost.confirm(&id);
    for other in [&alice, &mallory] {
        other.receive(&entry).unwrap();
    }
    assert_eq!(to_cast_out(&alice, &id), [], "Bob's phone is there");
    look(&alice, &id);
    let removal = ghost.stage(&id, &Change::Remove(vec![bob.leaf(&id)]));
    ghost.confirm(&id);
    for other in [&alice, &mallory] {
        other.receive(&removal.message).unwrap();
    }
    assert_eq!(to_cast_out(&alice, &id), []);
    look(&alice, &id);
    a_day_passes(&alice);
    puts_out(&alice, &[&ghost], &[&mallory], &id);
}

#[test]
fn a_removed_device_that_is_its_users_again_stays() {
    let Apart { alice, tablet, id, .. } = Apart::new();
    hears_of_removal(&alice, &tablet);
    assert_eq!(to_cast_out(&alice, &id), [tablet.leaf(&id)]);
    alice.knows(&[&tablet]);
    assert_eq!(to_cast_out(&alice, &id), []);
    look(&alice, &id);
    assert_eq!(count(&alice, "outcasts"), 0);
}

#[tokio::test]
async fn a_removed_device_of_which_a_client_hears_while_it_looks_for_others_is_looked_for_next() {
    let Apart { alice, tablet, id, .. } = Apart::new();
    let due = || alice.store.read(crate::group::with_outcasts).unwrap();
    let hears = async {
        hears_of_removal(&alice, &tablet);
        Ok(())
    };
    casting_out(&alice.store, &id, hears).await.unwrap();
    assert_eq!(due(), std::slice::from_ref(&id));
    casting_out(&alice.store, &id, async { Ok(()) }).await.unwrap();
    assert_eq!(due(), []);
}

#[test]
fn who_is_no_admin_puts_nobody_out() {
    let Apart { alice, bob, mallory, tablet, id, .. } = Apart::new();
    alice.store.write(|tx| introduce(tx, &GroupState::load(tx, &id)?)).unwrap();
    bob.receive(&alice.send(&id)).unwrap();
    hears_of_removal(&bob, &tablet);
    let has_suspects =
        || bob.store.read(|tx| crate::group::has_suspects(tx, &GroupState::load(tx, &id)?)).unwrap();
    assert_eq!(to_cast_out(&bob, &id), []);
    assert!(!has_suspects(), "he asks nobody about them");
    let naming = alice.stage(&id, &Change::Admins(vec![alice.pseudonym(&id), bob.pseudonym(&id)]));
    alice.confirm(&id);
    for other in [&bob, &mallory] {
        other.receive(&naming.message).unwrap();
    }
    assert_eq!(to_cast_out(&bob, &id), [tablet.leaf(&id)]);
    assert!(has_suspects());
}

#[test]
fn who_came_in_after_the_members_were_asked_about_is_not_put_out_with_the_first_commit() {
    let Apart { issuer, alice, bob, mallory, tablet, id } = Apart::new();
    hears_of_removal(&alice, &tablet);
    let leaves = || -> HashSet<PublicKey> {
        alice.store.read(|tx| Ok(GroupState::load(tx, &id)?.leaf_keys().collect())).unwrap()
    };
    let casts_out = |asked: &HashSet<PublicKey>| {
        let cast_out = |tx: &Tx<'_>| {
            crate::group::cast_out_if_asked(tx, &GroupState::load(tx, &id)?, &BTreeSet::new(), asked)
        };
        alice.store.read(cast_out).unwrap().is_some()
    };
    let before = leaves();
    assert!(casts_out(&before));
    let ghost = device_of(&bob, &issuer);
    let entry = bring_in(&ghost, &tablet, &id, &tablet.shown(&id));
    for other in [&alice, &bob, &mallory] {
        other.receive(&entry).unwrap();
    }
    assert_eq!(to_cast_out(&alice, &id), leaves_of(&[&tablet, &ghost], &id));
    assert!(!casts_out(&before));
    assert!(casts_out(&leaves()));
}

#[test]
fn a_removed_device_that_is_registered_under_another_name_goes_nevertheless() {
    let Apart { issuer, alice, bob, tablet, id, .. } = Apart::new();
    hears_of_removal(&alice, &tablet);
    let is_shown_as = |user: &UserName| {
        let client_key = tablet.account().client_key().public_key();
        let sql = "INSERT OR REPLACE INTO identities (client_key, user) VALUES (?1, ?2)";
        let shows = |tx: &Tx<'_>| -> Result<usize> {
            Ok(tx.sql().execute(sql, rusqlite::params![client_key.as_bytes(), user.to_string()])?)
        };
        alice.store.write(shows).unwrap();
    };
    let thief = person("thief", &issuer);
    is_shown_as(&thief.user);
    look(&alice, &id);
    assert_eq!(to_cast_out(&alice, &id), [tablet.leaf(&id)]);
    // Bob took another name, and has the tablet again.
    let name: UserName = "rob@example.org".parse().unwrap();
    alice.store.write(|tx| identity::rename(tx, &bob.user, &name)).unwrap();
    assert_eq!(to_cast_out(&alice, &id), [tablet.leaf(&id)]);
    is_shown_as(&name);
    assert_eq!(to_cast_out(&alice, &id), []);
    look(&alice, &id);
    assert_eq!(count(&alice, "outcasts"), 0);
}

#[test]
fn whoever_may_be_another_device_of_the_user_has_a_day_to_say_so() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], tablet, id) = with_removed_second_device(&issuer);
    let removal = tablet.stage(&id, &Change::Remove(vec![bob.leaf(&id)]));
    tablet.confirm(&id);
    for other in [&alice, &mallory] {
        other.receive(&removal.message).unwrap();
    }
    assert_eq!(to_cast_out(&alice, &id), [tablet.leaf(&id)], "it is alone");
    let phone = device_of(&bob, &issuer);
    let entry = bring_in(&phone, &tablet, &id, &tablet.shown(&id));
    for other in [&alice, &mallory, &tablet] {
        other.receive(&entry).unwrap();
    }
    assert_eq!(to_cast_out(&alice, &id), []);
    look(&alice, &id);
    assert_eq!(to_cast_out(&alice, &id), []);
    {
        let alice = alice.copy();
        assert_eq!(to_ask_about(&alice, &id), []);
        alice.receive(&phone.copy().send(&id)).unwrap();
        assert_eq!(to_ask_about(&alice, &id), std::slice::from_ref(&bob.user));
        a_day_passes(&alice);
        let both = leaves_of(&[&tablet, &phone], &id);
        assert_eq!(to_cast_out(&alice, &id), both, "anybody can say anything");
        {
            let alice = alice.copy();
            for _ in 0..6 {
                assert_eq!(to_cast_out_without(&alice, &id, &[&bob.user]), []);
                look(&alice, &id);
                a_day_passes(&alice);
            }
            assert_eq!(to_cast_out_without(&alice, &id, &[&bob.user]), both, "a week is over");
        }
        alice.knows(&[&phone]);
        assert_eq!(to_cast_out(&alice, &id), []);
        look(&alice, &id);
        assert_eq!(count(&alice, "doubted_places"), 0);
    }
    a_day_passes(&alice);
    puts_out(&alice, &[&tablet, &phone], &[&mallory], &id);
}

#[test]
fn whoever_came_in_last_has_a_day_and_nobody_stays_for_longer_than_a_week_by_coming_in() {
    let issuer = SigningKey::generate();
    let ([alice, bob, _], tablet, id) = with_removed_second_device(&issuer);
    let removal = tablet.stage(&id, &Change::Remove(vec![bob.leaf(&id)]));
    tablet.confirm(&id);
    alice.receive(&removal.message).unwrap();
    let comes_in = || {
        let phone = device_of(&bob, &issuer);
        let entry = bring_in(&phone, &tablet, &id, &tablet.shown(&id));
        for other in [&alice, &tablet] {
            other.receive(&entry).unwrap();
        }
        phone.leaf(&id)
    };
    let mut leaves = vec![tablet.leaf(&id)];
    for _ in 0..7 {
        assert_eq!(to_cast_out(&alice, &id), leaves, "their time is over");
        leaves.push(comes_in());
        leaves.sort();
        assert_eq!(to_cast_out(&alice, &id), []);
        look(&alice, &id);
        assert_eq!(to_cast_out(&alice, &id), [], "one is there for less than a day");
        a_day_passes(&alice);
    }
    leaves.push(comes_in());
    leaves.sort();
    assert_eq!(to_cast_out(&alice, &id), leaves);
}

#[test]
fn who_came_in_by_a_removed_device_is_asked_about_once_its_card_is_read() {
    let Apart { issuer, alice, bob, mallory, tablet, id } = Apart::new();
    alice.store.write(|tx| introduce(tx, &GroupState::load(tx, &id)?)).unwrap();
    tablet.receive(&alice.send(&id)).unwrap();
    let phone = device_of(&bob, &issuer);
    let entry = bring_in(&phone, &tablet, &id, &tablet.shown(&id));
    for other in [&alice, &bob, &mallory, &tablet] {
        other.receive(&entry).unwrap();
    }
    hears_of_removal(&alice, &tablet);
    assert_eq!(to_cast_out(&alice, &id), leaves_of(&[&tablet, &phone], &id), "nobody knows the phone");
    let cards = phone.shown(&id).attributes;
    alice.store.write(|tx| GroupState::load(tx, &id)?.learn(tx, &cards)).unwrap();
    assert_eq!(to_cast_out(&alice, &id), [], "it has a day");
    assert_eq!(to_ask_about(&alice, &id), std::slice::from_ref(&bob.user));
    alice.knows(&[&phone]);
    look(&alice, &id);
    a_day_passes(&alice);
    assert_eq!(to_cast_out(&alice, &id), []);
    assert_eq!(to_ask_about(&alice, &id), []);
}

#[test]
fn a_device_that_cannot_follow_removes_nobody_before_it_is_back() {
    let Apart { alice, tablet, id, .. } = Apart::new();
    let session = alice.session();
    // Nothing else is left to do.
    let others = "DELETE FROM eid_claims; UPDATE groups SET introduce = 0";
    alice.store.write(|tx| Ok(tx.sql().execute_batch(others)?)).unwrap();
    assert!(!session.has_errands().unwrap());
    hears_of_removal(&alice, &tablet);
    let due = || (alice.store.read(crate::group::with_outcasts).unwrap(), session.has_errands().unwrap());
    assert_eq!(due(), (vec![id.clone()], true));
    alice.store.write(|tx| strayed::leave_to_person(tx, &id)).unwrap();
    assert_eq!(due(), (vec![], false));
    alice.store.write(|tx| strayed::back(tx, &id)).unwrap();
    assert_eq!(due(), (vec![id], true));
}

#[test]
fn who_could_not_put_a_removed_device_out_tries_again_later_and_doubts_its_place_meanwhile() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], tablet, id) = with_removed_second_device(&issuer);
    let removal = tablet.stage(&id, &Change::Remove(vec![bob.leaf(&id)]));
    tablet.confirm(&id);
    let phone = device_of(&bob, &issuer);
    let entry = bring_in(&phone, &tablet, &id, &tablet.shown(&id));
    for other in [&alice, &mallory] {
        other.receive(&removal.message).unwrap();
        other.receive(&entry).unwrap();
    }
    let set_due = "UPDATE outcasts SET due = 0";
    let fails = |error: &Error, pause: u64| {
        alice.store.write(|tx| Ok(tx.sql().execute(set_due, [])?)).unwrap();
        let before = alice.store.now();
        alice.store.write(|tx| crate::group::casting_out_failed(tx, &id, error)).unwrap();
        let after = alice.store.now();
        assert_eq!(alice.store.read(crate::group::with_outcasts).unwrap(), []);
        let due = "SELECT due FROM outcasts";
        let due: u64 = alice.store.read(|tx| Ok(tx.sql().query_row(due, [], |row| row.get(0))?)).unwrap();
        assert!((before + pause..=after + pause).contains(&due), "{error}: {due}");
    };
    let behind = Error::Behind;
    let away = Error::Server(postern_api::Error::Unreachable("the network is away".into()));
    fails(&behind, 300);
    assert_eq!(count(&alice, "doubted_places"), 1);
    fails(&Error::Contended(5), 300);
    fails(&away, 300);
    for pause in [1200, 3600, 3600] {
        fails(&behind, pause);
    }
    fails(&Error::Contended(5), 300);
    a_day_passes(&alice);
    assert_eq!(to_cast_out(&alice, &id), leaves_of(&[&tablet, &phone], &id), "their time went on");
    // A look that could be made makes up for all that failed.
    look(&alice, &id);
    fails(&behind, 300);
}

/// The credential of Bob's phone ended while it was off: lookups show it in his identity, and not as his device.
#[test]
fn a_removed_device_beside_a_silent_one_is_left_to_that_one() {
    let issuer = SigningKey::generate();
    let ([alice, bob, _], tablet, id) = with_removed_second_device(&issuer);
    let change = |person: &Person, sql: &str, user: &UserName| {
        person.store.write(|tx| Ok(tx.sql().execute(sql, [user.to_string()])?)).unwrap();
    };
    change(&alice, "DELETE FROM identities WHERE user = ?1", &bob.user);
    let after_a_day = |alice: &Person| {
        look(alice, &id);
        a_day_passes(alice);
        to_cast_out(alice, &id)
    };
    assert_eq!(after_a_day(&alice.copy()), leaves_of(&[&bob, &tablet], &id), "it is in nobody's identity");
    let phone = bob.account().client_key();
    alice.store.write(|tx| identity::eid::create(tx, &bob.user, &phone, None).map(drop)).unwrap();
    assert_eq!(after_a_day(&alice), []);
    // Another device of Bob's took another name for him.
    let name: UserName = "rob@example.org".parse().unwrap();
    alice.store.write(|tx| identity::rename(tx, &bob.user, &name)).unwrap();
    assert_eq!(after_a_day(&alice), []);
    let reset = "INSERT INTO eids (user, pending, founder, founding, incarnation, epoch, transcript,
                                   public_group, seen, verified)
                 SELECT user, 1, founder, founding, incarnation + 1, 0, transcript, public_group, seen, 0
                   FROM eids WHERE user = ?1";
    change(&alice, reset, &name);
    assert_eq!(after_a_day(&alice), [], "that is the AS's word alone");
}

#[test]
fn a_removed_device_has_nobody_else_put_out() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let spare = device_apart(&mallory, &alice, [&bob, &mallory], &id, &issuer);
    // Bob's phone did not say yet whose it is.
    let phone = device_of(&bob, &issuer);
    let entry = bring_in(&phone, &bob, &id, &bob.shown(&id));
    for other in [&alice, &bob, &mallory, &spare] {
        other.receive(&entry).unwrap();
    }
    let claim =
        |leaf_key| RosterEntry { leaf_key, link: claim_to(&spare, &id, &leaf_key), profile_key: None };
    let roster = [&alice, &bob, &phone].map(|it| claim(it.leaf(&id))).to_vec();
    spare.push(&id, &Content::Introduction { title: String::new(), titled: 0, roster, attributes_key: None });
    alice.receive(&spare.send(&id)).unwrap();
    hears_of_removal(&alice, &spare);
    let only_itself = |admin: &Person| {
        for _ in 0..2 {
            assert_eq!(to_cast_out(admin, &id), [spare.leaf(&id)]);
            look(admin, &id);
            a_day_passes(admin);
        }
    };
    only_itself(&alice);
    // The leaf by which Bob's place is known goes, and its name is still his.
    bob.store.write(|tx| GroupState::load(tx, &id)?.stage_leaving(tx)).unwrap();
    let departure = bob.outstanding(&id).unwrap().message;
    for other in [&alice, &mallory, &phone, &spare] {
        other.receive(&departure).unwrap();
    }
    alice.stage(&id, &Change::Update);
    alice.confirm(&id);
    only_itself(&alice);
}
