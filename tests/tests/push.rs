//! Sleeping devices are woken (QS-10): real clients, a real server, a push service.

use postern_client::{Client, Event, Options};
use postern_protocol::{problem::ProblemType, push::Urgency, qs::QueueKind};
use postern_tests::{Cluster, PATIENCE, PushService, Server};
use tempfile::TempDir;

async fn person(homes: &TempDir, server: &Server, name: &str) -> Client {
    let options = Options { durable: false, ..Options::default() };
    Client::register_with(&homes.path().join(name), server.url(), name, options).await.unwrap()
}

#[tokio::test]
async fn a_device_is_woken_for_requests_invitations_and_messages_but_not_for_what_it_muted() {
    let cluster = Cluster::start().await;
    let server = Server::builder(&cluster).pushing().start().await;
    let homes = tempfile::tempdir().unwrap();
    let (alice, bob) = (person(&homes, &server, "alice").await, person(&homes, &server, "bob").await);
    let mut service = PushService::start().await;
    for (kind, path) in [(QueueKind::Group, "/group"), (QueueKind::Contact, "/contact")] {
        let (subscription, _) = service.subscribe(path, b"");
        bob.wake_by_push(kind, Some(subscription)).await.unwrap();
    }

    let group = alice.create_group("one").await.unwrap();
    alice.invite(&group, bob.user()).await.unwrap();
    assert_eq!(service.pushed().await.path, "/contact", "somebody asks");
    bob.sync_until(PATIENCE, |event| matches!(event, Event::ContactRequested { .. })).await.unwrap();
    alice.sync_until(PATIENCE, |event| matches!(event, Event::Added { .. })).await.unwrap();
    assert_eq!(service.pushed().await.path, "/group", "Bob is in the group");
    bob.sync_until(PATIENCE, |event| matches!(event, Event::Joined { .. })).await.unwrap();
    let group = bob.find_group("one").unwrap().id;

    // The next group comes by a KeyPackage that Bob published: its address wakes him, too.
    let next = alice.create_group("two").await.unwrap();
    assert_eq!(alice.invite(&next, bob.user()).await.unwrap().members, 1);
    assert_eq!(service.pushed().await.path, "/group");
    bob.sync_until(PATIENCE, |event| matches!(event, Event::Joined { .. })).await.unwrap();

    let others = alice.find_group("one").unwrap().id;
    bob.set_group_push(&group, None).await.unwrap();
    alice.send(&others, "do you sleep?").await.unwrap();
    alice.send(&next, "wake up").await.unwrap();
    assert_eq!(service.pushed().await.header("urgency"), "normal");
    bob.set_group_push(&group, Some(Urgency::Normal)).await.unwrap();
    alice.send(&others, "and now?").await.unwrap();
    service.pushed().await;
    assert!(!service.has_more(), "three messages, one in a group that was muted");

    // Nowhere, and somewhere else: the addresses stay as they are.
    bob.wake_by_push(QueueKind::Group, None).await.unwrap();
    alice.send(&others, "good night").await.unwrap();
    let (subscription, agent) = service.subscribe("/new", b"look");
    bob.wake_by_push(QueueKind::Group, Some(subscription)).await.unwrap();
    alice.send(&others, "good morning").await.unwrap();
    let pushed = service.pushed().await;
    assert_eq!(pushed.path, "/new");
    assert_eq!(agent.read(&pushed), b"look");
    assert!(!service.has_more());
}

#[tokio::test]
async fn a_server_that_sends_no_pushes_says_so() {
    let cluster = Cluster::start().await;
    let server = Server::start(&cluster).await;
    let homes = tempfile::tempdir().unwrap();
    let alice = person(&homes, &server, "alice").await;
    assert_eq!(alice.application_server_key().await.unwrap(), None);
    let (subscription, _) = PushService::start().await.subscribe("/", b"");
    let refused = alice.wake_by_push(QueueKind::Group, Some(subscription)).await.unwrap_err();
    assert_eq!(refused.problem(), Some(ProblemType::NoPush));
}
