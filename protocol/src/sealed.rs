//! The envelope of sealed values: AES-256-GCM (NIST SP 800-38D) with a random nonce, for keys that
//! seal more than once.
//!
//! ```text
//! nonce (12) || ciphertext (as long as the plaintext) || tag (16)
//! ```
//!
//! Associated data is not part of the envelope: it names the place that the value belongs to (its
//! row, owner or use), so that a value moved to another place does not open. Each caller documents
//! what it takes, and what the plaintext looks like. A key must not seal more than 2³² values
//! (SP 800-38D §8.3), far more than any key here lives to see.
//!
//! A key that seals exactly one thing needs no stored nonce: see [`OneTimeKey`].

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN as NONCE, Nonce, RandomizedNonceKey, UnboundKey},
    error::Unspecified,
};

/// Bytes of an AES-256 key.
pub const KEY_LEN: usize = 32;
/// Bytes before the ciphertext.
pub const NONCE_LEN: usize = NONCE;
/// Bytes after the ciphertext.
pub const TAG_LEN: usize = 16;
/// Number of bytes by which an envelope is longer than its plaintext.
pub const OVERHEAD: usize = NONCE_LEN + TAG_LEN;

/// A failure to seal or open a value.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum SealError {
    /// Sealed under another key or for another place, cut or changed: these cannot be told apart.
    #[error("not sealed under this key for this place, or changed")]
    Wrong,
    /// No randomness, no memory, or a plaintext of 64 GiB.
    #[error("the cryptographic library failed")]
    Crypto,
}

/// A key that seals values into envelopes.
pub struct SealingKey(RandomizedNonceKey);

impl SealingKey {
    /// # Errors
    /// [`SealError::Crypto`].
    pub fn new(key: &[u8; KEY_LEN]) -> Result<Self, SealError> {
        RandomizedNonceKey::new(&AES_256_GCM, key).map(Self).map_err(failed)
    }

    /// Seals `plaintext` into an envelope that is [`OVERHEAD`] bytes longer.
    ///
    /// # Errors
    /// [`SealError::Crypto`].
    pub fn seal(&self, aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut envelope = Vec::with_capacity(plaintext.len() + OVERHEAD);
        envelope.resize(NONCE_LEN, 0);
        envelope.extend_from_slice(plaintext);
        self.seal_in_place(aad, &mut envelope, 0)?;
        Ok(envelope)
    }

    /// Makes the end of `buffer` an envelope. From `start` on it holds [`NONCE_LEN`] bytes of any
    /// content, then the plaintext; the tag is appended.
    ///
    /// # Errors
    /// [`SealError::Crypto`], also if the buffer has no room for the nonce. It may hold part of the
    /// result then.
    pub fn seal_in_place(&self, aad: &[u8], buffer: &mut Vec<u8>, start: usize) -> Result<(), SealError> {
        let (nonce, content) = buffer
            .get_mut(start..)
            .and_then(|envelope| envelope.split_first_chunk_mut::<NONCE_LEN>())
            .ok_or(SealError::Crypto)?;
        let (chosen, tag) = self.0.seal_in_place_separate_tag(Aad::from(aad), content).map_err(failed)?;
        *nonce = *chosen.as_ref();
        buffer.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Opens an envelope.
    ///
    /// # Errors
    /// [`SealError::Wrong`].
    pub fn open(&self, aad: &[u8], envelope: &[u8]) -> Result<Vec<u8>, SealError> {
        let (nonce, ciphertext) = envelope.split_first_chunk().ok_or(SealError::Wrong)?;
        let mut plaintext = ciphertext.to_vec();
        let length = self
            .0
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(aad), &mut plaintext)
            .map_err(|Unspecified| SealError::Wrong)?
            .len();
        plaintext.truncate(length);
        Ok(plaintext)
    }
}

/// A key that seals exactly one thing, such as one message of a chain. The nonce is zero and not
/// part of the result, which is `ciphertext || tag`.
pub(crate) struct OneTimeKey(LessSafeKey);

