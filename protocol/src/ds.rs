//! Delivery Service: groups, under a pseudonym per group.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    Attributes, GroupInfo, MlsMessage, PublicKey, RatchetTree, StateKey, Welcome, bytes, name::Domain,
    push::Urgency,
};

/// The greatest number of epochs after its own in which an operator may let the DS accept an
/// application message (DS-3). So members keep the secrets of this many past epochs.
pub const MAX_PAST_EPOCHS: usize = 5;

/// The most bytes that a leaf's attributes may have (DS-12).
pub const MAX_ATTRIBUTES: usize = 2048;

/// An MLS group id made by a DS (DS-1): 16 random bytes, then the DS's domain in ASCII.
/// URLs and JSON have base64url of the whole.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct GroupId {
    id: [u8; 16],
    domain: Domain,
}

/// Bytes or text that are no [`GroupId`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a group id is 16 random bytes and a domain")]
pub struct MalformedGroupId;

impl GroupId {
    /// The id of a group whose home is this domain's DS.
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
    /// The id in MLS messages: the 16 random bytes, then the domain.
    pub fn to_mls(&self) -> Vec<u8> {
        [self.id.as_slice(), self.domain.as_str().as_bytes()].concat()
    }
    /// Reads [`Self::to_mls`].
    ///
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
    /// Unpadded base64url of [`Self::to_mls`]: the form in URLs and JSON.
    pub fn to_base64url(&self) -> String {
        bytes::to_base64url(&self.to_mls())
    }
    /// Parses [`Self::to_base64url`].
    ///
    /// # Errors
    /// [`MalformedGroupId`].
    pub fn from_base64url(text: &str) -> Result<Self, MalformedGroupId> {
        Self::from_mls(&bytes::from_base64url(text).ok_or(MalformedGroupId)?)
    }
}

/// The answer to `POST /ds/group-ids` (201), which has no body and no signature: a fresh id, reserved
/// in the database.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GroupIdReserved {
    pub group_id: GroupId,
    /// The key with which the server proposes removals (DS-10): the group's one external sender, with
    /// a basic credential whose identity is the server's domain.
    pub server_key: PublicKey,
}

/// Attributes of a leaf, which the DS keeps and serves with the group, and only members can open
/// (DS-12).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeafAttributes {
    /// The leaf's signature key.
    pub leaf_key: PublicKey,
    /// Empty bytes remove the leaf's attributes.
    pub attributes: Attributes,
}

/// `POST /ds/groups`, signed by the creator's leaf key. 201, no content.
///
/// The group is in epoch 0 with its creator as only member, whose pseudonym is the one admin of its
/// [`crate::mls::GroupPolicy`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateGroup {
    pub group_id: GroupId,
    pub state_key: StateKey,
    pub group_info: GroupInfo,
    pub ratchet_tree: RatchetTree,
    /// Attributes of the creator's leaf.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<LeafAttributes>,
}

/// `POST /ds/groups/{group_id}/messages` (DS-2): a commit or proposal in public framing, or an
/// application message in private framing. Signed by the sender's leaf key; for an external commit,
/// the key of the leaf that it adds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SubmitMessage {
    pub state_key: StateKey,
    pub message: MlsMessage,
    /// With a commit: the GroupInfo of the epoch that it begins, without the ratchet tree (DS-8).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_info: Option<GroupInfo>,
    /// With a commit that adds members: the Welcome for all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub welcome: Option<Welcome>,
    /// The urgency of an application message for sleeping members (QS-10), `normal` if absent.
    /// Commits and proposals are `very-low`, a Welcome is `normal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urgency: Option<Urgency>,
    /// With a commit: attributes of the committer's own leaf, and of those that it adds. Other leaves
    /// keep theirs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<LeafAttributes>,
}

/// The answer to a submitted message (200), which is in the members' queues by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageAccepted {
    /// The group's epoch after the message.
    pub epoch: u64,
    /// Number of members that will not get it: their queue is gone or full, or their address is not
    /// for this group; or their homeserver is blocked, or too much waits for it. Whether the queue of a
    /// member elsewhere takes it is not known yet.
    #[serde(default)]
    pub undelivered: u32,
    /// After a commit: the key that the group is to have as its external sender, if it has an older one of the server's
    /// (DS-10). An admin's client replaces it with its next commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_key: Option<PublicKey>,
}

impl MessageAccepted {
    /// The answer to a message that nobody misses.
    pub fn in_epoch(epoch: u64) -> Self {
        Self { epoch, undelivered: 0, server_key: None }
    }
}

/// `DELETE /ds/groups/{group_id}`, signed by the leaf of an admin's last or only clients
/// (DS-11). 204, no content.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeleteGroup {
    pub state_key: StateKey,
}

/// `POST /ds/groups/{group_id}/group-info`, signed by a leaf's or a user's key: asks for the group's
/// state, from which an external commit starts (DS-7, DS-8).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FetchGroupInfo {
    pub state_key: StateKey,
}

/// The answer to [`FetchGroupInfo`] (200): the group in its current epoch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CurrentGroup {
    pub group_info: GroupInfo,
    pub ratchet_tree: RatchetTree,
    /// The proposals that wait for a commit. They lapse with an external commit; it may include the `SelfRemove`s.
    pub proposals: Vec<MlsMessage>,
    /// Attributes of the leaves that have any.
    #[serde(default)]
    pub attributes: Vec<LeafAttributes>,
}

/// `POST /ds/groups/{group_id}/welcome-tree`, signed by the joiner's leaf key: asks for the ratchet
/// tree that belongs to its Welcome (DS-7).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FetchWelcomeTree {
    pub state_key: StateKey,
    /// The epoch of the GroupInfo in the Welcome.
    pub epoch: u64,
}

/// The answer to [`FetchWelcomeTree`] (200).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WelcomeTree {
    pub ratchet_tree: RatchetTree,
    /// Attributes of the leaves that had any in that epoch.
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
        bytes::serialize(&self.to_mls(), serializer)
    }
}

impl<'de> Deserialize<'de> for GroupId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_mls(&bytes::deserialize(deserializer)?).map_err(D::Error::custom)
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
