//! Letters that come again, of another time, or not at all: a device asks its user's others for what it missed.

use postern_client::{Client, Clock, Event, Options};
use postern_protocol::name::UserName;
use postern_tests_kit::World;

use super::{answers, asks, contact, is_ignored, letters, send_again, shy, shy_person, sync, until, with};

#[tokio::test]
async fn letters_that_a_server_sends_again_change_nothing() {
    let world = World::builder().tokens(20).start().await;
    let [alice, carol] = [shy_person(&world, "alice").await, shy_person(&world, "carol").await];
    let phone = world.person("bob").await;
    let tablet = with(world.device(&phone, "tablet").await, shy());
    for friend in [&alice, &carol] {
        friend.ask_contact(phone.user()).await.unwrap();
        until(&phone, |event| matches!(event, Event::ContactRequested { accepted: true, .. })).await;
        until(friend, answers(phone.user())).await;
    }
    sync(&tablet).await;
    let before = letters(&tablet).len();
    phone.block_user(alice.user()).await.unwrap();
    sync(&tablet).await;
    let old_secrets = letters(&tablet)[before..].to_vec();
    let old_renewal = {
        sync(&carol).await;
        letters(&carol).pop().expect("Carol was told another token")
    };
    phone.unblock_user(alice.user()).await.unwrap();
    phone.block_user(carol.user()).await.unwrap();
    phone.unblock_user(carol.user()).await.unwrap();
    carol.ask_contact(phone.user()).await.unwrap();
    until(&phone, |event| matches!(event, Event::ContactRequested { accepted: true, .. })).await;
    until(&carol, answers(phone.user())).await;
    sync(&tablet).await;
    assert!(!contact(&tablet, alice.user()).is_some_and(|alice| alice.blocked));

    assert!(!old_secrets.is_empty());
    for letter in &old_secrets {
        send_again(&world, &tablet, letter).await;
    }
    let events = sync(&tablet).await;
    assert!(is_ignored(&events, "came again"), "{events:?}");
    assert!(!contact(&tablet, alice.user()).is_some_and(|alice| alice.blocked), "no list goes back");
    send_again(&world, &carol, &old_renewal).await;
    let events = sync(&carol).await;
    assert!(is_ignored(&events, "came again"), "{events:?}");
    let invited = carol.create_group("later").await.unwrap().invite(phone.user()).await.unwrap();
    assert_eq!((invited.members, invited.waiting), (2, 0), "she has the token of now");
    world.close();
}

#[tokio::test]
async fn letters_of_another_time_are_refused() {
    let world = World::builder().start().await;
    let alice = shy_person(&world, "alice").await;
    const DAY: i64 = 24 * 60 * 60;
    for (name, ahead, why) in [("early", -2 * 60 * 60, "of the future"), ("late", 63 * DAY, "too old")] {
        let bob = with(world.person(name).await, Options { clock: Clock::ahead_by(ahead), ..shy() });
        alice.ask_contact(bob.user()).await.unwrap();
        let events = sync(&bob).await;
        assert!(is_ignored(&events, why), "{name}: {events:?}");
        assert!(bob.contact_requests().unwrap().is_empty());
    }
    world.close();
}

/// A device whose letters are gone: they waited in its mailbox for too long, or it lost the mailbox itself.
async fn misses_letters(gone: &str) {
    let world = World::builder().start().await;
    let [alice, carol] = [shy_person(&world, "alice").await, shy_person(&world, "carol").await];
    let laptop = shy_person(&world, "bob").await;
    let before = "CREATE TABLE others AS SELECT queue_id FROM qs.queues";
    world.admin.batch_execute(before).await.unwrap();
    let phone = with(world.device(&laptop, "phone").await, shy());
    for device in [&laptop, &phone] {
        sync(device).await;
    }
    laptop.ask_contact(alice.user()).await.unwrap();
    until(&alice, asks(laptop.user())).await;
    alice.accept_contact(laptop.user()).await.unwrap();
    until(&laptop, answers(alice.user())).await;
    laptop.block_user(carol.user()).await.unwrap();
    let group = laptop.create_group("climbing").await.unwrap().id().clone();
    sync(&laptop).await;
    world.admin.batch_execute(gone).await.unwrap();
    let told = sync(&phone).await;
    let noticed = |event: &Event| matches!(event, Event::Expired { .. } | Event::MailboxReplaced { .. });
    assert!(told.iter().any(noticed), "{told:?}");
    assert!(contact(&phone, alice.user()).is_none() && contact(&phone, carol.user()).is_none());

    sync(&laptop).await;
    let joined = |event: &Event| matches!(event, Event::Joined { group: found } if *found == group);
    until(&phone, joined).await;
    assert!(contact(&phone, carol.user()).unwrap().blocked);
    phone.look_up(alice.user()).await.unwrap();
    assert!(contact(&phone, alice.user()).expect("they agreed").may_be_added);
    let invited = phone.group_with_id(&group).invite(alice.user()).await.unwrap();
    assert_eq!((invited.members, invited.waiting), (1, 0), "the phone may add her");
    world.close();
}

