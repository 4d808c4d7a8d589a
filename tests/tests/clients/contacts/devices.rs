//! The devices of a user: all of them know what was decided on one, and one that was removed is nothing to contacts (AS-13).

use std::{collections::BTreeSet, time::Duration};

use postern_client::{Event, Farewell};
use postern_protocol::{PublicKey, problem::ProblemType, second_proof::RecoveryKey};
use postern_tests_kit::{World, befriend};

use super::{
    answers, asks, contact, is_about_contacts, is_ignored, letters, send_again, shy, shy_person, sync, until,
    with,
};

#[tokio::test]
async fn a_user_is_blocked_and_unblocked_on_all_devices_and_gets_nothing_back_by_that() {
    let world = World::builder().start().await;
    let alice = shy_person(&world, "alice").await;
    let phone = shy_person(&world, "bob").await;
    let tablet = with(world.device(&phone, "tablet").await, shy());
    alice.ask_contact(phone.user()).await.unwrap();
    until(&tablet, asks(alice.user())).await;
    sync(&phone).await;
    tablet.accept_contact(alice.user()).await.unwrap();
    until(&alice, answers(phone.user())).await;
    sync(&phone).await;
    assert!(phone.contact_requests().unwrap().is_empty(), "the phone knows what was decided on the tablet");
    assert!(contact(&phone, alice.user()).unwrap().may_add);

    phone.block_user(alice.user()).await.unwrap();
    sync(&tablet).await;
    for device in [&phone, &tablet] {
        let alice = contact(device, alice.user()).unwrap();
        assert!(alice.blocked && !alice.may_add, "{alice:?}");
    }
    let group = alice.create_group("after").await.unwrap();
    assert_eq!(group.invite(phone.user()).await.unwrap().members, 0, "the token is worth nothing");
    for device in [&phone, &tablet] {
        assert!(!sync(device).await.iter().any(is_about_contacts), "what she asks vanishes");
        assert!(device.contact_requests().unwrap().is_empty());
    }

    tablet.unblock_user(alice.user()).await.unwrap();
    sync(&phone).await;
    for device in [&phone, &tablet] {
        assert!(!contact(device, alice.user()).is_some_and(|alice| alice.blocked || alice.may_add));
    }
    assert_eq!(group.invite(phone.user()).await.unwrap().members, 0, "she has nothing of him");
    for device in [&phone, &tablet] {
        until(device, asks(alice.user())).await;
    }
    phone.accept_contact(alice.user()).await.unwrap();
    until(&alice, |event| matches!(event, Event::Added { .. })).await;
    assert_eq!(group.members().unwrap().len(), 3, "both of his devices");
    world.close();
}

/// Owner keys and lookups of all friendships at the QS.
async fn friendships(world: &World) -> BTreeSet<Vec<u8>> {
    let rows = world.admin.query("SELECT owner_key, lookup FROM qs.friendships", &[]).await.unwrap();
    rows.iter().flat_map(|row| [row.get(0), row.get(1)]).collect()
}

#[tokio::test]
async fn a_removed_device_is_nothing_to_contacts_and_has_no_part_in_the_friendship() {
    let world = World::builder().tokens(20).start().await;
    let bob = world.person("bob").await;
    let phone = world.person("alice").await;
    let tablet = world.device(&phone, "tablet").await;
    let stolen = world.device(&phone, "stolen").await;
    befriend(&bob, &phone, bob.create_group("before").await.unwrap().id()).await;
    for device in [&tablet, &stolen] {
        sync(device).await;
    }
    let before = friendships(&world).await;

    phone.remove_device(&stolen.client_key()).await.unwrap();
    sync(&tablet).await;
    sync(&bob).await;
    let after = friendships(&world).await;
    assert_eq!(before.intersection(&after).count(), 2, "Bob's own; all of Alice's is new");
    let alices = "qs.stocks s JOIN qs.friendships f USING (friendship_id)
                  GROUP BY f.friendship_id HAVING count(*) = 2";
    assert_eq!(world.count(&format!("(SELECT FROM {alices}) two")).await, 1, "phone and tablet");

    // It goes on: it says that the friendship is another, asks, and publishes.
    let carol = shy_person(&world, "carol").await;
    let _ = stolen.block_user(&"nobody@example.org".parse().unwrap()).await;
    let _ = stolen.ask_contact(carol.user()).await;
    for _ in 0..2 {
        let _ = stolen.sync(Duration::ZERO).await;
    }
    let events = sync(&bob).await;
    assert!(is_ignored(&events, "not any more"), "the renewal of a device that is nobody's: {events:?}");
    for device in [&phone, &tablet] {
        sync(device).await;
        assert!(!device.contacts().unwrap().iter().any(|contact| contact.blocked), "it decides nothing");
    }
    let events = sync(&carol).await;
    assert!(
        !events.iter().any(|event| matches!(event, Event::ContactRequested { verified: true, .. })),
        "{events:?}"
    );
    assert!(carol.contact_requests().unwrap().is_empty());

    let group = bob.create_group("after").await.unwrap();
    let invited = group.invite(phone.user()).await.unwrap();
    assert_eq!((invited.members, invited.waiting), (2, 0), "phone and tablet");
    let members: BTreeSet<PublicKey> =
        group.members().unwrap().iter().filter_map(|member| member.client_key).collect();
    assert!(!members.contains(&stolen.client_key()));
    world.close();
}

