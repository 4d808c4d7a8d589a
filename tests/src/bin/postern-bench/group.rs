//! Groups for measuring: a real MLS group whose creator sends; the other members are real
//! KeyPackages with real queues, whom nobody has to play since the server does not care.

use anyhow::{Context, Result};
use openmls::prelude::{
    BasicCredential, Capabilities, Ciphersuite, CredentialType, CredentialWithKey, Extension, ExtensionType,
    Extensions, ExternalSender, KeyPackage, KeyPackageBundle, MIXED_PLAINTEXT_WIRE_FORMAT_POLICY, MlsGroup,
    MlsGroupCreateConfig, OpenMlsProvider, ProposalType, ProtocolVersion, RequiredCapabilitiesExtension,
    UnknownExtension,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::OpenMlsRustCrypto;
use postern_client::{Client, Request};
use postern_protocol::{
    Address, GroupInfo, HpkePublicKey, MlsMessage, PublicKey, QueueId, RatchetTree, StateKey, Welcome,
    ds::{CreateGroup, GroupId, GroupIdReserved, SubmitMessage},
    key::SigningKey,
    mls::{DELIVERY_ADDRESS, DeliveryAddress, GROUP_POLICY, GroupPolicy, Pseudonym, USER_KEY, UserKey},
    name::Domain,
    qs::{AddAddresses, CreateQueue, Dequeue, QueueCreated, QueueKind},
};
use serde::Serialize;
use tls_codec::Serialize as _;

const SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;
const EXTENSIONS: [u16; 3] = [GROUP_POLICY, DELIVERY_ADDRESS, USER_KEY];

pub struct BenchGroup {
    /// Everyone but the creator.
    pub members: Vec<BenchMember>,
    /// An application message of the creator, signed and ready but for its token. The
    /// server takes the same one any number of times.
    pub message: Request,
}

pub struct BenchMember {
    owner: SigningKey,
    queue: QueueId,
}

impl BenchMember {
    /// Acknowledges up to `after` and waits for what comes.
    pub fn dequeue(&self, after: u64) -> Request {
        self.asking(after, 30)
    }

    /// Acknowledges up to `after` and takes what is there.
    pub fn fetch(&self, after: u64) -> Request {
        self.asking(after, 0)
    }

    fn asking(&self, after: u64, wait: u16) -> Request {
        let path = format!("/qs/queues/{}/dequeue", self.queue.to_base64url());
        Request::post(path)
            .cbor(&Dequeue { after, max_messages: None, wait })
            .signed_by(&self.owner)
            .waiting(std::time::Duration::from_secs(wait.into()))
    }
}

impl BenchGroup {
    pub async fn create(client: &Client, members: usize, text_bytes: usize) -> Result<Self> {
        let mut founder = Founder::new(client).await?;
        founder.found(client).await?;
        let (others, add) = founder.add(client, members - 1).await?;
        founder.submit(client, &add).await?;
        founder.merge()?;
        let message = founder.message(text_bytes)?;
        Ok(Self { members: others, message: founder.request(&message) })
    }
}

/// The creator of a group, who does everything in it.
pub struct Founder {
    pub id: GroupId,
    /// Of the server, as the group's external sender.
    pub server_key: PublicKey,
    pub key: SigningKey,
    pub policy: GroupPolicy,
    domain: Domain,
    provider: OpenMlsRustCrypto,
    group: MlsGroup,
}

impl Founder {
    /// A group that the server has not heard of yet.
    pub async fn new(client: &Client) -> Result<Self> {
        let provider = OpenMlsRustCrypto::default();
        let domain = client.user().domain().clone();
        let key = SigningKey::generate();
        let creator = Pseudonym::random();
        let policy = GroupPolicy::new(creator);
        let (_, own_address) = queue(client).await?;
        let id: GroupIdReserved =
            client.http().send(&paid(client, Request::post("/ds/group-ids")).await?).await?.decode()?;
        let config = MlsGroupCreateConfig::builder()
            .ciphersuite(SUITE)
            .wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
            .capabilities(capabilities())
            .with_group_context_extensions(Extensions::from_vec(vec![
                Extension::RequiredCapabilities(RequiredCapabilitiesExtension::new(
                    &[GROUP_POLICY, DELIVERY_ADDRESS].map(ExtensionType::Unknown),
                    &[ProposalType::SelfRemove],
                    &[],
                )),
                Extension::Unknown(GROUP_POLICY, UnknownExtension(policy.to_bytes())),
                Extension::ExternalSenders(vec![ExternalSender::new(
                    id.server_key.as_bytes().as_slice().into(),
                    BasicCredential::new(domain.as_str().as_bytes().to_vec()).into(),
                )]),
            ])?)
            .with_leaf_node_extensions(delivery(&domain, own_address)?)?
            .build();
        let group = MlsGroup::new_with_group_id(
            &provider,
            &key_pair(&key),
            &config,
            openmls::group::GroupId::from_slice(&id.group_id.to_mls()),
            credential(creator, &key),
        )?;
        Ok(Self { id: id.group_id, server_key: id.server_key, key, policy, domain, provider, group })
    }

    fn creation(&self) -> Result<CreateGroup> {
        let signer = key_pair(&self.key);
        let group_info = self.group.export_group_info(self.provider.crypto(), &signer, false)?;
        Ok(CreateGroup {
            group_id: self.id.clone(),
            state_key: self.policy.state_key(),
            group_info: GroupInfo::new(group_info.to_bytes()?),
            ratchet_tree: RatchetTree::new(self.group.export_ratchet_tree().tls_serialize_detached()?),
            attributes: Vec::new(),
        })
    }

    /// A commit that adds so many members, who have queues.
    pub async fn add(
        &mut self,
        client: &Client,
        members: usize,
    ) -> Result<(Vec<BenchMember>, SubmitMessage)> {
        let mut others = Vec::new();
        let mut key_packages = Vec::new();
        for _ in 0..members {
            let (member, address) = queue(client).await?;
            key_packages.push(key_package(&self.provider, &self.domain, address)?.key_package().clone());
            others.push(member);
        }
        Ok((others, self.commit(key_packages)?))
    }

    /// A commit that renews the leaf, and adds members; to be merged once it is accepted.
    pub fn commit(&mut self, add: Vec<KeyPackage>) -> Result<SubmitMessage> {
        let Self { group, provider, key, policy, .. } = self;
        let (commit, welcome, group_info) = group
            .commit_builder()
            .propose_adds(add)
            .force_self_update(true)
            .load_psks(provider.storage())?
            .create_group_info(true)
            .use_ratchet_tree_extension(false)
            .build(provider.rand(), provider.crypto(), &key_pair(key), |_| true)?
            .stage_commit(provider)?
            .into_messages();
        let mut submission = submit(policy.state_key(), commit.to_bytes()?);
        submission.welcome = welcome.map(|welcome| welcome.to_bytes()).transpose()?.map(Welcome::new);
        submission.group_info = group_info.map(|info| info.to_bytes()).transpose()?.map(GroupInfo::new);
        Ok(submission)
    }

    pub fn merge(&mut self) -> Result<()> {
        Ok(self.group.merge_pending_commit(&self.provider)?)
    }

    pub fn message(&mut self, text_bytes: usize) -> Result<SubmitMessage> {
        let text = vec![b'x'; text_bytes];
        let message = self.group.create_message(&self.provider, &key_pair(&self.key), &text)?;
        Ok(submit(self.policy.state_key(), message.to_bytes()?))
    }

    /// Signed and ready but for its token.
    pub fn request(&self, submission: &SubmitMessage) -> Request {
        self::submission(&self.id, submission).signed_by(&self.key)
    }

    pub async fn submit(&self, client: &Client, submission: &SubmitMessage) -> Result<()> {
        client.http().send(&paid(client, self.request(submission)).await?).await?;
        Ok(())
    }

    async fn send<T: Serialize>(&self, client: &Client, path: &str, body: &T) -> Result<()> {
        let request = Request::post(path).cbor(body).signed_by(&self.key);
        client.http().send(&paid(client, request).await?).await?;
        Ok(())
    }

    /// Tells the server of the group; what it was told.
    pub async fn found(&self, client: &Client) -> Result<CreateGroup> {
        let creation = self.creation()?;
        self.send(client, "/ds/groups", &creation).await?;
        Ok(creation)
    }
}

fn submit(state_key: StateKey, message: Vec<u8>) -> SubmitMessage {
    SubmitMessage {
        state_key,
        message: MlsMessage::new(message),
        group_info: None,
        welcome: None,
        urgency: None,
        attributes: Vec::new(),
    }
}

fn submission(group_id: &GroupId, message: &SubmitMessage) -> Request {
    Request::post(format!("/ds/groups/{}/messages", group_id.to_base64url())).cbor(message)
}

async fn paid(client: &Client, request: Request) -> Result<Request> {
    Ok(request.paid_with(client.wallet().take().await?))
}

/// A queue with one address.
pub async fn queue(client: &Client) -> Result<(BenchMember, Address)> {
    let owner = SigningKey::generate();
    // Any 32 bytes are an X25519 key; nobody reads these queues.
    let create = CreateQueue { kind: QueueKind::Group, hpke_key: HpkePublicKey::new(rand::random()) };
    let request = Request::post("/qs/queues").cbor(&create).signed_by(&owner);
    let created: QueueCreated = client.http().send(&paid(client, request).await?).await?.decode()?;
    let address = Address::new(rand::random());
    let path = format!("/qs/queues/{}/addresses", created.queue_id.to_base64url());
    let request = Request::post(path)
        .cbor(&AddAddresses { addresses: vec![address], last_resort: Vec::new() })
        .signed_by(&owner);
    client.http().send(&paid(client, request).await?).await?;
    Ok((BenchMember { owner, queue: created.queue_id }, address))
}

fn key_package(provider: &OpenMlsRustCrypto, domain: &Domain, address: Address) -> Result<KeyPackageBundle> {
    let key = SigningKey::generate();
    KeyPackage::builder()
        .leaf_node_capabilities(capabilities())
        .leaf_node_extensions(delivery(domain, address)?)
        .build(SUITE, provider, &key_pair(&key), credential(Pseudonym::random(), &key))
        .context("a KeyPackage")
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

fn delivery(domain: &Domain, address: Address) -> Result<Extensions<openmls::prelude::LeafNode>> {
    let delivery = DeliveryAddress { domain: domain.clone(), address };
    let user_key = UserKey { generation: 0, public_key: SigningKey::generate().public_key() };
    Ok(Extensions::from_vec(vec![
        Extension::Unknown(DELIVERY_ADDRESS, UnknownExtension(delivery.to_bytes())),
        Extension::Unknown(USER_KEY, UnknownExtension(user_key.to_bytes())),
    ])?)
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
