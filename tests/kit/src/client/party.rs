//! One side of an MLS group: a leaf with its key, in an EID or in a group of the DS. It makes what a client would make,
//! and what only a broken or hostile one would.

use openmls::{ciphersuite::hash_ref::ProposalRef, prelude::*};
use openmls_traits::signatures::{Signer, SignerError};
use postern_protocol::{
    GroupInfo as GroupInfoBytes, MlsMessage, PublicKey, RatchetTree as RatchetTreeBytes,
    Welcome as WelcomeBytes,
    ds::{CurrentGroup, MAX_PAST_EPOCHS},
    key::SigningKey,
    mls::{DELIVERY_ADDRESS, GROUP_POLICY, USER_KEY, UserKey, to_join},
};
use tls_codec::{Deserialize as _, Serialize as _};

use super::provider::{Provider, Spoil};

pub const SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;
const DAYS: u64 = 24 * 60 * 60;

pub struct Party {
    pub key: SigningKey,
    /// The key by which it acts for its user, in this generation.
    pub user: SigningKey,
    pub generation: u32,
    pub identity: Vec<u8>,
    pub suite: Ciphersuite,
    pub lifetime: Lifetime,
    pub leaf: Extensions<LeafNode>,
    /// The leaf's capabilities.
    pub extensions: Vec<ExtensionType>,
    pub proposals: Vec<ProposalType>,
    group: Option<MlsGroup>,
    /// The group as [`Party::join_externally`] enters it.
    entered: Option<MlsGroup>,
    /// How many proposals of the server's came in.
    pub evictions: usize,
    provider: Provider,
}

/// The changes of a commit.
#[derive(Clone, Default)]
pub struct Commit {
    pub add: Vec<KeyPackage>,
    /// By leaf key.
    pub remove: Vec<PublicKey>,
    pub update: bool,
    pub context: Option<Extensions<GroupContext>>,
    pub identity: Option<Vec<u8>>,
    pub leaf: Option<Extensions<LeafNode>>,
    /// Without the proposals that wait.
    pub alone: bool,
    /// In the GroupInfo, where the DS does not want them.
    pub tree_in_group_info: bool,
    pub info_extensions: Vec<Extension>,
}

/// A commit that was made and not merged.
#[derive(Clone)]
pub struct Made {
    pub commit: MlsMessage,
    /// GroupInfo of the epoch it begins, without the tree.
    pub group_info: Option<GroupInfoBytes>,
    pub welcome: Option<WelcomeBytes>,
}

/// A message that a party took in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// The text of an application message.
    Text(Vec<u8>),
    Proposal,
    /// How many proposals it took along.
    Commit {
        proposals: usize,
    },
}

struct Ed25519<'a>(&'a SigningKey);

impl Signer for Ed25519<'_> {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignerError> {
        Ok(self.0.sign(payload).into_bytes())
    }
    fn signature_scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

impl Party {
    pub fn new(identity: impl Into<Vec<u8>>) -> Self {
        Self {
            key: SigningKey::generate(),
            user: SigningKey::generate(),
            generation: 0,
            identity: identity.into(),
            suite: SUITE,
            lifetime: Lifetime::new(60 * DAYS),
            leaf: Extensions::empty(),
            extensions: vec![
                ExtensionType::Unknown(GROUP_POLICY),
                ExtensionType::Unknown(DELIVERY_ADDRESS),
                ExtensionType::Unknown(USER_KEY),
                ExtensionType::LastResort,
            ],
            proposals: vec![ProposalType::SelfRemove],
            group: None,
            entered: None,
            evictions: 0,
            provider: Provider::default(),
        }
    }

    /// Takes this ciphersuite, and the cryptography of a library that has it.
    pub fn set_suite(&mut self, suite: Ciphersuite, crypto: Box<dyn OpenMlsCrypto>) {
        self.suite = suite;
        self.provider = Provider::of(crypto);
    }

    /// Makes another key to encrypt to of the one of this number, counted from now on.
    pub fn lie(&self, place: usize, spoil: Spoil) {
        self.provider.lie(place, spoil);
    }

    /// Ends the lie, and returns how many keys it made meanwhile.
    pub fn repent(&self) -> usize {
        self.provider.repent()
    }

