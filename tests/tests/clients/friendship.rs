//! Friends: users add each other to groups with KeyPackages that wait at the QS (QS-6), and keep
//! each other, groups and old devices out (QS-7). Real clients, a real server.

use std::collections::BTreeSet;

use postern_client::{Client, Event};
use postern_protocol::qs::QueueKind;
use postern_tests_kit::{PATIENCE, PushService, World, befriend, joined};

async fn sealed_last_resorts(world: &World) -> Vec<Vec<u8>> {
    let sql = "SELECT sealed FROM qs.key_packages WHERE last_resort";
    world.admin.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn one_answer_lets_all_devices_of_a_user_be_added_to_this_group_and_the_next() {
    let world = World::builder().pushing().start().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let tablet = world.device(&bob, "tablet").await;
    let group = alice.create_group("one").await.unwrap().id().clone();
    befriend(&alice, &bob, &group).await;
    assert_eq!(
        alice.group_with_id(&group).members().unwrap().len(),
        3,
        "the tablet is in it, too, and was not asked"
    );
    joined(&tablet, 1).await;

    // Neither of Bob's devices is online.
    let next = alice.create_group("two").await.unwrap().id().clone();
    let invited = alice.group_with_id(&next).invite(bob.user()).await.unwrap();
    assert_eq!((invited.members, invited.waiting), (2, 0));
    alice.group_with_id(&next).send("you are all in").await.unwrap();
    for device in [&bob, &tablet] {
        let events =
            device.sync_until(PATIENCE, |event| matches!(event, Event::Message { .. })).await.unwrap();
        let message = events.iter().find(|event| matches!(event, Event::Message { .. }));
        let Some(Event::Message { sender, text, .. }) = message else { panic!("{events:?}") };
        assert_eq!((sender.user.as_ref(), sender.verified), (Some(alice.user()), true));
        assert_eq!(text, "you are all in");
    }
    let names: Vec<_> =
        alice.group_with_id(&next).members().unwrap().into_iter().map(|member| member.verified).collect();
    assert_eq!(names, [true; 3], "who is behind each KeyPackage was attached to it");

    // Our own devices need not be asked at all: they come in by themselves, as the same user.
    let laptop = world.device(&alice, "laptop").await;
    let invited = alice.group_with_id(&next).invite(alice.user()).await.unwrap();
    assert_eq!((invited.members, invited.waiting), (0, 1));
    joined(&laptop, 2).await;
}

#[tokio::test]
async fn a_stock_that_runs_low_is_filled_again_and_an_empty_one_has_its_last_resort() {
    let world = World::builder().pushing().start().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let ordinary = "qs.key_packages WHERE NOT last_resort";
    assert_eq!(world.count(ordinary).await, 40, "both published");
    befriend(&alice, &bob, &alice.create_group("first").await.unwrap().id().clone()).await;
    assert_eq!(world.count(ordinary).await, 39);

    // Bob is away while all the rest of his stock goes, and then two more.
    world
        .admin
        .batch_execute(
            "DELETE FROM qs.key_packages k
              WHERE NOT k.last_resort
                AND NOT EXISTS (SELECT FROM qs.key_packages first
                                 WHERE first.friendship_id = k.friendship_id AND first.number = 1)",
        )
        .await
        .unwrap();
    assert_eq!(world.count(ordinary).await, 20, "Alice's");
    let before = sealed_last_resorts(&world).await;
    assert_eq!(before.len(), 2);
    for title in ["second", "third"] {
        let group = alice.create_group(title).await.unwrap().id().clone();
        let invited = alice.group_with_id(&group).invite(bob.user()).await.unwrap();
        assert_eq!((invited.members, invited.waiting), (1, 0), "by the last resort");
        alice.group_with_id(&group).send(title).await.unwrap();
    }
    let mut texts = Vec::new();
    while texts.len() < 2 {
        let events = bob.sync_until(PATIENCE, |event| matches!(event, Event::Message { .. })).await.unwrap();
        texts.extend(events.into_iter().filter_map(|event| match event {
            Event::Message { text, .. } => Some(text),
            _ => None,
        }));
    }
    assert_eq!(texts, ["second", "third"], "one address, and both groups reach him");

    // Bob takes part in both, under the same key and another one each after he renews it.
    for group in bob.groups().unwrap() {
        bob.group_with_id(&group.id).send("here").await.unwrap();
        bob.group_with_id(&group.id).update().await.unwrap();
        bob.group_with_id(&group.id).send("still here").await.unwrap();
    }
    let mut heard = 0;
    while heard < 6 {
        let events =
            alice.sync_until(PATIENCE, |event| matches!(event, Event::Message { .. })).await.unwrap();
        heard += events.iter().filter(|event| matches!(event, Event::Message { .. })).count();
    }

    // He published anew: the two groups' KeyPackage is not handed out to a third.
    assert_eq!(world.count(ordinary).await, 40);
    let after = sealed_last_resorts(&world).await;
    assert_eq!(after.iter().filter(|sealed| before.contains(sealed)).count(), 1, "Alice's");

    // He learns a day later, when he counts, that friends fetch KeyPackages and do not use them.
    world.admin.batch_execute("DELETE FROM qs.key_packages WHERE NOT last_resort").await.unwrap();
    for user in [&alice, &bob] {
        user.receive(std::time::Duration::ZERO).await.unwrap();
        assert_eq!(world.count(ordinary).await, 0);
    }
    bob.forget_the_count().unwrap();
    bob.receive(std::time::Duration::ZERO).await.unwrap();
    assert_eq!(world.count(ordinary).await, 20);
}

#[tokio::test]
async fn who_is_blocked_cannot_add_again_and_everyone_else_can() {
    let world = World::builder().pushing().start().await;
    let [alice, bob, carol] =
        [world.person("alice").await, world.person("bob").await, world.person("carol").await];
    let tablet = world.device(&bob, "tablet").await;
    for friend in [&alice, &carol] {
        befriend(friend, &bob, &friend.create_group("before").await.unwrap().id().clone()).await;
    }

    tablet.receive(std::time::Duration::ZERO).await.unwrap();
    bob.block_user(alice.user()).await.unwrap();
    tablet.receive(std::time::Duration::ZERO).await.unwrap();
    carol.receive(std::time::Duration::ZERO).await.unwrap();
    for device in [&bob, &tablet] {
        // The events of what she asked before are told.
        device.sync(std::time::Duration::ZERO).await.unwrap();
    }

    let group = alice.create_group("after").await.unwrap().id().clone();
    let invited = alice.group_with_id(&group).invite(bob.user()).await.unwrap();
    assert_eq!((invited.members, invited.waiting), (0, 2), "the token is no good any more");
    for device in [&bob, &tablet] {
        let events = device.sync(std::time::Duration::ZERO).await.unwrap();
        let asked = events.iter().any(|event| matches!(event, Event::ContactRequested { .. }));
        assert!(!asked, "what she asks vanishes: {events:?}");
    }

    let group = carol.create_group("after").await.unwrap().id().clone();
    let invited = carol.group_with_id(&group).invite(bob.user()).await.unwrap();
    assert_eq!((invited.members, invited.waiting), (2, 0), "Carol was told, and the tablet has a stock");
    assert_eq!(world.count("qs.friendships").await, 3, "one for each of the three");
}

#[tokio::test]
async fn mailboxes_go_on_under_new_keys_and_lose_nothing() {
    let world = World::builder().pushing().start().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let group = alice.create_group("one").await.unwrap().id().clone();
    befriend(&alice, &bob, &group).await;
    joined(&bob, 1).await;
    let old = "qs.queues WHERE owner_key = ANY (ARRAY(SELECT owner_key FROM old))";
    world.admin.batch_execute("CREATE TABLE old AS SELECT owner_key, hpke_key FROM qs.queues").await.unwrap();
    let texts = ["one", "two", "three"];
    for text in texts {
        alice.group_with_id(&group).send(text).await.unwrap();
        bob.renew_mailbox_keys().await.unwrap();
        alice.group_with_id(&group).send(text).await.unwrap();
    }
    assert_eq!(world.count(old).await, 2, "Alice's only");
    let mut heard = Vec::new();
    while heard.len() < 2 * texts.len() {
        let events = bob.sync_until(PATIENCE, |event| matches!(event, Event::Message { .. })).await.unwrap();
        heard.extend(events.into_iter().filter_map(|event| match event {
            Event::Message { text, .. } => Some(text),
            _ => None,
        }));
    }
    assert_eq!(heard, texts.iter().flat_map(|text| [*text; 2]).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_blocked_group_reaches_the_device_no_more() {
    let world = World::builder().pushing().start().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let blocked = alice.create_group("noise").await.unwrap().id().clone();
    let wanted = alice.create_group("music").await.unwrap().id().clone();
    befriend(&alice, &bob, &blocked).await;
    alice.group_with_id(&wanted).invite(bob.user()).await.unwrap();
    joined(&bob, 2).await;
    bob.receive(std::time::Duration::ZERO).await.unwrap();
    let addresses = world.count("qs.addresses").await;
    bob.group_with_id(&blocked).block().await.unwrap();
    assert_eq!(world.count("qs.addresses").await, addresses - 1);
    bob.sync(std::time::Duration::ZERO).await.unwrap();

    alice.group_with_id(&blocked).send("noise").await.unwrap();
    alice.group_with_id(&wanted).send("music").await.unwrap();
    let events = bob.sync_until(PATIENCE, |event| matches!(event, Event::Message { .. })).await.unwrap();
    let [Event::Message { text, .. }] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(text, "music");
}

/// Tables that keep something after a device has logged out: its user's identity, until another device removes it
/// there; what its user was issued today, and may be issued again; sums over everyone; and the group, which learns of it
/// when it delivers.
const STAYS: [&str; 11] = [
    "aas.issued",
    "aas.issued_in_all",
    "aas.requests",
    "aas.takers",
    "aas.token_use",
    "auth.clients",
    "auth.eid_log",
    "auth.incarnations",
    "auth.users",
    "ds.groups",
    "ds.welcome_trees",
];

#[tokio::test]
async fn nothing_is_left_at_the_server_of_a_device_that_logged_out() {
    let world = World::builder().pushing().start().await;
    let alice = world.person("alice").await;
    let group = alice.create_group("one").await.unwrap().id().clone();
    let before = world.row_counts().await;
    let bob = world.person("bob").await;
    let rows = "qs.queues, qs.friendships";
    befriend(&alice, &bob, &group).await;
    joined(&bob, 1).await;
    let (subscription, _) = PushService::start().await.subscribe("/bob", b"");
    bob.wake_by_push(QueueKind::Group, Some(subscription)).await.unwrap();
    alice.group_with_id(&group).send("this waits for Bob").await.unwrap();
    assert_eq!(world.count(rows).await, 4 * 2);
    // Alice has read what was for her.
    for _ in 0..2 {
        alice.receive(std::time::Duration::ZERO).await.unwrap();
    }
    let meanwhile = world.row_counts().await;
    for table in ["addresses", "key_packages", "messages", "push_subscriptions", "queues", "stocks"] {
        let table = format!("qs.{table}");
        assert!(meanwhile[&table] > before[&table], "{table} has rows of Bob's");
    }
    let alices = world.count("qs.addresses").await;
    bob.log_out().await.unwrap();
    assert_eq!(world.count(rows).await, 2, "Alice's two queues and friendship");
    assert_eq!(world.count("qs.key_packages").await, 21);
    // Bob had: three for letters, 20 in stock (of which one is the group's by now), last resort.
    assert_eq!(world.count("qs.addresses").await, alices - 24);
    let orphans = "qs.messages m WHERE NOT EXISTS (SELECT FROM qs.queues q WHERE q.queue_id = m.queue_id)";
    assert_eq!(world.count(orphans).await, 0);
    let after = world.row_counts().await;
    let more: Vec<_> = after.iter().filter(|(table, rows)| **rows > before[*table]).collect();
    let tables: BTreeSet<&str> = more.iter().map(|(table, _)| table.as_str()).collect();
    assert!(tables.is_subset(&BTreeSet::from(STAYS)), "{more:?}");
    assert!(Client::open(bob.directory()).is_err(), "it is no client any more");
    bob.log_out().await.unwrap_err();
    alice.group_with_id(&group).send("is anybody there?").await.unwrap();
}
