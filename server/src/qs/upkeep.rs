//! What the QS does by the clock (QS-8) is done by a worker in the database; each server process
//! sees to it that one is started, since a database that was restarted has none. Only where
//! PostgreSQL has no worker to spare does the server do the work itself.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::{app::App, database::DatabaseError};

const EVERY: Duration = Duration::from_secs(10 * 60);
/// Between two batches, as the worker does it: others want the database too.
const PAUSE: Duration = Duration::from_millis(50);

/// Goes on for ever. What fails is tried again at the next turn.
pub async fn keep(app: App) {
    let mut turns = interval(EVERY);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        if let Err(error) = keep_up(&app).await {
            tracing::warn!("could not have what is too old removed: {error}");
        }
    }
}

async fn keep_up(app: &App) -> Result<(), DatabaseError> {
    let started = app.database.query_one("SELECT outcome FROM qs.start_upkeep()", &[]).await?;
    if started.get::<_, &str>(0) != "no_worker" {
        return Ok(());
    }
    tracing::warn!(
        "PostgreSQL has no background worker to spare (max_worker_processes): removing what is too old from here"
    );
    while app.database.query_one("SELECT outcome FROM qs.keep_up()", &[]).await?.get::<_, &str>(0) == "more" {
        sleep(PAUSE).await;
    }
    Ok(())
}
