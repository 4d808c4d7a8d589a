//! The wallet: hands tokens out, and fetches others before it runs dry.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

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

use super::{batch::Batch, directory, pins, table};
use crate::{
    elsewhere::{self, Reach},
    error::{Error, Result},
    server::Api,
    store::Store,
};

/// The batch that is fetched of the own homeserver when tokens run low.
const BATCH: u16 = BATCH_SIZES[2];
/// The batches that are asked for of another one: the own homeserver hands on no larger ones, or only the last.
const BATCHES_ELSEWHERE: [u16; 2] = [BATCH_SIZES[1], BATCH_SIZES[0]];
/// How few tokens count as low: then a batch is fetched in the background, so that nobody waits for
/// it, and so that the moment of fetching tells less about the moment of spending.
const LOW: u64 = 20;
/// The same of another homeserver's.
const LOW_ELSEWHERE: u64 = 2;
const MEDIA_TYPES: (&str, &str) = (BATCH_REQUEST_MEDIA_TYPE, BATCH_RESPONSE_MEDIA_TYPE);

/// The tokens of one client at one server.
#[derive(Clone)]
pub struct Wallet(Arc<Purse>);

/// The part of a wallet that the background shares. It ends when the wallet is gone.
struct Purse {
    store: Arc<Store>,
    /// The issuer's.
    domain: Domain,
    source: Source,
    fetching: Arc<tokio::sync::Mutex<()>>,
    /// The state that the wallets of each other domain share.
    elsewhere: Mutex<HashMap<Domain, Shared>>,
}

/// The state that the wallets of another domain share: one fetches at a time, and all know whether it answers.
#[derive(Clone, Default)]
struct Shared {
    fetching: Arc<tokio::sync::Mutex<()>>,
    reach: Arc<Reach>,
    /// Whether the own homeserver hands no larger request on than for one token.
    singly: Arc<AtomicBool>,
}

/// The way in which tokens come.
enum Source {
    /// From the own homeserver, which knows the client. On `unnamed` goes what names nobody.
    Own { http: Http, unnamed: Http, client_key: SigningKey },
    /// From another one, which the own one asks in its name.
    Elsewhere { own: Api, reach: Arc<Reach>, singly: Arc<AtomicBool> },
}

/// The client that asks for tokens, and its homeserver's domain.
pub(crate) struct Owner {
    pub domain: Domain,
    pub client_key: SigningKey,
}

/// The answer to a token request.
type Issued<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>>> + Send + 'a>>;

