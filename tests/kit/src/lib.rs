//! The kit that the suites and the benchmarks share, in three layers:
//!
//! - [`harness`]: real PostgreSQL clusters, real `postern` processes, and a relay between the two that can hold answers
//!   back.
//! - [`client`]: the client's half of everything (requests, signatures, tokens, MLS, mailboxes), driven by hand, written
//!   from `docs/protocol/` and open at every joint, so that any part of a request can be broken.
//! - [`world`]: a cluster with servers and people; each test makes one of its own and drops it.
//!
//! ```no_run
//! # async fn example() {
//! use postern_protocol::qs::QueueKind;
//! use postern_tests_kit::World;
//!
//! let world = World::builder().servers(2).tokens(200).start().await;
//! let mut mailbox = world.mailbox(QueueKind::Contact).await;
//! assert!(world.read(&mut mailbox).await.is_empty());
//! # }
//! ```
//!
//! The kit panics where it cannot go on: a test has nothing better to do with an error.

pub mod client;
pub mod harness;
pub mod world;

pub use client::*;
pub use harness::*;
pub use world::*;

/// The home domain of every server under test that does not choose another.
pub const HOME: &str = "home.example";

/// The home domain of the server under test.
pub fn home() -> postern_protocol::name::Domain {
    HOME.parse().expect("it is a domain")
}

/// Seconds since 1970.
pub fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("it is later than 1970").as_secs()
}
