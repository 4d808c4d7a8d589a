//! The Authentication Service.

pub mod commit_identity;
pub mod look_up_user;
pub mod publish_contact;
pub mod published_keys;
pub mod register_user;
pub mod sign_credential;
