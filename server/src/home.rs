//! The home of a server process: its domain, and all that its services share: the database, the master key, the limits,
//! and the signal that the server is stopping. It knows no service.

use std::sync::Arc;

use postern_protocol::{
    name::Domain,
    problem::{Problem, ProblemType},
};
use tokio::sync::watch;

use crate::{
    compute::{Compute, Overloaded},
    config::Limits,
    database::Database,
    keys::MasterKeys,
    readiness::{Readiness, Unready},
};

/// Seconds for which a client may use its copy of published keys.
pub const PUBLISHED_MAX_AGE: u32 = 60 * 60;

/// The state that the services share. Cheap to clone.
#[derive(Clone)]
pub struct Home {
    shared: Arc<Shared>,
    compute: Arc<Compute>,
    readiness: Arc<Readiness>,
}

pub struct Shared {
    /// The domain after `@` in the names of this server's users (OPS-2).
    pub domain: Domain,
    pub database: Database,
    pub master_key: MasterKeys,
    pub limits: Limits,
    /// True once the server shuts down, when long-polls answer without waiting longer.
    pub stopping: watch::Receiver<bool>,
}

/// The homeserver of a domain: this one or another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Homeserver {
    /// This one.
    Local,
    /// Another one.
    Remote,
}

impl Home {
    pub fn new(shared: Shared) -> Self {
        let compute = Compute::new(shared.limits.compute_threads, shared.limits.compute_wait());
        Self { shared: Arc::new(shared), compute: Arc::new(compute), readiness: Arc::default() }
    }

    /// Looks whether this process can serve requests now.
    ///
    /// # Errors
    /// The reason why it cannot.
    pub async fn ready(&self) -> Result<(), Arc<Unready>> {
        self.readiness.look(&self.database, &self.stopping).await
    }

    /// Whether a request that writes would hang, as far as is known.
    pub fn commits_hang(&self) -> bool {
        self.readiness.commits_hang()
    }

    /// Does work that keeps a core busy for milliseconds, such as validating a group's tree.
    ///
    /// # Errors
    /// [`Overloaded`]: there is too much of it.
    pub async fn compute<T>(&self, work: impl FnOnce() -> T) -> Result<T, Overloaded> {
        self.compute.run(work).await
    }

    /// Does such work that nobody waits for, if there is not too much of it already.
    ///
    /// # Errors
    /// [`Overloaded`].
    pub fn compute_if_idle<T>(&self, work: impl FnOnce() -> T) -> Result<T, Overloaded> {
        self.compute.run_if_idle(work)
    }

    /// The places for work that keeps a core busy.
    pub fn computing(&self) -> &Compute {
        &self.compute
    }

    /// The homeserver of a domain that a request names.
    pub fn of(&self, domain: &Domain) -> Homeserver {
        if self.domain == *domain { Homeserver::Local } else { Homeserver::Remote }
    }

    /// Refuses a domain that is not the home domain.
    ///
    /// # Errors
    /// `foreign-domain` if another homeserver serves the domain.
    pub fn expect_local(&self, domain: &Domain) -> Result<(), Problem> {
        match self.of(domain) {
            Homeserver::Local => Ok(()),
            Homeserver::Remote => Err(ProblemType::ForeignDomain.into()),
        }
    }
}

impl std::ops::Deref for Home {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.shared
    }
}
