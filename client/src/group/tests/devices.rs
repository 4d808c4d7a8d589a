//! Further devices of a member, and the user's key that they share.

use openmls::prelude::MlsGroup;
use postern_protocol::problem::{Problem, ProblemType};

use super::*;

/// Another device of somebody's: the same user, with a client key of its own.
pub(super) fn device_of(of: &Person, issuer: &SigningKey) -> Person {
    let name = of.user.local().to_string();
    person(&name, issuer)
}

/// Another device of somebody, that came into a group, as all in it know.
pub(super) fn second_device(of: &Person, others: [&Person; 2], id: &GroupId, issuer: &SigningKey) -> Person {
    let device = device_of(of, issuer);
    let entry = bring_in(&device, of, id, &of.shown(id));
    for member in others.into_iter().chain([of]) {
        member.receive(&entry).unwrap();
    }
    device
}

/// Brings a device into what another one handed over; the commit.
pub(super) fn bring_in(device: &Person, by: &Person, id: &GroupId, shown: &CurrentGroup) -> MlsMessage {
    let groups = by.store.read(handover).unwrap();
    device.store.write(|tx| take_over(tx, &groups)).unwrap();
    device
        .store
        .write(|tx| {
            let entry = entry(tx, id)?.expect("it is to come in");
            GroupState::enter(tx, &entry, shown, &Differences::default())
        })
        .unwrap();
    let message = device.outstanding(id).unwrap().message;
    device.confirm(id);
    message
}

#[test]
fn another_device_of_a_plain_member_comes_in_by_itself_as_the_same_user() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let tablet = device_of(&bob, &issuer);
    let entry = bring_in(&tablet, &bob, &id, &bob.shown(&id));
    for other in [&alice, &bob, &mallory] {
        other.receive(&entry).unwrap();
        assert_eq!(other.members(&id).len(), 4);
    }
    assert!(tablet.events().iter().any(|event| matches!(event, Event::Joined { .. })));
    assert_eq!(tablet.pseudonym(&id), bob.pseudonym(&id));
    assert_eq!(tablet.store.read(|tx| crate::group::title(tx, &id)).unwrap(), "climbing");
    // It says who it is, and is known by that.
    let present = tablet.send(&id);
    alice.receive(&present).unwrap();
    alice.knows(&[&tablet]);
    let mut both = vec![bob.leaf(&id), tablet.leaf(&id)];
    let mut named = alice.named(&id, &bob.user);
    both.sort();
    named.sort();
    assert_eq!(named, both, "both are removed together");
    for device in [&bob, &tablet] {
        alice.receive(&device.say(&id, "from here")).unwrap();
    }
}

/// Another device of a person's, which an admin added as a user of its own.
pub(super) fn device_apart(
    of: &Person,
    admin: &Person,
    others: [&Person; 2],
    id: &GroupId,
    issuer: &SigningKey,
) -> Person {
    let device = device_of(of, issuer);
    let added = admin.add(id, &[&device]);
    for other in others {
        other.receive(&added).unwrap();
    }
    device
}

#[test]
fn what_was_said_in_the_place_that_a_device_left_is_read_until_it_is_in_the_other_one() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let tablet = device_apart(&bob, &alice, [&bob, &mallory], &id, &issuer);
    tablet.store.write(|tx| GroupState::load(tx, &id)?.stage_leaving(tx)).unwrap();
    let leaving = tablet.outstanding(&id).unwrap().message;
    tablet.confirm(&id);
    // She does not know yet that it leaves.
    let said = ["one", "two", "three"].map(|text| alice.say(&id, text));
    for other in [&alice, &bob, &mallory] {
        other.receive(&leaving).unwrap();
    }
    let handover = bob.store.read(handover).unwrap().remove(0);
    let entry = handover::PendingEntry { handover, delivery: delivery() };
    let shown = CurrentGroup { proposals: vec![leaving], ..alice.shown(&id) };
    tablet.store.write(|tx| GroupState::enter(tx, &entry, &shown, &Differences::default())).unwrap();
    let commit = tablet.outstanding(&id).unwrap().message;
    tablet.events();

    tablet.receive(&said[0]).unwrap();
    assert_eq!(tablet.texts(), ["one"], "the answer to its commit is not there yet");
    tablet.confirm(&id);
    for message in &said[..2] {
        let _ = tablet.receive(message);
    }
    assert_eq!(tablet.texts(), ["two"], "each once");
    for other in [&alice, &bob, &mallory] {
        other.receive(&commit).unwrap();
    }
    tablet.receive(&alice.say(&id, "to both")).unwrap();
    assert_eq!(tablet.texts(), ["to both"]);
    // A commit of another comes after all that was said in the place that it left.
    let update = alice.stage(&id, &Change::Update);
    alice.confirm(&id);
    tablet.receive(&update.message).unwrap();
    let _ = tablet.receive(&said[2]);
    assert!(tablet.texts().is_empty(), "the keys are gone");
}

