//! Chains encrypt the messages of a queue at rest (QS-5). The database holds a [`ChainSender`], the
//! queue's owner a [`ChainReceiver`]. Both move one step per message and keep no earlier key (forward
//! secrecy), and each new chain starts from fresh randomness that only the owner's HPKE key opens
//! (post-compromise security). The holders decide when a new chain starts and where its state is
//! kept.
//!
//! ```text
//! message key    = HMAC-SHA256(chain key, "Postern chain message" || 0)
//! next chain key = HMAC-SHA256(chain key, "Postern chain key" || 0)
//! ciphertext     = AES-256-GCM(message key, zero nonce, queue id || chain number || seq, payload)
//! header         = HPKE (see crate::hpke) of the first chain key, with info "Postern chain header" || 0
//!                  and associated data queue id || chain number
//! ```
//!
//! Chain number and sequence number are u64, big endian. A ciphertext is [`TAG_LEN`] bytes longer than
//! its payload.

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{
    HpkePublicKey, QueueId,
    hash::{hmac_key, hmac_sha256},
    hpke::{self, HpkeError},
    label::Label,
    random::random,
    sealed::{OneTimeKey, SealError},
};
pub use crate::{hpke::HpkePrivateKey, sealed::TAG_LEN};

/// Bytes of a chain's header: the first chain key, sealed.
pub const HEADER_LEN: usize = hpke::OVERHEAD + 32;

/// Number of indexes that a message may be ahead of the chain. Indexes are skipped where a transaction
/// failed or messages expired, and a chain has fewer messages than this.
pub const MAX_SKIPPED: u32 = 1_000_000;

/// A failure to start, open or advance a chain.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChainError {
    #[error("the queue's HPKE key is no usable X25519 public key")]
    UnusablePublicKey,
    #[error("the chain header was not sealed to this key, queue and chain")]
    BadHeader,
    #[error(
        "the chain stands at message {next}: the key of message {found} is used already, or too far ahead"
    )]
    OutOfStep { next: u32, found: u32 },
    #[error("the message was not sealed under this chain for this place in the queue")]
    BadCiphertext,
    #[error("the chain has no further keys")]
    Exhausted,
    #[error("the cryptographic library failed")]
    Crypto,
}

/// The state of a chain between two messages, which either side stores to continue it.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ChainState {
    /// Number of the chain in its queue, counted from 1; never used twice.
    #[zeroize(skip)]
    pub number: u64,
    /// Index in the chain, counted from 0, of the message that `key` is for.
    #[zeroize(skip)]
    pub next_index: u32,
    /// The chain key.
    pub key: [u8; 32],
}

impl ChainState {
    /// Hands out the key of the next message and erases the chain key it came from.
    fn advance(&mut self) -> Result<OneTimeKey, ChainError> {
        let next_index = self.next_index.checked_add(1).ok_or(ChainError::Exhausted)?;
        let chain_key = hmac_key(&self.key);
        let message_key = Zeroizing::new(hmac_sha256(&chain_key, &[Label::CHAIN_MESSAGE.as_bytes()]));
        let message_key = OneTimeKey::new(&message_key)?;
        self.key = hmac_sha256(&chain_key, &[Label::CHAIN_KEY.as_bytes()]);
        self.next_index = next_index;
        Ok(message_key)
    }
}

/// The encrypting side of a queue's current chain.
pub struct ChainSender {
    queue_id: QueueId,
    state: ChainState,
}

impl ChainSender {
    /// Starts chain `number` of a queue. The header goes with the chain's first message.
    ///
    /// # Errors
    /// [`ChainError::UnusablePublicKey`] if nothing can be sealed to `hpke_key`.
    pub fn start(
        queue_id: QueueId,
        number: u64,
        hpke_key: &HpkePublicKey,
    ) -> Result<(Self, [u8; HEADER_LEN]), ChainError> {
        let key = random().map_err(|_| ChainError::Crypto)?;
        let state = ChainState { number, next_index: 0, key };
        let aad = header_aad(&queue_id, number);
        let (enc, sealed) = hpke_key.encapsulate(Label::CHAIN_HEADER.as_bytes(), &aad, &state.key)?;

        let mut header = [0; HEADER_LEN];
        let (head, tail) = header.split_at_mut(hpke::ENC_LEN);
        head.copy_from_slice(&enc);
        tail.copy_from_slice(&sealed);
        Ok((Self { queue_id, state }, header))
    }

    /// Continues a stored chain.
    pub const fn resume(queue_id: QueueId, state: ChainState) -> Self {
        Self { queue_id, state }
    }

