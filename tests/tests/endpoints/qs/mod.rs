//! The Queuing Service.

pub mod add_addresses;
pub mod count_key_packages;
pub mod create_queue;
pub mod delete_queue;
pub mod deposit;
pub mod dequeue;
pub mod fetch_key_packages;
pub mod publish_key_packages;
pub mod published_keys;
pub mod receive_deliveries;
pub mod remove_key_packages;
pub mod revoke_addresses;
pub mod rotate_friendship_token;
pub mod rotate_keys;
pub mod set_push_policy;
pub mod subscribe_push;
