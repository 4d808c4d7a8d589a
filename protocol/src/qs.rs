//! Queuing Service: pseudonymous mailboxes.

use serde::{Deserialize, Serialize};

use crate::{
    Address, ChainHeader, Ciphertext, FriendshipToken, HpkePublicKey, MessageDigest, MlsMessage,
    P256PublicKey, Payload, PublicKey, QueueId, SealedPush, SealedSubscription, Signature, StockId, Welcome,
    key::{BadSignature, PublishedKey, SigningKey},
    label::Label,
    mls::CIPHERSUITE,
    name::Domain,
};

/// The kind of a queue, which decides who may deliver into it (QS-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueKind {
    /// Anyone with a token (QS-2).
    Contact,
    /// Only a DS, for the group that the address was given for (QS-3).
    Group,
}

impl QueueKind {
    /// The name on the wire and in the database.
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
    /// The key that the starts of the queue's chains are sealed to (QS-5).
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
    /// Addresses of 32 fresh random bytes each.
    pub addresses: Vec<Address>,
    /// Addresses for last-resort KeyPackages (QS-6): every group may use them, none binds them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_resort: Vec<Address>,
}

/// `POST /qs/queues/{queue_id}/addresses/revoke`, signed by the owner (QS-7): nothing is delivered to
/// these addresses from now on. 204.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RevokeAddresses {
    pub addresses: Vec<Address>,
}

/// `PUT /qs/queues/{queue_id}/push-subscription`, signed by the owner (QS-10): the queue's pushes go
/// there from now on. 204.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SubscribePush {
    /// A [`crate::push::PushSubscription`] under the key that the addresses carry; without one, nothing
    /// is pushed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription: Option<SealedSubscription>,
}

/// `POST /qs/queues/{queue_id}/addresses/push`, signed by the owner (QS-10): sets for each of these
/// addresses which of its messages are pushed. 204.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SetPushPolicy {
    pub addresses: Vec<PushPolicy>,
}

/// The push policy of one address, and so of one group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PushPolicy {
    pub address: Address,
    /// A [`crate::push::AddressPush`]; without one, nothing is pushed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push: Option<SealedPush>,
}

/// `POST /qs/queues/{queue_id}/keys`, signed by the owner's key so far (QS-7): replaces one of the two
/// keys, or both. 204.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RotateKeys {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<NewOwner>,
    /// The key that the next message's chain is sealed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hpke_key: Option<HpkePublicKey>,
}

/// A new owner key, and the proof that the requester has its private half.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewOwner {
    pub public_key: PublicKey,
    /// Signature by the new key over [`NewOwner::to_be_signed`].
    pub signature: Signature,
}

/// `POST /qs/queues/{queue_id}/delete`, signed by the owner (QS-7): deletes the queue, its messages and
/// these of its addresses. 204.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeleteQueue {
    /// The addresses that the owner knows; an address of another queue stays.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Address>,
}

/// `POST /qs/deposits`, with a token and no signature (QS-2): delivers into a contact queue. 202.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Deposit {
    pub address: Address,
    pub payload: Payload,
}

/// `POST /qs/queues/{queue_id}/dequeue`, signed by the owner (QS-4): acknowledges and deletes all
/// messages up to `after`, then answers with the next ones, at once or as soon as one arrives.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Dequeue {
    /// The last sequence number that the client has safely stored; 0 at first.
    pub after: u64,
    /// The most messages to answer with; the server has a maximum of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_messages: Option<u16>,
    /// Seconds to wait for a message when there is none; the server has a maximum of its own.
    #[serde(default)]
    pub wait: u16,
}

/// The answer to [`Dequeue`] (200): messages in order of `seq`, without gaps but the one that `restored_up_to` tells
/// of; none when the wait ended.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Dequeued {
    pub messages: Vec<QueuedMessage>,
    /// Sequence number of the last message after the request's `after` that expired and was deleted
    /// unread (QS-8). The messages that are left follow it, and begin with the start of a chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired_up_to: Option<u64>,
    /// Number before the first one of a new generation (QS-12): the server's database was restored to an earlier state
    /// after the request's `after`, nothing of before is left in this queue, and what had come since is lost. The
    /// messages follow it, and begin with the start of a chain. Where `expired_up_to` is the smaller of the two, it
    /// comes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_up_to: Option<u64>,
}

