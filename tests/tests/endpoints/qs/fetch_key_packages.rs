//! `POST /qs/key-packages/fetch` (QS-6)

use std::collections::HashSet;

use ciborium::Value;
use openmls::prelude::Ciphersuite;
use postern_protocol::{
    ds::MessageAccepted,
    problem::ProblemType,
    qs::{KeyPackageBatch, PublishKeyPackages, StockedKeyPackage},
};
use postern_tests_kit::{
    Commit, Friendship, World, fetching, fetching_of, fresh_stock, fresh_token, last_resort, last_resort_of,
    package, package_of, packages, stocked,
};
use reqwest::StatusCode;

use crate::{ds::library::Library, every_route::Valid};

pub async fn valid(world: &World) -> Valid {
    let friendship = Friendship::new();
    world.pay(&friendship.publishing(fresh_stock(), &packages(2))).await.assert_ok("publishing");
    Valid {
        cut: vec![("friendship_token", ProblemType::MalformedBody)],
        optional: &["ciphersuite"],
        ..Valid::new(fetching(friendship.token), StatusCode::OK)
    }
}

#[tokio::test]
async fn a_friend_gets_one_package_of_each_client_and_each_package_once() {
    let world = World::start().await;
    let friendship = Friendship::new();
    let (one, two) = (packages(2), packages(1));
    world.pay(&friendship.publishing(fresh_stock(), &one)).await.assert_ok("one client");
    world.pay(&friendship.publishing(fresh_stock(), &two)).await.assert_ok("another");
    let first = world.fetch(friendship.token).await;
    assert_eq!(first.len(), 2);
    assert!(first.contains(&one[0]) && first.contains(&two[0]), "with what their owners attached");
    assert_eq!(world.fetch(friendship.token).await, one[1..]);
    assert!(world.fetch(friendship.token).await.is_empty(), "nothing is left, and nothing is refused");
    assert_eq!(world.value::<i64>("SELECT count(*) FROM qs.key_packages").await, 0);
    world.assert_refuses("a token that there is not", &fetching(fresh_token()), ProblemType::NotFound).await;
    world.close();
}

#[tokio::test]
async fn the_last_resort_is_handed_out_when_nothing_else_is_left_and_stays() {
    let world = World::start().await;
    let friendship = Friendship::new();
    let (ordinary, spare) = (packages(1), last_resort());
    let call = friendship.publish(PublishKeyPackages {
        friendship_token: friendship.token,
        stock_id: fresh_stock(),
        key_packages: ordinary.clone(),
        last_resort: Some(spare.clone()),
        create: true,
    });
    world.pay(&call).await.assert_ok("publishing");
    assert_eq!(world.fetch(friendship.token).await, ordinary);
    for _ in 0..2 {
        assert_eq!(world.fetch(friendship.token).await, std::slice::from_ref(&spare));
    }
    world.close();
}

