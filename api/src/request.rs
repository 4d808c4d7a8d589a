//! A request to one endpoint, before it is signed, and an answer.

use std::time::Duration;

use http::{
    Method, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use postern_protocol::{
    LookupSecret,
    encoding::Encoding,
    key::SigningKey,
    name::Domain,
    problem::{Problem, ProblemType},
    profile::LOOKUP_SECRET,
    signature::{self, Target},
    token,
};
use serde::{Serialize, de::DeserializeOwned};
use url::Url;

use crate::{
    error::{Error, Result},
    payment::Token,
    rate_limit::{self, RateLimit},
    transport::Limits,
};

/// How long the answer to an ordinary request may take, to its last byte.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
/// The most bytes that the answer to an ordinary request may have: a hundred tokens need a tenth.
const MOST_BYTES: usize = 64 * 1024;

/// A request before it is signed: the same one may be sent any number of times, and is signed
/// anew with each sending.
#[derive(Clone)]
pub struct Request {
    method: Method,
    path: String,
    body: Vec<u8>,
    content_type: Option<&'static str>,
    accept: &'static str,
    timeout: Duration,
    most_bytes: usize,
    /// The key, and the home domain of the server that the signature is for.
    signer: Option<(SigningKey, Domain)>,
    token: Option<Token>,
    lookup: Option<LookupSecret>,
}

/// An answer: a 2xx one, unless it is that of [`Http::exchange`](crate::Http::exchange).
#[derive(Debug, Clone)]
pub struct Response {
    pub status: StatusCode,
    /// The media type, with its parameters; empty if there is none.
    pub content_type: String,
    /// The rest of the sender's allowance, if the server says so.
    pub rate_limit: Option<RateLimit>,
    /// The time after which the request may be made again, if the server says so.
    pub retry_after: Option<Duration>,
    pub body: Vec<u8>,
}

impl Request {
    /// `path` is absolute and may have a query.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    pub fn post(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path)
    }

    pub fn put(path: impl Into<String>) -> Self {
        Self::new(Method::PUT, path)
    }

    pub fn delete(path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path)
    }

    fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            body: Vec::new(),
            content_type: None,
            accept: Encoding::Cbor.media_type(),
            timeout: TIMEOUT,
            most_bytes: MOST_BYTES,
            signer: None,
            token: None,
            lookup: None,
        }
    }

    /// Gives it a body: a value of one of the protocol's types.
    #[must_use]
    pub fn cbor<T: Serialize>(self, value: &T) -> Self {
        self.body(Encoding::Cbor.media_type(), Encoding::Cbor.encode(value))
    }

    /// Gives it a body of any media type.
    #[must_use]
    pub fn body(self, content_type: &'static str, body: Vec<u8>) -> Self {
        Self { body, content_type: Some(content_type), ..self }
    }

    /// Asks for an answer of another media type than CBOR.
    #[must_use]
    pub fn accepting(self, media_type: &'static str) -> Self {
        Self { accept: media_type, ..self }
    }

    /// Has it signed (RFC 9421) with the key that it acts for: a client's, a queue owner's, a
    /// leaf's or a server's. `origin` is the home domain of the server that is asked, whatever its
    /// URL: no other server takes the signature.
    #[must_use]
    pub fn signed_by(self, key: &SigningKey, origin: &Domain) -> Self {
        Self { signer: Some((key.clone(), origin.clone())), ..self }
    }

    /// Puts a token into it (RFC 9577 §2.2).
    #[must_use]
    pub fn paid_with(self, token: Token) -> Self {
        Self { token: Some(token), ..self }
    }

    /// Shows a hidden user's lookup secret, in a header: no proxy's log has it, as it would have a path.
    #[must_use]
    pub fn showing(self, secret: Option<&LookupSecret>) -> Self {
        Self { lookup: secret.copied(), ..self }
    }

    /// Allows the server `wait` longer for the answer, as an endpoint needs that waits itself.
    #[must_use]
    pub fn waiting(self, wait: Duration) -> Self {
        Self { timeout: TIMEOUT + wait, ..self }
    }

    /// Allows so much time for the answer, where that is another one than usual.
    #[must_use]
    pub fn within(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Allows the answer so many bytes, where that is more than usual.
    #[must_use]
    pub fn answered_in(self, most_bytes: usize) -> Self {
        Self { most_bytes, ..self }
    }

    /// The body's bytes.
    pub fn content(&self) -> &[u8] {
        &self.body
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits { time: self.timeout, bytes: self.most_bytes }
    }

    /// The complete request, signed as of now.
    pub(crate) fn complete(&self, url: &Url) -> Result<http::Request<Vec<u8>>> {
        let mut request = http::Request::builder()
            .method(self.method.clone())
            .uri(url.as_str())
            .body(self.body.clone())
            .map_err(|error| Error::UnexpectedAnswer(error.to_string()))?;
        *request.headers_mut() = self.headers(url);
        Ok(request)
    }

    fn headers(&self, url: &Url) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(self.accept));
        if let Some(content_type) = self.content_type {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        if let Some(token) = &self.token {
            headers.insert(AUTHORIZATION, token::authorization(token.as_bytes()));
        }
        if let Some(secret) = &self.lookup {
            headers.insert(LOOKUP_SECRET, secret.header_value());
        }
        if let Some((key, origin)) = &self.signer {
            let (method, authority) = (&self.method, origin.as_str());
            let target = Target { method, authority, path: url.path(), query: url.query() };
            signature::sign(target, &mut headers, &self.body, key);
        }
        headers
    }
}

