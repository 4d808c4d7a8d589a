//! The server's own keys: the operator's master key, and the keys that services sign with, which are in the database,
//! sealed under it. Each process keeps them in memory, and takes over what another one, or the operator, changed.

mod held;
pub mod master_key;
pub mod master_keys;
pub mod signing_keys;
mod version;

pub use held::Held;
pub use master_key::MasterKey;
pub use master_keys::MasterKeys;
pub use signing_keys::{SigningKeys, SigningService};
pub use version::KeyVersion;
