//! The roster: what the DS needs of a group to deliver to it and to know its senders. Who
//! is in it is derived from the group's tree, never kept by hand; beside each leaf stands
//! what the DS remembers of it.

use std::collections::HashMap;

use openmls::prelude::{BasicCredential, LeafNode};
use postern_protocol::{
    Address, PublicKey,
    mls::{DELIVERY_ADDRESS, DeliveryAddress, Pseudonym, USER_KEY, UserKey},
    name::Domain,
};
use serde::{Deserialize, Serialize};

use super::state::{Opened, Version};
use crate::mls::{CorruptGroup, InvalidMls, TrackedGroup};

/// One member: a leaf of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub leaf: u32,
    /// The user's, which all of its clients have.
    pub pseudonym: Pseudonym,
    pub signature_key: PublicKey,
    pub address: Address,
    pub user_key: Option<UserKey>,
    pub mark: Mark,
}

/// What the DS remembers of a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The epoch that added it by Welcome, until it commits: it may still want that tree.
    pub joined: Option<u64>,
    /// Day (since 1970) of its last commit, or of when it was added.
    pub active: u32,
    /// The DS proposed to remove it, in this epoch.
    pub evicted: bool,
    /// The epoch in which it came in: it cannot read what is of an earlier one. Stands apart
    /// when it is kept, since version 3; 0 from before.
    #[serde(skip)]
    pub since: u64,
}

impl Mark {
    /// Of a leaf that comes in with an epoch.
    pub fn new(joined: Option<u64>, today: u32, since: u64) -> Self {
        Self { joined, active: today, evicted: false, since }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// By leaf index.
    members: Vec<Member>,
}

impl Roster {
    /// # Errors
    /// [`InvalidMls`] if a leaf lacks what every leaf must have here, or receives on
    /// another domain than `home`.
    pub fn of(
        group: &TrackedGroup,
        home: &Domain,
        mark: impl Fn(u32, PublicKey) -> Mark,
    ) -> Result<Self, InvalidMls> {
        let members = group
            .leaves()
            .map(|(index, leaf)| member(index.u32(), leaf, home, &mark))
            .collect::<Result<_, _>>()?;
        Ok(Self { members })
    }

    /// # Errors
    /// [`CorruptGroup`].
    pub fn decode(state: &Opened) -> Result<Self, CorruptGroup> {
        let (since, rest): (Vec<u64>, _) = match state.version {
            Version::V2 => (Vec::new(), state.content.as_slice()),
            Version::V3 => postcard::take_from_bytes(&state.content).map_err(|_| CorruptGroup)?,
        };
        let mut roster: Self = postcard::from_bytes(rest).map_err(|_| CorruptGroup)?;
        for (member, since) in roster.members.iter_mut().zip(since) {
            member.mark.since = since;
        }
        Ok(roster)
    }

    pub fn encode(&self) -> Vec<u8> {
        let since: Vec<u64> = self.members.iter().map(|member| member.mark.since).collect();
        postcard::to_stdvec(&(since, self)).expect("a roster serialises into memory")
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

    /// Whether a key is a leaf's or a user's.
    pub fn knows(&self, key: PublicKey) -> bool {
        let is_users = |member: &Member| member.user_key.is_some_and(|user| user.public_key == key);
        self.members.iter().any(|member| member.signature_key == key || is_users(member))
    }

    pub fn has(&self, pseudonym: Pseudonym) -> bool {
        self.members.iter().any(|member| member.pseudonym == pseudonym)
    }

    /// The key by which a user's clients act for the user.
    pub fn user_key(&self, pseudonym: Pseudonym) -> Option<UserKey> {
        let of_user = self.members.iter().filter(|member| member.pseudonym == pseudonym);
        of_user.filter_map(|member| member.user_key).max_by_key(|key| key.generation)
    }

    /// All users, with their keys.
    pub fn users(&self) -> HashMap<Pseudonym, Option<UserKey>> {
        let mut users: HashMap<Pseudonym, Option<UserKey>> = HashMap::new();
        for member in &self.members {
            let found = users.entry(member.pseudonym).or_default();
            if member.user_key.map(|key| key.generation) > found.map(|key| key.generation) {
                *found = member.user_key;
            }
        }
        users
    }

    /// Notes that the DS proposed to remove a leaf.
    pub fn mark_evicted(&mut self, leaf: u32) {
        if let Some(member) = self.members.iter_mut().find(|member| member.leaf == leaf) {
            member.mark.evicted = true;
        }
    }

    /// Of members by leaf index.
    pub fn new(members: Vec<Member>) -> Self {
        Self { members }
    }
}

/// # Errors
/// [`InvalidMls`] if the leaf lacks what every leaf must have here.
pub fn member(
    leaf: u32,
    node: &LeafNode,
    home: &Domain,
    mark: impl Fn(u32, PublicKey) -> Mark,
) -> Result<Member, InvalidMls> {
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
    let user_key = node
        .extensions()
        .unknown(USER_KEY)
        .map(|extension| UserKey::from_bytes(&extension.0))
        .transpose()
        .map_err(|_| InvalidMls::Refused("a leaf's user key (0xf0a3) is malformed"))?;
    let signature_key = PublicKey::try_from(node.signature_key().as_slice())
        .map_err(|_| InvalidMls::Refused("signature keys are Ed25519"))?;
    Ok(Member {
        leaf,
        pseudonym: pseudonym(node)?,
        signature_key,
        address: delivery.address,
        user_key,
        mark: mark(leaf, signature_key),
    })
}

/// Whose client a leaf is.
///
/// # Errors
/// [`InvalidMls`] unless its credential is a basic one with a pseudonym.
pub fn pseudonym(leaf: &LeafNode) -> Result<Pseudonym, InvalidMls> {
    BasicCredential::try_from(leaf.credential().clone())
        .ok()
        .and_then(|credential| credential.identity().try_into().ok())
        .map(Pseudonym)
        .ok_or(InvalidMls::Refused("a leaf's credential is not a basic one with a pseudonym"))
}
