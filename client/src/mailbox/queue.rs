//! The reading end of a queue (QS-4, QS-5): takes its messages in order, opens each with the key
//! that its chain has for that place, and notices when the server leaves one out, repeats one, or
//! puts another in its place. Owns the table `queues`.

use postern_protocol::{
    QueueId,
    chain::{ChainError, ChainReceiver, ChainState, HpkePrivateKey},
    encoding::Encoding,
    key::SigningKey,
    qs::{Dequeued, QueueKind, QueuePayload, QueuedMessage},
};
use rusqlite::{OptionalExtension as _, params};

use crate::{
    error::{Error, QueueError, Result},
    store::{Tx, fixed, integer},
};

/// Both queues of a device, in the order in which they are read.
pub(crate) const KINDS: [QueueKind; 2] = [QueueKind::Contact, QueueKind::Group];

/// The greatest number of a message, and of a chain: a queue counts its messages one by one, and none
/// lives to see so many. A greater one would leave no room for the next.
const LAST_NUMBER: u64 = 1 << 62;

/// A queue as its owner knows it.
pub(crate) struct Queue {
    pub kind: QueueKind,
    pub id: QueueId,
    pub owner: SigningKey,
    pub hpke: HpkePrivateKey,
    /// The one before, until a chain was opened with its successor.
    pub previous_hpke: Option<HpkePrivateKey>,
    /// The last message that was processed.
    pub position: u64,
    /// The number of the last chain, and how to go on with it.
    pub chain: u64,
    pub state: Option<ChainState>,
}

/// Parts of a queue that the server says are gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Skipped {
    /// Messages that waited for too long.
    pub expired: u64,
    /// Whether the server was restored to an earlier state: what came since is lost (QS-12).
    pub restored: bool,
}

impl Queue {
    pub(crate) fn new(kind: QueueKind, id: QueueId, owner: SigningKey, hpke: HpkePrivateKey) -> Self {
        Self { kind, id, owner, hpke, previous_hpke: None, position: 0, chain: 0, state: None }
    }

    /// Takes over keys that the QS has now. Messages that wait there may be sealed to the old one.
    pub(crate) fn rotate(&mut self, owner: SigningKey, hpke: HpkePrivateKey) {
        self.owner = owner;
        self.previous_hpke = Some(std::mem::replace(&mut self.hpke, hpke));
    }

    /// Opens the next message; `None` for one that was processed before, which the server
    /// delivers again until it is acknowledged.
    ///
    /// # Errors
    /// [`QueueError`]; the queue stands where it stood.
    pub(crate) fn open(&mut self, message: &QueuedMessage) -> Result<Option<QueuePayload>, QueueError> {
        let (queue, seq) = (self.kind.as_str(), message.seq);
        if seq <= self.position {
            return Ok(None);
        }
        let expected = self.position.saturating_add(1);
        if seq != expected {
            return Err(QueueError::Gap { queue, expected, found: seq });
        }
        if seq > LAST_NUMBER || message.chain > LAST_NUMBER {
            return Err(QueueError::Malformed { queue, seq });
        }
        let unsealable = |reason| QueueError::Unsealable { queue, seq, reason };
        let mut opened_by_current = false;
        let mut receiver = if message.chain > self.chain {
            let header = message.chain_header.as_ref().ok_or_else(|| unsealable(ChainError::BadHeader))?;
            let open = |key| ChainReceiver::open_header(self.id, message.chain, header.as_bytes(), key);
            match (open(&self.hpke), &self.previous_hpke) {
                (Ok(receiver), _) => {
                    opened_by_current = true;
                    receiver
                }
                (Err(_), Some(previous)) => open(previous).map_err(unsealable)?,
                (Err(error), None) => return Err(unsealable(error)),
            }
        } else {
            match &self.state {
                Some(state) if state.number == message.chain => ChainReceiver::resume(self.id, state.clone()),
                _ => return Err(QueueError::OldChain { queue, seq }),
            }
        };
        let plaintext =
            receiver.open(message.chain_index, seq, message.ciphertext.as_bytes()).map_err(unsealable)?;
        let payload = Encoding::Cbor.decode(&plaintext).map_err(|_| QueueError::Malformed { queue, seq })?;
        if opened_by_current {
            self.previous_hpke = None;
        }
        self.position = seq;
        self.chain = message.chain;
        self.state = Some(receiver.state().clone());
        Ok(Some(payload))
    }

