//! A Postern client: the library beneath `postern-client`, what the end-to-end tests drive,
//! and what a developer of another client reads. [`Client`] is the place to start; what
//! clients say to each other is described byte for byte in `docs/client.md`, and what they
//! say to the server in the crate `postern-protocol`.

mod account;
mod client;
mod contact;
mod eid;
mod error;
mod event;
mod friendship;
mod group;
mod identity;
mod link;
mod message;
mod mls;
mod push;
mod queue;
mod sealed;
mod server;
mod setup;
mod stock;
mod store;
mod submit;
mod sync;
mod wallet;

pub use client::{Client, GroupSummary, Invited};
pub use contact::{ContactAnswer, ContactRequest, Letter, LetterBody, RequestId};
pub use error::{Error, IdentityError, QueueError, Result};
pub use event::{Event, EventId, Member};
pub use friendship::{Friend, FriendshipSecrets};
pub use group::Change;
pub use identity::{IdentityLink, VerifiedClient, VerifiedUser};
pub use link::{LinkGrant, LinkRequest};
pub use message::{ApplicationMessage, Content, RosterEntry};
pub use postern_api::{self as api, Http, Request, Response, Token};
pub use store::Options;
pub use submit::Submission;
pub use sync::Follower;
pub use wallet::Wallet;
