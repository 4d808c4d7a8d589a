//! Leaves that went: by them this device knows whose a place is, whatever it missed, and forgets what is of no use any more.

use super::{
    devices::device_of,
    outcasts::{
        Apart, a_day_passes, comes_back_unknown, count, hears_of_removal, look, puts_out, to_ask_about,
        to_cast_out, with_removed_second_device,
    },
    *,
};
use crate::group::{Kind, places};

#[test]
fn who_could_not_follow_knows_whose_place_it_is_all_the_same() {
    let Apart { alice, bob, mallory, tablet, id, .. } = Apart::new();
    comes_back_unknown(&tablet, &[&bob, &mallory], &id);
    let shown = bob.shown(&id);
    let refused = alice.rejoin(&id, &shown, &Differences::default()).unwrap_err();
    let Error::Strangers(differences) = refused else { panic!("{refused}") };
    let back = alice.rejoin(&id, &shown, &differences).unwrap();
    for other in [&bob, &mallory, &tablet] {
        other.receive(&back).unwrap();
    }
    hears_of_removal(&alice, &tablet);
    assert_eq!(to_cast_out(&alice, &id), [], "another user may have come with that pseudonym");
    look(&alice, &id);
    a_day_passes(&alice);
    puts_out(&alice, &[&tablet], &[&bob, &mallory], &id);
}

/// Alice tells everybody who is in the group, and removes Mallory.
fn is_removed(mallory: &Person, alice: &Person, others: &[&Person], id: &GroupId) {
    alice.store.write(|tx| introduce(tx, &GroupState::load(tx, id)?)).unwrap();
    let introduction = alice.send(id);
    let removal = alice.stage(id, &Change::Remove(vec![mallory.leaf(id)]));
    alice.confirm(id);
    for other in others.iter().chain([&mallory]) {
        other.receive(&introduction).unwrap();
        other.receive(&removal.message).unwrap();
    }
}

/// Alice adds Mallory again, and makes her an admin.
fn is_back(mallory: &Person, alice: &Person, others: &[&Person], id: &GroupId) {
    let addition = alice.add(id, &[mallory]);
    let admins = [alice, mallory].map(|it| it.pseudonym(id));
    let naming = alice.stage(id, &Change::Admins(admins.to_vec()));
    alice.confirm(id);
    for other in others {
        other.receive(&addition).unwrap();
        other.receive(&naming.message).unwrap();
    }
    mallory.receive(&naming.message).unwrap();
}

#[test]
fn who_was_out_meanwhile_knows_whose_place_it_is_all_the_same() {
    let Apart { alice, bob, mallory, tablet, id, .. } = Apart::new();
    is_removed(&mallory, &alice, &[&bob, &tablet], &id);
    comes_back_unknown(&tablet, &[&alice, &bob], &id);
    hears_of_removal(&mallory, &tablet);
    assert!(mallory.store.read(crate::group::with_outcasts).unwrap().is_empty(), "she is out");
    look(&mallory, &id);
    is_back(&mallory, &alice, &[&bob, &tablet], &id);
    assert_eq!(mallory.store.read(crate::group::with_outcasts).unwrap(), std::slice::from_ref(&id));
    assert_eq!(to_cast_out(&mallory, &id), [], "another user may have come with that pseudonym");
    look(&mallory, &id);
    a_day_passes(&mallory);
    assert_eq!(to_cast_out(&mallory, &id), [tablet.leaf(&id)]);
}

#[test]
fn who_was_out_meanwhile_puts_nobody_out_at_once_who_came_with_a_removed_devices_pseudonym() {
    let Apart { issuer, alice, bob, mallory, tablet, id } = Apart::new();
    is_removed(&mallory, &alice, &[&bob, &tablet], &id);
    hears_of_removal(&mallory, &tablet);
    // The holder of the tablet had seen Carol's KeyPackage, and let the tablet be added with its pseudonym.
    let pseudonym = tablet.pseudonym(&id);
    tablet.store.write(|tx| GroupState::load(tx, &id)?.stage_leaving(tx)).unwrap();
    let leaving = tablet.outstanding(&id).unwrap().message;
    let carol = person("carol", &issuer);
    alice.receive(&leaving).unwrap();
    let departure = alice.stage(&id, &Change::Update).message;
    alice.confirm(&id);
    let carols = carol.offer_as(pseudonym, &alice);
    let addition = alice.stage(&id, &Change::Add(vec![carols])).message;
    alice.confirm(&id);
    for message in [&leaving, &departure, &addition] {
        bob.receive(message).unwrap();
    }
    is_back(&mallory, &alice, &[&bob], &id);
    assert_eq!(to_cast_out(&mallory, &id), []);
    look(&mallory, &id);
    alice.store.write(|tx| introduce(tx, &GroupState::load(tx, &id)?)).unwrap();
    mallory.receive(&alice.send(&id)).unwrap();
    assert_eq!(to_ask_about(&mallory, &id), std::slice::from_ref(&carol.user));
    mallory.knows(&[&carol]);
    a_day_passes(&mallory);
    assert_eq!(to_cast_out(&mallory, &id), []);
}

