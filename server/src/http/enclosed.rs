//! A request that was sealed in another one (RFC 9458), and the way back of its answer. The router answers it as if it had
//! come by itself, from the source of the request around it, since its own is not known.

use futures_util::future::BoxFuture;
use postern_protocol::problem::Problem;

use super::{
    answer::{Outcome, Response},
    body::Body,
    source::SourceAddress,
};

/// Hands an answer, once it is there, to the one around it.
type HandOver = Box<dyn FnOnce(BoxFuture<'static, Response>) -> BoxFuture<'static, Outcome> + Send>;

pub struct Enclosed {
    pub(super) source: SourceAddress,
    /// The request, or the reason why there is none: its sender learns it in the answer.
    pub(super) request: Result<http::Request<Body>, Problem>,
    pub(super) hand_over: HandOver,
}
