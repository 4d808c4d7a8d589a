//! One request to the server: built, signed (RFC 9421), paid for (RFC 9577), sent, and its
//! problem details read. It repeats only what is safe: after a fault of the server or of
//! the network, and with the same token, which pays at most once. Which request carries
//! what is the business of [`crate::api`].

use std::time::Duration;

use postern_protocol::{
    encoding::Encoding,
    key::SigningKey,
    problem::{Problem, ProblemType},
    signature::{self, Target},
    token,
};
use reqwest::{
    Method, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use serde::{Serialize, de::DeserializeOwned};
use url::Url;

use crate::{
    error::{Error, Result},
    wallet::Token,
};

const TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The pauses before the second, third and fourth attempt.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(400), Duration::from_millis(1500)];

/// A connection to one server.
#[derive(Clone)]
pub struct Http {
    base: Url,
    client: reqwest::Client,
}

/// A request before it is signed: the same one may be sent any number of times.
#[derive(Clone)]
pub struct Request {
    method: Method,
    path: String,
    body: Vec<u8>,
    content_type: Option<&'static str>,
    accept: &'static str,
    timeout: Duration,
    signer: Option<SigningKey>,
    token: Option<Token>,
}

/// A 2xx answer.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: StatusCode,
    pub content_type: String,
    pub body: Vec<u8>,
}

impl Http {
    /// # Errors
    /// [`Error::BadServerAddress`].
    pub fn new(server: &str) -> Result<Self> {
        let base = Url::parse(server)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| Error::BadServerAddress(server.to_owned()))?;
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            // A signature holds for one target only.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("postern-client/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(Error::Unreachable)?;
        Ok(Self { base, client })
    }

    pub fn server(&self) -> &str {
        self.base.as_str()
    }

    /// Sends, and sends again after a passing fault, with the same token.
    ///
    /// # Errors
    /// [`Error::Refused`] with what the server says, [`Error::Unreachable`].
    pub async fn send(&self, request: &Request) -> Result<Response> {
        for pause in PAUSES {
            match self.send_once(request).await {
                Err(error) if error.is_passing() => {
                    tracing::debug!(%error, "trying again");
                    tokio::time::sleep(pause).await;
                }
                answer => return answer,
            }
        }
        self.send_once(request).await
    }

    /// Sends once and takes whatever comes.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn send_once(&self, request: &Request) -> Result<Response> {
        let url = self
            .base
            .join(&request.path)
            .ok()
            // The issuer directory names a URL: no token request goes to somebody else.
            .filter(|url| url.origin() == self.base.origin())
            .ok_or_else(|| Error::UnexpectedAnswer("a URL on another server".to_owned()))?;
        let answer = self
            .client
            .request(request.method.clone(), url.clone())
            .headers(request.headers(&url))
            .timeout(request.timeout)
            .body(request.body.clone())
            .send()
            .await
            .map_err(Error::Unreachable)?;
        let status = answer.status();
        let content_type = answer
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let body = answer.bytes().await.map_err(Error::Unreachable)?.to_vec();
        if status.is_success() {
            return Ok(Response { status, content_type, body });
        }
        Err(match Problem::from_json(&body) {
            Some(problem) => problem.into(),
            // A proxy before the server answers in its own words.
            None if status.is_server_error() => Problem::new(ProblemType::Unavailable).into(),
            None => Error::UnexpectedAnswer(format!("status {status} without problem details")),
        })
    }
}

impl Request {
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    pub fn post(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path)
    }

    pub fn put(path: impl Into<String>) -> Self {
        Self::new(Method::PUT, path)
    }

    fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            body: Vec::new(),
            content_type: None,
            accept: Encoding::Cbor.media_type(),
            timeout: TIMEOUT,
            signer: None,
            token: None,
        }
    }

    /// A body of one of the protocol's types.
    #[must_use]
    pub fn cbor<T: Serialize>(self, value: &T) -> Self {
        self.body(Encoding::Cbor.media_type(), Encoding::Cbor.encode(value))
    }

    #[must_use]
    pub fn body(self, content_type: &'static str, body: Vec<u8>) -> Self {
        Self { body, content_type: Some(content_type), ..self }
    }

    #[must_use]
    pub fn accepting(self, media_type: &'static str) -> Self {
        Self { accept: media_type, ..self }
    }

    /// Who the request acts for.
    #[must_use]
    pub fn signed_by(self, key: &SigningKey) -> Self {
        Self { signer: Some(key.clone()), ..self }
    }

    #[must_use]
    pub fn paid_with(self, token: Token) -> Self {
        Self { token: Some(token), ..self }
    }

    /// For an endpoint that answers only after up to `wait`.
    #[must_use]
    pub fn waiting(self, wait: Duration) -> Self {
        Self { timeout: TIMEOUT + wait, ..self }
    }

    /// The body's bytes, for tests that look for them in queues.
    pub fn content(&self) -> &[u8] {
        &self.body
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
        if let Some(key) = &self.signer {
            let target = Target { method: &self.method, path: url.path(), query: url.query() };
            signature::sign(target, &mut headers, &self.body, key);
        }
        headers
    }
}

impl Response {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signed_request_verifies_with_its_token_and_body() {
        let key = SigningKey::generate();
        let request =
            Request::post("/qs/queues").cbor(&1u8).paid_with(Token::new(vec![7; 130])).signed_by(&key);
        let url = Url::parse("http://127.0.0.1:1/qs/queues").unwrap();
        let target = Target { method: &Method::POST, path: "/qs/queues", query: None };
        let signer = signature::verify(target, &request.headers(&url), &request.body);
        assert_eq!(signer, Ok(key.public_key()));
    }

    #[test]
    fn only_http_addresses_are_servers() {
        assert!(Http::new("http://127.0.0.1:8080").is_ok());
        for bad in ["127.0.0.1:8080", "ftp://example.org", "example.org", ""] {
            assert!(matches!(Http::new(bad), Err(Error::BadServerAddress(_))), "{bad}");
        }
    }
}
