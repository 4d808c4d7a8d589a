//! The queues of a delivery: letters are put into them, and the pushes that this makes due are found.

use std::collections::BTreeMap;

use pgrx::prelude::*;
use postern_protocol::{
    Address, QueueId,
    chain::{ChainError, TAG_LEN},
    encoding::Encoding,
    push::{Push, PushKey, Urgency},
    qs::{Lost, QueuePayload},
};

use super::{DeliverError, Delivery, Fate, bytes};
use crate::{
    bytea::ByteaArray,
    plan::Plan,
    queues::{Messages, Policy, Queues},
    room::Marker,
    table::Snapshot,
    wake,
};

thread_local! {
    /// Finds the push subscriptions of queues.
    static FIND_SUBSCRIPTIONS: Plan = const { Plan::new(
        "SELECT s.queue_id, s.subscription FROM qs.push_subscriptions s WHERE s.queue_id = ANY ($1)",
    ) };
}

/// A message that goes into a queue.
enum Entry {
    /// The letter with this index.
    Letter(usize),
    /// A marker: the payload.
    Lost(Vec<u8>),
}

impl Delivery<'_> {
    /// Puts the letters into the queues, which are locked until the end of the transaction, so that
    /// sequence numbers have no gaps and all queues get messages in one order. They are locked in the
    /// order of their ids, so that deliveries do not deadlock. Keys of chains are in this call's part of the
    /// stack only, which the caller scrubs.
    #[inline(never)]
    pub(super) fn enqueue(&mut self, snapshot: &Snapshot) -> Result<(), DeliverError> {
        let mut letters: BTreeMap<QueueId, Vec<usize>> = BTreeMap::new();
        for (index, letter) in self.letters.iter().enumerate() {
            if let Some(queue_id) = letter.queue_id {
                letters.entry(queue_id).or_default().push(index);
            }
        }
        if letters.is_empty() {
            return Ok(());
        }
        let policy = Policy::current();
        let (queues, messages) = (Queues::open(), Messages::open());
        let mut queues = queues.lock_by_id(snapshot);
        let mut messages = messages.add();
        let mut wake_keys = Vec::with_capacity(letters.len());
        let mut dangling = Vec::new();
        let mut repeats = Vec::new();
        for (queue_id, letters) in letters {
            let Some(queue) = queues.lock(queue_id) else {
                // A queue is older than its addresses, so this one was deleted.
                dangling.extend(letters);
                continue;
            };
            if queue.kind() != self.sender.reaches() {
                continue;
            }
            let mut room = queue.room(&policy);
            let mut entries = Vec::with_capacity(letters.len());
            for (position, &index) in letters.iter().enumerate() {
                let part = self.letters[index].part;
                // A member with several of a victim's addresses as its own leaves' puts a payload into the queue once.
                if let Some(&first) = letters[..position].iter().find(|&&at| self.letters[at].part == part) {
                    repeats.push((index, first));
                    continue;
                }
                let letter = &mut self.letters[index];
                let is_handshake = || {
                    *self.handshakes[letter.part].get_or_init(|| {
                        let payload = Encoding::Cbor.decode::<QueuePayload>(letter.payload);
                        payload.is_ok_and(|payload| payload.is_handshake())
                    })
                };
                if room.take(&letter.lookup, letter.payload.len() + TAG_LEN, is_handshake) {
                    entries.push(Entry::Letter(index));
                    continue;
                }
                letter.fate = Fate::NoRoom;
                if let Some(marker) = room.mark(&letter.lookup) {
                    let address = Address::try_from(letter.address).ok();
                    let address = address.filter(|_| marker == Marker::Address);
                    let payload = Encoding::Cbor.encode(&QueuePayload::Lost(Lost { address }));
                    room.put((payload.len() + TAG_LEN) as i64);
                    entries.push(Entry::Lost(payload));
                }
            }
            if entries.is_empty() {
                continue;
            }
            let mut chain = match queue.chain(&policy) {
                Ok(chain) => chain,
                // The owner could read neither messages nor markers.
                Err(ChainError::UnusablePublicKey) => {
                    letters.iter().for_each(|&index| self.letters[index].fate = Fate::NoRoom);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            for (seq, entry) in (queue.next_seq()..).zip(&entries) {
                match entry {
                    Entry::Letter(index) => {
                        let letter = &mut self.letters[*index];
                        messages.seal(&policy, &mut chain, seq, letter.payload)?;
                        letter.fate = Fate::Delivered;
                    }
                    Entry::Lost(payload) => messages.seal(&policy, &mut chain, seq, payload)?,
                }
            }
            queue.advance(chain, room)?;
            wake_keys.push(wake::key(&queue_id));
        }
        messages.finish();
        for (index, first) in repeats {
            self.letters[index].fate = self.letters[first].fate;
        }
        wake::collect(&wake_keys);
        self.drop_addresses(&dangling)
    }

    /// The pushes that became due: one for each queue that has a subscription and got a letter its
    /// owner wants to be woken for, with the greatest urgency of those letters.
    pub(super) fn pushes(&mut self) -> Result<Vec<Push>, DeliverError> {
        let mut wanted: BTreeMap<QueueId, (Urgency, PushKey)> = BTreeMap::new();
        for letter in self.letters.iter_mut().filter(|letter| letter.fate == Fate::Delivered) {
            let (Some(queue_id), Some(key)) = (letter.queue_id, letter.push.take()) else { continue };
            let (urgency, _) = wanted.entry(queue_id).or_insert((letter.urgency, key));
            *urgency = letter.urgency.max(*urgency);
        }
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let ids = ByteaArray::of(wanted.keys().map(QueueId::as_bytes));
        Spi::connect_mut(|client| {
            FIND_SUBSCRIPTIONS
                .with(|plan| plan.run(client, &[(&ids).into()]))?
                .map(|row| {
                    let queue_id = bytes(&row, 1)?;
                    let (urgency, key) = wanted.remove(&queue_id).ok_or(DeliverError::Schema)?;
                    Ok(Push { urgency, queue_id, key, subscription: bytes(&row, 2)? })
                })
                .collect()
        })
    }
}
