//! Anonymous Authentication Service: issues tokens to clients and homeservers that it knows, and redeems tokens of
//! anybody; nothing joins the two (AAS-6).

pub mod issue_tokens;
pub mod issuer;
pub mod issuer_directory;
pub mod issuer_key;
pub mod key_ring;
pub mod token_request;
mod upkeep;
mod uses;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::HeaderValue;
use postern_protocol::{
    name::Domain,
    token::{TOKEN_TYPES, Token, TokenType},
};
use tokio::sync::Notify;
use tokio_postgres::Client;

use crate::{
    compute::{FairTurns, Overloaded},
    config::FederationConfig,
    database::{DatabaseError, listener::Subscriber},
    federation::pace::Pace,
    home::Home,
    http::{Failure, Gate, RedeemedToken, SourceAddress},
    metrics::{Counters, Instruments},
};
use issuer::Issuer;
use uses::Uses;

/// The state of the AAS.
#[derive(Clone)]
pub struct Aas {
    home: Home,
    issuer: Arc<Issuer>,
    uses: Arc<Uses>,
    issued: IssueFigures,
    /// The pace at which token requests of other homeservers are taken.
    pace: Arc<Pace>,
    /// Turns of their families of domains at what is computed for them: half of the cores.
    for_homeservers: Arc<FairTurns<String>>,
    /// Notified when another process changed the issuer keys, or may have while this one did not listen.
    issuer_keys_changed: Arc<Notify>,
}

impl Aas {
    /// Loads the issuer keys, after making those that are due.
    ///
    /// # Errors
    /// A database that does not answer, keys that do not open under the master key.
    pub async fn load(home: &Home, config: &FederationConfig) -> anyhow::Result<Self> {
        let issuer = Arc::new(Issuer::load(home).await?);
        let (uses, issued, issuer_keys_changed) = Default::default();
        let pace = Arc::new(Pace::new(config.gateway_per_second));
        let half = (home.limits.compute_threads / 2).max(1);
        let for_homeservers = Arc::new(FairTurns::new(half, home.limits.compute_wait()));
        Ok(Self { home: home.clone(), issuer, uses, issued, pace, for_homeservers, issuer_keys_changed })
    }

    /// Lets the figures be seen.
    pub fn register(&self, instruments: &mut Instruments) {
        instruments.counters(
            "postern_tokens_issued",
            "Tokens that were asked for, by whether they were issued; repeats count again",
            &self.issued.0,
        );
    }

    /// Does work for the homeserver of another domain that keeps a core busy: that of one family of domains after another, and
    /// on half of the cores, so that no number of them keeps people here waiting.
    ///
    /// # Errors
    /// [`Overloaded`]: there is too much of it.
    pub async fn compute_for<T>(&self, domain: &Domain, work: impl FnOnce() -> T) -> Result<T, Overloaded> {
        let _turn = self.for_homeservers.take(domain.family().to_owned()).await?;
        self.home.compute(work).await
    }

    /// Notified when the issuer keys in the database may have changed.
    pub fn issuer_keys_changed(&self) -> Arc<Notify> {
        self.issuer_keys_changed.clone()
    }
}

/// Counts of tokens that were asked for (OPS-4).
#[derive(Clone)]
struct IssueFigures(Counters<2>);

impl Default for IssueFigures {
    fn default() -> Self {
        let figures = Self(Counters::new(["type", "outcome"]));
        for kind in TOKEN_TYPES {
            figures.count(&[(kind, 0)], true);
            figures.count(&[(kind, 0)], false);
        }
        figures
    }
}

impl IssueFigures {
    fn count(&self, tokens: &[(TokenType, i32)], issued: bool) {
        let outcome = if issued { "issued" } else { "refused" };
        for (kind, number) in tokens {
            self.0.add([(*kind).into(), outcome.into()], u64::from(number.unsigned_abs()));
        }
    }
}

impl Gate for Aas {
    fn redeem(
        &self,
        token: Token,
        source: SourceAddress,
    ) -> BoxFuture<'_, Result<Option<RedeemedToken>, Failure>> {
        Box::pin(self.issuer.redeem(token, source))
    }

    fn challenge(&self) -> HeaderValue {
        self.issuer.www_authenticate(&self.home.domain)
    }

    fn count(&self, endpoint: &'static str) {
        self.uses.count(endpoint);
    }
}

impl Subscriber for Aas {
    fn channel(&self) -> &'static str {
        "postern_issuer_keys"
    }

    fn connected<'a>(&'a self, _: &'a Client) -> BoxFuture<'a, Result<(), DatabaseError>> {
        self.issuer_keys_changed.notify_one();
        Box::pin(std::future::ready(Ok(())))
    }

    fn notified(&self, _: &str) {
        self.issuer_keys_changed.notify_one();
    }
}

#[cfg(test)]
pub fn outcomes() -> Vec<crate::database::outcome::Declared> {
    use crate::database::outcome::declared;
    vec![
        declared::<issue_tokens::AdmitSignerOutcome>(),
        declared::<issue_tokens::TakeAllowanceOutcome>(),
        declared::<issuer::AddIssuerKeyOutcome>(),
        declared::<upkeep::DropRetiredKeyOutcome>(),
    ]
}
