//! Mailboxes, and the owner's half of their encryption (QS-5).

use std::collections::HashSet;

use postern_protocol::{
    Address, HpkePublicKey, Payload, QueueId, SealedSubscription,
    chain::{ChainReceiver, ChainState, HpkePrivateKey},
    encoding::Encoding,
    key::SigningKey,
    qs::{
        AddAddresses, DeleteQueue, Deposit, Dequeue, Dequeued, PushPolicy, QueuePayload, QueuedMessage,
        RevokeAddresses, RotateKeys, SetPushPolicy, SubscribePush,
    },
};

use super::Call;

pub struct Mailbox {
    pub id: QueueId,
    pub owner: SigningKey,
    pub hpke: HpkePrivateKey,
    /// The last message that was read.
    pub position: u64,
    /// The numbers of the chains that began.
    pub chains: HashSet<u64>,
    /// The chain keys of the messages that were read: what the database had when it sealed them.
    pub keys: Vec<[u8; 32]>,
    chain: Option<ChainReceiver>,
}

pub fn hpke_key() -> HpkePublicKey {
    HpkePrivateKey::generate().and_then(|key| key.public_key()).expect("there is randomness")
}

pub fn fresh_address() -> Address {
    Address::generate().expect("there is randomness")
}

pub fn depositing(address: Address, payload: &[u8]) -> Call {
    Call::post("/qs/deposits").with(&Deposit { address, payload: Payload::new(payload.to_vec()) })
}

/// The text that [`depositing`] put there.
pub fn deposited(payload: &QueuePayload) -> String {
    let QueuePayload::Deposit(payload) = payload else { panic!("a deposit was expected, not {payload:?}") };
    String::from_utf8(payload.as_bytes().to_vec()).expect("deposits of tests are text")
}

impl Mailbox {
    /// A queue that nothing was read from yet.
    pub fn new(id: QueueId, owner: SigningKey, hpke: HpkePrivateKey) -> Self {
        Self { id, owner, hpke, position: 0, chains: HashSet::new(), keys: Vec::new(), chain: None }
    }

    pub fn path(&self, operation: &str) -> String {
        format!("/qs/queues/{}/{operation}", self.id.to_base64url())
    }

    pub fn adding(&self, addresses: Vec<Address>) -> Call {
        self.adding_both(addresses, Vec::new())
    }

    pub fn adding_both(&self, addresses: Vec<Address>, last_resort: Vec<Address>) -> Call {
        let body = AddAddresses { addresses, last_resort };
        Call::post(self.path("addresses")).with(&body).signed_by(&self.owner)
    }

    pub fn revoking(&self, addresses: Vec<Address>) -> Call {
        Call::post(self.path("addresses/revoke")).with(&RevokeAddresses { addresses }).signed_by(&self.owner)
    }

    pub fn subscribing(&self, subscription: Option<SealedSubscription>) -> Call {
        let body = SubscribePush { subscription };
        Call::new(reqwest::Method::PUT, self.path("push-subscription")).with(&body).signed_by(&self.owner)
    }

    pub fn setting_push_policy(&self, addresses: Vec<PushPolicy>) -> Call {
        Call::post(self.path("addresses/push")).with(&SetPushPolicy { addresses }).signed_by(&self.owner)
    }

    pub fn rotating(&self, body: &RotateKeys) -> Call {
        Call::post(self.path("keys")).with(body).signed_by(&self.owner)
    }

    pub fn deleting(&self, addresses: Vec<Address>) -> Call {
        Call::post(self.path("delete")).with(&DeleteQueue { addresses }).signed_by(&self.owner)
    }

    /// Acknowledges all that comes before, and asks for the rest, without waiting.
    pub fn asking(&self, after: u64) -> Call {
        self.dequeue(&Dequeue { after, max_messages: None, wait: 0 })
    }

    /// Acknowledges what was read, and asks for the rest, waiting for up to so many seconds.
    pub fn waiting(&self, wait: u16) -> Call {
        self.dequeue(&Dequeue { after: self.position, max_messages: None, wait })
    }

    pub fn dequeue(&self, body: &Dequeue) -> Call {
        Call::post(self.path("dequeue")).with(body).signed_by(&self.owner)
    }

    /// Opens what a dequeue answered.
    pub fn open(&mut self, dequeued: &Dequeued) -> Vec<QueuePayload> {
        let payload = |plaintext: Vec<u8>| Encoding::Cbor.decode(&plaintext).expect("it is a payload");
        dequeued.messages.iter().map(|message| payload(self.open_message(message))).collect()
    }

    /// Opens one message, the next.
    pub fn open_message(&mut self, message: &QueuedMessage) -> Vec<u8> {
        assert_eq!(message.seq, self.position + 1, "sequence numbers have no gaps");
        if let Some(header) = &message.chain_header {
            assert!(self.chains.insert(message.chain), "chain {} comes twice", message.chain);
            let chain = ChainReceiver::open_header(self.id, message.chain, header.as_bytes(), &self.hpke);
            self.chain = Some(chain.expect("the chain is sealed to this queue"));
        }
        let chain = self.chain.as_mut().expect("the first message starts a chain");
        assert_eq!(chain.state().number, message.chain);
        self.keys.push(chain.state().key);
        let plaintext = chain.open(message.chain_index, message.seq, message.ciphertext.as_bytes());
        self.position = message.seq;
        plaintext.expect("it is sealed for its place")
    }

    /// The chain's state after the last message.
    ///
    /// # Panics
    /// When there was none.
    pub fn chain(&self) -> &ChainState {
        self.chain.as_ref().expect("the first message starts a chain").state()
    }
}
