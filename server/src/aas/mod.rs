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
    compute::{Compute, FairTurns, Overloaded},
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
    for_homeservers: Arc<ForHomeservers>,
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
        let for_homeservers = Arc::new(ForHomeservers(FairTurns::new(half, home.limits.compute_wait())));
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
        self.for_homeservers.run(self.home.computing(), domain, work).await
    }

    /// Notified when the issuer keys in the database may have changed.
    pub fn issuer_keys_changed(&self) -> Arc<Notify> {
        self.issuer_keys_changed.clone()
    }
}

/// Turns of families of domains at what is computed for their homeservers: half of the cores.
struct ForHomeservers(FairTurns<String>);

impl ForHomeservers {
    async fn run<T>(
        &self,
        compute: &Compute,
        domain: &Domain,
        work: impl FnOnce() -> T,
    ) -> Result<T, Overloaded> {
        let _turn = self.0.take(domain.family().to_owned()).await?;
        compute.run(work).await
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_work_at_a_time_is_done_for_homeservers_of_a_family_of_names() {
        let turns = Arc::new(ForHomeservers(FairTurns::new(2, Duration::from_millis(20))));
        let compute = Arc::new(Compute::new(4, Duration::from_secs(60)));
        let domain = |name: &str| name.parse::<Domain>().expect("it is a domain");
        let (begin, begun) = tokio::sync::oneshot::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let first = tokio::spawn({
            let (turns, compute, domain) = (turns.clone(), compute.clone(), domain("a.evil.example"));
            async move {
                let work = move || {
                    begin.send(()).expect("the test waits for it");
                    ended.recv().expect("the test ends it");
                };
                turns.run(&compute, &domain, work).await
            }
        });
        begun.await.expect("it begins");
        let has_turn = async |name: &str| turns.run(&compute, &domain(name), || ()).await.is_ok();
        assert!(!has_turn("b.evil.example").await, "another name of the family has the turn");
        assert!(has_turn("good.example").await, "another family has one of its own");
        end.send(()).expect("it still runs");
        assert!(first.await.expect("it does not panic").is_ok());
        assert!(has_turn("b.evil.example").await, "the turn is free again");
    }
}
