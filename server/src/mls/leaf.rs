//! The content that a leaf of a group must have so that the DS can deliver to its client and the QS can hand out its
//! KeyPackage: a pseudonym, an Ed25519 key, a delivery address, which may be at any homeserver. [`super`] validates
//! everything else in groups and KeyPackages.

use openmls::prelude::{BasicCredential, LeafNode};
use postern_protocol::{
    PublicKey,
    mls::{DELIVERY_ADDRESS, DeliveryAddress, Pseudonym, USER_KEY, UserKey},
};

use super::InvalidMls;

pub struct Leaf {
    /// The user's pseudonym, which all of its clients have.
    pub pseudonym: Pseudonym,
    pub signature_key: PublicKey,
    pub delivery: DeliveryAddress,
    /// The key by which the user's clients act for the user.
    pub user_key: Option<UserKey>,
}

impl Leaf {
    /// Reads the content of a leaf.
    ///
    /// # Errors
    /// [`InvalidMls`] if the leaf lacks something that every leaf must have here.
    pub fn read(node: &LeafNode) -> Result<Self, InvalidMls> {
        let delivery = node
            .extensions()
            .unknown(DELIVERY_ADDRESS)
            .and_then(|extension| DeliveryAddress::from_bytes(&extension.0).ok())
            .ok_or(InvalidMls::Refused("a leaf lacks a valid delivery address (0xf0a2)"))?;
        let user_key = node
            .extensions()
            .unknown(USER_KEY)
            .map(|extension| UserKey::from_bytes(&extension.0))
            .transpose()
            .map_err(|_| InvalidMls::Refused("a leaf's user key (0xf0a3) is malformed"))?;
        Ok(Self { pseudonym: pseudonym(node)?, signature_key: signature_key(node)?, delivery, user_key })
    }
}

/// The pseudonym of the user whose client a leaf is.
///
/// # Errors
/// [`InvalidMls`] unless its credential is a basic one with a pseudonym.
pub fn pseudonym(node: &LeafNode) -> Result<Pseudonym, InvalidMls> {
    BasicCredential::try_from(node.credential().clone())
        .ok()
        .and_then(|credential| credential.identity().try_into().ok())
        .map(Pseudonym)
        .ok_or(InvalidMls::Refused("a leaf's credential must be a basic one with a pseudonym (16 bytes)"))
}

/// The key by which a leaf signs.
///
/// # Errors
/// [`InvalidMls`] for a key that is not Ed25519.
pub fn signature_key(node: &LeafNode) -> Result<PublicKey, InvalidMls> {
    PublicKey::try_from(node.signature_key().as_slice())
        .map_err(|_| InvalidMls::Refused("signature keys must be Ed25519"))
}
