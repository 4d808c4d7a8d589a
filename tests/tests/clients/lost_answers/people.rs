//! Other people: a first contact comes about, and who blocks or hides is obeyed, though answers are lost.

use std::time::Duration;

use postern_client::{Client, Farewell, Options, ProfileChange};
use postern_protocol::problem::ProblemType;
use postern_tests_kit::{BadLine, World, befriend, eventually, joined, with};

use super::{ALL_ATTEMPTS, Scene, insist_after, options, register};

#[tokio::test]
async fn a_first_contact_comes_about_though_answers_were_lost() {
    let world = World::builder().start().await;
    let (line, other) =
        (BadLine::to(world.server().address()).await, BadLine::to(world.server().address()).await);
    for times in [1, ALL_ATTEMPTS] {
        let alice = register(&world, &line, &format!("alice-{times}")).await.unwrap();
        let bob = register(&world, &other, &format!("bob-{times}")).await.unwrap();
        let group = alice.create_group("climbing").await.unwrap();
        let patient = async |client: &Client| {
            // A step that was lost is made by the next one.
            while let Err(error) = client.receive(Duration::ZERO).await {
                assert!(error.is_passing(), "{error}");
            }
        };
        line.cut("POST /qs/deposits", times, 0);
        let invited = group.invite(bob.user()).await;
        assert_eq!((line.mend(), invited.is_err()), (times, times == ALL_ATTEMPTS));
        patient(&alice).await;
        for named in ["GET /as/users/", "POST /qs/deposits"] {
            other.cut(named, times, 0);
            patient(&bob).await;
            other.mend();
        }
        patient(&bob).await;
        for named in ["POST /qs/key-packages/fetch", "/messages"] {
            line.cut(named, times, 0);
            patient(&alice).await;
            line.mend();
        }
        patient(&alice).await;
        assert_eq!(group.members().unwrap().len(), 2);
        joined(&bob, 1).await;
    }
}

#[tokio::test]
async fn a_user_is_blocked_and_a_device_gone_though_answers_were_lost() {
    let scene = Scene::start().await;
    let carol = scene.world.person("carol").await;
    befriend(&carol, &scene.alice, &carol.create_group("hers").await.unwrap().id().clone()).await;
    scene
        .insist("/key-packages/rotate", ALL_ATTEMPTS, async || {
            let blocked = scene.alice.block_user(carol.user()).await;
            // It is on its way, and not begun again.
            if blocked.is_err() { blocked } else { Ok(()) }
        })
        .await;
    let group = carol.create_group("another").await.unwrap();
    let invited = group.invite(scene.alice.user()).await.unwrap();
    assert_eq!(invited.members, 0);
    for named in ["/key-packages/remove", "/delete "] {
        scene.line.cut(named, ALL_ATTEMPTS, 0);
        assert!(scene.alice.log_out().await.unwrap_err().is_passing());
        scene.line.mend();
    }
    scene.alice.log_out().await.unwrap();
    assert!(Client::open(scene.alice.directory()).is_err());
}

#[tokio::test]
async fn a_device_that_logs_out_is_removed_by_another_though_answers_were_lost() {
    let world = World::builder().start().await;
    let line = BadLine::to(world.server().address()).await;
    let phone = world.person("alice").await;
    let cases =
        ["GET /as/users/", "POST /qs/deposits"].map(|named| [1, ALL_ATTEMPTS].map(|times| (named, times)));
    for (place, (named, times)) in cases.into_iter().flatten().enumerate() {
        let tablet = world.device(&phone, &format!("tablet-{place}")).await;
        let tablet = with(tablet, Options { server: Some(line.url()), ..options() });
        let farewell = insist_after(&line, (named, 0), times, async || tablet.log_out().await).await;
        assert_eq!(farewell, Farewell::Told { devices: 1 });
        phone.sync(Duration::ZERO).await.unwrap();
        assert_eq!(phone.devices().await.unwrap().len(), 1, "{named}, lost {times} times");
    }
}

#[tokio::test]
async fn who_hides_gives_groups_the_key_though_the_answer_was_lost() {
    for times in [1, ALL_ATTEMPTS] {
        let world = World::builder().start().await;
        let line = BadLine::to(world.server().address()).await;
        let (alice, carol) = (world.person("alice").await, world.person("carol").await);
        let bob = register(&world, &line, "bob").await.unwrap();
        let group = alice.create_group("climbing").await.unwrap().id().clone();
        for other in [&carol, &bob] {
            befriend(&alice, other, &group).await;
            joined(other, 1).await;
        }
        for client in [&alice, &bob, &carol, &bob] {
            client.sync(Duration::ZERO).await.unwrap();
        }
        let epoch = async || world.value::<i64>("SELECT max(epoch) FROM ds.groups").await;
        let before = epoch().await;
        let hiding = ProfileChange { discoverable: Some(false), ..ProfileChange::default() };
        insist_after(&line, ("PUT /as/profile", 0), times, async || bob.change_profile(&hiding).await).await;
        // By a message, and for those that come later by a commit.
        eventually("he tells groups", async || {
            bob.sync(Duration::ZERO).await.unwrap();
            (epoch().await > before).then_some(())
        })
        .await;
        carol.sync(Duration::ZERO).await.unwrap();
        assert_eq!(carol.look_up(bob.user()).await.unwrap().clients.len(), 1);
        let stranger = world.person("erin").await.look_up(bob.user()).await.unwrap_err();
        assert_eq!(stranger.problem(), Some(ProblemType::NotFound));
    }
}
