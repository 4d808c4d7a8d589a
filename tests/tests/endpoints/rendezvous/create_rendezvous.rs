//! `POST /rendezvous` (AS-7)

use std::collections::HashSet;

use postern_protocol::{key::SigningKey, problem::ProblemType, rendezvous::RendezvousCreated};
use postern_tests_kit::{World, early_in, eventually};
use rand::RngCore;
use reqwest::StatusCode;

use super::{Meeting, creating, limit};
use crate::every_route::Valid;

pub fn valid() -> Valid {
    Valid::new(creating(&SigningKey::generate()), StatusCode::CREATED)
}

#[tokio::test]
async fn every_rendezvous_has_a_number_of_its_own_and_some_minutes() {
    let world = World::start().await;
    let mut numbers = HashSet::new();
    for _ in 0..30 {
        let created: RendezvousCreated = world.pay(&creating(&SigningKey::generate())).await.decode();
        assert_eq!((created.minutes, created.max_payload_bytes), (10, 32_768));
        assert!(numbers.insert(created.number));
    }
    assert_eq!(world.count("rendezvous.meetings").await, 30);
    // Payloads between two devices are not for back-ups.
    let logged = "SELECT count(*) FROM pg_class c
                   WHERE c.oid IN ('rendezvous.meetings'::regclass, 'operator.attempts'::regclass)
                     AND c.relpersistence <> 'u'";
    assert_eq!(world.value::<i64>(logged).await, 0);
    world.close();
}

#[tokio::test]
async fn there_are_as_many_as_the_operator_wants_and_no_more() {
    let world = World::start().await;
    limit(&world, "max_rendezvous", 3).await;
    let mut last = Vec::new();
    for _ in 0..3 {
        last.push(Meeting::open(&world).await);
    }
    let call = creating(&SigningKey::generate());
    world.assert_refuses("one more", &call, ProblemType::TooManyRendezvous).await;
    let reply = world.pay(&call).await;
    assert_eq!(reply.header("retry-after"), "60");
    let first = last.remove(0);
    world.send(&first.ending(&first.owner).wire()).await.assert_ok("ending one");
    Meeting::open(&world).await;
    world.assert_refuses("one more again", &call, ProblemType::TooManyRendezvous).await;
    // Until somebody deletes those that are over.
    let pass = "UPDATE rendezvous.meetings SET expires = rendezvous.this_minute() - 1";
    world.admin.execute(pass, &[]).await.unwrap();
    Meeting::open(&world).await;
    world.close();
}

#[tokio::test]
async fn nothing_is_left_of_a_rendezvous_when_its_minutes_are_over() {
    let world = World::start().await;
    let meeting = Meeting::of_two(&world).await;
    world.send(&meeting.leaving(&meeting.owner, 0, &random(20_000)).wire()).await.assert_ok("a payload");
    let left = "SELECT count(*) FROM rendezvous.meetings";
    let size = "SELECT pg_relation_size('rendezvous.meetings')
                       + (SELECT pg_relation_size(c.reltoastrelid) FROM pg_class c
                           WHERE c.oid = 'rendezvous.meetings'::regclass)";
    let meetings = "SELECT coalesce(array_agg(m::text), '{}') FROM rendezvous.meetings m";
    let clean_up = "SELECT rendezvous.clean_up()";
    world.admin.execute(clean_up, &[]).await.unwrap();
    assert_eq!(world.value::<i64>(left).await, 1, "it is under way");
    assert!(world.value::<i64>(size).await > 20_000);

    // A minute after its last one.
    let pass = "UPDATE rendezvous.meetings SET expires = rendezvous.this_minute() - 1";
    world.admin.execute(pass, &[]).await.unwrap();
    for (what, call) in [
        ("joining", meeting.joining(&meeting.guest)),
        ("leaving a payload", meeting.leaving(&meeting.guest, 0, b"late")),
        ("receiving", meeting.receiving(&meeting.guest, 0, 0)),
    ] {
        let before: Vec<String> = world.value(meetings).await;
        let wire = call.wire();
        let reply = world.send(&wire).await;
        reply.assert_problem(what, ProblemType::NotFound);
        reply.assert_says_nothing_of(&wire.private_texts(), what);
        let after: Vec<String> = world.value(meetings).await;
        // The server deletes it, too, at a time of its own.
        assert!(after == before || after.is_empty(), "{what}");
    }
    world.admin.execute(clean_up, &[]).await.unwrap();
    assert_eq!(world.value::<i64>(left).await, 0);
    eventually("it is gone from the disk, once nobody else has the table", async || {
        world.admin.execute(clean_up, &[]).await.unwrap();
        (world.value::<i64>(size).await == 0).then_some(())
    })
    .await;
    Meeting::of_two(&world).await;
    world.close();
}

#[tokio::test]
async fn a_rendezvous_lives_for_its_minutes_again_once_the_guest_has_come() {
    let world = World::start().await;
    let meeting = Meeting::open(&world).await;
    // All within one minute.
    early_in(60, 20).await;
    let left = "SELECT expires - rendezvous.this_minute() FROM rendezvous.meetings";
    let pass = "UPDATE rendezvous.meetings SET expires = rendezvous.this_minute()";
    world.admin.execute(pass, &[]).await.unwrap();
    world.send(&meeting.joining(&meeting.guest).wire()).await.assert_ok("at the last moment");
    assert!((9..=10).contains(&world.value::<i32>(left).await));
    world.admin.execute(pass, &[]).await.unwrap();
    world.send(&meeting.joining(&meeting.guest).wire()).await.assert_ok("again");
    assert_eq!(world.value::<i32>(left).await, 0, "that is no second coming");
    world.close();
}

/// Bytes that do not compress, as ciphertext does not.
fn random(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}
