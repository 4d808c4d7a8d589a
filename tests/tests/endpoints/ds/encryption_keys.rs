//! Keys that nobody can encrypt to, and keys of other nodes: what they would do to a group, and that nobody brings one in
//! (DS-3, AS-3).

use std::panic::{AssertUnwindSafe, catch_unwind};

use aws_lc_rs::digest::{SHA256, digest};
use ciborium::Value;
use openmls::prelude::{Ciphersuite, Extensions, RatchetTreeIn};
use postern_protocol::{
    Address, MlsMessage, RatchetTree,
    ds::CurrentGroup,
    mls::{GroupPolicy, Pseudonym},
    problem::ProblemType,
};
use postern_server::mls::{
    Handshake, InvalidMls, LONGEST_LIFETIME, TrackedGroup, parse_handshake, parse_tree,
};
use postern_tests_kit::{
    Call, Commit, Group, Party, SUITE, Spoil, UNUSABLE, User, World, creation, home, identity_commit,
    policy_extensions, random_id, registration,
};
use tls_codec::{Deserialize as _, Error, Serialize as _, VLBytes};

use super::{
    fuzz::tls::{self, Kind, Node, sign, with_length},
    library::Library,
};

const HYBRID: Ciphersuite = Ciphersuite::MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519;
const REASON: &str = "one of the encryption keys is not a usable public key of the ciphersuite";
/// The server's words, and those of openmls for the keys of leaves.
const OF_PARENT: &str = "one of the encryption keys is that of another node of the tree";
const OF_LEAF: &str = "Duplicate encryption key in proposals and group.";

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

    /// A member commits, which gives the nodes above its leaf keys.
    async fn renew(&mut self, world: &World, by: usize) {
        let (_, call) = self.group.make(by, update());
        world.pay(&call).await.assert_ok("a commit");
        self.group.party(by).merge();
        for (_, member) in self.group.members.iter_mut().enumerate().filter(|(number, _)| *number != by) {
            world.receive(member).await;
        }
        self.current = world.group_info(&self.group, &self.group.members[1].party.key).await;
    }
}

/// A wrong key in the place of one that was made.
#[derive(Clone, Copy)]
enum Wrong {
    Spoilt(Spoil),
    /// The key of a node.
    Of([u8; 32]),
}

impl Wrong {
    fn tell(self, party: &Party, place: usize) {
        match self {
            Self::Spoilt(spoil) => party.lie(place, spoil),
            Self::Of(key) => party.claim(place, &key),
        }
    }
}

/// Somebody does this, and of the keys that he makes for it the one of this number is wrong. How many he made.
type Way = fn(&mut Scene, usize, Wrong) -> (Call, usize);

/// The ways to bring keys into a group, and how many each brings.
const WAYS: [(&str, usize, Way); 5] = [
    ("an addition: of the Welcome, of the leaf", 2, |scene, place, wrong| {
        let mut newcomer = Party::newcomer();
        newcomer.suite = scene.group.members[0].party.suite;
        newcomer.leaf = newcomer.leaf_at(&home(), scene.address);
        wrong.tell(&newcomer, place);
        let add = adding(&newcomer);
        // The admin does not say that the Welcome could not be encrypted, either.
        scene.group.party(0).lie(usize::MAX, |key| key);
        let (_, call) = scene.group.make(0, add);
        scene.group.party(0).repent();
        scene.group.party(0).forget();
        (call, newcomer.repent())
    }),
    ("an Update: of the leaf", 1, |scene, place, wrong| {
        wrong.tell(scene.group.party(1), place);
        let proposal = scene.group.party(1).propose_update();
        let made = scene.group.party(1).repent();
        scene.group.party(1).forget();
        (scene.group.submit(1, &proposal, None), made)
    }),
    ("a commit: of the leaf, of two nodes above it, external_pub", 4, |scene, place, wrong| {
        wrong.tell(scene.group.party(1), place);
        let (_, call) = scene.group.make(1, update());
        let made = scene.group.party(1).repent();
        scene.group.party(1).forget();
        (call, made)
    }),
    ("an external commit: of the leaf, of the new root, external_pub", 3, |scene, place, wrong| {
        let users = scene.client.user.clone();
        wrong.tell(&scene.client, place);
        let made = scene.client.join_externally(&scene.current, Some(&users));
        (scene.group.submit_commit(&scene.client.key, &made), scene.client.repent())
    }),
    ("a return: of the leaf, of two nodes above it, external_pub", 4, |scene, place, wrong| {
        wrong.tell(scene.group.party(2), place);
        let made = scene.group.party(2).join_externally(&scene.current, None);
        let keys = scene.group.party(2).repent();
        (scene.group.submit_commit(&scene.group.members[2].party.key, &made), keys)
    }),
];

