//! Requests of one homeserver to another.

use postern_protocol::federation::Deliveries;

use crate::request::Request;

/// The most bytes of an answer to deliveries, in which each of 20,000 addresses may be named as one that is gone, by a
/// number of three bytes.
const RECEIVED_BYTES: usize = 128 * 1024;

impl Request {
    /// `POST /qs/deliveries`: messages of groups here for queues there, to be paid and signed by a server key. The answer
    /// is a [`postern_protocol::federation::DeliveriesReceived`], or `delivery-gap`, `body-too-large`, `not-allowed` or
    /// `homeserver-blocked`. It may take as much longer than others as a slow line needs for it.
    pub fn deliver(deliveries: &Deliveries) -> Self {
        let request = Self::post("/qs/deliveries").cbor(deliveries).answered_in(RECEIVED_BYTES);
        let carriage = Deliveries::carriage(request.content().len());
        request.waiting(carriage)
    }
}
