//! Rows of our tables without a statement around them, for what a delivery does once for each
//! recipient: starting a statement costs PostgreSQL as much as ten rows of it. Rows are found by
//! primary key, locked, updated and inserted by the functions that PostgreSQL's executor and its
//! logical replication use, so that locks, visibility, rights, constraints, defaults, indexes, WAL
//! and statistics are what they are under SQL. The checks of domains are the exception: a value
//! has a type of ours that holds what its domain asks for. Tables with anything more are refused:
//! triggers, rules, generated columns.
//!
//! PostgreSQL's errors, and ours, unwind through these functions. Whatever is open then is left to
//! the transaction's abort, which releases it all.

pub mod columns;
mod error;
mod find;
mod insert;
mod locked;
mod open;
mod relation;
mod row;
mod slot;
mod snapshot;
mod writer;

pub(crate) use columns::table;
pub use {
    columns::Columns,
    error::unexpected,
    find::{Find, KeyType},
    insert::Insert,
    locked::Locked,
    open::{Access, Table},
    snapshot::{Snapshot, end_command},
};
