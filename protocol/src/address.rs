//! Delivery addresses: how 32 random bytes that a queue's owner hands out find the
//! queue without naming it. The QS keeps only [`Address::lookup`] beside the queue id
//! sealed under a key that is derived from the address, so a dump links no address to
//! a queue and no two addresses to each other (PRIV-1), and delivering costs symmetric
//! operations only. Rows, locks and who may deliver are the database's business.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    digest, hmac, rand,
};
use zeroize::Zeroizing;

use crate::{Address, QueueId};

const LOOKUP_LABEL: &[u8] = b"postern address lookup";
const SEAL_LABEL: &[u8] = b"postern address seal";
const BINDING_LABEL: &[u8] = b"postern address binding";
const PUSH_LABEL: &[u8] = b"postern address push";

/// What an address is found by: `SHA-256("postern address lookup" || address)`.
pub type Lookup = [u8; 32];

/// A queue id under an address's sealing key: 16 bytes and the tag.
pub type SealedQueueId = [u8; 32];

/// What ties an address to the first (domain, group) that used it (QS-3). Without the
/// address it says nothing about either.
pub type Binding = [u8; 32];

/// Why an address yields no queue id or binding.
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
        let mut bytes = [0; Self::LEN];
        rand::fill(&mut bytes).map_err(|_| AddressError::Crypto)?;
        Ok(Self::new(bytes))
    }

    pub fn lookup(&self) -> Lookup {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(LOOKUP_LABEL);
        context.update(self.as_bytes());
        copied(context.finish().as_ref())
    }

    /// What seals and binds. Made once for an address, since that is half of the work.
    pub fn key(&self) -> AddressKey {
        AddressKey(hmac::Key::new(hmac::HMAC_SHA256, self.as_bytes()))
    }

    /// Seals the id of the queue that this address stands for.
    ///
    /// # Errors
    /// [`AddressError::Crypto`] only.
    pub fn seal(&self, queue_id: &QueueId) -> Result<SealedQueueId, AddressError> {
        let mut sealed = [0; 32];
        let (id, tag) = sealed.split_at_mut(QueueId::LEN);
        id.copy_from_slice(queue_id.as_bytes());
        let computed = self
            .key()
            .sealing_key()?
            .seal_in_place_separate_tag(zero_nonce(), Aad::from(self.lookup()), id)
            .map_err(|_| AddressError::Crypto)?;
        tag.copy_from_slice(computed.as_ref());
        Ok(sealed)
    }
}

/// The secret half of an address's work, derived from its bytes.
pub struct AddressKey(hmac::Key);

impl AddressKey {
    /// The queue id that [`Address::seal`] sealed; `lookup` is what `sealed` was found by.
    ///
    /// # Errors
    /// [`AddressError::WrongAddress`] if `sealed` belongs to another address or was changed.
    pub fn open(&self, lookup: &Lookup, sealed: &SealedQueueId) -> Result<QueueId, AddressError> {
        let mut buffer = *sealed;
        let id = self
            .sealing_key()?
            .open_in_place(zero_nonce(), Aad::from(lookup), &mut buffer)
            .map_err(|_| AddressError::WrongAddress)?;
        QueueId::try_from(&*id).map_err(|_| AddressError::WrongAddress)
    }

    /// The binding to a group of a domain.
    ///
    /// # Errors
    /// [`AddressError::DomainTooLong`] for a domain of more than 255 bytes.
    pub fn binding(&self, domain: &str, group_id: &[u8]) -> Result<Binding, AddressError> {
        let length = u8::try_from(domain.len()).map_err(|_| AddressError::DomainTooLong)?;
        let mut context = hmac::Context::with_key(&self.0);
        context.update(BINDING_LABEL);
        context.update(&[length]);
        context.update(domain.as_bytes());
        context.update(group_id);
        Ok(copied(context.sign().as_ref()))
    }

    /// What the address's [`crate::push::AddressPush`] is sealed under.
    pub(crate) fn push_key(&self) -> Result<LessSafeKey, AddressError> {
        self.derived_key(PUSH_LABEL)
    }

    fn sealing_key(&self) -> Result<LessSafeKey, AddressError> {
        self.derived_key(SEAL_LABEL)
    }

    fn derived_key(&self, label: &[u8]) -> Result<LessSafeKey, AddressError> {
        let key: Zeroizing<[u8; 32]> = Zeroizing::new(copied(hmac::sign(&self.0, label).as_ref()));
        UnboundKey::new(&AES_256_GCM, &*key).map(LessSafeKey::new).map_err(|_| AddressError::Crypto)
    }
}

/// Sound because every key seals exactly one thing: the one queue id of an address, the
/// one message of an index.
pub(crate) fn zero_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

/// SHA-256 and HMAC-SHA-256 outputs as an array.
pub(crate) fn copied(output: &[u8]) -> [u8; 32] {
    let mut array = [0; 32];
    array.copy_from_slice(output);
    array
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
        let expected = digest::digest(&digest::SHA256, &[&b"postern address lookup"[..], &[7; 32]].concat());
        assert_eq!(ADDRESS.lookup(), expected.as_ref());
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