impl Response {
    /// The problem for which the server refused the request; `None` if it did not, or a proxy before the server answered in
    /// its own words.
    pub fn problem(&self) -> Option<Problem> {
        (!self.status.is_success()).then(|| Problem::from_json(&self.body))?
    }

    /// The answer, if it is a 2xx one.
    ///
    /// # Errors
    /// [`Error::Refused`] and [`Error::UnexpectedAnswer`].
    pub fn accepted(self) -> Result<Self> {
        if self.status.is_success() {
            return Ok(self);
        }
        Err(match self.problem() {
            Some(problem) => problem.into(),
            None if self.status.is_server_error() => Problem::new(ProblemType::Unavailable).into(),
            None => Error::UnexpectedAnswer(format!("status {} without problem details", self.status)),
        })
    }

    /// The body as one of the protocol's types.
    ///
    /// # Errors
    /// [`Error::UnexpectedAnswer`].
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        Encoding::from_media_type(&self.content_type)
            .ok_or_else(|| Error::UnexpectedAnswer("its media type is unknown".to_owned()))?
            .decode(&self.body)
            .map_err(|error| Error::UnexpectedAnswer(error.to_string()))
    }
}

impl From<http::Response<Vec<u8>>> for Response {
    fn from(answer: http::Response<Vec<u8>>) -> Self {
        let (head, body) = answer.into_parts();
        let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        Self {
            status: head.status,
            content_type: content_type.unwrap_or_default().to_owned(),
            rate_limit: RateLimit::of(&head.headers),
            retry_after: rate_limit::retry_after(&head.headers),
            body,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signed_request_verifies_with_its_token_and_body() {
        let key = SigningKey::generate();
        let origin = "example.org".parse().unwrap();
        let request = Request::post("/qs/queues")
            .cbor(&1u8)
            .paid_with(Token::new(vec![7; 130]))
            .signed_by(&key, &origin);
        let url = Url::parse("http://127.0.0.1:1/qs/queues").unwrap();
        let complete = request.complete(&url).unwrap();
        let target =
            Target { method: &Method::POST, authority: "example.org", path: "/qs/queues", query: None };
        let verified = signature::verify(target, complete.headers(), complete.body()).unwrap();
        assert_eq!(verified.key, key.public_key());
    }
}
