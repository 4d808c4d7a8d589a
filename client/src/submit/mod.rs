//! Handing requests to the DS (DS-1 to DS-7) so that each takes effect once, whatever fails in
//! between: bytes are kept before they are sent, sent again unchanged while the answer is outstanding,
//! and made anew only after the DS said that they came too late. An answer that was lost is no refusal.
//!
//! [`settle`] sends what is outstanding. Each other file makes one thing that a device wants of a group outstanding.

mod address;
mod come_back;
mod commit;
mod current;
mod enter;
mod found;
mod leave;
mod say;
mod settle;

use postern_api::Request;
use postern_protocol::{
    ds::{GroupId, MessageAccepted},
    problem::Problem,
};

use crate::group::Kind;

/// How often something is tried again because others changed the group first.
const ATTEMPTS: u32 = 8;

/// The fate of an outstanding request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    Accepted(MessageAccepted),
    /// It came too late, and its reason has to be looked at again; or the queue told what became of it.
    Late,
    Refused(Problem),
    /// This device is not in the group any more.
    Over,
}

/// The fates of a group's outstanding requests, in the order in which they showed.
#[derive(Debug, Default)]
pub(crate) struct Fates(Vec<(Kind, Fate)>);

/// A request ready for the DS.
#[derive(Clone)]
pub struct Submission {
    pub group: GroupId,
    /// The epoch that it was made in.
    pub epoch: u64,
    /// Whether it is a commit; else it is most often an application message.
    pub is_commit: bool,
    pub(crate) kind: Kind,
    /// The request that hands it in, which is signed with each sending and lacks a token.
    pub request: Request,
}

impl Fates {
    /// The fate of the last request of a kind.
    fn of(&self, kind: Kind) -> Option<&Fate> {
        self.0.iter().rev().find(|(found, _)| *found == kind).map(|(_, fate)| fate)
    }
}
