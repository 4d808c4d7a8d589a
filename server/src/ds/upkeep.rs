//! What the DS does by the clock, in each server process: drops what nobody can want any more
//! (DS-1, DS-7, DS-11). What that is, `ds.clean_up` knows; two processes at once do no harm.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::app::App;

const EVERY: Duration = Duration::from_secs(60 * 60);

/// Goes on for ever. What fails is tried again at the next turn.
pub async fn keep(app: App) {
    let mut turns = interval(EVERY);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        if let Err(error) = app.database.query_one("SELECT ds.clean_up()", &[]).await {
            tracing::warn!("could not drop what groups need no more: {error}");
        }
    }
}
