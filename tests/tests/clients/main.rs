//! What the client library promises, with real clients and a real server.

mod friendship;
mod groups;
mod push;
mod world;
