//! Queuing Service: pseudonymous mailboxes.

use serde::{Deserialize, Serialize};

use crate::{Address, ChainHeader, Ciphertext, HpkePublicKey, MlsMessage, Payload, QueueId, Welcome};

/// Who may deliver into a queue (QS-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueKind {
    /// Anyone with a token (QS-2).
    Contact,
    /// Only a DS, for the group an address was given for (QS-3).
    Group,
}

impl QueueKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Contact => "contact",
            Self::Group => "group",
        }
    }
}

/// `POST /qs/queues`, signed by a fresh key, which becomes the owner's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateQueue {
    pub kind: QueueKind,
    /// What the starts of the queue's chains are sealed to (QS-5).
    pub hpke_key: HpkePublicKey,
}

/// The answer to `POST /qs/queues` (201).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QueueCreated {
    pub queue_id: QueueId,
}

/// `POST /qs/queues/{queue_id}/addresses`, signed by the owner (QS-3). 204.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AddAddresses {
    /// 32 fresh random bytes each.
    pub addresses: Vec<Address>,
}

/// `POST /qs/deposits` (202): into a contact queue; a token, no signature (QS-2).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Deposit {
    pub address: Address,
    pub payload: Payload,
}

/// `POST /qs/queues/{queue_id}/dequeue`, signed by the owner (QS-4): acknowledges and
/// deletes everything up to `after`, then answers with what comes next, at once or as
/// soon as something arrives.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Dequeue {
    /// The last sequence number that the client has safely stored; 0 at first.
    pub after: u64,
    /// At most so many messages; the server has a maximum of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_messages: Option<u16>,
    /// Seconds to wait for a message when there is none; the server has a maximum.
    #[serde(default)]
    pub wait: u16,
}

/// The answer to a dequeue (200): in order of `seq`, without gaps; empty when the wait ended.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Dequeued {
    pub messages: Vec<QueuedMessage>,
    /// Messages after the request's `after` that were too old and were deleted unread, the
    /// last of them (QS-8). Those that are left begin after it, with the start of a chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired_up_to: Option<u64>,
}

/// A message as the database keeps it: sealed under a key of its own (QS-5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuedMessage {
    /// Counts from 1 in every queue.
    pub seq: u64,
    /// Which chain the key comes from, and its index there (see [`crate::chain`]).
    pub chain: u64,
    pub chain_index: u32,
    /// With the first message of a chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain_header: Option<ChainHeader>,
    /// A [`QueuePayload`] in CBOR, encrypted.
    pub ciphertext: Ciphertext,
}

/// What a queued message holds once decrypted. Always CBOR.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueuePayload {
    /// A message of a group this client is a member of.
    Message(MlsMessage),
    /// An invitation into a group.
    Welcome(Welcome),
    /// A deposit of another client; its meaning is between the two.
    Deposit(Payload),
}
