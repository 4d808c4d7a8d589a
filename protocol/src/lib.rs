//! The bytes that Postern speaks: request and response types of every endpoint, the formats beneath
//! them (credentials, addresses, chains, envelopes, tokens, signatures) and the problem types that
//! name errors. It has no I/O and no state: server, client, extension and tests share this crate, so
//! that each format is written once.

mod binary;
mod bytes;
mod hash;
mod list;
mod random;

pub mod aas;
pub mod account;
pub mod address;
pub mod admission;
pub mod auth;
pub mod chain;
pub mod credential;
pub mod ds;
pub mod eid;
pub mod encoding;
pub mod federation;
pub mod friendship;
pub mod hpke;
pub mod key;
pub mod label;
pub mod leaves;
pub mod mls;
pub mod name;
pub mod oblivious;
pub mod problem;
pub mod profile;
pub mod push;
pub mod qs;
pub mod rendezvous;
pub mod sealed;
pub mod second_proof;
pub mod signature;
pub mod token;
pub mod wake;

pub use binary::{
    Address, Attributes, ChainHeader, Ciphertext, DeliveryId, FriendshipToken, GroupInfo, HpkePublicKey,
    InviteDigest, IssuedCredential, IssuerCertificate, LaneInstance, LookupSecret, MessageDigest, MlsMessage,
    P256PublicKey, Payload, PublicKey, PushAuth, QueueId, RatchetTree, SealedPush, SealedSubscription,
    Signature, StateKey, StockId, Transcript, TreeHash, Welcome, WrongLength,
};
