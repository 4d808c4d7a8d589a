//! The cryptography of a party: any library's, since none has every ciphersuite. It may say of a key that it made that
//! it is another, and spoil what it makes for others.

use std::sync::{Mutex, MutexGuard};

use openmls::prelude::{
    AeadType, Ciphersuite, CryptoError, ExporterSecret, HashType, HpkeCiphertext, HpkeConfig, HpkeKeyPair,
    KemOutput, OpenMlsCrypto, OpenMlsProvider, SignatureScheme,
};
use openmls_rust_crypto::{MemoryStorage, RustCrypto};
use tls_codec::SecretVLBytes;

pub struct Provider {
    crypto: Box<dyn OpenMlsCrypto>,
    rand: RustCrypto,
    storage: MemoryStorage,
    lie: Mutex<Option<Lie>>,
}

/// Makes another public key of one.
pub type Spoil = fn(Vec<u8>) -> Vec<u8>;

/// The part of the cryptography that is not as it should be.
enum Lie {
    /// One key pair's public key is not what was made.
    Key {
        /// Key pairs to be made before that one.
        place: usize,
        made: usize,
        spoil: Box<dyn Fn(Vec<u8>) -> Vec<u8> + Send>,
        /// Whether encryption is to the keys that others have, and not garbage.
        encrypts: bool,
    },
    /// The first authentication code is another one.
    Code { is_made: bool },
    /// Ciphertexts for this public key cannot be opened.
    Secret { to: Vec<u8>, is_made: bool },
}

/// Unusable keys of any ciphersuite here: X25519 is all of the key, or its end.
pub const UNUSABLE: [(&str, Spoil); 6] = [
    ("no key", |_| Vec::new()),
    ("a byte too few", |key| key[1..].to_vec()),
    ("a byte too many", |key| [key, vec![0]].concat()),
    ("a point of order 1", |key| ending(key, [0; 32])),
    ("a point of order 1, in another spelling", |key| {
        let mut point = [0; 32];
        point[31] = 0x80;
        ending(key, point)
    }),
    ("a point of order 2", |key| {
        let mut point = [0; 32];
        point[0] = 1;
        ending(key, point)
    }),
];

fn ending(mut key: Vec<u8>, point: [u8; 32]) -> Vec<u8> {
    let start = key.len() - point.len();
    key[start..].copy_from_slice(&point);
    key
}

impl Provider {
    pub fn of(crypto: Box<dyn OpenMlsCrypto>) -> Self {
        let (rand, storage) = (RustCrypto::default(), MemoryStorage::default());
        Self { crypto, rand, storage, lie: Mutex::default() }
    }

    /// Makes the key pair of this number, counted from now on, with another public key. It encrypts nothing any more,
    /// since it might not be able to.
    pub fn lie(&self, place: usize, spoil: Spoil) {
        self.lie_about_a_key(place, false, Box::new(spoil));
    }

    /// As [`Self::lie`], with this public key, which may be somebody's.
    pub fn claim(&self, place: usize, key: Vec<u8>) {
        self.lie_about_a_key(place, false, Box::new(move |_: Vec<u8>| key.clone()));
    }

    /// As [`Self::lie`], with a public key that others can encrypt to, and that can be encrypted to here.
    pub fn lie_usably(&self, place: usize, spoil: Spoil) {
        self.lie_about_a_key(place, true, Box::new(spoil));
    }

    /// Makes the next authentication code another one.
    pub fn lie_about_a_code(&self) {
        *self.lying() = Some(Lie::Code { is_made: false });
    }

    /// Encrypts garbage to this public key, and to others what it should.
    pub fn lie_to(&self, to: Vec<u8>) {
        *self.lying() = Some(Lie::Secret { to, is_made: false });
    }

