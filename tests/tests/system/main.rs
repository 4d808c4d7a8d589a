//! Promises of the whole: to its operator, and about the privacy of its database. They are one program, since each
//! program links all of MLS.

mod accounts;
mod connections;
mod database;
mod demo;
mod docs;
mod extension;
mod keys;
mod mailboxes;
mod master_key;
mod operations;
mod privacy;
mod relay;
mod roles;
mod round_trips;
mod year;