    pub const fn queue_id(&self) -> &QueueId {
        &self.queue_id
    }

    /// Encrypts message `seq` of the queue into `ciphertext`, which must be [`TAG_LEN`] bytes longer
    /// than `plaintext`; returns the message's index in the chain.
    ///
    /// # Errors
    /// [`ChainError::Exhausted`] after 2³² − 1 messages, [`ChainError::Crypto`].
    pub fn seal_into(
        &mut self,
        seq: u64,
        plaintext: &[u8],
        ciphertext: &mut [u8],
    ) -> Result<u32, ChainError> {
        let index = self.state.next_index;
        let aad = message_aad(&self.queue_id, self.state.number, seq);
        if ciphertext.len() != plaintext.len() + TAG_LEN {
            return Err(ChainError::Crypto);
        }
        self.state.advance()?.seal_into(&aad, plaintext, ciphertext)?;
        Ok(index)
    }

    pub const fn state(&self) -> &ChainState {
        &self.state
    }

    /// The state to store, from which the next message is encrypted.
    pub fn into_state(self) -> ChainState {
        self.state
    }
}

/// The decrypting side of a queue's chain. It opens each message exactly once, in order.
pub struct ChainReceiver {
    queue_id: QueueId,
    state: ChainState,
}

impl ChainReceiver {
    /// Opens the header that came with the first message of chain `number`.
    ///
    /// # Errors
    /// [`ChainError::BadHeader`] if it was made for another key, queue or chain.
    pub fn open_header(
        queue_id: QueueId,
        number: u64,
        header: &[u8],
        private: &HpkePrivateKey,
    ) -> Result<Self, ChainError> {
        let opened = Zeroizing::new(private.open(
            Label::CHAIN_HEADER.as_bytes(),
            &header_aad(&queue_id, number),
            header,
        )?);
        let key = opened.as_slice().try_into().map_err(|_| ChainError::BadHeader)?;
        Ok(Self { queue_id, state: ChainState { number, next_index: 0, key } })
    }

    /// Continues a stored chain.
    pub const fn resume(queue_id: QueueId, state: ChainState) -> Self {
        Self { queue_id, state }
    }

    /// Decrypts message `seq` of the queue, which has this index in the chain, and erases its key and
    /// those before it. A gap in sequence numbers means a missing message; a gap in indexes does not:
    /// indexes are skipped where a delivery failed or messages expired. An error leaves the chain as
    /// it was.
    ///
    /// # Errors
    /// [`ChainError::OutOfStep`] for an index whose key is erased or more than
    /// [`MAX_SKIPPED`] ahead, [`ChainError::BadCiphertext`].
    pub fn open(&mut self, index: u32, seq: u64, ciphertext: &[u8]) -> Result<Vec<u8>, ChainError> {
        let next = self.state.next_index;
        let skipped = index.checked_sub(next).filter(|skipped| *skipped <= MAX_SKIPPED);
        let skipped = skipped.ok_or(ChainError::OutOfStep { next, found: index })?;
        let mut advanced = self.state.clone();
        for _ in 0..skipped {
            advanced.advance()?;
        }
        let aad = message_aad(&self.queue_id, self.state.number, seq);
        let mut plaintext = ciphertext.to_vec();
        let length = advanced.advance()?.open_in_place(&aad, &mut plaintext)?.len();
        plaintext.truncate(length);
        self.state = advanced;
        Ok(plaintext)
    }

    pub const fn state(&self) -> &ChainState {
        &self.state
    }
}

impl From<HpkeError> for ChainError {
    fn from(error: HpkeError) -> Self {
        match error {
            HpkeError::UnusablePublicKey => Self::UnusablePublicKey,
            HpkeError::Wrong => Self::BadHeader,
            HpkeError::Crypto => Self::Crypto,
        }
    }
}

impl From<SealError> for ChainError {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Wrong => Self::BadCiphertext,
            SealError::Crypto => Self::Crypto,
        }
    }
}

fn header_aad(queue_id: &QueueId, number: u64) -> [u8; 24] {
    let mut aad = [0; 24];
    aad[..16].copy_from_slice(queue_id.as_bytes());
    aad[16..].copy_from_slice(&number.to_be_bytes());
    aad
}

