//! Calls that anyone may make, about the server itself.

use std::time::Duration;

use postern_protocol::problem::ProblemType;

use crate::{
    error::{Error, Result},
    http::Http,
    request::Request,
};

impl Http {
    /// `GET /health`: succeeds when the server answers at all.
    ///
    /// # Errors
    /// As [`Http::send`].
    pub async fn health(&self) -> Result<()> {
        self.send(&Request::get("/health")).await.map(drop)
    }

    /// `GET /ready`: succeeds when the server can serve requests: its database answers, and it is not stopping.
    ///
    /// # Errors
    /// As [`Http::send`].
    pub async fn ready(&self) -> Result<()> {
        self.send(&Request::get("/ready")).await.map(drop)
    }

    /// The same, asked once and to be answered within this time: for a client that waits for another answer in vain.
    ///
    /// # Errors
    /// As [`Http::send_once`].
    pub async fn ready_within(&self, time: Duration) -> Result<()> {
        self.send_once(&Request::get("/ready").within(time)).await.map(drop)
    }

    /// `GET /problems/{slug}`: what a problem's `type` refers to (RFC 9457 §3.1.1), as text.
    ///
    /// # Errors
    /// As [`Http::send`].
    pub async fn explain_problem(&self, kind: ProblemType) -> Result<String> {
        let answer = self.send(&Request::get(kind.path()).accepting("text/plain")).await?;
        String::from_utf8(answer.body).map_err(|_| Error::UnexpectedAnswer("no text".to_owned()))
    }
}
