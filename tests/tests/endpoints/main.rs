//! Every endpoint, asked rightly and wrongly over HTTP. What holds for all routes is in [`road`], which walks the
//! table of routes that the server itself registers; what is an endpoint's own is in the file of its name.
//!
//! The client's half of everything (signatures, tokens, MLS, mailboxes) is in [`world`], written from
//! `docs/protocol/` and open at every joint, so that any part of a request can be broken.

mod aas;
mod auth;
mod ds;
mod health;
mod qs;
mod road;
mod world;
