//! Delivery Service: groups, under a pseudonym per group.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::{
    Attributes, GroupInfo, MlsMessage, PublicKey, RatchetTree, StateKey, Welcome, name::Domain, push::Urgency,
};

/// For how many epochs after its own a DS may take an application message (DS-3), whatever its
/// operator decides; so members keep the secrets of so many past epochs.
pub const MAX_PAST_EPOCHS: usize = 5;

/// Bytes of a leaf's attributes at most (DS-12).
pub const MAX_ATTRIBUTES: usize = 2048;

/// An MLS group id made by a DS (DS-1): 16 random bytes, then the DS's domain in ASCII.
/// In URLs and JSON, base64url of the whole.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct GroupId {
    id: [u8; 16],
    domain: Domain,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a group id is 16 random bytes and a domain")]
pub struct MalformedGroupId;

impl GroupId {
    pub fn new(id: [u8; 16], domain: Domain) -> Self {
        Self { id, domain }
    }
    /// The random part: the key under which the home DS keeps the group.
    pub fn id(&self) -> &[u8; 16] {
        &self.id
    }
    pub fn domain(&self) -> &Domain {
        &self.domain
    }
    /// The id as it stands in MLS messages.
    pub fn to_mls(&self) -> Vec<u8> {
        [self.id.as_slice(), self.domain.as_str().as_bytes()].concat()
    }
    /// # Errors
    /// [`MalformedGroupId`].
    pub fn from_mls(bytes: &[u8]) -> Result<Self, MalformedGroupId> {
        let (id, domain) = bytes.split_first_chunk().ok_or(MalformedGroupId)?;
        let domain = std::str::from_utf8(domain)
            .ok()
            .and_then(|domain| domain.parse().ok())
            .ok_or(MalformedGroupId)?;
        Ok(Self { id: *id, domain })
    }
    pub fn to_base64url(&self) -> String {
        MlsMessage::new(self.to_mls()).to_base64url()
    }
    /// # Errors
    /// [`MalformedGroupId`].
    pub fn from_base64url(text: &str) -> Result<Self, MalformedGroupId> {
        let bytes = MlsMessage::from_base64url(text).map_err(|_| MalformedGroupId)?;
        Self::from_mls(bytes.as_bytes())
    }
}

/// `POST /ds/group-ids` (201): a fresh id, reserved in the database. No body, no signature.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GroupIdReserved {
    pub group_id: GroupId,
    /// By which the server proposes removals (DS-10): the group's one external sender, with a
    /// basic credential whose identity is the server's domain.
    pub server_key: PublicKey,
}

/// What the DS keeps beside a leaf and serves with the group, for the members to open (DS-12).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeafAttributes {
    /// The leaf's signature key.
    pub leaf_key: PublicKey,
    /// Empty: there are none any more.
    pub attributes: Attributes,
}

/// `POST /ds/groups`, signed by the creator's leaf key. 201, no content.
///
/// The group is in epoch 0 with its creator as only member, whose pseudonym is the one
/// admin of its [`crate::mls::GroupPolicy`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateGroup {
    pub group_id: GroupId,
    pub state_key: StateKey,
    pub group_info: GroupInfo,
    pub ratchet_tree: RatchetTree,
    /// Of the creator's leaf.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<LeafAttributes>,
}

/// `POST /ds/groups/{group_id}/messages` (DS-2): a commit or proposal in public framing, or
/// an application message in private framing. Signed by the sender's leaf key, of an external
/// commit the one it brings.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SubmitMessage {
    pub state_key: StateKey,
    pub message: MlsMessage,
    /// With a commit: the GroupInfo of the epoch it begins, without the ratchet tree (DS-8).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_info: Option<GroupInfo>,
    /// With a commit that adds members: the Welcome for all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub welcome: Option<Welcome>,
    /// How soon sleeping members want to know (QS-10). Normal for an application message unless
    /// it says otherwise; commits and proposals are `very-low`, a Welcome is normal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urgency: Option<Urgency>,
    /// With a commit: of the committer's own leaf, and of those that it adds. What else leaves
    /// have stays.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<LeafAttributes>,
}

/// The answer to a submitted message (200): it is in the queue of every member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageAccepted {
    /// The group's epoch after the message.
    pub epoch: u64,
    /// Members who will not get it, since their queue is gone, full or not theirs to give.
    #[serde(default)]
    pub undelivered: u32,
}

/// `DELETE /ds/groups/{group_id}`, signed by the leaf of an admin's last or only clients
/// (DS-11). 204, no content.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeleteGroup {
    pub state_key: StateKey,
}

/// `POST /ds/groups/{group_id}/group-info`, signed by a leaf's or a user's key: what an
/// external commit starts from (DS-7, DS-8).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FetchGroupInfo {
    pub state_key: StateKey,
}

/// The answer (200): the group as it is now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CurrentGroup {
    pub group_info: GroupInfo,
    pub ratchet_tree: RatchetTree,
    /// The proposals that wait for a commit; an external one takes the `SelfRemove`s along.
    pub proposals: Vec<MlsMessage>,
    /// Of the leaves that have any.
    #[serde(default)]
    pub attributes: Vec<LeafAttributes>,
}

/// `POST /ds/groups/{group_id}/welcome-tree`, signed by the joiner's leaf key: the ratchet
/// tree that belongs to its Welcome (DS-7).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FetchWelcomeTree {
    pub state_key: StateKey,
    /// Of the GroupInfo in the Welcome.
    pub epoch: u64,
}

/// The answer (200).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WelcomeTree {
    pub ratchet_tree: RatchetTree,
    /// Of the leaves that had any in that epoch.
    #[serde(default)]
    pub attributes: Vec<LeafAttributes>,
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GroupId(…)")
    }
}

impl Serialize for GroupId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        MlsMessage::new(self.to_mls()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for GroupId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = MlsMessage::deserialize(deserializer)?;
        Self::from_mls(bytes.as_bytes()).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_id_carries_its_domain() {
        let id = GroupId::new([3; 16], "example.org".parse().unwrap());
        assert_eq!(GroupId::from_base64url(&id.to_base64url()), Ok(id.clone()));
        assert!(GroupId::from_mls(&id.to_mls()[..20]).is_err(), "a cut domain");
        assert!(GroupId::from_mls(&[0; 15]).is_err());
    }
}
