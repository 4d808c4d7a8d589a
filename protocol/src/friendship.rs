//! Friendships: how KeyPackages lie at the QS (QS-6). A user's clients share a friendship
//! token, 32 random bytes that they give to contacts. The QS keeps only
//! [`FriendshipToken::lookup`], beside keys sealed under one that is derived from the token,
//! and under those the packages: a package carries its delivery address in clear, and would
//! join the queue it leads to with the user's other packages in a dump (PRIV-1). Each client's
//! stock has a key of its own, so that publishing reads nothing and a new token seals a key a
//! client anew and no package.

use aws_lc_rs::{aead::LessSafeKey, digest, hmac};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{
    FriendshipToken, StockId,
    address::copied,
    sealed::{self, SealError},
};

const LOOKUP_LABEL: &[u8] = b"postern friendship lookup";
const SEAL_LABEL: &[u8] = b"postern friendship seal";

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
        Ok(Self::new(sealed::random()?))
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
        Ok(sealed::seal(&self.sealing_key()?, stock_id.as_bytes(), &key.0)?)
    }

    /// The key that [`Self::seal`] sealed for this stock.
    ///
    /// # Errors
    /// [`FriendshipError::WrongSeal`].
    pub fn open(&self, stock_id: &StockId, sealed: &[u8]) -> Result<StockKey, FriendshipError> {
        let key = Zeroizing::new(sealed::open(&self.sealing_key()?, stock_id.as_bytes(), sealed)?);
        let key = key.as_slice().try_into().map_err(|_| FriendshipError::WrongSeal)?;
        Ok(StockKey(key))
    }

    fn sealing_key(&self) -> Result<LessSafeKey, FriendshipError> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.as_bytes());
        let key: Zeroizing<[u8; 32]> = Zeroizing::new(copied(hmac::sign(&key, SEAL_LABEL).as_ref()));
        Ok(sealed::key(&key)?)
    }
}

impl StockKey {
    /// # Errors
    /// [`FriendshipError::Crypto`] if the operating system has no randomness.
    pub fn generate() -> Result<Self, FriendshipError> {
        Ok(Self(sealed::random()?))
    }

    /// Seals one package of the stock. `last_resort` is part of what is sealed: the one
    /// that is given to many cannot take the place of one that is given to one.
    ///
    /// # Errors
    /// [`FriendshipError::Crypto`] only.
    pub fn seal(&self, last_resort: bool, package: &[u8]) -> Result<Vec<u8>, FriendshipError> {
        Ok(sealed::seal(&sealed::key(&self.0)?, &[u8::from(last_resort)], package)?)
    }

    /// # Errors
    /// [`FriendshipError::WrongSeal`].
    pub fn open(&self, last_resort: bool, sealed: &[u8]) -> Result<Vec<u8>, FriendshipError> {
        Ok(sealed::open(&sealed::key(&self.0)?, &[u8::from(last_resort)], sealed)?)
    }
}

impl From<SealError> for FriendshipError {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Wrong => Self::WrongSeal,
            SealError::Crypto => Self::Crypto,
        }
    }
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
