//! A request: an endpoint asks for its parts, and each is checked when it is asked for.

use std::sync::{Arc, OnceLock};

use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use percent_encoding::percent_decode_str;
use postern_protocol::{
    PublicKey,
    ds::GroupId,
    encoding::Encoding,
    name::Domain,
    problem::{Problem, ProblemType},
    signature::{self, SignatureDigest, SignatureError, Target, Verified, VerifiedHead},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    answer::{Answer, Failure, Outcome, Response},
    body::Body,
    enclosed::Enclosed,
    source::SourceAddress,
};
use crate::home::Home;

/// The digest of a request's signature, once it is verified: the payment uses it up if no token is spent.
pub type UsedSignature = Arc<OnceLock<SignatureDigest>>;

/// A request without its body, which was not read yet.
pub struct RawRequest {
    pub method: Method,
    /// The home domain, which signatures have to be for.
    pub authority: Domain,
    pub path: String,
    /// The segments of the path that the route has in braces, as they were sent.
    pub segments: Vec<String>,
    pub query: Option<String>,
    pub headers: HeaderMap,
    pub source: SourceAddress,
    /// The signature, if it was verified before the body is read.
    pub head: Option<VerifiedHead>,
    pub signature: UsedSignature,
}

/// A request with its whole body, not yet decoded or authenticated.
pub struct Request {
    raw: RawRequest,
    body: Body,
    accept: Option<Encoding>,
}

/// The rest of a request without its body: the encoding of the answer.
#[derive(Clone, Copy)]
pub struct Answerable(Encoding);

impl RawRequest {
    /// The key that signed the request, before its body is read.
    pub fn verify_head(&mut self) -> Result<PublicKey, Problem> {
        let head = self.signed_head()?;
        self.head = Some(head);
        Ok(head.key())
    }

    fn signed_head(&self) -> Result<VerifiedHead, Problem> {
        let target = Target {
            method: &self.method,
            authority: self.authority.as_str(),
            path: &self.path,
            query: self.query.as_deref(),
        };
        signature::verify_head(target, &self.headers).map_err(not_accepted)
    }

    pub fn with_body(self, body: Body) -> Result<Request, Problem> {
        let accept = header_text(&self.headers, header::ACCEPT)?.and_then(Encoding::from_accept);
        Ok(Request { raw: self, body, accept })
    }
}

impl Request {
    /// The address that the request came from, as limits count it.
    pub fn source(&self) -> SourceAddress {
        self.raw.source
    }

    /// The segment of the path that the route has in braces, percent-decoded; a route has one at most.
    pub fn segment<T>(&self, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, Problem> {
        let segment = self.raw.segments.first().map(String::as_str).unwrap_or_default();
        let decoded = percent_decode_str(segment).decode_utf8().ok();
        decoded.and_then(|segment| parse(&segment)).ok_or_else(|| {
            Problem::with_detail(ProblemType::MalformedRequest, "the path segment is malformed")
        })
    }

    /// The group in the path of a signed request, which this home serves, with the body and the key that signed it.
    ///
    /// # Errors
    /// `malformed-request`; as [`Self::signed_body`]; `foreign-domain` for a group of another homeserver.
    pub fn home_group<T: DeserializeOwned>(&self, home: &Home) -> Result<(GroupId, PublicKey, T), Problem> {
        let group_id = self.segment(|segment| GroupId::from_base64url(segment).ok())?;
        let (signer, body) = self.signed_body()?;
        home.expect_local(group_id.domain())?;
        Ok((group_id, signer, body))
    }

    /// The number that the query gives as `name=…`; `None` if it gives none. Other parameters are ignored.
    ///
    /// # Errors
    /// `malformed-request` for what is no number, and for two of them.
    pub fn query_number(&self, name: &str) -> Result<Option<u64>, Problem> {
        self.query_value(name, |value| {
            let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
            value.parse().ok().filter(|_| is_number)
        })
    }

    /// The value that the query gives as `name=…`; `None` if it gives none. Other parameters are ignored.
    ///
    /// # Errors
    /// `malformed-request` for what is no such value, and for two of them.
    pub fn query_value<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let query = self.raw.query.as_deref().unwrap_or_default();
        // Signatures cover the normal form, so an encoded parameter is the same as one that needs no encoding.
        let decoded = |text| percent_decode_str(text).decode_utf8_lossy();
        let mut values = query.split('&').filter_map(|pair| {
            let (found, value) = pair.split_once('=')?;
            (decoded(found) == name).then(|| decoded(value))
        });
        let (value, another) = (values.next(), values.next());
        let Some(value) = value else { return Ok(None) };
        parse(&value).filter(|_| another.is_none()).map(Some).ok_or_else(|| {
            let detail = format_args!("the query's {name} is malformed, or there are two");
            Problem::with_detail(ProblemType::MalformedRequest, detail)
        })
    }

