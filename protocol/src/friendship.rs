//! Friendships: how KeyPackages lie at the QS (QS-6). A user's clients share a friendship
//! token, 32 random bytes that they give to contacts. The QS keeps only
//! [`FriendshipToken::lookup`], beside keys sealed under one that is derived from the token,
//! and under those the packages: a package carries its delivery address in clear, and would
//! join the queue it leads to with the user's other packages in a dump (PRIV-1). Each client's
//! stock has a key of its own, so that publishing reads nothing and a new token seals a key a
//! client anew and no package.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest, hmac, rand,
};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{FriendshipToken, StockId, address::copied};

const LOOKUP_LABEL: &[u8] = b"postern friendship lookup";
const SEAL_LABEL: &[u8] = b"postern friendship seal";
const TAG_LEN: usize = 16;

/// What a friendship is found by: `SHA-256("postern friendship lookup" || token)`.
pub type FriendshipLookup = [u8; 32];

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FriendshipError {
    #[error("what was sealed belongs to another friendship, stock or use, or was changed")]
    WrongSeal,
    #[error("the cryptographic library failed")]
    Crypto,
}

/// The key that the packages of one client's stock are sealed under, erased when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct StockKey([u8; 32]);

impl FriendshipToken {
    /// A fresh token.
    ///
    /// # Errors
    /// [`FriendshipError::Crypto`] if the operating system has no randomness.
    pub fn generate() -> Result<Self, FriendshipError> {
        random().map(Self::new)
    }

    pub fn lookup(&self) -> FriendshipLookup {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(LOOKUP_LABEL);
        context.update(self.as_bytes());
        copied(context.finish().as_ref())
    }

    /// Seals the key of a stock: a random nonce, the ciphertext, the tag.
    ///
    /// # Errors
    /// [`FriendshipError::Crypto`] only.
    pub fn seal(&self, stock_id: &StockId, key: &StockKey) -> Result<Vec<u8>, FriendshipError> {
        seal(&self.sealing_key()?, stock_id.as_bytes(), &key.0)
    }

    /// The key that [`Self::seal`] sealed for this stock.
    ///
    /// # Errors
    /// [`FriendshipError::WrongSeal`].
    pub fn open(&self, stock_id: &StockId, sealed: &[u8]) -> Result<StockKey, FriendshipError> {
        let key = Zeroizing::new(open(&self.sealing_key()?, stock_id.as_bytes(), sealed)?);
        let key = key.as_slice().try_into().map_err(|_| FriendshipError::WrongSeal)?;
        Ok(StockKey(key))
    }

    fn sealing_key(&self) -> Result<LessSafeKey, FriendshipError> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.as_bytes());
        let key: Zeroizing<[u8; 32]> = Zeroizing::new(copied(hmac::sign(&key, SEAL_LABEL).as_ref()));
        aead_key(&key)
    }
}

impl StockKey {
    /// # Errors
    /// [`FriendshipError::Crypto`] if the operating system has no randomness.
    pub fn generate() -> Result<Self, FriendshipError> {
        random().map(Self)
    }

    /// Seals one package of the stock. `last_resort` is part of what is sealed: the one
    /// that is given to many cannot take the place of one that is given to one.
    ///
    /// # Errors
    /// [`FriendshipError::Crypto`] only.
    pub fn seal(&self, last_resort: bool, package: &[u8]) -> Result<Vec<u8>, FriendshipError> {
        seal(&aead_key(&self.0)?, &[u8::from(last_resort)], package)
    }

    /// # Errors
    /// [`FriendshipError::WrongSeal`].
    pub fn open(&self, last_resort: bool, sealed: &[u8]) -> Result<Vec<u8>, FriendshipError> {
        open(&aead_key(&self.0)?, &[u8::from(last_resort)], sealed)
    }
}

fn aead_key(key: &[u8; 32]) -> Result<LessSafeKey, FriendshipError> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map_err(|_| FriendshipError::Crypto)
}

fn seal(key: &LessSafeKey, aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, FriendshipError> {
    let nonce: [u8; NONCE_LEN] = random()?;
    let mut sealed = Vec::with_capacity(NONCE_LEN + plaintext.len() + TAG_LEN);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(plaintext);
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = key
        .seal_in_place_separate_tag(nonce, Aad::from(aad), &mut sealed[NONCE_LEN..])
        .map_err(|_| FriendshipError::Crypto)?;
    sealed.extend_from_slice(tag.as_ref());
    Ok(sealed)
}

fn open(key: &LessSafeKey, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, FriendshipError> {
    let (nonce, ciphertext) = sealed.split_first_chunk().ok_or(FriendshipError::WrongSeal)?;
    let mut plaintext = ciphertext.to_vec();
    let length = key
        .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(aad), &mut plaintext)
        .map_err(|_| FriendshipError::WrongSeal)?
        .len();
    plaintext.truncate(length);
    Ok(plaintext)
}

fn random<const N: usize>() -> Result<[u8; N], FriendshipError> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| FriendshipError::Crypto)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_its_own_stocks_and_no_other() {
        let (token, other) = (FriendshipToken::generate().unwrap(), FriendshipToken::generate().unwrap());
        let (stock, another) = (StockId::new([1; 16]), StockId::new([2; 16]));
        let key = StockKey::generate().unwrap();
        let sealed = token.seal(&stock, &key).unwrap();
        assert_eq!(token.open(&stock, &sealed).unwrap().0, key.0);
        assert_eq!(token.open(&another, &sealed).err(), Some(FriendshipError::WrongSeal));
        assert_eq!(other.open(&stock, &sealed).err(), Some(FriendshipError::WrongSeal));
        assert_eq!(token.open(&stock, &sealed[..11]).err(), Some(FriendshipError::WrongSeal));
        assert_ne!(token.seal(&stock, &key).unwrap(), sealed, "a nonce of its own each time");
    }

    #[test]
    fn a_package_opens_under_its_stocks_key_and_for_its_use() {
        let key = StockKey::generate().unwrap();
        let sealed = key.seal(true, b"package").unwrap();
        assert_eq!(key.open(true, &sealed).unwrap(), b"package");
        assert_eq!(key.open(false, &sealed), Err(FriendshipError::WrongSeal));
        assert_eq!(StockKey::generate().unwrap().open(true, &sealed), Err(FriendshipError::WrongSeal));
    }

    #[test]
    fn lookup_is_the_labelled_hash() {
        let expected =
            digest::digest(&digest::SHA256, &[&b"postern friendship lookup"[..], &[7; 32]].concat());
        assert_eq!(FriendshipToken::new([7; 32]).lookup(), expected.as_ref());
    }
}
