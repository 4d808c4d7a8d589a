//! A Postern client as a library: end-to-end encrypted groups over a Postern server.
//!
//! [`Client`] is the place to start, and [`Group`] what most programs use most. What clients say to
//! each other is described byte for byte in `docs/client.md`, what they say to the server in the
//! crates `postern-api` and `postern-protocol`.
//!
//! ```no_run
//! # async fn example() -> postern_client::Result<()> {
//! use std::time::Duration;
//!
//! use postern_client::{Client, Event};
//!
//! let alice = Client::builder("state/alice").server("http://127.0.0.1:8008").register("alice").await?;
//! let climbing = alice.create_group("climbing").await?;
//! climbing.invite(&"bob@example.localhost".parse().unwrap()).await?;
//! // One of Bob's devices answers when it is online; receiving adds them all then.
//! alice.sync_until(Duration::from_secs(60), |event| matches!(event, Event::Added { .. })).await?;
//! climbing.send("See you at six").await?;
//!
//! // Later, in another process:
//! let alice = Client::builder("state/alice").open()?;
//! alice.group("climbing")?.send("I am late").await?;
//! for event in alice.sync(Duration::ZERO).await? {
//!     if let Event::Message { sender, text, .. } = event {
//!         println!("{sender}: {text}");
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The feature `lab` adds what programs that test or measure a server need, and nobody else.

// An application holds futures of this library in its own, often on the stack of a thread that has 2 MiB.
#![warn(clippy::large_futures)]

mod account;
mod client;
mod clock;
mod contact;
mod display;
mod elsewhere;
mod errands;
mod error;
mod event;
mod follow;
mod group;
mod history;
mod identity;
mod invitations;
mod key_packages;
#[cfg(feature = "lab")]
mod lab;
mod leaf;
mod link;
mod mailbox;
mod missed;
mod mls;
mod options;
mod profile;
mod push;
mod receive;
mod sealed;
mod server;
mod session;
mod setup;
mod store;
mod strangers;
mod submit;
mod tokens;

pub use account::{LinkGrant, LinkRequest, OwnerProof, recovery_key_of, recovery_words};
pub use client::{Client, ClientBuilder, Farewell, Group, Invited, Refounded, Removal, StillIn};
#[cfg(feature = "lab")]
pub use clock::Clock;
pub use contact::{
    Blocks, Contact, ContactAnswer, ContactRequest, ContactsHandover, Edition, Friend, FriendshipSecrets,
    Letter, LetterBody, ReceivedRequest, RequestId, SafetyNumber, SharedContact, Stamp,
};
pub use display::{safe_json, safe_line, safe_text};
pub use error::{Error, HomeserverError, IdentityError, IssuerError, LinkError, QueueError, Result};
pub use event::{Event, EventId, HistoryEntry, Member};
pub use follow::Follower;
pub use group::{ApplicationMessage, Content, Differences, GroupSummary, RosterEntry};
#[cfg(feature = "lab")]
pub use group::{Change, StolenPlace, judge_message};
pub use identity::{
    Audit, Device, DeviceState, EidWelcome, IdentityLink, Known, Seen, VerifiedClient, VerifiedUser,
};
pub use link::{LinkCode, LinkOffer, MalformedCode};
pub use options::Options;
pub use postern_api as api;
#[cfg(feature = "lab")]
pub use postern_api::{Http, Request, Response, Token};
pub use postern_protocol::second_proof::RecoveryKey;
pub use profile::{ForContacts, ProfileChange, SharedProfileKey, UserProfile};
pub use store::Passphrase;
#[cfg(feature = "lab")]
pub use submit::Submission;
pub use tokens::{DirectoryDigest, Wallet};
