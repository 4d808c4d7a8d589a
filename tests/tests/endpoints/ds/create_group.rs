//! `POST /ds/groups` (DS-1, DS-9)

use ciborium::Value;
use openmls::prelude::{
    ApplicationIdExtension, Ciphersuite, Extension, ExtensionType, Extensions, GroupContext,
    RequiredCapabilitiesExtension, UnknownExtension,
};
use postern_protocol::{
    PublicKey, StateKey,
    ds::{CurrentGroup, FetchGroupInfo, GroupId, GroupIdReserved},
    mls::{DELIVERY_ADDRESS, GROUP_POLICY, GroupPolicy, Pseudonym, USER_KEY},
    problem::ProblemType,
};
use postern_tests_kit::{
    Call, Commit, Group, Member, Party, World, creation, dump, eventually, fresh_address, home,
    leaf_extensions, policy_extensions, random_id,
};
use reqwest::StatusCode;

use super::{
    library::Library,
    submit_message::{attributes, with_attributes},
};
use crate::every_route::Valid;

/// A group that is about to be created; a test changes it to a wrong one before its creation.
struct Draft {
    id: GroupId,
    founder: Party,
    policy: GroupPolicy,
    server_key: PublicKey,
    context: Option<Extensions<GroupContext>>,
    mls_id: Option<Vec<u8>>,
}

impl Draft {
    fn new(world: &World, id: &GroupId) -> Self {
        let pseudonym = Pseudonym::random();
        let mut founder = Party::new(pseudonym.0);
        founder.leaf = founder.leaf_at(&home(), fresh_address());
        let (policy, server_key) = (GroupPolicy::new(pseudonym), world.server_key());
        Self { id: id.clone(), founder, policy, server_key, context: None, mls_id: None }
    }

    fn found(&mut self) {
        let context = self
            .context
            .clone()
            .unwrap_or_else(|| policy_extensions(&home(), &self.policy, &self.server_key));
        let id = self.mls_id.clone().unwrap_or_else(|| self.id.to_mls());
        self.founder.found(&id, context);
    }

    fn call(mut self) -> Call {
        self.found();
        creation(&self.id, self.policy.state_key(), &self.founder)
    }
}

pub async fn valid(world: &World) -> Valid {
    let call = Draft::new(world, &world.reserve().await).call();
    Valid {
        stranger: Some(ProblemType::NotAllowed),
        cut: vec![
            ("group_id", ProblemType::ForeignDomain),
            ("state_key", ProblemType::MalformedBody),
            ("group_info", ProblemType::InvalidMls),
            ("ratchet_tree", ProblemType::InvalidMls),
        ],
        ..Valid::new(call, StatusCode::CREATED)
    }
}

#[tokio::test]
async fn a_group_is_created_once_under_a_reserved_id() {
    let world = World::start().await;
    let id = world.reserve().await;
    let (first, second) = (Draft::new(&world, &id).call(), Draft::new(&world, &id).call());
    world.pay(&first).await.assert_ok("the first");
    world.assert_refuses("another under the same id", &second, ProblemType::GroupExists).await;
    let before = world.snapshot().await;
    for again in [&first, &first.clone().in_json()] {
        let reply = world.pay(again).await;
        assert_eq!(reply.status, StatusCode::CREATED, "the same again, if the answer was lost");
    }
    world.snapshot().await.assert_same(&before, "a repeat");
    let changed = with_attributes(&first, &[attributes(first.signer.as_ref().unwrap().public_key(), b"b")]);
    world.assert_refuses("another request for the same group", &changed, ProblemType::GroupExists).await;
    let unreserved = GroupId::new(random_id(), home());
    let call = Draft::new(&world, &unreserved).call();
    world.assert_refuses("an id that was not reserved", &call, ProblemType::GroupExists).await;
    let foreign = GroupId::new(*world.reserve().await.id(), "elsewhere.example".parse().unwrap());
    world
        .assert_refuses(
            "another domain's id",
            &Draft::new(&world, &foreign).call(),
            ProblemType::ForeignDomain,
        )
        .await;
    let call = Draft::new(&world, &world.reserve().await).call();
    for (what, id) in [
        ("a short id", vec![7; 15]),
        ("no domain", vec![7; 16]),
        ("no name", [&[7; 16][..], b"HOME"].concat()),
    ] {
        let call = call.with_field("group_id", Value::Bytes(id));
        world.assert_refuses(what, &call, ProblemType::MalformedBody).await;
    }
    world.close();
}

