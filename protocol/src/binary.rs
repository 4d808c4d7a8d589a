//! Newtypes for everything that is bytes on the wire: base64url text in JSON, byte
//! strings in CBOR. Their `Debug` shows a length and never the content, so that no
//! log line can leak an id or a key (PRIV-4).

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, SeqAccess, Visitor},
};
use zeroize::Zeroize;

/// A value of fixed size had another length.
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
                URL_SAFE_NO_PAD.encode(&self.0)
            }
            /// Parses [`Self::to_base64url`]; anything else is a [`WrongLength`] of 0 bytes.
            pub fn from_base64url(text: &str) -> Result<Self, WrongLength> {
                let bytes = URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
                Self::try_from(bytes.as_slice())
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.serialize_str(&self.to_base64url())
                } else {
                    serializer.serialize_bytes(&self.0)
                }
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let bytes = if deserializer.is_human_readable() {
                    deserializer.deserialize_str(Base64Url)?
                } else {
                    deserializer.deserialize_byte_buf(Bytes)?
                };
                Self::try_from(bytes.as_slice()).map_err(D::Error::custom)
            }
        }
    };
}

struct Base64Url;

impl Visitor<'_> for Base64Url {
    type Value = Vec<u8>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unpadded base64url text")
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<Vec<u8>, E> {
        URL_SAFE_NO_PAD.decode(text).map_err(|_| E::custom("not unpadded base64url"))
    }
}

struct Bytes;

impl<'de> Visitor<'de> for Bytes {
    type Value = Vec<u8>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a byte string")
    }
    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }
    fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }
    /// Encoders without byte strings (JavaScript's plain arrays) write arrays of numbers.
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<u8>, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = seq.next_element()? {
            bytes.push(byte);
        }
        Ok(bytes)
    }
}

fixed! {
    /// An Ed25519 public key: a client's at the AS, a queue owner's at the QS, a leaf's at the DS.
    PublicKey[32];
    /// An X25519 public key for HPKE (RFC 9180).
    HpkePublicKey[32];
    /// A mailbox of the QS, known to its owner and the QS only.
    QueueId[16];
    /// What a sender holds to deliver into a queue: random, made by the queue's owner (QS-3).
    Address[32];
    /// What a user's contacts hold to fetch KeyPackages of all its clients: random, the same
    /// for all clients of a user (QS-6).
    FriendshipToken[32];
    /// One client's stock of KeyPackages within a friendship: random, used nowhere else.
    StockId[16];
    /// The AES-256 key that a group's members send with each request and under which the
    /// DS keeps the group's state (DS-9).
    StateKey[32];
    /// A P-256 public key, as an uncompressed point: a push service's view of a server (RFC 8292
    /// §3.2), a server's of a user agent (RFC 8291 §3.1).
    P256PublicKey[65];
    /// A user agent's authentication secret (RFC 8291 §3.2).
    PushAuth[16];
    /// A sealed [`crate::push::PushSubscription`].
    SealedSubscription[1052];
    /// A sealed [`crate::push::AddressPush`].
    SealedPush[61];
    /// SHA-256 of a message.
    MessageDigest[32];
}

impl MessageDigest {
    pub fn of(message: &[u8]) -> Self {
        Self(crate::address::copied(digest(&SHA256, message).as_ref()))
    }
}

variable! {
    /// What a client keeps beside a leaf for the members of its group, who alone can open it
    /// (DS-12): [`crate::ds::MAX_ATTRIBUTES`] bytes at most.
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
    /// An Ed25519 signature.
    Signature;
    /// Opaque to the server: bytes from one client to another.
    Payload;
    /// A queued message as it lies in the database (QS-5).
    Ciphertext;
    /// The sealed start of a queue's chain (QS-5), 80 bytes.
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
