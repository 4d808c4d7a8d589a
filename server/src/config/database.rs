//! The database.

use std::{convert::Infallible, fmt, str::FromStr, time::Duration};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::cores;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatabaseConfig {
    /// Connection string for the role `postern_server`.
    pub url: Option<ConnectionString>,
    /// Connection string for a superuser: only `migrate`, `backup`, `restore`, `generation`, `psql` and `master-key change`
    /// use it.
    pub admin_url: Option<ConnectionString>,
    /// Connections for light requests. A quarter as many for heavy ones, as many again for those that wait for a lock,
    /// one for chores and one that listens come on top.
    pub pool_size: usize,
    /// Time that a request waits for a connection, in seconds.
    pub wait_seconds: u64,
    /// Time that PostgreSQL works on a statement, in seconds.
    pub statement_timeout_seconds: u64,
    /// Bytes that a request writes, all copies counted, from which on it is a heavy one.
    pub heavy_bytes: u64,
    /// Time that PostgreSQL works on the statement of a heavy request, in seconds.
    pub heavy_statement_timeout_seconds: u64,
    /// Time that PostgreSQL works on the statement of a chore, in seconds: nobody waits for it, and some delete what years
    /// left.
    pub chore_statement_timeout_seconds: u64,
}

/// A connection string for PostgreSQL. It may hold a password, so its `Debug` shows nothing.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConnectionString(String);

impl Default for DatabaseConfig {
    fn default() -> Self {
        // A few connections keep the database's cores and disk busy; more only add contention.
        Self {
            url: None,
            admin_url: None,
            pool_size: 2 * cores() + 4,
            wait_seconds: 5,
            statement_timeout_seconds: 5,
            heavy_bytes: 8 * 1024 * 1024,
            heavy_statement_timeout_seconds: 30,
            chore_statement_timeout_seconds: 10 * 60,
        }
    }
}

impl DatabaseConfig {
    pub fn wait(&self) -> Duration {
        Duration::from_secs(self.wait_seconds)
    }

    pub fn statement_timeout(&self) -> Duration {
        Duration::from_secs(self.statement_timeout_seconds)
    }

    pub fn heavy_statement_timeout(&self) -> Duration {
        Duration::from_secs(self.heavy_statement_timeout_seconds)
    }

    pub fn chore_statement_timeout(&self) -> Duration {
        Duration::from_secs(self.chore_statement_timeout_seconds)
    }

    /// The values that must not be 0, by their names in the file.
    pub(super) fn positive(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("database.pool_size", self.pool_size as u64),
            ("database.wait_seconds", self.wait_seconds),
            ("database.statement_timeout_seconds", self.statement_timeout_seconds),
            ("database.heavy_statement_timeout_seconds", self.heavy_statement_timeout_seconds),
            ("database.chore_statement_timeout_seconds", self.chore_statement_timeout_seconds),
        ]
    }
}

impl ConnectionString {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConnectionString(…)")
    }
}

impl FromStr for ConnectionString {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::new(text))
    }
}

#[derive(Debug, Clone, Default, Args, Serialize)]
#[command(next_help_heading = "Database")]
pub struct DatabaseSettings {
    /// Connection string for the role postern_server, as a URL or a key=value list [default: none; with --embedded the
    /// private cluster]
    #[arg(long = "database-url", value_name = "URL", env = "POSTERN_DATABASE_URL", hide_env_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<ConnectionString>,

    /// Connection string for a superuser; only migrate, backup, restore, generation, psql and master-key change use it
    /// [default: none; with --embedded the private cluster]
    #[arg(
        long = "database-admin-url",
        value_name = "URL",
        env = "POSTERN_DATABASE_ADMIN_URL",
        hide_env_values = true
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_url: Option<ConnectionString>,

    /// Connections to the database for requests; a quarter as many more for heavy ones, as many again for those that
    /// wait for a lock, and two that listen and do chores
    /// [default: 4, and 2 for each core]
    #[arg(long = "database-pool-size", value_name = "N", env = "POSTERN_DATABASE_POOL_SIZE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_size: Option<usize>,

    /// Time that a request waits for a connection to the database, in seconds [default: 5]
    #[arg(long = "database-wait-seconds", value_name = "SECONDS", env = "POSTERN_DATABASE_WAIT_SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_seconds: Option<u64>,

    /// Time that PostgreSQL works on a statement before it gives up, in seconds [default: 5]
    #[arg(
        long = "database-statement-timeout-seconds",
        value_name = "SECONDS",
        env = "POSTERN_DATABASE_STATEMENT_TIMEOUT_SECONDS"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statement_timeout_seconds: Option<u64>,

    /// Bytes that a request writes, all copies counted, from which on it is a heavy one [default: 8388608]
    #[arg(long = "database-heavy-bytes", value_name = "BYTES", env = "POSTERN_DATABASE_HEAVY_BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heavy_bytes: Option<u64>,

    /// Time that PostgreSQL works on the statement of a heavy request, in seconds [default: 30]
    #[arg(
        long = "database-heavy-statement-timeout-seconds",
        value_name = "SECONDS",
        env = "POSTERN_DATABASE_HEAVY_STATEMENT_TIMEOUT_SECONDS"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heavy_statement_timeout_seconds: Option<u64>,

    /// Time that PostgreSQL works on the statement of a chore, in seconds [default: 600]
    #[arg(
        long = "database-chore-statement-timeout-seconds",
        value_name = "SECONDS",
        env = "POSTERN_DATABASE_CHORE_STATEMENT_TIMEOUT_SECONDS"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chore_statement_timeout_seconds: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{of, refusal},
        ConnectionString,
    };

    #[test]
    fn a_connection_string_is_not_shown() {
        let config = of("[database]\nurl = 'host=/run password=secret'").unwrap();
        let shown = format!("{config:?}");
        assert!(shown.contains("ConnectionString(…)") && !shown.contains("secret"), "{shown}");
        assert_eq!(
            config.database.url.as_ref().map(ConnectionString::as_str),
            Some("host=/run password=secret")
        );
    }

    #[test]
    fn a_database_without_connections_or_time_is_refused() {
        for name in [
            "pool_size",
            "wait_seconds",
            "statement_timeout_seconds",
            "heavy_statement_timeout_seconds",
            "chore_statement_timeout_seconds",
        ] {
            let error = refusal(&format!("[database]\n{name} = 0"));
            assert_eq!(error, format!("database.{name} is 0: it must be at least 1"));
        }
    }
}