#[test]
fn nobody_comes_in_as_another_users_device() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let mut groups = mallory.store.read(handover).unwrap();
    let bobs = bob.store.read(handover).unwrap();
    groups[0].pseudonym = bobs[0].pseudonym;
    let ghost = device_of(&bob, &issuer);
    ghost.store.write(|tx| take_over(tx, &groups)).unwrap();
    ghost
        .store
        .write(|tx| {
            let entry = entry(tx, &id)?.unwrap();
            GroupState::enter(tx, &entry, &mallory.shown(&id), &Differences::default())
        })
        .unwrap();
    let commit = ghost.outstanding(&id).unwrap().message;
    assert!(alice.receive(&commit).unwrap_err().contains("vouched"));
}

#[test]
fn a_removed_device_of_ones_own_goes_with_the_key_that_it_knows() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let tablet = second_device(&bob, [&alice, &mallory], &id, &issuer);
    let known = tablet.store.read(handover).unwrap();
    let client_key = tablet.account().client_key().public_key();
    bob.store.write(|tx| crate::group::remove_own_device(tx, &client_key)).unwrap();
    let change = bob.store.read(|tx| crate::group::evict(tx, &GroupState::load(tx, &id)?)).unwrap();
    let removal = bob.stage(&id, &change.expect("it is in the group"));
    bob.confirm(&id);
    for other in [&alice, &mallory, &tablet] {
        other.receive(&removal.message).unwrap();
    }
    assert!(tablet.events().iter().any(|event| matches!(event, Event::Left { .. })));
    assert_eq!(alice.members(&id).len(), 3);
    let change = bob.store.read(|tx| crate::group::evict(tx, &GroupState::load(tx, &id)?)).unwrap();
    assert!(change.is_none(), "once");
    // The secrets that the device knows let nobody in any more.
    let ghost = device_of(&bob, &issuer);
    ghost.store.write(|tx| take_over(tx, &known)).unwrap();
    ghost
        .store
        .write(|tx| {
            let entry = entry(tx, &id)?.unwrap();
            GroupState::enter(tx, &entry, &alice.shown(&id), &Differences::default())
        })
        .unwrap();
    assert!(alice.receive(&ghost.outstanding(&id).unwrap().message).unwrap_err().contains("vouched"));
    // And what Bob's other devices are told does.
    let phone = device_of(&bob, &issuer);
    let entry = bring_in(&phone, &bob, &id, &alice.shown(&id));
    for other in [&alice, &bob, &mallory] {
        other.receive(&entry).unwrap();
    }
}