impl Dequeued {
    /// Whether there is nothing to tell the reader: no message, and none that is gone.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.expired_up_to.is_none() && self.restored_up_to.is_none()
    }
}

/// A message as the database keeps it: sealed under a key of its own (QS-5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuedMessage {
    /// Sequence number, counted from 1 in each queue; in a later generation, from where that begins.
    pub seq: u64,
    /// Number of the chain that the message's key comes from (see [`crate::chain`]).
    pub chain: u64,
    /// Index of the message in that chain, counted from 0.
    pub chain_index: u32,
    /// The start of the chain, with its first message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain_header: Option<ChainHeader>,
    /// A [`QueuePayload`] in CBOR, encrypted.
    pub ciphertext: Ciphertext,
}

/// The content of a queued message once decrypted; always CBOR.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueuePayload {
    /// A message of a group this client is a member of.
    Message(MlsMessage),
    /// An invitation into a group.
    Welcome(Welcome),
    /// A deposit of another client, whose meaning is between the two.
    Deposit(Payload),
    /// The QS's own word that something is missing at this place.
    Lost(Lost),
}

impl QueuePayload {
    /// Whether its reader can follow no group without it: a Welcome, or a commit or proposal, which are
    /// those in public framing (DS-3).
    pub fn is_handshake(&self) -> bool {
        match self {
            Self::Welcome(_) => true,
            // RFC 9420 §6: version mls10, wire format mls_public_message.
            Self::Message(message) => message.as_bytes().starts_with(&[0, 1, 0, 1]),
            Self::Deposit(_) | Self::Lost(_) => false,
        }
    }
}

/// A place in a queue where at least one message to an address was not put in, because the queue or
/// the address's share of it was full (QS-11). It stands for all that the address lost since its last
/// message before it, until its next message or until the owner acknowledged it. Only the QS makes one:
/// it takes a number in the queue and is sealed by the chain, as a message is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// The address, as the owner gave it out. Absent when there was no room to name all addresses: any
    /// of the queue's may have lost messages from here on, until the owner acknowledged it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
}

/// A KeyPackage in the form in which its owner publishes it and an inviter gets it (QS-6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockedKeyPackage {
    /// An `MLSMessage` holding a KeyPackage.
    pub key_package: MlsMessage,
    /// Bytes from the owner to the inviter, which the QS does not read and shows to no one else.
    pub attachment: Payload,
}

/// `PUT /qs/key-packages`, signed by the friendship key (QS-6): replaces the stock that a client
/// published under this id before.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PublishKeyPackages {
    pub friendship_token: FriendshipToken,
    pub stock_id: StockId,
    /// KeyPackages that are handed out once each, all of one ciphersuite. Their delivery addresses
    /// exist already.
    pub key_packages: Vec<StockedKeyPackage>,
    /// The KeyPackage that is handed out when no other is left, any number of times; it says so
    /// itself, and its delivery address does not bind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_resort: Option<StockedKeyPackage>,
    /// Whether to create the friendship, owned by the signer, if there is none. Not to be set for a
    /// token that another client of the user may have replaced.
    #[serde(default)]
    pub create: bool,
}

/// The answer to `PUT /qs/key-packages` and `POST /qs/key-packages/count` (200): the number of
/// KeyPackages in a client's stock, without the last resort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPackageStock {
    pub remaining: u32,
}

/// `POST /qs/key-packages/count`, signed by the friendship key: asks for the size of a stock.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CountKeyPackages {
    pub friendship_token: FriendshipToken,
    pub stock_id: StockId,
}

/// `POST /qs/key-packages/remove`, signed by the friendship key: deletes a client's stock, and with the
/// last stock the friendship; or all of it at once. 204.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RemoveKeyPackages {
    pub friendship_token: FriendshipToken,
    /// The stocks of all clients, and the friendship, if absent: its user takes another one, of which a
    /// client that was removed knows nothing (AS-13).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stock_id: Option<StockId>,
}

