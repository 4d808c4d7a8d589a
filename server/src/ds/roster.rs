//! The roster: the part of a group that the DS needs to deliver to it and to recognise its senders. Its members are
//! derived from the group's tree, never maintained by hand; each has the record that the DS keeps of its leaf.

use std::collections::{BTreeSet, HashMap, HashSet};

use openmls::prelude::{LeafNode, LeafNodeIndex};
use postern_protocol::{
    Address, PublicKey,
    leaves::GroupLeaf,
    mls::{Pseudonym, UserKey},
    name::Domain,
};
use serde::{Deserialize, Serialize};

use crate::mls::{CorruptGroup, InvalidMls, leaf::Leaf};

/// One member: a leaf of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The leaf's index.
    pub leaf: u32,
    /// The user's pseudonym, which all of its clients have.
    pub pseudonym: Pseudonym,
    pub signature_key: PublicKey,
    pub address: Address,
    /// The domain whose homeserver has the address; none: the home domain.
    pub domain: Option<Domain>,
    pub user_key: Option<UserKey>,
    pub record: LeafRecord,
}

impl Member {
    pub fn recipient(&self) -> Recipient {
        Recipient { domain: self.domain.clone(), address: self.address }
    }

    /// The leaf, as far as the rules depend on it that members check, too.
    pub fn in_group(&self) -> GroupLeaf {
        let Self { signature_key, pseudonym, address, user_key, .. } = *self;
        GroupLeaf { leaf_key: signature_key, pseudonym, address, user_key }
    }
}

/// The place where a member receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// As [`Member::domain`].
    pub domain: Option<Domain>,
    pub address: Address,
}

/// The record that the DS keeps of a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeafRecord {
    /// The epoch that added the leaf by Welcome, until the leaf commits: its client may still fetch
    /// that epoch's tree.
    pub joined: Option<u64>,
    /// Day (since 1970) of the leaf's last commit, or of its addition.
    pub active: u32,
    /// True if a proposal waits that removes the leaf, its own or the DS's.
    pub removal_proposed: bool,
    /// The epoch in which the leaf came in: its client cannot read messages of an earlier one.
    pub since: u64,
    /// True if the client came in by external commit. It may have been a member before, under a leaf whose keys it has
    /// no more: its old place, or one that it had as a user of its own.
    pub by_itself: bool,
}

impl LeafRecord {
    /// The record of a leaf that somebody brings in with an epoch.
    pub fn new(joined: Option<u64>, today: u32, since: u64) -> Self {
        Self { joined, active: today, removal_proposed: false, since, by_itself: false }
    }

    /// The record of a leaf that comes in with an epoch by external commit.
    pub fn of_joiner(today: u32, since: u64) -> Self {
        Self { by_itself: true, ..Self::new(None, today, since) }
    }

    /// The record of a leaf with new keys.
    pub fn renewed(self, today: u32) -> Self {
        Self { joined: None, active: today, removal_proposed: false, ..self }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// In the order of their leaf indexes.
    members: Vec<Member>,
    /// Generations of users' keys that went with the leaves that had them, of users who have older ones since. Those
    /// count no more: a client that was removed before may know them.
    gone_keys: Vec<(Pseudonym, u32)>,
}

/// The domain, unless it is the home domain.
pub fn elsewhere(domain: Domain, home: &Domain) -> Option<Domain> {
    (domain != *home).then_some(domain)
}

impl Roster {
    /// The roster of leaves in the order of their indexes.
    ///
    /// # Errors
    /// [`InvalidMls`] if a leaf lacks something that every leaf must have here.
    pub fn of<'a>(
        leaves: impl Iterator<Item = (LeafNodeIndex, &'a LeafNode)>,
        home: &Domain,
        record: impl Fn(u32, PublicKey) -> LeafRecord,
    ) -> Result<Self, InvalidMls> {
        let member = |(index, node): (LeafNodeIndex, _)| {
            let Leaf { pseudonym, signature_key, delivery, user_key } = Leaf::read(node)?;
            let leaf = index.u32();
            let record = record(leaf, signature_key);
            let (domain, address) = (elsewhere(delivery.domain, home), delivery.address);
            Ok(Member { leaf, pseudonym, signature_key, address, domain, user_key, record })
        };
        Ok(Self::new(leaves.map(member).collect::<Result<_, _>>()?))
    }

    /// The roster of an epoch that follows another's.
    pub fn following(mut self, before: &Self) -> Self {
        let users: HashSet<_> = self.members.iter().map(|member| member.pseudonym).collect();
        for user in users {
            let newest = self.newest_key(user).map(|key| key.generation);
            let gone = before.generation(user).filter(|before| newest < Some(*before));
            self.gone_keys.extend(gone.map(|generation| (user, generation)));
        }
        self
    }

    /// The roster with [`Self::gone_keys`] of the epoch.
    pub fn with_gone_keys(self, gone_keys: Vec<(Pseudonym, u32)>) -> Self {
        Self { gone_keys, ..self }
    }

    pub fn gone_keys(&self) -> &[(Pseudonym, u32)] {
        &self.gone_keys
    }

