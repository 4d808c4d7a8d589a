//! The promises of the client library, tried with real clients and a real server.

mod accounts;
mod command_line;
mod following;
mod friendship;
mod groups;
mod lost_answers;
mod push;
