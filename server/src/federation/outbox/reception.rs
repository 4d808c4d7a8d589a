//! The other homeserver's answer to deliveries, or that of a proxy before it.

use http::StatusCode;
use postern_api::Response;
use postern_protocol::{
    Address,
    federation::{DeliveriesReceived, Delivery, DeliveryOutcome},
    problem::{LastDelivery, ProblemType},
};

use super::claim::Content;

/// The reason for which something on the way that does not speak the protocol, such as a proxy, refuses a request that is
/// too large for it.
pub(super) const OVERSIZED: &str = "status 413";

/// The other homeserver's answer to deliveries.
#[derive(Debug, PartialEq)]
pub(super) enum Reception {
    Received(DeliveriesReceived),
    /// They are not the next ones.
    Gap(LastDelivery),
    TokenSpent,
    /// The issuer's keys are others now.
    TokenStale,
    /// They are too many, or one is too large.
    TooLarge,
    /// It does not take these, or its answer is none of the protocol; the reason is in words of this server.
    Refused(String),
    /// It takes none at present, whatever they are.
    Closed(String),
    /// There is no answer: a connection broke on which nothing else was.
    Broken,
}

impl Reception {
    pub(super) fn of(answer: &Response, contents: &[Content]) -> Self {
        use ProblemType::{
            BodyTooLarge, DeliveryGap, DeliveryTooLarge, HomeserverBlocked, NotAllowed, SignatureRequired,
            SignatureUsed, TokenRequired, TokenSpent,
        };
        if answer.status.is_success() {
            let received = answer.decode().ok().filter(|received| answers(received, contents));
            let unknown = || Self::Refused("an answer that the protocol does not know".to_owned());
            return received.map_or_else(unknown, Self::Received);
        }
        let problem = answer.problem();
        let kind = problem.as_ref().map(|problem| problem.kind);
        let reason = match kind {
            Some(kind) => kind.slug().to_owned(),
            None => format!("status {}", answer.status.as_u16()),
        };
        match (kind, problem.and_then(|problem| problem.last_delivery)) {
            (Some(DeliveryGap), Some(last)) => Self::Gap(last),
            (Some(TokenSpent), _) => Self::TokenSpent,
            (Some(TokenRequired), _) => Self::TokenStale,
            (Some(BodyTooLarge | DeliveryTooLarge), _) => Self::TooLarge,
            // No content of deliveries causes these. A signature ends while the body comes where the other clock is ahead.
            (Some(HomeserverBlocked | NotAllowed | SignatureRequired | SignatureUsed), _) => {
                Self::Closed(reason)
            }
            // The rest may be in words of a proxy before the homeserver.
            _ => match answer.status {
                StatusCode::REQUEST_TIMEOUT
                | StatusCode::TOO_MANY_REQUESTS
                | StatusCode::SERVICE_UNAVAILABLE => Self::Closed(reason),
                _ => Self::Refused(reason),
            },
        }
    }
}

/// Whether an answer is one to these deliveries.
fn answers(received: &DeliveriesReceived, contents: &[Content]) -> bool {
    let is_one = |(content, outcome): (&Content, _)| gone_addresses(&content.delivery, outcome).is_some();
    received.outcomes.len() == contents.len() && contents.iter().zip(&received.outcomes).all(is_one)
}

/// The addresses that take nothing any more, as the other homeserver says. `None` unless its word is a list of places
/// that go up, which bounds it.
pub(super) fn gone_addresses<'a>(
    delivery: &'a Delivery,
    outcome: &DeliveryOutcome,
) -> Option<Vec<&'a Address>> {
    let goes_up = outcome.gone.is_sorted_by(|one, next| one < next);
    let addresses = outcome.gone.iter().map(|place| delivery.addresses.get(usize::from(*place)));
    goes_up.then(|| addresses.collect())?
}

#[cfg(test)]
mod tests {
    use postern_protocol::{encoding::Encoding, federation::DeliveryState, problem::Problem};

    use super::{
        super::tests::{content, delivery},
        *,
    };

    #[test]
    fn places_of_addresses_that_are_gone_go_up_and_are_places() {
        let of = |gone: &[u16]| {
            let outcome =
                DeliveryOutcome { state: DeliveryState::Delivered, undelivered: 0, gone: gone.to_vec() };
            gone_addresses(&delivery(1), &outcome).map(|addresses| addresses.len())
        };
        assert_eq!([of(&[]), of(&[1]), of(&[0, 1, 2])], [Some(0), Some(1), Some(3)]);
        assert_eq!([of(&[0; 300_000]), of(&[1, 0]), of(&[0, 3])], [None; 3]);
    }

    /// An answer with this status, and this problem or another body.
    fn answer(status: u16, body: Vec<u8>) -> Response {
        let status = StatusCode::from_u16(status).unwrap();
        let content_type = "application/cbor".to_owned();
        Response { status, content_type, rate_limit: None, retry_after: None, body }
    }

    #[test]
    fn answers_tell_what_is_refused_from_a_homeserver_that_takes_nothing_at_present() {
        use ProblemType as P;
        let contents = [content(delivery(1))];
        let refused = |reason: &str| Reception::Refused(reason.to_owned());
        let closed = |reason: &str| Reception::Closed(reason.to_owned());
        for (status, expected) in [
            (400, refused("status 400")),
            (413, refused("status 413")),
            (500, refused("status 500")),
            (502, refused("status 502")),
            (408, closed("status 408")),
            (429, closed("status 429")),
            (503, closed("status 503")),
        ] {
            assert_eq!(Reception::of(&answer(status, b"<html>".to_vec()), &contents), expected);
        }
        for (kind, expected) in [
            (P::DeliveryTooLarge, Reception::TooLarge),
            (P::BodyTooLarge, Reception::TooLarge),
            (P::TokenSpent, Reception::TokenSpent),
            (P::TokenRequired, Reception::TokenStale),
            (P::Fault, refused("fault")),
            (P::MalformedBody, refused("malformed-body")),
            // Without the delivery that was taken last it says nothing.
            (P::DeliveryGap, refused("delivery-gap")),
            (P::Unavailable, closed("unavailable")),
            (P::NotAllowed, closed("not-allowed")),
            (P::SignatureRequired, closed("signature-required")),
            (P::SignatureUsed, closed("signature-used")),
            (P::HomeserverBlocked, closed("homeserver-blocked")),
            (P::AllowanceUsedUp, closed("allowance-used-up")),
        ] {
            let problem = Problem::new(kind).to_json();
            assert_eq!(Reception::of(&answer(kind.status().as_u16(), problem), &contents), expected);
        }
        let last = LastDelivery { number: 7, id: None };
        let gap = answer(409, Problem::delivery_gap(last).to_json());
        assert_eq!(Reception::of(&gap, &contents), Reception::Gap(last));
        let outcome = |gone: &[u16]| DeliveryOutcome {
            state: DeliveryState::Delivered,
            undelivered: 0,
            gone: gone.to_vec(),
        };
        let received = |outcomes| DeliveriesReceived { outcomes };
        let good = received(vec![outcome(&[1])]);
        let encoded = |received: &DeliveriesReceived| answer(200, Encoding::Cbor.encode(received));
        assert_eq!(Reception::of(&encoded(&good), &contents), Reception::Received(good));
        let unknown = refused("an answer that the protocol does not know");
        for bad in [received(vec![]), received(vec![outcome(&[1, 0])]), received(vec![outcome(&[3])])] {
            assert_eq!(Reception::of(&encoded(&bad), &contents), unknown);
        }
        assert_eq!(Reception::of(&answer(200, b"garbage".to_vec()), &contents), unknown);
    }
}
