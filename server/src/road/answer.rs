//! The end of the road: answers, refusals and faults, and how each looks on the wire.

use http::{HeaderName, HeaderValue, StatusCode, header};
use postern_protocol::{
    encoding::Encoding,
    problem::{self, Problem, ProblemType},
};
use serde::Serialize;
use warp::reply::Response;

use crate::database::DatabaseError;

pub type Outcome = Result<Answer, Failure>;

/// A successful answer.
pub struct Answer {
    status: StatusCode,
    media_type: Option<&'static str>,
    cache_control: &'static str,
    body: Vec<u8>,
}

/// Why a request came to nothing.
#[derive(Debug)]
pub enum Failure {
    /// The request's fault: it is told why, and its token is spent.
    Refused(Problem),
    /// Ours: logged here, told in general there; nothing changed, the token is unspent.
    Fault(anyhow::Error),
    /// Ours, and likely to pass.
    Unavailable(DatabaseError),
}

impl Answer {
    pub fn new<T: Serialize>(status: StatusCode, encoding: Encoding, value: &T) -> Self {
        Self {
            status,
            media_type: Some(encoding.media_type()),
            cache_control: "no-store",
            body: encoding.encode(value),
        }
    }

    pub fn empty(status: StatusCode) -> Self {
        Self { status, media_type: None, cache_control: "no-store", body: Vec::new() }
    }

    pub fn bytes(media_type: &'static str, body: Vec<u8>) -> Self {
        let media_type = Some(media_type);
        Self { status: StatusCode::OK, media_type, cache_control: "no-store", body }
    }

    /// For what is published: the same for everyone, and cacheable for as long as a client
    /// may go on with an old copy.
    pub fn public(mut self) -> Self {
        self.cache_control = "public, max-age=3600";
        self
    }

    pub fn into_response(self) -> Response {
        let mut response = Response::new(self.body.into());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(self.cache_control));
        if let Some(media_type) = self.media_type {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        }
        response
    }
}

impl Failure {
    pub fn fault(error: impl Into<anyhow::Error>) -> Self {
        Self::Fault(error.into())
    }

    /// An API function answered with an outcome that the server does not know.
    pub fn unexpected(outcome: &str) -> Self {
        Self::Fault(anyhow::anyhow!("the database answered with the outcome {outcome}"))
    }

    /// Tells the operator what was not the client's fault.
    pub fn log(&self) {
        match self {
            Self::Refused(_) => {}
            Self::Fault(error) => tracing::error!("a request failed: {error:#}"),
            Self::Unavailable(error) => tracing::warn!("a request could not be served: {error}"),
        }
    }

    pub fn into_problem(self) -> Problem {
        self.log();
        match self {
            Self::Refused(problem) => problem,
            Self::Fault(_) => ProblemType::Fault.into(),
            Self::Unavailable(_) => ProblemType::Unavailable.into(),
        }
    }
}

/// A refusal as it is sent, with the header that its type asks for.
pub fn problem_response(problem: &Problem, remedy: Option<(HeaderName, HeaderValue)>) -> Response {
    let mut response = Response::new(problem.to_json().into());
    *response.status_mut() = problem.kind.status();
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

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Self {
        if error.is_passing() { Self::Unavailable(error) } else { Self::Fault(error.into()) }
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        DatabaseError::from(error).into()
    }
}
