//! `PUT /qs/key-packages` (QS-6)

use ciborium::Value;
use openmls::prelude::{Ciphersuite, ExtensionType, Extensions, Lifetime};
use postern_protocol::{
    MlsMessage, Payload,
    mls::{DELIVERY_ADDRESS, GROUP_POLICY},
    problem::ProblemType,
    qs::{KeyPackageStock, PublishKeyPackages, StockedKeyPackage},
};
use postern_tests_kit::{
    Friendship, Party, UNUSABLE, World, fresh_address, fresh_stock, home, last_resort, last_resort_of, now,
    over, package, package_for, package_of, packages, receiver, stocked,
};
use reqwest::StatusCode;

use crate::{ds::encryption_keys::assert_unusable, every_route::Valid};

const HOUR: u64 = 60 * 60;

pub fn valid() -> Valid {
    let friendship = Friendship::new();
    let call = friendship.publish(PublishKeyPackages {
        friendship_token: friendship.token,
        stock_id: fresh_stock(),
        key_packages: packages(2),
        last_resort: Some(last_resort()),
        create: true,
    });
    Valid {
        cut: vec![("friendship_token", ProblemType::MalformedBody), ("stock_id", ProblemType::MalformedBody)],
        optional: &["last_resort", "create"],
        ..Valid::new(call, StatusCode::OK)
    }
}

#[tokio::test]
async fn what_is_published_replaces_what_the_client_published_before_and_nobody_elses() {
    let world = World::start().await;
    let friendship = Friendship::new();
    let (phone, laptop) = (fresh_stock(), fresh_stock());
    let laptops = packages(1);
    world.pay(&friendship.publishing(laptop, &laptops)).await.assert_ok("the laptop");
    world.pay(&friendship.publishing(phone, &packages(3))).await.assert_ok("the phone");
    let (new, spare) = (packages(2), last_resort());
    let stock: KeyPackageStock = world
        .pay(&friendship.publish(PublishKeyPackages {
            friendship_token: friendship.token,
            stock_id: phone,
            key_packages: new.clone(),
            last_resort: Some(spare.clone()),
            create: false,
        }))
        .await
        .decode();
    assert_eq!(stock.remaining, 2, "the last resort does not count");
    let mut fetched = world.fetch(friendship.token).await;
    fetched.extend(world.fetch(friendship.token).await);
    fetched.extend(world.fetch(friendship.token).await);
    let expected: Vec<_> = [laptops, new, vec![spare]].concat();
    assert_eq!(fetched.len(), expected.len());
    assert!(expected.iter().all(|package| fetched.contains(package)), "the old ones are gone");
    world.close();
}

#[tokio::test]
async fn only_whoever_made_a_friendship_publishes_in_it_and_only_who_wants_to_makes_one() {
    let world = World::start().await;
    let friendship = Friendship::new();
    let stock = fresh_stock();
    let body = |create| PublishKeyPackages {
        friendship_token: friendship.token,
        stock_id: stock,
        key_packages: packages(1),
        last_resort: None,
        create,
    };
    let call = friendship.publish(body(false));
    world.assert_refuses("a token that there is not (any more)", &call, ProblemType::NotFound).await;
    world.pay(&friendship.publish(body(true))).await.assert_ok("the first time");
    // A friend has the token, too.
    let friend = Friendship { token: friendship.token, ..Friendship::new() };
    world.assert_refuses("a friend", &friend.publish(body(true)), ProblemType::NotFound).await;
    world.assert_refuses("a friend", &friend.publish(body(false)), ProblemType::NotFound).await;
    world.pay(&friendship.publish(body(true))).await.assert_ok("the owner again");
    world.close();
}

