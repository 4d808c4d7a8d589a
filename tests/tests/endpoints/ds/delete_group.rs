//! `DELETE /ds/groups/{group_id}` (DS-11)

use ciborium::Value;
use postern_protocol::{StateKey, ds::GroupId, problem::ProblemType};
use postern_tests_kit::{Commit, World, home, random_id};
use reqwest::StatusCode;

use super::targets;
use crate::every_route::Valid;

pub async fn valid(world: &World) -> Valid {
    let group = world.group(1).await;
    let unknown = GroupId::new(random_id(), home());
    Valid {
        stranger: Some(ProblemType::NotAllowed),
        cut: vec![("state_key", ProblemType::MalformedBody)],
        targets: targets(&group.id, "", (&unknown, ProblemType::NotFound)),
        ..Valid::new(group.deletion(0), StatusCode::NO_CONTENT)
    }
}

#[tokio::test]
async fn an_admin_ends_a_group_that_nobody_else_is_in_and_nothing_of_it_is_left() {
    let world = World::start().await;
    let mut group = world.group(2).await;
    for member in [0, 1] {
        let call = group.deletion(member);
        world.assert_refuses("a group with another member", &call, ProblemType::PolicyViolation).await;
    }
    let remove = vec![group.key(1)];
    let (_, commit) = group.make(0, Commit { remove, ..Default::default() });
    world.pay(&commit).await.assert_ok("removing the other");
    group.party(0).merge();
    let call = group.deletion(1);
    world.assert_refuses("who was removed", &call, ProblemType::NotAllowed).await;
    let call = group.deletion(0);
    let wrong = call.with_field("state_key", Value::Bytes(StateKey::new([7; 32]).as_bytes().to_vec()));
    world.assert_refuses("another key", &wrong, ProblemType::NotFound).await;
    world.pay(&call).await.assert_ok("the last one");
    let left = "SELECT (SELECT count(*) FROM ds.groups) + (SELECT count(*) FROM ds.welcome_trees)";
    assert_eq!(world.value::<i64>(left).await, 0);
    world.assert_refuses("once more", &call, ProblemType::NotFound).await;
    world.close();
}