/// `POST /qs/key-packages/rotate`, signed by the friendship key: replaces the token, so that contacts
/// that only have the old one get nothing from now on. 204.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RotateFriendshipToken {
    pub friendship_token: FriendshipToken,
    /// The new token: 32 fresh random bytes.
    pub new_friendship_token: FriendshipToken,
}

/// `POST /qs/key-packages/fetch`, with a token and no signature: asks for one KeyPackage of each client
/// of a user.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FetchKeyPackages {
    pub friendship_token: FriendshipToken,
    /// The ciphersuite of the group that the KeyPackages are for; 0x0001 if absent.
    #[serde(default = "usual_ciphersuite")]
    pub ciphersuite: u16,
}

const fn usual_ciphersuite() -> u16 {
    CIPHERSUITE
}

/// The answer to `POST /qs/key-packages/fetch` (200): one KeyPackage of each client of the user that has
/// any of the ciphersuite, and the QS's signature that it handed them out together at this time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPackageBatch {
    pub key_packages: Vec<StockedKeyPackage>,
    /// Time at which the QS handed them out, in seconds since 1970.
    pub time: u64,
    /// The key that signed, one of [`QueuingKeys`].
    pub issuer_key: PublicKey,
    /// Signature by that key over [`KeyPackageBatch::to_be_signed`].
    pub signature: Signature,
}

/// The answer to `GET /qs/keys` (200): the keys of the QS; no token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QueuingKeys {
    pub domain: Domain,
    /// The keys that sign batches of KeyPackages.
    pub keys: Vec<PublishedKey>,
    /// The key that push subscriptions are made for (RFC 8292); none if the server sends no pushes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application_server_key: Option<P256PublicKey>,
}

impl KeyPackageBatch {
    /// Signs a batch for a domain's QS at `time` (seconds since 1970).
    pub fn sign(
        domain: &Domain,
        time: u64,
        key_packages: Vec<StockedKeyPackage>,
        issuer: &SigningKey,
    ) -> Self {
        let signature = issuer.sign(&Self::to_be_signed(domain, time, &key_packages));
        Self { key_packages, time, issuer_key: issuer.public_key(), signature }
    }

    /// Verifies that a published key of this domain's QS signed the batch, at most `tolerance` seconds
    /// before or after `now` (seconds since 1970).
    ///
    /// # Errors
    /// [`BadSignature`], without saying why.
    pub fn verify(&self, keys: &QueuingKeys, now: u64, tolerance: u64) -> Result<(), BadSignature> {
        let known =
            keys.keys.iter().any(|key| key.public_key == self.issuer_key && key.is_valid_at(self.time));
        if !known || self.time.abs_diff(now) > tolerance {
            return Err(BadSignature);
        }
        let message = Self::to_be_signed(&keys.domain, self.time, &self.key_packages);
        self.issuer_key.verify(&message, &self.signature)
    }

    /// `"Postern key package batch" || 0 || len(domain) as u8 || domain || time (u64, big endian) ||
    /// SHA-256 of each KeyPackage's MLSMessage`. Owners protect their attachments themselves.
    ///
    /// # Panics
    /// Never: a domain has at most 253 bytes.
    pub fn to_be_signed(domain: &Domain, time: u64, key_packages: &[StockedKeyPackage]) -> Vec<u8> {
        let mut bytes = Label::KEY_PACKAGE_BATCH.as_bytes().to_vec();
        bytes.push(u8::try_from(domain.as_str().len()).expect("a domain has at most 253 bytes"));
        bytes.extend_from_slice(domain.as_str().as_bytes());
        bytes.extend_from_slice(&time.to_be_bytes());
        for package in key_packages {
            bytes.extend_from_slice(MessageDigest::of(package.key_package.as_bytes()).as_bytes());
        }
        bytes
    }
}

