//! The Queuing Service.

pub mod add_addresses;
pub mod create_queue;
pub mod deposit;
pub mod dequeue;
