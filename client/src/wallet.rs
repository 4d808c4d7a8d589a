//! The client's tokens (RFC 9578, type 0x0005): fetched in batches under the client's
//! name, spent one by one under no name at all (AAS-6). A token is deleted here before it
//! is sent, so that no crash shows it twice, and it goes with one request only, repeats of
//! that request included: two different requests with one token would be linked. A batch is
//! kept before it is asked for and asked for again after a crash, which costs nothing: of
//! what was paid for, a crash loses the token in flight at most.

use std::{
    sync::{Arc, Weak},
    time::SystemTime,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use postern_api::{Http, Token};
use postern_protocol::{
    aas::IssuerDirectory,
    key::SigningKey,
    name::Domain,
    problem::ProblemType,
    token::{self, BATCH_REQUEST_MEDIA_TYPE, BATCH_RESPONSE_MEDIA_TYPE, BATCH_SIZES, TOKEN_TYPE},
};
use privacypass::{
    amortized_tokens::{AmortizedBatchTokenRequest, AmortizedBatchTokenResponse, TokenState},
    common::private::deserialize_public_key,
};
use rand::RngCore as _;
use rusqlite::{OptionalExtension as _, params};
use tls_codec::Serialize as _;
use voprf::{Group as _, Ristretto255};
use zeroize::Zeroizing;

use crate::{
    error::{Error, Result},
    store::Store,
};

/// The batch that is fetched when tokens run low.
const BATCH: u16 = BATCH_SIZES[2];
/// What counts as low: then a batch is fetched in the background, so that nobody waits for
/// it, and so that the moment of fetching tells less about the moment of spending.
const LOW: u64 = 20;
const MEDIA_TYPES: (&str, &str) = (BATCH_REQUEST_MEDIA_TYPE, BATCH_RESPONSE_MEDIA_TYPE);
const NONCE_LEN: usize = 32;
const BLIND_LEN: usize = 32;

pub struct Wallet(Arc<Purse>);

/// What the background shares with the wallet. It ends when the wallet is gone.
struct Purse {
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
        Self(Arc::new(Purse { store, http, owner, fetching: tokio::sync::Mutex::new(()) }))
    }

    /// Takes a token to spend. When few are left a batch is fetched in the background; only
    /// when there is none does this wait for it.
    ///
    /// # Errors
    /// When there is none and none can be had, such as `allowance-used-up`.
    pub async fn take(&self) -> Result<Token> {
        if self.count()? <= LOW {
            self.refill();
        }
        if let Some(token) = pop(&self.0.store)? {
            return Ok(token);
        }
        let _fetching = self.0.fetching.lock().await;
        if let Some(token) = pop(&self.0.store)? {
            return Ok(token);
        }
        self.0.fetch(BATCH).await?;
        pop(&self.0.store)?.ok_or_else(|| Error::unexpected("an empty batch of tokens"))
    }

    /// How many tokens are at hand.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn count(&self) -> Result<u64> {
        self.0.count()
    }

    /// Fetches `number` tokens, one of [`BATCH_SIZES`].
    ///
    /// # Errors
    /// What the server refuses, and [`Error::UnexpectedAnswer`] for a batch whose proof
    /// does not verify under the published key.
    pub async fn fetch(&self, number: u16) -> Result<()> {
        let _fetching = self.0.fetching.lock().await;
        self.0.fetch(number).await
    }

    /// Drops tokens of issuer keys that are not published any more: they pay for nothing.
    async fn drop_stale(&self) -> Result<()> {
        let keys: Vec<[u8; 32]> = token_keys(&self.0.http.issuer_directory().await?)
            .map(|(_, key)| token::token_key_id(&key))
            .collect();
        self.0.store.write(|tx| {
            let mut statement = tx.sql().prepare_cached("SELECT DISTINCT issuer_key FROM tokens")?;
            let held = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<Vec<u8>>, _>>()?;
            for key in held.iter().filter(|held| !keys.iter().any(|key| key[..] == held[..])) {
                tx.sql().execute("DELETE FROM tokens WHERE issuer_key = ?1", [key])?;
            }
            Ok(())
        })
    }

    /// Fetches a batch in the background, unless somebody is at it.
    fn refill(&self) {
        let purse = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            let Some(purse) = Weak::upgrade(&purse) else { return };
            let Ok(_fetching) = purse.fetching.try_lock() else { return };
            let low = purse.count().is_ok_and(|count| count <= LOW);
            if low && let Err(error) = purse.fetch(BATCH).await {
                // The rest of the allowance may last; who needs a token and has none is told.
                tracing::warn!(%error, "no new tokens");
            }
        });
    }
}

