//! Requests that a device makes now and then: each may lose its answer.

use std::time::Duration;

use postern_client::{Client, Event};
use postern_protocol::qs::QueueKind;
use postern_tests_kit::{PATIENCE, PushService, befriend, joined};

use super::{ALL_ATTEMPTS, Scene};

#[tokio::test]
async fn everything_else_that_a_client_does_may_lose_its_answer() {
    let scene = Scene::start().await;
    let (subscription, _) = PushService::start().await.subscribe("/alice", b"");
    for times in [1, ALL_ATTEMPTS] {
        let alice = &scene.alice;
        scene.insist("/dequeue", times, async || alice.receive(Duration::ZERO).await).await;
        scene.insist("/keys ", times, async || alice.renew_mailbox_keys().await).await;
        for named in ["/push-subscription", "/addresses/push"] {
            let wake = async || alice.wake_by_push(QueueKind::Group, Some(subscription.clone())).await;
            // A subscription that was told is not told again.
            alice.create_group(&format!("{named} {times}")).await.unwrap();
            scene.insist(named, times, wake).await;
        }
        scene.insist("GET /as/users/", times, async || alice.look_up(scene.bob.user()).await).await;
        scene.insist("/group-info", times, async || scene.alices().attributes().await).await;
    }
    scene.bob.group_with_id(&scene.group).send("do you hear me?").await.unwrap();
    let said = |event: &Event| matches!(event, Event::Message { .. });
    assert!(scene.alice.sync_until(PATIENCE, said).await.unwrap().iter().any(said));
}

#[tokio::test]
async fn what_a_device_asks_now_and_then_may_lose_its_answer() {
    let scene = Scene::start().await;
    let (alice, bob) = (&scene.alice, &scene.bob);
    let first = bob.create_group("Bob's").await.unwrap().id().clone();
    befriend(bob, alice, &first).await;
    joined(alice, 1).await;
    for times in [1, ALL_ATTEMPTS] {
        let receive = async || alice.receive(Duration::ZERO).await;
        let title = format!("Bob's, lost {times} times");
        bob.create_group(&title).await.unwrap().invite(alice.user()).await.unwrap();
        scene.insist("/welcome-tree", times, &receive).await;
        alice.group(&title).expect("she is in it").send("here").await.unwrap();

        let moved = async || scene.alices().renew_address().await;
        scene.insist("/addresses/revoke", times, moved).await;
        scene.bob.receive(Duration::ZERO).await.unwrap();
        scene.bob.group_with_id(&scene.group).send("to the new address").await.unwrap();
        let said =
            |event: &Event| matches!(event, Event::Message { text, .. } if text == "to the new address");
        assert!(alice.sync_until(PATIENCE, said).await.unwrap().iter().any(said));

        let counted = async || {
            alice.forget_the_count()?;
            receive().await
        };
        scene.insist("/key-packages/count", times, counted).await;
        scene.insist("GET /qs/keys", times, async || alice.application_server_key().await).await;
        let nobody = Client::builder(scene.world.homes.path().join("nobody")).server(scene.line.url());
        scene.insist("GET /as/registration", times, async || nobody.registration_terms().await).await;

        // Whether the server hears of it or not: the offer is withdrawn here, and ends there by itself.
        let offer = alice.offer_link().await.unwrap();
        scene.line.cut("DELETE /rendezvous/", times, 0);
        offer.withdraw().await.unwrap();
        assert_eq!(scene.line.mend(), times);
        alice.offer_link().await.unwrap().withdraw().await.unwrap();

        let going = alice.create_group(&format!("to go, lost {times} times")).await.unwrap();
        let before = scene.world.count("ds.groups").await;
        scene.insist("DELETE /ds/groups/", times, async || going.delete().await).await;
        assert_eq!(scene.world.count("ds.groups").await, before - 1);
    }
}
