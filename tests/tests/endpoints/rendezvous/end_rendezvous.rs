//! `DELETE /rendezvous/{number}` (AS-7)

use postern_protocol::problem::ProblemType;
use postern_tests_kit::World;
use reqwest::StatusCode;

use super::{Meeting, other_rendezvous};
use crate::every_route::Valid;

pub async fn valid(world: &World) -> Vec<Valid> {
    let mut entries = Vec::new();
    for side in [|meeting: &Meeting| meeting.owner.clone(), |meeting: &Meeting| meeting.guest.clone()] {
        let meeting = Meeting::of_two(world).await;
        entries.push(Valid {
            stranger: Some(ProblemType::NotFound),
            targets: other_rendezvous(""),
            ..Valid::new(meeting.ending(&side(&meeting)), StatusCode::NO_CONTENT)
        });
    }
    entries
}

#[tokio::test]
async fn either_side_ends_it_and_nothing_is_left() {
    let world = World::start().await;
    for ends in [|meeting: &Meeting| meeting.owner.clone(), |meeting: &Meeting| meeting.guest.clone()] {
        let meeting = Meeting::of_two(&world).await;
        world.send(&meeting.leaving(&meeting.owner, 0, b"hello").wire()).await.assert_ok("a payload");
        world.send(&meeting.ending(&ends(&meeting)).wire()).await.assert_ok("ending");
        assert_eq!(world.count("rendezvous.meetings").await, 0);
        for (what, side) in meeting.sides() {
            let call = meeting.receiving(side, 0, 0);
            world.assert_refused(what, &call.wire(), ProblemType::NotFound).await;
            world.assert_refused(what, &meeting.ending(side).wire(), ProblemType::NotFound).await;
        }
    }
    world.close();
}
