//! Waiting for conditions.

use std::time::{Duration, Instant};

use crate::now;

/// How long a test waits for what must happen: far longer than it takes on a slow and busy machine, than any lease that a
/// killed server leaves behind, and than the pause before the next attempt at a neighbour that failed for a minute or two.
pub const PATIENCE: Duration = Duration::from_secs(150);

/// Seconds at the end of an hour in which no test begins.
const END_OF_AN_HOUR: u64 = 45;
/// Seconds at the end of a day in which no test begins: most of what is counted goes by days, and a test takes minutes on a
/// busy machine.
const END_OF_A_DAY: u64 = 180;

/// Waits for the next hour (UTC) when this one, or the day, is about to end: what is counted by the hour, the day or the
/// month is of one while a test runs.
pub async fn early_in_the_hour() {
    early_in(24 * 60 * 60, END_OF_A_DAY).await;
    early_in(60 * 60, END_OF_AN_HOUR).await;
}

/// Waits for the next period of so many seconds (since 1970) when this one ends within `end` seconds.
pub async fn early_in(period: u64, end: u64) {
    let left = period - now() % period;
    if left <= end {
        tokio::time::sleep(Duration::from_secs(left)).await;
    }
}

/// Looks until there is something to see, and returns it.
///
/// # Panics
/// When nothing came within [`PATIENCE`].
pub async fn eventually<T, F, Fut>(what: &str, mut look: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < deadline, "did not happen within {} seconds: {what}", PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