#[tokio::test]
async fn who_fetches_says_which_ciphersuite_the_group_has() {
    let world = World::start().await;
    let operator = world.cluster.connect_as("postern_operator").await;
    let other = Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519;
    let friendship = Friendship::new();
    let publishing = |key_packages: &[StockedKeyPackage], last_resort: &StockedKeyPackage| {
        friendship.publish(PublishKeyPackages {
            friendship_token: friendship.token,
            stock_id: fresh_stock(),
            key_packages: key_packages.to_vec(),
            last_resort: Some(last_resort.clone()),
            create: true,
        })
    };
    // One client has both, another the usual one only.
    let (usual, spare) = ([package(), package()], last_resort());
    let (others, others_spare) = ([package_of(other)], last_resort_of(other));
    world.pay(&publishing(&usual, &spare)).await.assert_ok("one");
    world.pay(&publishing(&others, &others_spare)).await.assert_ok("the same client's other");
    let (second, second_spare) = ([package()], last_resort());
    world.pay(&publishing(&second, &second_spare)).await.assert_ok("another client's");

    assert_eq!(world.fetch_of(other, friendship.token).await, others);
    assert_eq!(
        world.fetch_of(other, friendship.token).await,
        std::slice::from_ref(&others_spare),
        "its last resort"
    );
    let unsaid = fetching(friendship.token).without("ciphersuite");
    let batch: KeyPackageBatch = world.pay(&unsaid).await.decode();
    assert_eq!(batch.key_packages.len(), 2);
    assert!(batch.key_packages.contains(&usual[0]) && batch.key_packages.contains(&second[0]));

    let forbidden = ProblemType::CiphersuiteForbidden;
    operator.execute("SELECT operator.forbid_ciphersuite(3)", &[]).await.unwrap();
    let call = fetching_of(other, friendship.token);
    world.assert_refuses("one that is not allowed any more", &call, forbidden).await;
    operator.execute("SELECT operator.allow_ciphersuite(3)", &[]).await.unwrap();
    assert_eq!(world.fetch_of(other, friendship.token).await, [others_spare], "it is still there");
    for unknown in [0, 2, 77, 0xffff] {
        let call = fetching(friendship.token).with_field("ciphersuite", Value::from(unknown));
        world.assert_refuses("one that nobody allowed", &call, forbidden).await;
    }
    for malformed in [Value::from(0x10000), Value::from(-1), Value::Bytes(vec![0, 1]), Value::Null] {
        let call = fetching(friendship.token).with_field("ciphersuite", malformed);
        world.assert_refuses("no ciphersuite", &call, ProblemType::MalformedBody).await;
    }
    let left = world.fetch(friendship.token).await;
    assert!(left.len() == 2 && left.contains(&usual[1]) && left.contains(&second_spare));
    world.close();
}

#[tokio::test]
async fn who_is_fetched_for_a_post_quantum_group_joins_it() {
    let world = World::start().await;
    let operator = world.cluster.connect_as("postern_operator").await;
    operator.execute("SELECT operator.allow_ciphersuite(77)", &[]).await.unwrap();
    let suite = Ciphersuite::MLS_256_XWING_CHACHA20POLY1305_SHA256_Ed25519;
    let (mut founder, mut joiner) = (world.candidate().await, world.candidate().await);
    founder.party.set_suite(suite, Library::Libcrux.crypto());
    joiner.party.set_suite(suite, Library::Libcrux.crypto());
    let friendship = Friendship::new();
    let published = stocked(&joiner.party);
    assert!(published.key_package.as_bytes().len() > 2 * 1216, "two keys of X-Wing");
    let call = friendship.publishing(fresh_stock(), std::slice::from_ref(&published));
    world.pay(&call).await.assert_ok("publishing");
    let mut group = world.group_by(founder).await;
    let fetched = world.fetch_of(suite, friendship.token).await;
    assert_eq!(fetched, [published]);
    let add = vec![group.party(0).open_key_package(&fetched[0].key_package)];
    let (_, call) = group.make(0, Commit { add, ..Default::default() });
    let accepted: MessageAccepted = world.pay(&call).await.decode();
    group.party(0).merge();
    world.join(&group, accepted.epoch, &mut joiner).await;
    assert_eq!(joiner.party.epoch_authenticator(), group.party(0).epoch_authenticator());
    world.close();
}

#[tokio::test]
async fn what_expires_before_all_have_read_that_it_was_used_is_not_handed_out() {
    let world = World::start().await;
    let friendship = Friendship::new();
    let stock_id = fresh_stock();
    let stock = packages(3);
    let call = friendship.publish(PublishKeyPackages {
        friendship_token: friendship.token,
        stock_id,
        key_packages: stock.clone(),
        last_resort: Some(last_resort()),
        create: true,
    });
    world.pay(&call).await.assert_ok("publishing");
    // Messages wait for 14 days until other domains take them, then for 30, a day more with their chains, and the inviter
    // has a day.
    let age = "UPDATE qs.key_packages SET expires = (now() AT TIME ZONE 'UTC')::date + 45 + number
                WHERE NOT last_resort";
    world.admin.batch_execute(age).await.unwrap();
    assert_eq!(world.remaining(&friendship, stock_id).await, 2);
    assert_eq!(world.fetch(friendship.token).await, stock[1..2]);
    let age = "UPDATE qs.key_packages SET expires = (now() AT TIME ZONE 'UTC')::date + 46";
    world.admin.batch_execute(age).await.unwrap();
    assert_eq!(world.remaining(&friendship, stock_id).await, 0);
    assert!(world.fetch(friendship.token).await.is_empty(), "there is no last resort, either");
    let operator = world.cluster.connect_as("postern_operator").await;
    let set = async |limit: &str| operator.batch_execute(&format!("SELECT operator.{limit}")).await.unwrap();
    set("set_queue_limit('message_days', 29)").await;
    assert_eq!(world.remaining(&friendship, stock_id).await, 2);
    assert_eq!(world.fetch(friendship.token).await.len(), 1);
    set("set_queue_limit('message_days', 30)").await;
    assert_eq!(world.remaining(&friendship, stock_id).await, 0);
    set("set_federation_limit('outbox_days', 13)").await;
    assert_eq!(world.remaining(&friendship, stock_id).await, 1);
    // More than clients can promise is not asked of them.
    let age = "UPDATE qs.key_packages SET expires = (now() AT TIME ZONE 'UTC')::date + 63";
    world.admin.batch_execute(age).await.unwrap();
    set("set_federation_limit('outbox_days', 365)").await;
    assert_eq!(world.remaining(&friendship, stock_id).await, 1);
    world.close();
}

