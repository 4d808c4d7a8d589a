//! The client's tokens (RFC 9578, type 0x0005): fetched in batches under the client's
//! name, spent one by one under no name at all (AAS-6). A token is deleted here before it
//! is sent, so that no crash shows it twice, and it goes with one request only, repeats of
//! that request included: two different requests with one token would be linked.

use std::{sync::Arc, time::SystemTime};

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use postern_protocol::{
    aas::IssuerDirectory,
    key::SigningKey,
    name::Domain,
    token::{
        self, BATCH_REQUEST_MEDIA_TYPE, BATCH_RESPONSE_MEDIA_TYPE, BATCH_SIZES, DIRECTORY_MEDIA_TYPE,
        DIRECTORY_PATH, TOKEN_TYPE,
    },
};
use privacypass::{
    amortized_tokens::{AmortizedBatchTokenRequest, AmortizedBatchTokenResponse},
    common::private::deserialize_public_key,
};
use rusqlite::{OptionalExtension as _, params};
use tls_codec::Serialize as _;
use voprf::Ristretto255;

use crate::{
    error::{Error, Result},
    http::{Http, Request},
    store::Store,
};

/// The batch that is fetched when tokens run low.
const BATCH: u16 = BATCH_SIZES[2];
/// What counts as low. A batch is fetched before the last token is gone, so that the
/// moment of fetching tells less about the moment of spending.
const LOW: u64 = 20;

/// A token that was taken to be spent.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Vec<u8>);

impl Token {
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

pub struct Wallet {
    store: Arc<Store>,
    http: Http,
    owner: Owner,
    fetching: tokio::sync::Mutex<()>,
}

/// Who asks for tokens, and whose tokens they are.
pub(crate) struct Owner {
    pub domain: Domain,
    pub client_key: SigningKey,
}

impl Wallet {
    pub(crate) fn new(store: Arc<Store>, http: Http, owner: Owner) -> Self {
        Self { store, http, owner, fetching: tokio::sync::Mutex::new(()) }
    }

    /// Takes a token to spend, fetching a batch first when there are few.
    ///
    /// # Errors
    /// When there is none and none can be had, such as `allowance-used-up`.
    pub async fn take(&self) -> Result<Token> {
        if self.count()? < LOW {
            let _fetching = self.fetching.lock().await;
            if self.count()? < LOW {
                match self.fetch(BATCH).await {
                    // The rest of the allowance may last.
                    Err(error) if self.count()? > 0 => tracing::warn!(%error, "no new tokens"),
                    result => result?,
                }
            }
        }
        match pop(&self.store)? {
            Some(token) => Ok(token),
            None => Err(Error::UnexpectedAnswer("an empty batch of tokens".to_owned())),
        }
    }

    /// How many tokens are at hand.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn count(&self) -> Result<u64> {
        self.store.read(|tx| {
            let count = tx.sql().query_row("SELECT count(*) FROM tokens", [], |row| row.get(0))?;
            Ok(count)
        })
    }

    /// Fetches `number` tokens, one of [`BATCH_SIZES`].
    ///
    /// # Errors
    /// What the server refuses, and [`Error::UnexpectedAnswer`] for a batch whose proof
    /// does not verify under the published key.
    pub async fn fetch(&self, number: u16) -> Result<()> {
        let directory = self.directory().await?;
        let key_bytes = current_key(&directory)
            .ok_or_else(|| Error::UnexpectedAnswer("no token key of type 0x0005".to_owned()))?;
        let key = deserialize_public_key::<Ristretto255>(&key_bytes)
            .map_err(|_| Error::UnexpectedAnswer("a token key that is none".to_owned()))?;
        let challenge = token::challenge(&self.owner.domain);
        let (request, state) = AmortizedBatchTokenRequest::<Ristretto255>::new(key, &challenge, number)
            .map_err(|error| Error::UnexpectedAnswer(error.to_string()))?;
        let body =
            request.tls_serialize_detached().map_err(|error| Error::UnexpectedAnswer(error.to_string()))?;
        let answer = self
            .http
            .send(
                &Request::post(directory.issuer_request_uri)
                    .body(BATCH_REQUEST_MEDIA_TYPE, body)
                    .accepting(BATCH_RESPONSE_MEDIA_TYPE)
                    .signed_by(&self.owner.client_key),
            )
            .await?;
        let tokens = AmortizedBatchTokenResponse::<Ristretto255>::try_from_bytes(&answer.body)
            .ok()
            .and_then(|response| response.issue_tokens(&state).ok())
            .filter(|tokens| tokens.len() == usize::from(number))
            .ok_or_else(|| Error::UnexpectedAnswer("tokens that do not verify".to_owned()))?;
        let tokens: Vec<_> = tokens.iter().map(token::to_bytes).collect();
        keep(&self.store, &token::token_key_id(&key_bytes), &tokens)
    }

