//! The client's time: what it compares lifetimes and turns with, and how long it waits.
//!
//! Two libraries read the system's clock themselves, whatever this one says: openmls for the
//! lifetimes of leaves, and the signing of requests for their creation time.

use std::time::{Duration, Instant, SystemTime};

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
}
