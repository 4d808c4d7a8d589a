//! Delivery addresses: 32 random bytes that a queue's owner hands out lead to the queue without
//! naming it. The QS keeps only [`Address::lookup`], and with it the queue id sealed under a key that
//! is derived from the address. So a dump links no address to a queue and no two addresses to each
//! other (PRIV-1), and a delivery costs symmetric operations only. The database is responsible for
//! rows, locks and the right to deliver.

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use crate::{
    Address, QueueId,
    hash::{hmac_key, hmac_sha256, sha256},
    label::Label,
    random::random,
    sealed::{OneTimeKey, SealError, SealingKey},
};

/// The hash by which an address is found: `SHA-256("Postern address lookup" || 0 || address)`.
pub type Lookup = [u8; 32];

/// A queue id sealed for an address: 16 bytes of ciphertext and the tag. The key is
/// `HMAC-SHA256(address, "Postern address seal" || 0)`, the nonce zero, the associated data the lookup.
pub type SealedQueueId = [u8; 32];

/// The value that ties an address to the first (domain, group) that used it (QS-3). Without the
/// address it tells nothing about either. It is `HMAC-SHA256(address, "Postern address binding" ||
/// 0 || len(domain) as u8 || domain || group id)`.
pub type Binding = [u8; 32];

/// A failure to make, seal for, open with or bind an address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AddressError {
    #[error("the sealed queue id was not made for this address")]
    WrongAddress,
    #[error("a domain name has at most 255 bytes")]
    DomainTooLong,
    #[error("the cryptographic library failed")]
    Crypto,
}

impl Address {
    /// A fresh address.
    ///
    /// # Errors
    /// [`AddressError::Crypto`] if the operating system has no randomness.
    pub fn generate() -> Result<Self, AddressError> {
        random().map(Self::new).map_err(|_| AddressError::Crypto)
    }

    /// The hash by which the QS finds the address.
    pub fn lookup(&self) -> Lookup {
        sha256(&[Label::ADDRESS_LOOKUP.as_bytes(), self.as_bytes()])
    }

    /// The key that the keys for sealing and the bindings are derived from. Making it is half of the
    /// work, so that it is made once for an address.
    pub fn key(&self) -> AddressKey {
        AddressKey(hmac_key(self.as_bytes()))
    }

    /// Seals the id of the queue that this address stands for.
    ///
    /// # Errors
    /// [`AddressError::Crypto`] only.
    pub fn seal(&self, queue_id: &QueueId) -> Result<SealedQueueId, AddressError> {
        let mut sealed = [0; 32];
        self.key().sealing_key()?.seal_into(&self.lookup(), queue_id.as_bytes(), &mut sealed)?;
        Ok(sealed)
    }
}

/// A key derived from an address, see [`Address::key`].
pub struct AddressKey(hmac::Key);

impl AddressKey {
    /// The queue id that [`Address::seal`] sealed; `lookup` is the address's.
    ///
    /// # Errors
    /// [`AddressError::WrongAddress`] if `sealed` belongs to another address or was changed.
    pub fn open(&self, lookup: &Lookup, sealed: &SealedQueueId) -> Result<QueueId, AddressError> {
        let mut buffer = *sealed;
        let id = self.sealing_key()?.open_in_place(lookup, &mut buffer)?;
        QueueId::try_from(id).map_err(|_| AddressError::WrongAddress)
    }

    /// The binding to a group of a domain.
    ///
    /// # Errors
    /// [`AddressError::DomainTooLong`] for a domain of more than 255 bytes.
    pub fn binding(&self, domain: &str, group_id: &[u8]) -> Result<Binding, AddressError> {
        let length = u8::try_from(domain.len()).map_err(|_| AddressError::DomainTooLong)?;
        Ok(hmac_sha256(&self.0, &[Label::ADDRESS_BINDING.as_bytes(), &[length], domain.as_bytes(), group_id]))
    }

    /// The key that the address's [`crate::push::AddressPush`] is sealed under.
    pub(crate) fn push_key(&self) -> Result<SealingKey, SealError> {
        SealingKey::new(&self.derived_key(Label::ADDRESS_PUSH))
    }

    /// The key that the address's one queue id is sealed under.
    fn sealing_key(&self) -> Result<OneTimeKey, SealError> {
        OneTimeKey::new(&self.derived_key(Label::ADDRESS_SEAL))
    }

    fn derived_key(&self, label: Label) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(hmac_sha256(&self.0, &[label.as_bytes()]))
    }
}

impl From<SealError> for AddressError {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Wrong => Self::WrongAddress,
            SealError::Crypto => Self::Crypto,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Address = Address::new([7; 32]);
    const QUEUE: QueueId = QueueId::new([3; 16]);

    #[test]
    fn an_address_opens_what_it_sealed_and_nothing_else() {
        let sealed = ADDRESS.seal(&QUEUE).unwrap();
        assert_eq!(ADDRESS.key().open(&ADDRESS.lookup(), &sealed), Ok(QUEUE));

        let other = Address::new([8; 32]);
        assert_eq!(other.key().open(&ADDRESS.lookup(), &sealed), Err(AddressError::WrongAddress));
        assert_eq!(ADDRESS.key().open(&other.lookup(), &sealed), Err(AddressError::WrongAddress));
    }

    #[test]
    fn lookup_is_the_labelled_hash() {
        let expected = sha256(&[&[&b"Postern address lookup\0"[..], &[7; 32]].concat()]);
        assert_eq!(ADDRESS.lookup(), expected);
    }

    #[test]
    fn a_binding_depends_on_address_domain_and_group() {
        let bound = |address: Address, domain, group| address.key().binding(domain, group);
        let binding = bound(ADDRESS, "example.org", b"group").unwrap();
        assert_eq!(bound(ADDRESS, "example.org", b"group").unwrap(), binding);
        assert_ne!(bound(ADDRESS, "example.com", b"group").unwrap(), binding);
        assert_ne!(bound(ADDRESS, "example.org", b"other").unwrap(), binding);
        assert_ne!(bound(ADDRESS, "example.or", b"ggroup").unwrap(), binding);
        assert_ne!(bound(Address::new([8; 32]), "example.org", b"group").unwrap(), binding);
        assert_eq!(bound(ADDRESS, &"a".repeat(256), b""), Err(AddressError::DomainTooLong));
    }
}
