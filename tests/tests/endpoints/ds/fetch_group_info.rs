//! `POST /ds/groups/{group_id}/group-info` (DS-7, DS-8)

use ciborium::Value;
use postern_protocol::{StateKey, ds::GroupId, key::SigningKey, problem::ProblemType};
use postern_tests_kit::{Commit, World, home, random_id};
use reqwest::StatusCode;

use super::targets;
use crate::every_route::Valid;

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

#[tokio::test]
async fn a_removed_client_does_not_get_the_group_by_a_key_that_another_leaf_of_its_user_still_has() {
    let world = World::start().await;
    world.stock(200).await;
    let mut group = world.group(2).await;
    let further =
        vec![world.further_client(&group.members[1]).await, world.further_client(&group.members[1]).await];
    world.add_by(&mut group, 1, further).await;
    world.receive(&mut group.members[2]).await;
    let old = group.members[1].party.user.clone();
    world.group_info(&group, &old).await;

    let address = group.members[2].address;
    let remover = group.party(2);
    (remover.user, remover.generation) = (SigningKey::generate(), 1);
    let leaf = Some(remover.leaf_at(&home(), address));
    let removal = Commit { remove: vec![group.key(1)], leaf, ..Default::default() };
    let (_, call) = group.make(2, removal);
    world.pay(&call).await.assert_ok("a client removes another of its user");
    group.party(2).merge();
    world.assert_refuses("the user's old key", &group.ask_for_info(&old), ProblemType::NotAllowed).await;
    for signer in [&group.members[2].party.user, &group.members[2].party.key, &group.members[3].party.key] {
        world.group_info(&group, signer).await;
    }

    // The client with the new key leaves before the other one has committed: what is left is the old key.
    let departure = group.party(2).self_remove();
    world.pay(&group.submit(2, &departure, None)).await.assert_ok("a departure");
    world.receive(&mut group.members[0]).await;
    let (_, call) = group.make(0, Commit { update: true, ..Default::default() });
    world.pay(&call).await.assert_ok("another member commits it");
    group.party(0).merge();
    for epoch in ["the next", "the one after it"] {
        world.assert_refuses(epoch, &group.ask_for_info(&old), ProblemType::NotAllowed).await;
        world.group_info(&group, &group.members[3].party.key).await;
        let (_, call) = group.make(0, Commit { update: true, ..Default::default() });
        world.pay(&call).await.assert_ok("another commit");
        group.party(0).merge();
    }
    world.receive(&mut group.members[3]).await;
    let address = group.members[3].address;
    let party = group.party(3);
    (party.user, party.generation) = (SigningKey::generate(), 1);
    let leaf = Some(party.leaf_at(&home(), address));
    let (_, call) = group.make(3, Commit { leaf, update: true, ..Default::default() });
    world.pay(&call).await.assert_ok("a new key of the user");
    world.group_info(&group, &group.members[3].party.user.clone()).await;
    world.assert_refuses("the old key for ever", &group.ask_for_info(&old), ProblemType::NotAllowed).await;
    world.close();
}

/// Two releases may run on one database: the older one may meet what the later one wrote (OPS-6).
#[tokio::test]
async fn a_group_in_a_later_releases_format_is_a_fault_that_spends_nothing_and_not_an_unknown_group() {
    let world = World::start().await;
    let group = world.group(2).await;
    let call = world.paid(group.ask_for_info(&group.members[1].party.key));
    let write_in = async |format: i32| {
        let sql = "UPDATE ds.groups SET tree = set_byte(tree, 0, $1)";
        world.admin.execute(sql, &[&format]).await.unwrap();
    };
    write_in(200).await;
    world.send(&call.wire()).await.assert_problem("a later format", ProblemType::Fault);
    write_in(1).await;
    world.send(&call.wire()).await.assert_ok("the same request with the same token");
}