impl OneTimeKey {
    pub(crate) fn new(key: &[u8; KEY_LEN]) -> Result<Self, SealError> {
        UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map(Self).map_err(failed)
    }

    /// Seals into `sealed`, which must be [`TAG_LEN`] bytes longer than `plaintext`.
    pub(crate) fn seal_into(self, aad: &[u8], plaintext: &[u8], sealed: &mut [u8]) -> Result<(), SealError> {
        let (ciphertext, tag) = sealed.split_at_mut_checked(plaintext.len()).ok_or(SealError::Crypto)?;
        self.0
            .seal_out_of_place_scatter(zero_nonce(), Aad::from(aad), plaintext, ciphertext, &[], tag)
            .map_err(failed)
    }

    /// Opens in place and returns the plaintext, the start of `sealed`.
    pub(crate) fn open_in_place<'a>(self, aad: &[u8], sealed: &'a mut [u8]) -> Result<&'a [u8], SealError> {
        self.0
            .open_in_place(zero_nonce(), Aad::from(aad), sealed)
            .map(|plaintext| &*plaintext)
            .map_err(|Unspecified| SealError::Wrong)
    }
}

fn zero_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

fn failed(_: Unspecified) -> SealError {
    SealError::Crypto
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; KEY_LEN] = [7; KEY_LEN];

    #[test]
    fn an_envelope_opens_under_its_key_and_in_its_place_only() {
        let key = SealingKey::new(&KEY).unwrap();
        for plaintext in [&b""[..], b"plaintext"] {
            let envelope = key.seal(b"place", plaintext).unwrap();
            assert_eq!(envelope.len(), plaintext.len() + OVERHEAD);
            assert_eq!(key.open(b"place", &envelope).unwrap(), plaintext);
            assert_ne!(key.seal(b"place", plaintext).unwrap(), envelope, "a nonce of its own each time");

            assert_eq!(key.open(b"elsewhere", &envelope), Err(SealError::Wrong));
            let other = SealingKey::new(&[8; KEY_LEN]).unwrap();
            assert_eq!(other.open(b"place", &envelope), Err(SealError::Wrong));
            for cut in [0, NONCE_LEN - 1, NONCE_LEN, envelope.len() - 1] {
                assert_eq!(key.open(b"place", &envelope[..cut]), Err(SealError::Wrong));
            }
        }
    }

    /// Test case 16 of the GCM specification (McGrew, Viega), whose nonce has 96 bits.
    #[test]
    fn an_envelope_is_nonce_ciphertext_and_tag_of_aes_256_gcm() {
        fn bytes<const N: usize>(text: &str) -> [u8; N] {
            hex::decode(text).unwrap().try_into().unwrap()
        }
        let key = bytes("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308");
        let aad: [u8; 20] = bytes("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let plaintext: [u8; 60] = bytes(concat!(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72",
            "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        ));
        let envelope: [u8; 88] = bytes(concat!(
            "cafebabefacedbaddecaf888",
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa",
            "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
            "76fc6ece0f4e1768cddf8853bb2d551b",
        ));
        assert_eq!(SealingKey::new(&key).unwrap().open(&aad, &envelope).unwrap(), plaintext);
    }

    #[test]
    fn an_envelope_can_follow_other_bytes() {
        let key = SealingKey::new(&KEY).unwrap();
        let mut buffer = b"v".to_vec();
        buffer.extend_from_slice(&[0; NONCE_LEN]);
        buffer.extend_from_slice(b"plaintext");
        key.seal_in_place(b"place", &mut buffer, 1).unwrap();
        let (version, envelope) = buffer.split_first().unwrap();
        assert_eq!(*version, b'v');
        assert_eq!(key.open(b"place", envelope).unwrap(), b"plaintext");
        assert_eq!(key.seal_in_place(b"", &mut vec![0; NONCE_LEN], 1), Err(SealError::Crypto));
    }
}