#[tokio::test]
async fn those_who_fetch_at_once_from_two_servers_never_get_the_same() {
    const FRIENDS: usize = 40;
    let world = World::builder().servers(2).tokens(100).patient().start().await;
    let friendship = Friendship::new();
    for _ in 0..2 {
        let call = friendship.publish(PublishKeyPackages {
            friendship_token: friendship.token,
            stock_id: fresh_stock(),
            key_packages: packages(FRIENDS),
            last_resort: Some(last_resort()),
            create: true,
        });
        world.pay(&call).await.assert_ok("publishing");
    }
    let fetches = (0..FRIENDS).map(|friend| {
        let wire = fetching(friendship.token).paid_with(world.token()).wire();
        let world = &world;
        async move {
            world.send_to(&world.servers[friend % 2], &wire).await.decode::<KeyPackageBatch>().key_packages
        }
    });
    let batches = futures_util::future::join_all(fetches).await;
    let mut seen = HashSet::new();
    for package in batches.iter().flatten() {
        assert!(seen.insert(package.key_package.clone()), "a KeyPackage was handed out twice");
    }
    assert!(batches.iter().all(|batch| batch.len() == 2), "one of each client");
    assert_eq!(seen.len(), 2 * FRIENDS, "all of the stock, and no last resort");
    assert_eq!(world.value::<i64>("SELECT count(*) FROM qs.key_packages WHERE NOT last_resort").await, 0);
    world.close();
}

#[tokio::test]
async fn publishing_and_rotating_while_friends_fetch_gives_them_whole_packages_or_none() {
    let world = World::builder().tokens(100).patient().start().await;
    let mut friendship = Friendship::new();
    let stock_id = fresh_stock();
    let mut published = HashSet::new();
    let mut fetched = Vec::new();
    for round in 0..8 {
        let stock = packages(4);
        published.extend(stock.iter().map(|package| package.key_package.clone()));
        let publish = friendship.publishing(stock_id, &stock);
        if round == 0 {
            world.pay(&publish).await.assert_ok("publishing");
            continue;
        }
        let new = fresh_token();
        let rotate = friendship.rotating(new);
        let token = friendship.token;
        let fetch = async |world: &World| {
            let reply = world.pay(&fetching(token)).await;
            if reply.status == StatusCode::NOT_FOUND {
                return Vec::new();
            }
            reply.decode::<KeyPackageBatch>().key_packages
        };
        let (publication, rotation, one, two, three) = tokio::join!(
            world.pay(&publish),
            world.pay(&rotate),
            fetch(&world),
            fetch(&world),
            fetch(&world)
        );
        rotation.assert_ok("rotating");
        // It came before the rotation, or made a friendship under the old token, or was too late
        // for the one and too early for the other.
        assert!(publication.status.is_success() || publication.status == StatusCode::NOT_FOUND);
        fetched.extend([one, two, three].into_iter().flatten());
        friendship.token = new;
    }
    let distinct: HashSet<_> = fetched.iter().map(|package| package.key_package.clone()).collect();
    assert_eq!(distinct.len(), fetched.len(), "each once");
    assert!(distinct.is_subset(&published));
    world.close();
}
