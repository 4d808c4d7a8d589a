//! Friendships: the form in which the QS keeps KeyPackages (QS-6). A user's clients share a friendship
//! token, 32 random bytes that they give to contacts. The QS keeps only [`FriendshipToken::lookup`],
//! with it the key of each client's stock, sealed under a key that is derived from the token, and the
//! packages sealed under the keys of their stocks. An open package would show its delivery address,
//! and a dump would join the queue it leads to with the user's other packages (PRIV-1). Each stock
//! has a key of its own, so that publishing reads nothing, and a new token means one key per client
//! to be sealed again but no package.

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{
    FriendshipToken, StockId,
    hash::{hmac_key, hmac_sha256, sha256},
    label::Label,
    random::random,
    sealed::{SealError, SealingKey},
};

/// The hash by which a friendship is found: `SHA-256("Postern friendship lookup" || 0 || token)`.
pub type FriendshipLookup = [u8; 32];

/// A failure to seal or open a stock's key or package.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FriendshipError {
    #[error("the sealed bytes belong to another friendship, stock or use, or were changed")]
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
        random().map(Self::new).map_err(|_| FriendshipError::Crypto)
    }

    /// The hash by which the QS finds the friendship.
    pub fn lookup(&self) -> FriendshipLookup {
        sha256(&[Label::FRIENDSHIP_LOOKUP.as_bytes(), self.as_bytes()])
    }

    /// Seals the key of a stock into an envelope (60 bytes, see [`crate::sealed`]) under
    /// `HMAC-SHA256(token, "Postern friendship seal" || 0)`, with the stock's id as associated data.
    ///
    /// # Errors
    /// [`FriendshipError::Crypto`] only.
    pub fn seal(&self, stock_id: &StockId, key: &StockKey) -> Result<Vec<u8>, FriendshipError> {
        Ok(self.sealing_key()?.seal(stock_id.as_bytes(), &key.0)?)
    }

    /// Opens the key that [`Self::seal`] sealed for this stock.
    ///
    /// # Errors
    /// [`FriendshipError::WrongSeal`].
    pub fn open(&self, stock_id: &StockId, sealed: &[u8]) -> Result<StockKey, FriendshipError> {
        let key = Zeroizing::new(self.sealing_key()?.open(stock_id.as_bytes(), sealed)?);
        let key = key.as_slice().try_into().map_err(|_| FriendshipError::WrongSeal)?;
        Ok(StockKey(key))
    }

    fn sealing_key(&self) -> Result<SealingKey, SealError> {
        let label = Label::FRIENDSHIP_SEAL.as_bytes();
        SealingKey::new(&Zeroizing::new(hmac_sha256(&hmac_key(self.as_bytes()), &[label])))
    }
}

impl StockKey {
    /// # Errors
    /// [`FriendshipError::Crypto`] if the operating system has no randomness.
    pub fn generate() -> Result<Self, FriendshipError> {
        random().map(Self).map_err(|_| FriendshipError::Crypto)
    }

    /// Seals one package of the stock into an envelope (see [`crate::sealed`]). `last_resort` is its
    /// associated data, one byte, 1 or 0, so that the package that many contacts get cannot take the
    /// place of one that a single contact gets.
    ///
    /// # Errors
    /// [`FriendshipError::Crypto`] only.
    pub fn seal(&self, last_resort: bool, package: &[u8]) -> Result<Vec<u8>, FriendshipError> {
        Ok(SealingKey::new(&self.0)?.seal(&[u8::from(last_resort)], package)?)
    }

    /// Opens a package that [`Self::seal`] sealed for this use.
    ///
    /// # Errors
    /// [`FriendshipError::WrongSeal`].
    pub fn open(&self, last_resort: bool, sealed: &[u8]) -> Result<Vec<u8>, FriendshipError> {
        Ok(SealingKey::new(&self.0)?.open(&[u8::from(last_resort)], sealed)?)
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
        let expected = sha256(&[&[&b"Postern friendship lookup\0"[..], &[7; 32]].concat()]);
        assert_eq!(FriendshipToken::new([7; 32]).lookup(), expected);
    }
}
