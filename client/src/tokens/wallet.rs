//! The wallet: hands tokens out, and fetches others before it runs dry.

use std::sync::{Arc, Weak};

use postern_api::{Http, Token};
use postern_protocol::{
    aas::IssuerDirectory,
    key::SigningKey,
    name::Domain,
    problem::ProblemType,
    token::{self, BATCH_REQUEST_MEDIA_TYPE, BATCH_RESPONSE_MEDIA_TYPE, BATCH_SIZES},
};
use privacypass::amortized_tokens::AmortizedBatchTokenResponse;
use voprf::Ristretto255;

use super::{
    batch::Batch,
    directory::{self, current_key, token_keys},
    table,
};
use crate::{
    error::{Error, Result},
    store::Store,
};

/// The batch that is fetched when tokens run low.
const BATCH: u16 = BATCH_SIZES[2];
/// How few tokens count as low: then a batch is fetched in the background, so that nobody waits for
/// it, and so that the moment of fetching tells less about the moment of spending.
const LOW: u64 = 20;
const MEDIA_TYPES: (&str, &str) = (BATCH_REQUEST_MEDIA_TYPE, BATCH_RESPONSE_MEDIA_TYPE);

/// The tokens of one client at its home server.
pub struct Wallet(Arc<Purse>);

/// The part of a wallet that the background shares. It ends when the wallet is gone.
struct Purse {
    store: Arc<Store>,
    http: Http,
    owner: Owner,
    fetching: tokio::sync::Mutex<()>,
}

/// The client that asks for tokens, and the issuer's domain.
pub(crate) struct Owner {
    pub domain: Domain,
    pub client_key: SigningKey,
}

impl Wallet {
    /// The store that the tokens are in, with everything else that the client keeps.
    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(crate) fn new(store: Arc<Store>, http: Http, owner: Owner) -> Self {
        Self(Arc::new(Purse { store, http, owner, fetching: tokio::sync::Mutex::new(()) }))
    }

    /// Takes a token to spend. When few are left a batch is fetched in the background; only
    /// when there is none does this wait for it.
    ///
    /// # Errors
    /// When there is none and none can be fetched: `allowance-used-up`, and what the server or the
    /// network says.
    pub async fn take(&self) -> Result<Token> {
        if self.count()? <= LOW {
            self.refill();
        }
        if let Some(token) = self.0.store.write(table::pop)? {
            return Ok(token);
        }
        let _fetching = self.0.fetching.lock().await;
        if let Some(token) = self.0.store.write(table::pop)? {
            return Ok(token);
        }
        self.0.fetch(BATCH).await?;
        self.0.store.write(table::pop)?.ok_or_else(|| Error::unexpected("an empty batch of tokens"))
    }

    /// How many tokens are at hand.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn count(&self) -> Result<u64> {
        self.0.store.read(table::count)
    }

    /// Whether few tokens are at hand: those are for what cannot wait.
    pub(crate) fn is_low(&self) -> Result<bool> {
        Ok(self.count()? <= LOW)
    }

    /// Fetches `number` tokens, one of [`BATCH_SIZES`].
    ///
    /// # Errors
    /// [`Error::Server`]: refusals, and an unexpected answer for a batch whose proof does not verify
    /// under the published key. [`Error::Issuer`] when the published keys are not those that everyone sees.
    pub async fn fetch(&self, number: u16) -> Result<()> {
        let _fetching = self.0.fetching.lock().await;
        self.0.fetch(number).await
    }

    /// Fetches a batch in the background, unless somebody is at it.
    fn refill(&self) {
        let purse = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            let Some(purse) = Weak::upgrade(&purse) else { return };
            let Ok(_fetching) = purse.fetching.try_lock() else { return };
            let low = purse.store.read(table::count).is_ok_and(|count| count <= LOW);
            if low && let Err(error) = purse.fetch(BATCH).await {
                // The rest of the allowance may last; a caller that needs a token and finds none is told.
                tracing::warn!(%error, "no new tokens");
            }
        });
    }
}

impl postern_api::Wallet for Wallet {
    type Error = Error;

    async fn take(&self, _: &Domain) -> Result<Token> {
        Self::take(self).await
    }

    /// Drops tokens of issuer keys that are not published any more: they pay for nothing.
    async fn drop_stale(&self, _: &Domain) -> Result<()> {
        let directory = directory::trusted(&self.0.store, &self.0.http).await?;
        let keys: Vec<[u8; 32]> = token_keys(&directory).map(|(_, key)| token::token_key_id(&key)).collect();
        self.0.store.write(|tx| table::drop_all_but(tx, &keys))
    }
}

impl Purse {
    async fn fetch(&self, number: u16) -> Result<()> {
        let directory = directory::trusted(&self.store, &self.http).await?;
        if let Some(batch) = self.store.read(table::outstanding)? {
            // Its tokens are paid for.
            match self.obtain(&directory, &batch).await {
                Ok(()) if batch.number() >= usize::from(number) => return Ok(()),
                Err(error) if !never_answered(&error) => return Err(error),
                _ => {}
            }
        }
        let issuer_key = current_key(&directory, self.store.now())
            .ok_or_else(|| Error::unexpected("no token key of type 0x0005"))?;
        let batch = Batch::new(issuer_key, number);
        self.store.write(|tx| table::keep_request(tx, &batch))?;
        self.obtain(&directory, &batch).await
    }

    /// Asks for a batch that was kept, and puts its tokens in its place.
    async fn obtain(&self, directory: &IssuerDirectory, batch: &Batch) -> Result<()> {
        let (request, state) = batch.request(&self.owner.domain)?;
        let answer = self
            .http
            .issue_tokens(directory, MEDIA_TYPES, request, &self.owner.client_key, &self.owner.domain)
            .await
            .map_err(Error::from);
        let answer = match answer {
            Err(error) if never_answered(&error) => {
                self.store.write(table::forget_request)?;
                return Err(error);
            }
            answer => answer?,
        };
        let tokens = AmortizedBatchTokenResponse::<Ristretto255>::try_from_bytes(&answer)
            .ok()
            .and_then(|response| response.issue_tokens(&state).ok())
            .filter(|tokens| tokens.len() == batch.number());
        let Some(tokens) = tokens else {
            self.store.write(table::forget_request)?;
            return Err(Error::unexpected("tokens that do not verify"));
        };
        let tokens: Vec<_> = tokens.iter().map(token::to_bytes).collect();
        self.store.write(|tx| table::keep(tx, &token::token_key_id(&batch.issuer_key), &tokens))
    }
}

/// Whether the server will not answer this batch, however often it is asked; as when its key is
/// gone. An allowance that is used up today is there again tomorrow.
fn never_answered(error: &Error) -> bool {
    matches!(
        error.problem(),
        Some(ProblemType::UnknownTokenKey | ProblemType::InvalidTokenRequest | ProblemType::NotAllowed)
    )
}