impl NewOwner {
    /// Signs for a queue with the new owner's key; `owner` is the owner's key so far.
    pub fn sign(queue: &QueueId, owner: PublicKey, new: &SigningKey) -> Self {
        let public_key = new.public_key();
        let signature = new.sign(&Self::to_be_signed(queue, owner, public_key));
        Self { public_key, signature }
    }

    /// Verifies that the new key signed for this queue and its owner so far.
    ///
    /// # Errors
    /// [`BadSignature`].
    pub fn verify(&self, queue: &QueueId, owner: PublicKey) -> Result<(), BadSignature> {
        self.public_key.verify(&Self::to_be_signed(queue, owner, self.public_key), &self.signature)
    }

    /// `"Postern queue owner" || 0 || queue_id || the owner's key so far || the new key`
    pub fn to_be_signed(queue: &QueueId, owner: PublicKey, new: PublicKey) -> Vec<u8> {
        Label::QUEUE_OWNER.followed_by(&[queue.as_bytes(), owner.as_bytes(), new.as_bytes()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::Encoding;

    #[test]
    fn a_handshake_is_a_welcome_or_in_public_framing() {
        let message = |bytes: &[u8]| QueuePayload::Message(MlsMessage::new(bytes.to_vec()));
        assert!(message(&[0, 1, 0, 1, 7]).is_handshake());
        assert!(QueuePayload::Welcome(Welcome::new(vec![0, 1, 0, 3])).is_handshake());
        for other in [&[0, 1, 0, 2, 7][..], &[0, 1, 0], &[]] {
            assert!(!message(other).is_handshake(), "{other:?}");
        }
        assert!(!QueuePayload::Deposit(Payload::new(vec![0, 1, 0, 1])).is_handshake());
        assert!(!QueuePayload::Lost(Lost::default()).is_handshake());
    }

    #[test]
    fn a_loss_names_its_address_or_none() {
        let address = Address::new([7; 32]);
        for lost in [Lost { address: Some(address) }, Lost::default()] {
            let bytes = Encoding::Cbor.encode(&QueuePayload::Lost(lost));
            assert_eq!(Encoding::Cbor.decode::<QueuePayload>(&bytes).unwrap(), QueuePayload::Lost(lost));
        }
        let unnamed = Encoding::Cbor.encode(&QueuePayload::Lost(Lost::default()));
        assert_eq!(unnamed, [b"\xa1\x64lost".as_slice(), &[0xa0]].concat());
    }

    #[test]
    fn a_batch_is_what_a_published_key_signed_at_about_that_time() {
        let key = SigningKey::generate();
        let package = |byte| StockedKeyPackage {
            key_package: MlsMessage::new(vec![byte]),
            attachment: Payload::new(Vec::new()),
        };
        let domain: Domain = "example.org".parse().unwrap();
        let published = PublishedKey { public_key: key.public_key(), not_before: 0, not_after: 2000 };
        let keys =
            QueuingKeys { domain: domain.clone(), keys: vec![published], application_server_key: None };
        let batch = KeyPackageBatch::sign(&domain, 1000, vec![package(1), package(2)], &key);
        assert_eq!(batch.verify(&keys, 1060, 60), Ok(()));
        assert_eq!(batch.verify(&keys, 1061, 60), Err(BadSignature), "too old");
        assert_eq!(batch.verify(&keys, 939, 60), Err(BadSignature), "of the future");

        let elsewhere = QueuingKeys { domain: "example.com".parse().unwrap(), ..keys.clone() };
        assert_eq!(batch.verify(&elsewhere, 1000, 60), Err(BadSignature));
        let unpublished = QueuingKeys { keys: Vec::new(), ..keys.clone() };
        assert_eq!(batch.verify(&unpublished, 1000, 60), Err(BadSignature));
        let fewer = KeyPackageBatch { key_packages: vec![package(1)], ..batch.clone() };
        assert_eq!(fewer.verify(&keys, 1000, 60), Err(BadSignature));
        let later = KeyPackageBatch { time: 1001, ..batch };
        assert_eq!(later.verify(&keys, 1000, 60), Err(BadSignature));
    }
}
