//! Mailboxes, and the owner's half of their encryption (QS-5).

use postern_protocol::{
    Address, HpkePublicKey, QueueId, SealedSubscription,
    chain::{ChainReceiver, HpkePrivateKey},
    encoding::Encoding,
    key::SigningKey,
    qs::{
        AddAddresses, CreateQueue, DeleteQueue, Dequeue, Dequeued, PushPolicy, QueueCreated, QueueKind,
        QueuePayload, RevokeAddresses, RotateKeys, SetPushPolicy, SubscribePush,
    },
};

use super::{Call, World};

pub struct Mailbox {
    pub id: QueueId,
    pub owner: SigningKey,
    pub hpke: HpkePrivateKey,
    chain: Option<ChainReceiver>,
    /// The last message that was read.
    pub position: u64,
}

pub fn hpke_key() -> HpkePublicKey {
    HpkePrivateKey::generate().and_then(|key| key.public_key()).expect("there is randomness")
}

pub fn fresh_address() -> Address {
    Address::generate().expect("there is randomness")
}

impl Mailbox {
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

    /// Asks for what comes after a message, without waiting.
    pub fn asking(&self, after: u64) -> Call {
        self.dequeue(&Dequeue { after, max_messages: None, wait: 0 })
    }

    pub fn dequeue(&self, body: &Dequeue) -> Call {
        Call::post(self.path("dequeue")).with(body).signed_by(&self.owner)
    }

    /// Opens what a dequeue answered.
    pub fn open(&mut self, dequeued: &Dequeued) -> Vec<QueuePayload> {
        let mut payloads = Vec::new();
        for message in &dequeued.messages {
            assert_eq!(message.seq, self.position + 1, "sequence numbers have no gaps");
            if let Some(header) = &message.chain_header {
                let chain = ChainReceiver::open_header(self.id, message.chain, header.as_bytes(), &self.hpke);
                self.chain = Some(chain.expect("the chain is sealed to this queue"));
            }
            let chain = self.chain.as_mut().expect("the first message starts a chain");
            let plaintext = chain.open(message.chain_index, message.seq, message.ciphertext.as_bytes());
            payloads.push(Encoding::Cbor.decode(&plaintext.expect("it opens")).expect("it is a payload"));
            self.position = message.seq;
        }
        payloads
    }
}

impl World {
    pub async fn mailbox(&self, kind: QueueKind) -> Mailbox {
        let owner = SigningKey::generate();
        let hpke = HpkePrivateKey::generate().expect("there is randomness");
        let body = CreateQueue { kind, hpke_key: hpke.public_key().expect("it has one") };
        let created: QueueCreated =
            self.pay(&Call::post("/qs/queues").with(&body).signed_by(&owner)).await.decode();
        Mailbox { id: created.queue_id, owner, hpke, chain: None, position: 0 }
    }

    /// A new address of a mailbox.
    pub async fn address(&self, mailbox: &Mailbox) -> Address {
        let address = fresh_address();
        self.pay(&mailbox.adding(vec![address])).await.assert_ok("adding an address");
        address
    }

    /// Acknowledges what was read before, and reads what is there.
    pub async fn read(&self, mailbox: &mut Mailbox) -> Vec<QueuePayload> {
        let dequeued = self.pay(&mailbox.asking(mailbox.position)).await.decode();
        mailbox.open(&dequeued)
    }
}
