//! The Authentication Service.

pub mod commit_identity;
pub mod look_up_user;
pub mod make_invite;
pub mod publish_contact;
pub mod published_keys;
pub mod register_user;
pub mod registration_terms;
pub mod sign_credential;
