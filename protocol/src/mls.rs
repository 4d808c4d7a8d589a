//! What Postern adds to MLS groups (RFC 9420 §13.4): one extension of the group context
//! and one of leaf nodes, both TLS structures.
//!
//! ```text
//! struct { opaque state_secret[32]; Pseudonym admins<V>; } GroupPolicy;      /* GroupContext */
//! struct { opaque domain<V>; opaque address[32]; } DeliveryAddress;          /* LeafNode */
//! opaque Pseudonym[16];   /* the identity of the leaf's basic credential */
//! ```
//!
//! So membership, roles and delivery are part of what the group itself agrees on: whoever
//! joins by Welcome knows the state key, and the roster the DS delivers to is the tree.

use aws_lc_rs::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use tls_codec::{Deserialize as _, Serialize as _, TlsDeserialize, TlsSerialize, TlsSize, VLBytes};

use crate::{Address, StateKey, name::Domain};

/// `MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519`.
pub const CIPHERSUITE: u16 = 0x0001;
/// Extension types from the range for private use (RFC 9420 §17.3).
pub const GROUP_POLICY: u16 = 0xf0a1;
pub const DELIVERY_ADDRESS: u16 = 0xf0a2;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the extension is malformed")]
pub struct MalformedExtension;

/// A user within one group: random, never used elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, TlsSize, TlsSerialize, TlsDeserialize)]
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
        assert!(GroupPolicy::from_bytes(&[1, 2, 3]).is_err());
    }
}
