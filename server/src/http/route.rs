//! A route: a name, a method, a path, the size of its bodies, and the door to its endpoint.

use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Method;

use postern_protocol::{PublicKey, federation::Deliveries, oblivious::ENVELOPE_BYTES};

use super::{
    answer::{Failure, Outcome},
    enclosed::Enclosed,
    payment::Payment,
    request::Request,
    source::SourceAddress,
};

/// An endpoint of a server with the state `S`, and whether it asks for a token (AAS-1).
pub enum Door<S> {
    Open(fn(&S, Request) -> BoxFuture<'static, Outcome>),
    Paid(fn(&S, Request, Payment) -> BoxFuture<'static, Outcome>),
    /// An open endpoint that finds another request in its own. That one pays for itself.
    Enclosing(fn(&S, Request) -> BoxFuture<'static, Result<Enclosed, Failure>>),
}

/// Lets the signer of a request from a source send its body, or says why not: it is asked once the head is verified, before
/// anything of the body is read.
pub type Admission<S> = fn(&S, PublicKey, SourceAddress) -> BoxFuture<'static, Result<(), Failure>>;

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
    /// None: anybody may send a body, signed or not.
    pub(super) admission: Option<Admission<S>>,
    /// Bytes of its largest body, if the operator's `limits.max_body_bytes` does not bound that more closely.
    max_body: u64,
    /// Bytes that a body may have whatever the operator lets any have.
    least: u64,
    /// Bytes that a body may have beyond that, since another one is in it.
    envelope: u64,
    /// Whether the answer is the same for everybody.
    is_published: bool,
    /// Whether it is for requests that come by themselves only.
    is_direct: bool,
}

impl<S> Route<S> {
    pub fn new(name: &'static str, method: Method, path: &'static str, door: Door<S>) -> Self {
        Self {
            name,
            method,
            path,
            door,
            admission: None,
            max_body: USUAL_BODY,
            least: 0,
            envelope: 0,
            is_published: false,
            is_direct: false,
        }
    }

    /// The route with bodies of at most so many bytes.
    pub fn at_most(self, bytes: usize) -> Self {
        Self { max_body: bytes as u64, ..self }
    }

    /// The route with bodies as large as the operator lets any be.
    pub fn large(self) -> Self {
        Self { max_body: u64::MAX, ..self }
    }

    /// The route with bodies of so many bytes, which other homeservers rely on.
    pub fn of_homeservers(self, bytes: usize) -> Self {
        Self { max_body: bytes as u64, least: bytes as u64, ..self }
    }

    /// The route with bodies of admitted signers only.
    pub fn admitting(self, admission: Admission<S>) -> Self {
        Self { admission: Some(admission), ..self }
    }

    /// The route with bodies in which another request is sealed, however large the body of that is.
    pub fn sealed(self) -> Self {
        Self { envelope: ENVELOPE_BYTES as u64, ..self.large() }
    }

    /// The route as one of those whose answers are the same for everybody.
    pub fn published(self) -> Self {
        Self { is_published: true, ..self }
    }

    /// The route as one that nobody takes through the gateway.
    pub fn direct(self) -> Self {
        Self { is_direct: true, ..self }
    }

    /// Bytes of the largest body that the route takes, when any has so many at most.
    pub fn max_body(&self, of_any: u64) -> u64 {
        self.max_body.min(of_any).max(self.least).saturating_add(self.envelope)
    }

    /// The time that a body of an announced length has beyond the operator's limit: as much as another homeserver gives it, whose
    /// line may be slow, and carry those of other lanes at the same time.
    pub fn more_time(&self, announced: Option<u64>) -> Duration {
        if self.least == 0 {
            return Duration::ZERO;
        }
        let bytes = announced.unwrap_or(self.least).min(self.least);
        Deliveries::carriage_beside(usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    /// Whether the route takes requests that are enclosed in others (FED-5): those that pay for themselves or whose answer
    /// is the same for everybody, unless the route is for requests that come by themselves.
    pub fn takes_enclosed(&self) -> bool {
        (self.is_paid() || self.is_published) && !self.is_direct
    }

    /// The method and the path, for figures.
    pub fn template(&self) -> (&'static str, &'static str) {
        let method = match self.method {
            Method::GET => "GET",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::DELETE => "DELETE",
            _ => "other",
        };
        (method, self.path)
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

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::http::Answer;

    fn endpoint(_: &(), _: Request) -> BoxFuture<'static, Outcome> {
        Box::pin(std::future::ready(Ok(Answer::empty(StatusCode::OK))))
    }

    fn route() -> Route<()> {
        Route::new("test.route", Method::POST, "/test", Door::Open(endpoint))
    }

    #[test]
    fn a_body_of_a_homeserver_has_the_time_that_its_sender_gives_it() {
        let deliveries = route().of_homeservers(Deliveries::MOST_BYTES);
        for (announced, seconds) in [
            (None, 256),
            (Some(0), 12),
            (Some(100), 12),
            (Some(96 * 1024), 48),
            (Some(1024 * 1024), 256),
            (Some(2 * 1024 * 1024), 256),
            (Some(u64::MAX), 256),
        ] {
            assert_eq!(deliveries.more_time(announced), Duration::from_secs(seconds), "{announced:?}");
            assert_eq!(route().more_time(announced), Duration::ZERO, "anybody's");
            assert_eq!(route().large().more_time(announced), Duration::ZERO, "anybody's");
        }
    }
}
