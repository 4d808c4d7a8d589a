//! Keys that nobody can encrypt to: what they would do to a group, and that nobody brings one in (DS-3, AS-3).

use std::panic::{AssertUnwindSafe, catch_unwind};

use aws_lc_rs::digest::{SHA256, digest};
use ciborium::Value;
use openmls::prelude::{Ciphersuite, Extensions};
use postern_protocol::{
    Address,
    ds::CurrentGroup,
    mls::{GroupPolicy, Pseudonym},
    problem::ProblemType,
};
use postern_tests_kit::{
    Call, Commit, Group, Party, SUITE, Spoil, UNUSABLE, User, World, creation, home, identity_commit,
    policy_extensions, random_id, registration,
};

use super::{
    fuzz::tls::{self, Kind, Node, sign, with_length},
    library::Library,
};

const HYBRID: Ciphersuite = Ciphersuite::MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519;
const REASON: &str = "one of the encryption keys is not a usable public key of the ciphersuite";

/// A spoilt key with ML-KEM: all of its numbers have to be below 3329 (FIPS 203 §7.2).
const TOO_LARGE: (&str, Spoil) = ("a number beyond the modulus", |mut key| {
    key[..2].fill(0xff);
    key
});

fn update() -> Commit {
    Commit { update: true, ..Default::default() }
}

fn adding(party: &Party) -> Commit {
    Commit { add: vec![party.key_package()], ..Default::default() }
}

/// With openmls alone, as clients have it: there is no server that refuses anything.
#[test]
fn a_leaf_that_nobody_can_encrypt_to_keeps_everybody_from_committing_until_it_is_removed() {
    for (suite, library) in
        [(SUITE, Library::RustCrypto), (SUITE, Library::Libcrux), (HYBRID, Library::Libcrux)]
    {
        let too_large = (suite == HYBRID).then_some(TOO_LARGE);
        for (what, spoil) in UNUSABLE.into_iter().chain(too_large) {
            let what = format!("{what}, {suite:?}, {library:?}");
            let [mut founder, mut member, newcomer] = [(); 3].map(|()| {
                let mut party = Party::newcomer();
                party.set_suite(suite, library.crypto());
                party
            });
            founder.found(b"a group", Extensions::empty());
            let made = founder.commit(adding(&member));
            founder.merge();
            member.join(&made.welcome.expect("it adds"), &founder.ratchet_tree());
            // After the key that the Welcome is for, the leaf's.
            newcomer.lie(1, spoil);
            let made = founder.commit(adding(&newcomer));
            founder.merge();
            member.receive(&made.commit);
            for party in [&mut founder, &mut member] {
                assert!(party.member_keys().contains(&newcomer.public_key()), "{what}: openmls takes it");
                let commit = AssertUnwindSafe(|| party.commit(update()));
                assert!(catch_unwind(commit).is_err(), "{what}: and cannot commit any more");
            }
            member.commit(Commit { remove: vec![newcomer.public_key()], ..Default::default() });
        }
    }
}

/// A group, and what some have of it.
struct Scene {
    group: Group,
    current: CurrentGroup,
    /// Another one of the member of number 1.
    client: Party,
    /// The address of a newcomer, who must be reachable: otherwise the DS proposes a removal, which changes the group.
    address: Address,
}

impl Scene {
    async fn of(world: &World, suite: Ciphersuite) -> Self {
        let group = world.group_of(suite, 4).await;
        let mut client = world.further_client(&group.members[1]).await.party;
        client.suite = suite;
        let current = world.group_info(&group, &group.members[1].party.key).await;
        let address = world.candidate().await.address;
        Self { group, current, client, address }
    }
}

/// Somebody does this, and of the keys that he makes for it the one of this number is spoilt. How many he made.
type Way = fn(&mut Scene, usize, Spoil) -> (Call, usize);

