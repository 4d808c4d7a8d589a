//! One side of an MLS group: a leaf with its key, in an EID or in a group of the DS. Makes what a client would make,
//! and what only a broken or hostile one would.

use openmls::prelude::*;
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::signatures::{Signer, SignerError};
use postern_protocol::{
    GroupInfo as GroupInfoBytes, MlsMessage, PublicKey, RatchetTree as RatchetTreeBytes,
    Welcome as WelcomeBytes,
    key::SigningKey,
    mls::{DELIVERY_ADDRESS, GROUP_POLICY},
};
use tls_codec::{Deserialize as _, Serialize as _};

const SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;
const DAYS: u64 = 24 * 60 * 60;

pub struct Party {
    pub key: SigningKey,
    pub identity: Vec<u8>,
    pub suite: Ciphersuite,
    pub lifetime: Lifetime,
    pub leaf: Extensions<LeafNode>,
    /// What the leaf says that it can do.
    pub extensions: Vec<ExtensionType>,
    pub proposals: Vec<ProposalType>,
    group: Option<MlsGroup>,
    provider: OpenMlsRustCrypto,
}

/// What a commit is to do.
#[derive(Default)]
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
}

/// A commit that was made and not merged.
#[derive(Clone)]
pub struct Made {
    pub commit: MlsMessage,
    pub welcome: Option<WelcomeBytes>,
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
            identity: identity.into(),
            suite: SUITE,
            lifetime: Lifetime::new(30 * DAYS),
            leaf: Extensions::empty(),
            extensions: vec![
                ExtensionType::Unknown(GROUP_POLICY),
                ExtensionType::Unknown(DELIVERY_ADDRESS),
                ExtensionType::LastResort,
            ],
            proposals: vec![ProposalType::SelfRemove],
            group: None,
            provider: OpenMlsRustCrypto::default(),
        }
    }

    pub fn public_key(&self) -> PublicKey {
        self.key.public_key()
    }

    /// Founds a group.
    pub fn found(&mut self, id: &[u8], context: Extensions<GroupContext>) {
        let group = MlsGroup::builder()
            .with_group_id(GroupId::from_slice(id))
            .ciphersuite(self.suite)
            .with_wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
            .use_ratchet_tree_extension(true)
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

    pub fn join(&mut self, welcome: &WelcomeBytes) {
        let config = MlsGroupJoinConfig::builder()
            .wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
            .use_ratchet_tree_extension(true)
            .build();
        let staged = StagedWelcome::new_from_welcome(&self.provider, &config, parse_welcome(welcome), None);
        self.group =
            Some(staged.expect("the Welcome is for us").into_group(&self.provider).expect("it is valid"));
    }

    /// The same as an `MLSMessage`.
    pub fn key_package_message(&self) -> MlsMessage {
        message(&MlsMessageOut::from(self.key_package()))
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

    /// Joins by force: the commit by which a stranger with a GroupInfo enters.
    pub fn external_commit(&self, member: &Self) -> MlsMessage {
        let signer = Ed25519(&member.key);
        let info = member
            .group()
            .export_group_info(member.provider.crypto(), &signer, true)
            .expect("it can be exported");
        let MlsMessageBodyIn::GroupInfo(info) = parse(&message(&info)) else { panic!("it is a GroupInfo") };
        let parameters = LeafNodeParameters::builder()
            .with_capabilities(self.capabilities())
            .with_extensions(self.leaf.clone())
            .build();
        let (_, bundle) = MlsGroup::external_commit_builder()
            .build_group(&self.provider, info, self.credential(self.identity.clone()))
            .expect("the group can be entered")
            .leaf_node_parameters(parameters)
            .load_psks(self.provider.storage())
            .expect("there are none")
            .build(self.provider.rand(), self.provider.crypto(), &Ed25519(&self.key), |_| true)
            .expect("the commit can be made")
            .finalize(&self.provider)
            .expect("the commit can be kept");
        message(bundle.commit())
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
            .build(provider.rand(), provider.crypto(), &Ed25519(key), |_| true)
            .expect("the commit can be made")
            .stage_commit(provider)
            .expect("the commit can be kept");
        let welcome =
            bundle.to_welcome_msg().map(|welcome| WelcomeBytes::new(message(&welcome).into_bytes()));
        Made { commit: message(bundle.commit()), welcome }
    }

    /// Makes a commit by which the own leaf takes another key, which may be somebody's.
    pub fn commit_to_key(&mut self, new: &SigningKey) -> Made {
        let credential_with_key = credential(self.identity.clone(), new.public_key());
        let Self { group, provider, key, .. } = self;
        let group = group.as_mut().expect("a member has a group");
        let new = NewSignerBundle { signer: &Ed25519(new), credential_with_key };
        let bundle = group
            .self_update_with_new_signer(provider, &Ed25519(key), new, LeafNodeParameters::default())
            .expect("the commit can be made");
        Made { commit: message(bundle.commit()), welcome: None }
    }

    /// The commit was accepted.
    pub fn merge(&mut self) {
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

    /// From now on commits and proposals are private, as most MLS clients send them.
    pub fn whisper(&mut self) {
        let config =
            MlsGroupJoinConfig::builder().wire_format_policy(PURE_CIPHERTEXT_WIRE_FORMAT_POLICY).build();
        let Self { group, provider, .. } = self;
        let group = group.as_mut().expect("a member has a group");
        group.set_configuration(provider.storage(), &config).expect("it is in memory");
    }

    /// Takes in what came through the queue; returns what an application message says.
    pub fn receive(&mut self, received: &MlsMessage) -> Option<Vec<u8>> {
        let received: ProtocolMessage = match parse(received) {
            MlsMessageBodyIn::PublicMessage(message) => message.into(),
            MlsMessageBodyIn::PrivateMessage(message) => message.into(),
            _ => panic!("it is no message of a group"),
        };
        let Self { group, provider, .. } = self;
        let group = group.as_mut().expect("a member has a group");
        match group
            .process_message(provider, received)
            .expect("what the server accepts is valid")
            .into_content()
        {
            ProcessedMessageContent::ApplicationMessage(message) => Some(message.into_bytes()),
            ProcessedMessageContent::StagedCommitMessage(commit) => {
                group.merge_staged_commit(provider, *commit).expect("it can be merged");
                None
            }
            ProcessedMessageContent::ProposalMessage(proposal) => {
                group.store_pending_proposal(provider.storage(), *proposal).expect("it is in memory");
                None
            }
            _ => panic!("it is nothing that a member sends"),
        }
    }

    pub fn epoch(&self) -> u64 {
        self.group().epoch().as_u64()
    }

    pub fn member_keys(&self) -> Vec<PublicKey> {
        let keys = self.group().members().map(|member| member.signature_key);
        keys.map(|key| PublicKey::try_from(key.as_slice()).expect("keys are Ed25519")).collect()
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

    fn capabilities(&self) -> Capabilities {
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

/// The bytes of an `MLSMessage`.
fn message(message: &MlsMessageOut) -> MlsMessage {
    MlsMessage::new(message.to_bytes().expect("it serialises"))
}

fn parse(message: &MlsMessage) -> MlsMessageBodyIn {
    MlsMessageIn::tls_deserialize_exact(message.as_bytes()).expect("it is an MLSMessage").extract()
}

fn parse_welcome(welcome: &WelcomeBytes) -> Welcome {
    match parse(&MlsMessage::new(welcome.as_bytes().to_vec())) {
        MlsMessageBodyIn::Welcome(welcome) => welcome,
        _ => panic!("it is no Welcome"),
    }
}

/// What no library makes, since RFC 9420 §6.2 forbids it: an application message in public framing.
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
