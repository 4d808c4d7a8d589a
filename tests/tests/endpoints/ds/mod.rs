//! The Delivery Service.

pub mod create_group;
pub mod reserve_group_id;
pub mod submit_message;
