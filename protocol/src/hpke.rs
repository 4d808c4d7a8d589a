//! HPKE (RFC 9180) as Postern uses it: base mode, one message per encapsulation, with
//! DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM.
//!
//! ```text
//! enc (32) || ciphertext (as long as the plaintext) || tag (16)
//! ```
//!
//! `info` names the use of the value, the associated data its owner or place; both sides know them,
//! and they are not part of the result.

use hpke::{
    Deserializable as _, Kem as _, OpModeR, OpModeS, Serializable as _, aead::AesGcm256, kdf::HkdfSha256,
    kem::X25519HkdfSha256,
};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{HpkePublicKey, random::random, sealed::TAG_LEN};

/// Bytes of the encapsulated key.
pub const ENC_LEN: usize = 32;
/// Number of bytes by which a sealed value is longer than its plaintext.
pub const OVERHEAD: usize = ENC_LEN + TAG_LEN;

type PublicKey = <X25519HkdfSha256 as hpke::Kem>::PublicKey;
type PrivateKey = <X25519HkdfSha256 as hpke::Kem>::PrivateKey;
type EncappedKey = <X25519HkdfSha256 as hpke::Kem>::EncappedKey;

/// A failure to seal or open a value.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum HpkeError {
    #[error("nothing can be sealed to this X25519 public key")]
    UnusablePublicKey,
    /// Sealed to another key, for another use or place, cut or changed: these cannot be told apart.
    #[error("not sealed to this key for this use and place, or changed")]
    Wrong,
    #[error("the cryptographic library failed")]
    Crypto,
}

impl HpkePublicKey {
    /// Seals `plaintext` into a value that is [`OVERHEAD`] bytes longer.
    ///
    /// # Errors
    /// [`HpkeError::UnusablePublicKey`].
    pub fn seal(&self, info: &[u8], aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, HpkeError> {
        let (enc, ciphertext) = self.encapsulate(info, aad, plaintext)?;
        Ok([enc.as_slice(), &ciphertext].concat())
    }

    /// Seals `plaintext`; returns the encapsulated key and the ciphertext with its tag.
    pub(crate) fn encapsulate(
        &self,
        info: &[u8],
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<([u8; ENC_LEN], Vec<u8>), HpkeError> {
        let key = PublicKey::from_bytes(self.as_bytes()).map_err(|_| HpkeError::UnusablePublicKey)?;
        let (enc, ciphertext) = hpke::single_shot_seal::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &key,
            info,
            plaintext,
            aad,
        )
        .map_err(|_| HpkeError::UnusablePublicKey)?;
        Ok((enc.to_bytes().into(), ciphertext))
    }

    /// Whether values can be sealed to it. Points of small order are refused, with which everyone
    /// would share the secret (RFC 9180 §7.1.4).
    pub fn is_usable(&self) -> bool {
        self.encapsulate(&[], &[], &[]).is_ok()
    }
}

/// The secret half of an [`HpkePublicKey`], erased when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct HpkePrivateKey([u8; 32]);

impl HpkePrivateKey {
    /// A new key.
    ///
    /// # Errors
    /// [`HpkeError::Crypto`] if the operating system has no randomness.
    pub fn generate() -> Result<Self, HpkeError> {
        let seed: Zeroizing<[u8; 32]> = Zeroizing::new(random().map_err(|_| HpkeError::Crypto)?);
        let (private, _) = X25519HkdfSha256::derive_keypair(&*seed);
        Ok(Self(private.to_bytes().into()))
    }

    /// The key from its secret bytes, see [`Self::as_bytes`].
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The secret bytes, for sealed storage.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The public key to this one.
    ///
    /// # Errors
    /// [`HpkeError::Crypto`]: not for a key from [`Self::generate`].
    pub fn public_key(&self) -> Result<HpkePublicKey, HpkeError> {
        Ok(HpkePublicKey::new(X25519HkdfSha256::sk_to_pk(&self.key()?).to_bytes().into()))
    }

    /// Opens a value that [`HpkePublicKey::seal`] made.
    ///
    /// # Errors
    /// [`HpkeError::Wrong`].
    pub fn open(&self, info: &[u8], aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, HpkeError> {
        let (enc, ciphertext) = sealed.split_at_checked(ENC_LEN).ok_or(HpkeError::Wrong)?;
        let enc = EncappedKey::from_bytes(enc).map_err(|_| HpkeError::Wrong)?;
        hpke::single_shot_open::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &self.key()?,
            &enc,
            info,
            ciphertext,
            aad,
        )
        .map_err(|_| HpkeError::Wrong)
    }

    fn key(&self) -> Result<PrivateKey, HpkeError> {
        PrivateKey::from_bytes(&self.0).map_err(|_| HpkeError::Crypto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_opens_with_its_key_for_its_use_and_place_only() {
        let private = HpkePrivateKey::generate().unwrap();
        let sealed = private.public_key().unwrap().seal(b"use", b"place", b"value").unwrap();
        assert_eq!(sealed.len(), 5 + OVERHEAD);
        assert_eq!(private.open(b"use", b"place", &sealed).unwrap(), b"value");
        assert_eq!(private.open(b"other", b"place", &sealed), Err(HpkeError::Wrong));
        assert_eq!(private.open(b"use", b"elsewhere", &sealed), Err(HpkeError::Wrong));
        assert_eq!(private.open(b"use", b"place", &sealed[..20]), Err(HpkeError::Wrong));
        let other = HpkePrivateKey::generate().unwrap();
        assert_eq!(other.open(b"use", b"place", &sealed), Err(HpkeError::Wrong));
    }

    #[test]
    fn keys_of_small_order_are_unusable() {
        assert!(HpkePrivateKey::generate().unwrap().public_key().unwrap().is_usable());
        assert!(!HpkePublicKey::new([0; 32]).is_usable());
    }
}
