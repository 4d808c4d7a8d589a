//! Queuing Service: pseudonymous mailboxes, and the KeyPackages of those who have them. The
//! database keeps, seals and orders the messages; this module checks requests, seals
//! KeyPackages and waits for wake-ups.

pub mod add_addresses;
pub mod batch_signer;
pub mod count_key_packages;
pub mod create_queue;
pub mod delete_queue;
pub mod deposit;
pub mod dequeue;
pub mod fetch_key_packages;
pub mod publish_key_packages;
pub mod published_keys;
pub mod push;
pub mod remove_key_packages;
pub mod revoke_addresses;
pub mod rotate_friendship_token;
pub mod rotate_keys;
pub mod set_push_policy;
pub mod subscribe_push;
pub mod upkeep;
pub mod wakeups;
