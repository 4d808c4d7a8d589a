//! `POST /as/eid/commits` (AS-3)

use openmls::prelude::{Extension, ExtensionType, Extensions, Lifetime, UnknownExtension};
use postern_protocol::{MlsMessage, auth::IdentityCommitted, problem::ProblemType};
use postern_tests_kit::{Commit, Party, User, World, identity_commit, public_application, random_id};
use rand::RngCore;
use reqwest::StatusCode;

use crate::road::Valid;

/// The type of an extension that says nothing.
pub const FILLER: u16 = 0xff00;

pub fn filler(bytes: usize) -> Extension {
    Extension::Unknown(FILLER, UnknownExtension(vec![0; bytes]))
}

/// A registered user of any name.
pub async fn random_user(world: &World) -> User {
    world.user(&format!("user-{:016x}", rand::rng().next_u64())).await
}

pub async fn valid(world: &World) -> Valid {
    let mut user = random_user(world).await;
    let add = vec![user.further_device().key_package()];
    let made = user.device.commit(Commit { add, ..Default::default() });
    Valid {
        stranger: Some(ProblemType::NotAllowed),
        cut: vec![("commit", ProblemType::InvalidMls)],
        ..Valid::new(identity_commit(&made.commit, &user.device), StatusCode::OK)
    }
}

#[tokio::test]
async fn clients_add_update_and_remove_clients_one_commit_an_epoch_and_readers_see_each() {
    let world = World::start().await;
    let mut alice = world.user("alice").await;
    let mut second = world.add_device(&mut alice).await;

    // Both commit in the same epoch: one is accepted, and the other told where things stand.
    let first_commit = alice.device.commit(Commit { update: true, ..Default::default() });
    let third = alice.further_device();
    let second_commit = second.commit(Commit { add: vec![third.key_package()], ..Default::default() });
    let accepted: IdentityCommitted =
        world.pay(&identity_commit(&first_commit.commit, &alice.device)).await.decode();
    assert_eq!(accepted.epoch, 2);
    let late = identity_commit(&second_commit.commit, &second);
    world.assert_refuses("the second commit of an epoch", &late, ProblemType::WrongEpoch).await;
    assert_eq!(world.pay(&late).await.problem("the loser").epoch, Some(2));
    let repeat = identity_commit(&first_commit.commit, &alice.device);
    world.assert_refuses("the same commit again", &repeat, ProblemType::WrongEpoch).await;

    // The loser reads on and commits again.
    alice.device.merge();
    second.forget();
    let log = world.look_up(&alice.name).await.commits;
    assert_eq!(log.len(), 2);
    assert_eq!(second.receive(&log[1]), None);
    let again = second.commit(Commit { add: vec![third.key_package()], ..Default::default() });
    world.pay(&identity_commit(&again.commit, &second)).await.assert_ok("once more");
    second.merge();
    let removal = second.commit(Commit { remove: vec![alice.device.public_key()], ..Default::default() });
    world.pay(&identity_commit(&removal.commit, &second)).await.assert_ok("removing the first client");

    let record = world.look_up(&alice.name).await;
    assert_eq!(record.commits, [log, vec![again.commit, removal.commit]].concat());
    assert!(record.clients.is_empty(), "the first client is gone and no other asked for a credential");
    let gone = identity_commit(&first_commit.commit, &alice.device);
    world.assert_refuses("a removed client", &gone, ProblemType::NotAllowed).await;
    world.close();
}

