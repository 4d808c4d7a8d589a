//! `POST /ds/groups/{group_id}/group-info` (DS-7, DS-8)

use ciborium::Value;
use postern_protocol::{StateKey, ds::GroupId, problem::ProblemType};
use postern_tests_kit::{Commit, World, home, random_id};
use reqwest::StatusCode;

use super::targets;
use crate::road::Valid;

pub async fn valid(world: &World) -> Valid {
    let group = world.group(2).await;
    let unknown = GroupId::new(random_id(), home());
    Valid {
        stranger: Some(ProblemType::NotAllowed),
        cut: vec![("state_key", ProblemType::MalformedBody)],
        targets: targets(&group.id, "group-info", (&unknown, ProblemType::NotFound)),
        ..Valid::new(group.ask_for_info(&group.members[1].party.key), StatusCode::OK)
    }
}

#[tokio::test]
async fn members_and_their_users_get_the_group_as_it_is_and_nobody_else() {
    let world = World::start().await;
    let mut group = world.group(3).await;
    let party = &group.members[1].party;
    let call = group.ask_for_info(&party.key);
    for (what, key) in [
        ("another key", StateKey::new([7; 32])),
        ("the secret for the key", StateKey::new(group.policy.state_secret)),
    ] {
        let wrong = call.with_field("state_key", Value::Bytes(key.as_bytes().to_vec()));
        world.assert_refuses(what, &wrong, ProblemType::NotFound).await;
    }
    for (what, signer) in [("a leaf's key", &party.key), ("a user's key", &party.user)] {
        let current = world.group_info(&group, signer).await;
        assert_eq!(current.ratchet_tree, group.members[0].party.ratchet_tree(), "{what}");
        assert!(current.proposals.is_empty());
    }

    let removal = Commit { remove: vec![group.key(2)], ..Default::default() };
    let (made, commit) = group.make(0, removal);
    world.pay(&commit).await.assert_ok("removing a member");
    group.party(0).merge();
    let removed = &group.members[2].party;
    for (what, signer) in [("a removed member", &removed.key), ("a removed user", &removed.user)] {
        world.assert_refuses(what, &group.ask_for_info(signer), ProblemType::NotAllowed).await;
    }
    let current = world.group_info(&group, &group.members[1].party.key).await;
    assert_eq!(Some(current.group_info), made.group_info);
    assert_eq!(current.ratchet_tree, group.members[0].party.ratchet_tree());
    world.receive(&mut group.members[1]).await;
    let renewed = group.party(1).propose_update();
    world.pay(&group.submit(1, &renewed, None)).await.assert_ok("a proposal");
    let current = world.group_info(&group, &group.members[0].party.key).await;
    assert_eq!(current.proposals, [renewed]);
    world.close();
}
