//! The client's tokens (RFC 9578, type 0x0005): fetched in batches under the client's name, spent
//! one by one under no name at all (AAS-6). A token is deleted here before it is sent, so that no
//! crash shows it twice. A batch is kept before it is asked for and asked for again after a crash,
//! which costs nothing: of what was paid for, a crash loses the token in flight at most.

mod batch;
mod directory;
mod pins;
mod table;
mod wallet;

pub use self::{pins::DirectoryDigest, wallet::Wallet};
pub(crate) use self::{
    pins::{compare_directory, contradicts, directory_digest},
    table::forget,
    wallet::Owner,
};
