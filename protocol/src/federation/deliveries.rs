//! Messages of groups for members at another domain, as they go from homeserver to homeserver (FED-4).

use serde::{Deserialize, Serialize};

use crate::{Address, DeliveryId, LaneInstance, Payload};

/// `POST /qs/deliveries`, signed by a server key (FED-4): messages of groups of the signer's domain, for queues here. They
/// are the next ones of a lane. The answer (200) is [`DeliveriesReceived`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deliveries {
    /// Lane: a group is always in the same. 0 to 15.
    pub lane: u16,
    /// The numbering of the lane, which begins anew after a restore of either side.
    pub instance: LaneInstance,
    /// Number of the first delivery, from 1.
    pub first: u64,
    /// The delivery before it, unless it is number 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<DeliveryId>,
    /// One to [`Deliveries::MOST`], in the order of their numbers.
    #[serde(deserialize_with = "crate::list::at_most::<_, _, { Deliveries::MOST }>")]
    pub deliveries: Vec<NumberedDelivery>,
}

impl Deliveries {
    /// Number of lanes to one homeserver.
    pub const LANES: u16 = 16;
    /// Deliveries in a request, at most.
    pub const MOST: usize = 64;
    /// Their addresses, at most.
    pub const MOST_ADDRESSES: usize = 20_000;
    /// Bytes of a request in CBOR, at most. Each homeserver takes as many, whatever it lets clients send.
    pub const MOST_BYTES: usize = 2 * 1024 * 1024;
}

/// A delivery with its id, by which a number that was given twice is noticed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumberedDelivery {
    pub id: DeliveryId,
    pub delivery: Delivery,
}

/// The payloads of one message of a group, and the addresses that get them. One without addresses only takes its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// The random part of the group id.
    #[serde(with = "crate::bytes::array")]
    pub group_id: [u8; 16],
    pub addresses: Vec<Address>,
    /// For each address the number of its payload, from 1.
    pub parts: Vec<u16>,
    /// Each is a [`crate::qs::QueuePayload`] in CBOR, a message or a Welcome. At most [`Delivery::MOST_PAYLOADS`].
    #[serde(deserialize_with = "crate::list::at_most::<_, _, { Delivery::MOST_PAYLOADS }>")]
    pub payloads: Vec<Payload>,
    /// For each payload its [`crate::push::Urgency`] as a number, 0 to 3.
    #[serde(deserialize_with = "crate::list::at_most::<_, _, { Delivery::MOST_PAYLOADS }>")]
    pub urgencies: Vec<u8>,
}

impl Delivery {
    /// Payloads of a delivery, at most.
    pub const MOST_PAYLOADS: usize = 16;

    /// A delivery that only takes its number.
    pub fn empty() -> Self {
        let (addresses, parts, payloads, urgencies) = Default::default();
        Self { group_id: [0; 16], addresses, parts, payloads, urgencies }
    }
}

/// The answer to `POST /qs/deliveries` (200): the outcome of each delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveriesReceived {
    pub outcomes: Vec<DeliveryOutcome>,
}

/// The outcome of a delivery. Its number is taken in any case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryOutcome {
    pub state: DeliveryState,
    /// How many of its addresses took nothing. Where a queue has no room, its owner is told (QS-11).
    #[serde(default)]
    pub undelivered: u32,
    /// Places of the addresses that never will, from 0: they are unknown, revoked, or another group's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<u16>,
}

/// The fate of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// It was taken, for as many addresses as took it.
    Delivered,
    /// It was taken before, and nothing changed.
    Repeated,
    /// It is refused: its parts do not fit together, or a payload is not one of a group's.
    Malformed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::Encoding;

    fn delivery(payloads: usize) -> Delivery {
        Delivery {
            payloads: vec![Payload::new(Vec::new()); payloads],
            urgencies: vec![1; payloads],
            ..Delivery::empty()
        }
    }

    fn deliveries(number: usize, delivery: &Delivery) -> Deliveries {
        let numbered = NumberedDelivery { id: DeliveryId::new([1; 16]), delivery: delivery.clone() };
        Deliveries {
            lane: 0,
            instance: LaneInstance::new([1; 16]),
            first: 1,
            before: None,
            deliveries: vec![numbered; number],
        }
    }

    /// Two million empty payloads take two MiB on the wire and fifty in memory.
    #[test]
    fn a_list_that_is_too_long_is_not_decoded_to_its_end() {
        let (most, most_payloads) = (Deliveries::MOST, Delivery::MOST_PAYLOADS);
        for encoding in [Encoding::Cbor, Encoding::Json] {
            let is_taken = |number, payloads| {
                let body = encoding.encode(&deliveries(number, &delivery(payloads)));
                encoding.decode::<Deliveries>(&body).is_ok()
            };
            assert!(is_taken(most, most_payloads));
            assert!(!is_taken(most + 1, 1));
            assert!(!is_taken(1, most_payloads + 1));
            assert!(!is_taken(1, 100_000));
        }
    }
}