    pub fn public_key(&self) -> PublicKey {
        self.key.public_key()
    }

    pub fn user_key(&self) -> UserKey {
        UserKey { generation: self.generation, public_key: self.user.public_key() }
    }

    /// Founds a group.
    pub fn found(&mut self, id: &[u8], context: Extensions<GroupContext>) {
        let group = MlsGroup::builder()
            .with_group_id(GroupId::from_slice(id))
            .ciphersuite(self.suite)
            .with_wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
            .use_ratchet_tree_extension(true)
            .max_past_epochs(MAX_PAST_EPOCHS)
            .with_capabilities(self.capabilities())
            .lifetime(self.lifetime)
            .with_group_context_extensions(context)
            .with_leaf_node_extensions(self.leaf.clone())
            .expect("the extensions are a leaf's")
            .build(&self.provider, &Ed25519(&self.key), self.credential(self.identity.clone()))
            .expect("a group can be founded");
        self.group = Some(group);
    }

    pub fn group_info(&self) -> GroupInfoBytes {
        let info = self.group().export_group_info(self.provider.crypto(), &Ed25519(&self.key), false);
        GroupInfoBytes::new(message(&info.expect("it can be exported")).into_bytes())
    }

    pub fn ratchet_tree(&self) -> RatchetTreeBytes {
        RatchetTreeBytes::new(
            self.group().export_ratchet_tree().tls_serialize_detached().expect("it serialises"),
        )
    }

    pub fn key_package(&self) -> KeyPackage {
        let bundle = KeyPackage::builder()
            .key_package_lifetime(self.lifetime)
            .leaf_node_capabilities(self.capabilities())
            .leaf_node_extensions(self.leaf.clone())
            .build(self.suite, &self.provider, &Ed25519(&self.key), self.credential(self.identity.clone()))
            .expect("a KeyPackage can be made");
        bundle.key_package().clone()
    }

    pub fn join(&mut self, welcome: &WelcomeBytes, tree: &RatchetTreeBytes) {
        let staged =
            StagedWelcome::build_from_welcome(&self.provider, &join_config(), parse_welcome(welcome))
                .expect("the Welcome is for us")
                .with_ratchet_tree(parse_tree(tree))
                .build();
        self.group =
            Some(staged.expect("the tree is the Welcome's").into_group(&self.provider).expect("it is valid"));
    }

    /// The same as an `MLSMessage`.
    pub fn key_package_message(&self) -> MlsMessage {
        message(&MlsMessageOut::from(self.key_package()))
    }

    /// Somebody else's, as it was fetched.
    pub fn open_key_package(&self, fetched: &MlsMessage) -> KeyPackage {
        let MlsMessageBodyIn::KeyPackage(key_package) = parse(fetched) else { panic!("it is a KeyPackage") };
        key_package.validate(self.provider.crypto(), ProtocolVersion::Mls10).expect("it is valid")
    }

    /// One that says that it is of last resort.
    pub fn last_resort_message(&self) -> MlsMessage {
        let bundle = KeyPackage::builder()
            .key_package_lifetime(self.lifetime)
            .leaf_node_capabilities(self.capabilities())
            .leaf_node_extensions(self.leaf.clone())
            .mark_as_last_resort()
            .build(self.suite, &self.provider, &Ed25519(&self.key), self.credential(self.identity.clone()))
            .expect("a KeyPackage can be made");
        message(&MlsMessageOut::from(bundle.key_package().clone()))
    }

    /// The commit by which a stranger who got hold of a GroupInfo would enter.
    pub fn external_commit(&mut self, member: &Self) -> MlsMessage {
        let (group_info, ratchet_tree) = (member.group_info(), member.ratchet_tree());
        self.join_externally(
            &CurrentGroup { group_info, ratchet_tree, proposals: Vec::new(), attributes: Vec::new() },
            None,
        )
        .commit
    }

