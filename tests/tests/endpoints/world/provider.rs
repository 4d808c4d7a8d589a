//! What a party does its cryptography with: one of two libraries, since neither has every ciphersuite, and so that
//! they meet in a group.

use openmls::prelude::{
    AeadType, Ciphersuite, CryptoError, ExporterSecret, HashType, HpkeCiphertext, HpkeConfig, HpkeKeyPair,
    KemOutput, OpenMlsCrypto, OpenMlsProvider, SignatureScheme,
};
use openmls_libcrux_crypto::CryptoProvider as Libcrux;
use openmls_rust_crypto::{MemoryStorage, RustCrypto};
use tls_codec::SecretVLBytes;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    RustCrypto,
    Libcrux,
}

pub struct Provider {
    crypto: Box<dyn OpenMlsCrypto>,
    rand: RustCrypto,
    storage: MemoryStorage,
}

impl Provider {
    pub fn of(library: Library) -> Self {
        let crypto: Box<dyn OpenMlsCrypto> = match library {
            Library::RustCrypto => Box::new(RustCrypto::default()),
            Library::Libcrux => Box::new(Libcrux::new().expect("there is randomness")),
        };
        Self { crypto, rand: RustCrypto::default(), storage: MemoryStorage::default() }
    }
}

impl Default for Provider {
    fn default() -> Self {
        Self::of(Library::RustCrypto)
    }
}

impl OpenMlsProvider for Provider {
    type CryptoProvider = Self;
    type RandProvider = RustCrypto;
    type StorageProvider = MemoryStorage;

    fn crypto(&self) -> &Self {
        self
    }

    fn rand(&self) -> &RustCrypto {
        &self.rand
    }

    fn storage(&self) -> &MemoryStorage {
        &self.storage
    }
}

macro_rules! by_the_library {
    ($($name:ident($($argument:ident: $of:ty),*) -> $output:ty;)*) => {
        impl OpenMlsCrypto for Provider {
            $(fn $name(&self, $($argument: $of),*) -> $output {
                self.crypto.$name($($argument),*)
            })*
        }
    };
}

type Done<T> = Result<T, CryptoError>;

by_the_library! {
    supports(suite: Ciphersuite) -> Done<()>;
    supported_ciphersuites() -> Vec<Ciphersuite>;
    hash(hash: HashType, data: &[u8]) -> Done<Vec<u8>>;
    hmac(hash: HashType, key: &[u8], message: &[u8]) -> Done<SecretVLBytes>;
    hkdf_extract(hash: HashType, salt: &[u8], key: &[u8]) -> Done<SecretVLBytes>;
    hkdf_expand(hash: HashType, key: &[u8], info: &[u8], length: usize) -> Done<SecretVLBytes>;
    aead_encrypt(aead: AeadType, key: &[u8], data: &[u8], nonce: &[u8], aad: &[u8]) -> Done<Vec<u8>>;
    aead_decrypt(aead: AeadType, key: &[u8], data: &[u8], nonce: &[u8], aad: &[u8]) -> Done<Vec<u8>>;
    signature_key_gen(scheme: SignatureScheme) -> Done<(Vec<u8>, Vec<u8>)>;
    sign(scheme: SignatureScheme, data: &[u8], key: &[u8]) -> Done<Vec<u8>>;
    verify_signature(scheme: SignatureScheme, data: &[u8], key: &[u8], signature: &[u8]) -> Done<()>;
    derive_hpke_keypair(config: HpkeConfig, from: &[u8]) -> Done<HpkeKeyPair>;
    hpke_seal(config: HpkeConfig, to: &[u8], info: &[u8], aad: &[u8], data: &[u8]) -> Done<HpkeCiphertext>;
    hpke_open(
        config: HpkeConfig, sealed: &HpkeCiphertext, key: &[u8], info: &[u8], aad: &[u8]
    ) -> Done<Vec<u8>>;
    hpke_setup_sender_and_export(
        config: HpkeConfig, to: &[u8], info: &[u8], context: &[u8], length: usize
    ) -> Done<(KemOutput, ExporterSecret)>;
    hpke_setup_receiver_and_export(
        config: HpkeConfig, kem_output: &[u8], key: &[u8], info: &[u8], context: &[u8], length: usize
    ) -> Done<ExporterSecret>;
}
