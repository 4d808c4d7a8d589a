//! The promises of the client library, tried with real clients and a real server.

mod accounts;
mod command_line;
mod contacts;
mod following;
mod friendship;
mod groups;
mod identities;
mod lost_answers;
mod push;
