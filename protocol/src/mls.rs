//! What Postern adds to MLS groups (RFC 9420 §13.4): one extension of the group context
//! and two of leaf nodes, all TLS structures.
//!
//! ```text
//! struct { opaque state_secret[32]; Pseudonym admins<V>; } GroupPolicy;      /* GroupContext */
//! struct { opaque domain<V>; opaque address[32]; } DeliveryAddress;          /* LeafNode */
//! struct { uint32 generation; opaque public_key[32]; } UserKey;              /* LeafNode */
//! opaque Pseudonym[16];   /* the identity of the leaf's basic credential */
//! ```
//!
//! So membership, roles and delivery are part of what the group itself agrees on: whoever
//! joins by Welcome knows the state key, and the roster the DS delivers to is the tree. A
//! user's clients share a pseudonym; the user's key is the one of the highest generation
//! among their leaves.

use aws_lc_rs::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use serde::{Deserialize, Serialize};
use tls_codec::{Deserialize as _, Serialize as _, TlsDeserialize, TlsSerialize, TlsSize, VLBytes};

use crate::{Address, PublicKey, StateKey, ds::GroupId, name::Domain};

/// `MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519`.
pub const CIPHERSUITE: u16 = 0x0001;
/// Extension types from the range for private use (RFC 9420 §17.3).
pub const GROUP_POLICY: u16 = 0xf0a1;
pub const DELIVERY_ADDRESS: u16 = 0xf0a2;
pub const USER_KEY: u16 = 0xf0a3;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the extension is malformed")]
pub struct MalformedExtension;

/// A user within one group: random, never used elsewhere.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    TlsSize,
    TlsSerialize,
    TlsDeserialize,
)]
pub struct Pseudonym(pub [u8; 16]);

/// The secret from which the state key comes, and who may add and remove others (DS-6).
#[derive(Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserialize)]
pub struct GroupPolicy {
    pub state_secret: [u8; 32],
    pub admins: Vec<Pseudonym>,
}

/// Where a member's messages go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryAddress {
    pub domain: Domain,
    pub address: Address,
}

#[derive(TlsSize, TlsSerialize, TlsDeserialize)]
struct DeliveryAddressTls {
    domain: VLBytes,
    address: [u8; 32],
}

/// By which a user's clients act for the user in one group (DS-6): they let further clients
/// of theirs join. Its private half is known to the user's clients only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserKey {
    /// Grows when the key is replaced, as it has to be when a client of the user's goes.
    pub generation: u32,
    pub public_key: PublicKey,
}

#[derive(TlsSize, TlsSerialize, TlsDeserialize)]
struct UserKeyTls {
    generation: u32,
    public_key: [u8; 32],
}

impl Pseudonym {
    /// # Panics
    /// If the operating system has no randomness.
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        SystemRandom::new().fill(&mut bytes).expect("the operating system provides randomness");
        Self(bytes)
    }
}

impl GroupPolicy {
    /// A fresh policy with one admin.
    ///
    /// # Panics
    /// If the operating system has no randomness.
    pub fn new(admin: Pseudonym) -> Self {
        let mut state_secret = [0; 32];
        SystemRandom::new().fill(&mut state_secret).expect("the operating system provides randomness");
        Self { state_secret, admins: vec![admin] }
    }

    /// `HMAC-SHA256(state_secret, "postern group state")`: one-way, so that the stored state,
    /// which contains the secret, never contains the key it is sealed under.
    pub fn state_key(&self) -> StateKey {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.state_secret);
        let tag = hmac::sign(&key, b"postern group state");
        StateKey::try_from(tag.as_ref()).expect("HMAC-SHA256 has 32 bytes")
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        self.tls_serialize_detached().expect("a policy serialises")
    }

    /// # Errors
    /// [`MalformedExtension`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MalformedExtension> {
        Self::tls_deserialize_exact(bytes).map_err(|_| MalformedExtension)
    }
}

impl DeliveryAddress {
    pub fn to_bytes(&self) -> Vec<u8> {
        let wire = DeliveryAddressTls {
            domain: self.domain.as_str().as_bytes().to_vec().into(),
            address: *self.address.as_bytes(),
        };
        wire.tls_serialize_detached().expect("an address serialises")
    }

    /// # Errors
    /// [`MalformedExtension`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MalformedExtension> {
        let wire = DeliveryAddressTls::tls_deserialize_exact(bytes).map_err(|_| MalformedExtension)?;
        let domain = std::str::from_utf8(wire.domain.as_slice())
            .ok()
            .and_then(|domain| domain.parse().ok())
            .ok_or(MalformedExtension)?;
        Ok(Self { domain, address: Address::new(wire.address) })
    }
}

/// What a user's key signs so that a new leaf may enter by external commit (DS-7); the
/// signature is the commit's authenticated data. So members need not trust the DS in this.
///
/// `"Postern join" || group id || epoch (u64, big endian) || leaf key`; the epoch is the one
/// that the commit is made in.
pub fn to_join(group_id: &GroupId, epoch: u64, leaf_key: &PublicKey) -> Vec<u8> {
    let mut bytes = b"Postern join".to_vec();
    bytes.extend_from_slice(&group_id.to_mls());
    bytes.extend_from_slice(&epoch.to_be_bytes());
    bytes.extend_from_slice(leaf_key.as_bytes());
    bytes
}

impl UserKey {
    pub fn to_bytes(&self) -> Vec<u8> {
        let wire = UserKeyTls { generation: self.generation, public_key: *self.public_key.as_bytes() };
        wire.tls_serialize_detached().expect("a key serialises")
    }

    /// # Errors
    /// [`MalformedExtension`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MalformedExtension> {
        let wire = UserKeyTls::tls_deserialize_exact(bytes).map_err(|_| MalformedExtension)?;
        Ok(Self { generation: wire.generation, public_key: PublicKey::new(wire.public_key) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_survive_their_bytes() {
        let policy = GroupPolicy::new(Pseudonym::random());
        assert!(GroupPolicy::from_bytes(&policy.to_bytes()) == Ok(policy));
        let delivery =
            DeliveryAddress { domain: "example.org".parse().unwrap(), address: Address::new([9; 32]) };
        assert_eq!(DeliveryAddress::from_bytes(&delivery.to_bytes()), Ok(delivery));
        let key = UserKey { generation: 7, public_key: PublicKey::new([5; 32]) };
        assert_eq!(UserKey::from_bytes(&key.to_bytes()), Ok(key));
        assert!(GroupPolicy::from_bytes(&[1, 2, 3]).is_err());
    }
}
