//! The part of MLS cryptography that a delivery service needs: hashing and verifying. It
//! holds no secret, so everything else is refused. `aws-lc-rs` verifies Ed25519 in two
//! thirds of the time of the pure Rust provider.

use aws_lc_rs::{
    digest::{self, digest},
    signature::{ED25519, UnparsedPublicKey},
};
use openmls::prelude::{
    AeadType, Ciphersuite, CryptoError, ExporterSecret, HashType, HpkeCiphertext, HpkeConfig, HpkeKeyPair,
    KemOutput, OpenMlsCrypto, SignatureScheme,
};
use tls_codec::SecretVLBytes;

pub struct PublicCrypto {
    /// False for trials: the server makes them itself, and every signature passes.
    verifies: bool,
}

impl PublicCrypto {
    pub const VERIFYING: Self = Self { verifies: true };
    /// For a commit that the server tries in a member's name ([`super::TrackedGroup::try_commit`]).
    pub const TRIAL: Self = Self { verifies: false };
}

/// The supported ciphersuites, those with SHA-256 and Ed25519, as in `operator.ciphersuites`. They differ in encryption
/// only, which the server never does.
const SUITES: [Ciphersuite; 4] = [
    Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519,
    Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519,
    Ciphersuite::MLS_256_XWING_CHACHA20POLY1305_SHA256_Ed25519,
    Ciphersuite::MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519,
];

/// The error of every operation with secrets: reached only if openmls starts to ask a public group for some.
const NO_SECRETS: CryptoError = CryptoError::CryptoLibraryError;

impl OpenMlsCrypto for PublicCrypto {
    fn supports(&self, ciphersuite: Ciphersuite) -> Result<(), CryptoError> {
        if SUITES.contains(&ciphersuite) { Ok(()) } else { Err(CryptoError::UnsupportedCiphersuite) }
    }

    fn supported_ciphersuites(&self) -> Vec<Ciphersuite> {
        SUITES.to_vec()
    }

    fn hash(&self, hash_type: HashType, data: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let algorithm = match hash_type {
            HashType::Sha2_256 => &digest::SHA256,
            HashType::Sha2_384 => &digest::SHA384,
            HashType::Sha2_512 => &digest::SHA512,
        };
        Ok(digest(algorithm, data).as_ref().to_vec())
    }

    fn verify_signature(
        &self,
        scheme: SignatureScheme,
        data: &[u8],
        public_key: &[u8],
        signature: &[u8],
    ) -> Result<(), CryptoError> {
        if scheme != SignatureScheme::ED25519 {
            return Err(CryptoError::UnsupportedSignatureScheme);
        }
        if !self.verifies {
            return Ok(());
        }
        UnparsedPublicKey::new(&ED25519, public_key)
            .verify(data, signature)
            .map_err(|_| CryptoError::InvalidSignature)
    }

    fn hkdf_extract(&self, _: HashType, _: &[u8], _: &[u8]) -> Result<SecretVLBytes, CryptoError> {
        Err(NO_SECRETS)
    }

    fn hmac(&self, _: HashType, _: &[u8], _: &[u8]) -> Result<SecretVLBytes, CryptoError> {
        Err(NO_SECRETS)
    }

    fn hkdf_expand(&self, _: HashType, _: &[u8], _: &[u8], _: usize) -> Result<SecretVLBytes, CryptoError> {
        Err(NO_SECRETS)
    }

    fn aead_encrypt(
        &self,
        _: AeadType,
        _: &[u8],
        _: &[u8],
        _: &[u8],
        _: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        Err(NO_SECRETS)
    }

    fn aead_decrypt(
        &self,
        _: AeadType,
        _: &[u8],
        _: &[u8],
        _: &[u8],
        _: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        Err(NO_SECRETS)
    }

    fn signature_key_gen(&self, _: SignatureScheme) -> Result<(Vec<u8>, Vec<u8>), CryptoError> {
        Err(NO_SECRETS)
    }

    fn sign(&self, _: SignatureScheme, _: &[u8], _: &[u8]) -> Result<Vec<u8>, CryptoError> {
        Err(NO_SECRETS)
    }

    fn hpke_seal(
        &self,
        _: HpkeConfig,
        _: &[u8],
        _: &[u8],
        _: &[u8],
        _: &[u8],
    ) -> Result<HpkeCiphertext, CryptoError> {
        Err(NO_SECRETS)
    }

    fn hpke_open(
        &self,
        _: HpkeConfig,
        _: &HpkeCiphertext,
        _: &[u8],
        _: &[u8],
        _: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        Err(NO_SECRETS)
    }

    fn hpke_setup_sender_and_export(
        &self,
        _: HpkeConfig,
        _: &[u8],
        _: &[u8],
        _: &[u8],
        _: usize,
    ) -> Result<(KemOutput, ExporterSecret), CryptoError> {
        Err(NO_SECRETS)
    }

    fn hpke_setup_receiver_and_export(
        &self,
        _: HpkeConfig,
        _: &[u8],
        _: &[u8],
        _: &[u8],
        _: &[u8],
        _: usize,
    ) -> Result<ExporterSecret, CryptoError> {
        Err(NO_SECRETS)
    }

    fn derive_hpke_keypair(&self, _: HpkeConfig, _: &[u8]) -> Result<HpkeKeyPair, CryptoError> {
        Err(NO_SECRETS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stored groups name a ciphersuite by its place in openmls's list, so places must stay when openmls gets more.
    #[test]
    fn a_stored_ciphersuite_is_read_by_later_versions() {
        let stored = SUITES.map(|suite| postcard::to_stdvec(&suite).unwrap());
        assert_eq!(stored, [[0], [2], [7], [9]]);
        assert_eq!(SUITES.map(u16::from), [0x0001, 0x0003, 0x004d, 0x004f]);
    }
}