impl postern_api::Wallet for Wallet {
    type Error = Error;

    async fn take(&self, _: &Domain) -> Result<Token> {
        self.take().await
    }

    async fn drop_stale(&self, _: &Domain) -> Result<()> {
        self.drop_stale().await
    }
}

impl Purse {
    fn count(&self) -> Result<u64> {
        self.store.read(|tx| {
            let count = tx.sql().query_row("SELECT count(*) FROM tokens", [], |row| row.get(0))?;
            Ok(count)
        })
    }

    async fn fetch(&self, number: u16) -> Result<()> {
        if let Some(batch) = Batch::outstanding(&self.store)? {
            // Its tokens are paid for.
            match self.obtain(&batch).await {
                Ok(()) if batch.number() >= usize::from(number) => return Ok(()),
                Err(error) if !never_answered(&error) => return Err(error),
                _ => {}
            }
        }
        let directory = self.http.issuer_directory().await?;
        let issuer_key =
            current_key(&directory).ok_or_else(|| Error::unexpected("no token key of type 0x0005"))?;
        let batch = Batch::new(issuer_key, number);
        batch.keep(&self.store)?;
        self.obtain(&batch).await
    }

    /// Asks for a batch that was kept, and puts its tokens in its place.
    async fn obtain(&self, batch: &Batch) -> Result<()> {
        let (request, state) = batch.request(&self.owner.domain)?;
        let directory = self.http.issuer_directory().await?;
        let answer = self
            .http
            .issue_tokens(&directory, MEDIA_TYPES, request, &self.owner.client_key)
            .await
            .map_err(Error::from);
        let answer = match answer {
            Err(error) if never_answered(&error) => {
                Batch::forget(&self.store)?;
                return Err(error);
            }
            answer => answer?,
        };
        let tokens = AmortizedBatchTokenResponse::<Ristretto255>::try_from_bytes(&answer)
            .ok()
            .and_then(|response| response.issue_tokens(&state).ok())
            .filter(|tokens| tokens.len() == batch.number());
        let Some(tokens) = tokens else {
            Batch::forget(&self.store)?;
            return Err(Error::unexpected("tokens that do not verify"));
        };
        let tokens: Vec<_> = tokens.iter().map(token::to_bytes).collect();
        keep(&self.store, &token::token_key_id(&batch.issuer_key), &tokens)
    }
}

/// A batch before its answer: the nonces and blinds, which say what its request was and
/// make tokens of the answer.
struct Batch {
    issuer_key: Vec<u8>,
    /// For each token its nonce, then its blind.
    secrets: Zeroizing<Vec<u8>>,
}

impl Batch {
    fn new(issuer_key: Vec<u8>, number: u16) -> Self {
        let mut secrets = Zeroizing::new(vec![0; usize::from(number) * (NONCE_LEN + BLIND_LEN)]);
        for secret in secrets.chunks_exact_mut(NONCE_LEN + BLIND_LEN) {
            let (nonce, blind) = secret.split_at_mut(NONCE_LEN);
            rand::rng().fill_bytes(nonce);
            // A uniform scalar: of the numbers below 2^253, those below the group's order.
            while {
                rand::rng().fill_bytes(blind);
                blind[BLIND_LEN - 1] &= 0x1f;
                Ristretto255::deserialize_scalar(blind).is_err()
            } {}
        }
        Self { issuer_key, secrets }
    }

    fn number(&self) -> usize {
        self.secrets.len() / (NONCE_LEN + BLIND_LEN)
    }

