//! The roster: what the DS needs of a group to deliver to it and to know its senders,
//! derived from the group's tree and context, never kept by hand.

use openmls::prelude::{BasicCredential, LeafNode};
use postern_protocol::{
    Address, PublicKey,
    mls::{DELIVERY_ADDRESS, DeliveryAddress, GROUP_POLICY, GroupPolicy, Pseudonym},
    name::Domain,
};
use serde::{Deserialize, Serialize};

use crate::mls::{CorruptGroup, InvalidMls, TrackedGroup};

/// One member: a leaf of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub leaf: u32,
    pub pseudonym: [u8; 16],
    pub signature_key: PublicKey,
    pub address: Address,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// By leaf index.
    members: Vec<Member>,
}

impl Roster {
    /// # Errors
    /// [`InvalidMls`] if a leaf lacks what every leaf must have here, or receives on
    /// another domain than `home`.
    pub fn of(group: &TrackedGroup, home: &Domain) -> Result<Self, InvalidMls> {
        let members =
            group.leaves().map(|(index, leaf)| member(index.u32(), leaf, home)).collect::<Result<_, _>>()?;
        Ok(Self { members })
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, CorruptGroup> {
        postcard::from_bytes(bytes).map_err(|_| CorruptGroup)
    }

    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a roster serialises into memory")
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    pub fn member(&self, leaf: u32) -> Option<&Member> {
        let place = self.members.binary_search_by_key(&leaf, |member| member.leaf).ok()?;
        self.members.get(place)
    }

    pub fn by_key(&self, key: PublicKey) -> Option<&Member> {
        self.members.iter().find(|member| member.signature_key == key)
    }

    pub fn has(&self, pseudonym: &Pseudonym) -> bool {
        self.members.iter().any(|member| member.pseudonym == pseudonym.0)
    }
}

/// The group's policy, from its context.
///
/// # Errors
/// [`InvalidMls`] if it is missing or malformed.
pub fn policy(group: &TrackedGroup) -> Result<GroupPolicy, InvalidMls> {
    const MISSING: InvalidMls = InvalidMls::Refused("the group context lacks a valid policy (0xf0a1)");
    let extension = group.extensions().unknown(GROUP_POLICY).ok_or(MISSING)?;
    GroupPolicy::from_bytes(&extension.0).map_err(|_| MISSING)
}

/// # Errors
/// [`InvalidMls`] if the leaf lacks what every leaf must have here.
pub fn member(leaf: u32, node: &LeafNode, home: &Domain) -> Result<Member, InvalidMls> {
    let pseudonym = BasicCredential::try_from(node.credential().clone())
        .ok()
        .and_then(|credential| credential.identity().try_into().ok())
        .ok_or(InvalidMls::Refused("a leaf's credential is not a basic one with a pseudonym"))?;
    let delivery = node
        .extensions()
        .unknown(DELIVERY_ADDRESS)
        .and_then(|extension| DeliveryAddress::from_bytes(&extension.0).ok())
        .ok_or(InvalidMls::Refused("a leaf lacks a valid delivery address (0xf0a2)"))?;
    if delivery.domain != *home {
        return Err(InvalidMls::Refused(
            "a leaf receives on another domain, and this server does not federate yet",
        ));
    }
    let signature_key = PublicKey::try_from(node.signature_key().as_slice())
        .map_err(|_| InvalidMls::Refused("signature keys are Ed25519"))?;
    Ok(Member { leaf, pseudonym, signature_key, address: delivery.address })
}
