//! The plaintext of a private MLS message of a group, in CBOR: the sender, proved to the members
//! and hidden from the DS, and what they say.

use postern_protocol::{PublicKey, eid::EidState};
use serde::{Deserialize, Serialize};

use crate::{identity::IdentityLink, profile::SharedProfileKey};

/// The plaintext of a private message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplicationMessage {
    /// Counts the sender's messages in this group from 1. A number that came before is a repeat: a message whose answer was
    /// lost is sent again.
    pub number: u64,
    /// The sender's word that it is a certain client.
    pub link: IdentityLink,
    /// The identity of the sender's user, as far as the sender knows it: an AS that shows one history to
    /// some and another to others is found out.
    pub eid: EidState,
    /// The key to the profile of the sender's user (AS-6). Absent where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile_key: Option<SharedProfileKey>,
    /// The version of that profile, as far as the sender knows it; 0: none. Members ask the AS for a later one.
    pub profile_version: u64,
    pub content: Content,
}

/// A member's saying.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    Text(String),
    /// Tells members that were added what they cannot see in the MLS group, and the others who was
    /// added. Each entry of the roster is proved by its own link, so the sender need not be believed.
    Introduction {
        title: String,
        /// The title's number.
        titled: u64,
        roster: Vec<RosterEntry>,
        /// Key that opens the attributes of leaves (AES-256, DS-12). Absent where it is not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attributes_key: Option<[u8; 32]>,
    },
    /// An admin calls the group something else.
    Title {
        title: String,
        /// Greater than that of the title before.
        titled: u64,
    },
    /// Nothing but what comes with every message: who the sender is.
    Present,
    /// The sender's user ends its account. Members ask the AS.
    Gone,
}

/// A member and its identity link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterEntry {
    pub leaf_key: PublicKey,
    pub link: IdentityLink,
    /// The key to the profile of the member's user, if the sender knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile_key: Option<SharedProfileKey>,
}
