//! Logins at the operator's identity provider (OpenID Connect Core 1.0): an ID token proves one to the AS, for a
//! registration (AS-1) or as the second proof of an account's owner (AS-8, AS-9). The caller says which nonce the token
//! must have, and so what it was made for.
//!
//! The provider's keys are fetched when the first token comes, and again when they are old or do not fit a token.

use std::{
    array::TryFromSliceError,
    pin::Pin,
    str::FromStr as _,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
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

use crate::{config::OidcConfig, home::Home, http::Failure};

/// The purpose for which logins are digested.
const LOGIN: &str = "AS login";

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
/// Says, inside the library's error, that a token is too old or of the future.
const WRONG_AGE: &str = "not of this time";

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
    home: Home,
    issuer: IssuerUrl,
    client_id: ClientId,
    max_age: i64,
    http: Http,
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

/// A login that an ID token proves.
pub struct Login {
    pub subject: Subject,
    /// Time at which a person logged in (`auth_time`), in seconds since 1970; none if the token does not tell it.
    time: Option<i64>,
    /// Time from which on the token is good no more, in seconds since 1970.
    pub expires: i64,
}

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
    /// An issuer that is no URL.
    pub fn new(config: &OidcConfig, home: &Home) -> anyhow::Result<Option<Self>> {
        let (Some(issuer), Some(client_id)) = (&config.issuer, &config.client_id) else { return Ok(None) };
        Ok(Some(Self {
            home: home.clone(),
            issuer: IssuerUrl::new(issuer.clone()).context("oidc.issuer is no URL")?,
            client_id: ClientId::new(client_id.clone()),
            max_age: config.max_age_seconds.try_into().unwrap_or(i64::MAX),
            http: Http::new()?,
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
    pub async fn verify(&self, id_token: &IdToken, nonce: &str) -> Result<Login, OidcError> {
        let token = CoreIdToken::from_str(id_token.as_str())
            .map_err(|_| OidcError::Invalid("the ID token is malformed"))?;
        let nonce = Nonce::new(nonce.to_owned());
        let verifier = self.verifier(REFRESH).await?;
        let verify = |verifier: &CoreIdTokenVerifier<'_>| {
            token.claims(verifier, &nonce).map(|claims| Login {
                subject: self.digest(claims.subject().as_str()),
                time: claims.auth_time().map(|time| time.timestamp()),
                expires: claims.expiration().timestamp(),
            })
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

    /// Verifies an ID token as [`Self::verify`] does, and that a person logged in for it lately: an open session at the
    /// provider, such as a thief finds on a stolen device, proves nothing.
    ///
    /// # Errors
    /// [`OidcError`].
    pub async fn verify_recent(&self, id_token: &IdToken, nonce: &str) -> Result<Login, OidcError> {
        let login = self.verify(id_token, nonce).await?;
        match login.time {
            Some(time) if is_recent(time, self.max_age) => Ok(login),
            Some(_) => {
                Err(OidcError::Invalid("the login was too long ago, or is of the future: log in again"))
            }
            None => Err(OidcError::Invalid(
                "the ID token does not tell when its user logged in (max_age asks for it)",
            )),
        }
    }

    /// The digest outlives the master key, as that of an account must.
    fn digest(&self, subject: &str) -> Subject {
        let login = [self.issuer.as_str().as_bytes(), &[0], subject.as_bytes()].concat();
        Subject(self.home.master_key.digest(LOGIN, &login))
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
            match is_recent(issued.timestamp(), max_age) {
                true => Ok(()),
                false => Err(WRONG_AGE.to_owned()),
            }
        }))
    }
}

impl Subject {
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl TryFrom<&[u8]> for Subject {
    type Error = TryFromSliceError;
    fn try_from(digest: &[u8]) -> Result<Self, TryFromSliceError> {
        digest.try_into().map(Self)
    }
}

/// The reason of a refusal, without anything of the token.
fn reason(error: &ClaimsVerificationError) -> &'static str {
    match error {
        // The library reports with one variant that a token has ended and what our check of its age says.
        ClaimsVerificationError::Expired(why) if why.contains(WRONG_AGE) => {
            "the ID token was issued too long ago, or in the future"
        }
        ClaimsVerificationError::Expired(_) => "the ID token has expired",
        ClaimsVerificationError::InvalidAudience(_) => "the ID token is for another audience",
        ClaimsVerificationError::InvalidIssuer(_) => "the ID token is another issuer's",
        ClaimsVerificationError::InvalidNonce(_) => {
            "the ID token has another nonce: it was made for something else"
        }
        ClaimsVerificationError::SignatureVerification(_) => {
            "the ID token is not signed by a key of the identity provider"
        }
        _ => "the ID token is not of a kind that is taken here",
    }
}

/// Whether a time, in seconds since 1970, is at most so many seconds ago, by a clock that may be ahead a little.
fn is_recent(time: i64, max_age: i64) -> bool {
    (-MAX_CLOCK_SKEW..=max_age).contains(&(unix_time() - time))
}

fn unix_time() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
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
