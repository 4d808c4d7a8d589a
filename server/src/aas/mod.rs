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
use postern_protocol::token::Token;
use tokio::sync::Notify;
use tokio_postgres::Client;

use crate::{
    database::{DatabaseError, listener::Subscriber},
    home::Home,
    http::{Failure, Gate, RedeemedToken},
};
use issuer::Issuer;
use uses::Uses;

/// The state of the AAS.
#[derive(Clone)]
pub struct Aas {
    home: Home,
    issuer: Arc<Issuer>,
    uses: Arc<Uses>,
    /// Notified when another process changed the issuer keys, or may have while this one did not listen.
    issuer_keys_changed: Arc<Notify>,
}

impl Aas {
    /// Loads the issuer keys, after making those that are due.
    ///
    /// # Errors
    /// A database that does not answer, keys that do not open under the master key.
    pub async fn load(home: &Home) -> anyhow::Result<Self> {
        let issuer = Arc::new(Issuer::load(home).await?);
        Ok(Self { home: home.clone(), issuer, uses: Arc::default(), issuer_keys_changed: Arc::default() })
    }

    /// Notified when the issuer keys in the database may have changed.
    pub fn issuer_keys_changed(&self) -> Arc<Notify> {
        self.issuer_keys_changed.clone()
    }
}

impl Gate for Aas {
    fn redeem(&self, token: Token) -> BoxFuture<'_, Result<Option<RedeemedToken>, Failure>> {
        Box::pin(self.issuer.redeem(token))
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
