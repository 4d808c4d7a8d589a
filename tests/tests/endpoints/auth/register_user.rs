//! `POST /as/users` (AS-1)

use ciborium::Value;
use openmls::prelude::{Ciphersuite, Extensions};
use postern_protocol::{auth::AuthenticationKeys, credential::ClientCredential, problem::ProblemType};
use postern_tests_kit::{Ask, Call, Commit, Party, User, World, now, over, random_id, registration};
use rand::RngCore;
use reqwest::StatusCode;

use crate::road::Valid;

pub fn valid() -> Valid {
    let user = User::new(&format!("user-{:016x}", rand::rng().next_u64()));
    Valid {
        stranger: Some(ProblemType::NotAllowed),
        cut: vec![("group_info", ProblemType::InvalidMls), ("ratchet_tree", ProblemType::InvalidMls)],
        ..Valid::new(user.registration(), StatusCode::CREATED)
    }
}

#[tokio::test]
async fn anyone_registers_a_free_name_and_gets_a_credential_under_a_published_key() {
    let world = World::start().await;
    let user = User::new("alice");
    let issued = world.register(&user).await;
    let keys: AuthenticationKeys = world.send(&Call::get("/as/keys").wire()).await.decode();
    let issuer = ClientCredential::parse(&issued.credential).unwrap().issuer_key;
    assert!(keys.keys.iter().any(|key| key.public_key == issuer));
    let credential = ClientCredential::verify(&issued.credential, issuer, now()).unwrap();
    assert_eq!((credential.user, credential.client_key), (user.name.clone(), user.device.public_key()));
    // The client can use its key at once.
    let tokens = world.tokens(0, &user.device.key, &Ask::batch(world.token_key(), 1)).await;
    let reserve = crate::ds::reserve_group_id::valid().call.paid_with(tokens[0].clone());
    world.send(&reserve.wire()).await.assert_ok("the first token");
    world.close();
}

#[tokio::test]
async fn a_name_or_key_that_is_taken_is_refused_and_the_first_user_stays() {
    let world = World::start().await;
    let alice = User::new("alice");
    let registration = alice.registration();
    world.send(&registration.wire()).await.assert_ok("the first");
    let before = world.look_up(&alice.name).await;
    let impostor = User::new("alice");
    world.assert_refused("a taken name", &impostor.registration().wire(), ProblemType::NameTaken).await;
    world.assert_refused("the same again", &registration.wire(), ProblemType::NameTaken).await;

    // Alice's client under another name.
    let mut second = User::new("bob");
    second.device.key = alice.device.key.clone();
    second.device.found(&random_id(), Extensions::empty());
    world.assert_refused("a known client", &second.registration().wire(), ProblemType::NotAllowed).await;
    let after = world.look_up(&alice.name).await;
    assert_eq!(after.group_info, before.group_info);
    assert_eq!(after.clients[0].credential, before.clients[0].credential);
    world.close();
}

#[tokio::test]
async fn names_that_are_not_ours_to_give_are_refused() {
    let world = World::start().await;
    let foreign = "alice@elsewhere.example".parse().unwrap();
    let mut device = Party::new("alice@elsewhere.example");
    device.found(&random_id(), Extensions::empty());
    let call = registration(&foreign, &device);
    world.assert_refused("another domain", &call.wire(), ProblemType::ForeignDomain).await;

    let valid = User::new("alice").registration();
    for name in [
        "",
        "alice",
        "@home.example",
        "alice@",
        "Alice@home.example",
        "alïce@home.example",
        "аlice@home.example",
        "-alice@home.example",
        "alice.@home.example",
        "al ice@home.example",
        "alice@home.example ",
        "al\0ice@home.example",
        "alice@@home.example",
        "alice@home.example@home.example",
        "alice@HOME.example",
        "alice@home.example.",
        "alice@localhost",
        "alice@127.0.0.1",
        &format!("{}@home.example", "a".repeat(65)),
        &format!("alice@{}", "a.".repeat(200)),
        "alice/../bob@home.example",
        "alice%40home.example",
    ] {
        let wire = valid.with_field("name", Value::from(name)).wire();
        world.assert_refused(name, &wire, ProblemType::MalformedBody).await;
    }
    world.close();
}

#[tokio::test]
async fn an_eid_that_is_not_this_one_client_in_epoch_0_is_refused() {
    let world = World::start().await;
    let name = User::new("alice").name;
    let found = |party: &mut Party| party.found(&random_id(), Extensions::empty());

    let mut other_name = Party::new("bob@home.example");
    found(&mut other_name);
    let mut no_name = Party::new("");
    found(&mut no_name);
    let mut other_suite = Party::new("alice@home.example");
    other_suite.suite = Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519;
    found(&mut other_suite);
    let mut expired = Party::new("alice@home.example");
    expired.lifetime = over();
    found(&mut expired);
    let mut grown = User::new("alice").device;
    grown.commit(Commit { add: vec![Party::new("alice@home.example").key_package()], ..Default::default() });
    grown.merge();
    let mut later = User::new("alice").device;
    later.commit(Commit { update: true, ..Default::default() });
    later.merge();
    for (what, party) in [
        ("another's name in the leaf", &other_name),
        ("no name in the leaf", &no_name),
        ("another ciphersuite", &other_suite),
        ("a leaf whose lifetime is over", &expired),
        ("two clients", &grown),
        ("epoch 1", &later),
    ] {
        world.assert_refused(what, &registration(&name, party).wire(), ProblemType::InvalidMls).await;
    }

    let (one, two) = (User::new("alice"), User::new("alice"));
    let valid = one.registration();
    let of = |call: &Call, field: &str| call.fields().into_iter().find(|(name, _)| name == field).unwrap().1;
    let mixed = valid.with_field("ratchet_tree", of(&two.registration(), "ratchet_tree"));
    world.assert_refused("another group's tree", &mixed.wire(), ProblemType::InvalidMls).await;
    let mut tree = of(&valid, "ratchet_tree").into_bytes().unwrap();
    *tree.last_mut().unwrap() ^= 1;
    let forged = valid.with_field("ratchet_tree", Value::Bytes(tree));
    world.assert_refused("a leaf with another signature", &forged.wire(), ProblemType::InvalidMls).await;
    let mut info = of(&valid, "group_info").into_bytes().unwrap();
    *info.last_mut().unwrap() ^= 1;
    let forged = valid.with_field("group_info", Value::Bytes(info));
    world.assert_refused("a GroupInfo with another signature", &forged.wire(), ProblemType::InvalidMls).await;
    for (what, bytes) in [
        ("nothing", Vec::new()),
        ("zeros", vec![0; 500]),
        ("a tree", of(&valid, "ratchet_tree").into_bytes().unwrap()),
    ] {
        let wire = valid.with_field("group_info", Value::Bytes(bytes)).wire();
        world.assert_refused(&format!("{what} for a GroupInfo"), &wire, ProblemType::InvalidMls).await;
    }
    world.send(&valid.wire()).await.assert_ok("the valid one after all");
    world.close();
}