/// The ways to bring keys into a group, and how many each brings.
const WAYS: [(&str, usize, Way); 5] = [
    ("an addition: of the Welcome, of the leaf", 2, |scene, place, spoil| {
        let mut newcomer = Party::newcomer();
        newcomer.suite = scene.group.members[0].party.suite;
        newcomer.leaf = newcomer.leaf_at(&home(), scene.address);
        newcomer.lie(place, spoil);
        let add = adding(&newcomer);
        // The admin does not say that the Welcome could not be encrypted, either.
        scene.group.party(0).lie(usize::MAX, spoil);
        let (_, call) = scene.group.make(0, add);
        scene.group.party(0).repent();
        scene.group.party(0).forget();
        (call, newcomer.repent())
    }),
    ("an Update: of the leaf", 1, |scene, place, spoil| {
        scene.group.party(1).lie(place, spoil);
        let proposal = scene.group.party(1).propose_update();
        let made = scene.group.party(1).repent();
        scene.group.party(1).forget();
        (scene.group.submit(1, &proposal, None), made)
    }),
    ("a commit: of the leaf, of two nodes above it, external_pub", 4, |scene, place, spoil| {
        scene.group.party(1).lie(place, spoil);
        let (_, call) = scene.group.make(1, update());
        let made = scene.group.party(1).repent();
        scene.group.party(1).forget();
        (call, made)
    }),
    ("an external commit: of the leaf, of the new root, external_pub", 3, |scene, place, spoil| {
        let users = scene.client.user.clone();
        scene.client.lie(place, spoil);
        let made = scene.client.join_externally(&scene.current, Some(&users));
        (scene.group.submit_commit(&scene.client.key, &made), scene.client.repent())
    }),
    ("a return: of the leaf, of two nodes above it, external_pub", 4, |scene, place, spoil| {
        scene.group.party(2).lie(place, spoil);
        let made = scene.group.party(2).join_externally(&scene.current, None);
        let keys = scene.group.party(2).repent();
        (scene.group.submit_commit(&scene.group.members[2].party.key, &made), keys)
    }),
];

/// Refused for that and nothing else, which changes nothing and costs a token.
pub async fn assert_unusable(world: &World, what: &str, call: &Call) {
    world.restock(2).await;
    world.assert_refuses(what, call, ProblemType::InvalidMls).await;
    world.assert_refused_for(what, call, REASON).await;
}

#[tokio::test]
async fn nobody_brings_a_key_into_a_group_that_nobody_can_encrypt_to() {
    let world = World::start().await;
    let operator = world.cluster.connect_as("postern_operator").await;
    operator.execute("SELECT operator.allow_ciphersuite(79)", &[]).await.unwrap();
    for suite in [SUITE, HYBRID] {
        let too_large = (suite == HYBRID).then_some(TOO_LARGE);
        let mut scene = Scene::of(&world, suite).await;
        for (way, keys, make) in WAYS {
            for (what, spoil) in UNUSABLE.into_iter().chain(too_large) {
                for place in 0..keys {
                    let (call, made) = make(&mut scene, place, spoil);
                    assert_eq!(made, keys, "{way}");
                    assert_unusable(&world, &format!("{way}: number {place}: {what}, {suite:?}"), &call)
                        .await;
                }
            }
            // Nothing else was wrong with it.
            let (call, _) = make(&mut scene, usize::MAX, |key| key);
            world.pay(&call).await.assert_ok(way);
            scene = Scene::of(&world, suite).await;
        }
    }
    world.close();
}

#[tokio::test]
async fn no_group_begins_with_a_key_that_nobody_can_encrypt_to() {
    let world = World::start().await;
    let id = world.reserve().await;
    let begin = |place, spoil| {
        let mut founder = Party::newcomer();
        let policy = GroupPolicy::new(Pseudonym(founder.identity.as_slice().try_into().unwrap()));
        founder.lie(place, spoil);
        founder.found(&id.to_mls(), policy_extensions(&home(), &policy, &world.server_key()));
        creation(&id, policy.state_key(), &founder)
    };
    for (what, spoil) in UNUSABLE {
        for (of, place) in [("the leaf", 0), ("external_pub", 1)] {
            assert_unusable(&world, &format!("{of}: {what}"), &begin(place, spoil)).await;
        }
    }
    world.pay(&begin(usize::MAX, |key| key)).await.assert_ok("with the keys that were made");
    world.close();
}

