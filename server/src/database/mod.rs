//! Connections to PostgreSQL as the role `postern_server`: pools for calls, and one connection for LISTEN. The services
//! make the calls. Nothing here waits for ever (OPS-9): PostgreSQL bounds each statement, and this side bounds each call
//! by a little more, so that a peer that is gone without a word costs one call and not the server.

mod error;
pub mod listener;
pub mod migrate;
pub mod outcome;
mod pool;
mod session;

use std::{sync::Arc, time::Duration};

use tokio_postgres::{Client, Connection, Row, Socket, tls::NoTlsStream, types::ToSql};

use crate::config::{ConnectionString, DatabaseConfig};
pub use error::DatabaseError;
pub(crate) use outcome::outcome;
pub use outcome::{SqlOutcome, UnknownOutcome};
use pool::Lane;

/// Time that PostgreSQL works on a statement of a chore: nobody waits for it, and some delete what years left.
const CHORE_STATEMENT_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// Time that a light call waits for a lock before it waits apart from the others.
const LIGHT_LOCK_TIMEOUT: Duration = Duration::from_millis(200);

/// The server's connections to PostgreSQL. Cheap to clone.
#[derive(Clone)]
pub struct Database {
    lanes: Arc<Lanes>,
    kind: Kind,
}

/// A kind of call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Light,
    Heavy,
    Chore,
}

/// Connections for each kind of call: the dear ones cannot take those of the others.
struct Lanes {
    light: Lane,
    /// For light calls that met a lock.
    waiting: Lane,
    heavy: Lane,
    chores: Lane,
    /// Bytes that a call writes from which on it is a heavy one.
    heavy_bytes: u64,
    config: tokio_postgres::Config,
    /// The settings of a session outside the pools.
    settings: String,
}

impl Database {
    /// Prepares the pools; nothing is connected before the first use.
    ///
    /// # Errors
    /// A connection string that does not parse.
    pub fn new(url: &ConnectionString, settings: &DatabaseConfig) -> Result<Self, DatabaseError> {
        let config = session::config(url)?;
        let heavy = (settings.pool_size / 4).max(1);
        let light = settings.pool_size.saturating_sub(2 * heavy).max(1);
        let lane = |size, statement, lock| Lane::new(&config, size, settings.wait(), statement, lock);
        // Less than the statement's, so that one that only waits is refused as one that waits.
        let lock = |statement: Duration| statement * 4 / 5;
        let (statement, heavy_statement) = (settings.statement_timeout(), settings.heavy_statement_timeout());
        Ok(Self {
            lanes: Arc::new(Lanes {
                light: lane(light, statement, LIGHT_LOCK_TIMEOUT.min(lock(statement)))?,
                waiting: lane(heavy, statement, lock(statement))?,
                heavy: lane(heavy, heavy_statement, lock(heavy_statement))?,
                chores: lane(1, CHORE_STATEMENT_TIMEOUT, lock(CHORE_STATEMENT_TIMEOUT))?,
                heavy_bytes: settings.heavy_bytes,
                settings: session::settings(statement, lock(statement)),
                config,
            }),
            kind: Kind::Light,
        })
    }

    /// The same database, for calls that write so many bytes: large ones have connections of their own, a quarter of
    /// all, and take longer before they are given up.
    pub fn for_bytes(&self, bytes: u64) -> Self {
        let kind = if bytes >= self.lanes.heavy_bytes { Kind::Heavy } else { self.kind };
        Self { lanes: self.lanes.clone(), kind }
    }

    /// The same database, for work by the clock, which may take minutes: it has a connection of its own.
    pub fn for_chores(&self) -> Self {
        Self { lanes: self.lanes.clone(), kind: Kind::Chore }
    }

    /// One call of a set-returning API function: one round trip once the connection knows the statement. A transaction
    /// that PostgreSQL gave up for another is repeated a few times.
    ///
    /// # Errors
    /// A refusal of PostgreSQL, or a database that does not answer in time. Then nobody knows whether the call took
    /// place.
    pub async fn query(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, DatabaseError> {
        match self.lane().query(sql, parameters).await {
            // Those that wait for a lock have connections of their own, so that all others go on.
            Err(error) if error.met_a_lock() && self.kind == Kind::Light => {
                self.lanes.waiting.query(sql, parameters).await
            }
            result => result,
        }
    }

    fn lane(&self) -> &Lane {
        match self.kind {
            Kind::Light => &self.lanes.light,
            Kind::Heavy => &self.lanes.heavy,
            Kind::Chore => &self.lanes.chores,
        }
    }

    /// [`Database::query`] for a function that returns at most one row.
    ///
    /// # Errors
    /// As [`Database::query`], or more rows.
    pub async fn query_opt(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, DatabaseError> {
        let mut rows = self.query(sql, parameters).await?;
        match rows.len() {
            0 | 1 => Ok(rows.pop()),
            number => Err(DatabaseError::Rows(number)),
        }
    }

    /// [`Database::query`] for a function that returns exactly one row.
    ///
    /// # Errors
    /// As [`Database::query`], or another number of rows.
    pub async fn query_one(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, DatabaseError> {
        self.query_opt(sql, parameters).await?.ok_or(DatabaseError::Rows(0))
    }

    /// Finds out whether consecutive calls reach one session of PostgreSQL, as prepared statements and LISTEN need. A
    /// pooler in transaction mode gives each transaction another one.
    ///
    /// # Errors
    /// A database that does not answer.
    pub async fn keeps_sessions(&self) -> Result<bool, DatabaseError> {
        session::keeps(&self.lanes.config).await
    }

    /// A connection outside the pools. The caller polls the [`Connection`], where notifications arrive
    /// (`poll_message`).
    async fn connect(&self) -> Result<(Client, Connection<Socket, NoTlsStream>), DatabaseError> {
        Ok(session::start(&self.lanes.config, &self.lanes.settings).await?)
    }
}
