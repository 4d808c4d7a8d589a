//! Notifications by which the database tells its servers which queues got messages (QS-9). Any database user can listen
//! to a channel, and send on it: so a payload is sealed under a secret that only servers are given, is as long as one of
//! four lengths, and works once. Somebody else sees that something was delivered, not which queues woke together, and
//! wakes nobody.
//!
//! ```text
//! payload = base64(nonce (12) || ciphertext || tag (16)), AES-256-GCM (see crate::sealed)
//! key     = HMAC-SHA256(secret, "Postern wake seal" || 0)
//! content = number (u64, big endian) || wake keys of queues, 16 bytes each, and zeros up to the length
//! ```
//!
//! A content without keys tells everybody to look. Numbers grow; 0 is no number, for a database that cannot count
//! because it has no memory of its own, and whose secret is zero.

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};

use crate::{
    QueueId,
    hash::{hmac_key, hmac_sha256},
    label::Label,
    sealed::{SealError, SealingKey},
};

/// The name of a queue in notifications: the first half of HMAC-SHA256(secret, queue id).
pub type WakeKey = [u8; 16];

/// The most keys in one payload, with which it stays below NOTIFY's 8,000 bytes.
pub const MAX_KEYS: usize = 360;
/// A payload holds as many keys as the first of these that suffices.
const LENGTHS: [usize; 4] = [4, 16, 64, MAX_KEYS];
/// Numbers behind the greatest one that are still told apart: notifications may come in another order.
const WINDOW: u64 = 128;

/// The secret of a database's notifications.
pub struct WakeSecret {
    queues: hmac::Key,
    payloads: SealingKey,
    /// Whether there is none: notifications are not numbered then.
    is_zero: bool,
}

/// The content of a notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wake {
    /// These queues got messages.
    Queues(Vec<WakeKey>),
    /// All that wait should look.
    Everyone,
}

/// The numbers that were heard lately: each counts once.
#[derive(Debug, Default)]
pub struct Heard {
    greatest: u64,
    /// Bit `n` is for the number that is `n` less than the greatest.
    seen: u128,
}

impl WakeSecret {
    /// # Errors
    /// [`SealError::Crypto`].
    pub fn new(secret: &[u8; 32]) -> Result<Self, SealError> {
        let queues = hmac_key(secret);
        let payloads = SealingKey::new(&hmac_sha256(&queues, &[Label::WAKE_SEAL.as_bytes()]))?;
        Ok(Self { queues, payloads, is_zero: *secret == [0; 32] })
    }

    /// The name of a queue.
    pub fn key(&self, queue_id: &QueueId) -> WakeKey {
        let mut key = WakeKey::default();
        key.copy_from_slice(&hmac_sha256(&self.queues, &[queue_id.as_bytes()])[..16]);
        key
    }

    /// A notification's payload; of more than [`MAX_KEYS`] keys it tells everybody.
    ///
    /// # Errors
    /// [`SealError::Crypto`].
    pub fn seal(&self, number: u64, wake: &Wake) -> Result<String, SealError> {
        let keys: &[WakeKey] = match wake {
            Wake::Queues(keys) => keys,
            Wake::Everyone => &[],
        };
        let mut content = number.to_be_bytes().to_vec();
        if let Some(length) = LENGTHS.into_iter().find(|length| keys.len() <= *length) {
            content.extend_from_slice(keys.as_flattened());
            content.resize(8 + length * size_of::<WakeKey>(), 0);
        }
        Ok(STANDARD_NO_PAD.encode(self.payloads.seal(&[], &content)?))
    }

    /// Opens a payload; none for one that a database of this secret did not send, or that was heard before.
    pub fn open(&self, heard: &mut Heard, payload: &str) -> Option<Wake> {
        let sealed = STANDARD_NO_PAD.decode(payload).ok()?;
        let content = self.payloads.open(&[], &sealed).ok()?;
        let (number, keys) = content.split_first_chunk()?;
        if !self.is_zero && !heard.is_new(u64::from_be_bytes(*number)) {
            return None;
        }
        let (keys, _) = keys.as_chunks();
        let keys: Vec<WakeKey> = keys.iter().filter(|key| **key != WakeKey::default()).copied().collect();
        Some(if keys.is_empty() { Wake::Everyone } else { Wake::Queues(keys) })
    }
}

