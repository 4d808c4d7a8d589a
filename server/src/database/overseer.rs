//! Overseers of calls that may take long: another connection asks PostgreSQL whether it works on the call. The call's own
//! connection cannot tell: what stands between may acknowledge all that is sent, and never bring an answer.

use std::time::{Duration, SystemTime};

use tokio::{
    join,
    time::{sleep, timeout},
};
use tokio_postgres::{
    Client, Error,
    error::SqlState,
    types::{ToSql, Type},
};

use super::Way;

/// Pause before each look at a session, and the time that a look may take.
const PAUSE: Duration = Duration::from_secs(5);
/// The question which session this is. Its process id alone may be another's after a failover.
const OF_ITSELF: &str = "SELECT pid, backend_start FROM pg_catalog.pg_stat_activity
                          WHERE pid = pg_catalog.pg_backend_pid() AND backend_start IS NOT NULL";
/// The question whether a session works, and since when it is in its state. One that waits for its client does not work; one
/// whose state PostgreSQL does not track may work.
const OF_ANOTHER: &str =
    "SELECT coalesce(state = 'disabled' OR state = 'active' AND wait_event_type IS DISTINCT FROM 'Client', false),
            state_change
       FROM pg_catalog.pg_stat_activity WHERE pid = $1 AND backend_start = $2";

/// The overseer of the calls on one session.
pub struct Overseer {
    way: Way,
    pid: i32,
    begun: SystemTime,
}

/// The state in which a look finds a session.
#[derive(PartialEq, Eq)]
enum Found {
    Working,
    /// It does nothing, since then.
    Idle(Option<SystemTime>),
    Gone,
}

impl Overseer {
    /// Asks a session which one it is. There is none where PostgreSQL does not tell, or its administrator lets nobody look at
    /// sessions.
    ///
    /// # Errors
    /// A database that does not answer, or cannot at this moment: without an overseer the call would wait for far longer for an
    /// answer that does not come.
    pub async fn of(client: &Client, way: &Way) -> Result<Option<Self>, Error> {
        let row = match client.query_typed_opt(OF_ITSELF, &[]).await {
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => None,
            answer => answer?,
        };
        Ok(row.map(|row| Self { way: way.clone(), pid: row.get(0), begun: row.get(1) }))
    }

    /// Returns when PostgreSQL does not work on a call that has not been answered: no answer will come. Two looks in
    /// succession have to find the same, since one may fall between two statements, or find an answer on its way.
    pub async fn finds_no_work(&self) {
        let mut before = Found::Working;
        loop {
            sleep(PAUSE).await;
            // A look that fails tells nothing.
            if let Ok(Ok(found)) = timeout(PAUSE, self.look()).await {
                if found != Found::Working && found == before {
                    return;
                }
                before = found;
            }
        }
    }

    async fn look(&self) -> Result<Found, Error> {
        let (client, connection) = self.way.connect().await?;
        let parameters: [(&(dyn ToSql + Sync), Type); 2] =
            [(&self.pid, Type::INT4), (&self.begun, Type::TIMESTAMPTZ)];
        let asking = async {
            let row = client.query_typed_opt(OF_ANOTHER, &parameters).await;
            // The connection ends with it.
            drop(client);
            row
        };
        let (row, _) = join!(asking, connection);
        Ok(match row? {
            Some(row) if row.get(0) => Found::Working,
            Some(row) => Found::Idle(row.get(1)),
            None => Found::Gone,
        })
    }
}
