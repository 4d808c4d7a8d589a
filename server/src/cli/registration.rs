//! The policy of registration (AS-1) of a new homeserver, which is set before anybody can reach the server. Later the
//! operator changes it in the database.

use anyhow::anyhow;
use clap::ValueEnum;

use super::migrate::connect;
use crate::{config::ConnectionString, database::DatabaseError};

/// The environment variable with the policy, for `setup` and for the first start of a server with a private cluster.
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

    /// Sets the policy.
    pub async fn set(self, admin_url: &ConnectionString) -> anyhow::Result<()> {
        self.execute(admin_url, "SELECT operator.set_registration_policy($1)").await?;
        Ok(())
    }

    /// Sets the policy of a database that no server has used yet. Returns whether it did.
    pub async fn set_for_new(self, admin_url: &ConnectionString) -> anyhow::Result<bool> {
        let sql = "SELECT operator.set_registration_policy($1) WHERE operator.current_home_domain() IS NULL";
        self.execute(admin_url, sql).await
    }

    async fn execute(self, admin_url: &ConnectionString, sql: &str) -> anyhow::Result<bool> {
        let client = connect(admin_url, "registration").await?;
        let rows = client.execute(sql, &[&self.name()]).await.map_err(DatabaseError::from)?;
        Ok(rows > 0)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Invite => "invite",
            Self::Oidc => "oidc",
        }
    }
}
