//! The Postern server: a library, so that tests and the binary `postern` share it.
//!
//! [`serve`] puts it together: [`http`] takes connections, verifies token, body and signature, and hands the request to
//! an endpoint of [`routes`], which validates it and makes one SQL call. Each endpoint is a file in the folder of its
//! service: `auth`, `aas`, `ds`, `qs`, `rendezvous`, `federation`. Endpoints that validate against stored state (group
//! operations, `commit_identity`, `sign_credential`, `rotate_friendship_token`) read it once before. All state is in
//! PostgreSQL. [`cli`] has the other commands of the program.

// A command that nobody listens to any more goes on: it speaks by `say`, since `println!` would panic.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod aas;
pub mod about;
pub mod app;
pub mod auth;
pub mod body_limits;
pub mod cli;
pub mod clock;
pub mod compute;
pub mod config;
pub mod database;
pub mod ds;
pub mod federation;
pub mod files;
pub mod from_files;
pub mod health;
pub mod home;
pub mod http;
pub mod keys;
pub mod metrics;
pub mod metrics_listener;
pub mod mls;
#[cfg(test)]
mod outcomes;
pub mod outgoing;
pub mod qs;
pub mod readiness;
pub mod recent;
pub mod rendezvous;
pub mod routes;
pub mod say;
pub mod serve;
pub mod service_manager;
pub mod telemetry;
pub mod tls;
pub mod upkeep;
