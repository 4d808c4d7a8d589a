//! Promises of the whole: to whoever operates it, and about what its database gives away. One program, since each
//! links all of MLS.

mod accounts;
mod demo;
mod docs;
mod extension;
mod mailboxes;
mod operations;
mod privacy;
mod relay;
mod roles;
mod round_trips;
