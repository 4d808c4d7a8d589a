//! The Postern server: a library, so that tests and the binary `postern` share it.
//!
//! A request's way: [`serve`] takes the connection, [`road`] verifies token, body and
//! signature, an endpoint of [`routes`] (`auth`, `aas`, `ds`, `qs`: one file each) validates and makes one
//! SQL call. State is in PostgreSQL, nowhere else.

pub mod aas;
pub mod app;
pub mod auth;
pub mod check;
pub mod cli;
pub mod config;
pub mod database;
pub mod date;
pub mod ds;
pub mod health;
pub mod master_key;
pub mod migrate;
pub mod mls;
pub mod qs;
pub mod road;
pub mod routes;
pub mod serve;
pub mod signing_keys;
