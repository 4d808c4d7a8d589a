//! Content that waits at a server for clients that share a key, sealed with its length hidden up to a
//! block, and bound to a leaf.

use postern_protocol::{PublicKey, sealed::SealingKey};

use crate::error::{Error, Result};

/// The content is padded to multiples of this many bytes.
const BLOCK: usize = 512;

/// An envelope (see [`postern_protocol::sealed`]) of `length (u16, big endian) || content || zeros`,
/// with the leaf key as associated data.
pub(crate) fn seal(key: &[u8; 32], leaf_key: &PublicKey, content: &[u8]) -> Result<Vec<u8>> {
    seal_for(key, leaf_key.as_bytes(), content)
}

/// The same with other associated data.
pub(crate) fn seal_for(key: &[u8; 32], aad: &[u8], content: &[u8]) -> Result<Vec<u8>> {
    let length = u16::try_from(content.len()).map_err(Error::mls("this is too long to be sealed"))?;
    let mut plaintext = length.to_be_bytes().to_vec();
    plaintext.extend_from_slice(content);
    plaintext.resize(plaintext.len().next_multiple_of(BLOCK), 0);
    SealingKey::new(key).and_then(|key| key.seal(aad, &plaintext)).map_err(Error::mls("cannot seal"))
}

/// `None` for anything but what [`seal`] made with this key for this leaf.
pub(crate) fn open(key: &[u8; 32], leaf_key: &PublicKey, sealed: &[u8]) -> Option<Vec<u8>> {
    open_for(key, leaf_key.as_bytes(), sealed)
}

/// `None` for anything but what [`seal_for`] made with this key and associated data.
pub(crate) fn open_for(key: &[u8; 32], aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let plaintext = SealingKey::new(key).ok()?.open(aad, sealed).ok()?;
    let (length, rest) = plaintext.split_first_chunk()?;
    rest.get(..usize::from(u16::from_be_bytes(*length))).map(<[u8]>::to_vec)
}
