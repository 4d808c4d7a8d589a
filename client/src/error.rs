//! What can go wrong, told so that a person knows what to do next. A refusal of the
//! server stays a [`Problem`]: callers match on its kind.

use std::path::PathBuf;

use postern_protocol::{
    name::NameError,
    problem::{Problem, ProblemType},
    push::PushError,
};

use crate::{identity::IdentityError, queue::QueueError};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}{}", .0, advice(.0.kind))]
    Refused(#[from] Problem),
    #[error(
        "cannot reach the server: {}. Check its address (--server) and that it is running; nothing is lost, try again",
        root_cause(.0)
    )]
    Unreachable(#[source] reqwest::Error),
    #[error("{0} is no server address: it looks like https://chat.example.org or http://127.0.0.1:8008")]
    BadServerAddress(String),
    #[error("{0}")]
    BadName(NameError),
    #[error(
        "the server's answer is not what this endpoint promises ({0}): is it a Postern server of this version?"
    )]
    UnexpectedAnswer(String),
    #[error("there is no client in {}: `register` one there, or choose another directory (--state)", .0.display())]
    NoClient(PathBuf),
    #[error("{} holds a client already: choose another directory (--state)", .0.display())]
    ClientExists(PathBuf),
    #[error("this client is not ready: finish `register` or `link-complete` first")]
    NotReady,
    #[error(
        "another process has been using {} for {seconds} s: wait for it, end it, or choose another directory (--state)",
        .directory.display()
    )]
    Busy { directory: PathBuf, seconds: u64 },
    #[error("the state directory cannot be used: {0}")]
    Directory(#[from] std::io::Error),
    #[error("the state database failed: {0}")]
    Database(#[from] rusqlite::Error),
    #[error("the state database is damaged: {0} cannot be read")]
    Damaged(&'static str),
    #[error("{what}: {reason}")]
    Mls { what: &'static str, reason: String },
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("no group is called {0:?}: `groups` lists them")]
    UnknownGroup(String),
    #[error("several groups match {0:?}: name one by its id (`groups` lists them)")]
    AmbiguousGroup(String),
    #[error("this client is no member of the group any more")]
    NotMember,
    #[error("only admins of the group add others, and this device is none")]
    NotAdmin,
    #[error("{0} is no member of the group: `members` lists them")]
    NoSuchMember(String),
    #[error(
        "none of the user's devices can be reached yet: they publish a contact when they finish registering"
    )]
    NoContact,
    #[error("nobody told this device yet how to read what members keep in the group: receive first")]
    NoAttributesKey,
    #[error("the group moved on {0} times while this was tried: try again when it is quieter")]
    Contended(u32),
    #[error("the push subscription cannot be used: {0}")]
    Push(#[from] PushError),
    #[error("the {0} is damaged or made for something else: make a new one")]
    BadBlob(&'static str),
}

impl Error {
    pub fn problem(&self) -> Option<ProblemType> {
        match self {
            Self::Refused(problem) => Some(problem.kind),
            _ => None,
        }
    }

    /// Whether trying again later may help without anything being changed.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable(_))
            || matches!(self.problem(), Some(ProblemType::Fault | ProblemType::Unavailable))
    }

    pub(crate) fn mls<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Mls { what, reason: error.to_string() }
    }
}

/// The network library's own message says only that something failed.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn advice(kind: ProblemType) -> &'static str {
    match kind {
        ProblemType::NameTaken => ". Choose another name",
        ProblemType::AllowanceUsedUp => {
            ". The operator sets how many tokens a client gets; wait for the next time frame"
        }
        ProblemType::Fault | ProblemType::Unavailable => ". Nothing was changed: try again",
        ProblemType::SignatureRequired => ". Check this computer's clock",
        ProblemType::ForeignDomain => ". Names end in the server's own domain",
        _ => "",
    }
}
