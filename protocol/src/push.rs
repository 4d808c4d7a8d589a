//! Web Push (RFC 8030, QS-10) tells a sleeping device that its queue has a message. A queue's owner
//! seals the [`PushSubscription`] under a [`PushKey`] and that key under each of its addresses
//! ([`AddressPush`]), so that the QS keeps bytes that only a sender's address opens, and sees where a
//! push goes only for the moment it takes to send it. The server sends the pushes.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{
    Address, P256PublicKey, Payload, PushAuth, QueueId, SealedPush, SealedSubscription,
    address::{AddressKey, Lookup},
    encoding::Encoding,
    label::Label,
    random::random,
    sealed::{self, SealError, SealingKey},
};

/// Bytes that a subscription is padded to, so that its length does not tell whose push service it is.
const PADDED_LEN: usize = SealedSubscription::LEN - sealed::OVERHEAD;

/// Urgency of a push (RFC 8030 §5.3). A message has the one that its sender gives it; an address has
/// the least one that its owner wants to be woken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Urgency {
    /// Only on power and Wi-Fi: a change of the group without content.
    VeryLow,
    /// On power or Wi-Fi.
    Low,
    /// At any time: a message that somebody wrote.
    Normal,
    /// Even with the battery low: a call.
    High,
}

impl Urgency {
    /// The spelling of RFC 8030.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VeryLow => "very-low",
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }
}

/// Numbers as in the database, from 0 for very low to 3 for high.
impl TryFrom<i16> for Urgency {
    type Error = PushError;
    fn try_from(number: i16) -> Result<Self, PushError> {
        [Self::VeryLow, Self::Low, Self::Normal, Self::High]
            .into_iter()
            .find(|urgency| *urgency as i16 == number)
            .ok_or(PushError::Malformed)
    }
}

/// A user agent's push subscription (RFC 8030 §5, RFC 8291 §3), to which the pushes of a queue go, and
/// their content.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushSubscription {
    /// The push resource's URL.
    pub endpoint: String,
    /// The user agent's P-256 public key, an uncompressed point.
    pub p256dh: P256PublicKey,
    /// The user agent's authentication secret.
    pub auth: PushAuth,
    /// The content of every push, encrypted to the user agent: the owner's own note of which of its
    /// queues to look into.
    pub content: Payload,
}

/// The key that a queue's subscription is sealed under. Every address that may push carries it.
/// Erased when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PushKey([u8; Self::LEN]);

/// The push policy of an address, sealed for it.
#[derive(Clone, PartialEq, Eq)]
pub struct AddressPush {
    /// The least urgency that the owner wants to be woken for through this address.
    pub at_least: Urgency,
    pub key: PushKey,
}

/// A failure to seal, open or read a subscription, policy or push.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PushError {
    #[error("not sealed under this key, for this queue or address")]
    WrongKey,
    #[error("no subscription, push policy, urgency or push")]
    Malformed,
    #[error("a subscription has about a thousand bytes at most")]
    TooLong,
    #[error("the cryptographic library failed")]
    Crypto,
}

impl PushKey {
    pub const LEN: usize = 32;

    /// A new key.
    ///
    /// # Errors
    /// [`PushError::Crypto`] if the operating system has no randomness.
    pub fn generate() -> Result<Self, PushError> {
        random().map(Self).map_err(|_| PushError::Crypto)
    }

    pub const fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl PushSubscription {
    /// Seals the subscription for one queue: an envelope (see [`crate::sealed`]) of
    /// `len (u16, big endian) || CBOR || zeros`, with `"Postern push subscription" || 0 || queue_id` as
    /// associated data.
    ///
    /// # Errors
    /// [`PushError::TooLong`], [`PushError::Crypto`].
    pub fn seal(&self, queue_id: &QueueId, key: &PushKey) -> Result<SealedSubscription, PushError> {
        let content = Encoding::Cbor.encode(self);
        let length = u16::try_from(content.len()).map_err(|_| PushError::TooLong)?;
        let mut padded = [&length.to_be_bytes(), content.as_slice()].concat();
        if padded.len() > PADDED_LEN {
            return Err(PushError::TooLong);
        }
        padded.resize(PADDED_LEN, 0);
        let sealed = SealingKey::new(&key.0)?.seal(&aad(queue_id), &padded)?;
        SealedSubscription::try_from(sealed.as_slice()).map_err(|_| PushError::Malformed)
    }

    /// Opens a subscription that was sealed for this queue.
    ///
    /// # Errors
    /// [`PushError::WrongKey`], [`PushError::Malformed`].
    pub fn open(queue_id: &QueueId, key: &PushKey, sealed: &SealedSubscription) -> Result<Self, PushError> {
        let padded = SealingKey::new(&key.0)?.open(&aad(queue_id), sealed.as_bytes())?;
        let (length, content) = padded.split_first_chunk().ok_or(PushError::Malformed)?;
        let content = content.get(..usize::from(u16::from_be_bytes(*length))).ok_or(PushError::Malformed)?;
        Encoding::Cbor.decode(content).map_err(|_| PushError::Malformed)
    }
}

impl fmt::Debug for PushSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PushSubscription(…)")
    }
}

impl AddressPush {
    /// Seals the policy for one address: an envelope (see [`crate::sealed`]) of `urgency as u8 || key`
    /// under `HMAC-SHA256(address, "Postern address push" || 0)`, with the lookup as associated data.
    ///
    /// # Errors
    /// [`PushError::Crypto`].
    pub fn seal(&self, address: &Address) -> Result<SealedPush, PushError> {
        let key = address.key().push_key()?;
        let content = [&[self.at_least as u8], self.key.as_bytes().as_slice()].concat();
        let sealed = key.seal(&address.lookup(), &content)?;
        SealedPush::try_from(sealed.as_slice()).map_err(|_| PushError::Malformed)
    }

