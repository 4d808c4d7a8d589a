//! The outbox (FED-4): messages of groups here wait for members at other homeservers, sealed, in lanes. The transaction
//! that accepts a message puts them in; every server process drains, each lane by one at a time. A delivery that the
//! other homeserver took is deleted; that one knows a repeat by its number, so a crash of either side in between does
//! no harm.

mod attempt;
mod claim;
mod drain;
mod reception;
mod sealed;
mod settle;

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

pub use self::{
    drain::ClaimLaneOutcome,
    sealed::{SealedDelivery, address_digest, fits, group_digest, lane, padded_size, seal},
    settle::{CompareLaneOutcome, SettleLaneOutcome},
};
use super::Federation;
use crate::metrics::{Counters, Instruments};

/// Time after which an attempt is a slow one, which keeps no prompt one waiting. Where too many are slow, it is made again
/// among attempts at homeservers that are known as slow.
const PATIENCE: Duration = Duration::from_secs(2);

/// The state of the outbox in this process.
#[derive(Default)]
pub struct Outbox {
    bell: OutboxBell,
    /// The attempts under way, whose lanes nobody else takes.
    under_way: Mutex<HashSet<[u8; 16]>>,
    attempts: AttemptFigures,
}

/// Counts of attempts to deliver to other homeservers (OPS-4).
struct AttemptFigures(Counters<1>);

impl Default for AttemptFigures {
    fn default() -> Self {
        let figures = Self(Counters::new(["outcome"]));
        ["broken", "done", "failing", "out_of_tokens", "put_off", "refused"]
            .into_iter()
            .for_each(|outcome| figures.0.begin([outcome.into()]));
        figures
    }
}

/// Tells the process's drain that something is due. Cheap to clone.
#[derive(Clone, Default)]
pub struct OutboxBell(watch::Sender<()>);

impl OutboxBell {
    pub fn ring(&self) {
        self.0.send_replace(());
    }
}

/// Takes an attempt off the list of those under way.
struct UnderWay<'a>(&'a Outbox, [u8; 16]);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way().remove(&self.1);
    }
}

impl Outbox {
    fn under_way(&self) -> std::sync::MutexGuard<'_, HashSet<[u8; 16]>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Federation {
    /// The bell to ring once a message was accepted that goes to other homeservers.
    pub fn bell(&self) -> OutboxBell {
        self.outbox.bell.clone()
    }

    /// Lets the figures of the outbox be seen.
    pub fn register(&self, instruments: &mut Instruments) {
        instruments.counters(
            "postern_federation_attempts",
            "Attempts to deliver what waits in a lane to another homeserver",
            &self.outbox.attempts.0,
        );
    }

    /// Attempts to deliver that are under way.
    pub fn deliveries_under_way(&self) -> usize {
        self.outbox.under_way().len()
    }
}

#[cfg(test)]
mod tests {
    use postern_protocol::{Address, Payload, federation::Delivery};

    use super::claim::Content;

    pub(super) fn delivery(bytes: usize) -> Delivery {
        Delivery {
            group_id: [1; 16],
            addresses: vec![Address::new([2; 32]); 3],
            parts: vec![1; 3],
            payloads: vec![Payload::new(vec![7; bytes])],
            urgencies: vec![2],
        }
    }

    pub(super) fn content(delivery: Delivery) -> Content {
        Content { delivery, refused: None }
    }
}
