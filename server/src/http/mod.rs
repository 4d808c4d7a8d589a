//! A request's way through the server, in one direction: route → token → body → signature → the endpoint (validate,
//! one SQL call) → answer. An endpoint sees a request only after the gate verified its token. Whatever happens then,
//! the token is spent: by the endpoint's own SQL call, or here when it never came to that; it stays unspent after a
//! fault of ours (AAS-4). Which endpoints there are is [`crate::routes`]'s business.

mod answer;
mod gate;
mod payment;
mod rate_limit;
mod request;
mod route;
mod router;
pub mod server;

pub use answer::{Answer, Failure, Outcome};
pub use gate::{Gate, RedeemedToken};
pub use payment::Payment;
pub use rate_limit::RateLimit;
pub use request::Request;
pub use route::{Door, Route};
pub use router::filter;

#[cfg(test)]
pub fn outcomes() -> Vec<crate::database::outcome::Declared> {
    vec![crate::database::outcome::declared::<payment::SettleTokenOutcome>()]
}