#[test]
fn a_removed_device_that_took_the_latest_of_the_users_keys_goes_nevertheless() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let tablet = second_device(&bob, [&alice, &mallory], &id, &issuer);
    let latest = UserKey::latest_generation(tablet.epoch(&id) + 1);
    let takes = |device: &Person, generation| {
        device.commit_freely(&id, |_, group| {
            let key = UserKey { generation, public_key: SigningKey::generate().public_key() };
            let extensions = leaf::extensions(&own_leaf(group).delivery.unwrap(), &key).unwrap();
            let leaf_node = LeafNodeParameters::builder().with_extensions(extensions).build();
            Free { leaf_node, ..Free::default() }
        })
    };
    let refused = alice.receive(&takes(&tablet.copy(), latest + 1)).unwrap_err();
    assert!(refused.contains("numbers"), "{refused}");
    let taken = takes(&tablet, latest);
    for other in [&alice, &bob, &mallory] {
        other.receive(&taken).unwrap();
    }
    let client_key = tablet.account().client_key().public_key();
    bob.store.write(|tx| crate::group::remove_own_device(tx, &client_key)).unwrap();
    let change = bob.store.read(|tx| crate::group::evict(tx, &GroupState::load(tx, &id)?)).unwrap();
    let removal = bob.stage(&id, &change.expect("it is in the group"));
    bob.confirm(&id);
    for other in [&alice, &mallory, &tablet] {
        other.receive(&removal.message).unwrap();
    }
    assert_eq!(alice.members(&id).len(), 3);
    let key = bob.store.read(|tx| Ok(own_leaf(&GroupState::load(tx, &id)?).user_key)).unwrap();
    assert_eq!(key.unwrap().generation, latest + 1);
}

#[test]
fn a_removed_device_in_a_place_of_its_own_goes_with_all_that_it_brought_in() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let tablet = device_apart(&alice, &alice, [&bob, &mallory], &id, &issuer);
    // The others are not told who this is.
    let ghost = device_of(&alice, &issuer);
    let entry = bring_in(&ghost, &tablet, &id, &tablet.shown(&id));
    for other in [&alice, &bob, &mallory, &tablet] {
        other.receive(&entry).unwrap();
    }
    // One says that it is another user's.
    let accomplice = person("thief", &issuer);
    let entry = bring_in(&accomplice, &tablet, &id, &tablet.shown(&id));
    for other in [&alice, &bob, &mallory, &tablet] {
        other.receive(&entry).unwrap();
    }
    alice.receive(&accomplice.send(&id)).unwrap();
    alice.knows(&[&accomplice]);
    let (leaf_key, user) = (accomplice.leaf(&id), Some(&accomplice.user));
    let is_known = |member: &Member| member.leaf_key == leaf_key && member.user.as_ref() == user;
    assert!(alice.members(&id).iter().any(is_known));
    let client_key = tablet.account().client_key().public_key();
    alice.store.write(|tx| crate::group::remove_own_device(tx, &client_key)).unwrap();
    let change = alice.store.read(|tx| crate::group::evict(tx, &GroupState::load(tx, &id)?)).unwrap();
    let Some(Change::Remove(leaves)) = &change else { panic!("{change:?}") };
    let mut leaves = leaves.clone();
    let mut all = [&tablet, &ghost, &accomplice].map(|device| device.leaf(&id));
    leaves.sort();
    all.sort();
    assert_eq!(leaves, all);
    let removal = alice.stage(&id, &change.unwrap());
    alice.confirm(&id);
    for other in [&bob, &mallory] {
        other.receive(&removal.message).unwrap();
        assert_eq!(other.members(&id).len(), 3);
    }
}

#[test]
fn of_the_places_of_a_users_devices_apart_only_these_are_counted() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let tablet = device_apart(&bob, &alice, [&bob, &mallory], &id, &issuer);
    bob.receive(&tablet.say(&id, "here")).unwrap();
    // Somebody else's device comes into its place, and says whose it is; one more says nothing.
    let (guest, ghost) = (person("guest", &issuer), person("ghost", &issuer));
    let mut members = vec![&alice, &bob, &mallory, &tablet];
    for newcomer in [&guest, &ghost] {
        let entry = bring_in(newcomer, &tablet, &id, &tablet.shown(&id));
        members.iter().for_each(|member| member.receive(&entry).unwrap());
        members.push(newcomer);
    }
    bob.receive(&guest.send(&id)).unwrap();
    let own = [&bob, &tablet].map(|device| device.account().client_key().public_key());
    let apart = || bob.store.read(|tx| GroupState::load(tx, &id)?.apart_of(tx, &own)).unwrap();
    assert_eq!(apart(), 1, "the tablet");

    tablet.store.write(|tx| GroupState::load(tx, &id)?.stage_leaving(tx)).unwrap();
    let leaving = tablet.outstanding(&id).unwrap().message;
    alice.receive(&leaving).unwrap();
    let commit = alice.stage(&id, &Change::Update).message;
    for message in [&leaving, &commit] {
        bob.receive(message).unwrap();
    }
    assert_eq!(apart(), 0, "nobody of his stays");
}