/// Refused for that and nothing else, which changes nothing and costs a token.
pub async fn assert_unusable(world: &World, what: &str, call: &Call) {
    assert_wrong(world, what, call, REASON).await;
}

/// The same for a key that another node has.
async fn assert_taken(world: &World, what: &str, call: &Call, by_parent: bool) {
    assert_wrong(world, what, call, if by_parent { OF_PARENT } else { OF_LEAF }).await;
}

async fn assert_wrong(world: &World, what: &str, call: &Call, reason: &str) {
    world.restock(2).await;
    world.assert_refuses(what, call, ProblemType::InvalidMls).await;
    world.assert_refused_for(what, call, reason).await;
}

/// The keys of a tree: of its leaves, and of the nodes above them.
fn keys_in(tree: &RatchetTree) -> (Vec<[u8; 32]>, Vec<[u8; 32]>) {
    // All nodes begin with their keys (RFC 9420 §7.1, §7.2).
    let key = |node: Result<Vec<u8>, Error>| -> [u8; 32] {
        let node = node.expect("it serialises");
        let key = VLBytes::tls_deserialize(&mut node.as_slice()).expect("it begins with a key");
        key.as_slice().try_into().expect("it has 32 bytes")
    };
    let tree = RatchetTreeIn::tls_deserialize_exact(tree.as_bytes()).expect("it is a tree");
    let leaves = tree.leaves().map(|leaf| key(leaf.tls_serialize_detached())).collect();
    let parents = tree.parents().map(|parent| key(parent.tls_serialize_detached())).collect();
    (leaves, parents)
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
                    let (call, made) = make(&mut scene, place, Wrong::Spoilt(spoil));
                    assert_eq!(made, keys, "{way}");
                    assert_unusable(&world, &format!("{way}: number {place}: {what}, {suite:?}"), &call)
                        .await;
                }
            }
            // Nothing else was wrong with it.
            let (call, _) = make(&mut scene, usize::MAX, Wrong::Spoilt(|key| key));
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

/// With openmls alone, and what the server makes of it.
#[test]
fn a_leaf_with_the_key_of_a_node_lets_nobody_in() {
    let mut founder = Party::newcomer();
    founder.found(b"a group", Extensions::empty());
    let mut members: Vec<_> = (0..3).map(|_| Party::newcomer()).collect();
    let add = members.iter().map(Party::key_package).collect();
    let made = founder.commit(Commit { add, update: true, ..Default::default() });
    founder.merge();
    let (welcome, tree) = (made.welcome.expect("it adds"), founder.ratchet_tree());
    members.iter_mut().for_each(|member| member.join(&welcome, &tree));
    let open = |party: &Party| {
        TrackedGroup::open(&party.group_info(), parse_tree(&party.ratchet_tree()).expect("it is a tree"))
    };
    let tracked = open(&founder).unwrap_or_else(|error| panic!("{error}"));
    let validate = |message: &MlsMessage| {
        tracked.validate(parse_handshake(message).expect("it is public"), LONGEST_LIFETIME)
    };

    // The node above the first two leaves comes first; the third member is not below it.
    let (_, parents) = keys_in(&founder.ratchet_tree());
    assert_eq!(parents.len(), 2);
    members[2].claim(0, &parents[0]);
    let wrong = members[2].propose_update();
    assert_eq!(members[2].repent(), 1);
    assert!(matches!(validate(&wrong), Err(InvalidMls::Refused(OF_PARENT))));
    members[0].receive(&wrong);
    members[1].receive(&wrong);
    let made = members[1].commit(update());
    members[1].merge();
    members[0].receive(&made.commit);
    assert_eq!(members[0].epoch_authenticator(), members[1].epoch_authenticator(), "members go on");
    let error = open(&members[1]).err().expect("nobody comes in");
    assert!(error.to_string().contains("encryption key"), "{error}");
    assert!(matches!(validate(&founder.propose_update()), Ok(Handshake::Proposal(_))), "it was the key");
}

