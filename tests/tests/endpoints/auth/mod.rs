//! The Authentication Service.

pub mod commit_identity;
pub mod delete_account;
pub mod look_up_user;
pub mod make_invite;
pub mod publish_contact;
pub mod published_keys;
pub mod put_profile;
pub mod register_user;
pub mod registration_terms;
pub mod rename_user;
pub mod replace_recovery_key;
pub mod reset_account;
mod second_proof;
pub mod sign_credential;
