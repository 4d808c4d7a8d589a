//! Waiting for conditions.

use std::time::{Duration, Instant};

/// How long a test waits for what must happen: far longer than it takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

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