#[tokio::test]
async fn a_group_that_the_ds_could_not_serve_is_refused() {
    let world = World::start().await;
    let id = world.reserve().await;
    let other = Pseudonym::random();
    type Spoil = Box<dyn Fn(&mut Draft)>;
    let drafts: Vec<(&str, Spoil)> = vec![
        (
            "another id in the group",
            Box::new(|draft| draft.mls_id = Some(GroupId::new(random_id(), home()).to_mls())),
        ),
        ("no domain in the group's id", Box::new(|draft| draft.mls_id = Some(draft.id.id().to_vec()))),
        ("a second admin", Box::new(move |draft| draft.policy.admins.push(other))),
        ("another admin", Box::new(move |draft| draft.policy.admins = vec![other])),
        ("no admin", Box::new(|draft| draft.policy.admins.clear())),
        ("an admin twice", Box::new(|draft| draft.policy.admins.push(draft.policy.admins[0]))),
        ("no policy", Box::new(|draft| draft.context = Some(Extensions::empty()))),
        ("another server", Box::new(|draft| draft.server_key = draft.founder.public_key())),
        (
            "no server",
            Box::new(|draft| {
                let mut context = policy_extensions(&home(), &draft.policy, &draft.server_key);
                context.add_or_replace(Extension::ExternalSenders(Vec::new())).unwrap();
                draft.context = Some(context);
            }),
        ),
        (
            "no user key",
            Box::new(|draft| draft.founder.leaf = leaf_extensions(&home(), fresh_address(), None)),
        ),
        (
            "a user key of the last generation",
            Box::new(|draft| {
                draft.founder.generation = u32::MAX;
                draft.founder.leaf = draft.founder.leaf_at(&home(), fresh_address());
            }),
        ),
        (
            "a malformed user key",
            Box::new(|draft| {
                let malformed = Extension::Unknown(USER_KEY, UnknownExtension(vec![7; 35]));
                draft.founder.leaf.add_or_replace(malformed).unwrap();
            }),
        ),
        (
            "nobody has to know how to leave",
            Box::new(|draft| {
                let types = [GROUP_POLICY, DELIVERY_ADDRESS].map(ExtensionType::Unknown);
                let required = RequiredCapabilitiesExtension::new(&types, &[], &[]);
                let mut context = policy_extensions(&home(), &draft.policy, &draft.server_key);
                context.add_or_replace(Extension::RequiredCapabilities(required)).unwrap();
                draft.context = Some(context);
            }),
        ),
        ("no delivery address", Box::new(|draft| draft.founder.leaf = Extensions::empty())),
        ("a short pseudonym", Box::new(|draft| draft.founder.identity = vec![7; 15])),
        ("a name for a pseudonym", Box::new(|draft| draft.founder.identity = b"alice@home.example".to_vec())),
    ];
    for (what, spoil) in drafts {
        let mut draft = Draft::new(&world, &id);
        spoil(&mut draft);
        world.assert_refuses(what, &draft.call(), ProblemType::InvalidMls).await;
    }

    let mut draft = Draft::new(&world, &id);
    draft.found();
    let wrong_key = creation(&id, StateKey::new([7; 32]), &draft.founder);
    world.assert_refuses("a state key that is not the policy's", &wrong_key, ProblemType::InvalidMls).await;
    let joiner = Draft::new(&world, &id).founder;
    draft.founder.commit(Commit { add: vec![joiner.key_package()], ..Default::default() });
    draft.founder.merge();
    let grown = creation(&id, draft.policy.state_key(), &draft.founder);
    world.assert_refuses("two members", &grown, ProblemType::InvalidMls).await;
    let mut draft = Draft::new(&world, &id);
    draft.found();
    draft.founder.commit(Commit { update: true, ..Default::default() });
    draft.founder.merge();
    let later = creation(&id, draft.policy.state_key(), &draft.founder);
    world.assert_refuses("epoch 1", &later, ProblemType::InvalidMls).await;

    let (one, two) = (Draft::new(&world, &id).call(), Draft::new(&world, &id).call());
    let of = |call: &Call, field: &str| call.fields().into_iter().find(|(name, _)| name == field).unwrap().1;
    let mixed = one.with_field("ratchet_tree", of(&two, "ratchet_tree"));
    world.assert_refuses("another group's tree", &mixed, ProblemType::InvalidMls).await;
    let mixed = one.with_field("group_info", of(&two, "group_info"));
    world.assert_refuses("another group's GroupInfo", &mixed, ProblemType::InvalidMls).await;
    let mut unknown = of(&one, "group_info").into_bytes().unwrap();
    // Version and wire format of the message, version of the context.
    assert_eq!(unknown[6..8], [0, 1]);
    unknown[7] = 2;
    let unknown = one.with_field("group_info", Value::Bytes(unknown));
    world.assert_refuses("a ciphersuite that the server has not", &unknown, ProblemType::InvalidMls).await;
    let mixed = one.with_field("group_info", of(&one, "ratchet_tree"));
    world.assert_refuses("a tree for a GroupInfo", &mixed, ProblemType::InvalidMls).await;
    world.pay(&one).await.assert_ok("the id is still reserved");
    world.close();
}

