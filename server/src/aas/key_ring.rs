//! The issuer's keys at one moment. The clock decides which of them issue, redeem or are offered. A
//! ring never changes; a newer one replaces it.

use std::sync::Arc;

use anyhow::Context;
use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use postern_protocol::{
    aas::TokenKey,
    token::{TOKEN_TYPES, Token, TokenType},
};
use tokio_postgres::Row;

use super::issuer_key::IssuerKey;
use crate::{clock::now, keys::MasterKeys};

/// The purpose under which the master key seals issuer keys.
pub const PURPOSE: &str = "AAS issuer key";
/// Seconds for which a key is shown before its time, at most: as many days as `aas.settings` allows for the overlap.
const LONGEST_OVERLAP: u64 = 9 * 24 * 60 * 60;

#[derive(Default)]
pub struct KeyRing {
    /// The keys, the newest last.
    keys: Vec<RingKey>,
}

/// A key and its times, in seconds since 1970.
pub struct RingKey {
    /// The key's number in the database, where spent tokens name it.
    pub number: i16,
    pub key: Arc<IssuerKey>,
    not_before: u64,
    not_after: u64,
    retires: u64,
}

impl KeyRing {
    /// Makes a ring of the keys that `aas.load_issuer_keys` returned; keys that `previous` has open are not opened
    /// again. Keys of unknown token types are skipped: a newer program on the same database may have made them.
    pub fn open(rows: &[Row], master_key: &MasterKeys, previous: &Self) -> anyhow::Result<Self> {
        let mut keys = Vec::new();
        for row in rows {
            let number: i32 = row.get("token_type");
            let Some(token_type) = TOKEN_TYPES.into_iter().find(|kind| *kind as i32 == number) else {
                continue;
            };
            let public: &[u8] = row.get("public_key");
            let open = previous.keys.iter().find(|known| known.key.public() == public);
            let key = match open {
                Some(known) => known.key.clone(),
                None => {
                    let kept = master_key
                        .open(PURPOSE, public, row.get("sealed_seed"))
                        .context("an issuer key does not open under this master key")?;
                    Arc::new(IssuerKey::from_kept(token_type, &kept)?)
                }
            };
            let time = |column| u64::try_from(row.get::<_, i64>(column));
            keys.push(RingKey {
                number: row.get("issuer_key"),
                key,
                not_before: time("not_before")?,
                not_after: time("not_after")?,
                retires: time("retires")?,
            });
        }
        Ok(Self { keys })
    }

    /// The key that a token names, if its tokens are still accepted.
    pub fn redeeming(&self, token: &Token) -> Option<&RingKey> {
        let now = now();
        self.keys.iter().find(|key| key.key.id() == token.token_key_id() && now < key.retires)
    }

    /// The key that a token request names. A key that is published for later use issues already,
    /// because clocks differ.
    pub fn issuing(&self, token_type: TokenType, truncated_id: u8) -> Option<&RingKey> {
        let now = now();
        self.keys.iter().rev().find(|key| {
            key.key.token_type() == token_type
                && key.key.truncated_id() == truncated_id
                && now < key.not_after
        })
    }

    /// The keys that challenges offer: for each token type the newest one whose time has begun. The
    /// most widely known type comes first, as some clients look at the first only; others look for
    /// the one that they prefer.
    pub fn offered(&self) -> impl Iterator<Item = (TokenType, &[u8])> {
        let now = now();
        TOKEN_TYPES.into_iter().rev().filter_map(move |token_type| {
            let offered = self.keys.iter().rev().find(|key| {
                key.key.token_type() == token_type && key.not_before <= now && now < key.not_after
            })?;
            Some((token_type, offered.key.public()))
        })
    }

    /// All keys that issue or are about to, by token type in the order of preference, and then the newest first
    /// (RFC 9578 §4). One that begins later was made while a clock was ahead: clients refuse a directory with a third key
    /// of a type (AAS-7).
    pub fn directory(&self) -> Vec<TokenKey> {
        let now = now();
        let is_shown = move |key: &RingKey| now < key.not_after && key.not_before <= now + LONGEST_OVERLAP;
        let of_type = |token_type| {
            self.keys.iter().rev().filter(move |key| key.key.token_type() == token_type && is_shown(key)).map(
                |key| TokenKey {
                    token_type: key.key.token_type() as u16,
                    token_key: URL_SAFE.encode(key.key.public()),
                    not_before: Some(key.not_before),
                },
            )
        };
        TOKEN_TYPES.into_iter().flat_map(of_type).collect()
    }
}