/// A device that came in later than another of its user's went does not know of the keys that one had.
#[test]
fn after_a_refused_eviction_the_users_next_key_is_later_than_any_that_there_was() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let tablet = second_device(&bob, [&alice, &mallory], &id, &issuer);
    let client_key = tablet.account().client_key().public_key();
    bob.store.write(|tx| crate::group::remove_own_device(tx, &client_key)).unwrap();
    let due = || bob.store.read(crate::group::evictions).unwrap();
    assert_eq!(due(), std::slice::from_ref(&id));
    let next = |since: u64| bob.store.read(|tx| crate::group::next_eviction(tx, since)).unwrap();
    assert_eq!(next(0), Some(Duration::ZERO), "it was due all the time");
    assert_eq!(next(1), None, "it was tried meanwhile");
    let refusal: Error = Problem::from(ProblemType::PolicyViolation).into();
    let fails = |error: &Error| bob.store.write(|tx| crate::group::eviction_failed(tx, &id, error)).unwrap();
    let told = || bob.events().iter().filter(|event| matches!(event, Event::NotShutOut { .. })).count();
    fails(&Error::Contended(8));
    fails(&refusal);
    assert_eq!(told(), 0, "it may have been of what this device could not know");
    fails(&refusal);
    assert_eq!(told(), 1);
    fails(&refusal);
    assert_eq!(told(), 0, "once");
    assert!(due().is_empty(), "it is tried again, later");
    assert!(bob.store.read(|tx| crate::group::next_eviction(tx, tx.now())).unwrap().is_some());
    bob.store.write(|tx| crate::group::evicted(tx, &id)).unwrap();
    assert!(
        bob.store.read(|tx| crate::group::next_eviction(tx, tx.now())).unwrap().is_some(),
        "it is in the group yet"
    );

    let change = bob.store.read(|tx| crate::group::evict(tx, &GroupState::load(tx, &id)?)).unwrap();
    let removal = bob.stage(&id, &change.expect("it is in the group"));
    bob.confirm(&id);
    for other in [&alice, &mallory, &tablet] {
        other.receive(&removal.message).unwrap();
    }
    let key = bob.store.read(|tx| Ok(own_leaf(&GroupState::load(tx, &id)?).user_key)).unwrap();
    assert_eq!(key.unwrap().generation, UserKey::latest_generation(bob.epoch(&id)));
    bob.store.write(|tx| crate::group::evicted(tx, &id)).unwrap();
    assert_eq!(bob.store.read(|tx| crate::group::next_eviction(tx, tx.now())).unwrap(), None);
    assert!(due().is_empty());
}

