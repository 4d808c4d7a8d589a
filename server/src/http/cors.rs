//! Cross-origin requests of clients in browsers (CORS, <https://fetch.spec.whatwg.org/#http-cors-protocol>). Nothing here
//! depends on cookies or on where a client runs, so any origin may call by default; the operator may name some instead.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use postern_protocol::{
    profile::LOOKUP_SECRET,
    signature::{CONTENT_DIGEST, SIGNATURE, SIGNATURE_INPUT},
};

use super::{
    answer::Response,
    rate_limit::{LIMIT, POLICY},
};
use crate::config::ANY_ORIGIN;

/// Headers of requests that a browser sends only if it is told that it may.
const ASKED: [HeaderName; 7] = [
    header::ACCEPT,
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    CONTENT_DIGEST,
    SIGNATURE,
    SIGNATURE_INPUT,
    LOOKUP_SECRET,
];
/// Headers of answers that a browser shows to a client only if it is told that it may.
const SHOWN: [HeaderName; 5] = [header::WWW_AUTHENTICATE, POLICY, LIMIT, header::RETRY_AFTER, header::ALLOW];
/// Seconds for which a browser remembers the answer to a preflight.
const MAX_AGE: u32 = 24 * 60 * 60;

/// The origins whose pages may call this server.
#[derive(Debug, Clone, PartialEq)]
pub enum Origins {
    Any,
    Named(Vec<HeaderValue>),
}

impl Origins {
    /// The origins of [`crate::config::Config::allowed_origins`].
    pub fn new(allowed: &[String]) -> Self {
        if allowed.iter().any(|origin| origin == ANY_ORIGIN) {
            return Self::Any;
        }
        Self::Named(allowed.iter().filter_map(|origin| HeaderValue::try_from(origin).ok()).collect())
    }

    /// The answer to a preflight for a path with these methods; `None` for any other request. It takes no token.
    pub fn preflight(&self, method: &Method, headers: &HeaderMap, allow: &HeaderValue) -> Option<Response> {
        let origin = headers.get(header::ORIGIN)?;
        if *method != Method::OPTIONS || !headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
            return None;
        }
        let mut response = Response::new(Vec::new());
        *response.status_mut() = StatusCode::NO_CONTENT;
        if self.allowed(origin).is_some() {
            let answer = response.headers_mut();
            answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, allow.clone());
            answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, list(&ASKED));
            answer.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE.into());
        }
        Some(response)
    }

    /// Lets the page that asked read the response, if its origin is allowed; clients that are no pages name none.
    pub fn mark(&self, origin: Option<HeaderValue>, response: &mut Response) {
        let headers = response.headers_mut();
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = origin.and_then(|origin| self.allowed(&origin)) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, list(&SHOWN));
        }
    }

    /// The value of `Access-Control-Allow-Origin`; `None` for an origin that is not allowed.
    fn allowed(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        match self {
            Self::Any => Some(HeaderValue::from_static("*")),
            Self::Named(named) => named.contains(origin).then(|| origin.clone()),
        }
    }
}

fn list(names: &[HeaderName]) -> HeaderValue {
    let names: Vec<_> = names.iter().map(HeaderName::as_str).collect();
    HeaderValue::try_from(names.join(", ")).expect("names are visible ASCII")
}