    /// Drops tokens of issuer keys that are not published any more: they pay for nothing.
    ///
    /// # Errors
    /// When the directory cannot be had.
    pub async fn drop_stale(&self) -> Result<()> {
        let keys: Vec<[u8; 32]> =
            token_keys(&self.directory().await?).map(|(_, key)| token::token_key_id(&key)).collect();
        self.store.write(|tx| {
            let mut statement = tx.sql().prepare_cached("SELECT DISTINCT issuer_key FROM tokens")?;
            let held = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<Vec<u8>>, _>>()?;
            for key in held.iter().filter(|held| !keys.iter().any(|key| key[..] == held[..])) {
                tx.sql().execute("DELETE FROM tokens WHERE issuer_key = ?1", [key])?;
            }
            Ok(())
        })
    }

    async fn directory(&self) -> Result<IssuerDirectory> {
        let answer = self.http.send(&Request::get(DIRECTORY_PATH).accepting(DIRECTORY_MEDIA_TYPE)).await?;
        serde_json::from_slice(&answer.body)
            .map_err(|_| Error::UnexpectedAnswer("no issuer directory".to_owned()))
    }
}

/// Takes one token out, for good.
fn pop(store: &Store) -> Result<Option<Token>> {
    store.write(|tx| {
        Ok(tx
            .sql()
            .prepare_cached(
                "DELETE FROM tokens WHERE rowid = (SELECT min(rowid) FROM tokens) RETURNING token",
            )?
            .query_row([], |row| row.get(0).map(Token))
            .optional()?)
    })
}

fn keep(store: &Store, issuer_key: &[u8; 32], tokens: &[Vec<u8>]) -> Result<()> {
    store.write(|tx| {
        let mut statement =
            tx.sql().prepare_cached("INSERT INTO tokens (token, issuer_key) VALUES (?1, ?2)")?;
        for token in tokens {
            statement.execute(params![token, issuer_key])?;
        }
        Ok(())
    })
}

/// The keys of our token type, with the time from which on they are used.
fn token_keys(directory: &IssuerDirectory) -> impl Iterator<Item = (u64, Vec<u8>)> {
    directory
        .token_keys
        .iter()
        .filter(|key| key.token_type == TOKEN_TYPE)
        .filter_map(|key| Some((key.not_before.unwrap_or_default(), URL_SAFE.decode(&key.token_key).ok()?)))
}

/// The newest key that is already in use (RFC 9578 §4).
fn current_key(directory: &IssuerDirectory) -> Option<Vec<u8>> {
    let now = now();
    token_keys(directory)
        .filter(|(not_before, _)| *not_before <= now)
        .max_by_key(|(not_before, _)| *not_before)
        .map(|(_, key)| key)
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Options;
    use postern_protocol::aas::TokenKey;

    #[test]
    fn a_token_taken_before_a_crash_is_not_there_after_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path(), &Options::default()).unwrap();
        keep(&store, &[1; 32], &[vec![1], vec![2]]).unwrap();
        let taken = pop(&store).unwrap().unwrap();
        // As after kill -9: nothing is closed, the database is opened anew.
        std::mem::forget(store);
        let store = Store::open(directory.path(), &Options::default()).unwrap();
        let next = pop(&store).unwrap().unwrap();
        assert!(taken != next);
        assert!(pop(&store).unwrap().is_none());
    }

    #[test]
    fn the_newest_key_already_in_use_is_taken() {
        let key = |bytes: &[u8], token_type, not_before| TokenKey {
            token_type,
            token_key: URL_SAFE.encode(bytes),
            not_before,
        };
        let directory = IssuerDirectory {
            issuer_request_uri: "/aas/token-request".to_owned(),
            token_keys: vec![
                key(b"old", TOKEN_TYPE, None),
                key(b"now", TOKEN_TYPE, Some(now() - 10)),
                key(b"next", TOKEN_TYPE, Some(now() + 1000)),
                key(b"other", 2, Some(now() - 1)),
            ],
        };
        assert_eq!(current_key(&directory), Some(b"now".to_vec()));
    }
}
