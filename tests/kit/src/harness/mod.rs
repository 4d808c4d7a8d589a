//! Clusters, servers, and what stands around them.

mod binaries;
mod chance;
mod cluster;
mod cut;
pub mod dump;
mod identity_provider;
mod line;
mod logs;
mod moved_clock;
mod node;
mod pgbouncer;
mod process;
mod push_service;
mod relay;
mod server;
mod two_faces;
mod wait;

pub use binaries::{binary, extension_dir, in_tree};
pub use chance::{Chance, number};
pub use cluster::{Cluster, DataDir};
pub use cut::BadLine;
pub use identity_provider::IdentityProvider;
pub use line::PostgresLine;
pub use moved_clock::MovedClock;
pub use node::node;
pub use pgbouncer::PgBouncer;
pub use push_service::{PushService, Pushed, UserAgent};
pub use relay::PostgresRelay;
pub use server::{PUSH_CONTACT, Server, ServerBuilder, postern};
pub use two_faces::TwoFaces;
pub use wait::{PATIENCE, eventually};