    /// Opens the policy of an address; `lookup` is the address's.
    ///
    /// # Errors
    /// [`PushError::WrongKey`], [`PushError::Malformed`].
    pub fn open(address: &AddressKey, lookup: &Lookup, sealed: &SealedPush) -> Result<Self, PushError> {
        let content = address.push_key()?.open(lookup, sealed.as_bytes())?;
        let (urgency, key) = content.split_first().ok_or(PushError::Malformed)?;
        let at_least = Urgency::try_from(i16::from(*urgency))?;
        let key = PushKey(key.try_into().map_err(|_| PushError::Malformed)?);
        Ok(Self { at_least, key })
    }
}

/// A push that is due, on its way from the transaction that delivered a message to the server, which
/// sends it.
pub struct Push {
    pub urgency: Urgency,
    pub queue_id: QueueId,
    pub key: PushKey,
    /// The queue's subscription, sealed under the key.
    pub subscription: SealedSubscription,
}

impl Push {
    /// The form in which the database hands it out: `urgency as u8 || queue_id || key ||
    /// subscription`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let head = [self.urgency as u8];
        let parts: [&[u8]; 4] =
            [&head, self.queue_id.as_bytes(), self.key.as_bytes(), self.subscription.as_bytes()];
        parts.concat()
    }

    /// Reads what [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`PushError::Malformed`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PushError> {
        let (&[urgency], rest) = bytes.split_first_chunk().ok_or(PushError::Malformed)?;
        let (queue_id, rest) = rest.split_first_chunk().ok_or(PushError::Malformed)?;
        let (key, subscription) = rest.split_first_chunk().ok_or(PushError::Malformed)?;
        Ok(Self {
            urgency: Urgency::try_from(i16::from(urgency))?,
            queue_id: QueueId::new(*queue_id),
            key: PushKey(*key),
            subscription: subscription.try_into().map_err(|_| PushError::Malformed)?,
        })
    }
}

fn aad(queue_id: &QueueId) -> Vec<u8> {
    Label::PUSH_SUBSCRIPTION.followed_by(&[queue_id.as_bytes()])
}

impl From<SealError> for PushError {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Wrong => Self::WrongKey,
            SealError::Crypto => Self::Crypto,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: QueueId = QueueId::new([3; 16]);
    const ADDRESS: Address = Address::new([7; 32]);

    fn subscription(endpoint: &str) -> PushSubscription {
        PushSubscription {
            endpoint: endpoint.to_owned(),
            p256dh: P256PublicKey::new([4; 65]),
            auth: PushAuth::new([5; 16]),
            content: Payload::new(b"which".to_vec()),
        }
    }

    #[test]
    fn a_subscription_opens_for_its_queue_only() {
        let key = PushKey::generate().unwrap();
        for endpoint in ["https://a.example", &"x".repeat(800)] {
            let sealed = subscription(endpoint).seal(&QUEUE, &key).unwrap();
            let opened = PushSubscription::open(&QUEUE, &key, &sealed);
            assert_eq!(opened, Ok(subscription(endpoint)));
        }
        let sealed = subscription("https://a.example").seal(&QUEUE, &key).unwrap();

        let elsewhere = QueueId::new([4; 16]);
        assert_eq!(PushSubscription::open(&elsewhere, &key, &sealed), Err(PushError::WrongKey));
        let other = PushKey::generate().unwrap();
        assert_eq!(PushSubscription::open(&QUEUE, &other, &sealed), Err(PushError::WrongKey));
        assert_eq!(subscription(&"x".repeat(1000)).seal(&QUEUE, &key), Err(PushError::TooLong));
    }

    #[test]
    fn an_address_opens_its_own_push_and_no_others() {
        let push = AddressPush { at_least: Urgency::Low, key: PushKey::new([9; 32]) };
        let sealed = push.seal(&ADDRESS).unwrap();
        assert_ne!(push.seal(&ADDRESS).unwrap(), sealed, "sealed again, it shows nothing");
        assert!(AddressPush::open(&ADDRESS.key(), &ADDRESS.lookup(), &sealed).unwrap() == push);

        let other = Address::new([8; 32]);
        let opened = AddressPush::open(&other.key(), &other.lookup(), &sealed);
        assert_eq!(opened.err(), Some(PushError::WrongKey));
    }

    #[test]
    fn a_push_is_what_its_bytes_say() {
        let push = Push {
            urgency: Urgency::High,
            queue_id: QUEUE,
            key: PushKey::new([9; 32]),
            subscription: SealedSubscription::new([7; 1052]),
        };
        let read = Push::from_bytes(&push.to_bytes()).unwrap();
        assert_eq!(read.urgency, Urgency::High);
        assert_eq!(read.queue_id, QUEUE);
        assert!(read.key == push.key);
        assert_eq!(read.subscription, push.subscription);
        assert_eq!(Push::from_bytes(&[4; 1101]).err(), Some(PushError::Malformed), "no such urgency");
        assert_eq!(Push::from_bytes(&[1; 1100]).err(), Some(PushError::Malformed), "too short");
    }

    #[test]
    fn urgencies_are_spelled_as_rfc_8030_does() {
        for urgency in [Urgency::VeryLow, Urgency::Low, Urgency::Normal, Urgency::High] {
            let json = serde_json::to_string(&urgency).unwrap();
            assert_eq!(json, format!("\"{}\"", urgency.as_str()));
            assert_eq!(Urgency::try_from(urgency as i16), Ok(urgency));
        }
        assert!(Urgency::VeryLow < Urgency::Low && Urgency::Normal < Urgency::High);
    }
}
