//! A session of PostgreSQL as the server needs it, whatever the defaults of the database, the role or the system are: the
//! way to its socket, and the settings that it starts with.

use std::time::Duration;

use tokio::{select, time::timeout};
use tokio_postgres::{Client, Error, SimpleQueryMessage};

use super::{DatabaseError, PostgresConnection, SERVERS, Way, release::Release};
use crate::config::ConnectionString;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The driver's default time without a word after which it asks the peer for a sign of life. The connection string may
/// set another; ours is shorter.
pub(super) const DRIVERS_KEEPALIVE: Duration = Duration::from_secs(2 * 60 * 60);
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 2;
/// Time after which sent data that nobody acknowledged ends a connection.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// Sessions that hold a transaction open at most, to find out whether another session is one.
const HOLDERS: usize = 4;
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// The way to PostgreSQL: the connection string, and bounds of time where it has none.
///
/// # Errors
/// As [`Way::of`].
pub fn way(url: &ConnectionString) -> Result<Way, DatabaseError> {
    let mut way = Way::of(url)?;
    let config = &mut way.config;
    // `migrate` of a later release reads it there (OPS-6).
    config.application_name(format!("{SERVERS}{}", Release::of_this_process().version()));
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    if config.get_keepalives_idle() == DRIVERS_KEEPALIVE {
        config.keepalives_idle(KEEPALIVE);
    }
    if config.get_keepalives_interval().is_none() {
        config.keepalives_interval(KEEPALIVE_INTERVAL);
    }
    if config.get_keepalives_retries().is_none() {
        config.keepalives_retries(KEEPALIVE_RETRIES);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(UNACKNOWLEDGED);
    }
    Ok(way)
}

/// The statements that a session starts with; `statement` is the longest that PostgreSQL works on one, and `lock` the
/// longest that one waits for a lock.
///
/// They are statements and not `options` of the connection, which a pooler in session mode does not pass on.
pub fn settings(statement: Duration, lock: Duration) -> String {
    let (statement, lock) = (statement.as_millis(), lock.as_millis());
    format!(
        "SET default_transaction_isolation = 'read committed';
         SET default_transaction_read_only = off;
         SET default_transaction_deferrable = off;
         SET TimeZone = 'UTC';
         SET DateStyle = 'ISO';
         SET IntervalStyle = 'postgres';
         SET bytea_output = 'hex';
         SET standard_conforming_strings = on;
         SET client_min_messages = warning;
         -- PostgreSQL has it on; compiling a statement takes seconds, and each is short.
         SET jit = off;
         SET idle_session_timeout = 0;
         SET statement_timeout = {statement};
         SET lock_timeout = {lock};
         SET idle_in_transaction_session_timeout = {statement};
         -- A server that is gone without a word keeps no locks.
         SET client_connection_check_interval = '5s';
         SET tcp_keepalives_idle = 10;
         SET tcp_keepalives_interval = 5;
         SET tcp_keepalives_count = 2;
         SET tcp_user_timeout = '10s';
         -- PostgreSQL has it from 17 on. A chore takes longer than what others may have.
         SELECT pg_catalog.set_config('transaction_timeout', '0', false)
          WHERE pg_catalog.current_setting('transaction_timeout', true) IS NOT NULL",
    )
}

/// Starts a session with these settings. The caller polls the connection.
///
/// # Errors
/// A database that is not there, or refuses.
pub async fn start(way: &Way, settings: &str) -> Result<(Client, PostgresConnection), Error> {
    let (client, mut connection) = way.connect().await?;
    select! {
        set = client.batch_execute(settings) => set?,
        ended = &mut connection => {
            ended?;
            // The session is closed, and says so.
            client.batch_execute(settings).await?;
        }
    }
    Ok((client, connection))
}

/// Finds out whether a connection is one session of PostgreSQL as long as it lives. A pooler in transaction mode gives a
/// session to another connection as soon as its transaction ends: one of those that hold a transaction then has the
/// session of the connection that asks, or has driven it to another.
///
/// # Errors
/// A database that does not answer.
pub async fn keeps(way: &Way) -> Result<bool, DatabaseError> {
    let keeps = async {
        let asking = Probe::connect(way).await?;
        let session = asking.session("").await?;
        let mut holders = Vec::new();
        for _ in 0..HOLDERS {
            let holder = Probe::connect(way).await?;
            // A pooler in statement mode refuses transactions.
            let held = holder.session("BEGIN").await;
            if held.is_err() || held.is_ok_and(|held| held == session) || asking.session("").await? != session
            {
                return Ok(false);
            }
            holders.push(holder);
        }
        Ok(true)
    };
    timeout(PROBE_TIMEOUT, keeps).await.unwrap_or(Err(DatabaseError::Silent(PROBE_TIMEOUT)))
}

/// A connection that asks which session it has. Dropping it ends it.
struct Probe {
    client: Client,
    driver: tokio::task::JoinHandle<()>,
}

impl Probe {
    async fn connect(way: &Way) -> Result<Self, DatabaseError> {
        let (client, connection) = way.connect().await?;
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { client, driver })
    }

    /// The number of PostgreSQL's process for the session, after another statement.
    async fn session(&self, first: &str) -> Result<String, DatabaseError> {
        if !first.is_empty() {
            self.client.batch_execute(first).await?;
        }
        // Without a prepared statement, which a pooler may lose.
        let answer = self.client.simple_query("SELECT pg_catalog.pg_backend_pid()").await?;
        let found = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        found.ok_or(DatabaseError::Rows(0))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
