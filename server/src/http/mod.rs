//! A request's way through the server, in one direction: route → token → body → signature → the endpoint (validate, one
//! SQL call that spends the token) → answer. Where only homeservers that are known may send a body, the signature comes
//! before it. An endpoint sees a request only after the gate verified its token, and not at all if the token is known to be
//! spent. Some endpoints read stored state once before they validate (see the crate's documentation). The token is spent in
//! any case, by the endpoint's own SQL call or here if there was none, also when the client does not wait for the answer;
//! only after a fault of the server it stays unspent (AAS-4). [`crate::routes`] lists the endpoints.

mod activity;
mod answer;
mod body;
mod connections;
mod cors;
mod enclosed;
mod gate;
pub mod memory;
mod observed;
mod payment;
mod rate_limit;
mod request;
mod route;
mod router;
pub mod server;
mod shown_tokens;
mod source;
pub mod tls;
mod unread;

pub use answer::{Answer, Failure, Outcome, Response};
pub use connections::Connections;
pub use cors::Origins;
pub use enclosed::Enclosed;
pub use gate::{Gate, RedeemedToken};
pub use observed::RequestFigures;
pub use payment::Payment;
pub use rate_limit::{Period, RateLimit};
pub use request::Request;
pub use route::{Door, Route};
pub use router::filter;
pub use source::SourceAddress;

#[cfg(test)]
pub fn outcomes() -> Vec<crate::database::outcome::Declared> {
    vec![crate::database::outcome::declared::<payment::SettleTokenOutcome>()]
}