/// A device goes on committing in the group from which it is to be removed.
#[test]
fn others_commits_put_an_eviction_off_by_minutes_and_not_unheard() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let tablet = second_device(&bob, [&alice, &mallory], &id, &issuer);
    let client_key = tablet.account().client_key().public_key();
    bob.store.write(|tx| crate::group::remove_own_device(tx, &client_key)).unwrap();
    let fails = |error: &Error| bob.store.write(|tx| crate::group::eviction_failed(tx, &id, error)).unwrap();
    let told = || bob.events().iter().filter(|event| matches!(event, Event::NotShutOut { .. })).count();
    let pause = || {
        bob.store
            .read(|tx| crate::group::next_eviction(tx, tx.now()))
            .unwrap()
            .expect("it is tried again")
            .as_secs()
    };
    for _ in 0..3 {
        fails(&Error::Contended(8));
    }
    assert_eq!(told(), 0, "it may be over soon");
    fails(&Error::Contended(8));
    assert_eq!(told(), 1);
    for _ in 0..20 {
        fails(&Error::Contended(8));
        assert!(pause() <= 300);
    }
    // The server refuses something else than the user's new key.
    let not_allowed: Error = Problem::from(ProblemType::NotAllowed).into();
    fails(&not_allowed);
    assert!(pause() <= 300, "contention makes no other pause longer, either");
    assert_eq!(told(), 0, "once");

    let key = || bob.store.read(|tx| Ok(own_leaf(&GroupState::load(tx, &id)?).user_key)).unwrap().unwrap();
    let known = key().generation;
    let change = bob.store.read(|tx| crate::group::evict(tx, &GroupState::load(tx, &id)?)).unwrap();
    let removal = bob.stage(&id, &change.expect("it is in the group"));
    bob.confirm(&id);
    for other in [&alice, &mallory, &tablet] {
        other.receive(&removal.message).unwrap();
    }
    assert_eq!(key().generation, known + 1);
}

/// A device is removed while the removal of another one fails since long.
#[test]
fn of_each_removed_device_that_is_not_shut_out_the_user_is_told_once() {
    let issuer = SigningKey::generate();
    let ([_, bob, _], id) = three(&issuer);
    let removes = || {
        let client_key = device_of(&bob, &issuer).account().client_key().public_key();
        bob.store.write(|tx| crate::group::remove_own_device(tx, &client_key)).unwrap();
    };
    let fails = |error: &Error| bob.store.write(|tx| crate::group::eviction_failed(tx, &id, error)).unwrap();
    let told = || bob.events().iter().filter(|event| matches!(event, Event::NotShutOut { .. })).count();
    let (contended, refusal): (Error, Error) =
        (Error::Contended(8), Problem::from(ProblemType::PolicyViolation).into());
    for (error, times) in [(&contended, 4), (&contended, 4), (&refusal, 2)] {
        removes();
        assert_eq!(bob.store.read(crate::group::evictions).unwrap(), std::slice::from_ref(&id), "at once");
        for _ in 1..times {
            fails(error);
        }
        assert_eq!(told(), 0, "of the one before it was told");
        fails(error);
        assert_eq!(told(), 1, "of this one");
        fails(error);
        assert_eq!(told(), 0, "once");
    }
}

#[test]
fn what_a_removed_device_was_told_lets_nobody_in_though_it_never_came() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let known = bob.store.read(handover).unwrap();
    let tablet = device_of(&bob, &issuer).account().client_key().public_key();
    bob.store.write(|tx| crate::group::remove_own_device(tx, &tablet)).unwrap();
    let evict = || bob.store.read(|tx| crate::group::evict(tx, &GroupState::load(tx, &id)?)).unwrap();
    let change = evict().expect("it may know the key");
    assert!(matches!(change, Change::UserKey), "{change:?}");
    let commit = bob.stage(&id, &change);
    bob.confirm(&id);
    assert!(evict().is_none(), "once");
    for other in [&alice, &mallory] {
        other.receive(&commit.message).unwrap();
    }
    let ghost = device_of(&bob, &issuer);
    ghost.store.write(|tx| take_over(tx, &known)).unwrap();
    ghost
        .store
        .write(|tx| {
            GroupState::enter(tx, &entry(tx, &id)?.unwrap(), &alice.shown(&id), &Differences::default())
        })
        .unwrap();
    assert!(alice.receive(&ghost.outstanding(&id).unwrap().message).unwrap_err().contains("vouched"));
}

