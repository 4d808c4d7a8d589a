//! The client's time: what it compares lifetimes and turns with, and how long it waits.
//!
//! Two libraries read the system's clock themselves, whatever this one says: openmls for the
//! lifetimes of leaves, and the signing of requests for their creation time.

use std::time::{Duration, Instant, SystemTime};

/// Seconds by which clocks may differ, as for signed requests.
pub(crate) const CLOCK_SKEW: u64 = 300;

/// Whether what was noted of this time is of a time to come: the clock was ahead then. All times are in seconds since 1970.
pub(crate) fn is_of_the_future(noted: u64, now: u64) -> bool {
    noted > now.saturating_add(CLOCK_SKEW)
}

/// Whether the time has come for which something was put off. One more than two days ahead was noted by a clock that was wrong.
pub(crate) fn has_come(due: u64, now: u64) -> bool {
    due <= now || due > now.saturating_add(2 * 24 * 60 * 60)
}

/// Whether something was done within so many seconds before `now`. What was noted of a time to come counts for nothing.
pub(crate) fn is_recent(done: u64, seconds: u64, now: u64) -> bool {
    !is_of_the_future(done, now) && now < done.saturating_add(seconds)
}

/// A clock of seconds since 1970. The system's, unless a program that tests a client moves it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Clock {
    ahead: i64,
}

impl Clock {
    /// The system's clock, moved by so many seconds; into the past if that is negative.
    #[cfg(any(test, feature = "lab"))]
    pub const fn ahead_by(seconds: i64) -> Self {
        Self { ahead: seconds }
    }

    pub(crate) fn now(self) -> u64 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        now.saturating_add_signed(self.ahead)
    }
}

/// The end of a wait, by a clock that is never set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    pub(crate) fn after(wait: Duration) -> Self {
        Self(Instant::now().checked_add(wait))
    }

    /// The rest of the wait; zero when it is over.
    pub(crate) fn left(self) -> Duration {
        self.0.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()))
    }

    pub(crate) fn is_over(self) -> bool {
        self.left().is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_clock_goes_on_from_where_it_was_moved_to() {
        let (before, moved) = (Clock::default().now(), Clock::ahead_by(86_400).now());
        let after = Clock::default().now();
        assert!((before + 86_400..=after + 86_400).contains(&moved));
        assert!(Clock::ahead_by(-86_400).now() < before);
    }

    #[test]
    fn what_was_done_by_a_clock_that_was_ahead_is_not_recent() {
        let now = 1_800_000_000;
        for (done, expected) in
            [(now, true), (now - 99, true), (now - 100, false), (now + 300, true), (now + 301, false)]
        {
            assert_eq!(is_recent(done, 100, now), expected, "{done}");
        }
        assert!(!is_recent(u64::MAX, 100, now));
    }
}