    /// The value of a header; `None` without it.
    ///
    /// # Errors
    /// `malformed-request` for what is no such value, and for two of them.
    pub fn header_value<T>(
        &self,
        name: &HeaderName,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let mut values = self.raw.headers.get_all(name).iter();
        let (value, another) = (values.next(), values.next());
        let Some(value) = value else { return Ok(None) };
        let value = value.to_str().ok().and_then(parse).filter(|_| another.is_none());
        value.map(Some).ok_or_else(|| {
            let detail = format_args!("the header {name} is malformed, or there are two");
            Problem::with_detail(ProblemType::MalformedRequest, detail)
        })
    }

    /// The body in a format of another standard, and the index of its media type in `media_types`.
    pub fn one_of(&self, media_types: &[&str]) -> Result<(usize, &[u8]), Problem> {
        let found = self.content_type()?.and_then(|value| value.split(';').next()).map(str::trim);
        let index = media_types
            .iter()
            .position(|offered| found.is_some_and(|found| found.eq_ignore_ascii_case(offered)));
        index.map(|index| (index, &*self.body)).ok_or_else(|| {
            let detail = format_args!("the body's media type must be {}", media_types.join(" or "));
            Problem::with_detail(ProblemType::UnsupportedMediaType, detail)
        })
    }

    /// The body, from JSON or CBOR.
    pub fn body<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        let encoding = self
            .content_type()?
            .and_then(Encoding::from_media_type)
            .ok_or(ProblemType::UnsupportedMediaType)?;
        encoding.decode(&self.body).map_err(|error| Problem::with_detail(ProblemType::MalformedBody, error))
    }

    /// The body and the key that signed the request with it (RFC 9421).
    pub fn signed_body<T: DeserializeOwned>(&self) -> Result<(PublicKey, T), Problem> {
        Ok((self.signer()?, self.body()?))
    }

    /// The key that signed the request.
    pub fn signer(&self) -> Result<PublicKey, Problem> {
        self.verify().map(|verified| verified.key)
    }

    /// The key that signed the request, and the digest by which the signature is remembered if nothing pays for the
    /// request.
    pub fn verify(&self) -> Result<Verified, Problem> {
        let head = self.raw.head.map_or_else(|| self.raw.signed_head(), Ok)?;
        let verified = head.with_body(&self.body).map_err(not_accepted)?;
        self.raw.signature.get_or_init(|| verified.digest);
        Ok(verified)
    }

    /// The request that was sealed in this one, or the reason why there is none; `hand_over` makes this one's answer of
    /// that one's.
    pub fn enclosing(
        self,
        request: Result<http::Request<Vec<u8>>, Problem>,
        hand_over: impl FnOnce(BoxFuture<'static, Response>) -> BoxFuture<'static, Outcome> + Send + 'static,
    ) -> Enclosed {
        let source = self.raw.source;
        let request = request.map(|request| request.map(|bytes| self.body.replaced_by(bytes)));
        Enclosed { source, request, hand_over: Box::new(hand_over) }
    }

    /// Bytes of the body.
    pub fn body_length(&self) -> usize {
        self.body.len()
    }

    /// Waits for something. Meanwhile the request's body gives way to those of others.
    ///
    /// # Errors
    /// Those of the wait; a body that gave way.
    pub async fn while_waiting<T>(
        &mut self,
        wait: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        self.body.while_waiting(wait).await
    }

    /// The bytes of the body, which go elsewhere; their memory counts as long as the request is held, and gives way to other
    /// bodies [`Self::while_waiting`].
    pub fn take_body(&mut self) -> Vec<u8> {
        self.body.take()
    }

    /// An answer in the encoding the client accepts, else in that of its body, else JSON.
    pub fn answer<T: Serialize>(&self, status: StatusCode, value: &T) -> Result<Answer, Failure> {
        Ok(Answer::new(status, self.encoding(), value))
    }

    /// Gives up the body, of which all is known: what waits for somebody else holds no memory meanwhile.
    pub fn without_body(self) -> Answerable {
        Answerable(self.encoding())
    }

    fn encoding(&self) -> Encoding {
        let of_body = || self.content_type().ok().flatten().and_then(Encoding::from_media_type);
        self.accept.or_else(of_body).unwrap_or(Encoding::Json)
    }

    fn content_type(&self) -> Result<Option<&str>, Problem> {
        header_text(&self.raw.headers, header::CONTENT_TYPE)
    }
}

impl Answerable {
    /// An answer, as [`Request::answer`].
    pub fn answer<T: Serialize>(self, status: StatusCode, value: &T) -> Outcome {
        Ok(Answer::new(status, self.0, value))
    }
}

fn not_accepted(error: SignatureError) -> Problem {
    Problem::with_detail(ProblemType::SignatureRequired, error)
}

fn header_text(headers: &HeaderMap, name: HeaderName) -> Result<Option<&str>, Problem> {
    let not_text =
        |_| Problem::with_detail(ProblemType::MalformedRequest, "a header must consist of visible ASCII");
    headers.get(name).map(|value| value.to_str().map_err(not_text)).transpose()
}
