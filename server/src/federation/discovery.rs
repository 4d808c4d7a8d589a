//! Discovery (FED-1): looks at the description of another domain's homeserver, over TLS, and verifies it. What was found
//! is kept in the database with the keys that are pinned, for all processes.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderValue, header::ACCEPT};
use postern_protocol::{
    PublicKey,
    encoding::Encoding,
    federation::{
        DESCRIPTION_PATH, Description, DescriptionError, KnownKeys, MAX_DESCRIPTION_BYTES, ServerKey,
    },
    name::Domain,
    problem::{Problem, ProblemType},
};
use tokio::{sync::Semaphore, time::timeout};
use tokio_postgres::Row;

use super::Federation;
use crate::{
    clock::now,
    database::{DatabaseError, SqlOutcome, outcome},
    home::Home,
    http::{Failure, SourceAddress},
    outgoing::{BaseUrl, HomeserverClient, NamedHosts},
};

/// Time for a whole look.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Time that a request waits for a look at a homeserver whose description holds.
const GLANCE: Duration = Duration::from_millis(500);
/// Looks under way at once at homeservers that took a delivery, or that the operator allowed, and as many at others.
const AT_ONCE: usize = 8;
/// Looks that are under way at once at homeservers of one family of names.
const OF_FAMILY: usize = 2;
/// Looks at others that are under way at once for people of one network.
const OF_NETWORK: usize = 2;
/// Keys that are pinned by one look, at most.
const MOST_PINNED: usize = 16;
/// The last second of the year 9999, after which times are all the same.
const LAST_SECOND: u64 = 253_402_300_799;

outcome! {
    pub FindHomeserverOutcome: "federation.find_homeserver_outcome" {
        Kept = "kept",
        Due = "due",
        Failing = "failing",
        Blocked = "blocked",
        TooMany = "too_many",
    }
}

outcome! {
    pub KeepHomeserverOutcome: "federation.keep_homeserver_outcome" {
        Kept = "kept",
        Blocked = "blocked",
        Outdated = "outdated",
        KeyOfAnother = "key_of_another",
    }
}

/// The way to other homeservers' descriptions.
pub struct Discovery {
    client: Arc<HomeserverClient>,
    hosts: NamedHosts,
    /// Turns of looks. Anybody can name homeservers by the thousand, and have them seen once: that delays no look at one
    /// that took a delivery, and no look for people on other networks.
    at_proven: Semaphore,
    at_strangers: Semaphore,
    networks: Mutex<HashMap<String, Arc<Semaphore>>>,
    families: Mutex<HashMap<String, Arc<Semaphore>>>,
    /// Looks under way, by domain: one is enough for all requests that wait for it.
    looks: Mutex<HashMap<Domain, Arc<tokio::sync::Mutex<()>>>>,
}

/// A homeserver as the database has it.
pub struct Found {
    pub outcome: FindHomeserverOutcome,
    /// The description that was verified last, unless it has expired.
    description: Option<Vec<u8>>,
    known: KnownKeys,
    /// The network that the request for it came from.
    network: Option<String>,
    /// Whether the description that was seen last does not serve.
    is_fresh_needed: bool,
}

/// The reason why a homeserver is not known.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    #[error("the operator does not let this server deal with it")]
    Blocked,
    #[error("it does not answer over TLS")]
    Unreachable,
    #[error("its answer is no description: status {0}")]
    Status(u16),
    #[error("its description is not accepted: {0}")]
    Description(#[from] DescriptionError),
    #[error("its description is not accepted: the base URL is not one that this server may call")]
    BaseUrl,
    #[error("its description is older than one that was seen before")]
    Outdated,
    #[error("its description is not accepted: one of its keys is another domain's")]
    KeyOfAnother,
    #[error("the last looks at it failed, and the next one is not due yet")]
    Failing,
    #[error("this server knows as many homeservers as it may")]
    TooMany,
    #[error("this server looks at many others at this time")]
    Busy,
    #[error("it has said something else of itself too often today")]
    Unsteady,
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("{0}")]
    Fault(anyhow::Error),
}

impl Discovery {
    pub fn new(client: Arc<HomeserverClient>, hosts: NamedHosts) -> Self {
        let [at_proven, at_strangers] = [Semaphore::new(AT_ONCE), Semaphore::new(AT_ONCE)];
        Self {
            client,
            hosts,
            at_proven,
            at_strangers,
            networks: Mutex::default(),
            families: Mutex::default(),
            looks: Mutex::default(),
        }
    }

