//! The Postern server: a library, so that tests and the binary `postern` share it.
//!
//! [`serve`] puts it together: [`http`] takes connections, verifies token, body and signature, and hands the request to
//! an endpoint of [`routes`] (`auth`, `aas`, `ds`, `qs`: one file each), which validates it and makes one SQL call.
//! Endpoints that validate against stored state (group operations, `commit_identity`, `sign_credential`,
//! `rotate_friendship_token`) read it once before. All state is in PostgreSQL.

pub mod aas;
pub mod about;
pub mod app;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod compute;
pub mod config;
pub mod database;
pub mod ds;
pub mod home;
pub mod http;
pub mod keys;
pub mod mls;
#[cfg(test)]
mod outcomes;
pub mod qs;
pub mod recent;
pub mod rendezvous;
pub mod routes;
pub mod serve;
pub mod telemetry;
pub mod upkeep;
