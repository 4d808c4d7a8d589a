//! The promises of the client library, tried with real clients and a real server.

mod friendship;
mod groups;
mod push;
