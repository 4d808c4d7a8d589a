//! Postern's extensions of MLS groups (RFC 9420 §13.4): one of the group context and two of leaf nodes,
//! all TLS structures.
//!
//! ```text
//! struct { opaque state_secret[32]; Pseudonym admins<V>; } GroupPolicy;      /* GroupContext */
//! struct { opaque domain<V>; opaque address[32]; } DeliveryAddress;          /* LeafNode */
//! struct { uint32 generation; opaque public_key[32]; } UserKey;              /* LeafNode */
//! opaque Pseudonym[16];   /* the identity of the leaf's basic credential */
//! ```
//!
//! So the group itself agrees on membership, roles and delivery: a client that joins by Welcome knows
//! the state key, and the roster that the DS delivers to is the tree. A user's clients share a
//! pseudonym; the user's key is the one of the highest generation among their leaves.

use serde::{Deserialize, Serialize};
use tls_codec::{Deserialize as _, Serialize as _, TlsDeserialize, TlsSerialize, TlsSize, VLBytes};

use crate::{
    Address, PublicKey, StateKey,
    ds::GroupId,
    hash::{hmac_key, hmac_sha256},
    label::Label,
    name::Domain,
    random::random,
};

/// The ciphersuite that every server allows: `MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519` (RFC 9420
/// §17.1).
pub const CIPHERSUITE: u16 = 0x0001;
/// Extension type of a [`GroupPolicy`], from the range for private use (RFC 9420 §17.3).
pub const GROUP_POLICY: u16 = 0xf0a1;
/// Extension type of a [`DeliveryAddress`], from the same range.
pub const DELIVERY_ADDRESS: u16 = 0xf0a2;
/// Extension type of a [`UserKey`], from the same range.
pub const USER_KEY: u16 = 0xf0a3;

/// The number of generations by which a user's key may be ahead of the epoch that it comes with. A DS that was restored to
/// an earlier state (QS-12) sees keys of epochs that it lost.
const GENERATIONS_AHEAD: u64 = 1000;

/// The content of an extension is not the TLS structure it should be.
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

/// The secret that the state key is derived from, and the users that may add and remove others (DS-6).
#[derive(Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserialize)]
pub struct GroupPolicy {
    pub state_secret: [u8; 32],
    pub admins: Vec<Pseudonym>,
}

/// The address that a member's messages are delivered to, and the domain of its QS.
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

/// The key with which a user's clients act for the user in one group (DS-6): with it they let further
/// clients of theirs join. Only the user's clients know its private half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserKey {
    /// Grows when the key is replaced, which is necessary when one of the user's clients leaves.
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
        Self(random().expect("the operating system provides randomness"))
    }
}

impl GroupPolicy {
    /// A fresh policy with one admin.
    ///
    /// # Panics
    /// If the operating system has no randomness.
    pub fn new(admin: Pseudonym) -> Self {
        let state_secret = random().expect("the operating system provides randomness");
        Self { state_secret, admins: vec![admin] }
    }

    /// The key that the DS keeps the group's state under (DS-9):
    /// `HMAC-SHA256(state_secret, "Postern group state" || 0)`. It is derived, so that the state, which
    /// contains the secret, does not contain the key that it is sealed under.
    pub fn state_key(&self) -> StateKey {
        StateKey::new(hmac_sha256(&hmac_key(&self.state_secret), &[Label::GROUP_STATE.as_bytes()]))
    }

    /// The content of the extension.
    ///
    /// # Panics
    /// Never: the structure has a bounded size.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.tls_serialize_detached().expect("a policy serialises")
    }

    /// Reads the content of the extension.
    ///
    /// # Errors
    /// [`MalformedExtension`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MalformedExtension> {
        Self::tls_deserialize_exact(bytes).map_err(|_| MalformedExtension)
    }
}

impl DeliveryAddress {
    /// The content of the extension.
    ///
    /// # Panics
    /// Never: the structure has a bounded size.
    pub fn to_bytes(&self) -> Vec<u8> {
        let wire = DeliveryAddressTls {
            domain: self.domain.as_str().as_bytes().to_vec().into(),
            address: *self.address.as_bytes(),
        };
        wire.tls_serialize_detached().expect("an address serialises")
    }

    /// Reads the content of the extension.
    ///
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

/// The bytes that a user's key signs so that a new leaf may enter by external commit (DS-7); the
/// signature is the commit's authenticated data. So members need not trust the DS that the user
/// wants the leaf.
///
/// `"Postern join" || 0 || group id || epoch (u64, big endian) || leaf key`; the epoch is the one
/// that the commit is made in.
pub fn to_join(group_id: &GroupId, epoch: u64, leaf_key: &PublicKey) -> Vec<u8> {
    Label::JOIN.followed_by(&[&group_id.to_mls(), &epoch.to_be_bytes(), leaf_key.as_bytes()])
}

impl UserKey {
    /// The latest generation of a key that comes with an epoch. Generations that grow by one with a commit stay far below
    /// it, and each epoch has one more than the epoch before: whatever generation a client of a user's takes, the user's
    /// others can bring a later one with the next commit, so that no client that is to be removed uses the numbers up
    /// (AS-13).
    pub fn latest_generation(epoch: u64) -> u32 {
        u32::try_from(epoch.saturating_add(GENERATIONS_AHEAD)).unwrap_or(u32::MAX)
    }

    /// The content of the extension.
    ///
    /// # Panics
    /// Never: the structure has a bounded size.
    pub fn to_bytes(&self) -> Vec<u8> {
        let wire = UserKeyTls { generation: self.generation, public_key: *self.public_key.as_bytes() };
        wire.tls_serialize_detached().expect("a key serialises")
    }

    /// Reads the content of the extension.
    ///
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

    #[test]
    fn each_epoch_has_room_for_a_later_key_than_any_that_came_before() {
        for epoch in [0, 1, 4_000_000_000] {
            let latest = UserKey::latest_generation(epoch);
            assert!(u64::from(latest) > epoch && latest < UserKey::latest_generation(epoch + 1), "{epoch}");
        }
        assert_eq!(UserKey::latest_generation(u64::MAX), u32::MAX);
    }
}