#[tokio::test]
async fn what_nobody_could_add_to_a_group_is_refused() {
    let world = World::start().await;
    let friendship = Friendship::new();
    let stock = fresh_stock();
    let with = |change: &dyn Fn(&mut Party)| {
        let mut party = receiver();
        change(&mut party);
        stocked(&party)
    };
    let now = now();
    let twice = package();
    let address = fresh_address();
    let shared = || with(&|party| party.leaf = party.leaf_at(&home(), address));
    let mut forged = package();
    let mut bytes = forged.key_package.into_bytes();
    *bytes.last_mut().unwrap() ^= 1;
    forged.key_package = MlsMessage::new(bytes);
    let elsewhere = "elsewhere.example".parse().unwrap();
    for (what, packages) in [
        ("no KeyPackage", vec![StockedKeyPackage { key_package: MlsMessage::new(vec![7; 40]), ..package() }]),
        ("a forged signature", vec![forged]),
        ("a lifetime that is over", vec![package_for(over())]),
        (
            "a lifetime that begins tomorrow",
            vec![package_for(Lifetime::init(now + 24 * HOUR, now + 240 * HOUR))],
        ),
        ("a lifetime without end", vec![package_for(Lifetime::init(0, u64::MAX))]),
        ("a lifetime that ends today", vec![package_for(Lifetime::init(now - HOUR, now + 1))]),
        (
            "one that ends before messages do",
            vec![package(), package_for(Lifetime::init(now - HOUR, now + 46 * 24 * HOUR))],
        ),
        // Its hash is SHA-384.
        (
            "a ciphersuite that the server has not",
            vec![package_of(Ciphersuite::MLS_128_MLKEM768X25519_AES256GCM_SHA384_Ed25519)],
        ),
        ("no delivery address", vec![with(&|party| party.leaf = Extensions::empty())]),
        ("an address elsewhere", vec![with(&|party| party.leaf = party.leaf_at(&elsewhere, address))]),
        (
            "a user key of the last generation",
            vec![with(&|party| {
                party.generation = u32::MAX;
                party.leaf = party.leaf_at(&home(), address);
            })],
        ),
        ("a credential that is no pseudonym", vec![with(&|party| party.identity = b"alice".to_vec())]),
        (
            "no support for a policy",
            vec![with(&|party| {
                party.extensions = vec![ExtensionType::Unknown(DELIVERY_ADDRESS)];
            })],
        ),
        (
            "no support for an address",
            vec![with(&|party| {
                party.extensions = vec![ExtensionType::Unknown(GROUP_POLICY)];
            })],
        ),
        ("no way to leave", vec![with(&|party| party.proposals = Vec::new())]),
        ("one that is of last resort", vec![last_resort()]),
        ("the same twice", vec![twice.clone(), twice]),
        ("two with one address", vec![shared(), shared()]),
    ] {
        let call = friendship.publishing(stock, &packages);
        world.assert_refuses(what, &call, ProblemType::InvalidMls).await;
        // Together with a good one as well.
        let call = friendship.publishing(stock, &[vec![package()], packages].concat());
        world.assert_refuses(&format!("{what}, with another"), &call, ProblemType::InvalidMls).await;
    }
    let body = |last_resort| PublishKeyPackages {
        friendship_token: friendship.token,
        stock_id: stock,
        key_packages: packages(1),
        last_resort,
        create: true,
    };
    let call = friendship.publish(body(Some(package())));
    world.assert_refuses("a last resort that is none", &call, ProblemType::InvalidMls).await;
    world.pay(&friendship.publish(body(Some(last_resort())))).await.assert_ok("a good one");
    world.close();
}

#[tokio::test]
async fn what_nobody_could_encrypt_to_is_refused() {
    let world = World::start().await;
    let friendship = Friendship::new();
    let publishing = |place, spoil| {
        let party = receiver();
        party.lie(place, spoil);
        friendship.publishing(fresh_stock(), &[stocked(&party)])
    };
    for (what, spoil) in UNUSABLE {
        for (of, place) in [("the Welcome", 0), ("the leaf", 1)] {
            let call = publishing(place, spoil);
            assert_unusable(&world, &format!("{of}: {what}"), &call).await;
        }
    }
    world.pay(&publishing(usize::MAX, |key| key)).await.assert_ok("with the keys that were made");
    let party = receiver();
    party.lie(1, UNUSABLE[0].1);
    let last = StockedKeyPackage { key_package: party.last_resort_message(), ..last_resort() };
    let call = friendship.publish(PublishKeyPackages {
        friendship_token: friendship.token,
        stock_id: fresh_stock(),
        key_packages: packages(1),
        last_resort: Some(last),
        create: true,
    });
    assert_unusable(&world, "a last resort", &call).await;
    world.close();
}

