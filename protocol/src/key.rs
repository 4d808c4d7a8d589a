//! Ed25519 keys (RFC 8032): clients, queue owners, leaves and services all sign in the same way.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{PublicKey, Signature, random::random};

/// The signature does not verify, or the public key is no point on the curve.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the signature does not verify")]
pub struct BadSignature;

/// A key that a service publishes. Times are seconds since 1970, both inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedKey {
    pub public_key: PublicKey,
    pub not_before: u64,
    pub not_after: u64,
}

/// A signing key as its 32 byte seed (RFC 8032 §5.1.5), erased when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SigningKey {
    seed: [u8; 32],
    #[zeroize(skip)]
    public: PublicKey,
}

impl SigningKey {
    /// # Panics
    /// If the operating system has no randomness.
    pub fn generate() -> Self {
        Self::from_seed(random().expect("the operating system provides randomness"))
    }

    /// The key of this seed.
    ///
    /// # Panics
    /// Never: any 32 bytes are a seed.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let public = PublicKey::try_from(key_pair(&seed).public_key().as_ref())
            .expect("an Ed25519 public key has 32 bytes");
        Self { seed, public }
    }

    /// The secret seed, for sealed storage.
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    pub fn public_key(&self) -> PublicKey {
        self.public
    }

    /// Signs a message; the signature has 64 bytes.
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature::new(key_pair(&self.seed).sign(message).as_ref().to_vec())
    }
}

fn key_pair(seed: &[u8; 32]) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are an Ed25519 seed")
}

impl PublicKey {
    /// Verifies a signature of this key.
    ///
    /// # Errors
    /// [`BadSignature`], without saying why.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), BadSignature> {
        UnparsedPublicKey::new(&ED25519, self.as_bytes())
            .verify(message, signature.as_bytes())
            .map_err(|_| BadSignature)
    }
}

impl PublishedKey {
    /// Whether the key is valid at `now` (seconds since 1970).
    pub fn is_valid_at(&self, now: u64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}
