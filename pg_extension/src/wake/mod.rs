//! Wake-ups (QS-9), from a delivery to NOTIFY. A transaction that NOTIFYs holds one cluster-wide
//! lock until its commit is flushed, which would serialise all deliveries. So the keys of queues
//! are collected during the [`transaction`], put into shared [`memory`] once it has committed, and
//! sent by a background worker, the [`notifier`], many at a time.
//!
//! A key is a keyed hash of the queue id, and payloads are sealed, since any database user may LISTEN
//! and NOTIFY (see [`postern_protocol::wake`]). Waiters look for messages from time to time anyway: a
//! lost wake-up costs latency, never a message.

mod inbox;
mod key;
mod memory;
mod notifier;
mod notify;
mod transaction;

pub use {key::key, memory::init, transaction::collect};