#[tokio::test]
async fn a_stock_is_of_one_ciphersuite_that_the_operator_allows() {
    let world = World::start().await;
    let operator = world.cluster.connect_as("postern_operator").await;
    let (chacha, hybrid) = (
        Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519,
        Ciphersuite::MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519,
    );
    let friendship = Friendship::new();
    let stock_id = fresh_stock();
    let publishing = |key_packages: Vec<StockedKeyPackage>, last_resort| {
        friendship.publish(PublishKeyPackages {
            friendship_token: friendship.token,
            stock_id,
            key_packages,
            last_resort,
            create: true,
        })
    };
    for (what, call) in [
        ("two ciphersuites", publishing(vec![package(), package_of(chacha)], None)),
        ("another last resort", publishing(vec![package_of(chacha)], Some(last_resort()))),
    ] {
        world.assert_refuses(what, &call, ProblemType::InvalidMls).await;
    }
    let forbidden = ProblemType::CiphersuiteForbidden;
    let post_quantum = publishing(vec![package_of(hybrid)], Some(last_resort_of(hybrid)));
    world.assert_refuses("one that nobody allowed", &post_quantum, forbidden).await;
    let last = publishing(Vec::new(), Some(last_resort_of(hybrid)));
    world.assert_refuses("a last resort alone", &last, forbidden).await;

    let others = vec![package_of(chacha), package_of(chacha)];
    world.pay(&publishing(others.clone(), None)).await.assert_ok("one that is allowed");
    operator.execute("SELECT operator.forbid_ciphersuite(3)", &[]).await.unwrap();
    let again = publishing(vec![package_of(chacha)], Some(last_resort_of(chacha)));
    world.assert_refuses("one that is not allowed any more", &again, forbidden).await;
    operator.execute("SELECT operator.allow_ciphersuite(3)", &[]).await.unwrap();
    assert_eq!(world.remaining(&friendship, stock_id).await, 2, "they are still there");
    assert_eq!(world.fetch_of(chacha, friendship.token).await, others[..1]);

    operator.execute("SELECT operator.allow_ciphersuite(79)", &[]).await.unwrap();
    world.pay(&post_quantum).await.assert_ok("one that the operator allows now");
    assert!(world.fetch_of(chacha, friendship.token).await.is_empty(), "the stock is of another now");
    assert_eq!(world.fetch_of(hybrid, friendship.token).await.len(), 1);
    world.pay(&publishing(Vec::new(), None)).await.assert_ok("nothing at all");
    assert!(world.fetch_of(hybrid, friendship.token).await.is_empty(), "there is no last resort, either");
    world.close();
}

#[tokio::test]
async fn stocks_and_what_is_in_them_are_bounded() {
    let world = World::start().await;
    let friendship = Friendship::new();
    let settings = "UPDATE qs.settings SET key_packages_per_stock = 3, stocks_per_friendship = 2";
    world.admin.batch_execute(settings).await.unwrap();
    let stock = fresh_stock();
    let call = friendship.publishing(stock, &packages(4));
    world.assert_refuses("more than a stock has", &call, ProblemType::TooManyKeyPackages).await;
    world.pay(&friendship.publishing(stock, &packages(3))).await.assert_ok("as many as it has");
    world.pay(&friendship.publishing(fresh_stock(), &packages(1))).await.assert_ok("a second client");
    let call = friendship.publishing(fresh_stock(), &packages(1));
    world.assert_refuses("a third client", &call, ProblemType::TooManyKeyPackages).await;
    world.pay(&friendship.publishing(stock, &packages(1))).await.assert_ok("the first again");

    let sized = |bytes| StockedKeyPackage { attachment: Payload::new(vec![7; bytes]), ..package() };
    let call = friendship.publishing(stock, &[sized(2049)]);
    world.assert_refuses("a large attachment", &call, ProblemType::BodyTooLarge).await;
    let large = StockedKeyPackage { key_package: MlsMessage::new(vec![7; 4097]), ..package() };
    let call = friendship.publishing(stock, &[large]);
    world.assert_refuses("a large KeyPackage", &call, ProblemType::BodyTooLarge).await;
    world.pay(&friendship.publishing(stock, &[sized(2048)])).await.assert_ok("as large as can be");
    let many = Value::Array(vec![Value::Map(Vec::new())]);
    let call = friendship.publishing(stock, &packages(1)).with_field("key_packages", many);
    world.assert_refuses("a package that is none", &call, ProblemType::MalformedBody).await;
    world.close();
}