    /// Goes past messages that the server says are gone. Those that are left begin with the start of a chain.
    ///
    /// # Errors
    /// [`QueueError::Malformed`] for a number that no queue reaches: nothing could come after it. The queue stands where it
    /// stood.
    pub(crate) fn skip(&mut self, dequeued: &Dequeued) -> Result<Skipped, QueueError> {
        let (expired, restored) = (dequeued.expired_up_to, dequeued.restored_up_to);
        if let Some(seq) = [expired, restored].into_iter().flatten().find(|seq| *seq > LAST_NUMBER) {
            return Err(QueueError::Malformed { queue: self.kind.as_str(), seq });
        }
        // Numbers that expired in an earlier generation come before those of the next one.
        let (before, after) = match (expired, restored) {
            (Some(expired), Some(restored)) if expired < restored => (Some(expired), None),
            (_, Some(_)) => (None, expired),
            (_, None) => (expired, None),
        };
        let mut skipped = Skipped { expired: self.skip_to(before), ..Skipped::default() };
        skipped.restored = self.skip_to(restored) > 0;
        skipped.expired += self.skip_to(after);
        Ok(skipped)
    }

    /// Goes past all messages up to a number, and returns how many numbers that are.
    fn skip_to(&mut self, seq: Option<u64>) -> u64 {
        let skipped = seq.unwrap_or_default().saturating_sub(self.position);
        if skipped > 0 {
            self.position += skipped;
            self.state = None;
        }
        skipped
    }

    pub(crate) fn save(&self, tx: &Tx<'_>) -> Result<()> {
        tx.sql()
            .prepare_cached(
                "INSERT OR REPLACE INTO queues (kind, queue_id, owner_seed, hpke_key, position,
                                                chain, chain_index, chain_key, previous_hpke_key)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute(params![
                self.kind.as_str(),
                self.id.as_bytes(),
                self.owner.seed(),
                self.hpke.as_bytes(),
                integer(self.position),
                integer(self.chain),
                self.state.as_ref().map_or(0, |state| state.next_index),
                self.state.as_ref().map(|state| state.key),
                self.previous_hpke.as_ref().map(|key| *key.as_bytes()),
            ])?;
        Ok(())
    }

    /// # Errors
    /// [`Error::NotReady`] when the queue was not made yet.
    pub(crate) fn load(tx: &Tx<'_>, kind: QueueKind) -> Result<Self> {
        Self::find(tx, kind)?.ok_or(Error::NotReady)
    }

