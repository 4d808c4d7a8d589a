//! `POST /rendezvous/{number}/receive` (AS-7)

use std::time::{Duration, Instant};

use postern_protocol::{key::SigningKey, problem::ProblemType};
use postern_tests_kit::{World, eventually};
use reqwest::StatusCode;
use tokio::sync::Notify;

use super::{Meeting, other_rendezvous, texts};
use crate::every_route::Valid;

pub async fn valid(world: &World) -> Vec<Valid> {
    let meeting = Meeting::of_two(world).await;
    let valid = |(_, side)| Valid {
        stranger: Some(ProblemType::NotFound),
        targets: other_rendezvous("/receive"),
        ..Valid::new(meeting.receiving(side, 0, 0), StatusCode::OK)
    };
    meeting.sides().map(valid).into()
}

/// The longest time of a wake-up on a busy machine: less than the 10 seconds after which a server looks again by itself.
const AT_ONCE: Duration = Duration::from_secs(8);

/// The requests of all rendezvous that were counted so far: one that waits was.
async fn counted(world: &World) -> i64 {
    world.value("SELECT coalesce(sum(requests), 0)::bigint FROM rendezvous.meetings").await
}

/// Returns once so many requests were counted.
async fn until_counted(world: &World, requests: i64) {
    eventually("a request waits", async || (counted(world).await >= requests).then_some(())).await;
}

#[tokio::test]
async fn a_payload_wakes_the_other_side_whichever_server_it_waits_at() {
    let world = World::builder().servers(2).tokens(200).start().await;
    let meeting = Meeting::of_two(&world).await;
    let other = Meeting::of_two(&world).await;
    for (place, (at, from)) in (0..).zip([(0, 1), (1, 0), (0, 0)]) {
        for (side, sender) in [(&meeting.owner, &meeting.guest), (&meeting.guest, &meeting.owner)] {
            let before = counted(&world).await;
            let wire = meeting.receiving(side, place, 30).wire();
            let waiting = async { (world.send_to(&world.servers[at], &wire).await, Instant::now()) };
            let leaving = async {
                until_counted(&world, before + 1).await;
                let wire = other.leaving(&other.owner, 0, b"another's").wire();
                world.send_to(&world.servers[from], &wire).await.assert_ok("a payload elsewhere");
                let wire = meeting.leaving(sender, place, b"here").wire();
                world.send_to(&world.servers[from], &wire).await.assert_ok("a payload");
                Instant::now()
            };
            let ((reply, woken), left) = tokio::join!(waiting, leaving);
            assert_eq!(texts(&reply), ["here"]);
            let took = woken.saturating_duration_since(left);
            assert!(took < AT_ONCE, "{took:?}");
        }
    }
    world.close();
}

#[tokio::test]
async fn who_waits_is_told_at_once_that_the_other_side_ended_it() {
    let world = World::builder().servers(2).tokens(200).start().await;
    let meeting = Meeting::of_two(&world).await;
    let before = counted(&world).await;
    let wire = meeting.receiving(&meeting.owner, 0, 30).wire();
    let waiting = async { (world.send(&wire).await, Instant::now()) };
    let ending = async {
        until_counted(&world, before + 1).await;
        let wire = meeting.ending(&meeting.guest).wire();
        world.send_to(&world.servers[1], &wire).await.assert_ok("ending");
        Instant::now()
    };
    let ((reply, told), ended) = tokio::join!(waiting, ending);
    reply.assert_problem("it is gone", ProblemType::NotFound);
    let took = told.saturating_duration_since(ended);
    assert!(took < AT_ONCE, "{took:?}");
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

#[tokio::test]
async fn of_each_side_two_requests_wait_at_a_time() {
    const PATIENT: u16 = 60;
    let world = World::start().await;
    let meeting = Meeting::of_two(&world).await;
    let before = counted(&world).await;
    // Each comes once so many others are counted, which wait a moment later: so it need not be the first one that gives way.
    let wait = async |side, others: i64, seconds: u16| {
        until_counted(&world, before + others).await;
        let begun = Instant::now();
        let reply = world.send(&meeting.receiving(side, 0, seconds).wire()).await;
        (texts(&reply), begun.elapsed())
    };
    let one_gave_way = Notify::new();
    let owner = async |others: i64| {
        let answer = wait(&meeting.owner, others, PATIENT).await;
        if answer.0.is_empty() {
            one_gave_way.notify_one();
        }
        answer
    };
    let leaving = async {
        one_gave_way.notified().await;
        world.send(&meeting.leaving(&meeting.guest, 0, b"here").wire()).await.assert_ok("a payload");
    };
    let (others, first, second, third, ()) =
        tokio::join!(wait(&meeting.guest, 0, 10), owner(1), owner(2), owner(3), leaving);
    let (gave_way, waited): (Vec<_>, Vec<_>) =
        [first, second, third].into_iter().partition(|(texts, _)| texts.is_empty());
    assert_eq!((gave_way.len(), waited.len()), (1, 2), "two wait");
    assert!(gave_way[0].1 < Duration::from_secs(PATIENT.into()) / 2, "it gave way");
    assert!(waited.iter().all(|(texts, _)| *texts == ["here"]), "{waited:?}");
    assert!(others.0.is_empty() && others.1 >= Duration::from_secs(10), "it is the other side's");
    world.close();
}

/// Padded waits take no memory from bodies that come meanwhile (OPS-9).
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_holds_no_memory_for_its_body() {
    // Far longer than the test takes on a slow and busy machine.
    const PATIENT: u16 = 1200;
    // 33 such bodies fill it.
    let world = World::builder()
        .tokens(40)
        .setting("POSTERN_BODIES_BYTES", "2200000")
        .setting("POSTERN_LONG_POLL_MAX_SECONDS", "1200")
        .start()
        .await;
    let mut waiting = Vec::new();
    for _ in 0..9 {
        let meeting = Meeting::of_two(&world).await;
        let padded = |side: &SigningKey, wait: u16| {
            let body = format!("{{\"after\":0,\"wait\":{wait}}}{}", " ".repeat(60_000));
            meeting.receiving(side, 0, wait).with_bytes("application/json", body.into_bytes())
        };
        // Two of each side wait at a time.
        for side in [&meeting.owner, &meeting.guest, &meeting.owner, &meeting.guest] {
            let before = counted(&world).await;
            let (way, call) = (world.way(0), padded(side, PATIENT));
            // None is answered before the server ends.
            waiting.push(tokio::spawn(async move { way.try_send(&call).await }));
            until_counted(&world, before + 1).await;
            let other = world.send(&padded(side, 0).wire()).await;
            other.assert_ok(&format!("another body, while {} wait", waiting.len()));
        }
    }
    assert!(waiting.iter().all(|wait| !wait.is_finished()), "they wait all the time");
    world.close();
}
