//! Queuing Service: pseudonymous mailboxes. The database keeps, seals and orders the
//! messages; this module checks requests and waits for wake-ups.

pub mod add_addresses;
pub mod create_queue;
pub mod deposit;
pub mod dequeue;
pub mod upkeep;
pub mod wakeups;
