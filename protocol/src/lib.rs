//! The bytes Postern speaks: request and response types of every endpoint, the
//! formats beneath them (credentials, addresses, chains, tokens, signatures) and
//! the problem types errors are told in. No I/O and no state: server, client,
//! extension and tests share this crate, so that a format is written once.

mod binary;
mod sealed;

pub mod aas;
pub mod address;
pub mod auth;
pub mod chain;
pub mod credential;
pub mod ds;
pub mod encoding;
pub mod friendship;
pub mod key;
pub mod mls;
pub mod name;
pub mod problem;
pub mod push;
pub mod qs;
pub mod signature;
pub mod token;

pub use binary::{
    Address, Attributes, ChainHeader, Ciphertext, FriendshipToken, GroupInfo, HpkePublicKey,
    IssuedCredential, MessageDigest, MlsMessage, P256PublicKey, Payload, PublicKey, PushAuth, QueueId,
    RatchetTree, SealedPush, SealedSubscription, Signature, StateKey, StockId, Welcome, WrongLength,
};