#[tokio::test]
async fn a_commit_that_no_reader_would_follow_is_refused() {
    let world = World::start().await;
    world.stock(100).await;
    let mut alice = world.user("alice").await;
    let mut second = world.add_device(&mut alice).await;
    let bob = world.user("bob").await;
    let adding = |party: &Party| Commit { add: vec![party.key_package()], ..Default::default() };

    let mut unlimited = alice.further_device();
    unlimited.lifetime = Lifetime::init(0, u64::MAX);
    for (what, newcomer) in [
        ("another's name in the new leaf", bob.further_device()),
        ("no name in the new leaf", Party::new("")),
        ("a KeyPackage of unlimited lifetime", unlimited),
    ] {
        let made = alice.device.commit(adding(&newcomer));
        world
            .assert_refuses(what, &identity_commit(&made.commit, &alice.device), ProblemType::InvalidMls)
            .await;
        alice.device.forget();
    }

    // Bob's first client as Alice's second.
    let mut stolen = alice.further_device();
    stolen.key = bob.device.key.clone();
    let made = alice.device.commit(adding(&stolen));
    world
        .assert_refuses(
            "another user's client",
            &identity_commit(&made.commit, &alice.device),
            ProblemType::NotAllowed,
        )
        .await;
    alice.device.forget();

    let renamed = Commit { identity: Some(bob.name.to_string().into_bytes()), ..Default::default() };
    let made = alice.device.commit(renamed);
    world
        .assert_refuses(
            "a leaf that takes another name",
            &identity_commit(&made.commit, &alice.device),
            ProblemType::InvalidMls,
        )
        .await;
    alice.device.forget();

    let second_key = second.key.clone();
    let made = alice.device.commit_to_key(&second_key);
    world
        .assert_refuses(
            "a leaf that takes another's key",
            &identity_commit(&made.commit, &alice.device),
            ProblemType::InvalidMls,
        )
        .await;
    alice.device.forget();

    let made = alice.device.commit(Commit { update: true, ..Default::default() });
    world
        .assert_refuses(
            "a commit sent by another client of the user",
            &identity_commit(&made.commit, &second),
            ProblemType::InvalidMls,
        )
        .await;
    // Bob's EID is in another epoch than Alice's, and that is all that he hears.
    world
        .assert_refuses(
            "a commit sent by another user",
            &identity_commit(&made.commit, &bob.device),
            ProblemType::WrongEpoch,
        )
        .await;
    let mut bytes = made.commit.as_bytes().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    world
        .assert_refuses(
            "a forged commit",
            &identity_commit(&MlsMessage::new(bytes), &alice.device),
            ProblemType::InvalidMls,
        )
        .await;
    alice.device.forget();

    let proposal = second.propose_update();
    world.assert_refuses("a proposal", &identity_commit(&proposal, &second), ProblemType::InvalidMls).await;
    second.forget();
    let removal = second.propose_removal(alice.device.public_key());
    world
        .assert_refuses("a proposal of removal", &identity_commit(&removal, &second), ProblemType::InvalidMls)
        .await;
    second.forget();
    let external = alice.further_device().external_commit(&alice.device);
    world
        .assert_refuses(
            "an external commit",
            &identity_commit(&external, &alice.device),
            ProblemType::InvalidMls,
        )
        .await;
    let spoken = alice.device.say(b"hello");
    world
        .assert_refuses(
            "an application message",
            &identity_commit(&spoken, &alice.device),
            ProblemType::InvalidMls,
        )
        .await;
    let spoken = public_application(b"alice", 1, 0);
    world
        .assert_refuses(
            "a public application message",
            &identity_commit(&spoken, &alice.device),
            ProblemType::InvalidMls,
        )
        .await;

    let mut elsewhere = alice.further_device();
    elsewhere.key = alice.device.key.clone();
    elsewhere.found(b"another group", Extensions::empty());
    elsewhere.commit(Commit { update: true, ..Default::default() });
    elsewhere.merge();
    let made = elsewhere.commit(Commit { update: true, ..Default::default() });
    world
        .assert_refuses(
            "a commit to another group",
            &identity_commit(&made.commit, &alice.device),
            ProblemType::InvalidMls,
        )
        .await;

    alice.device.whisper();
    let made = alice.device.commit(Commit { update: true, ..Default::default() });
    world
        .assert_refuses(
            "a commit in private framing",
            &identity_commit(&made.commit, &alice.device),
            ProblemType::InvalidMls,
        )
        .await;
    alice.device.forget();

    let made = second.commit(Commit { update: true, ..Default::default() });
    world.pay(&identity_commit(&made.commit, &second)).await.assert_ok("a valid one after all");
    second.merge();

    // One that they can replay for years is taken.
    let mut lasting = alice.further_device();
    lasting.lifetime = Lifetime::new(20 * 365 * 24 * 60 * 60);
    let made = second.commit(adding(&lasting));
    world.pay(&identity_commit(&made.commit, &second)).await.assert_ok("a lasting KeyPackage");
    world.close();
}