const OF_THE_PHONE: &str = "queue_id NOT IN (SELECT queue_id FROM others)";

#[tokio::test]
async fn a_device_whose_letters_expired_asks_its_users_others_what_they_share() {
    misses_letters(&format!(
        "UPDATE qs.messages SET enqueued = enqueued - 100 WHERE {OF_THE_PHONE};
         UPDATE qs.sweep SET day = 'epoch', position = NULL;
         SELECT qs.keep_up()"
    ))
    .await;
}

#[tokio::test]
async fn a_device_whose_mailboxes_are_gone_makes_others_and_asks_what_it_missed() {
    misses_letters(&format!("SELECT operator.drop_queue(queue_id) FROM qs.queues WHERE {OF_THE_PHONE}"))
        .await;
}

/// Bob's laptop and phone, which know each other, and Carol.
async fn two_devices(world: &World) -> (Client, Client, Client) {
    let carol = shy_person(world, "carol").await;
    let laptop = shy_person(world, "bob").await;
    let phone = with(world.device(&laptop, "phone").await, shy());
    for _ in 0..2 {
        for device in [&laptop, &phone] {
            sync(device).await;
        }
    }
    (laptop, phone, carol)
}

/// Whether a device blocks a user.
fn blocks(device: &Client, user: &UserName) -> bool {
    contact(device, user).is_some_and(|contact| contact.blocked)
}

#[tokio::test]
async fn a_device_for_whose_letters_there_was_no_room_asks_its_users_others_what_they_share() {
    let world = World::builder().start().await;
    let (laptop, phone, carol) = two_devices(&world).await;
    world.admin.batch_execute("UPDATE qs.settings SET contact_queue_depth = 1").await.unwrap();
    laptop.create_group("fills the queue").await.unwrap();
    sync(&laptop).await;
    laptop.block_user(carol.user()).await.unwrap();
    sync(&laptop).await;
    world.admin.batch_execute("UPDATE qs.settings SET contact_queue_depth = 1000").await.unwrap();
    laptop.create_group("shows that something is missing").await.unwrap();
    sync(&laptop).await;
    let told = sync(&phone).await;
    assert!(told.iter().any(|event| matches!(event, Event::Lost { .. })), "{told:?}");
    assert!(!blocks(&phone, carol.user()), "the letter is lost");
    for device in [&laptop, &phone] {
        sync(device).await;
    }
    assert!(blocks(&phone, carol.user()));
    world.close();
}

#[tokio::test]
async fn a_device_that_was_not_shown_for_a_while_asks_its_users_others_what_they_share() {
    let world = World::builder().start().await;
    let (laptop, phone, carol) = two_devices(&world).await;
    // It was silent for long: nobody can write to it (AS-9).
    let sql = "UPDATE auth.clients SET heard = heard - 4 WHERE client_key = $1";
    world.admin.execute(sql, &[&phone.client_key().as_bytes().as_slice()]).await.unwrap();
    world.value::<bool>("SELECT auth.expire()").await;
    laptop.block_user(carol.user()).await.unwrap();
    sync(&laptop).await;
    sync(&phone).await;
    assert!(!blocks(&phone, carol.user()), "no letter was written to it");
    phone.forget_the_upkeep().unwrap();
    for device in [&phone, &laptop, &phone] {
        sync(device).await;
    }
    assert!(blocks(&phone, carol.user()));
    world.close();
}
