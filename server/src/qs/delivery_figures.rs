//! Figures of deliveries (OPS-4): how many messages came into queues here, or could not, by where they came from.

use crate::metrics::{Counters, Instruments};

/// The origin of messages.
#[derive(Debug, Clone, Copy)]
pub enum Origin {
    /// A group here.
    Group,
    /// Somebody with a contact address.
    Deposit,
    /// A group at another homeserver.
    Neighbour,
}

impl Origin {
    const ALL: [Self; 3] = [Self::Group, Self::Deposit, Self::Neighbour];

    fn word(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Deposit => "deposit",
            Self::Neighbour => "neighbour",
        }
    }
}

/// Counts one for each message and recipient. Cheap to clone.
#[derive(Clone)]
pub struct DeliveryFigures {
    deliveries: Counters<2>,
    outgoing: Counters<1>,
}

impl Default for DeliveryFigures {
    fn default() -> Self {
        let figures =
            Self { deliveries: Counters::new(["from", "outcome"]), outgoing: Counters::new(["outcome"]) };
        Origin::ALL.iter().for_each(|from| figures.count(*from, 0, 0));
        figures.count_outgoing(0, 0);
        figures
    }
}

impl DeliveryFigures {
    pub fn register(&self, instruments: &mut Instruments) {
        instruments.counters(
            "postern_deliveries",
            "Messages for queues here, one for each recipient",
            &self.deliveries,
        );
        instruments.counters(
            "postern_outgoing",
            "Messages of groups here for recipients at other homeservers, by whether the outbox took them",
            &self.outgoing,
        );
    }

    /// Counts messages that came into queues, and those that could not.
    pub fn count(&self, from: Origin, delivered: usize, undelivered: usize) {
        for (outcome, number) in [("delivered", delivered), ("undelivered", undelivered)] {
            self.deliveries.add([from.word().into(), outcome.into()], number as u64);
        }
    }

    /// Counts messages that the outbox took, and those that it did not.
    pub fn count_outgoing(&self, taken: u32, not_taken: u32) {
        for (outcome, number) in [("taken", taken), ("not_taken", not_taken)] {
            self.outgoing.add([outcome.into()], number.into());
        }
    }
}
