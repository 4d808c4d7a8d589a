//! Members of a group without a client around them, who make proposals of their own: Postern's clients commit
//! at once and never do.

use openmls::prelude::{
    BasicCredential, Capabilities, Ciphersuite, CredentialType, CredentialWithKey, Extension, ExtensionType,
    Extensions, ExternalSender, KeyPackage, LeafNode, LeafNodeParameters, MIXED_PLAINTEXT_WIRE_FORMAT_POLICY,
    MlsGroup, MlsGroupCreateConfig, MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider, ProcessedMessageContent,
    ProposalType, ProtocolMessage, ProtocolVersion, RequiredCapabilitiesExtension, StagedWelcome,
    UnknownExtension,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::OpenMlsRustCrypto;
use postern_client::{Client, Request};
use postern_protocol::{
    Address, GroupInfo, MlsMessage, PublicKey, RatchetTree, Welcome,
    ds::{CreateGroup, GroupId, GroupIdReserved, SubmitMessage},
    key::SigningKey,
    mls::{DELIVERY_ADDRESS, DeliveryAddress, GROUP_POLICY, GroupPolicy, Pseudonym, USER_KEY, UserKey},
    name::Domain,
};
use tls_codec::{DeserializeBytes as _, Serialize as _};

use crate::world::paid;

const SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;
const EXTENSIONS: [u16; 3] = [GROUP_POLICY, DELIVERY_ADDRESS, USER_KEY];

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
        let mut admin = Self::create(id.group_id, &id.server_key, domain, addresses[0]);
        let group_info =
            admin.group.export_group_info(admin.provider.crypto(), &admin.signer(), false).unwrap();
        let create = CreateGroup {
            group_id: admin.id.clone(),
            state_key: admin.policy.state_key(),
            group_info: GroupInfo::new(group_info.to_bytes().unwrap()),
            ratchet_tree: RatchetTree::new(
                admin.group.export_ratchet_tree().tls_serialize_detached().unwrap(),
            ),
            attributes: Vec::new(),
        };
        send(Request::post("/ds/groups").cbor(&create).signed_by(&admin.key)).await;

        let joiners: Vec<_> = addresses[1..].iter().map(|address| Joiner::create(domain, *address)).collect();
        let key_packages: Vec<_> = joiners.iter().map(|joiner| joiner.key_package.clone()).collect();
        let signer = admin.signer();
        let (commit, welcome, group_info) = admin
            .group
            .commit_builder()
            .propose_adds(key_packages)
            .force_self_update(true)
            .load_psks(admin.provider.storage())
            .unwrap()
            .create_group_info(true)
            .build(admin.provider.rand(), admin.provider.crypto(), &signer, |_| true)
            .unwrap()
            .stage_commit(&admin.provider)
            .unwrap()
            .into_messages();
        let welcome = welcome.unwrap().to_bytes().unwrap();
        let mut submission = admin.submission(commit.to_bytes().unwrap());
        submission.group_info = Some(GroupInfo::new(group_info.unwrap().to_bytes().unwrap()));
        submission.welcome = Some(Welcome::new(welcome.clone()));
        send(admin.request(&submission)).await;
        admin.group.merge_pending_commit(&admin.provider).unwrap();
        let mut members = Vec::new();
        for joiner in joiners {
            members.push(joiner.join(&admin, &welcome));
        }
        members.insert(0, admin);
        members
    }

    fn create(id: GroupId, server_key: &PublicKey, domain: &Domain, address: Address) -> Self {
        let (provider, key, pseudonym) =
            (OpenMlsRustCrypto::default(), SigningKey::generate(), Pseudonym::random());
        let policy = GroupPolicy::new(pseudonym);
        let context = Extensions::from_vec(vec![
            Extension::RequiredCapabilities(RequiredCapabilitiesExtension::new(
                &[GROUP_POLICY, DELIVERY_ADDRESS].map(ExtensionType::Unknown),
                &[ProposalType::SelfRemove],
                &[],
            )),
            Extension::Unknown(GROUP_POLICY, UnknownExtension(policy.to_bytes())),
            Extension::ExternalSenders(vec![ExternalSender::new(
                server_key.as_bytes().as_slice().into(),
                BasicCredential::new(domain.as_str().as_bytes().to_vec()).into(),
            )]),
        ]);
        let config = MlsGroupCreateConfig::builder()
            .ciphersuite(SUITE)
            .wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
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
        self.request(&self.submission(proposal.to_bytes().unwrap()))
    }

    /// A commit of all proposals this member knows, by reference.
    pub fn commit(&mut self) -> Request {
        let signer = self.signer();
        let (commit, _, group_info) = self
            .group
            .commit_builder()
            .load_psks(self.provider.storage())
            .unwrap()
            .create_group_info(true)
            .build(self.provider.rand(), self.provider.crypto(), &signer, |_| true)
            .unwrap()
            .stage_commit(&self.provider)
            .unwrap()
            .into_messages();
        let mut submission = self.submission(commit.to_bytes().unwrap());
        submission.group_info = Some(GroupInfo::new(group_info.unwrap().to_bytes().unwrap()));
        self.request(&submission)
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

    fn submission(&self, message: Vec<u8>) -> SubmitMessage {
        let (state_key, message) = (self.policy.state_key(), MlsMessage::new(message));
        SubmitMessage {
            state_key,
            message,
            group_info: None,
            welcome: None,
            urgency: None,
            attributes: Vec::new(),
        }
    }

    fn request(&self, submission: &SubmitMessage) -> Request {
        let path = format!("/ds/groups/{}/messages", self.id.to_base64url());
        Request::post(path).cbor(submission).signed_by(&self.key)
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
        let config = openmls::prelude::MlsGroupJoinConfig::builder()
            .wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
            .build();
        // What the DS has for it, too.
        let tree = admin.group.export_ratchet_tree();
        let group =
            StagedWelcome::new_from_welcome(&self.provider, &config, welcome, Some(tree.into())).unwrap();
        let group = group.into_group(&self.provider).unwrap();
        let Self { provider, key, .. } = self;
        Member { provider, key, id: admin.id.clone(), policy: admin.policy.clone(), group }
    }
}

fn capabilities() -> Capabilities {
    Capabilities::new(
        Some(&[ProtocolVersion::Mls10]),
        Some(&[SUITE]),
        Some(&EXTENSIONS.map(ExtensionType::Unknown)),
        Some(&[ProposalType::SelfRemove]),
        Some(&[CredentialType::Basic]),
    )
}

fn delivery(domain: &Domain, address: Address) -> Extensions<LeafNode> {
    let delivery = DeliveryAddress { domain: domain.clone(), address };
    let user_key = UserKey { generation: 0, public_key: SigningKey::generate().public_key() };
    Extensions::from_vec(vec![
        Extension::Unknown(DELIVERY_ADDRESS, UnknownExtension(delivery.to_bytes())),
        Extension::Unknown(USER_KEY, UnknownExtension(user_key.to_bytes())),
    ])
    .unwrap()
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
