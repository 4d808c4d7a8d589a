//! The server's own keys: the operator's master key, and the keys that services sign with, which are in the database,
//! sealed under it.

pub mod master_key;
pub mod signing_keys;
mod version;

pub use master_key::MasterKey;
pub use signing_keys::SigningKeys;
pub use version::KeyVersion;
