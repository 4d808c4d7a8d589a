//! `POST /rendezvous/{number}/payloads` (AS-7)

use postern_protocol::problem::ProblemType;
use postern_tests_kit::World;
use reqwest::StatusCode;

use super::{Meeting, limit, other_rendezvous, texts};
use crate::every_route::Valid;

pub async fn valid(world: &World) -> Vec<Valid> {
    let meeting = Meeting::of_two(world).await;
    let valid = |(_, side)| Valid {
        stranger: Some(ProblemType::NotFound),
        targets: other_rendezvous("/payloads"),
        ..Valid::new(meeting.leaving(side, 0, b"hello"), StatusCode::NO_CONTENT)
    };
    meeting.sides().map(valid).into()
}

#[tokio::test]
async fn each_side_reads_what_the_other_left_in_order() {
    let world = World::start().await;
    let meeting = Meeting::of_two(&world).await;
    for (place, text) in (0..).zip(["one", "two", "three"]) {
        for (what, side) in meeting.sides() {
            let call = meeting.leaving(side, place, format!("{text} of {what}").as_bytes());
            world.send(&call.wire()).await.assert_ok("a payload");
            world.send(&call.wire()).await.assert_ok("the same again, whose answer was lost");
        }
    }
    let [own, others] = [&meeting.owner, &meeting.guest];
    for (side, other) in [(own, "the guest"), (others, "the owner")] {
        let read = async |after| texts(&world.send(&meeting.receiving(side, after, 0).wire()).await);
        assert_eq!(read(0).await, ["one", "two", "three"].map(|text| format!("{text} of {other}")));
        assert_eq!(read(2).await, [format!("three of {other}")]);
        assert!(read(3).await.is_empty());
        assert!(read(u16::MAX).await.is_empty());
    }
    world.close();
}

#[tokio::test]
async fn places_are_filled_in_order_and_once() {
    let world = World::start().await;
    let meeting = Meeting::of_two(&world).await;
    for (what, side) in meeting.sides() {
        let closed = ProblemType::RendezvousClosed;
        let ahead = meeting.leaving(side, 1, b"two");
        world.assert_refused(&format!("{what}: a gap"), &ahead.wire(), closed).await;
        world.send(&meeting.leaving(side, 0, b"one").wire()).await.assert_ok("the first");
        let other = meeting.leaving(side, 0, b"another");
        world.assert_refused(&format!("{what}: another in its place"), &other.wire(), closed).await;
        let far = meeting.leaving(side, u16::MAX, b"far");
        world.assert_refused(&format!("{what}: far ahead"), &far.wire(), closed).await;
        world.send(&ahead.wire()).await.assert_ok("the second");
    }
    world.close();
}

#[tokio::test]
async fn payloads_are_bounded_in_number_and_size_and_so_are_requests() {
    let world = World::start().await;
    limit(&world, "max_payloads", 8).await;
    limit(&world, "max_payload_bytes", 8192).await;
    // The largest that may be set fits into a body, also in base64.
    let operator = world.cluster.connect_as("postern_operator").await;
    let larger = "SELECT operator.set_rendezvous_limit('max_payload_bytes', 45057)";
    operator.execute(larger, &[]).await.expect_err("no body has room for it");
    limit(&world, "max_payload_bytes", 45_056).await;
    let (roomy, most) = (Meeting::of_two(&world).await, vec![7; 45_056]);
    let call = roomy.leaving(&roomy.owner, 0, &most);
    world.send(&call.in_json().wire()).await.assert_ok("in JSON");
    let call = roomy.leaving(&roomy.owner, 1, &most);
    world.send(&call.wire()).await.assert_ok("in CBOR");
    limit(&world, "max_payload_bytes", 8192).await;
    world.send(&call.wire()).await.assert_ok("the same again, whatever the limit is by now");
    let meeting = Meeting::of_two(&world).await;
    let (largest, too_large) = (vec![7; 8192], vec![7; 8193]);
    let call = meeting.leaving(&meeting.owner, 0, &too_large);
    world.assert_refused("a large payload", &call.wire(), ProblemType::BodyTooLarge).await;
    for place in 0..8 {
        world.send(&meeting.leaving(&meeting.owner, place, &largest).wire()).await.assert_ok("a payload");
    }
    let call = meeting.leaving(&meeting.owner, 8, b"");
    world.assert_refused("one payload more", &call.wire(), ProblemType::RendezvousClosed).await;
    world.send(&meeting.leaving(&meeting.guest, 0, &largest).wire()).await.assert_ok("the guest's");

    limit(&world, "max_requests", 50).await;
    // Joining and nine payloads were requests, too.
    for _ in 10..50 {
        world.send(&meeting.receiving(&meeting.guest, 0, 0).wire()).await.assert_ok("a request");
    }
    for (what, call) in [
        ("receiving", meeting.receiving(&meeting.guest, 0, 0)),
        ("leaving a payload", meeting.leaving(&meeting.guest, 1, b"hello")),
        ("joining", meeting.joining(&meeting.guest)),
    ] {
        world.assert_refused(what, &call.wire(), ProblemType::RendezvousClosed).await;
    }
    world.send(&meeting.ending(&meeting.guest).wire()).await.assert_ok("but it can be ended");
}
