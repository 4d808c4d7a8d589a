//! Logins at the operator's identity provider (OpenID Connect Core 1.0): an ID token proves one to the AS (AS-1). Whoever
//! asks for the proof says which nonce the token must have, and so what it was made for.
//!
//! The provider's keys are fetched when the first token comes, and again when they are old or do not fit a token.

use std::{
    pin::Pin,
    str::FromStr as _,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use aws_lc_rs::{hmac, rand};
use openidconnect::{
    AsyncHttpClient, ClaimsVerificationError, ClientId, HttpRequest, HttpResponse, IssuerUrl, Nonce,
    SignatureVerificationError,
    core::{CoreIdToken, CoreIdTokenVerifier, CoreJwsSigningAlgorithm, CoreProviderMetadata},
};
use postern_protocol::{
    admission::{IdToken, IdentityProvider},
    problem::{Problem, ProblemType},
};
use tokio::{sync::Mutex, time::Instant};
use zeroize::Zeroizing;

use crate::{config::OidcConfig, home::Home, http::Failure};

/// The purpose under which the master key seals the key of the digests.
const PURPOSE: &str = "AS subject key";

/// Age from which on the provider's keys are fetched again.
const REFRESH: Duration = Duration::from_secs(60 * 60);
/// Age up to which they are used while the provider does not answer.
const KEEP: Duration = Duration::from_secs(24 * 60 * 60);
/// Time between two fetches, whatever tokens come: anybody can send some that no key fits.
const PAUSE: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_ANSWER_BYTES: usize = 256 * 1024;
/// Seconds that the provider's clock may be ahead.
const MAX_CLOCK_SKEW: i64 = 60;

/// Signatures that are taken: those by a private key of the provider's.
const ALGORITHMS: [CoreJwsSigningAlgorithm; 9] = [
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha384,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha512,
    CoreJwsSigningAlgorithm::RsaSsaPssSha256,
    CoreJwsSigningAlgorithm::RsaSsaPssSha384,
    CoreJwsSigningAlgorithm::RsaSsaPssSha512,
    CoreJwsSigningAlgorithm::EcdsaP256Sha256,
    CoreJwsSigningAlgorithm::EcdsaP384Sha384,
    CoreJwsSigningAlgorithm::EdDsa,
];

/// The identity provider.
pub struct Oidc {
    issuer: IssuerUrl,
    client_id: ClientId,
    max_age: i64,
    http: Http,
    digest_key: hmac::Key,
    keys: Mutex<Keys>,
}

/// The provider's keys in the memory of this process.
#[derive(Default)]
struct Keys {
    verifier: Option<Arc<CoreIdTokenVerifier<'static>>>,
    fetched: Option<Instant>,
    tried: Option<Instant>,
}

/// A login: the keyed digest of issuer and subject, 32 bytes, as `auth.users.subject` keeps it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Subject([u8; 32]);

/// The reason why an ID token proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// It proves nothing, for a reason that the client may know.
    #[error("{0}")]
    Invalid(&'static str),
    /// The provider's keys cannot be fetched.
    #[error("the identity provider does not answer")]
    Unavailable,
}

impl Oidc {
    /// The provider that the configuration names, if it names one. Nothing is asked of it yet.
    ///
    /// # Errors
    /// A database that does not answer, a key that does not open under the master key.
    pub async fn load(config: &OidcConfig, home: &Home) -> anyhow::Result<Option<Self>> {
        let (Some(issuer), Some(client_id)) = (&config.issuer, &config.client_id) else { return Ok(None) };
        Ok(Some(Self {
            issuer: IssuerUrl::new(issuer.clone()).context("oidc.issuer is no URL")?,
            client_id: ClientId::new(client_id.clone()),
            max_age: config.max_age_seconds.try_into().unwrap_or(i64::MAX),
            http: Http::new()?,
            digest_key: digest_key(home).await?,
            keys: Mutex::default(),
        }))
    }

    /// The provider, as clients are told of it.
    pub fn provider(&self) -> IdentityProvider {
        IdentityProvider {
            issuer: self.issuer.as_str().to_owned(),
            client_id: self.client_id.as_str().to_owned(),
        }
    }

    /// Verifies an ID token: signature, issuer, audience, validity, age and nonce (OpenID Connect Core 1.0 §3.1.3.7).
    ///
    /// # Errors
    /// [`OidcError`].
    pub async fn verify(&self, id_token: &IdToken, nonce: &str) -> Result<Subject, OidcError> {
        let token = CoreIdToken::from_str(id_token.as_str())
            .map_err(|_| OidcError::Invalid("the ID token is malformed"))?;
        let nonce = Nonce::new(nonce.to_owned());
        let verifier = self.verifier(REFRESH).await?;
        let verify = |verifier: &CoreIdTokenVerifier<'_>| {
            token.claims(verifier, &nonce).map(|claims| self.digest(claims.subject().as_str()))
        };
        match verify(&verifier) {
            // The provider may have other keys by now.
            Err(ClaimsVerificationError::SignatureVerification(
                SignatureVerificationError::NoMatchingKey | SignatureVerificationError::CryptoError(_),
            )) => verify(&*self.verifier(PAUSE).await?),
            verified => verified,
        }
        .map_err(|error| OidcError::Invalid(reason(&error)))
    }

    fn digest(&self, subject: &str) -> Subject {
        let mut context = hmac::Context::with_key(&self.digest_key);
        for part in [self.issuer.as_str().as_bytes(), &[0], subject.as_bytes()] {
            context.update(part);
        }
        Subject(context.sign().as_ref().try_into().expect("SHA-256 yields 32 bytes"))
    }

    /// A verifier with the provider's keys, fetched again if they are older than this.
    async fn verifier(&self, max_age: Duration) -> Result<Arc<CoreIdTokenVerifier<'static>>, OidcError> {
        let mut keys = self.keys.lock().await;
        let is_within = |time: Option<Instant>, span| time.is_some_and(|time| time.elapsed() < span);
        if !is_within(keys.fetched, max_age) && !is_within(keys.tried, PAUSE) {
            keys.tried = Some(Instant::now());
            match self.fetch().await {
                Ok(verifier) => {
                    *keys = Keys { verifier: Some(Arc::new(verifier)), fetched: keys.tried, ..*keys };
                }
                Err(error) => tracing::warn!("cannot fetch the identity provider's keys: {error:#}"),
            }
        }
        let verifier = keys.verifier.clone().filter(|_| is_within(keys.fetched, KEEP));
        verifier.ok_or(OidcError::Unavailable)
    }

    /// Fetches the provider's description and keys (OpenID Connect Discovery 1.0).
    async fn fetch(&self) -> anyhow::Result<CoreIdTokenVerifier<'static>> {
        let metadata = CoreProviderMetadata::discover_async(self.issuer.clone(), &self.http).await?;
        let max_age = self.max_age;
        let verifier = CoreIdTokenVerifier::new_public_client(
            self.client_id.clone(),
            self.issuer.clone(),
            metadata.jwks().clone(),
        );
        Ok(verifier.set_allowed_algs(ALGORITHMS).set_issue_time_verifier_fn(move |issued| {
            let age = unix_time() - issued.timestamp();
            match (-MAX_CLOCK_SKEW..=max_age).contains(&age) {
                true => Ok(()),
                false => Err("not of this time".to_owned()),
            }
        }))
    }
}

