//! Delivery Service: groups, each member under a pseudonym. It validates what a member
//! would validate, lets pass what the group's policy allows, and hands state and messages
//! to the database in one call, which puts them in order.

pub mod create_group;
mod policy;
pub mod reserve_group_id;
pub(crate) mod roster;
mod state;
pub mod submit_message;
