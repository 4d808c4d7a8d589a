//! The slowest line between two homeservers over which deliveries come (FED-4), and the sums that follow from it. One rule holds on
//! both sides: each request has the time in which that line carries it, if it has an equal share of the line beside as many
//! others as may be under way at once. The sender waits so long for the answer, and has no more lanes under way
//! (`federation.has_room` in the database); the receiver waits as long for the body, and for a frame of it until each lane has
//! had its turn. A request that is too large for a share has the line to itself, since its signature would end before.

use std::time::Duration;

use super::Deliveries;
use crate::signature::MAX_AGE;

impl Deliveries {
    /// Bytes that the line carries in a second: 64 kbit/s.
    pub const LEAST_RATE: usize = 8 * 1024;
    /// Lanes with a request on the line at once, of all processes of the sender. A frame of each comes within eight seconds: before
    /// the receiver asks for a sign of life (`limits.http2_ping_seconds`), which would be behind all that is on its way.
    pub const LANES_AT_ONCE: usize = 4;
    /// Bytes of a request beside which there may be others, at most.
    pub const MOST_BESIDE: usize = Self::MOST_BYTES / Self::LANES_AT_ONCE;
    /// Bytes of a frame of HTTP/2 and of a record of TLS: the receiver sees nothing of one that is not whole. Requests that are no
    /// larger may go on one connection.
    pub const FRAME: usize = 16 * 1024;
    /// The time for a request beyond that in which it is carried: the receiver works on it.
    pub const ANSWER: Duration = Duration::from_secs(30);
    /// Bytes that the line carries until the smallest request is there, at most. Of k lanes that are on one connection each may be
    /// behind a frame of each other one, and they have one share together: that makes k (`LANES_AT_ONCE` + 1 - k) frames.
    const LEAST_BESIDE: usize = Self::FRAME * ((Self::LANES_AT_ONCE + 1) * (Self::LANES_AT_ONCE + 1) / 4);

    /// The time in which the line carries so many bytes.
    pub const fn carriage(bytes: usize) -> Duration {
        Duration::from_secs(bytes.div_ceil(Self::LEAST_RATE) as u64)
    }

    /// The time in which the line carries a request of so many bytes, which other lanes may share it with.
    pub fn carriage_beside(bytes: usize) -> Duration {
        let all = bytes.saturating_mul(Self::LANES_AT_ONCE);
        Self::carriage(all.clamp(Self::LEAST_BESIDE, Self::MOST_BYTES))
    }
}

// The signature of each request counts for longer than the request may take.
const _: () = assert!(
    Deliveries::ANSWER.as_secs() + Deliveries::carriage(Deliveries::MOST_BYTES).as_secs() < MAX_AGE.as_secs()
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_time_of_its_share_or_of_the_whole_line() {
        for (kib, seconds) in
            [(0, 12), (1, 12), (24, 12), (25, 13), (96, 48), (512, 256), (513, 256), (2048, 256)]
        {
            let time = Deliveries::carriage_beside(kib * 1024);
            assert_eq!(time, Duration::from_secs(seconds), "{kib} KiB");
            assert!(time >= Deliveries::carriage(kib * 1024), "{kib} KiB");
        }
    }

    #[test]
    fn the_smallest_request_has_the_time_of_all_that_may_be_before_it() {
        for on_its_connection in 1..=Deliveries::LANES_AT_ONCE {
            let connections = Deliveries::LANES_AT_ONCE + 1 - on_its_connection;
            let turns = on_its_connection * connections;
            let time = Deliveries::carriage(turns * Deliveries::FRAME);
            assert!(time <= Deliveries::carriage_beside(1), "{on_its_connection}: {time:?}");
        }
    }
}
