//! What the AAS does by the clock, in each server process: makes issuer keys that are due and
//! takes over what others made, drops what retired, hands over its counts. The database sees to
//! it that several processes do each thing once.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};

use crate::app::App;

const COUNTS: Duration = Duration::from_secs(60);
const KEYS: Duration = Duration::from_secs(60 * 60);

/// Goes on for ever. What fails is tried again at the next turn.
pub async fn keep(app: App) {
    let changed = app.issuer.changed();
    let mut counts = interval_at(Instant::now() + COUNTS, COUNTS);
    counts.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut hourly = interval(KEYS);
    hourly.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let (what, done) = tokio::select! {
            _ = counts.tick() => ("record the use of tokens", record(&app).await),
            () = changed.notified() => ("renew the issuer keys", renew(&app).await),
            _ = hourly.tick() => {
                if let Err(error) = renew(&app).await {
                    tracing::warn!("could not renew the issuer keys: {error:#}");
                }
                ("drop what is over", drop_what_is_over(&app).await)
            }
        };
        if let Err(error) = done {
            tracing::warn!("could not {what}: {error:#}");
        }
    }
}

/// Hands over what was counted since the last time.
///
/// # Errors
/// A database that does not answer.
pub async fn record(app: &App) -> anyhow::Result<()> {
    Ok(app.uses.record(&app.database).await?)
}

async fn renew(app: &App) -> anyhow::Result<()> {
    app.issuer.make_due_keys().await?;
    app.issuer.reload().await
}

async fn drop_what_is_over(app: &App) -> anyhow::Result<()> {
    let sql = "SELECT outcome FROM aas.drop_retired_key()";
    while app.database.query_one(sql, &[]).await?.get::<_, &str>(0) == "dropped" {
        tracing::info!("a retired issuer key was dropped, with its spent tokens");
    }
    app.database.query_one("SELECT aas.clean_up()", &[]).await?;
    Ok(())
}
