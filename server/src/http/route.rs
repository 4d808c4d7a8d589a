//! A route: a name, a method, a path, the size of its bodies, and the door to its endpoint.

use futures_util::future::BoxFuture;
use http::Method;

use super::{answer::Outcome, payment::Payment, request::Request};

/// An endpoint of a server with the state `S`, and whether it asks for a token (AAS-1).
pub enum Door<S> {
    Open(fn(&S, Request) -> BoxFuture<'static, Outcome>),
    Paid(fn(&S, Request, Payment) -> BoxFuture<'static, Outcome>),
}

/// The most bytes of a body, where a route says nothing else.
const USUAL_BODY: u64 = 64 * 1024;

pub struct Route<S> {
    /// The name, `service.function`. For a paid endpoint this is the API function that spends the token, and the key of
    /// its price.
    pub name: &'static str,
    pub method: Method,
    /// Segments in braces are parameters.
    pub path: &'static str,
    pub door: Door<S>,
    /// Bytes of its largest body, if the operator's `limits.max_body_bytes` does not bound that more closely.
    max_body: u64,
}

impl<S> Route<S> {
    pub fn new(name: &'static str, method: Method, path: &'static str, door: Door<S>) -> Self {
        Self { name, method, path, door, max_body: USUAL_BODY }
    }

    /// The route with bodies of at most so many bytes.
    pub fn at_most(self, bytes: usize) -> Self {
        Self { max_body: bytes as u64, ..self }
    }

    /// The route with bodies as large as the operator lets any be.
    pub fn large(self) -> Self {
        Self { max_body: u64::MAX, ..self }
    }

    /// Bytes of the largest body that the route takes, when any has so many at most.
    pub fn max_body(&self, of_any: u64) -> u64 {
        self.max_body.min(of_any)
    }

    /// Whether the endpoint asks for a token (AAS-1).
    pub fn is_paid(&self) -> bool {
        matches!(self.door, Door::Paid(_))
    }
}

impl<S> Route<S> {
    /// The parameters in a path of this route, as they were sent; `None` for a path of another. The path is normalized
    /// and split at its slashes.
    pub fn parameters(&self, path: &[&str]) -> Option<Vec<String>> {
        let pattern: Vec<_> = self.path.split('/').skip(1).collect();
        if pattern.len() != path.len() {
            return None;
        }
        let mut parameters = Vec::new();
        for (expected, found) in pattern.into_iter().zip(path) {
            if !expected.starts_with('{') {
                if expected != *found {
                    return None;
                }
            } else if found.is_empty() {
                return None;
            } else {
                parameters.push((*found).to_owned());
            }
        }
        Some(parameters)
    }

    /// The methods that the route takes: its own, and HEAD where that is GET (RFC 9110 §9.1).
    pub fn methods(&self) -> impl Iterator<Item = Method> {
        let head = (self.method == Method::GET).then_some(Method::HEAD);
        [self.method.clone()].into_iter().chain(head)
    }

    pub fn takes(&self, method: &Method) -> bool {
        self.methods().any(|taken| taken == *method)
    }
}

impl<S> Clone for Door<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Door<S> {}
