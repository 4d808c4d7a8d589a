//! The client's time: what it compares lifetimes and turns with, and how long it waits.
//!
//! Two libraries read the system's clock themselves, whatever this one says: openmls for the
//! lifetimes of leaves, and the signing of requests for their creation time.

use std::{
    ops::RangeInclusive,
    time::{Duration, Instant, SystemTime},
};

/// Seconds by which clocks may differ, as for signed requests.
pub(crate) const CLOCK_SKEW: u64 = 300;

/// Whether what was noted of this time is of a time to come: the clock was ahead then. All times are in seconds since 1970.
pub(crate) fn is_of_the_future(noted: u64, now: u64) -> bool {
    noted > now.saturating_add(CLOCK_SKEW)
}

/// The times that are yet to come of those for which something is put off, by so many seconds at the longest. One farther ahead was
/// noted by a clock that was ahead then, and has come: until the true clock gets there may be years. A table that keeps such times
/// names its longest pause, and asks its [`Tx`](crate::store::Tx).
pub(crate) fn to_come(longest: u64, now: u64) -> RangeInclusive<u64> {
    now.saturating_add(1)..=now.saturating_add(longest).saturating_add(CLOCK_SKEW)
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
    fn a_time_that_a_clock_which_was_ahead_noted_has_come() {
        let (now, longest) = (1_800_000_000, 3600);
        for (due, waits) in [
            (0, false),
            (now, false),
            (now + 1, true),
            (now + longest, true),
            (now + longest + CLOCK_SKEW, true),
            (now + longest + CLOCK_SKEW + 1, false),
            (u64::MAX, false),
        ] {
            assert_eq!(to_come(longest, now).contains(&due), waits, "{due}");
        }
        assert!(to_come(u64::MAX, now).contains(&u64::MAX));
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
