//! A route: a name, a method, a path and the door to its endpoint.

use futures_util::future::BoxFuture;
use http::Method;

use super::{answer::Outcome, payment::Payment, request::Request};

/// An endpoint of a server with the state `S`, and whether it asks for a token (AAS-1).
pub enum Door<S> {
    Open(fn(&S, Request) -> BoxFuture<'static, Outcome>),
    Paid(fn(&S, Request, Payment) -> BoxFuture<'static, Outcome>),
}

pub struct Route<S> {
    /// The name, `service.function`. For a paid endpoint this is the API function that spends the token, and the key of
    /// its price.
    pub name: &'static str,
    pub method: Method,
    /// Segments in braces are parameters.
    pub path: &'static str,
    pub door: Door<S>,
}

impl<S> Route<S> {
    /// Whether the endpoint asks for a token (AAS-1).
    pub fn is_paid(&self) -> bool {
        matches!(self.door, Door::Paid(_))
    }
}

impl<S> Clone for Door<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Door<S> {}
