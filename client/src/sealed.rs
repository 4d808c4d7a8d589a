//! Content that waits at a server for those who share a key: AES-256-GCM, with the length hidden up
//! to a block, and bound to a leaf.

use openmls::prelude::{AeadType, OpenMlsCrypto};
use postern_protocol::PublicKey;

use crate::error::{Error, Result};

/// The content is padded to multiples of this many bytes.
const BLOCK: usize = 512;
const NONCE: usize = 12;

/// `nonce (12) || ciphertext` of `length (u16, big endian) || content || zeros`, with the leaf
/// key as associated data.
pub(crate) fn seal(
    crypto: &impl OpenMlsCrypto,
    key: &[u8; 32],
    leaf_key: &PublicKey,
    content: &[u8],
) -> Result<Vec<u8>> {
    let length = u16::try_from(content.len()).map_err(Error::mls("this is too long to be sealed"))?;
    let mut plaintext = length.to_be_bytes().to_vec();
    plaintext.extend_from_slice(content);
    plaintext.resize(plaintext.len().next_multiple_of(BLOCK), 0);
    let nonce: [u8; NONCE] = rand::random();
    let ciphertext = crypto
        .aead_encrypt(AeadType::Aes256Gcm, key, &plaintext, &nonce, leaf_key.as_bytes())
        .map_err(Error::mls("cannot seal"))?;
    Ok([nonce.as_slice(), &ciphertext].concat())
}

/// `None` for anything but what [`seal`] made with this key for this leaf.
pub(crate) fn open(
    crypto: &impl OpenMlsCrypto,
    key: &[u8; 32],
    leaf_key: &PublicKey,
    sealed: &[u8],
) -> Option<Vec<u8>> {
    let (nonce, ciphertext) = sealed.split_at_checked(NONCE)?;
    let plaintext =
        crypto.aead_decrypt(AeadType::Aes256Gcm, key, ciphertext, nonce, leaf_key.as_bytes()).ok()?;
    let (length, rest) = plaintext.split_first_chunk()?;
    rest.get(..usize::from(u16::from_be_bytes(*length))).map(<[u8]>::to_vec)
}
