//! MLS groups as the server sees them (RFC 9420): their public state, validated as a receiving
//! member would validate it, without any of their secrets. The DS uses this module for groups and
//! the AS for evolving identities; they decide what a sender *may* do.

pub mod crypto;
mod encryption_key;
mod group;
pub mod leaf;
mod parse;
pub mod path;
pub mod storage;
mod trial;

use postern_protocol::problem::{Problem, ProblemType};

pub use self::{
    group::{CorruptGroup, Handshake, TrackedGroup},
    parse::{
        authenticated_data_len, parse, parse_handshake, parse_key_package, parse_tree, welcomed_members,
    },
};

/// The longest lifetime of a KeyPackage in a group, in seconds: 84 days and an hour (RFC 9420 §7.2 leaves the
/// limit to the application). Our clients, and openmls, have the same.
pub const LONGEST_LIFETIME: u64 = (84 * 24 + 1) * 60 * 60;

/// The reason why MLS content was refused. The texts are for the sender's developer: they name the
/// rule, never a value.
#[derive(Debug, thiserror::Error)]
pub enum InvalidMls {
    #[error("not a well-formed {0}")]
    Malformed(&'static str),
    #[error("{0}")]
    Refused(&'static str),
    #[error("the group info or ratchet tree is invalid: {0}")]
    Group(String),
    #[error("the message is invalid: {0}")]
    Message(String),
    #[error("no commit could include the proposal: {0}")]
    Uncommittable(String),
}

impl From<InvalidMls> for Problem {
    fn from(error: InvalidMls) -> Self {
        Self::with_detail(ProblemType::InvalidMls, error)
    }
}
