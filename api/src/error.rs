//! Errors of a request. A refusal of the server stays a [`Problem`]: callers match on its kind.

use postern_protocol::problem::{Problem, ProblemType};

/// A cause that a [`Transport`](crate::Transport) gives, in whatever library it is built on.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused the request, and says why.
    #[error("{0}")]
    Refused(#[from] Problem),
    /// No answer came back. The server may have acted on the request or not.
    #[error("cannot reach the server: {}", root_cause(.0.as_ref()))]
    Unreachable(#[source] BoxError),
    /// This is not the address of a server: the URL has another scheme, or no host.
    #[error(
        "{0} is not the address of a server: it looks like https://chat.example.org or http://127.0.0.1:8008"
    )]
    BadServerAddress(String),
    /// The answer is not what the protocol says. What it should have been follows.
    #[error(
        "the server's answer is not what the protocol says ({0}): is this a Postern server of this version?"
    )]
    UnexpectedAnswer(String),
    /// The request for the homeserver of another domain did not get to its services, or no answer came back.
    #[error("{side}: {problem}")]
    Relay { side: Side, problem: Problem },
    /// A request for the homeserver of another domain was not sent: there is no token for the relay, or no key of the
    /// gateway.
    #[error("the request was not sent: {0}")]
    Unsent(#[source] BoxError),
}

/// The part of the way to another domain's homeserver that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The own homeserver, which is the relay, does not hand the request on.
    Relay,
    /// The other homeserver is not found, is not the one that it was, or does not answer.
    Pipe,
    /// The other homeserver does not take what comes by this relay, or has a fault.
    Gateway,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Relay => "the own homeserver does not hand the request on",
            Self::Pipe => "the other domain's homeserver is out of reach",
            Self::Gateway => "the other domain's homeserver refuses the request, or has a fault",
        })
    }
}

impl Side {
    /// The part of the way that a relay's problem tells of.
    pub(crate) fn of(problem: &Problem) -> Self {
        match problem.kind {
            ProblemType::HomeserverUnknown | ProblemType::HomeserverUnreachable => Self::Pipe,
            ProblemType::HomeserverRefused | ProblemType::GatewayKeyUnknown => Self::Gateway,
            // With a detail it is the other one's operator who does so, or the other one that has a fault.
            ProblemType::HomeserverBlocked | ProblemType::Unavailable if problem.detail.is_some() => {
                Self::Gateway
            }
            _ => Self::Relay,
        }
    }
}

impl Error {
    /// The kind of problem that the server refused the request for; `None` for other errors.
    pub fn problem(&self) -> Option<ProblemType> {
        match self {
            Self::Refused(problem) => Some(problem.kind),
            _ => None,
        }
    }

    /// Whether the same request may succeed at any moment: the server, or the way to it, failed. The way from there to
    /// another domain's homeserver is not meant: what fails there does for longer. Then it may be sent again with the
    /// same token: what changed nothing spent nothing, and what was accepted is recognised.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable(_))
            // Somebody on the way sent the request twice: each sending is signed anew.
            || matches!(self.problem(), Some(ProblemType::SignatureUsed))
            // The network was slow.
            || matches!(self.problem(), Some(ProblemType::BodyTooSlow))
            || matches!(self.problem(), Some(ProblemType::Fault | ProblemType::Unavailable))
    }

    /// Whether the request is sent again at once: a failure is passing, or is another domain's homeserver's own, which it told
    /// of itself and which may be over as soon. A relay's problem of that kind is never on that side.
    pub(crate) fn is_repeated(&self) -> bool {
        self.is_passing()
            || matches!(self, Self::Relay { side: Side::Gateway, problem } if problem.kind == ProblemType::Fault)
    }
}

/// The innermost cause: the network library's own message says only that something failed.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