#[tokio::test]
async fn nobody_brings_a_key_into_a_group_that_a_node_of_its_tree_has() {
    let world = World::start().await;
    for (way, keys, make) in WAYS {
        world.restock(50).await;
        let mut scene = Scene::of(&world, SUITE).await;
        // Not below the nodes above the first two members' leaves, and not below those above the other two.
        scene.renew(&world, 3).await;
        scene.renew(&world, 0).await;
        let (leaves, parents) = keys_in(&scene.current.ratchet_tree);
        assert_eq!((leaves.len(), parents.len()), (4, 3));
        // The key that a Welcome is for is not in the tree, and openmls adds nobody with the key of a leaf.
        let adds = way.starts_with("an addition");
        let is_external_pub = |place: usize| way.ends_with("external_pub") && place == keys - 1;
        let places = (usize::from(adds)..keys).filter(|place| !is_external_pub(*place));
        for place in places {
            for key in &parents {
                let (call, _) = make(&mut scene, place, Wrong::Of(*key));
                assert_taken(&world, &format!("{way}: number {place}, of a node"), &call, true).await;
            }
            if !adds {
                let (call, _) = make(&mut scene, place, Wrong::Of(leaves[0]));
                assert_taken(&world, &format!("{way}: number {place}, of a leaf"), &call, false).await;
            }
        }
        // Nothing else was wrong with it.
        let (call, _) = make(&mut scene, usize::MAX, Wrong::Spoilt(|key| key));
        world.pay(&call).await.assert_ok(way);
    }
    world.close();
}

#[tokio::test]
async fn no_two_updates_that_wait_bring_one_key() {
    let world = World::start().await;
    let mut group = world.group(3).await;
    for by in [1, 2] {
        group.party(by).claim(0, &[9; 32]);
        let proposal = group.party(by).propose_update();
        group.party(by).repent();
        let call = group.submit(by, &proposal, None);
        if by == 1 {
            world.pay(&call).await.assert_ok("the first");
        } else {
            assert_taken(&world, "the second", &call, false).await;
        }
    }
    group.party(2).forget();
    let proposal = group.party(2).propose_update();
    world.pay(&group.submit(2, &proposal, None)).await.assert_ok("with another key");
    world.close();
}

#[tokio::test]
async fn no_identity_has_a_client_with_the_key_of_another_node() {
    let world = World::start().await;
    let mut alice = world.user("alice").await;
    world.add_device(&mut alice).await;
    let mut third = world.add_pending_device(&mut alice).await;
    let (leaves, parents) = keys_in(&third.ratchet_tree());
    // The third device is not below the first of the nodes.
    assert_eq!((leaves.len(), parents.len()), (3, 2));
    for (key, of_parent) in [(parents[0], true), (parents[1], true), (leaves[1], false)] {
        for place in 0..2 {
            third.claim(place, &key);
            let made = third.commit(update());
            third.repent();
            third.forget();
            let what = format!("number {place}, of a node above others: {of_parent}");
            assert_taken(&world, &what, &identity_commit(&alice, &made, &third), of_parent).await;
        }
    }
    let further = alice.further_device();
    further.claim(1, &parents[0]);
    let made = alice.device.commit(Commit { update: true, ..adding(&further) });
    alice.device.forget();
    assert_taken(&world, "an addition", &identity_commit(&alice, &made, &alice.device), true).await;
    let made = third.commit(update());
    world.pay(&identity_commit(&alice, &made, &third)).await.assert_ok("with the keys that were made");
    world.close();
}
