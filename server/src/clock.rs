//! The clock. The database keeps dates only (PRIV-4), and this module makes them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The seconds of a day.
pub const DAY: u64 = 24 * 60 * 60;

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

/// Seconds since 1970, at the start of today (UTC).
pub fn today() -> u64 {
    now() / DAY * DAY
}

/// The day since 1970 on which a time in seconds since 1970 falls.
pub fn day(seconds: u64) -> u32 {
    u32::try_from(seconds / DAY).unwrap_or(u32::MAX)
}