    pub(crate) fn find(tx: &Tx<'_>, kind: QueueKind) -> Result<Option<Self>> {
        type Row = (Vec<u8>, [u8; 32], [u8; 32], u64, u64, u32, Option<[u8; 32]>, Option<[u8; 32]>);
        let row: Option<Row> = tx
            .sql()
            .prepare_cached(
                "SELECT queue_id, owner_seed, hpke_key, position, chain, chain_index, chain_key,
                        previous_hpke_key
                 FROM queues WHERE kind = ?1",
            )?
            .query_row([kind.as_str()], |row| {
                Ok((
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                    row.get(3)?,
                    row.get(4)?,
                    row.get(5)?,
                    row.get(6)?,
                    row.get(7)?,
                ))
            })
            .optional()?;
        row.map(|(id, owner, hpke, position, chain, next_index, key, previous)| {
            Ok(Self {
                kind,
                id: fixed(&id, "a queue id")?,
                owner: SigningKey::from_seed(owner),
                hpke: HpkePrivateKey::from_bytes(hpke),
                previous_hpke: previous.map(HpkePrivateKey::from_bytes),
                position,
                chain,
                state: key.map(|key| ChainState { number: chain, next_index, key }),
            })
        })
        .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_protocol::{
        ChainHeader, Ciphertext, MlsMessage,
        chain::{ChainSender, TAG_LEN},
    };

    const ID: QueueId = QueueId::new([5; 16]);

    fn queue() -> Queue {
        let hpke = HpkePrivateKey::generate().unwrap();
        Queue::new(QueueKind::Group, ID, SigningKey::generate(), hpke)
    }

    fn expired(up_to: u64) -> Dequeued {
        Dequeued { expired_up_to: Some(up_to), ..Dequeued::default() }
    }

    fn skipped(expired: u64, restored: bool) -> Result<Skipped, QueueError> {
        Ok(Skipped { expired, restored })
    }

    fn payload(n: u8) -> QueuePayload {
        QueuePayload::Message(MlsMessage::new(vec![n]))
    }

    /// Chain `number` with messages `seqs`, as the database would hold it.
    fn chain(queue: &Queue, number: u64, seqs: std::ops::RangeInclusive<u64>) -> Vec<QueuedMessage> {
        let (mut sender, header) = ChainSender::start(ID, number, &queue.hpke.public_key().unwrap()).unwrap();
        seqs.map(|seq| {
            let plaintext = Encoding::Cbor.encode(&payload(seq as u8));
            let mut ciphertext = vec![0; plaintext.len() + TAG_LEN];
            let chain_index = sender.seal_into(seq, &plaintext, &mut ciphertext).unwrap();
            QueuedMessage {
                seq,
                chain: number,
                chain_index,
                chain_header: (chain_index == 0).then(|| ChainHeader::new(header.to_vec())),
                ciphertext: Ciphertext::new(ciphertext),
            }
        })
        .collect()
    }

    #[test]
    fn what_waits_opens_with_the_old_key_until_a_chain_opens_with_the_new_one() {
        let mut queue = queue();
        let before = [chain(&queue, 1, 1..=2), chain(&queue, 2, 3..=3)].concat();
        queue.rotate(SigningKey::generate(), HpkePrivateKey::generate().unwrap());
        let after = chain(&queue, 4, 4..=5);
        for message in before.iter().chain(&after) {
            assert!(queue.open(message).unwrap().is_some());
        }
        assert!(queue.previous_hpke.is_none(), "nothing opens with the old key any more");
    }

    #[test]
    fn messages_are_read_in_order_across_chains_and_repeats_are_skipped() {
        let mut queue = queue();
        let mut messages = chain(&queue, 1, 1..=3);
        messages.extend(chain(&queue, 4, 4..=5));
        for message in &messages {
            assert_eq!(queue.open(message), Ok(Some(payload(message.seq as u8))));
        }
        assert_eq!(queue.open(&messages[4]), Ok(None));
        assert_eq!(queue.position, 5);
    }

    #[test]
    fn a_gap_is_noticed() {
        let mut queue = queue();
        let messages = chain(&queue, 1, 1..=3);
        queue.open(&messages[0]).unwrap();
        let gap = QueueError::Gap { queue: "group", expected: 2, found: 3 };
        assert_eq!(queue.open(&messages[2]), Err(gap));
        assert!(queue.open(&messages[1]).is_ok(), "the queue stands where it stood");
    }

    #[test]
    fn what_expired_is_no_gap_and_the_next_chain_is_read() {
        let mut queue = queue();
        queue.open(&chain(&queue, 1, 1..=3)[0]).unwrap();
        assert_eq!(queue.skip(&Dequeued::default()), skipped(0, false));
        assert_eq!(queue.skip(&expired(1)), skipped(0, false), "what was read did not expire");
        assert_eq!(queue.skip(&expired(6)), skipped(5, false));
        let next = &chain(&queue, 3, 7..=8);
        assert_eq!(queue.open(&next[0]), Ok(Some(payload(7))));
        assert_eq!(queue.open(&next[1]), Ok(Some(payload(8))));
        assert_eq!(queue.skip(&expired(6)), skipped(0, false), "told again");
    }

    #[test]
    fn a_restore_is_told_once_and_what_expired_before_or_after_it_is_counted() {
        const START: u64 = 7 << 22;
        let read = || {
            let mut queue = queue();
            for message in &chain(&queue, 1, 1..=3) {
                queue.open(message).unwrap();
            }
            queue
        };
        for (expired, count) in
            [(None, 0), (Some(2), 0), (Some(5), 2), (Some(START), 0), (Some(START + 4), 4)]
        {
            let mut queue = read();
            let dequeued =
                Dequeued { expired_up_to: expired, restored_up_to: Some(START), ..Dequeued::default() };
            assert_eq!(queue.skip(&dequeued), skipped(count, true), "{expired:?}");
            let next = START.max(expired.unwrap_or_default()) + 1;
            let messages = chain(&queue, START + 1, next..=next + 1);
            assert_eq!(queue.skip(&dequeued), skipped(0, false), "told again");
            assert!(messages.iter().all(|message| queue.open(message).unwrap().is_some()));
        }
        let mut queue = read();
        let gap = QueueError::Gap { queue: "group", expected: 4, found: START + 1 };
        let message = &chain(&queue, START + 1, START + 1..=START + 1)[0];
        assert_eq!(queue.open(message), Err(gap), "nobody said that the server was restored");
    }

    #[test]
    fn expiry_excuses_nothing_after_it_nor_the_rest_of_a_chain() {
        let mut queue = queue();
        let messages = chain(&queue, 1, 1..=4);
        queue.open(&messages[0]).unwrap();
        queue.skip(&expired(2)).unwrap();
        let gap = QueueError::Gap { queue: "group", expected: 3, found: 4 };
        assert_eq!(queue.open(&messages[3]), Err(gap));
        assert_eq!(queue.open(&messages[2]), Err(QueueError::OldChain { queue: "group", seq: 3 }));
    }

    #[test]
    fn numbers_that_no_queue_reaches_are_refused_and_the_queue_stands_where_it_stood() {
        let mut queue = queue();
        let messages = chain(&queue, 1, 1..=2);
        queue.open(&messages[0]).unwrap();
        for seq in [LAST_NUMBER + 1, i64::MAX as u64, u64::MAX - 1, u64::MAX] {
            let refused = Err(QueueError::Malformed { queue: "group", seq });
            assert_eq!(queue.skip(&expired(seq)), Err(QueueError::Malformed { queue: "group", seq }));
            let restored = Dequeued { restored_up_to: Some(seq), ..Dequeued::default() };
            assert_eq!(queue.skip(&restored), refused);
            let beyond = QueuedMessage { seq, ..messages[1].clone() };
            assert!(queue.open(&beyond).is_err());
            let header = messages[0].chain_header.clone();
            let far_chain = QueuedMessage { chain: seq, chain_header: header, ..messages[1].clone() };
            assert_eq!(queue.open(&far_chain), Err(QueueError::Malformed { queue: "group", seq: 2 }));
        }
        assert!(queue.open(&messages[1]).is_ok(), "it goes on");
    }

    #[test]
    fn an_old_message_in_a_new_place_is_noticed() {
        let mut queue = queue();
        let messages = chain(&queue, 1, 1..=2);
        queue.open(&messages[0]).unwrap();
        let replayed = QueuedMessage { seq: 2, ..messages[0].clone() };
        assert!(matches!(queue.open(&replayed), Err(QueueError::Unsealable { seq: 2, .. })));
        let moved = QueuedMessage { seq: 2, chain_index: 1, ..messages[0].clone() };
        assert!(matches!(queue.open(&moved), Err(QueueError::Unsealable { seq: 2, .. })));
    }

    #[test]
    fn a_substituted_message_or_chain_is_noticed() {
        let mut queue = queue();
        let messages = chain(&queue, 2, 1..=2);
        queue.open(&messages[0]).unwrap();
        let mut forged = messages[1].clone();
        let mut bytes = forged.ciphertext.into_bytes();
        bytes[0] ^= 1;
        forged.ciphertext = Ciphertext::new(bytes);
        assert!(matches!(queue.open(&forged), Err(QueueError::Unsealable { .. })));
        let older = &chain(&queue, 1, 2..=2)[0];
        assert_eq!(queue.open(older), Err(QueueError::OldChain { queue: "group", seq: 2 }));
        let headless = QueuedMessage { chain_header: None, ..chain(&queue, 3, 2..=2)[0].clone() };
        assert!(matches!(queue.open(&headless), Err(QueueError::Unsealable { .. })));
    }

    #[test]
    fn position_and_chain_survive_in_the_store() {
        let directory = tempfile::tempdir().unwrap();
        let store =
            crate::store::Store::create(directory.path(), &crate::options::Options::default()).unwrap();
        let mut queue = queue();
        let messages = chain(&queue, 1, 1..=2);
        queue.open(&messages[0]).unwrap();
        store.write(|tx| queue.save(tx)).unwrap();
        let mut queue = store.read(|tx| Queue::load(tx, QueueKind::Group)).unwrap();
        assert_eq!(queue.open(&messages[1]), Ok(Some(payload(2))));
    }
}