/// Readers replay the whole history, so nothing gets into it that they do not need.
#[tokio::test]
async fn a_commit_carries_nothing_but_changes_of_clients_and_no_more_of_it_than_the_operator_allows() {
    let world = World::start().await;
    let mut alice = User::new("alice");
    alice.device.extensions.push(ExtensionType::Unknown(FILLER));
    alice.device.found(&random_id(), Extensions::empty());
    world.register(&alice).await;
    let refused = async |what: &str, alice: &mut User, commit: Commit, expected: ProblemType| {
        let made = alice.device.commit(commit);
        world.assert_refuses(what, &identity_commit(&made.commit, &alice.device), expected).await;
        alice.device.forget();
    };
    let update = || Commit { update: true, ..Default::default() };
    let adding = |devices: &[&Party]| Commit {
        add: devices.iter().map(|device| device.key_package()).collect(),
        ..Default::default()
    };
    let stuffed = |bytes: usize| {
        let mut device = User::new("alice").further_device();
        device.extensions.push(ExtensionType::Unknown(FILLER));
        device.leaf = Extensions::from_vec(vec![filler(bytes)]).unwrap();
        device
    };

    let context = Commit { context: Some(Extensions::empty()), ..update() };
    for (data, commit, reason) in
        [(&b"hello"[..], update(), "no authenticated data"), (b"", context, "can only add clients")]
    {
        alice.device.authenticate(data);
        let made = alice.device.commit(commit);
        world.assert_refused_for(reason, &identity_commit(&made.commit, &alice.device), reason).await;
        alice.device.forget();
    }
    let leaf = Commit { leaf: Some(Extensions::from_vec(vec![filler(2000)]).unwrap()), ..update() };
    refused("a large leaf of its own", &mut alice, leaf, ProblemType::MessageTooLarge).await;
    refused("a large new leaf", &mut alice, adding(&[&stuffed(2000)]), ProblemType::MessageTooLarge).await;
    let many: Vec<Party> = (0..10).map(|_| stuffed(1700)).collect();
    let many: Vec<&Party> = many.iter().collect();
    refused("a large commit", &mut alice, adding(&many), ProblemType::MessageTooLarge).await;

    let limit = async |name: &str, value: i32| {
        let set = "SELECT operator.set_user_limit($1, $2)";
        world.admin.execute(set, &[&name, &value]).await.expect("the operator may");
    };
    limit("max_clients", 2).await;
    let devices = [alice.further_device(), alice.further_device()];
    refused("two more", &mut alice, adding(&[&devices[0], &devices[1]]), ProblemType::TooManyClients).await;
    let second = world.add_device(&mut alice).await;
    refused("a third", &mut alice, adding(&[&devices[0]]), ProblemType::TooManyClients).await;
    limit("max_clients", 1).await;
    let exchange = Commit { remove: vec![second.public_key()], ..adding(&[&devices[0]]) };
    for (what, commit) in [("another in a client's place", exchange), ("an update", update())] {
        let made = alice.device.commit(commit);
        world.pay(&identity_commit(&made.commit, &alice.device)).await.assert_ok(what);
        alice.device.merge();
    }

    // A stolen client can use up the commits, and can still be removed.
    limit("max_clients", 3).await;
    let thief = alice.further_device();
    let made = alice.device.commit(adding(&[&thief]));
    world.pay(&identity_commit(&made.commit, &alice.device)).await.assert_ok("a further client");
    alice.device.merge();
    limit("max_identity_commits", 4).await;
    refused("a commit too many", &mut alice, update(), ProblemType::PolicyViolation).await;
    let removal = Commit { remove: vec![thief.public_key()], ..Default::default() };
    let made = alice.device.commit(removal);
    world.pay(&identity_commit(&made.commit, &alice.device)).await.assert_ok("the removal of a client");
    world.close();
}
