//! A way to one server.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use super::{Call, Reply, Wire};
use postern_protocol::problem::ProblemType;

/// It leads there again after the server's restart. Clones send through the same connections.
#[derive(Clone)]
pub struct Way {
    http: reqwest::Client,
    server: String,
    private: Private,
}

/// The texts that must not be in any log: names, keys and ids that were sent.
pub type Private = Arc<Mutex<BTreeSet<String>>>;

/// A success, or why there is none.
pub type Answer = Result<Reply, Failure>;

#[derive(Debug)]
pub enum Failure {
    Refused(Reply),
    /// There is no answer, or no whole one.
    Unreachable(reqwest::Error),
}

impl Way {
    /// Makes a way over the connections of `http`; `private` gets every text that is sent.
    pub fn new(http: &reqwest::Client, server: &str, private: &Private) -> Self {
        Self { http: http.clone(), server: server.to_owned(), private: private.clone() }
    }

    pub fn server(&self) -> &str {
        &self.server
    }

    /// Signs a request, and sends it once.
    ///
    /// # Errors
    /// The server refuses it or does not answer.
    pub async fn try_send(&self, call: &Call) -> Answer {
        match self.exchange(&call.wire()).await {
            Ok(reply) if reply.status.is_success() => Ok(reply),
            Ok(reply) => Err(Failure::Refused(reply)),
            Err(error) => Err(Failure::Unreachable(error)),
        }
    }

    /// Sends a request as it is, to a server that answers.
    pub async fn send(&self, wire: &Wire) -> Reply {
        let answer = self.exchange(wire).await;
        answer.unwrap_or_else(|error| panic!("{} gets no answer: {error:?}", wire.target))
    }

    async fn exchange(&self, wire: &Wire) -> reqwest::Result<Reply> {
        self.private.lock().expect("no panic holds it").extend(wire.identifiers());
        let url = format!("{}{}", self.server, wire.target);
        let request =
            self.http.request(wire.method.clone(), url).headers(wire.headers.clone()).body(wire.body.clone());
        Reply::read(request.send().await?).await
    }
}

impl Failure {
    pub fn problem(&self) -> Option<ProblemType> {
        match self {
            Self::Refused(reply) => Some(reply.problem("a request").kind),
            Self::Unreachable(_) => None,
        }
    }

    /// Whether trying again later may help without anything being changed.
    pub fn is_passing(&self) -> bool {
        matches!(self.problem(), None | Some(ProblemType::Fault | ProblemType::Unavailable))
    }
}

/// The reason of a refusal.
pub fn refusal(answer: &Answer) -> Option<ProblemType> {
    answer.as_ref().err().and_then(Failure::problem)
}