    /// Fetches a description, of a bounded size, once it is this look's turn. A look at one that took no delivery is for
    /// somebody of a `network`, or for this server.
    async fn fetch(
        &self,
        domain: &Domain,
        is_proven: bool,
        network: Option<&str>,
    ) -> Result<Vec<u8>, DiscoveryError> {
        let unreachable = |error: reqwest::Error| {
            tracing::debug!(
                "cannot look at another homeserver: {:#}",
                anyhow::Error::from(error.without_url())
            );
            DiscoveryError::Unreachable
        };
        let turns = if is_proven { &self.at_proven } else { &self.at_strangers };
        let of_network = network
            .filter(|_| !is_proven)
            .map(|network| shared(&self.networks, network.to_owned(), || Semaphore::new(OF_NETWORK)));
        let of_family = shared(&self.families, domain.family().to_owned(), || Semaphore::new(OF_FAMILY));
        let turn = async {
            // The shares first: a look that waits for its own keeps no others waiting.
            let of_network = match &of_network {
                Some(turns) => Some(turns.acquire().await),
                None => None,
            };
            (of_network, of_family.acquire().await, turns.acquire().await)
        };
        let _turn = timeout(TIMEOUT, turn).await.map_err(|_| DiscoveryError::Busy)?;
        let accept = HeaderValue::from_static(Encoding::Json.media_type());
        let clients = Option::clone(&self.client.now()).ok_or(DiscoveryError::Unreachable)?;
        let url = format!("https://{}{DESCRIPTION_PATH}", domain.as_str());
        let request = clients.shared.get(url).header(ACCEPT, accept).timeout(TIMEOUT);
        let mut answer = request.send().await.map_err(unreachable)?;
        if answer.status() != http::StatusCode::OK {
            return Err(DiscoveryError::Status(answer.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(unreachable)? {
            if part.len() > MAX_DESCRIPTION_BYTES - body.len() {
                return Err(DescriptionError::Malformed.into());
            }
            body.extend_from_slice(&part);
        }
        Ok(body)
    }
}

impl Found {
    /// A homeserver as `federation.find_homeserver` returned it, or a function with the same columns and outcomes.
    ///
    /// # Errors
    /// Another outcome, a key that is none.
    pub fn of(row: &Row) -> anyhow::Result<Self> {
        let outcome = FindHomeserverOutcome::of(row)?;
        let keys = |column| {
            let keys: Option<Vec<&[u8]>> = row.get(column);
            keys.unwrap_or_default().into_iter().map(PublicKey::try_from).collect::<Result<Vec<_>, _>>()
        };
        let known = KnownKeys { trusted: keys("trusted")?, distrusted: keys("distrusted")? };
        let description = row.get("description");
        Ok(Self { outcome, description, known, network: None, is_fresh_needed: false })
    }

    /// The same, for a request from this source.
    pub fn asked_by(self, source: SourceAddress) -> Self {
        Self { network: Some(source.network()), ..self }
    }

    /// The same, for a request that the description which was seen last may not serve.
    pub fn fresh(self, is_fresh_needed: bool) -> Self {
        Self { is_fresh_needed, ..self }
    }

    /// Asks the database for a homeserver. With `fresh`, a look is due if the last one is more than a minute ago.
    ///
    /// # Errors
    /// A database that does not answer.
    pub async fn find(home: &Home, domain: &Domain, fresh: bool) -> Result<Self, DiscoveryError> {
        let sql = "SELECT outcome, description, trusted, distrusted FROM federation.find_homeserver($1, $2)";
        let row = home.database.query_one(sql, &[&domain.as_str(), &fresh]).await?;
        Ok(Self::of(&row).map_err(DiscoveryError::Fault)?.fresh(fresh))
    }

    /// The description, where no look is due.
    fn settled(self) -> Result<Vec<u8>, DiscoveryError> {
        match (self.outcome, self.description) {
            (FindHomeserverOutcome::Kept | FindHomeserverOutcome::Failing, Some(description)) => {
                Ok(description)
            }
            (FindHomeserverOutcome::Blocked, _) => Err(DiscoveryError::Blocked),
            (FindHomeserverOutcome::TooMany, _) => Err(DiscoveryError::TooMany),
            (
                FindHomeserverOutcome::Kept | FindHomeserverOutcome::Due | FindHomeserverOutcome::Failing,
                _,
            ) => Err(DiscoveryError::Failing),
        }
    }
}

impl Federation {
    /// The description of another domain's homeserver, byte for byte, after a look at it if one is due. While it cannot be
    /// looked at, or that takes long, the one that was seen last is good until it expires.
    ///
    /// # Errors
    /// [`DiscoveryError`].
    pub(super) async fn discover(&self, domain: &Domain, found: Found) -> Result<Vec<u8>, DiscoveryError> {
        if found.outcome != FindHomeserverOutcome::Due {
            return found.settled();
        }
        let look = shared(&self.discovery.looks, domain.clone(), || tokio::sync::Mutex::new(()));
        let Found { description, network, is_fresh_needed, .. } = found;
        let description = match description {
            Some(description) if !is_fresh_needed => description,
            _ => return self.look_in_turn(domain, network.as_deref(), look).await,
        };
        if look.try_lock().is_err() {
            return Ok(description);
        }
        let (federation, domain) = (self.clone(), domain.clone());
        let looking = async move { federation.look_in_turn(&domain, network.as_deref(), look).await };
        match timeout(GLANCE, tokio::spawn(looking)).await {
            Ok(looked) => looked.unwrap_or_else(|error| Err(DiscoveryError::Fault(error.into()))),
            // The look goes on.
            Err(_) => Ok(description),
        }
    }

    /// Checks that this server may call the base URL of a domain's homeserver, as its description has it.
    ///
    /// # Errors
    /// [`DiscoveryError::BaseUrl`]; a database that does not answer.
    pub(super) async fn check_base_url(&self, domain: &Domain, base_url: &str) -> Result<(), DiscoveryError> {
        let is_good = match self.discovery.hosts.judge(base_url, domain) {
            BaseUrl::Good => true,
            BaseUrl::Bad => false,
            BaseUrl::OfAnother => {
                let sql = "SELECT federation.is_named($1)";
                self.home.database.query_one(sql, &[&domain.as_str()]).await?.get(0)
            }
        };
        is_good.then_some(()).ok_or(DiscoveryError::BaseUrl)
    }

    /// Looks at another domain's homeserver, after looks at it that are under way.
    async fn look_in_turn(
        &self,
        domain: &Domain,
        network: Option<&str>,
        look: Arc<tokio::sync::Mutex<()>>,
    ) -> Result<Vec<u8>, DiscoveryError> {
        let _turn = look.lock().await;
        // Somebody may have looked meanwhile.
        let found = Found::find(&self.home, domain, true).await?;
        if found.outcome != FindHomeserverOutcome::Due {
            return found.settled();
        }
        match self.look(domain, &found.known, network).await {
            Ok(description) => Ok(description),
            Err(
                error @ (DiscoveryError::Database(_) | DiscoveryError::Fault(_) | DiscoveryError::Blocked),
            ) => Err(error),
            // It says nothing of the other homeserver.
            Err(error @ DiscoveryError::Busy) => found.description.ok_or(error),
            Err(error) => {
                tracing::debug!("a look at another homeserver failed: {error}");
                let sql = "SELECT federation.note_failed_look($1)";
                self.home.database.query_one(sql, &[&domain.as_str()]).await?;
                found.description.ok_or(error)
            }
        }
    }

    /// Looks at a description, verifies and keeps it.
    async fn look(
        &self,
        domain: &Domain,
        known: &KnownKeys,
        network: Option<&str>,
    ) -> Result<Vec<u8>, DiscoveryError> {
        let sql = "SELECT federation.is_proven($1)";
        let proven = self.home.database.query_one(sql, &[&domain.as_str()]).await?;
        let bytes = self.discovery.fetch(domain, proven.get(0), network).await?;
        let description = Description::from_json(&bytes)?;
        let keys = description.verify(domain, known, now())?;
        self.check_base_url(domain, &description.base_url).await?;
        let time = |seconds: u64| seconds.min(LAST_SECOND).cast_signed();
        // Keys that have ended are of no use: the others lead on.
        let is_pinned = |key: &&ServerKey| keys.contains(&key.public_key) && key.not_after >= now();
        let keys: Vec<_> = description.keys.iter().filter(is_pinned).take(MOST_PINNED).collect();
        let (not_before, not_after): (Vec<i64>, Vec<i64>) =
            keys.iter().map(|key| (time(key.not_before), time(key.not_after))).unzip();
        let keys: Vec<&[u8]> = keys.iter().map(|key| key.public_key.as_bytes().as_slice()).collect();
        let revoked: Vec<&[u8]> = description.revoked.iter().map(|key| key.as_bytes().as_slice()).collect();
        let row = self
            .home
            .database
            .query_one(
                "SELECT outcome FROM federation.keep_homeserver($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
                &[
                    &domain.as_str(),
                    &bytes,
                    &description.content_digest().as_slice(),
                    &description.base_url,
                    &time(description.issued),
                    &time(description.held_until()),
                    &keys,
                    &not_before,
                    &not_after,
                    &revoked,
                ],
            )
            .await?;
        match KeepHomeserverOutcome::of(&row).map_err(|error| DiscoveryError::Fault(error.into()))? {
            KeepHomeserverOutcome::Kept => Ok(bytes),
            KeepHomeserverOutcome::Blocked => Err(DiscoveryError::Blocked),
            KeepHomeserverOutcome::Outdated => Err(DiscoveryError::Outdated),
            KeepHomeserverOutcome::KeyOfAnother => Err(DiscoveryError::KeyOfAnother),
        }
    }
}

/// The one thing that all who name the same have in common: the first of them makes it, and it is gone after the last.
fn shared<K: Eq + Hash, T>(things: &Mutex<HashMap<K, Arc<T>>>, name: K, make: impl FnOnce() -> T) -> Arc<T> {
    let mut things = things.lock().unwrap_or_else(PoisonError::into_inner);
    things.retain(|_, thing| Arc::strong_count(thing) > 1);
    things.entry(name).or_insert_with(|| Arc::new(make())).clone()
}

impl From<DiscoveryError> for Failure {
    fn from(error: DiscoveryError) -> Self {
        match error {
            DiscoveryError::Database(error) => error.into(),
            DiscoveryError::Fault(error) => Self::Fault(error),
            DiscoveryError::Blocked => ProblemType::HomeserverBlocked.into(),
            error => Problem::with_detail(ProblemType::HomeserverUnknown, error).into(),
        }
    }
}