impl Heard {
    /// Whether a number was not heard before, which it is from now on. Those that are too far behind were.
    fn is_new(&mut self, number: u64) -> bool {
        if number > self.greatest {
            let ahead = u32::try_from(number - self.greatest).unwrap_or(u32::MAX);
            self.seen = self.seen.checked_shl(ahead).unwrap_or(0) | 1;
            self.greatest = number;
            return true;
        }
        let behind = self.greatest - number;
        if number == 0 || behind >= WINDOW {
            return false;
        }
        let bit = 1 << behind;
        let new = self.seen & bit == 0;
        self.seen |= bit;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> WakeSecret {
        WakeSecret::new(&[7; 32]).unwrap()
    }

    #[test]
    fn a_payload_says_what_was_sealed_once() {
        let secret = secret();
        let keys = |number: usize| Wake::Queues((0..number).map(|n| (n as u128 + 1).to_be_bytes()).collect());
        let mut heard = Heard::default();
        for (number, wake) in (1..).zip([keys(1), keys(4), keys(5), keys(MAX_KEYS), Wake::Everyone]) {
            let payload = secret.seal(number, &wake).unwrap();
            assert!(payload.len() < 8000, "{}", payload.len());
            assert_eq!(secret.open(&mut heard, &payload), Some(wake));
            assert_eq!(secret.open(&mut heard, &payload), None, "heard before");
        }
        let beyond = secret.seal(9, &keys(MAX_KEYS + 1)).unwrap();
        assert_eq!(secret.open(&mut heard, &beyond), Some(Wake::Everyone));
    }

    #[test]
    fn somebody_without_the_secret_reads_nothing_and_wakes_nobody() {
        let (secret, other) = (secret(), WakeSecret::new(&[8; 32]).unwrap());
        let wake = |queue: u8| Wake::Queues(vec![secret.key(&QueueId::new([queue; 16]))]);
        let one = secret.seal(1, &wake(1)).unwrap();
        let again = secret.seal(2, &wake(1)).unwrap();
        assert_ne!(one, again, "two payloads for one queue have nothing in common");
        assert_eq!(one.len(), secret.seal(3, &Wake::Queues(vec![[1; 16]; 4])).unwrap().len());
        let mut heard = Heard::default();
        let forged = other.seal(4, &wake(1)).unwrap();
        for payload in ["", "*", "AAAA", &forged, &one[1..]] {
            assert_eq!(secret.open(&mut heard, payload), None, "{payload}");
        }
        assert_eq!(secret.open(&mut heard, &one), Some(wake(1)));
    }

    #[test]
    fn payloads_are_sealed_under_a_key_that_is_for_nothing_else() {
        let key = hmac_sha256(&hmac_key(&[7; 32]), &[b"Postern wake seal\0".as_slice()]);
        let payload = STANDARD_NO_PAD.decode(secret().seal(1, &Wake::Everyone).unwrap()).unwrap();
        let content = SealingKey::new(&key).unwrap().open(&[], &payload).unwrap();
        assert!(content.starts_with(&1_u64.to_be_bytes()));
    }

    #[test]
    fn without_a_secret_nothing_is_counted() {
        let secret = WakeSecret::new(&[0; 32]).unwrap();
        let mut heard = Heard::default();
        let payload = secret.seal(0, &Wake::Everyone).unwrap();
        for _ in 0..2 {
            assert_eq!(secret.open(&mut heard, &payload), Some(Wake::Everyone));
        }
    }

    #[test]
    fn numbers_count_once_in_whatever_order() {
        let mut heard = Heard::default();
        for (number, new) in [
            (0, false),
            (1, true),
            (1, false),
            (5, true),
            (3, true),
            (3, false),
            (4, true),
            (200, true),
            (72, false),
            (73, true),
            (73, false),
            (5, false),
            (1000, true),
            (999, true),
            (1000, false),
            (u64::MAX, true),
            (u64::MAX, false),
        ] {
            assert_eq!(heard.is_new(number), new, "{number}");
        }
    }
}