#[tokio::test]
async fn a_removed_device_deletes_no_account_and_tells_nobody_that_it_ended() {
    let world = World::builder().tokens(20).start().await;
    let bob = world.person("bob").await;
    let phone = world.person("alice").await;
    let stolen = world.device(&phone, "stolen").await;
    befriend(&bob, &phone, bob.create_group("climbing").await.unwrap().id()).await;
    for device in [&stolen, &phone] {
        sync(device).await;
    }
    phone.ask_contact(bob.user()).await.unwrap();
    sync(&bob).await;
    sync(&phone).await;
    sync(&stolen).await;
    phone.remove_device(&stolen.client_key()).await.unwrap();

    let error = stolen.delete_account(&RecoveryKey::generate()).await.unwrap_err();
    assert_eq!(error.problem(), Some(ProblemType::NotAllowed));
    phone.look_up(phone.user()).await.expect("the account is there");
    for _ in 0..2 {
        let events = sync(&bob).await;
        assert!(
            !events
                .iter()
                .any(|event| matches!(event, Event::MemberGone { .. } | Event::ContactDeleted { .. })),
            "{events:?}"
        );
    }
    assert!(contact(&bob, phone.user()).is_some());
    world.close();
}

#[tokio::test]
async fn what_one_device_accepts_no_other_device_answers_to_a_removed_one() {
    let world = World::builder().tokens(20).start().await;
    let alice = shy_person(&world, "alice").await;
    let stolen = with(world.device(&alice, "stolen").await, shy());
    let phone = shy_person(&world, "bob").await;
    let tablet = with(world.device(&phone, "tablet").await, shy());
    for device in [&stolen, &alice] {
        device.ask_contact(phone.user()).await.unwrap();
    }
    for device in [&phone, &tablet] {
        until(device, asks(alice.user())).await;
    }
    alice.remove_device(&stolen.client_key()).await.unwrap();
    let _ = stolen.sync(Duration::ZERO).await;
    let before = letters(&stolen).len();

    tablet.accept_contact(alice.user()).await.unwrap();
    sync(&phone).await;
    assert!(contact(&phone, alice.user()).unwrap().may_add, "the phone knows what was decided");
    until(&alice, answers(phone.user())).await;
    let _ = stolen.sync(Duration::ZERO).await;
    assert_eq!(letters(&stolen).len(), before, "nobody writes to it");
    world.close();
}

#[tokio::test]
async fn the_letter_of_a_device_that_logged_out_removes_no_later_one_when_a_server_sends_it_again() {
    let world = World::builder().tokens(20).start().await;
    let phone = world.person("bob").await;
    let tablet = with(world.device(&phone, "tablet").await, shy());
    let old = world.device(&phone, "old").await;
    let others = [&phone, &tablet];
    for device in others {
        sync(device).await;
    }
    let before = others.map(|device| letters(device).len());
    assert_eq!(old.log_out().await.unwrap(), Farewell::Told { devices: 2 });
    for device in others {
        let events = sync(device).await;
        assert!(!is_ignored(&events, "not any more"), "one is faster, the other sees it: {events:?}");
        assert_eq!(device.devices().await.unwrap().len(), 2);
    }
    let said = [0, 1].map(|place| letters(others[place])[before[place]..].to_vec());

    let new = world.device(&phone, "new").await;
    for device in others {
        sync(device).await;
    }
    let found = phone.look_up(phone.user()).await.unwrap();
    assert_eq!(found.clients.len(), 3);
    for (device, said) in others.into_iter().zip(&said) {
        assert!(!said.is_empty());
        for letter in said {
            send_again(&world, device, letter).await;
        }
        let events = sync(device).await;
        assert!(is_ignored(&events, "came again"), "{events:?}");
    }
    assert_eq!(phone.look_up(phone.user()).await.unwrap().eid, found.eid, "nobody changed anything");
    assert!(phone.devices().await.unwrap().iter().any(|device| device.client_key == new.client_key()));
    world.close();
}

#[tokio::test]
async fn a_device_that_logs_out_is_removed_though_another_one_renamed_their_user_meanwhile() {
    for is_renamed_first in [true, false] {
        let world = World::builder().start().await;
        let mut phone = world.person("bob").await;
        let key = phone.recovery_key().unwrap().expect("it was not shown yet");
        let old = world.device(&phone, "old").await;
        sync(&phone).await;
        if is_renamed_first {
            phone = phone.rename("robert", &key).await.unwrap();
        }
        assert_eq!(old.log_out().await.unwrap(), Farewell::Told { devices: 1 });
        if !is_renamed_first {
            phone = phone.rename("robert", &key).await.unwrap();
        }
        let events = sync(&phone).await;
        assert_eq!(phone.devices().await.unwrap().len(), 1, "{events:?}");
        world.close();
    }
}

#[tokio::test]
async fn two_devices_that_log_out_at_once_are_both_removed_and_the_last_one_tells_nobody() {
    let world = World::builder().start().await;
    let phone = world.person("bob").await;
    let tablet = world.device(&phone, "tablet").await;
    let laptop = world.device(&phone, "laptop").await;
    // The tablet has no mailbox any more when the laptop writes.
    for (device, devices) in [(&tablet, 2), (&laptop, 1)] {
        assert_eq!(device.log_out().await.unwrap(), Farewell::Told { devices });
    }
    sync(&phone).await;
    assert_eq!(phone.devices().await.unwrap().len(), 1);
    assert_eq!(phone.log_out().await.unwrap(), Farewell::Last);
    world.close();
}

#[tokio::test]
async fn a_removed_device_logs_out_and_tells_nobody() {
    let world = World::builder().start().await;
    let phone = world.person("bob").await;
    let stolen = world.device(&phone, "stolen").await;
    phone.remove_device(&stolen.client_key()).await.unwrap();
    assert_eq!(stolen.log_out().await.unwrap(), Farewell::Removed);
    world.close();
}
