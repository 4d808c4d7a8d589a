//! Web Push (RFC 8030, QS-10): what tells a device that sleeps that its queue has something.
//! A queue's owner seals the [`PushSubscription`] under a [`PushKey`] and that key under each
//! of its addresses ([`AddressPush`]), so that the QS keeps bytes that only a sender's address
//! opens, and sees where a push goes for the moment it takes to send it. Sending is the
//! server's business.

use std::fmt;

use aws_lc_rs::aead::{LessSafeKey, NONCE_LEN};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{
    Address, P256PublicKey, Payload, PushAuth, QueueId, SealedPush, SealedSubscription,
    address::{AddressKey, Lookup},
    encoding::Encoding,
    sealed::{self, SealError, TAG_LEN},
};

const SUBSCRIPTION_LABEL: &[u8] = b"postern push subscription";
/// A subscription is padded to this length, so that it does not tell whose push service it is.
const PADDED_LEN: usize = SealedSubscription::LEN - NONCE_LEN - TAG_LEN;

/// How soon a sleeping device wants to know (RFC 8030 §5.3). As a message's, it is what the
/// sender says of it; as an address's, what its owner wants to be woken for at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Urgency {
    /// Only on power and Wi-Fi: what changes the group and says nothing.
    VeryLow,
    /// On power or Wi-Fi.
    Low,
    /// At any time: what somebody says.
    Normal,
    /// Even with the battery low: a call.
    High,
}

impl Urgency {
    /// As RFC 8030 spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VeryLow => "very-low",
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }
}

impl TryFrom<i16> for Urgency {
    type Error = PushError;
    fn try_from(number: i16) -> Result<Self, PushError> {
        [Self::VeryLow, Self::Low, Self::Normal, Self::High]
            .into_iter()
            .find(|urgency| *urgency as i16 == number)
            .ok_or(PushError::Malformed)
    }
}

/// Where the pushes of a queue go: what a user agent's push subscription holds (RFC 8030 §5,
/// RFC 8291 §3), and what its owner wants to read in them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushSubscription {
    /// The push resource's URL.
    pub endpoint: String,
    /// The user agent's P-256 public key, an uncompressed point.
    pub p256dh: P256PublicKey,
    /// The user agent's authentication secret.
    pub auth: PushAuth,
    /// The content of every push, encrypted to the user agent: whatever tells the owner which
    /// of its queues to look into.
    pub content: Payload,
}

/// Seals a queue's subscription; in every address that may push. Erased when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PushKey([u8; Self::LEN]);

/// What an address carries.
#[derive(Clone, PartialEq, Eq)]
pub struct AddressPush {
    /// Of what the owner wants to be woken for, through this address, the least urgent.
    pub at_least: Urgency,
    pub key: PushKey,
}

/// Why something sealed does not open, or is nothing to push to.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PushError {
    #[error("not sealed under this key, for this queue or address")]
    WrongKey,
    #[error("not what it should be")]
    Malformed,
    #[error("a subscription has about a thousand bytes at most")]
    TooLong,
    #[error("the cryptographic library failed")]
    Crypto,
}

impl PushKey {
    pub const LEN: usize = 32;

    /// # Errors
    /// [`PushError::Crypto`] if the operating system has no randomness.
    pub fn generate() -> Result<Self, PushError> {
        Ok(Self(sealed::random()?))
    }

    pub const fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    fn cipher(&self) -> Result<LessSafeKey, PushError> {
        Ok(sealed::key(&self.0)?)
    }
}

impl PushSubscription {
    /// `nonce || AES-256-GCM(len as u16, big endian || CBOR || zeros)`, for one queue.
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
        let sealed = sealed::seal(&key.cipher()?, &aad(queue_id), &padded)?;
        SealedSubscription::try_from(sealed.as_slice()).map_err(|_| PushError::Malformed)
    }

    /// # Errors
    /// [`PushError::WrongKey`], [`PushError::Malformed`].
    pub fn open(queue_id: &QueueId, key: &PushKey, sealed: &SealedSubscription) -> Result<Self, PushError> {
        let padded = sealed::open(&key.cipher()?, &aad(queue_id), sealed.as_bytes())?;
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
    /// `nonce || AES-256-GCM(urgency as u8 || key)`, for one address.
    ///
    /// # Errors
    /// [`PushError::Crypto`].
    pub fn seal(&self, address: &Address) -> Result<SealedPush, PushError> {
        let key = address.key().push_key().map_err(|_| PushError::Crypto)?;
        let content = [&[self.at_least as u8], self.key.as_bytes().as_slice()].concat();
        let sealed = sealed::seal(&key, &address.lookup(), &content)?;
        SealedPush::try_from(sealed.as_slice()).map_err(|_| PushError::Malformed)
    }

    /// `lookup` is what the address was found by.
    ///
    /// # Errors
    /// [`PushError::WrongKey`], [`PushError::Malformed`].
    pub fn open(address: &AddressKey, lookup: &Lookup, sealed: &SealedPush) -> Result<Self, PushError> {
        let key = address.push_key().map_err(|_| PushError::Crypto)?;
        let content = sealed::open(&key, lookup, sealed.as_bytes())?;
        let (urgency, key) = content.split_first().ok_or(PushError::Malformed)?;
        let at_least = Urgency::try_from(i16::from(*urgency))?;
        let key = PushKey(key.try_into().map_err(|_| PushError::Malformed)?);
        Ok(Self { at_least, key })
    }
}

/// A push that is due, on its way from the transaction that delivered a message to whoever
/// sends it.
pub struct Push {
    pub urgency: Urgency,
    pub queue_id: QueueId,
    pub key: PushKey,
    /// Under the key.
    pub subscription: SealedSubscription,
}

impl Push {
    /// `urgency as u8 || queue_id || key || subscription`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let head = [self.urgency as u8];
        let parts: [&[u8]; 4] =
            [&head, self.queue_id.as_bytes(), self.key.as_bytes(), self.subscription.as_bytes()];
        parts.concat()
    }

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
    [SUBSCRIPTION_LABEL, queue_id.as_bytes()].concat()
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