    /// Joins, or comes back, by external commit, for which a user's key may vouch; [`Party::merge`] it once it was
    /// accepted.
    pub fn join_externally(&mut self, current: &CurrentGroup, voucher: Option<&SigningKey>) -> Made {
        let info = MlsMessage::new(current.group_info.as_bytes().to_vec());
        let MlsMessageBodyIn::GroupInfo(info) = parse(&info) else { panic!("it is a GroupInfo") };
        let proposal = |message| match parse(message) {
            MlsMessageBodyIn::PublicMessage(proposal) => proposal,
            _ => panic!("proposals are public"),
        };
        let parameters = LeafNodeParameters::builder()
            .with_capabilities(self.capabilities())
            .with_extensions(self.leaf.clone())
            .build();
        let signature = voucher.map(|user| {
            // Parties of EIDs have no group ids of ours, and nobody who vouches.
            let id = postern_protocol::ds::GroupId::from_mls(info.group_id().as_slice()).expect("it is ours");
            user.sign(&to_join(&id, info.epoch().as_u64(), &self.public_key())).into_bytes()
        });
        let (group, bundle) = MlsGroup::external_commit_builder()
            .with_aad(signature.unwrap_or_default())
            .with_ratchet_tree(parse_tree(&current.ratchet_tree))
            .with_config(join_config())
            .with_proposals(current.proposals.iter().map(proposal).collect())
            .build_group(&self.provider, info, self.credential(self.identity.clone()))
            .expect("the group can be entered")
            .leaf_node_parameters(parameters)
            .load_psks(self.provider.storage())
            .expect("there are none")
            .create_group_info(true)
            .use_ratchet_tree_extension(false)
            .build(self.provider.rand(), self.provider.crypto(), &Ed25519(&self.key), |_| true)
            .expect("the commit can be made")
            .finalize(&self.provider)
            .expect("the commit can be kept");
        self.entered = Some(group);
        Made::of(bundle)
    }

    /// Makes a commit; [`Party::merge`] or [`Party::forget`] it.
    pub fn commit(&mut self, commit: Commit) -> Made {
        let (remove, parameters) = (self.leaves(&commit.remove), self.parameters(&commit));
        let Self { group, provider, key, .. } = self;
        let group = group.as_mut().expect("a member has a group");
        let mut builder = group
            .commit_builder()
            .consume_proposal_store(!commit.alone)
            .propose_adds(commit.add)
            .propose_removals(remove)
            .force_self_update(commit.update);
        if let Some(context) = commit.context {
            builder =
                builder.propose_group_context_extensions(context).expect("the extensions are a context's");
        }
        if let Some(parameters) = parameters {
            builder = builder.leaf_node_parameters(parameters);
        }
        let bundle = builder
            .load_psks(provider.storage())
            .expect("there are none")
            .create_group_info_with_extensions(commit.info_extensions)
            .expect("neither the tree nor external_pub is among them")
            .use_ratchet_tree_extension(commit.tree_in_group_info)
            .build(provider.rand(), provider.crypto(), &Ed25519(key), |_| true)
            .expect("the commit can be made")
            .stage_commit(provider)
            .expect("the commit can be kept");
        Made::of(bundle)
    }

    /// Lets the next message have this authenticated data.
    pub fn authenticate(&mut self, data: &[u8]) {
        self.group.as_mut().expect("a member has a group").set_aad(data.to_vec());
    }

    /// Makes a commit by which the own leaf takes another key, which may be somebody's.
    pub fn commit_to_key(&mut self, new: &SigningKey) -> Made {
        let credential_with_key = credential(self.identity.clone(), new.public_key());
        let Self { group, provider, key, .. } = self;
        let group = group.as_mut().expect("a member has a group");
        let new = NewSignerBundle { signer: &Ed25519(new), credential_with_key };
        let bundle = group
            .commit_builder()
            .load_psks(provider.storage())
            .expect("there are none")
            .create_group_info(true)
            .use_ratchet_tree_extension(false)
            .build_with_new_signer(provider.rand(), provider.crypto(), &Ed25519(key), new, |_| true)
            .expect("the commit can be made")
            .stage_commit(provider)
            .expect("the commit can be kept");
        Made::of(bundle)
    }

    /// The commit to another key of the own leaf was accepted.
    pub fn rotate(&mut self, new: SigningKey) {
        self.key = new;
        self.merge();
    }

