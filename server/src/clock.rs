//! Times that are kept are dates (PRIV-4); this is where they come from.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds of a day.
pub const DAY: u64 = 24 * 60 * 60;

/// Seconds since 1970, at the start of today (UTC).
pub fn today() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    now.as_secs() / DAY * DAY
}

/// Which day since 1970 that is.
pub fn day(seconds: u64) -> u32 {
    u32::try_from(seconds / DAY).unwrap_or(u32::MAX)
}
