//! The home of a server process: its domain, and all that its services share: the database, the master key, the limits,
//! and the signal that the server is stopping. It knows no service.

use std::sync::Arc;

use postern_protocol::{
    name::Domain,
    problem::{Problem, ProblemType},
};
use tokio::sync::watch;

use crate::{config::Limits, database::Database, keys::MasterKey};

/// Seconds for which a client may use its copy of published keys.
pub const PUBLISHED_MAX_AGE: u32 = 60 * 60;

/// The state that the services share. Cheap to clone.
#[derive(Clone)]
pub struct Home(Arc<Shared>);

pub struct Shared {
    /// The domain after `@` in the names of this server's users (OPS-2).
    pub domain: Domain,
    pub database: Database,
    pub master_key: MasterKey,
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
        Self(Arc::new(shared))
    }

    /// The homeserver of a domain that a request names.
    pub fn of(&self, domain: &Domain) -> Homeserver {
        if self.domain == *domain { Homeserver::Local } else { Homeserver::Remote }
    }

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
        &self.0
    }
}