impl Wallet {
    /// The store that the tokens are in, with everything else that the client keeps.
    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.0.store
    }

    /// The own homeserver, if the tokens are another one's.
    pub(crate) fn own(&self) -> Option<&Api> {
        match &self.0.source {
            Source::Own { .. } => None,
            Source::Elsewhere { own, .. } => Some(own),
        }
    }

    /// The tokens of the own homeserver: `http` and `unnamed` lead there directly.
    pub(crate) fn new(store: Arc<Store>, http: Http, unnamed: Http, owner: Owner) -> Self {
        let source = Source::Own { http, unnamed, client_key: owner.client_key };
        Self::of(store, owner.domain, source, Arc::default())
    }

    /// The tokens of another domain's homeserver, which the wallet of `own` pays the way for.
    pub(crate) fn elsewhere(own: &Api, domain: &Domain) -> Self {
        let mut elsewhere = own.wallet.0.elsewhere.lock().unwrap_or_else(PoisonError::into_inner);
        let Shared { fetching, reach, singly } = elsewhere.entry(domain.clone()).or_default().clone();
        let source = Source::Elsewhere { own: own.clone(), reach, singly };
        Self::of(own.wallet.store().clone(), domain.clone(), source, fetching)
    }

    fn of(store: Arc<Store>, domain: Domain, source: Source, fetching: Arc<tokio::sync::Mutex<()>>) -> Self {
        Self(Arc::new(Purse { store, domain, source, fetching, elsewhere: Mutex::default() }))
    }

    /// The direct way to the own homeserver, for what names nobody.
    fn unnamed(&self) -> &Http {
        match &self.0.source {
            Source::Own { unnamed, .. } => unnamed,
            Source::Elsewhere { own, .. } => own.wallet.unnamed(),
        }
    }

    /// Whether the homeserver answers, if it is another domain's.
    pub(crate) fn reach(&self) -> Arc<Reach> {
        match &self.0.source {
            Source::Own { .. } => Arc::default(),
            Source::Elsewhere { reach, .. } => reach.clone(),
        }
    }

    /// Takes a token to spend. When few are left a batch is fetched in the background; only
    /// when there is none does this wait for it.
    ///
    /// # Errors
    /// When there is none and none can be fetched: `allowance-used-up`, and what the server or the
    /// network says.
    pub async fn take(&self) -> Result<Token> {
        // Nothing is spent on one that is left alone.
        if let Source::Elsewhere { reach, .. } = &self.0.source {
            reach.check()?;
        }
        if self.count()? <= self.0.low() {
            self.refill();
        }
        if let Some(token) = self.0.pop()? {
            return Ok(token);
        }
        let _fetching = self.0.fetching.lock().await;
        if let Some(token) = self.0.pop()? {
            return Ok(token);
        }
        self.0.fetch_batch().await?;
        self.0.pop()?.ok_or_else(|| Error::unexpected("an empty batch of tokens"))
    }

    /// How many tokens are at hand.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn count(&self) -> Result<u64> {
        self.0.count()
    }

    /// Whether few tokens are at hand: those are for what cannot wait.
    pub(crate) fn is_low(&self) -> Result<bool> {
        Ok(self.count()? <= self.0.low())
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

    /// Has the issuer show its keys, and takes note of them if they are those that everyone sees (AAS-7).
    ///
    /// # Errors
    /// [`Error::Issuer`] if they are not.
    pub(crate) async fn look_at_keys(&self) -> Result<()> {
        self.0.directory(true).await.map(drop)
    }

    /// Fetches a batch in the background, unless somebody is at it.
    fn refill(&self) {
        let purse = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            let Some(purse) = Weak::upgrade(&purse) else { return };
            let Ok(_fetching) = purse.fetching.try_lock() else { return };
            while purse.count().is_ok_and(|count| count <= purse.low()) {
                if let Err(error) = purse.fetch_batch().await {
                    // The rest of the allowance may last; a caller that needs a token and finds none is told.
                    return tracing::warn!(%error, "no new tokens");
                }
            }
        });
    }
}

impl postern_api::Wallet for Wallet {
    type Error = Error;

    async fn take(&self, _: &Domain) -> Result<Token> {
        Self::take(self).await.map_err(Error::of_wallet)
    }

    /// Drops tokens of issuer keys that are not published any more: they pay for nothing.
    async fn drop_stale(&self, _: &Domain) -> Result<()> {
        let directory = self.0.directory(true).await.map_err(Error::of_wallet)?;
        let keys: Vec<[u8; 32]> =
            directory.own_type_keys().map(|(_, key)| token::token_key_id(&key)).collect();
        self.0.store.write(|tx| table::drop_all_but(tx, &self.0.domain, &keys))
    }
}

impl Purse {
    fn low(&self) -> u64 {
        match self.source {
            Source::Own { .. } => LOW,
            Source::Elsewhere { .. } => LOW_ELSEWHERE,
        }
    }

    fn count(&self) -> Result<u64> {
        self.store.read(|tx| table::count(tx, &self.domain))
    }

    fn pop(&self) -> Result<Option<Token>> {
        self.store.write(|tx| table::pop(tx, &self.domain))
    }

    /// The issuer's keys; `anew`: those that are known may be stale.
    async fn directory(&self, anew: bool) -> Result<IssuerDirectory> {
        match &self.source {
            Source::Own { http, .. } => directory::trusted(&self.store, http).await,
            Source::Elsewhere { own, reach, .. } => {
                let description = elsewhere::description(own, &self.domain, anew).await;
                if let Err(Error::Server(error)) = &description {
                    reach.note(Some(error));
                }
                let issuer = description?.issuer;
                pins::check_number(&issuer)?;
                Ok(issuer)
            }
        }
    }

