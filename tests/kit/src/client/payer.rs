//! Somebody who pays for requests: a registered user with tokens of one server.

use std::sync::{Arc, Mutex, MutexGuard};

use postern_protocol::{
    Address,
    aas::IssuerDirectory,
    chain::HpkePrivateKey,
    key::SigningKey,
    name::Domain,
    qs::{CreateQueue, QueueCreated, QueueKind},
    token::{DIRECTORY_PATH, TOKEN_TYPE},
};

use super::{Ask, Call, Mailbox, Reply, User, Way, bytes_of, challenge, fresh_address};

/// Clones share their tokens.
#[derive(Clone)]
pub struct Payer {
    way: Way,
    domain: Domain,
    client: SigningKey,
    /// The issuer's key of the usual type.
    issuer_key: Vec<u8>,
    tokens: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Payer {
    /// Registers a user, who has no tokens yet.
    pub async fn register(way: &Way, domain: &Domain, name: &str) -> Self {
        let user = User::at(domain, name);
        way.send(&user.registration().at(domain).wire()).await.assert_ok("registering a payer");
        let directory = way.send(&Call::get(DIRECTORY_PATH).wire()).await;
        let directory: IssuerDirectory = serde_json::from_slice(&directory.body).expect("it is a directory");
        let key = directory.token_keys.iter().find(|key| key.token_type == TOKEN_TYPE);
        let issuer_key = bytes_of(key.expect("there is a key"));
        let (way, domain, client) = (way.clone(), domain.clone(), user.device.key);
        Self { way, domain, client, issuer_key, tokens: Arc::default() }
    }

    /// Fetches tokens, so that [`Payer::token`] has them without a request of its own.
    pub async fn stock(&self, number: usize) {
        for _ in 0..number.div_ceil(100) {
            let ask = Ask::batch_for(&self.issuer_key, 100, &challenge(&self.domain));
            let reply = self.way.send(&ask.call(&self.client).at(&self.domain).wire()).await;
            reply.assert_ok("a token request");
            self.tokens().extend(ask.open(&reply.body));
        }
    }

    /// A token that was never shown.
    pub fn token(&self) -> Vec<u8> {
        self.tokens().pop().expect("the test stocks as many tokens as it spends")
    }

    /// How many tokens are at hand.
    pub fn held(&self) -> usize {
        self.tokens().len()
    }

    pub fn issuer_key(&self) -> &[u8] {
        &self.issuer_key
    }

    /// The request with a token of its own.
    pub fn paid(&self, call: Call) -> Call {
        call.paid_with(self.token()).at(&self.domain)
    }

    /// Sends a request with a token of its own.
    pub async fn pay(&self, call: &Call) -> Reply {
        self.way.send(&self.paid(call.clone()).wire()).await
    }

    pub async fn mailbox(&self, kind: QueueKind) -> Mailbox {
        let (owner, hpke) =
            (SigningKey::generate(), HpkePrivateKey::generate().expect("there is randomness"));
        let body = CreateQueue { kind, hpke_key: hpke.public_key().expect("it has one") };
        let created: QueueCreated =
            self.pay(&Call::post("/qs/queues").with(&body).signed_by(&owner)).await.decode();
        Mailbox::new(created.queue_id, owner, hpke)
    }

    /// A new address of a mailbox.
    pub async fn address(&self, mailbox: &Mailbox) -> Address {
        let address = fresh_address();
        self.pay(&mailbox.adding(vec![address])).await.assert_ok("adding an address");
        address
    }

    fn tokens(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.tokens.lock().expect("no panic holds it")
    }
}