    /// The commit was accepted.
    pub fn merge(&mut self) {
        if let Some(entered) = self.entered.take() {
            self.group = Some(entered);
            return;
        }
        let Self { group, provider, .. } = self;
        group.as_mut().expect("a member has a group").merge_pending_commit(provider).expect("there is one");
    }

    /// The commit or proposal was refused.
    pub fn forget(&mut self) {
        let Self { group, provider, .. } = self;
        let group = group.as_mut().expect("a member has a group");
        group.clear_pending_commit(provider.storage()).expect("it is in memory");
        group.clear_pending_proposals(provider.storage()).expect("it is in memory");
    }

    /// The commit was refused, and what others proposed still waits.
    pub fn drop_commit(&mut self) {
        let Self { group, provider, .. } = self;
        let group = group.as_mut().expect("a member has a group");
        group.clear_pending_commit(provider.storage()).expect("it is in memory");
    }

    /// The proposals that wait.
    pub fn waiting(&self) -> Vec<ProposalRef> {
        self.group().pending_proposals().map(|proposal| proposal.proposal_reference_ref().clone()).collect()
    }

    /// The proposals since then were refused.
    pub fn withdraw(&mut self, then: &[ProposalRef]) {
        let refused: Vec<_> =
            self.waiting().into_iter().filter(|proposal| !then.contains(proposal)).collect();
        let Self { group, provider, .. } = self;
        let group = group.as_mut().expect("a member has a group");
        for proposal in refused {
            group.remove_pending_proposal(provider.storage(), &proposal).expect("it is in memory");
        }
    }

    pub fn propose_add(&mut self, key_package: &KeyPackage) -> MlsMessage {
        let Self { group, provider, key, .. } = self;
        let group = group.as_mut().expect("a member has a group");
        message(
            &group.propose_add_member(provider, &Ed25519(key), key_package).expect("it can be proposed").0,
        )
    }

    pub fn propose_removal(&mut self, of: PublicKey) -> MlsMessage {
        let leaf = self.leaves(&[of])[0];
        let Self { group, provider, key, .. } = self;
        let group = group.as_mut().expect("a member has a group");
        message(&group.propose_remove_member(provider, &Ed25519(key), leaf).expect("it can be proposed").0)
    }

    pub fn propose_update(&mut self) -> MlsMessage {
        let Self { group, provider, key, .. } = self;
        let group = group.as_mut().expect("a member has a group");
        let parameters = LeafNodeParameters::default();
        message(
            &group.propose_self_update(provider, &Ed25519(key), parameters).expect("it can be proposed").0,
        )
    }

    /// Proposes another leaf of its own: with these extensions, this identity or these capabilities.
    pub fn propose_leaf(
        &mut self,
        leaf: Option<Extensions<LeafNode>>,
        identity: Option<Vec<u8>>,
        capabilities: Option<Capabilities>,
    ) -> MlsMessage {
        let mut parameters = LeafNodeParameters::builder();
        if let Some(leaf) = leaf {
            parameters = parameters.with_extensions(leaf);
        }
        if let Some(identity) = identity {
            parameters = parameters.with_credential_with_key(self.credential(identity));
        }
        if let Some(capabilities) = capabilities {
            parameters = parameters.with_capabilities(capabilities);
        }
        let Self { group, provider, key, .. } = self;
        let group = group.as_mut().expect("a member has a group");
        let proposed = group.propose_self_update(provider, &Ed25519(key), parameters.build());
        message(&proposed.expect("it can be proposed").0)
    }

    /// The next message brings these bytes along, which everybody can read.
    pub fn attach(&mut self, authenticated_data: Vec<u8>) {
        self.group.as_mut().expect("a member has a group").set_aad(authenticated_data);
    }

    /// Proposes that the own leaf takes another key, which may be somebody's.
    pub fn propose_update_to_key(&mut self, new: &SigningKey) -> MlsMessage {
        let credential_with_key = credential(self.identity.clone(), new.public_key());
        let Self { group, provider, key, .. } = self;
        let group = group.as_mut().expect("a member has a group");
        let new = NewSignerBundle { signer: &Ed25519(new), credential_with_key };
        let parameters = LeafNodeParameters::default();
        message(
            &group
                .propose_self_update_with_new_signer(provider, &Ed25519(key), new, parameters)
                .expect("it can be proposed")
                .0,
        )
    }

