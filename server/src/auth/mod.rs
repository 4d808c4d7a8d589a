//! Authentication Service: users under their real names, their evolving identities (EID)
//! and client credentials. The only service that knows a name.

pub mod commit_identity;
mod identity;
pub mod look_up_user;
pub mod publish_contact;
pub mod published_keys;
pub mod register_user;
pub mod sign_credential;
pub mod signer;
