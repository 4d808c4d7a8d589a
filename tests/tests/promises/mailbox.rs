//! A queue without a client around it: what the server says about it, opened and checked message by message.

use std::time::Duration;

use postern_client::{Client, Request, Response};
use postern_protocol::{
    Address, Payload, QueueId,
    chain::{ChainReceiver, HpkePrivateKey},
    encoding::Encoding,
    key::SigningKey,
    qs::{AddAddresses, CreateQueue, Deposit, Dequeue, Dequeued, QueueCreated, QueueKind, QueuePayload},
};

use crate::world::{insist, paid};

pub struct Mailbox {
    id: QueueId,
    owner: SigningKey,
    hpke: HpkePrivateKey,
    /// Where to deliver to.
    pub address: Address,
    position: u64,
    chain: Option<ChainReceiver>,
}

impl Mailbox {
    pub async fn create(payer: &Client, kind: QueueKind) -> Self {
        let owner = SigningKey::generate();
        let hpke = HpkePrivateKey::generate().expect("there is randomness");
        let hpke_key = hpke.public_key().expect("the key is good");
        let request = Request::post("/qs/queues").cbor(&CreateQueue { kind, hpke_key }).signed_by(&owner);
        let created: QueueCreated = sent(payer, request).await.decode().expect("an id comes back");
        let id = created.queue_id;
        let address = Address::generate().expect("there is randomness");
        let request = Request::post(format!("/qs/queues/{}/addresses", id.to_base64url()))
            .cbor(&AddAddresses { addresses: vec![address], last_resort: Vec::new() })
            .signed_by(&owner);
        sent(payer, request).await;
        Self { id, owner, hpke, address, position: 0, chain: None }
    }

    /// Acknowledges what was opened, and asks for what is next, waiting for up to `wait` seconds.
    pub fn dequeue(&self, wait: u16) -> Request {
        self.dequeue_after(self.position, wait)
    }

    /// The same for an owner who remembers another position.
    pub fn dequeue_after(&self, after: u64, wait: u16) -> Request {
        Request::post(format!("/qs/queues/{}/dequeue", self.id.to_base64url()))
            .cbor(&Dequeue { after, max_messages: None, wait })
            .signed_by(&self.owner)
            .waiting(Duration::from_secs(wait.into()))
    }

    /// What a dequeue returned.
    pub fn open(&mut self, answer: &Response) -> Vec<QueuePayload> {
        let dequeued: Dequeued = answer.decode().expect("a dequeue returns messages");
        let open = |message: &postern_protocol::qs::QueuedMessage| {
            assert_eq!(message.seq, self.position + 1, "sequence numbers have no gaps");
            if let Some(header) = &message.chain_header {
                let chain = ChainReceiver::open_header(self.id, message.chain, header.as_bytes(), &self.hpke);
                self.chain = Some(chain.expect("the chain is sealed to the owner"));
            }
            let chain = self.chain.as_mut().expect("a queue's first message starts a chain");
            assert_eq!(chain.state().number, message.chain);
            let plaintext = chain.open(message.chain_index, message.seq, message.ciphertext.as_bytes());
            self.position = message.seq;
            Encoding::Cbor.decode(&plaintext.expect("it is sealed for its place")).expect("it is a payload")
        };
        dequeued.messages.iter().map(open).collect()
    }
}

pub fn deposit(address: Address, content: &str) -> Request {
    Request::post("/qs/deposits").cbor(&Deposit { address, payload: Payload::new(content.into()) })
}

/// What [`deposit`] put there.
pub fn content(payload: &QueuePayload) -> String {
    let QueuePayload::Deposit(payload) = payload else { panic!("a deposit was expected, not {payload:?}") };
    String::from_utf8(payload.as_bytes().to_vec()).expect("deposits of tests are text")
}

async fn sent(payer: &Client, request: Request) -> Response {
    let request = paid(payer, request).await;
    insist("a mailbox is made", || payer.http().send(&request)).await
}