    /// Fetches as many tokens as are fetched at a time.
    async fn fetch_batch(&self) -> Result<()> {
        let Source::Elsewhere { singly, .. } = &self.source else { return self.fetch(BATCH).await };
        let [usual, least] = BATCHES_ELSEWHERE;
        if singly.load(Ordering::Relaxed) {
            return self.fetch(least).await;
        }
        match self.fetch(usual).await {
            Err(error) if error.problem() == Some(ProblemType::InvalidTokenRequest) => {
                singly.store(true, Ordering::Relaxed);
                self.fetch(least).await
            }
            fetched => fetched,
        }
    }

    async fn fetch(&self, number: u16) -> Result<()> {
        let mut directory = self.directory(false).await?;
        if let Some(batch) = self.store.read(|tx| table::outstanding(tx, &self.domain))? {
            // Its tokens are paid for.
            match self.obtain(&directory, &batch).await {
                Ok(()) if batch.number() >= usize::from(number) => return Ok(()),
                Err(error) if !never_answered(&error) => return Err(error),
                _ => {}
            }
        }
        let mut fetched = self.fetch_new(&directory, number).await;
        let unknown_key = |error: &Error| error.problem() == Some(ProblemType::UnknownTokenKey);
        if !matches!(self.source, Source::Own { .. }) && fetched.as_ref().is_err_and(unknown_key) {
            // The description was older than the keys.
            directory = self.directory(true).await?;
            fetched = self.fetch_new(&directory, number).await;
        }
        fetched
    }

    async fn fetch_new(&self, directory: &IssuerDirectory, number: u16) -> Result<()> {
        let issuer_key = directory.current_key(self.store.now()).ok_or(Error::NoTokenKey)?;
        let batch = Batch::new(issuer_key, number);
        self.store.write(|tx| table::keep_request(tx, &self.domain, &batch))?;
        self.obtain(directory, &batch).await
    }

    /// Asks for a batch that was kept, and puts its tokens in its place.
    async fn obtain(&self, directory: &IssuerDirectory, batch: &Batch) -> Result<()> {
        let (request, state) = batch.request(&self.domain)?;
        let forget = || self.store.write(|tx| table::forget_request(tx, &self.domain));
        let answer = match self.ask(directory, request).await {
            Err(error) if never_answered(&error) => {
                forget()?;
                return Err(error);
            }
            answer => answer?,
        };
        let tokens = AmortizedBatchTokenResponse::<Ristretto255>::try_from_bytes(&answer)
            .ok()
            .and_then(|response| response.issue_tokens(&state).ok())
            .filter(|tokens| tokens.len() == batch.number());
        let Some(tokens) = tokens else {
            forget()?;
            if let Source::Elsewhere { reach, .. } = &self.source {
                reach.note_misread();
            }
            return Err(Error::unexpected("tokens that do not verify"));
        };
        let tokens: Vec<_> = tokens.iter().map(token::to_bytes).collect();
        let key_id = token::token_key_id(&batch.issuer_key);
        self.store.write(|tx| table::keep(tx, &self.domain, &key_id, &tokens))
    }

    /// Sends a token request to the issuer.
    fn ask<'a>(&'a self, directory: &'a IssuerDirectory, request: Vec<u8>) -> Issued<'a> {
        match &self.source {
            Source::Own { http, client_key, .. } => Box::pin(async move {
                let issued = http.issue_tokens(directory, MEDIA_TYPES, request, client_key, &self.domain);
                Ok(issued.await?)
            }),
            Source::Elsewhere { own, reach, .. } => Box::pin(async move {
                reach.check()?;
                // The own homeserver takes it from its own people only, so directly.
                let own = Api { http: own.wallet.unnamed().clone(), ..own.clone() };
                let issued = own.relay_token_request(&self.domain, MEDIA_TYPES, request).await;
                match &issued {
                    Ok(_) => reach.note(None),
                    Err(Error::Server(error)) => reach.note(Some(error)),
                    Err(_) => {}
                }
                issued
            }),
        }
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