/// A leaf in the second place, and above it a root, whose key only its creator knows, if anybody does: no library makes
/// such a group, and openmls takes it.
#[tokio::test]
async fn a_new_group_is_its_creators_leaf_and_no_node_above_it() {
    let world = World::start().await;
    let id = world.reserve().await;
    let mut founder = Party::newcomer();
    let policy = GroupPolicy::new(Pseudonym(founder.identity.as_slice().try_into().unwrap()));
    founder.found(&id.to_mls(), policy_extensions(&home(), &policy, &world.server_key()));
    let encode = |nodes: &[Node]| nodes.iter().flat_map(Node::encode).collect::<Vec<_>>();
    let hash = |parts: &[&[u8]]| digest(&SHA256, &parts.concat()).as_ref().to_vec();
    let second = 1u32.to_be_bytes();

    // RFC 9420 §7.8, §7.9: nothing above the root, no unmerged leaves.
    let key = with_length(&[9; 32]);
    let root = [&key[..], &[0, 0]].concat();
    let no_leaf = with_length(&hash(&[&[1], &[0; 4], &[0]]));
    let mut leaf = Vec::new();
    let mut package = tls::message(founder.key_package_message().as_bytes()).unwrap();
    package.each(Kind::LeafNode, &mut |fields| leaf = fields.clone());
    // A leaf of a commit, with the hash of the node above it, in its place.
    (leaf[4], leaf[5]) = (Node::Fixed(vec![3]), Node::Opaque(hash(&[&key, &[0], &no_leaf])));
    let signed = [encode(&leaf[..7]), with_length(&id.to_mls()), second.to_vec()].concat();
    leaf[7] = Node::Opaque(sign(&founder.key, "LeafNodeTBS", &signed));
    let leaf = encode(&leaf);
    let leaf_hash = with_length(&hash(&[&[1], &second, &[1], &leaf]));
    let tree_hash = hash(&[&[2, 1], &root, &no_leaf, &leaf_hash]);
    let tree = with_length(&[&[0, 1, 2][..], &root, &[1, 1], &leaf].concat());

    let mut info = tls::message(founder.group_info().as_bytes()).unwrap();
    info.each(Kind::GroupInfo, &mut |fields| {
        let Node::Struct(_, context) = &mut fields[2] else { panic!("it is the context") };
        context[4] = Node::Opaque(tree_hash.clone());
        fields[5] = Node::Fixed(second.to_vec());
        fields[6] = Node::Opaque(sign(&founder.key, "GroupInfoTBS", &encode(&fields[2..6])));
    });
    let call = creation(&id, policy.state_key(), &founder);
    let with_root = call
        .with_field("group_info", Value::Bytes(info.encode()))
        .with_field("ratchet_tree", Value::Bytes(tree));
    world.assert_refuses("a root", &with_root, ProblemType::InvalidMls).await;
    world.assert_refused_for("a root", &with_root, "its creator as the only member").await;
    world.pay(&call).await.assert_ok("the leaf alone");
    world.close();
}

#[tokio::test]
async fn no_identity_has_a_client_with_a_key_that_nobody_can_encrypt_to() {
    let world = World::start().await;
    let mut alice = world.user("alice").await;
    for (what, spoil) in UNUSABLE {
        let mut first = User::new("bob");
        first.device.lie(0, spoil);
        first.device.found(&random_id(), Extensions::empty());
        let call = registration(&first.name, &first.device);
        world.assert_refused(what, &call.wire(), ProblemType::InvalidMls).await;
        let further = alice.further_device();
        for place in 0..2 {
            further.lie(place, spoil);
            alice.device.lie(usize::MAX, spoil);
            let made = alice.device.commit(Commit { update: true, ..adding(&further) });
            alice.device.repent();
            alice.device.forget();
            assert_unusable(&world, what, &identity_commit(&alice, &made, &alice.device)).await;
        }
        alice.device.lie(0, spoil);
        let made = alice.device.commit(update());
        alice.device.repent();
        alice.device.forget();
        assert_unusable(&world, what, &identity_commit(&alice, &made, &alice.device)).await;
    }
    world.close();
}