/// A founding that the server would not take any more is answered again if it took it: its answer was lost.
#[tokio::test]
async fn a_founding_is_answered_again_after_the_key_that_its_group_carries_was_revoked() {
    let world = World::start().await;
    let founding = Draft::new(&world, &world.reserve().await).call();
    let late = Draft::new(&world, &world.reserve().await).call();
    world.pay(&founding).await.assert_ok("while the key is good");
    let operator = world.cluster.connect_as("postern_operator").await;
    operator.execute("SELECT operator.rotate_sender_keys(revoke => true)", &[]).await.unwrap();
    eventually("the server has another key", async || {
        // Each look costs a token.
        world.restock(1).await;
        let reserved: GroupIdReserved = world.pay(&Call::post("/ds/group-ids")).await.decode();
        (reserved.server_key != world.server_key()).then_some(())
    })
    .await;
    world.restock(10).await;
    world.assert_refuses("a group with the revoked key", &late, ProblemType::InvalidMls).await;
    let before = world.snapshot().await;
    for again in [&founding, &founding.clone().in_json()] {
        assert_eq!(world.pay(again).await.status, StatusCode::CREATED, "the same again");
    }
    world.snapshot().await.assert_same(&before, "a repeat");
    let own = attributes(founding.signer.as_ref().unwrap().public_key(), b"b");
    let changed = with_attributes(&founding, &[own]);
    world.assert_refuses("another request for the same group", &changed, ProblemType::InvalidMls).await;
    world.close();
}

#[tokio::test]
async fn a_creators_leaf_is_as_large_as_the_operator_allows() {
    let world = World::start().await;
    let mut draft = Draft::new(&world, &world.reserve().await);
    let stuffing = Extension::ApplicationId(ApplicationIdExtension::new(&[7; 5000]));
    draft.founder.leaf.add_or_replace(stuffing).unwrap();
    let call = draft.call();
    world.assert_refuses("a large leaf", &call, ProblemType::MessageTooLarge).await;
    let detail = world.pay(&call).await.problem("a large leaf").detail;
    assert_eq!(detail.as_deref(), Some("a leaf can have at most 4096 bytes"));
    let operator = world.cluster.connect_as("postern_operator").await;
    operator.execute("SELECT operator.set_group_limit('max_leaf_bytes', 8192)", &[]).await.unwrap();
    world.pay(&call).await.assert_ok("a leaf that may be as large");
    world.close();
}

#[tokio::test]
async fn a_creator_may_keep_attributes_beside_its_own_leaf() {
    let world = World::start().await;
    let mut draft = Draft::new(&world, &world.reserve().await);
    draft.found();
    let call = creation(&draft.id, draft.policy.state_key(), &draft.founder);
    let own = attributes(draft.founder.public_key(), b"opaque");
    let other = attributes(Party::newcomer().public_key(), b"opaque");
    let wrong = with_attributes(&call, &[own.clone(), other]);
    world.assert_refuses("with another's attributes, too", &wrong, ProblemType::PolicyViolation).await;
    world
        .pay(&with_attributes(&call, std::slice::from_ref(&own)))
        .await
        .assert_ok("with its own attributes only");
    let body = FetchGroupInfo { state_key: draft.policy.state_key() };
    let path = format!("/ds/groups/{}/group-info", draft.id.to_base64url());
    let call = Call::post(path).with(&body).signed_by(&draft.founder.key);
    assert_eq!(world.pay(&call).await.decode::<CurrentGroup>().attributes, [own]);
    world.close();
}

