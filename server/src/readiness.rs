//! Readiness: whether a process can serve requests now. It has a database that answers within seconds and whose schema it
//! can work with, and it is not about to stop. Anybody can ask, so the database is asked once a second at most.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Mutex, watch},
    time::{Instant, timeout},
};

use crate::database::{
    Database, DatabaseError, SqlOutcome, UnknownOutcome,
    generation::{TAKES_CHANGES, TakesChangesOutcome},
    schema_state::{self, SchemaState},
};

/// Time for which a look at the database holds.
const HOLDS: Duration = Duration::from_secs(1);
/// Time within which a database has to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// The last look at the database.
#[derive(Default)]
pub struct Readiness {
    last: Mutex<Option<Look>>,
    /// Whether commits hung then.
    commits_hang: AtomicBool,
}

struct Look {
    taken: Instant,
    found: Result<(), Arc<Unready>>,
}

/// The reason why a process is not ready, for its operator.
#[derive(Debug, thiserror::Error)]
pub enum Unready {
    #[error("the server is stopping")]
    Stopping,
    #[error("the database does not answer: {0}")]
    Database(#[from] DatabaseError),
    #[error("the database did not answer within {} seconds", PATIENCE.as_secs())]
    Slow,
    #[error("the database is at migration {found}, this program needs {expected}: run `postern migrate`")]
    Schema { found: i32, expected: i32 },
    #[error("{}", schema_state::foreign(.0))]
    Release(String),
    #[error("{0}")]
    Undecided(&'static str),
    #[error("the database is a standby, and takes no changes")]
    Standby,
    #[error("commits hang: they wait for a synchronous standby that is away")]
    CommitsWait,
    #[error(transparent)]
    Unknown(#[from] UnknownOutcome),
}

impl Readiness {
    /// Looks whether the process is ready, if nobody did within the last second.
    ///
    /// # Errors
    /// The reason why it is not.
    pub async fn look(
        &self,
        database: &Database,
        stopping: &watch::Receiver<bool>,
    ) -> Result<(), Arc<Unready>> {
        if *stopping.borrow() {
            return Err(Unready::Stopping.into());
        }
        let mut last = self.last.lock().await;
        if let Some(look) = last.as_ref().filter(|look| look.taken.elapsed() < HOLDS) {
            return look.found.clone();
        }
        let found = timeout(PATIENCE, ask(database)).await.unwrap_or(Err(Unready::Slow)).map_err(Arc::new);
        let commits_hang = found.as_ref().is_err_and(|reason| matches!(**reason, Unready::CommitsWait));
        self.commits_hang.store(commits_hang, Ordering::Relaxed);
        *last = Some(Look { taken: Instant::now(), found: found.clone() });
        found
    }

    /// Whether commits hung at the last look. A request that writes would then wait for nothing, and leave a session of
    /// PostgreSQL that waits on.
    pub fn commits_hang(&self) -> bool {
        self.commits_hang.load(Ordering::Relaxed)
    }
}

async fn ask(database: &Database) -> Result<(), Unready> {
    let state = schema_state::state(database).await.map_err(|error| match error {
        DatabaseError::Undecided(reason) => Unready::Undecided(reason),
        error => error.into(),
    })?;
    match state {
        // The release after this one keeps what this one calls (OPS-6).
        SchemaState::Current
        | SchemaState::OtherFunctions
        | SchemaState::Newer { .. }
        | SchemaState::Following { .. } => {}
        SchemaState::Foreign { release } => return Err(Unready::Release(release)),
        SchemaState::Older { found, expected } => return Err(Unready::Schema { found, expected }),
    }
    match TakesChangesOutcome::of(&database.query_one(TAKES_CHANGES, &[]).await?)? {
        TakesChangesOutcome::Yes => Ok(()),
        TakesChangesOutcome::Standby => Err(Unready::Standby),
        TakesChangesOutcome::CommitsWait => Err(Unready::CommitsWait),
    }
}
