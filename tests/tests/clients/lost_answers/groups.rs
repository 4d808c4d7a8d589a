//! Groups: one is founded and changed once, left and come back to, though answers are lost.

use std::time::Duration;

use postern_client::{Error, Event};
use postern_protocol::ds::GroupIdReserved;
use postern_tests_kit::{BadLine, Call, PATIENCE, World, befriend, eventually, joined};

use super::{ALL_ATTEMPTS, Scene, register, restart};

#[tokio::test]
async fn a_group_whose_founding_has_no_answer_is_founded_once() {
    let scene = Scene::start().await;
    for (place, named) in ["/addresses ", "POST /ds/group-ids", "POST /ds/groups "].into_iter().enumerate() {
        for times in [1, ALL_ATTEMPTS] {
            let before = scene.world.count("ds.groups").await;
            let title = format!("group {place}, lost {times} times");
            let group = scene.insist(named, times, async || scene.alice.create_group(&title).await).await;
            assert_eq!(scene.world.count("ds.groups").await, before + 1, "{named}");
            assert_eq!(scene.alice.group(&title).unwrap().id(), group.id(), "there is one of this title");
            group.send("it is there").await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_group_whose_founding_has_no_answer_is_there_though_the_key_that_it_carries_was_revoked_since() {
    let scene = Scene::start().await;
    scene.line.cut("POST /ds/groups ", ALL_ATTEMPTS, 0);
    scene.alice.create_group("sailing").await.unwrap_err();
    scene.line.mend();
    let groups = scene.world.count("ds.groups").await;
    let revoke = "SELECT operator.rotate_sender_keys(revoke => true)";
    scene.world.admin.execute(revoke, &[]).await.unwrap();
    eventually("the server has another key", async || {
        // Each look costs a token.
        scene.world.restock(1).await;
        let reserved: GroupIdReserved = scene.world.pay(&Call::post("/ds/group-ids")).await.decode();
        (reserved.server_key != scene.world.server_key()).then_some(())
    })
    .await;
    let events = scene.alice.sync(Duration::ZERO).await.unwrap();
    assert!(!events.iter().any(|event| matches!(event, Event::Unfounded { .. })), "{events:?}");
    let group = scene.alice.group("sailing").unwrap();
    group.send("it is there").await.unwrap();
    assert_eq!(group.unsent().unwrap(), 0);
    assert_eq!(scene.world.count("ds.groups").await, groups);
}

#[tokio::test]
async fn what_is_said_in_a_group_that_has_no_answer_yet_is_sent_once_it_is_founded() {
    let scene = Scene::start().await;
    scene.line.cut("POST /ds/groups ", ALL_ATTEMPTS, 0);
    scene.alice.create_group("sailing").await.unwrap_err();
    scene.line.go_away();
    let alice = restart(scene.alice);
    alice.group("sailing").unwrap().keep("first").unwrap();
    scene.line.mend();
    alice.receive(Duration::ZERO).await.unwrap();
    assert_eq!(alice.group("sailing").unwrap().unsent().unwrap(), 0);
    alice.group("sailing").unwrap().invite(scene.bob.user()).await.unwrap();
    joined(&scene.bob, 1).await;
}

#[tokio::test]
async fn changes_of_a_group_whose_answers_are_lost_are_made_once() {
    let scene = Scene::start().await;
    let carol = scene.world.person("carol").await;
    befriend(&scene.alice, &carol, &scene.group).await;
    joined(&carol, 1).await;
    for times in [1, ALL_ATTEMPTS] {
        let epoch = scene.alices().epoch().unwrap();
        scene.insist("/messages", times, async || scene.alices().set_attributes(b"rope").await).await;
        assert!(scene.alices().epoch().unwrap() > epoch);
        scene.line.cut("/messages", times, 0);
        let removed = scene.alices().remove(carol.user()).await;
        scene.line.mend();
        if removed.is_err() {
            scene.alice.receive(Duration::ZERO).await.unwrap();
        }
        assert_eq!(scene.alices().members().unwrap().len(), 2);
        // She is invited again, by another KeyPackage of hers.
        scene.line.cut("/messages", times, 0);
        let invited = scene.alices().invite(carol.user()).await;
        scene.line.mend();
        if invited.is_err() {
            scene.alice.receive(Duration::ZERO).await.unwrap();
        }
        joined(&carol, 1).await;
        assert_eq!(scene.alices().members().unwrap().len(), 3);
        carol.group_with_id(&scene.group).send("here").await.unwrap();
        let said = |event: &Event| matches!(event, Event::Message { text, .. } if text == "here");
        assert!(scene.alice.sync_until(PATIENCE, said).await.unwrap().iter().any(said));
    }
}

#[tokio::test]
async fn who_leaves_is_out_though_the_answer_was_lost() {
    for (times, restarts) in [(1, false), (ALL_ATTEMPTS, false), (ALL_ATTEMPTS, true)] {
        let world = World::builder().start().await;
        let line = BadLine::to(world.server().address()).await;
        let (alice, bob) = (world.person("alice").await, register(&world, &line, "bob").await.unwrap());
        let group = alice.create_group("climbing").await.unwrap().id().clone();
        befriend(&alice, &bob, &group).await;
        joined(&bob, 1).await;
        bob.receive(Duration::ZERO).await.unwrap();

        line.cut("/messages", times, 0);
        let left = bob.group_with_id(&group).leave().await;
        assert_eq!(line.mend(), times);
        let mut bob = bob;
        if times == ALL_ATTEMPTS {
            assert!(left.unwrap_err().is_passing());
            if restarts {
                bob = restart(bob);
            }
            bob.group_with_id(&group).leave().await.unwrap();
        } else {
            left.unwrap();
        }
        let said = bob.group_with_id(&group).keep("one more thing").unwrap_err();
        assert!(matches!(said, Error::Leaving), "{said}");
        alice.receive(Duration::ZERO).await.unwrap();
        alice.group_with_id(&group).send("who is there?").await.unwrap();
        let out = |event: &Event| matches!(event, Event::Left { .. });
        let events = bob.sync_until(PATIENCE, out).await.unwrap();
        assert!(events.iter().any(out), "{events:?}");
        assert!(bob.groups().unwrap().iter().all(|group| !group.active));
        assert_eq!(alice.group_with_id(&group).members().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn who_wants_to_leave_while_the_server_is_away_leaves_when_it_is_back() {
    let scene = Scene::start().await;
    let line = BadLine::to(scene.world.server().address()).await;
    let carol = register(&scene.world, &line, "carol").await.unwrap();
    befriend(&scene.alice, &carol, &scene.group).await;
    joined(&carol, 1).await;
    carol.receive(Duration::ZERO).await.unwrap();
    line.go_away();
    carol.group_with_id(&scene.group).keep("good bye").unwrap();
    assert!(carol.group_with_id(&scene.group).leave().await.unwrap_err().is_passing());
    let carol = restart(carol);
    line.mend();
    carol.receive(Duration::ZERO).await.unwrap();
    let said = |event: &Event| matches!(event, Event::Message { text, .. } if text == "good bye");
    assert!(scene.alice.sync_until(PATIENCE, said).await.unwrap().iter().any(said));
    scene.alices().send("who is there?").await.unwrap();
    assert_eq!(scene.alices().members().unwrap().len(), 2);
    let out = |event: &Event| matches!(event, Event::Left { .. });
    assert!(carol.sync_until(PATIENCE, out).await.unwrap().iter().any(out));
}

#[tokio::test]
async fn the_last_admin_stays_in_and_is_told() {
    let scene = Scene::start().await;
    let refused = scene.alices().leave().await.unwrap_err();
    assert!(matches!(refused, Error::LastAdmin), "{refused}");
    scene.alices().send("I am still here").await.unwrap();
}

#[tokio::test]
async fn who_comes_back_is_back_though_answers_were_lost() {
    let scene = Scene::start().await;
    for named in ["/group-info", "/messages"] {
        for times in [1, ALL_ATTEMPTS] {
            scene.insist(named, times, async || scene.alices().rejoin().await).await;
            scene.alices().send("back").await.unwrap();
            assert_eq!(scene.bob_reads().await, ["back"], "{named}, {times}");
            scene.bob.group_with_id(&scene.group).send("welcome").await.unwrap();
            let said = |event: &Event| matches!(event, Event::Message { text, .. } if text == "welcome");
            assert!(scene.alice.sync_until(PATIENCE, said).await.unwrap().iter().any(said));
        }
    }
}