    /// The same each time.
    fn request(&self, domain: &Domain) -> Result<(Vec<u8>, TokenState<Ristretto255>)> {
        let key = deserialize_public_key::<Ristretto255>(&self.issuer_key)
            .map_err(|_| Error::unexpected("a token key that is none"))?;
        let (mut nonces, mut blinds) = (Vec::new(), Vec::new());
        for secret in self.secrets.chunks_exact(NONCE_LEN + BLIND_LEN) {
            let (nonce, blind) = secret.split_at(NONCE_LEN);
            nonces.push(nonce.try_into().map_err(|_| Error::Damaged("a token request"))?);
            blinds.push(
                Ristretto255::deserialize_scalar(blind).map_err(|_| Error::Damaged("a token request"))?,
            );
        }
        let challenge = token::challenge(domain);
        AmortizedBatchTokenRequest::issue_token_request_with_params(key, &challenge, nonces, blinds)
            .ok()
            .and_then(|(request, state)| Some((request.tls_serialize_detached().ok()?, state)))
            .ok_or(Error::Damaged("a token request"))
    }

    fn outstanding(store: &Store) -> Result<Option<Self>> {
        store.read(|tx| {
            let batch = tx
                .sql()
                .query_row("SELECT issuer_key, secrets FROM token_requests", [], |row| {
                    Ok(Self { issuer_key: row.get(0)?, secrets: Zeroizing::new(row.get(1)?) })
                })
                .optional()?;
            Ok(batch)
        })
    }

    fn keep(&self, store: &Store) -> Result<()> {
        store.write(|tx| {
            let sql = "INSERT OR REPLACE INTO token_requests (one, issuer_key, secrets) VALUES (1, ?1, ?2)";
            tx.sql().execute(sql, params![self.issuer_key, *self.secrets])?;
            Ok(())
        })
    }

    fn forget(store: &Store) -> Result<()> {
        store.write(|tx| {
            tx.sql().execute("DELETE FROM token_requests", [])?;
            Ok(())
        })
    }
}

/// The server will not answer this batch, however often it is asked; as when its key is
/// gone. An allowance that is used up today is there again tomorrow.
fn never_answered(error: &Error) -> bool {
    matches!(
        error.problem(),
        Some(ProblemType::UnknownTokenKey | ProblemType::InvalidTokenRequest | ProblemType::NotAllowed)
    )
}

/// Takes one token out, for good.
fn pop(store: &Store) -> Result<Option<Token>> {
    store.write(|tx| {
        Ok(tx
            .sql()
            .prepare_cached(
                "DELETE FROM tokens WHERE rowid = (SELECT min(rowid) FROM tokens) RETURNING token",
            )?
            .query_row([], |row| row.get(0).map(Token::new))
            .optional()?)
    })
}

/// Puts tokens in the place of the request that they answer.
fn keep(store: &Store, issuer_key: &[u8; 32], tokens: &[Vec<u8>]) -> Result<()> {
    store.write(|tx| {
        let mut statement =
            tx.sql().prepare_cached("INSERT INTO tokens (token, issuer_key) VALUES (?1, ?2)")?;
        for token in tokens {
            statement.execute(params![token, issuer_key])?;
        }
        tx.sql().execute("DELETE FROM token_requests", [])?;
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
    fn a_request_kept_before_a_crash_is_the_same_request_after_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path(), &Options::default()).unwrap();
        let key = voprf::VoprfServer::<Ristretto255>::new_from_seed(&[7; 32], b"").unwrap();
        let public = Ristretto255::serialize_elem(key.get_public_key()).to_vec();
        let domain = "example.org".parse().unwrap();
        let batch = Batch::new(public, 10);
        let (request, _) = batch.request(&domain).unwrap();
        batch.keep(&store).unwrap();
        std::mem::forget(store);
        let store = Store::open(directory.path(), &Options::default()).unwrap();
        let batch = Batch::outstanding(&store).unwrap().unwrap();
        assert_eq!(batch.number(), 10);
        assert_eq!(batch.request(&domain).unwrap().0, request);
        // The tokens take its place.
        keep(&store, &[1; 32], &[vec![1]]).unwrap();
        assert!(Batch::outstanding(&store).unwrap().is_none());
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
