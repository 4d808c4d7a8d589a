//! The end-to-end harness: real PostgreSQL clusters, real `postern` processes, and a relay between the two that can
//! hold answers back. Each test makes a world of its own and drops it. What is said over HTTP is left to the
//! tests and the client library.
//!
//! ```no_run
//! # async fn example() {
//! use postern_tests::{Cluster, Server};
//!
//! let cluster = Cluster::start().await;
//! let (one, two) = (Server::start(&cluster).await, Server::start(&cluster).await);
//! println!("{} {}", one.url(), two.url());
//! # }
//! ```
//!
//! The harness panics where it cannot go on: a test has nothing better to do with an error.

mod binaries;
mod cluster;
pub mod dump;
mod logs;
mod node;
mod process;
mod push_service;
mod relay;
mod server;
mod wait;

pub use binaries::{binary, extension_dir, in_tree};
pub use cluster::{Cluster, DataDir};
pub use node::node;
pub use push_service::{PushService, Pushed, UserAgent};
pub use relay::PostgresRelay;
pub use server::{PUSH_CONTACT, Server, ServerBuilder, postern};
pub use wait::{PATIENCE, eventually};

/// The home domain of every server under test that does not choose another.
pub const HOME: &str = "home.example";