fn message_aad(queue_id: &QueueId, number: u64, seq: u64) -> [u8; 32] {
    let mut aad = [0; 32];
    aad[..24].copy_from_slice(&header_aad(queue_id, number));
    aad[24..].copy_from_slice(&seq.to_be_bytes());
    aad
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: QueueId = QueueId::new([5; 16]);

    fn chain() -> (ChainSender, ChainReceiver) {
        let private = HpkePrivateKey::generate().unwrap();
        let (sender, header) = ChainSender::start(QUEUE, 1, &private.public_key().unwrap()).unwrap();
        let receiver = ChainReceiver::open_header(QUEUE, 1, &header, &private).unwrap();
        (sender, receiver)
    }

    fn seal(sender: &mut ChainSender, seq: u64, plaintext: &[u8]) -> Vec<u8> {
        let mut ciphertext = vec![0; plaintext.len() + TAG_LEN];
        sender.seal_into(seq, plaintext, &mut ciphertext).unwrap();
        ciphertext
    }

    #[test]
    fn the_owner_reads_what_was_sealed_in_order_and_once() {
        let (mut sender, mut receiver) = chain();
        let messages: Vec<_> = (0..3).map(|i| seal(&mut sender, 10 + u64::from(i), &[i; 40])).collect();
        for (index, ciphertext) in (0..).zip(&messages) {
            let plaintext = receiver.open(index, 10 + u64::from(index), ciphertext).unwrap();
            assert_eq!(plaintext, [index as u8; 40]);
        }
        assert_eq!(receiver.open(1, 11, &messages[1]), Err(ChainError::OutOfStep { next: 3, found: 1 }));
        let far = 4 + MAX_SKIPPED;
        assert_eq!(receiver.open(far, 14, &messages[1]), Err(ChainError::OutOfStep { next: 3, found: far }));
    }

    #[test]
    fn a_key_that_no_message_came_with_is_skipped_and_gone() {
        let (mut sender, mut receiver) = chain();
        let failed = seal(&mut sender, 1, b"rolled back");
        let second = seal(&mut sender, 1, b"delivered");
        assert_eq!(receiver.open(1, 1, &second).unwrap(), b"delivered");
        assert_eq!(receiver.open(0, 1, &failed), Err(ChainError::OutOfStep { next: 2, found: 0 }));
    }

    #[test]
    fn both_sides_go_on_from_stored_state() {
        let (mut sender, mut receiver) = chain();
        let first = seal(&mut sender, 1, b"one");
        receiver.open(0, 1, &first).unwrap();
        let mut sender = ChainSender::resume(QUEUE, sender.state().clone());
        let mut receiver = ChainReceiver::resume(QUEUE, receiver.state().clone());
        let second = seal(&mut sender, 2, b"two");
        assert_eq!(receiver.open(1, 2, &second).unwrap(), b"two");
    }

    #[test]
    fn a_message_belongs_to_its_place_and_a_forged_one_leaves_the_chain_standing() {
        let (mut sender, mut receiver) = chain();
        let ciphertext = seal(&mut sender, 1, b"");
        assert_eq!(receiver.open(0, 2, &ciphertext), Err(ChainError::BadCiphertext));
        assert_eq!(receiver.open(0, 1, &ciphertext[1..]), Err(ChainError::BadCiphertext));
        assert_eq!(receiver.open(0, 1, &ciphertext).unwrap(), b"");
    }

    #[test]
    fn a_header_belongs_to_its_key_queue_and_chain() {
        let private = HpkePrivateKey::generate().unwrap();
        let public = private.public_key().unwrap();
        let (_, header) = ChainSender::start(QUEUE, 7, &public).unwrap();
        let open = |queue, number, header: &[u8], private: &HpkePrivateKey| {
            ChainReceiver::open_header(queue, number, header, private).err()
        };
        assert_eq!(open(QUEUE, 7, &header, &private), None);
        let bad = Some(ChainError::BadHeader);
        assert_eq!(open(QUEUE, 8, &header, &private), bad);
        assert_eq!(open(QueueId::new([6; 16]), 7, &header, &private), bad);
        assert_eq!(open(QUEUE, 7, &header, &HpkePrivateKey::generate().unwrap()), bad);
        assert_eq!(open(QUEUE, 7, &header[..20], &private), bad);
    }

    #[test]
    fn nothing_is_sealed_to_a_key_of_low_order() {
        let low_order = HpkePublicKey::new([0; 32]);
        assert_eq!(ChainSender::start(QUEUE, 1, &low_order).err(), Some(ChainError::UnusablePublicKey));
    }

    #[test]
    fn a_used_key_is_gone() {
        let (mut sender, _) = chain();
        let before = sender.state().key;
        seal(&mut sender, 1, b"message");
        assert_ne!(sender.state().key, before);
        assert_eq!(sender.state().next_index, 1);
    }
}
