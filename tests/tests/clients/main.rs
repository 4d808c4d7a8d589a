//! The promises of the client library, tried with real clients and a real server.

mod accounts;
mod at_rest;
mod command_line;
mod contacts;
mod following;
mod friendship;
mod groups;
mod identities;
mod issuer;
mod linking;
mod lost_answers;
mod profiles;
mod push;
