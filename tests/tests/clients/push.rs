//! Sleeping devices are woken (QS-10): real clients, a real server, a push service.

use std::{collections::BTreeSet, time::Duration};

use postern_client::Event;
use postern_protocol::{problem::ProblemType, push::Urgency, qs::QueueKind};
use postern_tests_kit::{PATIENCE, PushService, Pushed, Server, World, befriend, eventually};

/// Takes all pushes, once none is under way or waits: those that become due within seconds for one queue go as one.
async fn all_pushes(world: &World, service: &mut PushService) -> Vec<Pushed> {
    eventually("all pushes are sent", async || {
        (world.server().metric("postern_pushes_waiting").await < 1.0).then_some(())
    })
    .await;
    let mut pushes = Vec::new();
    while service.has_more() {
        pushes.push(service.pushed().await);
    }
    pushes
}

fn paths(pushes: &[Pushed]) -> BTreeSet<&str> {
    pushes.iter().map(|pushed| pushed.path.as_str()).collect()
}

#[tokio::test]
async fn a_device_is_woken_for_requests_invitations_and_messages_but_not_for_what_it_muted() {
    let world = World::builder().pushing().setting("POSTERN_METRICS_LISTEN", "127.0.0.1:0").start().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let mut service = PushService::start().await;
    for (kind, path) in [(QueueKind::Group, "/group"), (QueueKind::Contact, "/contact")] {
        let (subscription, _) = service.subscribe(path, b"");
        bob.wake_by_push(kind, Some(subscription)).await.unwrap();
    }

    let group = alice.create_group("one").await.unwrap().id().clone();
    befriend(&alice, &bob, &group).await;
    let pushes = all_pushes(&world, &mut service).await;
    assert_eq!(
        paths(&pushes),
        BTreeSet::from(["/contact", "/group"]),
        "somebody asks, and Bob is in the group"
    );
    bob.sync_until(PATIENCE, |event| matches!(event, Event::Joined { .. })).await.unwrap();
    let group = bob.group("one").unwrap().id().clone();

    // The next group comes by a KeyPackage that Bob published: its address wakes him, too.
    let next = alice.create_group("two").await.unwrap().id().clone();
    assert_eq!(alice.group_with_id(&next).invite(bob.user()).await.unwrap().members, 1);
    // She tells him who else is in it.
    alice.receive(Duration::ZERO).await.unwrap();
    let pushes = all_pushes(&world, &mut service).await;
    assert_eq!(paths(&pushes), BTreeSet::from(["/group"]));
    bob.sync_until(PATIENCE, |event| matches!(event, Event::Joined { .. })).await.unwrap();

    let others = alice.group("one").unwrap().id().clone();
    bob.group_with_id(&group).set_push(None).await.unwrap();
    alice.group_with_id(&others).send("do you sleep?").await.unwrap();
    assert!(all_pushes(&world, &mut service).await.is_empty(), "the group was muted");
    alice.group_with_id(&next).send("wake up").await.unwrap();
    let pushes = all_pushes(&world, &mut service).await;
    assert_eq!((pushes.len(), pushes[0].header("urgency")), (1, "normal"));
    bob.group_with_id(&group).set_push(Some(Urgency::Normal)).await.unwrap();
    alice.group_with_id(&others).send("and now?").await.unwrap();
    assert_eq!(all_pushes(&world, &mut service).await.len(), 1, "it is muted no more");

    // Nowhere, and somewhere else: the addresses stay as they are.
    bob.wake_by_push(QueueKind::Group, None).await.unwrap();
    alice.group_with_id(&others).send("good night").await.unwrap();
    assert!(all_pushes(&world, &mut service).await.is_empty(), "there is nowhere to push to");
    let (subscription, agent) = service.subscribe("/new", b"look");
    bob.wake_by_push(QueueKind::Group, Some(subscription)).await.unwrap();
    alice.group_with_id(&others).send("good morning").await.unwrap();
    let pushes = all_pushes(&world, &mut service).await;
    assert_eq!((pushes.len(), pushes[0].path.as_str()), (1, "/new"));
    assert_eq!(agent.read(&pushes[0]), b"look");
}

#[tokio::test]
async fn a_server_that_sends_no_pushes_says_so() {
    let world = World::builder().pushing().start().await;
    let silent = Server::start(&world.cluster).await;
    let alice = world.person_at(&silent, "alice").await;
    assert_eq!(alice.application_server_key().await.unwrap(), None);
    let (subscription, _) = PushService::start().await.subscribe("/", b"");
    let refused = alice.wake_by_push(QueueKind::Group, Some(subscription)).await.unwrap_err();
    assert_eq!(refused.problem(), Some(ProblemType::NoPush));
}
