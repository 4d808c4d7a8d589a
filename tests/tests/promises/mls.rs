//! Members of a group without a client around them, who make proposals of their own: Postern's clients commit
//! at once and never do.

use openmls::prelude::{
    BasicCredential, Capabilities, Ciphersuite, CredentialType, CredentialWithKey, Extension, ExtensionType,
    Extensions, KeyPackage, LeafNode, LeafNodeParameters, MIXED_PLAINTEXT_WIRE_FORMAT_POLICY, MlsGroup,
    MlsGroupCreateConfig, MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider, ProcessedMessageContent,
    ProtocolMessage, ProtocolVersion, RequiredCapabilitiesExtension, StagedWelcome, UnknownExtension,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::OpenMlsRustCrypto;
use postern_client::{Client, Request};
use postern_protocol::{
    Address, GroupInfo, MlsMessage, RatchetTree, Welcome,
    ds::{CreateGroup, GroupId, GroupIdReserved, SubmitMessage},
    key::SigningKey,
    mls::{DELIVERY_ADDRESS, DeliveryAddress, GROUP_POLICY, GroupPolicy, Pseudonym},
    name::Domain,
};
use tls_codec::{DeserializeBytes as _, Serialize as _};

use crate::world::paid;

const SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;
const EXTENSIONS: [ExtensionType; 2] =
    [ExtensionType::Unknown(GROUP_POLICY), ExtensionType::Unknown(DELIVERY_ADDRESS)];

pub struct Member {
    provider: OpenMlsRustCrypto,
    key: SigningKey,
    id: GroupId,
    policy: GroupPolicy,
    group: MlsGroup,
}

impl Member {
    /// A group of one member for each address; the first is the admin.
    pub async fn group(payer: &Client, addresses: &[Address]) -> Vec<Self> {
        let domain = payer.user().domain();
        let send =
            async |request| payer.http().send(&paid(payer, request).await).await.expect("a good request");
        let id: GroupIdReserved = send(Request::post("/ds/group-ids")).await.decode().expect("an id");
        let mut admin = Self::create(id.group_id, domain, addresses[0]);
        let group_info =
            admin.group.export_group_info(admin.provider.crypto(), &admin.signer(), false).unwrap();
        let create = CreateGroup {
            group_id: admin.id.clone(),
            state_key: admin.policy.state_key(),
            group_info: GroupInfo::new(group_info.to_bytes().unwrap()),
            ratchet_tree: RatchetTree::new(
                admin.group.export_ratchet_tree().tls_serialize_detached().unwrap(),
            ),
        };
        send(Request::post("/ds/groups").cbor(&create).signed_by(&admin.key)).await;

        let joiners: Vec<_> = addresses[1..].iter().map(|address| Joiner::create(domain, *address)).collect();
        let key_packages: Vec<_> = joiners.iter().map(|joiner| joiner.key_package.clone()).collect();
        let signer = admin.signer();
        let (commit, welcome, _) = admin.group.add_members(&admin.provider, &signer, &key_packages).unwrap();
        let welcome = welcome.to_bytes().unwrap();
        let submission = admin.submission(commit.to_bytes().unwrap(), Some(Welcome::new(welcome.clone())));
        send(submission).await;
        admin.group.merge_pending_commit(&admin.provider).unwrap();
        let mut members = Vec::new();
        for joiner in joiners {
            members.push(joiner.join(&admin, &welcome));
        }
        members.insert(0, admin);
        members
    }

    fn create(id: GroupId, domain: &Domain, address: Address) -> Self {
        let (provider, key, pseudonym) =
            (OpenMlsRustCrypto::default(), SigningKey::generate(), Pseudonym::random());
        let policy = GroupPolicy::new(pseudonym);
        let context = Extensions::from_vec(vec![
            Extension::RequiredCapabilities(RequiredCapabilitiesExtension::new(&EXTENSIONS, &[], &[])),
            Extension::Unknown(GROUP_POLICY, UnknownExtension(policy.to_bytes())),
        ]);
        let config = MlsGroupCreateConfig::builder()
            .ciphersuite(SUITE)
            .wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
            .use_ratchet_tree_extension(true)
            .capabilities(capabilities())
            .with_group_context_extensions(context.unwrap())
            .with_leaf_node_extensions(delivery(domain, address))
            .unwrap()
            .build();
        let mls_id = openmls::group::GroupId::from_slice(&id.to_mls());
        let credential = credential(pseudonym, &key);
        let group =
            MlsGroup::new_with_group_id(&provider, &key_pair(&key), &config, mls_id, credential).unwrap();
        Self { provider, key, id, policy, group }
    }

    pub fn epoch(&self) -> u64 {
        self.group.epoch().as_u64()
    }

    /// A proposal to renew this member's own leaf.
    pub fn propose_update(&mut self) -> Request {
        let signer = self.signer();
        let (proposal, _) =
            self.group.propose_self_update(&self.provider, &signer, LeafNodeParameters::default()).unwrap();
        self.submission(proposal.to_bytes().unwrap(), None)
    }

    /// A commit of all proposals this member knows, by reference.
    pub fn commit(&mut self) -> Request {
        let signer = self.signer();
        let (commit, _, _) = self.group.commit_to_pending_proposals(&self.provider, &signer).unwrap();
        self.submission(commit.to_bytes().unwrap(), None)
    }

    /// This member's own commit was accepted.
    pub fn merge(&mut self) {
        self.group.merge_pending_commit(&self.provider).unwrap();
    }

    /// What came out of this member's queue; how many proposals a commit took along.
    pub fn process(&mut self, message: &MlsMessage) -> usize {
        let message = match MlsMessageIn::tls_deserialize_exact_bytes(message.as_bytes()).unwrap().extract() {
            MlsMessageBodyIn::PublicMessage(message) => ProtocolMessage::from(message),
            MlsMessageBodyIn::PrivateMessage(message) => ProtocolMessage::from(message),
            other => panic!("no message of a group: {other:?}"),
        };
        match self.group.process_message(&self.provider, message).unwrap().into_content() {
            ProcessedMessageContent::ProposalMessage(proposal) => {
                self.group.store_pending_proposal(self.provider.storage(), *proposal).unwrap();
                0
            }
            ProcessedMessageContent::StagedCommitMessage(commit) => {
                let proposals = commit.queued_proposals().count();
                self.group.merge_staged_commit(&self.provider, *commit).unwrap();
                proposals
            }
            other => panic!("not expected: {other:?}"),
        }
    }

    fn submission(&self, message: Vec<u8>, welcome: Option<Welcome>) -> Request {
        let body =
            SubmitMessage { state_key: self.policy.state_key(), message: MlsMessage::new(message), welcome };
        let path = format!("/ds/groups/{}/messages", self.id.to_base64url());
        Request::post(path).cbor(&body).signed_by(&self.key)
    }

    fn signer(&self) -> SignatureKeyPair {
        key_pair(&self.key)
    }
}

/// A member to be.
struct Joiner {
    provider: OpenMlsRustCrypto,
    key: SigningKey,
    key_package: KeyPackage,
}

impl Joiner {
    fn create(domain: &Domain, address: Address) -> Self {
        let (provider, key) = (OpenMlsRustCrypto::default(), SigningKey::generate());
        let bundle = KeyPackage::builder()
            .leaf_node_capabilities(capabilities())
            .leaf_node_extensions(delivery(domain, address))
            .build(SUITE, &provider, &key_pair(&key), credential(Pseudonym::random(), &key))
            .unwrap();
        Self { provider, key, key_package: bundle.key_package().clone() }
    }

    fn join(self, admin: &Member, welcome: &[u8]) -> Member {
        let message = MlsMessageIn::tls_deserialize_exact_bytes(welcome).unwrap();
        let MlsMessageBodyIn::Welcome(welcome) = message.extract() else { panic!("no Welcome") };
        let config = admin.group.configuration();
        let config = openmls::prelude::MlsGroupJoinConfig::builder()
            .wire_format_policy(config.wire_format_policy())
            .use_ratchet_tree_extension(true)
            .build();
        let group = StagedWelcome::new_from_welcome(&self.provider, &config, welcome, None).unwrap();
        let group = group.into_group(&self.provider).unwrap();
        let Self { provider, key, .. } = self;
        Member { provider, key, id: admin.id.clone(), policy: admin.policy.clone(), group }
    }
}

fn capabilities() -> Capabilities {
    Capabilities::new(
        Some(&[ProtocolVersion::Mls10]),
        Some(&[SUITE]),
        Some(&EXTENSIONS),
        Some(&[]),
        Some(&[CredentialType::Basic]),
    )
}

fn delivery(domain: &Domain, address: Address) -> Extensions<LeafNode> {
    let bytes = DeliveryAddress { domain: domain.clone(), address }.to_bytes();
    Extensions::single(Extension::Unknown(DELIVERY_ADDRESS, UnknownExtension(bytes))).unwrap()
}

fn credential(pseudonym: Pseudonym, key: &SigningKey) -> CredentialWithKey {
    CredentialWithKey {
        credential: BasicCredential::new(pseudonym.0.to_vec()).into(),
        signature_key: key.public_key().as_bytes().as_slice().into(),
    }
}

fn key_pair(key: &SigningKey) -> SignatureKeyPair {
    let scheme = SUITE.signature_algorithm();
    SignatureKeyPair::from_raw(scheme, key.seed().to_vec(), key.public_key().as_bytes().to_vec())
}