    /// Leaves in the way of an extension to MLS (draft-ietf-mls-extensions).
    pub fn self_remove(&mut self) -> MlsMessage {
        let Self { group, provider, key, .. } = self;
        let group = group.as_mut().expect("a member has a group");
        message(&group.leave_group_via_self_remove(provider, &Ed25519(key)).expect("it can be proposed"))
    }

    /// An application message.
    pub fn say(&mut self, text: &[u8]) -> MlsMessage {
        let Self { group, provider, key, .. } = self;
        let group = group.as_mut().expect("a member has a group");
        message(&group.create_message(provider, &Ed25519(key), text).expect("a member can speak"))
    }

    /// Makes commits and proposals private, as most MLS clients send them.
    pub fn whisper(&mut self) {
        let config =
            MlsGroupJoinConfig::builder().wire_format_policy(PURE_CIPHERTEXT_WIRE_FORMAT_POLICY).build();
        let Self { group, provider, .. } = self;
        let group = group.as_mut().expect("a member has a group");
        group.set_configuration(provider.storage(), &config).expect("it is in memory");
    }

    /// Takes in what came through the queue; returns what an application message says.
    pub fn receive(&mut self, received: &MlsMessage) -> Option<Vec<u8>> {
        match self.take_in(received) {
            Received::Text(text) => Some(text),
            Received::Commit { .. } | Received::Proposal => None,
        }
    }

    /// Takes in what came through the queue.
    pub fn take_in(&mut self, received: &MlsMessage) -> Received {
        let received: ProtocolMessage = match parse(received) {
            MlsMessageBodyIn::PublicMessage(message) => message.into(),
            MlsMessageBodyIn::PrivateMessage(message) => message.into(),
            _ => panic!("it is no message of a group"),
        };
        let group = self.group.as_mut().expect("a member has a group");
        let provider = &self.provider;
        match group
            .process_message(provider, received)
            .expect("what the server accepts is valid")
            .into_content()
        {
            ProcessedMessageContent::ApplicationMessage(message) => Received::Text(message.into_bytes()),
            ProcessedMessageContent::StagedCommitMessage(commit) => {
                let proposals = commit.queued_proposals().count();
                group.merge_staged_commit(provider, *commit).expect("it can be merged");
                Received::Commit { proposals }
            }
            ProcessedMessageContent::ProposalMessage(proposal) => {
                self.evictions += usize::from(matches!(proposal.sender(), Sender::External(_)));
                group.store_pending_proposal(provider.storage(), *proposal).expect("it is in memory");
                Received::Proposal
            }
            _ => panic!("it is nothing that a member sends"),
        }
    }

    pub fn epoch(&self) -> u64 {
        self.group().epoch().as_u64()
    }

    /// The key by which its user acts in the group: that of the highest generation.
    pub fn users_key(&self) -> UserKey {
        let group = self.group();
        let own = group.own_leaf_node().expect("a member has a leaf").credential();
        let leaves = group.members().filter_map(|member| group.public_group().leaf(member.index));
        leaves
            .filter(|leaf| leaf.credential() == own)
            .filter_map(|leaf| UserKey::from_bytes(&leaf.extensions().unknown(USER_KEY)?.0).ok())
            .max_by_key(|key| key.generation)
            .expect("every user has one")
    }

    pub fn member_keys(&self) -> Vec<PublicKey> {
        let keys = self.group().members().map(|member| member.signature_key);
        keys.map(|key| PublicKey::try_from(key.as_slice()).expect("keys are Ed25519")).collect()
    }

    /// The secret that is the same for all members in one epoch of one history (RFC 9420 §8.7).
    pub fn epoch_authenticator(&self) -> Vec<u8> {
        self.group().epoch_authenticator().as_slice().to_vec()
    }

    /// The `GroupContext` (RFC 9420 §8.1).
    pub fn context(&self) -> Vec<u8> {
        self.group().public_group().group_context().tls_serialize_detached().expect("it serialises")
    }

    pub fn is_active(&self) -> bool {
        self.group().is_active()
    }

    fn group(&self) -> &MlsGroup {
        self.group.as_ref().expect("a member has a group")
    }

