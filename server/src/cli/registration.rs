//! The policy of registration (AS-1) of a new homeserver, which is set before anybody can reach the server. Later the
//! operator changes it in the database.

use anyhow::anyhow;
use clap::ValueEnum;

use crate::database::migrate::RegistrationChoice;

/// The environment variable with the policy, for `setup` and `migrate`, and for the first start of a server with a private
/// cluster.
pub const ENVIRONMENT: &str = "POSTERN_REGISTRATION";

/// The policies of registration (AS-1), by the names that the database has for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Registration {
    Open,
    Invite,
    Oidc,
}

impl Registration {
    /// The policy in the environment, if it has one.
    ///
    /// # Errors
    /// There is no policy of that name.
    pub fn of_environment() -> anyhow::Result<Option<Self>> {
        match std::env::var(ENVIRONMENT).ok().filter(|name| !name.is_empty()) {
            Some(name) => Self::from_str(&name, false)
                .map(Some)
                .map_err(|_| anyhow!("{ENVIRONMENT} is {name}: it is one of open, invite and oidc")),
            None => Ok(None),
        }
    }

    /// The policy in the environment, as a migration sets it: for a new database.
    ///
    /// # Errors
    /// As [`Self::of_environment`].
    pub fn for_new_of_environment() -> anyhow::Result<Option<RegistrationChoice>> {
        Ok(Self::of_environment()?.map(Self::for_new))
    }

    /// The policy for a database that no server has used yet.
    pub fn for_new(self) -> RegistrationChoice {
        RegistrationChoice { policy: self.name(), only_for_new: true }
    }

    /// The policy for any database.
    pub fn for_any(self) -> RegistrationChoice {
        RegistrationChoice { policy: self.name(), only_for_new: false }
    }

    /// The name that the database and [`ENVIRONMENT`] have for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Invite => "invite",
            Self::Oidc => "oidc",
        }
    }
}