#[tokio::test]
async fn a_group_has_a_ciphersuite_that_the_operator_allows() {
    let world = World::start().await;
    let operator = world.cluster.connect_as("postern_operator").await;
    let other = Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519;
    let mut before = world.group_of(other, 2).await;
    let mut drafts = [world.reserve().await, world.reserve().await].map(|id| Draft::new(&world, &id));
    for draft in &mut drafts {
        draft.founder.suite = other;
    }
    let [call, founding] = drafts.map(Draft::call);
    world.pay(&founding).await.assert_ok("while it is allowed");

    operator.execute("SELECT operator.forbid_ciphersuite(3)", &[]).await.unwrap();
    world.pay(&founding).await.assert_ok("the same again, whose answer was lost before it was forbidden");
    world.assert_refuses("a group of it", &call, ProblemType::CiphersuiteForbidden).await;
    let mut newcomer = world.candidate().await;
    newcomer.party.suite = other;
    let add = Commit { add: vec![newcomer.party.key_package()], ..Default::default() };
    let (_, added) = before.make(0, add.clone());
    world.assert_refuses("a member added with it", &added, ProblemType::CiphersuiteForbidden).await;
    before.party(0).forget();
    // Existing groups go on.
    let (_, commit) = before.make(0, Commit { update: true, ..Default::default() });
    world.pay(&commit).await.assert_ok("an update");
    before.party(0).merge();
    let spoken = before.party(0).say(b"still here");
    world.pay(&before.submit(0, &spoken, None)).await.assert_ok("a message");
    assert_eq!(world.receive(&mut before.members[1]).await, [b"still here".to_vec()]);

    operator.execute("SELECT operator.allow_ciphersuite(3)", &[]).await.unwrap();
    world.pay(&call).await.assert_ok("allowed again");
    world.add(&mut before, vec![newcomer]).await;
    let hello = before.party(2).say(b"hello");
    world.pay(&before.submit(2, &hello, None)).await.assert_ok("a message");
    for member in [0, 1] {
        assert_eq!(world.receive(&mut before.members[member]).await, [b"hello".to_vec()]);
    }

    let listed =
        operator.query("SELECT ciphersuite, allowed FROM operator.ciphersuites()", &[]).await.unwrap();
    let listed: Vec<(i32, bool)> = listed.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(listed, [(1, true), (3, true), (77, false), (79, false)]);
    for refused in ["forbid_ciphersuite(1)", "allow_ciphersuite(2)", "allow_ciphersuite(NULL)"] {
        assert!(operator.execute(&format!("SELECT operator.{refused}"), &[]).await.is_err(), "{refused}");
    }
}