    /// Ends the lie, and returns how many key pairs it made meanwhile, if it was about one.
    ///
    /// # Panics
    /// If it was about something else, of which none was made: a test would pass without a lie.
    pub fn repent(&self) -> usize {
        let lie = self.lying().take();
        match lie {
            Some(Lie::Key { made, .. }) => made,
            Some(Lie::Code { is_made } | Lie::Secret { is_made, .. }) => {
                assert!(is_made, "the lie was not told");
                0
            }
            None => 0,
        }
    }

    fn lie_about_a_key(&self, place: usize, encrypts: bool, spoil: Box<dyn Fn(Vec<u8>) -> Vec<u8> + Send>) {
        *self.lying() = Some(Lie::Key { place, made: 0, spoil, encrypts });
    }

    fn lying(&self) -> MutexGuard<'_, Option<Lie>> {
        self.lie.lock().expect("no panic holds it")
    }

    /// Whether what is encrypted to a public key is garbage.
    fn spoils(&self, to: &[u8]) -> bool {
        match &mut *self.lying() {
            Some(Lie::Key { encrypts, .. }) => !*encrypts,
            Some(Lie::Secret { to: spoilt, is_made }) => {
                let spoils = spoilt.as_slice() == to;
                *is_made |= spoils;
                spoils
            }
            Some(Lie::Code { .. }) | None => false,
        }
    }
}

impl Default for Provider {
    fn default() -> Self {
        Self::of(Box::new(RustCrypto::default()))
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

/// All but the first three go through the library.
macro_rules! by_the_library {
    ($($name:ident($($argument:ident: $of:ty),*) -> $output:ty;)*) => {
        impl OpenMlsCrypto for Provider {
            fn derive_hpke_keypair(&self, config: HpkeConfig, from: &[u8]) -> Done<HpkeKeyPair> {
                let mut pair = self.crypto.derive_hpke_keypair(config, from)?;
                if let Some(Lie::Key { place, made, spoil, .. }) = &mut *self.lying() {
                    if made == place {
                        pair.public = spoil(pair.public);
                    }
                    *made += 1;
                }
                Ok(pair)
            }

            fn hmac(&self, hash: HashType, key: &[u8], message: &[u8]) -> Done<SecretVLBytes> {
                let code = self.crypto.hmac(hash, key, message)?;
                match &mut *self.lying() {
                    Some(Lie::Code { is_made }) if !*is_made => {
                        *is_made = true;
                        let mut other = code.as_slice().to_vec();
                        other[0] ^= 1;
                        Ok(SecretVLBytes::new(other))
                    }
                    _ => Ok(code),
                }
            }

            fn hpke_seal(
                &self,
                config: HpkeConfig,
                to: &[u8],
                info: &[u8],
                aad: &[u8],
                data: &[u8],
            ) -> Done<HpkeCiphertext> {
                if self.spoils(to) {
                    return Ok(HpkeCiphertext { kem_output: vec![7; 32].into(), ciphertext: vec![7; 48].into() });
                }
                self.crypto.hpke_seal(config, to, info, aad, data)
            }

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
    hkdf_extract(hash: HashType, salt: &[u8], key: &[u8]) -> Done<SecretVLBytes>;
    hkdf_expand(hash: HashType, key: &[u8], info: &[u8], length: usize) -> Done<SecretVLBytes>;
    aead_encrypt(aead: AeadType, key: &[u8], data: &[u8], nonce: &[u8], aad: &[u8]) -> Done<Vec<u8>>;
    aead_decrypt(aead: AeadType, key: &[u8], data: &[u8], nonce: &[u8], aad: &[u8]) -> Done<Vec<u8>>;
    signature_key_gen(scheme: SignatureScheme) -> Done<(Vec<u8>, Vec<u8>)>;
    sign(scheme: SignatureScheme, data: &[u8], key: &[u8]) -> Done<Vec<u8>>;
    verify_signature(scheme: SignatureScheme, data: &[u8], key: &[u8], signature: &[u8]) -> Done<()>;
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
