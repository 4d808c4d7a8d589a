//! Newtypes for everything that is bytes on the wire: base64url text in JSON, byte strings in CBOR.
//! Their `Debug` shows a length and never the content, so that no log line can leak an id or a key
//! (PRIV-4).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use zeroize::Zeroize;

use crate::{bytes, hash::sha256};

/// A value of fixed size has another length; both are in bytes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("expected {expected} bytes, found {found}")]
pub struct WrongLength {
    pub expected: usize,
    pub found: usize,
}

macro_rules! fixed {
    ($($(#[$doc:meta])* $name:ident[$len:literal];)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Bytes of every value.
            pub const LEN: usize = $len;
            pub const fn new(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }
        impl TryFrom<&[u8]> for $name {
            type Error = WrongLength;
            fn try_from(bytes: &[u8]) -> Result<Self, WrongLength> {
                bytes.try_into().map(Self).map_err(|_| WrongLength { expected: $len, found: bytes.len() })
            }
        }
        impl Zeroize for $name {
            fn zeroize(&mut self) {
                self.0.zeroize();
            }
        }
        binary!($name);
    )*};
}

macro_rules! variable {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, Default)]
        pub struct $name(Vec<u8>);

        impl $name {
            pub const fn new(bytes: Vec<u8>) -> Self {
                Self(bytes)
            }
            pub fn as_bytes(&self) -> &[u8] {
                &self.0
            }
            pub fn into_bytes(self) -> Vec<u8> {
                self.0
            }
        }
        impl TryFrom<&[u8]> for $name {
            type Error = WrongLength;
            fn try_from(bytes: &[u8]) -> Result<Self, WrongLength> {
                Ok(Self(bytes.to_vec()))
            }
        }
        binary!($name);
    )*};
}

macro_rules! binary {
    ($name:ident) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({} bytes)"), self.0.len())
            }
        }
        impl $name {
            /// Unpadded base64url: the form in URLs, JSON and `keyid`.
            pub fn to_base64url(&self) -> String {
                bytes::to_base64url(&self.0)
            }
            /// Parses [`Self::to_base64url`].
            ///
            /// # Errors
            /// [`WrongLength`]; text that is not unpadded base64url has 0 bytes.
            pub fn from_base64url(text: &str) -> Result<Self, WrongLength> {
                Self::try_from(bytes::from_base64url(text).unwrap_or_default().as_slice())
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                bytes::serialize(&self.0, serializer)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let bytes = bytes::deserialize(deserializer)?;
                Self::try_from(bytes.as_slice()).map_err(D::Error::custom)
            }
        }
    };
}

fixed! {
    /// An Ed25519 public key: a client's at the AS, a queue owner's at the QS, a leaf's at the DS.
    PublicKey[32];
    /// An X25519 public key for HPKE (RFC 9180).
    HpkePublicKey[32];
    /// The id of a queue, known to its owner and the QS only.
    QueueId[16];
    /// A delivery address, with which a sender delivers into a queue: random, made by the queue's
    /// owner (QS-3).
    Address[32];
    /// The token with which a user's contacts fetch KeyPackages of all its clients: random, the same
    /// for all clients of a user (QS-6).
    FriendshipToken[32];
    /// The id of one client's stock of KeyPackages within a friendship: random, used nowhere else.
    StockId[16];
    /// The AES-256 key that a group's members send with each request, under which the DS keeps the
    /// group's state (DS-9).
    StateKey[32];
    /// A P-256 public key, as an uncompressed point: a server's to push services (RFC 8292 §3.2), or
    /// a user agent's to servers (RFC 8291 §3.1).
    P256PublicKey[65];
    /// A user agent's authentication secret (RFC 8291 §3.2).
    PushAuth[16];
    /// A sealed [`crate::push::PushSubscription`].
    SealedSubscription[1052];
    /// A sealed [`crate::push::AddressPush`].
    SealedPush[61];
    /// Digest of everything that happened to an incarnation of an identity ([`crate::eid`]).
    Transcript[32];
    /// Tree hash of an identity's GroupContext (RFC 9420 §7.8).
    TreeHash[32];
    /// SHA-256 of a message.
    MessageDigest[32];
    /// The secret by which contacts look up a user that others cannot (AS-6).
    LookupSecret[32];
    /// The id of a delivery to another homeserver: random (FED-4).
    DeliveryId[16];
    /// The id of the numbering of such deliveries in a lane: random (FED-4).
    LaneInstance[16];
    /// The hash of an invite's code, see [`crate::admission::InviteCode`].
    InviteDigest[32];
}

impl MessageDigest {
    /// The digest of a message.
    pub fn of(message: &[u8]) -> Self {
        Self(sha256(&[message]))
    }
}

variable! {
    /// Sealed attributes of a leaf, which only the members of its group can open (DS-12): at most
    /// [`crate::ds::MAX_ATTRIBUTES`] bytes.
    Attributes;
    /// A serialised `MLSMessage` (RFC 9420 §6).
    MlsMessage;
    /// A serialised `MLSMessage` holding a `GroupInfo` (RFC 9420 §12.4.3).
    GroupInfo;
    /// A serialised `optional<Node> ratchet_tree<V>` (RFC 9420 §12.4.3.3).
    RatchetTree;
    /// A serialised `MLSMessage` holding a `Welcome` (RFC 9420 §12.4.3.1).
    Welcome;
    /// A serialised [`crate::credential::ClientCredential`], signed by the AS.
    IssuedCredential;
    /// A serialised [`crate::credential::IssuerStatement`], signed by a domain's root.
    IssuerCertificate;
    /// An Ed25519 signature.
    Signature;
    /// Bytes from one client to another, opaque to the server.
    Payload;
    /// A queued message as the database keeps it (QS-5).
    Ciphertext;
    /// The sealed start of a queue's chain (QS-5): [`crate::chain::HEADER_LEN`] bytes.
    ChainHeader;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_base64url_in_json_and_byte_strings_in_cbor() {
        let id = QueueId::new([0xfb; 16]);
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, "\"-_v7-_v7-_v7-_v7-_v7-w\"");
        assert_eq!(serde_json::from_str::<QueueId>(&json).unwrap(), id);

        let mut cbor = Vec::new();
        ciborium::into_writer(&id, &mut cbor).unwrap();
        assert_eq!(cbor[0], 0x50, "a byte string of length 16");
        assert_eq!(ciborium::from_reader::<QueueId, _>(&cbor[..]).unwrap(), id);
    }

    #[test]
    fn a_wrong_length_is_refused() {
        assert!(serde_json::from_str::<QueueId>("\"AAAA\"").is_err());
        assert!(QueueId::from_base64url("not base64 at all!").is_err());
    }

    #[test]
    fn debug_shows_no_content() {
        assert_eq!(format!("{:?}", Address::new([7; 32])), "Address(32 bytes)");
    }
}
