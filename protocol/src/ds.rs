//! Delivery Service: groups, under a pseudonym per group.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::{GroupInfo, MlsMessage, RatchetTree, StateKey, Welcome, name::Domain};

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
}

/// `POST /ds/groups/{group_id}/messages`, signed by the sender's leaf key (DS-2): a commit
/// or proposal in public framing, or an application message in private framing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SubmitMessage {
    pub state_key: StateKey,
    pub message: MlsMessage,
    /// With a commit that adds members: the Welcome for all of them, with the ratchet
    /// tree in its GroupInfo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub welcome: Option<Welcome>,
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
