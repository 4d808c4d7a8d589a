//! Other people's MLS messages, trees and commits (github.com/mlswg/mls-implementations: two of `messages.json`, those
//! of `tree-validation.json` and `passive-client-handling-commit.json` that are of ciphersuite 0x0001, those of
//! `passive-client-welcome.json` that are of 0x0001 or 0x0003, and the first 60 epochs of `passive-client-random.json`).
//! The parser knows messages for what they are, and as part of a request here all of them are refused, in every place,
//! and change nothing. Trees, KeyPackages and commits go through the code that validates those of groups here.

use ciborium::Value;
use openmls::prelude::{
    BasicCredential, Ciphersuite, CredentialWithKey, GroupContext, GroupId, KeyPackage, KeyPackageBundle,
    MIXED_PLAINTEXT_WIRE_FORMAT_POLICY, MlsGroup, MlsGroupJoinConfig, MlsMessageBodyIn, MlsMessageIn,
    OpenMlsProvider as _, ProcessedMessageContent, RatchetTreeIn, SignatureScheme, StagedWelcome,
};
use openmls::{
    group::InterimTranscriptHash, messages::ConfirmationTag, schedule::PreSharedKeyId, treesync::TreeSync,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::storage::StorageProvider as _;
use postern_protocol::{GroupInfo, MlsMessage, RatchetTree, mls::CIPHERSUITE, problem::ProblemType};
use postern_server::mls::{
    Handshake, LONGEST_LIFETIME, TrackedGroup, parse_handshake, parse_key_package, parse_tree,
};
use postern_tests_kit::{Commit, World, in_tree};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde::Deserialize;
use serde_json::Value as Json;
use tls_codec::{Deserialize as _, Serialize as _};

fn read<T: serde::de::DeserializeOwned>(file: &str) -> T {
    let text = std::fs::read(in_tree("tests/vectors/mls").join(file)).expect("it is in the repository");
    serde_json::from_slice(&text).expect("it is as it was published")
}

type Vectors = Vec<std::collections::BTreeMap<String, String>>;

#[tokio::test]
async fn published_messages_are_known_for_what_they_are_and_refused_everywhere() {
    let world = World::start().await;
    let mut group = world.group(2).await;
    let newcomer = world.candidate().await;
    let add = vec![newcomer.party.key_package()];
    let (_, commit) = group.make(0, Commit { add, ..Default::default() });
    let vectors: Vectors = read("messages.json");
    assert!(!vectors.is_empty());
    for vector in &vectors {
        world.stock(100).await;
        let before = world.snapshot().await;
        for (name, hex) in vector {
            let bytes = hex::decode(hex).expect("vectors are in hexadecimal");
            let expected = match name.as_str() {
                "public_message_proposal" | "public_message_commit" => {
                    "the message belongs to another group than the one in the path"
                }
                "mls_welcome"
                | "mls_group_info"
                | "mls_key_package"
                | "private_message"
                | "public_message_application" => "",
                // Parts of messages, and a tree.
                _ => "not a well-formed MLSMessage",
            };
            let call = group.submit(0, &MlsMessage::new(bytes.clone()), None);
            world.assert_refused_for(name, &call, expected).await;
            for field in ["welcome", "group_info"] {
                // Only its joiner can tell whom a Welcome is for.
                if (name.as_str(), field) == ("mls_welcome", "welcome") {
                    continue;
                }
                let call = commit.with_field(field, Value::Bytes(bytes.clone()));
                world.assert_refused_for(&format!("{name} as {field}"), &call, "").await;
            }
        }
        world.snapshot().await.assert_same(&before, "published messages");
    }
    world.pay(&commit).await.assert_ok("the commit by itself");
    world.close();
}

/// A tree of `tree-validation.json`, of ciphersuite 0x0001, or of one of `passive-client-*.json`.
#[derive(Deserialize)]
struct PublishedTree {
    #[serde(default = "usual_ciphersuite")]
    cipher_suite: u16,
    tree: String,
    group_id: String,
    /// The root's hash.
    tree_hash: String,
}

fn usual_ciphersuite() -> u16 {
    CIPHERSUITE
}

/// A GroupInfo (RFC 9420 §12.4.3) about a tree, as an `MLSMessage`, that nobody signed.
fn unsigned_info(ciphersuite: u16, group_id: &[u8], tree_hash: &[u8]) -> Vec<u8> {
    let counted = |bytes: &[u8]| {
        // RFC 9420 §2.1.2, in two bytes only where it has to be.
        let length = u16::try_from(bytes.len()).expect("it is short");
        let prefix = if length < 64 { vec![length as u8] } else { (length | 0x4000).to_be_bytes().to_vec() };
        [prefix, bytes.to_vec()].concat()
    };
    [
        // Version, wire format; version, ciphersuite.
        vec![0, 1, 0, 4, 0, 1],
        ciphersuite.to_be_bytes().to_vec(),
        counted(group_id),
        vec![0; 8],
        counted(tree_hash),
        // Transcript hash, extensions of the context and of the GroupInfo.
        vec![0; 3],
        counted(&[7; 32]),
        // The signer.
        vec![0; 4],
        counted(&[7; 64]),
    ]
    .concat()
}

/// The reason why a tree and a GroupInfo that nobody signed are refused.
fn reason(info: &[u8], tree: &[u8]) -> String {
    let (info, tree) = (GroupInfo::new(info.to_vec()), RatchetTree::new(tree.to_vec()));
    let validated = parse_tree(&tree).and_then(|tree| TrackedGroup::open(&info, tree));
    validated.err().expect("nobody signed the GroupInfo").to_string()
}

/// Whether all of a tree was found to be valid: only then is the signer looked for.
fn is_valid(reason: &str) -> bool {
    reason.contains("Sender not found in tree")
        || reason.contains("The signature on the GroupInfo is not valid")
}

#[tokio::test]
async fn published_trees_are_valid_none_of_them_is_with_a_bit_changed_and_none_begins_a_group() {
    const DAMAGES: usize = 12;
    let world = World::start().await;
    let creation = super::create_group::valid(&world).await.call;
    let mut trees: Vec<PublishedTree> = read("trees.json");
    assert!(!trees.is_empty());
    trees.extend(passive_clients().iter().map(PassiveClient::tree));
    world.restock(trees.len() + 1).await;
    let before = world.snapshot().await;
    // A fixed seed: the damage is the same each time.
    let mut rng = StdRng::seed_from_u64(7);
    for (number, published) in trees.iter().enumerate() {
        let (group_id, tree_hash) = (bytes(&published.group_id), bytes(&published.tree_hash));
        let info = unsigned_info(published.cipher_suite, &group_id, &tree_hash);
        let tree = bytes(&published.tree);
        let of_tree = reason(&info, &tree);
        assert!(is_valid(&of_tree), "tree {number}: {of_tree}");
        for _ in 0..DAMAGES {
            let mut damaged = tree.clone();
            let bit = rng.random_range(0..damaged.len() * 8);
            damaged[bit / 8] ^= 1 << (bit % 8);
            let of_damaged = reason(&info, &damaged);
            assert!(!is_valid(&of_damaged), "tree {number} without bit {bit}: {of_damaged}");
        }
        let call = creation.with_field("group_info", Value::Bytes(info));
        let call = call.with_field("ratchet_tree", Value::Bytes(tree));
        world.pay(&call).await.assert_problem(&format!("tree {number}"), ProblemType::InvalidMls);
    }
    world.snapshot().await.assert_same(&before, "published trees");
    world.pay(&creation).await.assert_ok("the creation by itself");
    world.close();
}

/// A member of one of `passive-client-*.json`.
#[derive(Deserialize)]
struct PassiveClient {
    cipher_suite: u16,
    external_psks: Vec<ExternalPsk>,
    key_package: String,
    encryption_priv: String,
    init_priv: String,
    welcome: String,
    /// Where the GroupInfo in the Welcome has none.
    ratchet_tree: Option<String>,
    initial_epoch_authenticator: String,
    epochs: Vec<Epoch>,
}

#[derive(Deserialize)]
struct ExternalPsk {
    psk_id: String,
    psk: String,
}

#[derive(Deserialize)]
struct Epoch {
    proposals: Vec<String>,
    commit: String,
    epoch_authenticator: String,
}

fn passive_clients() -> Vec<PassiveClient> {
    ["commits.json", "random.json", "welcomes.json"].map(read::<Vec<_>>).into_iter().flatten().collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    hex::decode(hex).expect("vectors are in hexadecimal")
}

impl PassiveClient {
    /// openmls in the member's place, and the DS's view of the group that it joins.
    fn join(&self) -> (MlsGroup, OpenMlsRustCrypto, TrackedGroup) {
        let provider = OpenMlsRustCrypto::default();
        for psk in &self.external_psks {
            let id = PreSharedKeyId::external(bytes(&psk.psk_id), Vec::new());
            id.store(&provider, &bytes(&psk.psk)).expect("it is in memory");
        }
        let bundle = self.key_package_bundle(&provider);
        let reference = bundle.key_package().hash_ref(provider.crypto()).expect("it can be hashed");
        provider.storage().write_key_package(&reference, &bundle).expect("it is in memory");
        let MlsMessageBodyIn::Welcome(welcome) = parse(&self.welcome) else { panic!("it is a Welcome") };
        let config = MlsGroupJoinConfig::builder()
            .wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
            .number_of_resumption_psks(16)
            .build();
        let mut welcome =
            StagedWelcome::build_from_welcome(&provider, &config, welcome).expect("it is for us");
        if let Some(tree) = &self.ratchet_tree {
            let tree = RatchetTreeIn::tls_deserialize_exact(bytes(tree)).expect("it is a tree");
            welcome = welcome.with_ratchet_tree(tree);
        }
        // Its members' KeyPackages have expired since.
        let member = welcome.skip_lifetime_validation().build().expect("its tree is in the GroupInfo");
        let member = member.into_group(&provider).expect("it is valid");
        assert_eq!(member.epoch_authenticator().as_slice(), bytes(&self.initial_epoch_authenticator));
        let tracked = tracked(&provider, member.group_id());
        (member, provider, tracked)
    }

    /// The tree of the group that it joins.
    fn tree(&self) -> PublishedTree {
        let (member, provider, tracked) = self.join();
        let tree = tracked.ratchet_tree().into_bytes();
        if let Some(published) = &self.ratchet_tree {
            assert_eq!(tree, bytes(published));
        }
        let context: Option<GroupContext> =
            provider.storage().group_context(member.group_id()).expect("it is in memory");
        PublishedTree {
            cipher_suite: self.cipher_suite,
            tree: hex::encode(tree),
            group_id: hex::encode(member.group_id().as_slice()),
            tree_hash: hex::encode(context.expect("there is one").tree_hash()),
        }
    }

    /// openmls makes no bundle of others' private keys: they are put into one that it made.
    fn key_package_bundle(&self, provider: &OpenMlsRustCrypto) -> KeyPackageBundle {
        fn fill(value: &mut Json, bytes: &[u8]) {
            match value {
                Json::Object(fields) => fields.values_mut().for_each(|field| fill(field, bytes)),
                other => *other = bytes.into(),
            }
        }
        let MlsMessageBodyIn::KeyPackage(published) = parse(&self.key_package) else {
            panic!("it is a KeyPackage")
        };
        let suite = Ciphersuite::try_from(self.cipher_suite).expect("openmls has it");
        let key = SignatureKeyPair::new(SignatureScheme::ED25519).expect("there is randomness");
        let credential = CredentialWithKey {
            credential: BasicCredential::new(Vec::new()).into(),
            signature_key: key.public().into(),
        };
        let made = KeyPackage::builder().build(suite, provider, &key, credential);
        let mut bundle = serde_json::to_value(made.expect("one can be made")).expect("it is data");
        // Not one that openmls has validated: it may have expired.
        bundle["key_package"] = serde_json::to_value(published).expect("it is data");
        fill(&mut bundle["private_init_key"], &bytes(&self.init_priv));
        fill(&mut bundle["private_encryption_key"], &bytes(&self.encryption_priv));
        serde_json::from_value(bundle).expect("the fields are what they were")
    }
}

/// A member's group as the DS keeps it. From the GroupInfo in a Welcome it would not begin to: leaves of the published
/// trees have expired.
fn tracked(provider: &OpenMlsRustCrypto, id: &GroupId) -> TrackedGroup {
    fn piece(value: &impl serde::Serialize) -> Option<Vec<u8>> {
        Some(postcard::to_stdvec(value).expect("it serialises into memory"))
    }
    let stored = provider.storage();
    let tree: Option<TreeSync> = stored.tree(id).expect("it is in memory");
    let context: Option<GroupContext> = stored.group_context(id).expect("it is in memory");
    let hash: Option<InterimTranscriptHash> = stored.interim_transcript_hash(id).expect("it is in memory");
    let tag: Option<ConfirmationTag> = stored.confirmation_tag(id).expect("it is in memory");
    let proposals = Vec::<(Vec<u8>, Vec<u8>)>::new();
    let (tree, context) = (tree.expect("there is one"), context.expect("there is one"));
    let (hash, tag) = (hash.expect("there is one"), tag.expect("there is one"));
    let state = (piece(&tree), piece(&context), piece(&hash), piece(&tag), proposals);
    TrackedGroup::decode(&postcard::to_stdvec(&state).expect("it serialises")).expect("it is one group")
}

fn parse(hex: &str) -> MlsMessageBodyIn {
    MlsMessageIn::tls_deserialize_exact(bytes(hex)).expect("it is an MLSMessage").extract()
}

/// The DS's refusal of a KeyPackage that lives for ever, which openmls and so every member accepts.
const UNLIMITED: &str = "the KeyPackage's lifetime is too long";

/// After a commit that brings one the DS is given the group anew, as its members have it.
#[test]
fn published_commits_are_validated_as_their_members_do() {
    let clients: Vec<PassiveClient> =
        ["commits.json", "random.json"].map(read::<Vec<_>>).into_iter().flatten().collect();
    let (mut followed, mut unlimited) = (0, 0);
    for (number, client) in clients.iter().enumerate() {
        let (mut member, provider, mut tracked) = client.join();
        for epoch in &client.epochs {
            let mut left_out = false;
            for message in epoch.proposals.iter().chain([&epoch.commit]) {
                let before = tracked.encode();
                let mut damaged = bytes(message);
                // Behind the signature come the membership tag and, in a commit, the confirmation tag.
                let tags = if message == &epoch.commit { 2 } else { 1 };
                let place = damaged.len() - 33 * tags - 20;
                damaged[place] ^= 1;
                let damaged = parse_handshake(&MlsMessage::new(damaged)).expect("its structure is whole");
                assert!(
                    tracked.validate(damaged, LONGEST_LIFETIME).is_err(),
                    "client {number}: a signature with a bit changed"
                );

                let parsed = parse_handshake(&MlsMessage::new(bytes(message))).expect("it is public");
                match tracked.validate(parsed, LONGEST_LIFETIME) {
                    Ok(Handshake::Proposal(proposal)) => {
                        tracked.keep_proposal(*proposal).expect("it can be kept");
                    }
                    Ok(Handshake::Commit(commit, _)) => tracked.merge(*commit).expect("it can be merged"),
                    Err(refused) => {
                        let why = refused.to_string();
                        // A commit to a proposal that was refused is refused, too.
                        let follows = left_out
                            && message == &epoch.commit
                            && why.contains("missing a proposal for the commit");
                        assert!(why == UNLIMITED || follows, "client {number}: {why}");
                        assert_eq!(tracked.encode(), before);
                        unlimited += usize::from(why == UNLIMITED);
                        left_out = true;
                    }
                }
                let MlsMessageBodyIn::PublicMessage(message) = parse(message) else { panic!("it is public") };
                let processed = member.process_message(&provider, message).expect("it is for its members");
                match processed.into_content() {
                    ProcessedMessageContent::ProposalMessage(proposal) => {
                        member.store_pending_proposal(provider.storage(), *proposal).expect("in memory");
                    }
                    ProcessedMessageContent::StagedCommitMessage(commit) => {
                        member.merge_staged_commit(&provider, *commit).expect("it can be merged");
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(member.epoch_authenticator().as_slice(), bytes(&epoch.epoch_authenticator));
            if left_out {
                tracked = self::tracked(&provider, member.group_id());
                continue;
            }
            assert_eq!(tracked.epoch(), member.epoch().as_u64());
            let tree = member.export_ratchet_tree().tls_serialize_detached().expect("it serialises");
            assert_eq!(tracked.ratchet_tree().as_bytes(), tree, "client {number}: the members' tree");
            followed += 1;
        }
    }
    println!("{followed} commits; {unlimited} messages that bring a KeyPackage of unlimited lifetime");
    assert_eq!((followed, unlimited), (52, 388));
}

#[test]
fn published_key_packages_are_valid_but_for_their_age_and_none_is_with_a_bit_changed() {
    const DAMAGES: usize = 40;
    let mut rng = StdRng::seed_from_u64(7);
    for (number, client) in passive_clients().iter().enumerate() {
        let refusal =
            |bytes| parse_key_package(&MlsMessage::new(bytes)).expect_err("it has expired").to_string();
        let published = bytes(&client.key_package);
        let aged = refusal(published.clone());
        // Lifetimes are looked at when the signatures are known to be right.
        let in_time = aged == UNLIMITED || aged.contains("Lifetime is in the past");
        assert!(in_time, "client {number}: {aged}");
        for _ in 0..DAMAGES {
            let mut damaged = published.clone();
            let bit = rng.random_range(0..damaged.len() * 8);
            damaged[bit / 8] ^= 1 << (bit % 8);
            let of_damaged = refusal(damaged);
            assert!(of_damaged != aged, "client {number} without bit {bit}: {of_damaged}");
        }
    }
}