impl Subject {
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The reason of a refusal, without anything of the token.
fn reason(error: &ClaimsVerificationError) -> &'static str {
    match error {
        ClaimsVerificationError::Expired(_) => "the ID token has expired",
        ClaimsVerificationError::InvalidAudience(_) => "the ID token is for another audience",
        ClaimsVerificationError::InvalidIssuer(_) => "the ID token is another issuer's",
        ClaimsVerificationError::InvalidNonce(_) => {
            "the ID token has another nonce: it was made for something else"
        }
        ClaimsVerificationError::SignatureVerification(_) => {
            "the ID token is not signed by a key of the identity provider"
        }
        // The age is the only check of ours that has no variant.
        ClaimsVerificationError::Other(_) => "the ID token was issued too long ago, or in the future",
        _ => "the ID token is not of a kind that is taken here",
    }
}

fn unix_time() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

/// The key of the digests, made if there is none. Several processes can do this at once: the database accepts one key.
async fn digest_key(home: &Home) -> anyhow::Result<hmac::Key> {
    let load = "SELECT auth.load_subject_key()";
    let mut sealed: Option<Vec<u8>> = home.database.query_one(load, &[]).await?.get(0);
    if sealed.is_none() {
        let mut key = Zeroizing::new([0; 32]);
        rand::fill(&mut *key).map_err(|_| anyhow::anyhow!("the operating system has no randomness"))?;
        let made = home.master_key.seal(PURPOSE, &[], &*key);
        home.database.query_one("SELECT outcome FROM auth.add_subject_key($1)", &[&made]).await?;
        sealed = home.database.query_one(load, &[]).await?.get(0);
    }
    let sealed = sealed.with_context(|| format!("there is no {PURPOSE} although one was added"))?;
    let key = home
        .master_key
        .open(PURPOSE, &[], &sealed)
        .with_context(|| format!("the {PURPOSE} does not open under this master key"))?;
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &key))
}

impl From<OidcError> for Failure {
    fn from(error: OidcError) -> Self {
        match error {
            OidcError::Invalid(reason) => Problem::with_detail(ProblemType::NotAdmitted, reason).into(),
            OidcError::Unavailable => Self::Overloaded("the identity provider does not answer"),
        }
    }
}

/// The way to the provider.
struct Http(reqwest::Client);

#[derive(Debug, thiserror::Error)]
enum HttpError {
    #[error("{0}")]
    Failed(#[from] reqwest::Error),
    #[error("the answer has more than {MAX_ANSWER_BYTES} bytes")]
    TooLong,
}

impl Http {
    fn new() -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .user_agent(concat!("postern/", env!("CARGO_PKG_VERSION")))
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build();
        Ok(Self(client.context("cannot make the HTTP client for the identity provider")?))
    }

    async fn carry(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let mut answer = self.0.execute(request.try_into()?).await?;
        let mut response = HttpResponse::default();
        *response.status_mut() = answer.status();
        *response.headers_mut() = std::mem::take(answer.headers_mut());
        while let Some(part) = answer.chunk().await? {
            if part.len() > MAX_ANSWER_BYTES - response.body().len() {
                return Err(HttpError::TooLong);
            }
            response.body_mut().extend_from_slice(&part);
        }
        Ok(response)
    }
}

impl<'c> AsyncHttpClient<'c> for Http {
    type Error = HttpError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.carry(request))
    }
}
