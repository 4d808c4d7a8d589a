//! Libraries of cryptography: neither has every ciphersuite, and their users meet in a group.

use openmls::prelude::OpenMlsCrypto;
use openmls_libcrux_crypto::CryptoProvider as Libcrux;
use openmls_rust_crypto::RustCrypto;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    RustCrypto,
    Libcrux,
}

impl Library {
    pub fn crypto(self) -> Box<dyn OpenMlsCrypto> {
        match self {
            Self::RustCrypto => Box::new(RustCrypto::default()),
            Self::Libcrux => Box::new(Libcrux::new().expect("there is randomness")),
        }
    }
}
