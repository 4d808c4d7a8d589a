//! Federation: the homeservers of other domains, and this one's description of itself for them (FED-1). The database
//! decides which domains it deals with (FED-2).

pub mod admission;
mod allowances;
pub mod describe_server;
mod discovery;
mod gateway_keys;
pub mod introduce_server;
mod neighbour;
pub mod open_request;
pub mod outbox;
pub mod pace;
mod places;
pub mod relay_request;
pub mod relay_token_request;
pub mod show_homeserver;
mod wallet;

use std::{sync::Arc, time::Duration};

use postern_protocol::{
    name::Domain,
    problem::{Problem, ProblemType},
};
use tokio::time::timeout;

use crate::{
    aas::Aas,
    config::Config,
    from_files::Watched,
    home::{Home, Homeserver},
    http::{Failure, Request},
    keys::{SigningKeys, SigningService},
    outgoing::{self, HomeserverClient, NamedHosts},
};
use allowances::Allowances;
use discovery::Discovery;
use gateway_keys::GatewayKeys;
use neighbour::Introduced;
use outbox::Outbox;
use pace::Pace;
use places::{Place, Places, Standings};

/// The state of federation.
#[derive(Clone)]
pub struct Federation {
    home: Home,
    /// The URL at which others reach this server.
    base_url: Arc<str>,
    /// The keys that sign its words to others.
    server_keys: Arc<SigningKeys>,
    gateway_keys: Arc<GatewayKeys>,
    /// Its directory is part of the description.
    aas: Aas,
    discovery: Arc<Discovery>,
    client: Arc<HomeserverClient>,
    /// Requests that this server hands on.
    relay: Arc<Places>,
    relay_time: Duration,
    relayed_answer_bytes: usize,
    /// Requests that others hand on to this server.
    gateway: Arc<Places>,
    standings: Arc<Standings>,
    pace: Arc<Pace>,
    introduced: Arc<Introduced>,
    allowances: Arc<Allowances>,
    outbox: Arc<Outbox>,
    /// Lanes that this process delivers at once of prompt homeservers, half as many of others of each kind, and a few of
    /// strangers.
    deliveries_at_once: usize,
}

impl Federation {
    /// Loads the server keys and those of the gateway, after making those that are due.
    ///
    /// # Errors
    /// A database that does not answer, keys that do not open under the master key, a file of authorities that cannot be
    /// read.
    pub async fn load(home: &Home, config: &Config, aas: Aas) -> anyhow::Result<Self> {
        let service = SigningService::Homeserver(home.domain.clone());
        let server_keys = SigningKeys::load(&home.database, &home.master_key, service).await?;
        let federation = &config.federation;
        let client = Arc::new(outgoing::homeserver_client(federation)?);
        Ok(Self {
            home: home.clone(),
            base_url: config.base_url().into(),
            server_keys: Arc::new(server_keys),
            gateway_keys: Arc::new(GatewayKeys::load(home).await?),
            aas,
            discovery: Arc::new(Discovery::new(client.clone(), NamedHosts::of(&federation.hosts))),
            client,
            relay: Arc::new(Places::new(federation)),
            relay_time: federation.relay_time(),
            relayed_answer_bytes: federation.relayed_answer_bytes,
            gateway: Arc::new(Places::new(federation)),
            standings: Arc::default(),
            pace: Arc::new(Pace::new(federation.gateway_per_second)),
            introduced: Arc::default(),
            allowances: Arc::default(),
            outbox: Arc::default(),
            deliveries_at_once: federation.deliveries_at_once,
        })
    }

    /// The file of authorities for other homeservers, which somebody has to look at; none if none is configured.
    pub fn authority_files(&self) -> Option<Arc<dyn Watched>> {
        self.client.has_files().then(|| -> Arc<dyn Watched> { self.client.clone() })
    }

    /// The domain in the path of a request, which is not the home domain.
    fn other_domain(&self, request: &Request) -> Result<Domain, Problem> {
        let domain: Domain = request.segment(|segment| segment.parse().ok())?;
        match self.home.of(&domain) {
            Homeserver::Remote => Ok(domain),
            Homeserver::Local => Err(ProblemType::NotFound.into()),
        }
    }

    /// Waits for a place, of the relay or the gateway, for a request to or from another domain. Meanwhile its body gives way
    /// to those of others.
    ///
    /// # Errors
    /// There are too many; a body that gave way; a database that does not answer.
    async fn place(&self, places: &Places, domain: &Domain, request: &mut Request) -> Result<Place, Failure> {
        let source = request.source();
        let place = async {
            let standing = self.standings.of(domain, source, &self.home.database).await?;
            places.take(domain, standing).await
        };
        request.while_waiting(place).await
    }

    /// Does the work of a relayed request in its place and within its time, which are for a look, an introduction and
    /// another attempt, too. That takes as long as the other homeserver likes: meanwhile the request's body gives way to those
    /// of others.
    async fn relayed<T>(
        &self,
        request: &mut Request,
        place: &mut Place,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let kept = async {
            let done = place.keep(timeout(self.relay_time, work)).await?;
            done.unwrap_or_else(|_| Err(ProblemType::HomeserverUnreachable.into()))
        };
        request.while_waiting(kept).await
    }

    /// Makes the keys that are due, and loads those in the database.
    ///
    /// # Errors
    /// As [`Self::load`]; the keys stay as they are.
    pub async fn renew_keys(&self) -> anyhow::Result<()> {
        self.server_keys.renew(&self.home.database, &self.home.master_key).await?;
        self.gateway_keys.renew(&self.home).await
    }

    /// Deletes keys, descriptions, tokens and deliveries whose time is over, and tries those again that were refused.
    ///
    /// # Errors
    /// A database that does not answer.
    pub async fn clean_up(&self) -> anyhow::Result<()> {
        let database = self.home.database.for_chores();
        database.query_one("SELECT federation.clean_up()", &[]).await?;
        while database.query_one("SELECT federation.expire_deliveries()", &[]).await?.get(0) {}
        while database.query_one("SELECT federation.retry_refused()", &[]).await?.get(0) {}
        Ok(())
    }
}

#[cfg(test)]
pub fn outcomes() -> Vec<crate::database::outcome::Declared> {
    use crate::database::outcome::declared;
    vec![
        declared::<admission::FindSenderOutcome>(),
        declared::<gateway_keys::AddGatewayKeyOutcome>(),
        declared::<discovery::FindHomeserverOutcome>(),
        declared::<discovery::KeepHomeserverOutcome>(),
        declared::<introduce_server::IntroduceServerOutcome>(),
        declared::<open_request::AdmitRelayOutcome>(),
        declared::<outbox::ClaimLaneOutcome>(),
        declared::<outbox::CompareLaneOutcome>(),
        declared::<outbox::SettleLaneOutcome>(),
        declared::<wallet::ClaimRefillOutcome>(),
        declared::<wallet::TakeTokenOutcome>(),
        declared::<relay_request::RelayRequestOutcome>(),
        declared::<relay_token_request::RelayTokenRequestOutcome>(),
        declared::<show_homeserver::ShowHomeserverOutcome>(),
    ]
}
