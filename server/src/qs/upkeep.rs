//! The chore of the QS (QS-8). A worker in the database does it; each server process has one started, since a database
//! that was restarted has none. Only if PostgreSQL has no free worker does the server do the work itself.

use std::time::Duration;

use tokio::time::sleep;

use super::Qs;
use crate::database::{SqlOutcome, outcome};

/// The pause between two batches, as the worker has it: others want the database too.
const PAUSE: Duration = Duration::from_millis(50);

outcome! {
    pub StartUpkeepOutcome: "qs.start_upkeep_outcome" {
        Done = "done",
        Started = "started",
        NoWorker = "no_worker",
    }
}

outcome! {
    pub KeepUpOutcome: "qs.keep_up_outcome" {
        More = "more",
        Done = "done",
        Busy = "busy",
    }
}

/// Has expired messages and inactive queues removed.
///
/// # Errors
/// A database that does not answer.
pub async fn run(qs: &Qs) -> anyhow::Result<()> {
    let database = qs.home.database.for_chores();
    let started = database.query_one("SELECT outcome FROM qs.start_upkeep()", &[]).await?;
    if StartUpkeepOutcome::of(&started)? != StartUpkeepOutcome::NoWorker {
        return Ok(());
    }
    tracing::warn!(
        "PostgreSQL has no free background worker (raise max_worker_processes): this server removes expired messages and queues itself"
    );
    while KeepUpOutcome::of(&database.query_one("SELECT outcome FROM qs.keep_up()", &[]).await?)?
        == KeepUpOutcome::More
    {
        sleep(PAUSE).await;
    }
    Ok(())
}