#[test]
fn another_device_takes_the_users_new_key_into_its_leaf_soon() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let laptop = second_device(&bob, [&alice, &mallory], &id, &issuer);
    let at_once = Options { commit_within: Duration::ZERO, ..Options::default() };
    let is_due = || laptop.store.read(|tx| Ok(crate::group::due(tx, &at_once)?.contains(&id))).unwrap();
    let key = |of: &Person| of.store.read(|tx| Ok(own_leaf(&GroupState::load(tx, &id)?).user_key)).unwrap();
    for told_before in [false, true] {
        let commit = bob.stage(&id, &Change::UserKey);
        bob.confirm(&id);
        assert_ne!(key(&laptop), key(&bob));
        let told = bob.store.read(handover).unwrap();
        if told_before {
            laptop.store.write(|tx| take_over(tx, &told)).unwrap();
        }
        assert!(!is_due(), "it does not know the key, or not of the commit");
        for other in [&alice, &mallory, &laptop] {
            other.receive(&commit.message).unwrap();
        }
        if !told_before {
            assert!(!is_due(), "it does not know the key");
            laptop.store.write(|tx| take_over(tx, &told)).unwrap();
        }
        assert!(is_due());
        let update = laptop.stage(&id, &Change::Update);
        laptop.confirm(&id);
        for other in [&alice, &bob, &mallory] {
            other.receive(&update.message).unwrap();
        }
        assert_eq!(key(&laptop), key(&bob));
        assert!(!is_due());
    }
}

#[test]
fn a_user_whose_newest_key_went_with_its_leaf_gets_another_and_none_that_it_had() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let laptop = second_device(&bob, [&alice, &mallory], &id, &issuer);
    let known = bob.store.read(handover).unwrap();
    let at_once = Options { commit_within: Duration::ZERO, ..Options::default() };
    let is_due = || laptop.store.read(|tx| Ok(crate::group::due(tx, &at_once)?.contains(&id))).unwrap();
    let renewal = bob.stage(&id, &Change::UserKey);
    bob.confirm(&id);
    for other in [&alice, &mallory, &laptop] {
        other.receive(&renewal.message).unwrap();
    }
    assert!(!is_due(), "it does not know the key");
    // Bob's first device goes alone, before the laptop is told.
    bob.store.write(|tx| GroupState::load(tx, &id)?.stage_leaving(tx)).unwrap();
    let departure = bob.outstanding(&id).unwrap().message;
    for other in [&alice, &mallory, &laptop] {
        other.receive(&departure).unwrap();
    }
    let commit = alice.stage(&id, &Change::Update);
    alice.confirm(&id);
    for other in [&mallory, &laptop] {
        other.receive(&commit.message).unwrap();
    }
    assert!(is_due());
    let update = laptop.stage(&id, &Change::Update);
    laptop.confirm(&id);
    for other in [&alice, &mallory] {
        other.receive(&update.message).unwrap();
    }
    let key = laptop.store.read(|tx| Ok(own_leaf(&GroupState::load(tx, &id)?).user_key)).unwrap();
    assert_eq!(key.unwrap().generation, 2, "after both that Bob had");
    assert!(!is_due(), "once");
    let ghost = device_of(&bob, &issuer);
    ghost.store.write(|tx| take_over(tx, &known)).unwrap();
    ghost
        .store
        .write(|tx| {
            GroupState::enter(tx, &entry(tx, &id)?.unwrap(), &alice.shown(&id), &Differences::default())
        })
        .unwrap();
    assert!(alice.receive(&ghost.outstanding(&id).unwrap().message).unwrap_err().contains("vouched"));
}

#[test]
fn who_comes_back_brings_no_older_user_key_than_its_leaf_has() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let key = |of: &Person| of.store.read(|tx| Ok(own_leaf(&GroupState::load(tx, &id)?).user_key)).unwrap();
    let earlier = bob.copy();
    let commit = bob.stage(&id, &Change::UserKey);
    let unanswered = bob.copy();
    bob.confirm(&id);
    for (device, generation) in [(&unanswered, 1), (&earlier, 2)] {
        let others = [alice.copy(), mallory.copy()];
        for other in &others {
            other.receive(&commit.message).unwrap();
        }
        let back = device.rejoin(&id, &others[0].shown(&id), &Differences::default()).unwrap();
        for other in &others {
            other.receive(&back).unwrap();
        }
        assert_eq!(key(device).unwrap().generation, generation);
    }
    assert_eq!(key(&unanswered), key(&bob), "it has the private half");
}

