//! Connections to PostgreSQL as the role `postern_server`: a pool for requests, and one connection for LISTEN. The
//! services make the queries.

mod error;
pub mod listener;
pub mod migrate;
pub mod outcome;

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use tokio_postgres::{Client, Connection, NoTls, Row, Socket, tls::NoTlsStream, types::ToSql};

use crate::config::ConnectionString;
pub use error::DatabaseError;
pub(crate) use outcome::outcome;
pub use outcome::{SqlOutcome, UnknownOutcome};

/// Time that a request waits for a connection before it is refused: longer than a burst, shorter than a client's
/// patience.
const POOL_WAIT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The server's connections to PostgreSQL. Cheap to clone.
#[derive(Clone)]
pub struct Database {
    pool: Pool,
    config: tokio_postgres::Config,
}

impl Database {
    /// Prepares a pool; nothing is connected before the first use.
    pub fn new(url: &ConnectionString, pool_size: usize) -> Result<Self, DatabaseError> {
        let mut config: tokio_postgres::Config = url.as_str().parse()?;
        config.application_name("postern");
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        let manager = Manager::from_config(
            config.clone(),
            NoTls,
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let pool = Pool::builder(manager)
            .max_size(pool_size)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(POOL_WAIT))
            .create_timeout(Some(CONNECT_TIMEOUT))
            .build()
            .map_err(|_| DatabaseError::Pool("no runtime"))?;
        Ok(Self { pool, config })
    }

    /// A pooled connection; use `prepare_cached` on it, statements are kept per connection.
    pub async fn get(&self) -> Result<Object, DatabaseError> {
        Ok(self.pool.get().await?)
    }

    /// One call of a set-returning API function: one round trip once the connection knows the statement.
    pub async fn query(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, DatabaseError> {
        let connection = self.get().await?;
        let statement = connection.prepare_cached(sql).await?;
        Ok(connection.query(&statement, parameters).await?)
    }

    /// [`Database::query`] for a function that returns at most one row.
    pub async fn query_opt(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, DatabaseError> {
        let connection = self.get().await?;
        let statement = connection.prepare_cached(sql).await?;
        Ok(connection.query_opt(&statement, parameters).await?)
    }

    /// [`Database::query`] for a function that returns exactly one row.
    pub async fn query_one(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, DatabaseError> {
        let connection = self.get().await?;
        let statement = connection.prepare_cached(sql).await?;
        Ok(connection.query_one(&statement, parameters).await?)
    }

    /// A connection outside the pool. The caller polls the [`Connection`], where notifications arrive
    /// (`poll_message`).
    async fn connect(&self) -> Result<(Client, Connection<Socket, NoTlsStream>), DatabaseError> {
        Ok(self.config.connect(NoTls).await?)
    }
}
