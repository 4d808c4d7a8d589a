//! The issuer's keys (RFC 9578): made by whichever server process finds none, kept in the
//! database sealed under the master key. Issues batches and verifies tokens; who may have
//! tokens, and whether one was spent, the database decides.

use std::collections::HashMap;

use anyhow::Context;
use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use http::HeaderValue;
use postern_protocol::{
    aas::TokenKey,
    name::Domain,
    token::{self, TOKEN_TYPE, Token},
};
use privacypass::{
    Nonce, NonceStore, TruncatedTokenKeyId,
    amortized_tokens::{AmortizedBatchTokenRequest, server::Server},
    common::{
        errors::IssueTokenResponseError,
        private::{public_key_to_truncated_token_key_id, serialize_public_key},
        store::PrivateKeyStore,
    },
};
use tls_codec::Serialize as _;
use tokio_postgres::Row;
use voprf::{Ristretto255, VoprfServer};
use zeroize::Zeroizing;

use crate::{database::Database, master_key::MasterKey};

const PURPOSE: &str = "AAS issuer key";
/// draft-ietf-privacypass-batched-tokens: how a key pair comes from its seed.
const KEY_INFO: &[u8] = b"PrivacyPass";
const SEED_LEN: usize = 32;

/// One issuer key.
struct Key {
    /// The database's short name of it, which spent tokens are filed under.
    number: i16,
    public: Vec<u8>,
    not_before: u64,
}

pub struct Issuer {
    server: Server<Ristretto255>,
    secrets: KeyStore,
    /// By the token key id; the newest last.
    keys: Vec<([u8; 32], Key)>,
    challenge_digest: [u8; 32],
}

/// What the database needs to spend a verified token.
#[derive(Clone)]
pub struct RedeemedToken {
    pub issuer_key: i16,
    pub nonce: [u8; 32],
}

impl Issuer {
    /// Loads the keys, after making one if there is none. Safe in several processes at
    /// once: the database takes one first key.
    pub async fn load(database: &Database, master_key: &MasterKey, domain: &Domain) -> anyhow::Result<Self> {
        let mut rows = load_rows(database).await?;
        if rows.is_empty() {
            let mut seed = Zeroizing::new([0; SEED_LEN]);
            aws_lc_rs::rand::fill(seed.as_mut_slice())?;
            let public = public_key(&server_from_seed(seed.as_slice())?);
            let sealed = master_key.seal(PURPOSE, &public, seed.as_slice());
            let token_type = i32::from(TOKEN_TYPE);
            database
                .query_one("SELECT aas.add_issuer_key($1, $2, $3)", &[&token_type, &public, &sealed])
                .await?;
            rows = load_rows(database).await?;
        }
        let challenge = token::challenge(domain).digest().context("the challenge")?;
        let mut issuer = Self {
            server: Server::with_max_batch_size(usize::from(token::BATCH_SIZES[2])),
            secrets: KeyStore::default(),
            keys: Vec::new(),
            challenge_digest: challenge,
        };
        for row in &rows {
            issuer.add(row, master_key)?;
        }
        Ok(issuer)
    }

    fn add(&mut self, row: &Row, master_key: &MasterKey) -> anyhow::Result<()> {
        let public: Vec<u8> = row.get("public_key");
        let seed = master_key
            .open(PURPOSE, &public, row.get("sealed_seed"))
            .context("an issuer key does not open under this master key")?;
        let id = token::token_key_id(&public);
        let secret = server_from_seed(&seed)?;
        let short = public_key_to_truncated_token_key_id::<Ristretto255>(&secret.get_public_key());
        self.secrets.0.insert(short, secret);
        let not_before = u64::try_from(row.get::<_, i64>("not_before"))?;
        self.keys.push((id, Key { number: row.get("issuer_key"), public, not_before }));
        Ok(())
    }

    /// Verifies a token: of one of our keys, for our challenge, not forged.
    pub async fn redeem(&self, token: &Token) -> Option<RedeemedToken> {
        if *token.challenge_digest() != self.challenge_digest {
            return None;
        }
        let (_, key) = self.keys.iter().find(|(id, _)| id == token.token_key_id())?;
        self.server.redeem_token(&self.secrets, &SpentInDatabase, token.clone()).await.ok()?;
        Some(RedeemedToken { issuer_key: key.number, nonce: token.nonce() })
    }

    /// Evaluates a batch: about 0.13 ms of CPU a token.
    ///
    /// # Errors
    /// The request's fault, except for a failing random number generator.
    pub async fn issue(
        &self,
        request: AmortizedBatchTokenRequest<Ristretto255>,
    ) -> Result<Vec<u8>, IssueTokenResponseError> {
        let response = self.server.issue_token_response(&self.secrets, request).await?;
        Ok(response.tls_serialize_detached().expect("a token response serialises"))
    }

    pub fn knows(&self, key: TruncatedTokenKeyId) -> bool {
        self.secrets.0.contains_key(&key)
    }

    /// Newest first, as clients are to prefer them (RFC 9578 §4).
    pub fn directory(&self) -> Vec<TokenKey> {
        let entry = |(_, key): &(_, Key)| TokenKey {
            token_type: TOKEN_TYPE,
            token_key: URL_SAFE.encode(&key.public),
            not_before: Some(key.not_before),
        };
        self.keys.iter().rev().map(entry).collect()
    }

    pub fn www_authenticate(&self, domain: &Domain) -> HeaderValue {
        let newest = self.keys.last().map(|(_, key)| key.public.as_slice()).unwrap_or_default();
        token::www_authenticate(domain, newest)
    }
}

async fn load_rows(database: &Database) -> anyhow::Result<Vec<Row>> {
    let sql = "SELECT issuer_key, public_key, sealed_seed, not_before FROM aas.load_issuer_keys()";
    Ok(database.query(sql, &[]).await?)
}

fn server_from_seed(seed: &[u8]) -> anyhow::Result<VoprfServer<Ristretto255>> {
    VoprfServer::new_from_seed(seed, KEY_INFO)
        .map_err(|_| anyhow::anyhow!("the seed of an issuer key yields no key"))
}

fn public_key(server: &VoprfServer<Ristretto255>) -> Vec<u8> {
    serialize_public_key::<Ristretto255>(server.get_public_key())
}

#[derive(Default)]
struct KeyStore(HashMap<TruncatedTokenKeyId, VoprfServer<Ristretto255>>);

#[async_trait]
impl PrivateKeyStore for KeyStore {
    type CS = Ristretto255;

    async fn get(&self, key: &TruncatedTokenKeyId) -> Option<VoprfServer<Ristretto255>> {
        self.0.get(key).cloned()
    }

    /// Keys come from the database only.
    async fn insert(&self, _: TruncatedTokenKeyId, _: VoprfServer<Ristretto255>) -> bool {
        false
    }

    async fn remove(&self, _: &TruncatedTokenKeyId) -> bool {
        false
    }
}

/// Double spends are the database's to find (AAS-4), so that they are found across
/// processes and crashes.
struct SpentInDatabase;

#[async_trait]
impl NonceStore for SpentInDatabase {
    async fn reserve(&self, _: &Nonce) -> bool {
        true
    }
    async fn commit(&self, _: &Nonce) {}
    async fn release(&self, _: &Nonce) {}
}