/// The identity of a device's user has these other devices, too.
pub(super) fn keep_own_devices(device: &Person, others: &[&Person]) {
    let keep = |tx: &Tx<'_>| {
        let mut account = Account::load(tx)?;
        let key = account.client_key();
        let (signer, credential) = (LeafSigner(&key), |key| mls::credential(b"device".to_vec(), key));
        let builder = MlsGroup::builder().ciphersuite(CIPHERSUITE);
        let mut identity = builder.build(tx, &signer, credential(key.public_key())).unwrap();
        for other in others {
            let key = other.account().client_key();
            let package = KeyPackage::builder()
                .build(CIPHERSUITE, tx, &LeafSigner(&key), credential(key.public_key()))
                .unwrap();
            identity.add_members(tx, &signer, std::slice::from_ref(package.key_package())).unwrap();
            identity.merge_pending_commit(tx).unwrap();
        }
        account.eid_group_id = Some(identity.group_id().as_slice().to_vec());
        account.save(tx)
    };
    device.store.write(keep).unwrap();
}

#[test]
fn who_comes_back_with_another_user_key_tells_it_to_the_users_other_devices() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let laptop = second_device(&bob, [&alice, &mallory], &id, &issuer);
    bob.receive(&laptop.send(&id)).unwrap();
    keep_own_devices(&bob, &[&laptop]);
    let client_key = laptop.account().client_key().public_key();
    bob.store.write(|tx| crate::group::told(tx, &id, &client_key)).unwrap();
    let to_tell = |device: &Person| device.store.read(crate::group::to_tell).unwrap();

    // With the same key there is nothing to tell.
    let back = bob.rejoin(&id, &alice.shown(&id), &Differences::default()).unwrap();
    for other in [&alice, &mallory, &laptop] {
        other.receive(&back).unwrap();
    }
    assert!(to_tell(&bob).is_empty());
    // The device's state is an earlier one, from before it made a key.
    let earlier = bob.copy();
    let commit = bob.stage(&id, &Change::UserKey).message;
    bob.confirm(&id);
    for other in [&alice, &mallory, &laptop] {
        other.receive(&commit).unwrap();
    }
    let back = earlier.rejoin(&id, &alice.shown(&id), &Differences::default()).unwrap();
    laptop.receive(&back).unwrap();
    assert!(laptop.store.read(handover).unwrap().is_empty(), "it does not know the key");
    let found = to_tell(&earlier);
    let [(told, group)] = &found[..] else { panic!("{} devices are to be told", found.len()) };
    assert_eq!(*told, client_key);
    laptop.store.write(|tx| take_over(tx, std::slice::from_ref(group))).unwrap();
    let handed_over = laptop.store.read(handover).unwrap().remove(0);
    let key = earlier.store.read(|tx| Ok(own_leaf(&GroupState::load(tx, &id)?).user_key)).unwrap();
    assert_eq!(Some(handed_over.public_user_key()), key);
}

#[test]
fn who_comes_back_alone_in_its_place_tells_the_key_to_devices_on_their_way() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let tablet = device_of(&bob, &issuer);
    keep_own_devices(&bob, &[&tablet]);
    let client_key = tablet.account().client_key().public_key();
    bob.store.write(|tx| crate::group::told(tx, &id, &client_key)).unwrap();
    let earlier = bob.copy();
    let commit = bob.stage(&id, &Change::UserKey).message;
    bob.confirm(&id);
    for other in [&alice, &mallory] {
        other.receive(&commit).unwrap();
    }
    assert!(
        earlier.store.read(crate::group::to_tell).unwrap().is_empty(),
        "it was told of the key of before"
    );
    let back = earlier.rejoin(&id, &alice.shown(&id), &Differences::default()).unwrap();
    alice.receive(&back).unwrap();
    let found = earlier.store.read(crate::group::to_tell).unwrap();
    let [(told, group)] = &found[..] else { panic!("{} devices are to be told", found.len()) };
    assert_eq!(*told, client_key);
    tablet.store.write(|tx| take_over(tx, std::slice::from_ref(group))).unwrap();
    tablet
        .store
        .write(|tx| {
            GroupState::enter(tx, &entry(tx, &id)?.unwrap(), &alice.shown(&id), &Differences::default())
        })
        .unwrap();
    alice.receive(&tablet.outstanding(&id).unwrap().message).unwrap();
}

