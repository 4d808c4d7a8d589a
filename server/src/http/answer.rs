//! Answers, refusals and faults, and their forms on the wire.

use std::fmt;

use http::{HeaderName, HeaderValue, StatusCode, header};
use postern_protocol::{
    encoding::Encoding,
    problem::{self, Problem, ProblemType},
};
use serde::Serialize;

use super::rate_limit::RateLimit;
use crate::{
    compute::Overloaded,
    database::{DatabaseError, UnknownOutcome},
    home::PUBLISHED_MAX_AGE,
    mls::InvalidMls,
};

pub type Outcome = Result<Answer, Failure>;
/// A response whose body is whole.
pub type Response = http::Response<Vec<u8>>;

/// A successful answer.
pub struct Answer {
    status: StatusCode,
    media_type: Option<&'static str>,
    public: bool,
    limit: Option<RateLimit>,
    body: Vec<u8>,
}

/// The reason why a request failed.
#[derive(Debug)]
pub enum Failure {
    /// The request is at fault: it is told why, and its token is spent.
    Refused(Problem),
    /// The request is refused because an allowance is used up.
    Limited(Problem, RateLimit),
    /// The server is at fault: the log tells why, the client only that. Nothing changed, and the
    /// token is unspent.
    Fault(anyhow::Error),
    /// The database is unavailable, which is likely to pass. Nothing changed, and the token is unspent.
    Unavailable(DatabaseError),
    /// The server has too much to do, and says of what. Nothing changed, and the token is unspent.
    Overloaded(&'static str),
}

impl Answer {
    pub fn new<T: Serialize>(status: StatusCode, encoding: Encoding, value: &T) -> Self {
        let media_type = Some(encoding.media_type());
        Self { status, media_type, body: encoding.encode(value), ..Self::empty(status) }
    }

    pub fn empty(status: StatusCode) -> Self {
        Self { status, media_type: None, public: false, limit: None, body: Vec::new() }
    }

    pub fn bytes(media_type: &'static str, body: Vec<u8>) -> Self {
        Self { media_type: Some(media_type), body, ..Self::empty(StatusCode::OK) }
    }

    pub fn status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// Makes an answer public: it is the same for everyone, and cacheable for as long as a client
    /// may use an old copy.
    pub fn public(self) -> Self {
        Self { public: true, ..self }
    }

    /// Adds the rest of an allowance to an answer.
    pub fn limited(self, limit: RateLimit) -> Self {
        Self { limit: Some(limit), ..self }
    }

    pub fn into_response(self) -> Response {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        let cache_control = if self.public {
            HeaderValue::try_from(format!("public, max-age={PUBLISHED_MAX_AGE}"))
                .expect("digits are visible ASCII")
        } else {
            HeaderValue::from_static("no-store")
        };
        headers.insert(header::CACHE_CONTROL, cache_control);
        if let Some(limit) = self.limit {
            limit.write(headers);
        }
        if let Some(media_type) = self.media_type {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        }
        response
    }
}

impl fmt::Display for Failure {
    /// Safe to log: no user data (PRIV-4).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(problem) | Self::Limited(problem, _) => f.write_str(problem.kind.title()),
            Self::Fault(error) => write!(f, "{error:#}"),
            Self::Unavailable(error) => error.fmt(f),
            Self::Overloaded(what) => f.write_str(what),
        }
    }
}

impl Failure {
    pub fn fault(error: impl Into<anyhow::Error>) -> Self {
        Self::Fault(error.into())
    }

    /// Whether the request paid nothing, since it or its token came before.
    pub fn is_unpaid(&self) -> bool {
        use ProblemType::{SignatureUsed, TokenSpent};
        matches!(self, Self::Refused(problem) if matches!(problem.kind, TokenSpent | SignatureUsed))
    }

    /// Logs failures that are not the client's fault.
    pub fn log(&self) {
        match self {
            Self::Refused(_) | Self::Limited(..) => {}
            Self::Fault(error) => tracing::error!("a request failed: {error:#}"),
            Self::Unavailable(error) => tracing::warn!("a request could not be served: {error}"),
            // Anybody can cause these by the thousand.
            Self::Overloaded(what) => tracing::debug!("a request could not be served: {what}"),
        }
    }

    pub fn into_problem(self) -> Problem {
        self.log();
        match self {
            Self::Refused(problem) | Self::Limited(problem, _) => problem,
            Self::Fault(_) => ProblemType::Fault.into(),
            Self::Unavailable(_) | Self::Overloaded(_) => ProblemType::Unavailable.into(),
        }
    }
}

/// The response of a refusal, with the header that its type asks for.
pub fn problem_response(problem: &Problem, remedy: Option<(HeaderName, HeaderValue)>) -> Response {
    let mut response = Response::new(problem.to_json());
    *response.status_mut() = problem.kind.status();
    // The figures of requests tell answers by it.
    response.extensions_mut().insert(problem.kind);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(problem::MEDIA_TYPE));
    headers.extend(remedy);
    response
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem)
    }
}

impl From<ProblemType> for Failure {
    fn from(kind: ProblemType) -> Self {
        Self::Refused(kind.into())
    }
}

impl From<InvalidMls> for Failure {
    fn from(error: InvalidMls) -> Self {
        Self::Refused(error.into())
    }
}

impl From<UnknownOutcome> for Failure {
    fn from(error: UnknownOutcome) -> Self {
        Self::fault(error)
    }
}

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Self {
        if error.is_passing() { Self::Unavailable(error) } else { Self::Fault(error.into()) }
    }
}

impl From<Overloaded> for Failure {
    fn from(Overloaded: Overloaded) -> Self {
        Self::Overloaded("too much is to be validated")
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        DatabaseError::from(error).into()
    }
}
