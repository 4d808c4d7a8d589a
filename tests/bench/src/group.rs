//! Groups for measuring: a real MLS group whose creator sends. The other members are real KeyPackages with real queues,
//! and nobody has to play them, since the server does not care.

use anyhow::Result;
use openmls::prelude::KeyPackage;
use postern_client::{Client, Request};
use postern_protocol::{
    Address, HpkePublicKey, MlsMessage, PublicKey, QueueId, StateKey,
    ds::{CreateGroup, GroupId, GroupIdReserved, SubmitMessage},
    key::SigningKey,
    mls::{GroupPolicy, Pseudonym},
    qs::{AddAddresses, CreateQueue, Dequeue, QueueCreated, QueueKind},
};
use postern_tests_kit::{Commit, Made, Party, home, policy_extensions};

/// The most that a hundred messages of measurements are, in bytes.
const DEQUEUED_BYTES: usize = 4 * 1024 * 1024;

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

    /// Acknowledges up to `after` and takes the messages that are there.
    pub fn fetch(&self, after: u64) -> Request {
        self.asking(after, 0)
    }

    fn asking(&self, after: u64, wait: u16) -> Request {
        let path = format!("/qs/queues/{}/dequeue", self.queue.to_base64url());
        Request::post(path)
            .cbor(&Dequeue { after, max_messages: None, wait })
            .signed_by(&self.owner, &home())
            .waiting(std::time::Duration::from_secs(wait.into()))
            .answered_in(DEQUEUED_BYTES)
    }
}

impl BenchGroup {
    pub async fn create(client: &Client, members: usize, text_bytes: usize) -> Result<Self> {
        let mut founder = Founder::new(client).await?;
        founder.found(client).await?;
        let (others, add) = founder.add(client, members - 1).await?;
        founder.submit(client, &add).await?;
        founder.merge();
        let message = founder.message(text_bytes);
        Ok(Self { members: others, message: founder.request(&message) })
    }
}

/// The creator of a group, who does everything in it.
pub struct Founder {
    pub id: GroupId,
    /// The server's, as the group's external sender.
    pub server_key: PublicKey,
    pub policy: GroupPolicy,
    party: Party,
}

impl Founder {
    /// A group that the server has not heard of yet.
    pub async fn new(client: &Client) -> Result<Self> {
        let (_, own_address) = queue(client).await?;
        let id: GroupIdReserved =
            client.http().send(&paid(client, Request::post("/ds/group-ids")).await?).await?.decode()?;
        let creator = Pseudonym::random();
        let policy = GroupPolicy::new(creator);
        let mut party = Party::new(creator.0);
        party.leaf = party.leaf_at(&home(), own_address);
        party.found(&id.group_id.to_mls(), policy_extensions(&home(), &policy, &id.server_key));
        Ok(Self { id: id.group_id, server_key: id.server_key, policy, party })
    }

    pub fn key(&self) -> &SigningKey {
        &self.party.key
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
            let mut party = Party::newcomer();
            party.leaf = party.leaf_at(&home(), address);
            key_packages.push(party.key_package());
            others.push(member);
        }
        Ok((others, self.commit(key_packages)))
    }

    /// A commit that renews the leaf, and adds members; to be merged once it is accepted.
    pub fn commit(&mut self, add: Vec<KeyPackage>) -> SubmitMessage {
        let Made { commit, group_info, welcome } =
            self.party.commit(Commit { add, update: true, ..Default::default() });
        SubmitMessage { group_info, welcome, ..submit(self.policy.state_key(), commit) }
    }

    pub fn merge(&mut self) {
        self.party.merge();
    }

    pub fn message(&mut self, text_bytes: usize) -> SubmitMessage {
        let text = vec![b'x'; text_bytes];
        submit(self.policy.state_key(), self.party.say(&text))
    }

    /// Signed and ready but for its token.
    pub fn request(&self, submission: &SubmitMessage) -> Request {
        let path = format!("/ds/groups/{}/messages", self.id.to_base64url());
        Request::post(path).cbor(submission).signed_by(self.key(), &home())
    }

    pub async fn submit(&self, client: &Client, submission: &SubmitMessage) -> Result<()> {
        client.http().send(&paid(client, self.request(submission)).await?).await?;
        Ok(())
    }

    /// Adds so many leaves without asking the server, which refuses a creation that has them.
    pub fn grow(&mut self, leaves: usize) {
        let add = (0..leaves).map(|_| Party::newcomer().key_package()).collect();
        self.commit(add);
        self.merge();
    }

    pub fn creation(&self) -> CreateGroup {
        CreateGroup {
            group_id: self.id.clone(),
            state_key: self.policy.state_key(),
            group_info: self.party.group_info(),
            ratchet_tree: self.party.ratchet_tree(),
            attributes: Vec::new(),
        }
    }

    /// Tells the server of the group, and returns what it was told.
    pub async fn found(&self, client: &Client) -> Result<CreateGroup> {
        let creation = self.creation();
        let request = Request::post("/ds/groups").cbor(&creation).signed_by(self.key(), &home());
        client.http().send(&paid(client, request).await?).await?;
        Ok(creation)
    }
}

fn submit(state_key: StateKey, message: MlsMessage) -> SubmitMessage {
    SubmitMessage {
        state_key,
        message,
        group_info: None,
        welcome: None,
        urgency: None,
        attributes: Vec::new(),
    }
}

async fn paid(client: &Client, request: Request) -> Result<Request> {
    Ok(request.paid_with(client.wallet().take().await?))
}

/// A queue with one address.
pub async fn queue(client: &Client) -> Result<(BenchMember, Address)> {
    let owner = SigningKey::generate();
    // Any 32 bytes are an X25519 key; nobody reads these queues.
    let create = CreateQueue { kind: QueueKind::Group, hpke_key: HpkePublicKey::new(rand::random()) };
    let request = Request::post("/qs/queues").cbor(&create).signed_by(&owner, &home());
    let created: QueueCreated = client.http().send(&paid(client, request).await?).await?.decode()?;
    let address = Address::new(rand::random());
    let path = format!("/qs/queues/{}/addresses", created.queue_id.to_base64url());
    let request = Request::post(path)
        .cbor(&AddAddresses { addresses: vec![address], last_resort: Vec::new() })
        .signed_by(&owner, &home());
    client.http().send(&paid(client, request).await?).await?;
    Ok((BenchMember { owner, queue: created.queue_id }, address))
}