#[test]
fn who_comes_back_makes_another_user_key_where_the_one_that_it_knows_does_not_fit() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let laptop = second_device(&bob, [&alice, &mallory], &id, &issuer);
    let key = |of: &Person| of.store.read(|tx| Ok(own_leaf(&GroupState::load(tx, &id)?).user_key)).unwrap();
    let comes_back = |device: &Person, members: &[&Person]| {
        let back = device.rejoin(&id, &members[0].shown(&id), &Differences::default()).unwrap();
        for member in members {
            member.receive(&back).unwrap();
        }
        key(device).unwrap()
    };

    // The server lost the epoch in which it made a key, and another device of its user's made one of that generation.
    let device = bob.copy();
    device.stage(&id, &Change::UserKey);
    device.confirm(&id);
    let lost = key(&device).unwrap();
    let [others_alice, others_mallory, others_laptop] = [&alice, &mallory, &laptop].map(Person::copy);
    let commit = others_laptop.stage(&id, &Change::UserKey);
    others_laptop.confirm(&id);
    for other in [&others_alice, &others_mallory] {
        other.receive(&commit.message).unwrap();
    }
    let taken = key(&others_laptop).unwrap();
    assert_eq!(lost.generation, taken.generation);
    let brought = comes_back(&device, &[&others_alice, &others_mallory, &others_laptop]);
    assert_eq!(brought.generation, taken.generation + 1);

    // The server lost epochs in which its key was the latest that there could be.
    let device = bob.copy();
    device.stage(&id, &Change::Update);
    device.confirm(&id);
    device.commit_freely(&id, |tx, group| {
        let latest = UserKey::latest_generation(group.epoch() + 1);
        let (key, delivery) = (leaf::new_user_key(tx, latest).unwrap(), own_leaf(group).delivery.unwrap());
        let extensions = leaf::extensions(&delivery, &key).unwrap();
        Free {
            leaf_node: LeafNodeParameters::builder().with_extensions(extensions).build(),
            ..Free::default()
        }
    });
    // With this it notes the generation.
    device.stage(&id, &Change::Update);
    device.confirm(&id);
    let latest = UserKey::latest_generation(alice.epoch(&id) + 1);
    assert!(key(&device).unwrap().generation > latest);
    assert_eq!(comes_back(&device, &[&alice, &mallory, &laptop]).generation, latest);
}

#[test]
fn a_device_that_could_not_be_told_of_a_group_does_not_wait_for_a_clock_that_was_ahead() {
    let issuer = SigningKey::generate();
    let ([_, bob, _], id) = three(&issuer);
    let tablet = device_of(&bob, &issuer);
    keep_own_devices(&bob, &[&tablet]);
    let client_key = tablet.account().client_key().public_key();
    let is_due = || !bob.store.read(crate::group::to_tell).unwrap().is_empty();
    let is_put_off = || {
        bob.store.write(|tx| crate::group::not_told(tx, &id, &client_key)).unwrap();
        !is_due()
    };
    let clock_was_ahead = || {
        let sql = "UPDATE told_devices SET due = due + 20 * 86400";
        bob.store.write(|tx| Ok(tx.sql().execute(sql, [])?)).unwrap();
    };
    assert!(is_due() && is_put_off(), "it is not set up yet");
    clock_was_ahead();
    assert!(is_due());
    assert!(is_put_off(), "a pause is one");
    bob.store.write(|tx| crate::group::retell(tx, &id, &[client_key])).unwrap();
    assert!(is_due() && is_put_off(), "of the user's key");
    clock_was_ahead();
    assert!(is_due());
}