#[tokio::test]
async fn a_post_quantum_group_lives_like_any_once_the_operator_allows_its_ciphersuite() {
    let world = World::start().await;
    let operator = world.cluster.connect_as("postern_operator").await;
    let (xwing, hybrid) = (
        Ciphersuite::MLS_256_XWING_CHACHA20POLY1305_SHA256_Ed25519,
        Ciphersuite::MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519,
    );
    for (suite, founders, joiners) in [
        (xwing, Library::Libcrux, Library::Libcrux),
        (hybrid, Library::RustCrypto, Library::Libcrux),
        (hybrid, Library::Libcrux, Library::RustCrypto),
    ] {
        world.stock(100).await;
        operator
            .batch_execute("SELECT operator.forbid_ciphersuite(77), operator.forbid_ciphersuite(79)")
            .await
            .unwrap();
        let mut draft = Draft::new(&world, &world.reserve().await);
        draft.founder.set_suite(suite, founders.crypto());
        let call = draft.call();
        world.assert_refuses("a group of it", &call, ProblemType::CiphersuiteForbidden).await;
        let allow = format!("SELECT operator.allow_ciphersuite({})", u16::from(suite));
        operator.batch_execute(&allow).await.unwrap();
        world.pay(&call).await.assert_ok("once it is allowed");

        let mut founder = world.candidate().await;
        founder.party.set_suite(suite, founders.crypto());
        let mut group = world.group_by(founder).await;
        let mut added = Vec::new();
        for library in [joiners, founders] {
            let mut joiner = world.candidate().await;
            joiner.party.set_suite(suite, library.crypto());
            added.push(joiner);
        }
        world.add(&mut group, added).await;
        agree(&group);
        for speaker in 0..3 {
            let text = format!("from {speaker}").into_bytes();
            let spoken = group.party(speaker).say(&text);
            world.pay(&group.submit(speaker, &spoken, None)).await.assert_ok("a message");
            for member in (0..3).filter(|member| *member != speaker) {
                assert_eq!(world.receive(&mut group.members[member]).await, std::slice::from_ref(&text));
            }
        }
        let (_, update) = group.make(1, Commit { update: true, ..Default::default() });
        world.pay(&update).await.assert_ok("an update");
        group.party(1).merge();
        take_in(&world, &mut group, 1).await;

        // A further client of a member's comes in by itself.
        let mut client = world.further_client(&group.members[1]).await;
        client.party.set_suite(suite, founders.crypto());
        let users = client.party.user.clone();
        let current = world.group_info(&group, &users).await;
        let made = client.party.join_externally(&current, Some(&users));
        world.pay(&group.submit_commit(&client.party.key, &made)).await.assert_ok("an external commit");
        client.party.merge();
        group.members.push(client);
        take_in(&world, &mut group, 3).await;

        let leaving = group.party(2).self_remove();
        world.pay(&group.submit(2, &leaving, None)).await.assert_ok("a proposal");
        for member in [0, 1, 3] {
            world.receive(&mut group.members[member]).await;
        }
        let remove = vec![group.key(1), group.key(3)];
        let (_, removal) = group.make(0, Commit { remove, ..Default::default() });
        world.pay(&removal).await.assert_ok("a removal");
        group.party(0).merge();
        for member in [1, 2, 3] {
            world.receive(&mut group.members[member]).await;
            assert!(!group.party(member).is_active());
        }
        assert_eq!(group.party(0).member_keys(), [group.key(0)]);
    }
    world.close();
}

/// Everyone but who sent it takes in what was accepted last, and is where the others are.
async fn take_in(world: &World, group: &mut Group, sender: usize) {
    for member in (0..group.members.len()).filter(|member| *member != sender) {
        world.receive(&mut group.members[member]).await;
    }
    agree(group);
}

/// All members are in one epoch of one history.
fn agree(group: &Group) {
    let of = |member: &Member| (member.party.epoch(), member.party.epoch_authenticator());
    assert!(group.members.iter().all(|member| of(member) == of(&group.members[0])));
}

#[tokio::test]
async fn what_lies_in_the_database_tells_nothing_of_a_groups_members() {
    let world = World::start().await;
    let group = world.group(3).await;
    let row = world.admin.query_one("SELECT roster, tree FROM ds.groups", &[]).await.unwrap();
    let blobs: [Vec<u8>; 2] = [row.get(0), row.get(1)];
    let dump = world.cluster.dump().await;
    let rows = dump::rows(&dump);
    for member in &group.members {
        let (key, address) = (member.party.public_key(), member.address);
        for secret in [key.as_bytes().as_slice(), address.as_bytes(), &member.party.identity] {
            assert!(blobs.iter().all(|blob| !blob.windows(secret.len()).any(|part| part == secret)));
            assert!(!dump.contains(&hex::encode(secret)));
        }
        let mailbox = [member.mailbox.id.as_bytes().as_slice(), member.mailbox.owner.public_key().as_bytes()]
            .map(hex::encode);
        assert!(mailbox.iter().all(|secret| dump.contains(secret)), "the QS knows its queues");
        let of_the_ds = rows.iter().filter(|row| row.schema() == "ds").flat_map(|row| &row.values);
        for value in of_the_ds {
            let value = hex::encode(value);
            assert!(mailbox.iter().all(|secret| !value.contains(secret)), "the DS knows none");
        }
    }
    for secret in [group.policy.state_secret.as_slice(), group.policy.state_key().as_bytes()] {
        assert!(!dump.contains(&hex::encode(secret)), "the server forgets the key (DS-9)");
    }
    let lengths =
        "SELECT octet_length(roster) FROM ds.groups WHERE epoch = (SELECT max(epoch) FROM ds.groups)";
    let of_three: i32 = world.value(lengths).await;
    world.group(2).await;
    let distinct: i64 = world.value("SELECT count(DISTINCT octet_length(roster)) FROM ds.groups").await;
    assert_eq!(distinct, 1, "two and three members are of one size class: {of_three}");
    world.close();
}
