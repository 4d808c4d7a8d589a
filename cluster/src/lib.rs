//! A private PostgreSQL cluster in a data directory (`--embedded`): made at the first start, started and stopped
//! with the server, reached over a Unix socket only. It needs no root and writes nothing into system directories:
//! it runs from a private *installation* in the data directory, which is the system's PostgreSQL plus our extension.
//! The contents of its database are the server's business.
//!
//! ```text
//! <data dir>/lock           held by the process that runs the cluster
//!            installation/  programs, links and the extension, laid out as in the system
//!            cluster/       PostgreSQL's data directory
//!            cluster.15/    what an upgrade from PostgreSQL 15 kept
//!            run/           the socket
//!            postgres.log
//! ```

mod cluster;
mod data_dir;
mod installation;
mod postgresql;
mod postmaster;
mod settings;
mod size;
mod upgrade;
mod user;

use std::process::Output;

pub use cluster::{ClusterOptions, Look, PrivateCluster, Stopped, TakenOver};
pub use data_dir::{log_file, make_dirs, postmaster};
pub use postgresql::{dump_programs, installed_version};
pub use postmaster::{Condition, Interrupted, SOCKET_NAME};
pub use size::size_in_words;
pub use upgrade::{Upgraded, drop_kept, upgrade};

/// The superuser's role.
pub const ADMIN: &str = "postern_admin";
/// The role that the server uses.
pub const SERVER: &str = "postern_server";
pub const DATABASE: &str = "postern";

/// A program's complaint, for a message of ours.
fn messages(output: &Output) -> String {
    let text = [&output.stderr, &output.stdout].map(|bytes| String::from_utf8_lossy(bytes).trim().to_owned());
    text.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")
}
