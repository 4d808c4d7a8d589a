//! Requests of one homeserver to another.

use postern_protocol::federation::Deliveries;

use crate::request::{Request, TIMEOUT};

/// The most bytes of an answer to deliveries, in which each of 20,000 addresses may be named as one that is gone, by a
/// number of three bytes.
const RECEIVED_BYTES: usize = 128 * 1024;
// Deliveries to other homeservers have as much time as any request, beyond that in which they are carried.
const _: () = assert!(TIMEOUT.as_secs() == Deliveries::ANSWER.as_secs());

impl Request {
    /// `POST /qs/deliveries`: messages of groups here for queues there, to be paid and signed by a server key. The answer
    /// is a [`postern_protocol::federation::DeliveriesReceived`], or `delivery-gap`, `body-too-large`, `not-allowed` or
    /// `homeserver-blocked`. It may take as much longer than others as a slow line needs for it, which requests of other lanes
    /// may share.
    pub fn deliver(deliveries: &Deliveries, is_shared: bool) -> Self {
        let request = Self::post("/qs/deliveries").cbor(deliveries).answered_in(RECEIVED_BYTES);
        let bytes = request.content().len();
        let carriage =
            if is_shared { Deliveries::carriage_beside(bytes) } else { Deliveries::carriage(bytes) };
        request.waiting(carriage)
    }
}
