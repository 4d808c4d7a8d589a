//! `POST /ds/groups/{group_id}/welcome-tree` (DS-7)

use ciborium::Value;
use postern_protocol::{StateKey, ds::GroupId, problem::ProblemType};
use postern_tests_kit::{Commit, Group, Member, World, home, random_id};
use reqwest::StatusCode;

use super::targets;
use crate::every_route::Valid;

pub async fn valid(world: &World) -> Valid {
    let mut group = world.group(2).await;
    let joiners = add(world, &mut group, 1).await;
    let unknown = GroupId::new(random_id(), home());
    Valid {
        stranger: Some(ProblemType::NotFound),
        cut: vec![("state_key", ProblemType::MalformedBody)],
        targets: targets(&group.id, "welcome-tree", (&unknown, ProblemType::NotFound)),
        ..Valid::new(group.ask_for_tree(2, &joiners[0].party.key), StatusCode::OK)
    }
}

/// The admin adds some who do not join yet.
async fn add(world: &World, group: &mut Group, number: usize) -> Vec<Member> {
    let mut joiners = Vec::new();
    for _ in 0..number {
        joiners.push(world.candidate().await);
    }
    let add = joiners.iter().map(|joiner| joiner.party.key_package()).collect();
    let (_, commit) = group.make(0, Commit { add, ..Default::default() });
    world.pay(&commit).await.assert_ok("adding");
    group.party(0).merge();
    joiners
}

async fn trees(world: &World) -> i64 {
    world.value("SELECT count(*) FROM ds.welcome_trees").await
}

#[tokio::test]
async fn a_joiner_gets_the_tree_of_its_epoch_until_it_has_shown_up() {
    let world = World::start().await;
    world.stock(200).await;
    let mut group = world.group(2).await;
    let spoken = group.party(1).say(b"I joined");
    world.pay(&group.submit(1, &spoken, None)).await.assert_ok("the member of the first epoch shows up");
    assert_eq!(trees(&world).await, 0, "nobody is awaited");
    let mut joiners = add(&world, &mut group, 2).await;
    let tree = group.members[0].party.ratchet_tree();

    // The group goes on meanwhile: the tree is that of the epoch of the add (RFC 9420 §12.4.3.1).
    let (_, commit) = group.make(0, Commit { update: true, ..Default::default() });
    world.pay(&commit).await.assert_ok("an update");
    group.party(0).merge();
    for joiner in &joiners {
        assert_eq!(world.welcome_tree(&group, 2, &joiner.party).await, tree, "more than once, if need be");
    }
    let first = &joiners[0].party;
    for (what, call, as_) in [
        ("another member", group.ask_for_tree(2, &group.members[1].party.key), ProblemType::NotFound),
        ("the joiner's user", group.ask_for_tree(2, &first.user), ProblemType::NotFound),
        ("another epoch", group.ask_for_tree(3, &first.key), ProblemType::NotFound),
        ("the last epoch there can be", group.ask_for_tree(u64::MAX, &first.key), ProblemType::NotFound),
        (
            "another key",
            group
                .ask_for_tree(2, &first.key)
                .with_field("state_key", Value::Bytes(StateKey::new([7; 32]).as_bytes().to_vec())),
            ProblemType::NotFound,
        ),
    ] {
        world.assert_refuses(what, &call, as_).await;
    }

    for mut joiner in joiners.drain(..) {
        world.join(&group, 2, &mut joiner).await;
        group.members.push(joiner);
    }
    // One speaks, the other commits: both have joined.
    let hello = group.party(2).say(b"hello");
    world.pay(&group.submit(2, &hello, None)).await.assert_ok("a message");
    let call = group.ask_for_tree(2, &group.members[2].party.key);
    world.assert_refuses("who has shown up", &call, ProblemType::NotFound).await;
    assert_eq!(trees(&world).await, 1, "the other may still need it");
    let again = group.party(2).say(b"hello?");
    world.pay(&group.submit(2, &again, None)).await.assert_ok("a message");
    let (_, commit) = group.make(3, Commit { update: true, ..Default::default() });
    world.pay(&commit).await.assert_ok("an update");
    assert_eq!(trees(&world).await, 0, "gone (PRIV-3)");
    world.close();
}

#[tokio::test]
async fn the_tree_of_who_never_shows_up_goes_when_it_is_removed_or_its_key_package_expires() {
    let world = World::start().await;
    let mut group = world.group(1).await;
    let joiners = add(&world, &mut group, 1).await;
    let kept: i64 = world
        .value("SELECT count(*) FROM ds.welcome_trees WHERE expires > current_date AND expires < current_date + 70")
        .await;
    assert_eq!(kept, 1);
    let remove = vec![joiners[0].party.public_key()];
    let (_, commit) = group.make(0, Commit { remove, ..Default::default() });
    world.pay(&commit).await.assert_ok("removing the joiner");
    group.party(0).merge();
    assert_eq!(trees(&world).await, 0);

    let joiners = add(&world, &mut group, 1).await;
    let call = group.ask_for_tree(3, &joiners[0].party.key);
    world.pay(&call).await.assert_ok("today");
    world.admin.execute("UPDATE ds.welcome_trees SET expires = current_date - 2", &[]).await.unwrap();
    world.assert_refuses("afterwards", &call, ProblemType::NotFound).await;
    world.admin.execute("SELECT ds.clean_up()", &[]).await.unwrap();
    assert_eq!(trees(&world).await, 0);
    world.close();
}
