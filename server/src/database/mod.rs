//! Connections to PostgreSQL as the role `postern_server`: pools for calls, and one connection for LISTEN. The services
//! make the calls. Nothing here waits for ever (OPS-9): PostgreSQL bounds each statement, and this side bounds each call
//! by a little more, so that a peer that is gone without a word costs one call and not the server. The calls of chores may
//! take minutes: another connection asks whether PostgreSQL still works on them.

mod connection_string;
mod error;
pub mod generation;
pub mod listener;
pub mod migrate;
pub mod outcome;
mod overseer;
mod pool;
pub mod release;
pub mod roles;
pub mod schema_state;
mod session;
mod way;
pub mod witness;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio_postgres::{Client, Row, types::ToSql};

use crate::{
    config::{ConnectionString, DatabaseConfig},
    from_files::Watched,
    metrics::Instruments,
    tls,
};
pub use error::DatabaseError;
pub(crate) use outcome::outcome;
pub use outcome::{SqlOutcome, UnknownOutcome};
pub use pool::LaneStatus;
use pool::{Bounds, CallFigures, Lane};
pub use way::{PostgresConnection, Way, connect_as_superuser};
use witness::Witness;

/// The schemas of the services and of the operator.
const SCHEMAS: [&str; 7] = ["auth", "aas", "ds", "qs", "rendezvous", "federation", "operator"];
/// The schema of the extension.
const EXTENSION: &str = "postern";
/// The name of servers' sessions in PostgreSQL, before the number of their release.
const SERVERS: &str = "postern ";
/// Time that a light call waits for a lock before it waits apart from the others.
const LIGHT_LOCK_TIMEOUT: Duration = Duration::from_millis(200);

/// All schemas of a homeserver's database.
pub fn schemas() -> Vec<&'static str> {
    [EXTENSION].into_iter().chain(SCHEMAS).collect()
}

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
    way: Way,
    /// The settings of a session outside the pools.
    settings: String,
    figures: CallFigures,
    /// If it is there, new sessions are refused while nobody said what became of a database that was put back, as far as the
    /// database or the process's witness shows that (QS-12).
    decided_only: Arc<OnceLock<Option<Witness>>>,
}

impl Database {
    /// Prepares the pools; nothing is connected before the first use.
    ///
    /// # Errors
    /// A connection string that does not parse; files of its that cannot be read.
    pub fn new(url: &ConnectionString, settings: &DatabaseConfig) -> Result<Self, DatabaseError> {
        let way = session::way(url)?;
        let heavy = (settings.pool_size / 4).max(1);
        let (figures, wait, decided_only) = (CallFigures::default(), settings.wait(), Arc::default());
        let lane = |name, size, statement, lock| {
            Lane::new(name, &way, Bounds { size, wait, statement, lock }, &figures, &decided_only)
        };
        // Less than the statement's, so that one that only waits is refused as one that waits.
        let lock = |statement: Duration| statement * 4 / 5;
        let (statement, heavy_statement) = (settings.statement_timeout(), settings.heavy_statement_timeout());
        let chore_statement = settings.chore_statement_timeout();
        Ok(Self {
            lanes: Arc::new(Lanes {
                light: lane("light", settings.pool_size, statement, LIGHT_LOCK_TIMEOUT.min(lock(statement)))?,
                waiting: lane("locked", heavy, statement, lock(statement))?,
                heavy: lane("heavy", heavy, heavy_statement, lock(heavy_statement))?,
                chores: lane("chores", 1, chore_statement, lock(chore_statement))?.overseen(&way),
                heavy_bytes: settings.heavy_bytes,
                settings: session::settings(statement, lock(statement)),
                figures,
                decided_only,
                way,
            }),
            kind: Kind::Light,
        })
    }

    /// The same database, for calls that write so many bytes: large ones have connections of their own, a quarter as
    /// many as the others, and take longer before they are given up.
    pub fn for_bytes(&self, bytes: u64) -> Self {
        let kind = if bytes >= self.lanes.heavy_bytes { Kind::Heavy } else { self.kind };
        Self { lanes: self.lanes.clone(), kind }
    }

    /// The same database, for work by the clock, which may take minutes: it has a connection of its own.
    pub fn for_chores(&self) -> Self {
        Self { lanes: self.lanes.clone(), kind: Kind::Chore }
    }

    /// Lets the figures of calls be seen.
    pub fn register(&self, instruments: &mut Instruments) {
        self.lanes.figures.register(instruments);
    }

    /// Refuses new sessions from now on while the operator has to decide about the database's generation: it may be put back
    /// while this process runs.
    pub fn expect_decided(&self, witness: Option<Witness>) {
        // A second call changes nothing.
        let _first = self.lanes.decided_only.set(witness);
    }

    /// The files of TLS to PostgreSQL, if there are any: new sessions have what they held at the last look.
    pub fn tls_files(&self) -> Option<Arc<dyn Watched>> {
        self.lanes.way.tls_files()
    }

    /// The end of the certificate that new sessions show to PostgreSQL, in seconds since 1970, if there is one.
    pub fn certificate_end(&self) -> Option<u64> {
        tls::end(&self.lanes.way.certificate()?)
    }

    /// Ends the sessions in the pools: new ones take their places where the database lets them.
    fn end_sessions(&self) {
        let Lanes { light, waiting, heavy, chores, .. } = &*self.lanes;
        [light, waiting, heavy, chores].into_iter().for_each(Lane::end_sessions);
    }

    /// The connections of each lane, as they are now.
    pub fn status(&self) -> [LaneStatus; 4] {
        let Lanes { light, waiting, heavy, chores, .. } = &*self.lanes;
        [light, waiting, heavy, chores].map(Lane::status)
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
            // Statements that wait for a lock have connections of their own, so that all others go on.
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
        session::keeps(&self.lanes.way).await
    }

    /// A connection outside the pools. The caller polls the connection, where notifications arrive
    /// (`poll_message`).
    async fn connect(&self) -> Result<(Client, PostgresConnection), DatabaseError> {
        Ok(session::start(&self.lanes.way, &self.lanes.settings).await?)
    }
}
