//! What a route is: a method, a path and the door to its endpoint.

use futures_util::future::BoxFuture;
use http::Method;

use super::{Outcome, Payment, Request};
use crate::app::App;

/// An endpoint, and whether it asks a token (AAS-1).
#[derive(Clone, Copy)]
pub enum Handler {
    Open(fn(App, Request) -> BoxFuture<'static, Outcome>),
    /// With the name of the API function that spends the token, which its price goes by.
    Paid(&'static str, fn(App, Request, Payment) -> BoxFuture<'static, Outcome>),
}

pub struct Route {
    pub method: Method,
    /// Segments in braces are parameters.
    pub path: &'static str,
    pub handler: Handler,
}