    /// Reads the content of a sealed roster.
    ///
    /// # Errors
    /// [`CorruptGroup`].
    pub fn decode(content: &[u8]) -> Result<Self, CorruptGroup> {
        postcard::from_bytes(content).map_err(|_| CorruptGroup)
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

    /// The first epoch of which application messages are taken: that with which the last client came in by itself.
    /// Messages of earlier epochs it could read if it was a member then, and cannot now.
    pub fn readable_since(&self) -> u64 {
        let came_in = self.members.iter().filter(|member| member.record.by_itself);
        came_in.map(|member| member.record.since).max().unwrap_or_default()
    }

    /// Whether a key is a leaf's, or the one by which a user's clients act now. A client that was removed knows the
    /// earlier ones, which the leaves of its user have until they commit.
    pub fn knows(&self, key: PublicKey) -> bool {
        let is_users = |member: &Member| {
            member.user_key.is_some_and(|users| users.public_key == key)
                && self.user_key(member.pseudonym) == member.user_key
        };
        self.by_key(key).is_some() || self.members.iter().any(is_users)
    }

    pub fn has(&self, pseudonym: Pseudonym) -> bool {
        self.members.iter().any(|member| member.pseudonym == pseudonym)
    }

    /// The key by which a user's clients act for the user: the newest that any leaf has, unless a newer one is gone.
    pub fn user_key(&self, pseudonym: Pseudonym) -> Option<UserKey> {
        let generation = self.generation(pseudonym);
        self.newest_key(pseudonym).filter(|key| Some(key.generation) == generation)
    }

    /// The newest key that any of a user's leaves has.
    pub fn newest_key(&self, pseudonym: Pseudonym) -> Option<UserKey> {
        let of_user = self.members.iter().filter(|member| member.pseudonym == pseudonym);
        of_user.filter_map(|member| member.user_key).max_by_key(|key| key.generation)
    }

    /// The users' keys that leaves have.
    pub fn user_keys(&self) -> Vec<(Pseudonym, UserKey)> {
        self.members.iter().filter_map(|member| Some((member.pseudonym, member.user_key?))).collect()
    }

    /// The generation of the newest key that a user had since it came into the group.
    pub fn generation(&self, pseudonym: Pseudonym) -> Option<u32> {
        let gone = self.gone_keys.iter().filter(|(user, _)| *user == pseudonym);
        let held = self.newest_key(pseudonym).map(|key| key.generation);
        gone.map(|(_, generation)| *generation).chain(held).max()
    }

    /// Notes that a proposal waits that removes a leaf.
    pub fn note_proposed_removal(&mut self, leaf: u32) {
        if let Some(member) = self.members.iter_mut().find(|member| member.leaf == leaf) {
            member.record.removal_proposed = true;
        }
    }

    /// Gives a member the key that its next commit has to bring if its user has none yet.
    pub fn suppose_user_key(&mut self, leaf: u32) {
        let Some(member) = self.member(leaf) else { return };
        if self.newest_key(member.pseudonym).is_some() {
            return;
        }
        if let Some(member) = self.members.iter_mut().find(|member| member.leaf == leaf) {
            member.user_key = Some(UserKey { generation: 0, public_key: member.signature_key });
        }
    }

    /// The other domains of the members.
    pub fn domains(&self) -> BTreeSet<&Domain> {
        self.members.iter().filter_map(|member| member.domain.as_ref()).collect()
    }

    /// The number of clients of each user.
    pub fn clients(&self) -> HashMap<Pseudonym, usize> {
        let mut clients = HashMap::new();
        for member in &self.members {
            *clients.entry(member.pseudonym).or_default() += 1;
        }
        clients
    }

    /// A roster of members in the order of their leaf indexes.
    pub fn new(members: Vec<Member>) -> Self {
        Self { members, gone_keys: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOB: Pseudonym = Pseudonym([1; 16]);
    const CAROL: Pseudonym = Pseudonym([2; 16]);

    fn key(generation: u8) -> UserKey {
        UserKey { generation: generation.into(), public_key: PublicKey::new([generation; 32]) }
    }

    /// A roster of leaves, each of a user and with a key of a generation.
    fn roster(leaves: &[(Pseudonym, u8)]) -> Roster {
        let member = |(leaf, &(pseudonym, generation)): (usize, &(Pseudonym, u8))| Member {
            leaf: u32::try_from(leaf).unwrap(),
            domain: None,
            pseudonym,
            signature_key: PublicKey::new([100 + u8::try_from(leaf).unwrap(); 32]),
            address: Address::new([u8::try_from(leaf).unwrap(); 32]),
            user_key: Some(key(generation)),
            record: LeafRecord::new(None, 0, 0),
        };
        Roster::new(leaves.iter().enumerate().map(member).collect())
    }

    #[test]
    fn a_users_key_never_goes_back() {
        let known = |roster: &Roster, generation| roster.knows(key(generation).public_key);
        let before = roster(&[(BOB, 1), (BOB, 2)]);
        assert_eq!(before.user_key(BOB), Some(key(2)));
        // The leaf with the newest key goes, and what is left is a key that the user had before.
        let gone = roster(&[(BOB, 1), (CAROL, 0)]).following(&before);
        assert_eq!((gone.user_key(BOB), gone.generation(BOB)), (None, Some(2)));
        assert!(!known(&gone, 1) && !known(&gone, 2) && known(&gone, 0));
        let stored = Roster::decode(&gone.encode()).unwrap();
        assert_eq!(stored, gone);
        let later = roster(&[(BOB, 1), (CAROL, 0)]).following(&stored);
        assert_eq!(later.user_key(BOB), None, "and in each epoch after it");
        // Until a client brings another one.
        let mended = roster(&[(BOB, 3), (CAROL, 0)]).following(&later);
        assert_eq!((mended.user_key(BOB), mended.gone_keys().len()), (Some(key(3)), 0));
        let left = roster(&[(CAROL, 0)]).following(&later);
        assert!(left.gone_keys().is_empty(), "nothing is kept of a user who is out");
    }
}
