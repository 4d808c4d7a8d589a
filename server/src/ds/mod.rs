//! Delivery Service: groups, each member under a pseudonym. It validates what a member
//! would validate, lets pass what the group's policy allows, and hands state and messages
//! to the database in one call, which puts them in order.

pub mod create_group;
pub mod delete_group;
mod evict;
pub mod external_sender;
pub mod fetch_group_info;
pub mod fetch_welcome_tree;
pub mod group;
pub mod handshake;
mod policy;
pub mod reserve_group_id;
pub mod roster;
pub mod rules;
pub mod state;
pub mod submit_message;
pub mod upkeep;
