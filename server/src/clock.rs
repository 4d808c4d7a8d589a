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

/// A span of time in words.
pub fn span(seconds: f64) -> String {
    const UNITS: [(&str, f64); 3] = [("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)];
    match UNITS.iter().find(|(_, unit)| seconds >= 2.0 * unit) {
        Some((name, unit)) => format!("{:.0} {name}", (seconds / unit).floor()),
        None => format!("{:.0} seconds", seconds.max(0.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_written_as_people_say_them() {
        assert_eq!(
            [span(3.2), span(119.0), span(180.0), span(90_000.0), span(1e6)],
            ["3 seconds", "119 seconds", "3 minutes", "25 hours", "11 days"]
        );
    }
}