#[test]
fn who_moves_into_another_place_knows_whose_places_the_others_are_all_the_same() {
    let Apart { issuer, alice, bob, mallory, tablet, id } = Apart::new();
    let laptop = device_of(&alice, &issuer);
    let addition = alice.add(&id, &[&laptop]);
    for other in [&bob, &mallory, &tablet] {
        other.receive(&addition).unwrap();
    }
    laptop.receive(&tablet.say(&id, "here")).unwrap();
    hears_of_removal(&laptop, &tablet);
    comes_back_unknown(&tablet, &[&alice, &bob, &mallory, &laptop], &id);
    laptop.store.write(|tx| GroupState::load(tx, &id)?.stage_leaving(tx)).unwrap();
    let leaving = laptop.outstanding(&id).unwrap().message;
    laptop.confirm(&id);
    alice.receive(&leaving).unwrap();
    let handover = alice.store.read(handover).unwrap().remove(0);
    let entry = handover::PendingEntry { handover, delivery: delivery() };
    let shown = CurrentGroup { proposals: vec![leaving], ..alice.shown(&id) };
    laptop.store.write(|tx| GroupState::enter(tx, &entry, &shown, &Differences::default())).unwrap();
    laptop.confirm(&id);
    assert_eq!(to_cast_out(&laptop, &id), [tablet.leaf(&id)]);
}

#[test]
fn an_own_commit_takes_nobody_out_of_a_place_before_it_is_accepted() {
    let issuer = SigningKey::generate();
    let ([_, bob, _], tablet, id) = with_removed_second_device(&issuer);
    bob.stage(&id, &Change::Remove(vec![tablet.leaf(&id)]));
    let late = bob.copy();
    late.store.write(|tx| GroupState::load(tx, &id)?.too_late(tx, Kind::Commit)).unwrap();
    assert_eq!(count(&late, "former_leaves"), 0);
    bob.confirm(&id);
    assert_eq!(count(&bob, "former_leaves"), 1);
}

#[test]
fn of_a_group_that_ended_whoever_said_who_it_is_is_remembered_for_a_quarter_of_a_year() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    mallory.receive(&alice.add(&id, &[&person("stranger", &issuer)])).unwrap();
    let removal = alice.stage(&id, &Change::Remove(vec![mallory.leaf(&id)]));
    mallory.receive(&removal.message).unwrap();
    hears_of_removal(&mallory, &bob);
    let kept = || ["former_leaves", "outcasts"].map(|table| count(&mallory, table));
    let a_day_ends = || mallory.store.write(crate::group::forget_ended).unwrap();
    a_day_ends();
    assert_eq!(kept(), [2, 1], "Alice and Bob, and not the stranger");
    let sql = "UPDATE groups SET committed = committed - 92 * 24 * 60 * 60";
    mallory.store.write(|tx| Ok(tx.sql().execute(sql, [])?)).unwrap();
    a_day_ends();
    assert_eq!(kept(), [0, 0]);
}

#[test]
fn of_a_group_that_nobody_commits_in_all_is_remembered() {
    let Trio { alice, bob, id, .. } = Trio::with_bob();
    hears_of_removal(&alice, &bob);
    let a_quarter_passes = || {
        let sql = "UPDATE groups SET committed = committed - 92 * 24 * 60 * 60";
        alice.store.write(|tx| Ok(tx.sql().execute(sql, [])?)).unwrap();
        alice.store.write(crate::group::forget_ended).unwrap();
        ["former_leaves", "outcasts"].map(|table| count(&alice, table))
    };
    assert_eq!(a_quarter_passes(), [0, 1]);
    let user = bob.pseudonym(&id);
    let gone = [(PublicKey::new(rand::random()), user)];
    alice.store.write(|tx| places::follow(tx, &GroupState::load(tx, &id)?, &gone)).unwrap();
    assert_eq!(a_quarter_passes(), [1, 1]);
}

#[test]
fn of_the_leaves_that_went_devices_are_remembered_before_others() {
    let Trio { issuer, alice, bob, id, .. } = Trio::with_bob();
    alice.knows(&[&bob]);
    let user = bob.pseudonym(&id);
    let go = |leaf_keys: &[PublicKey]| {
        let leaves: Vec<_> = leaf_keys.iter().map(|leaf_key| (*leaf_key, user)).collect();
        alice.store.write(|tx| places::follow(tx, &GroupState::load(tx, &id)?, &leaves)).unwrap();
    };
    let unknown: Vec<_> = (0..places::MOST + 5).map(|_| PublicKey::new(rand::random())).collect();
    go(&unknown);
    assert_eq!(count(&alice, "former_leaves"), i64::from(places::MOST));
    let leaf_of = |device: &Person| {
        let (account, leaf) = (device.account(), SigningKey::generate());
        let link = IdentityLink::sign(&account.client_key(), account.credential().unwrap(), Some(&id), &leaf);
        let leaf_key = leaf.public_key();
        alice.store.write(|tx| links::told(tx, &id, &leaf_key, &link)).unwrap();
        leaf_key
    };
    let leaf_key = leaf_of(&bob);
    go(&[leaf_key]);
    go(&unknown);
    assert_eq!(count(&alice, "former_leaves"), i64::from(places::MOST));
    let is_kept = |leaf_key: &PublicKey| {
        let sql = "SELECT EXISTS (SELECT 1 FROM former_leaves WHERE leaf_key = ?1)";
        let key = [leaf_key.as_bytes()];
        alice.store.read(|tx| Ok(tx.sql().query_row(sql, key, |row| row.get::<_, bool>(0))?)).unwrap()
    };
    assert!(is_kept(&leaf_key) && is_kept(&unknown[0]));
    assert!(!is_kept(&unknown[unknown.len() - 1]), "the latest that nobody knows");
    // A device that was removed before anybody looked it up.
    let tablet = device_of(&bob, &issuer);
    let tablets = leaf_of(&tablet);
    go(&[tablets]);
    assert!(!is_kept(&tablets));
    hears_of_removal(&alice, &tablet);
    // One device under many keys.
    let many: Vec<_> = (0..places::MOST + 5).map(|_| leaf_of(&bob)).collect();
    go(&many);
    go(&[tablets]);
    assert!(is_kept(&tablets) && is_kept(&leaf_key) && is_kept(&unknown[0]));
    assert!(!many.iter().any(is_kept));
}
