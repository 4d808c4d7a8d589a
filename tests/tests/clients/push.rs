//! Sleeping devices are woken (QS-10): real clients, a real server, a push service.

use postern_client::Event;
use postern_protocol::{problem::ProblemType, push::Urgency, qs::QueueKind};
use postern_tests_kit::{PATIENCE, PushService, Server, World, befriend};

#[tokio::test]
async fn a_device_is_woken_for_requests_invitations_and_messages_but_not_for_what_it_muted() {
    let world = World::builder().pushing().start().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let mut service = PushService::start().await;
    for (kind, path) in [(QueueKind::Group, "/group"), (QueueKind::Contact, "/contact")] {
        let (subscription, _) = service.subscribe(path, b"");
        bob.wake_by_push(kind, Some(subscription)).await.unwrap();
    }

    let group = alice.create_group("one").await.unwrap().id().clone();
    befriend(&alice, &bob, &group).await;
    // Pushes of two queues go side by side.
    let mut woken = [service.pushed().await.path, service.pushed().await.path];
    woken.sort();
    assert_eq!(woken, ["/contact", "/group"], "somebody asks, and Bob is in the group");
    bob.sync_until(PATIENCE, |event| matches!(event, Event::Joined { .. })).await.unwrap();
    let group = bob.group("one").unwrap().id().clone();

    // The next group comes by a KeyPackage that Bob published: its address wakes him, too.
    let next = alice.create_group("two").await.unwrap().id().clone();
    assert_eq!(alice.group_with_id(&next).invite(bob.user()).await.unwrap().members, 1);
    assert_eq!(service.pushed().await.path, "/group");
    bob.sync_until(PATIENCE, |event| matches!(event, Event::Joined { .. })).await.unwrap();

    let others = alice.group("one").unwrap().id().clone();
    bob.group_with_id(&group).set_push(None).await.unwrap();
    alice.group_with_id(&others).send("do you sleep?").await.unwrap();
    alice.group_with_id(&next).send("wake up").await.unwrap();
    assert_eq!(service.pushed().await.header("urgency"), "normal");
    bob.group_with_id(&group).set_push(Some(Urgency::Normal)).await.unwrap();
    alice.group_with_id(&others).send("and now?").await.unwrap();
    service.pushed().await;
    assert!(!service.has_more(), "three messages, one in a group that was muted");

    // Nowhere, and somewhere else: the addresses stay as they are.
    bob.wake_by_push(QueueKind::Group, None).await.unwrap();
    alice.group_with_id(&others).send("good night").await.unwrap();
    let (subscription, agent) = service.subscribe("/new", b"look");
    bob.wake_by_push(QueueKind::Group, Some(subscription)).await.unwrap();
    alice.group_with_id(&others).send("good morning").await.unwrap();
    let pushed = service.pushed().await;
    assert_eq!(pushed.path, "/new");
    assert_eq!(agent.read(&pushed), b"look");
    assert!(!service.has_more());
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
