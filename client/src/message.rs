//! What a private MLS message of a group holds, in CBOR: who speaks, proved to the members
//! and hidden from the DS, and what they say.

use postern_protocol::PublicKey;
use serde::{Deserialize, Serialize};

use crate::identity::IdentityLink;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplicationMessage {
    /// Counts the sender's messages in this group from 1. A number that is not higher than
    /// the last is a repeat: a message whose answer was lost is sent again.
    pub number: u64,
    pub link: IdentityLink,
    pub content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    Text(String),
    /// After members were added: what they cannot see in the MLS group. Whoever is in the
    /// roster proves who they are by their own link, so the sender need not be believed.
    Introduction {
        title: String,
        roster: Vec<RosterEntry>,
        /// Opens what members keep beside their leaves (DS-12). Absent where it is not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attributes_key: Option<[u8; 32]>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterEntry {
    pub leaf_key: PublicKey,
    pub link: IdentityLink,
}