    fn leaves(&self, keys: &[PublicKey]) -> Vec<LeafNodeIndex> {
        let leaf = |key: &PublicKey| {
            let mut members = self.group().members();
            members.find(|member| member.signature_key == key.as_bytes()).expect("it is a member").index
        };
        keys.iter().map(leaf).collect()
    }

    fn parameters(&self, commit: &Commit) -> Option<LeafNodeParameters> {
        let mut builder = LeafNodeParameters::builder();
        if let Some(identity) = &commit.identity {
            builder = builder.with_credential_with_key(self.credential(identity.clone()));
        }
        if let Some(leaf) = &commit.leaf {
            builder = builder.with_extensions(leaf.clone());
        }
        (commit.identity.is_some() || commit.leaf.is_some()).then(|| builder.build())
    }

    fn credential(&self, identity: Vec<u8>) -> CredentialWithKey {
        credential(identity, self.public_key())
    }

    /// The capabilities of its leaves.
    pub fn capabilities(&self) -> Capabilities {
        Capabilities::new(
            Some(&[ProtocolVersion::Mls10]),
            Some(&[self.suite]),
            Some(&self.extensions),
            Some(&self.proposals),
            Some(&[CredentialType::Basic]),
        )
    }
}

fn credential(identity: Vec<u8>, key: PublicKey) -> CredentialWithKey {
    CredentialWithKey {
        credential: Credential::from(BasicCredential::new(identity)),
        signature_key: key.as_bytes().as_slice().into(),
    }
}

fn join_config() -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
        .max_past_epochs(MAX_PAST_EPOCHS)
        .build()
}

impl Made {
    fn of(bundle: CommitMessageBundle) -> Self {
        let (commit, welcome, group_info) = bundle.into_messages();
        let bytes = |part: Option<MlsMessageOut>| part.map(|part| message(&part).into_bytes());
        let commit = message(&commit);
        let (welcome, group_info) =
            (bytes(welcome).map(WelcomeBytes::new), bytes(group_info).map(GroupInfoBytes::new));
        Self { commit, group_info, welcome }
    }
}

/// The bytes of an `MLSMessage`.
fn message(message: &MlsMessageOut) -> MlsMessage {
    MlsMessage::new(message.to_bytes().expect("it serialises"))
}

fn parse(message: &MlsMessage) -> MlsMessageBodyIn {
    MlsMessageIn::tls_deserialize_exact(message.as_bytes()).expect("it is an MLSMessage").extract()
}

fn parse_tree(tree: &RatchetTreeBytes) -> RatchetTreeIn {
    RatchetTreeIn::tls_deserialize_exact(tree.as_bytes()).expect("it is a tree")
}

fn parse_welcome(welcome: &WelcomeBytes) -> Welcome {
    match parse(&MlsMessage::new(welcome.as_bytes().to_vec())) {
        MlsMessageBodyIn::Welcome(welcome) => welcome,
        _ => panic!("it is no Welcome"),
    }
}

/// The same commit or proposal with a membership tag that no member takes for its sender's: the server cannot check it.
pub fn mistagged(message: &MlsMessage) -> MlsMessage {
    let mut bytes = message.as_bytes().to_vec();
    *bytes.last_mut().expect("it ends with the tag") ^= 1;
    MlsMessage::new(bytes)
}

/// An application message in public framing, which no library makes, since RFC 9420 §6.2 forbids it.
pub fn public_application(group_id: &[u8], epoch: u64, leaf: u32) -> MlsMessage {
    let mut bytes = vec![0, 1, 0, 1];
    bytes.push(u8::try_from(group_id.len()).expect("it is short"));
    bytes.extend_from_slice(group_id);
    bytes.extend_from_slice(&epoch.to_be_bytes());
    bytes.push(1);
    bytes.extend_from_slice(&leaf.to_be_bytes());
    // No authenticated data; application data; signature; membership tag.
    bytes.extend_from_slice(&[0, 1, 5]);
    bytes.extend_from_slice(b"hello");
    bytes.extend_from_slice(&[0x40, 64]);
    bytes.extend_from_slice(&[7; 64]);
    bytes.push(32);
    bytes.extend_from_slice(&[7; 32]);
    MlsMessage::new(bytes)
}
