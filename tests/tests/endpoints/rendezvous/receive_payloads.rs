//! `POST /rendezvous/{number}/receive` (AS-7)

use std::time::{Duration, Instant};

use postern_protocol::problem::ProblemType;
use postern_tests_kit::World;
use reqwest::StatusCode;

use super::{Meeting, other_rendezvous, texts};
use crate::road::Valid;

pub async fn valid(world: &World) -> Vec<Valid> {
    let meeting = Meeting::of_two(world).await;
    let valid = |(_, side)| Valid {
        stranger: Some(ProblemType::NotFound),
        targets: other_rendezvous("/receive"),
        ..Valid::new(meeting.receiving(side, 0, 0), StatusCode::OK)
    };
    meeting.sides().map(valid).into()
}

#[tokio::test]
async fn a_payload_wakes_the_other_side_whichever_server_it_waits_at() {
    let world = World::builder().servers(2).tokens(200).start().await;
    let meeting = Meeting::of_two(&world).await;
    let other = Meeting::of_two(&world).await;
    for (place, (at, from)) in (0..).zip([(0, 1), (1, 0), (0, 0)]) {
        for (side, sender) in [(&meeting.owner, &meeting.guest), (&meeting.guest, &meeting.owner)] {
            let wire = meeting.receiving(side, place, 30).wire();
            let waiting = world.send_to(&world.servers[at], &wire);
            let leaving = async {
                // Most often the other one waits by then; if not, it looks, and finds it.
                tokio::time::sleep(Duration::from_millis(100)).await;
                let wire = other.leaving(&other.owner, 0, b"another's").wire();
                world.send_to(&world.servers[from], &wire).await.assert_ok("a payload elsewhere");
                let wire = meeting.leaving(sender, place, b"here").wire();
                world.send_to(&world.servers[from], &wire).await.assert_ok("a payload");
            };
            let begun = Instant::now();
            let (reply, ()) = tokio::join!(waiting, leaving);
            assert_eq!(texts(&reply), ["here"]);
            assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        }
    }
    world.close();
}

#[tokio::test]
async fn who_waits_is_told_at_once_that_the_other_side_ended_it() {
    let world = World::builder().servers(2).tokens(200).start().await;
    let meeting = Meeting::of_two(&world).await;
    let wire = meeting.receiving(&meeting.owner, 0, 30).wire();
    let waiting = world.send(&wire);
    let ending = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let wire = meeting.ending(&meeting.guest).wire();
        world.send_to(&world.servers[1], &wire).await.assert_ok("ending");
    };
    let begun = Instant::now();
    let (reply, ()) = tokio::join!(waiting, ending);
    reply.assert_problem("it is gone", ProblemType::NotFound);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    world.close();
}

#[tokio::test]
async fn a_wait_ends_when_it_is_over() {
    let world = World::start().await;
    let meeting = Meeting::open(&world).await;
    let begun = Instant::now();
    let reply = world.send(&meeting.receiving(&meeting.owner, 0, 1).wire()).await;
    assert!(texts(&reply).is_empty());
    assert!(begun.elapsed() >= Duration::from_secs(1));
    world.close();
}
