//! Delivery: one call puts the messages of one sender into all the queues behind the addresses given,
//! without an SQL statement per recipient (DS-5, QS-2, QS-3, QS-5). The caller has decided that the
//! sender may send, and decides what an undeliverable address means.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, HashSet},
    thread::LocalKey,
};

use pgrx::{datum::UnboxDatum, prelude::*};
use postern_protocol::{
    Address, QueueId, SealedPush,
    address::{AddressError, AddressKey, Binding, Lookup},
    chain::{ChainError, TAG_LEN},
    encoding::Encoding,
    push::{AddressPush, Push, PushKey, Urgency},
    qs::{Lost, QueueKind, QueuePayload},
    sealed::SealError,
};

use crate::{
    bytea::{Bytea, ByteaArray},
    plan::Plan,
    push,
    queues::{Messages, Policy, Queues},
    room::Marker,
    secret,
    table::{Access, KeyType, Snapshot, Table, end_command, table},
    wake,
};

table! { AddressColumn = c"qs", c"addresses" {
    SealedQueueId = c"sealed_queue_id" BYTEAOID,
    Binding = c"binding" BYTEAOID,
    LastResort = c"last_resort" BOOLOID,
    SealedPush = c"sealed_push" BYTEAOID,
} }

// Statements that few deliveries need.
thread_local! {
    /// Binds addresses to a group. The condition is checked here because another group may have bound
    /// the address since it was found.
    static BIND_ADDRESSES: Plan = const { Plan::new(
        "UPDATE qs.addresses a
            SET binding = n.binding
           FROM unnest($1::bytea[], $2::bytea[]) AS n (lookup, binding)
          WHERE a.lookup = n.lookup
            AND (a.binding IS NULL OR a.binding = n.binding)
      RETURNING a.lookup",
    ) };

    /// Frees addresses that nothing was delivered to.
    static UNBIND_ADDRESSES: Plan = const { Plan::new(
        "UPDATE qs.addresses a SET binding = NULL WHERE a.lookup = ANY ($1)",
    ) };

    /// Deletes addresses that outlived their queue, because its owner did not know them when deleting
    /// it. An address that another delivery is dropping is left to that one: no wait, no deadlock.
    static DROP_ADDRESSES: Plan = const { Plan::new(
        "DELETE FROM qs.addresses a
          USING (SELECT d.lookup
                   FROM qs.addresses d
                  WHERE d.lookup = ANY ($1)
                    FOR UPDATE SKIP LOCKED) AS gone
          WHERE a.lookup = gone.lookup",
    ) };

    /// Finds the push subscriptions of queues.
    static FIND_SUBSCRIPTIONS: Plan = const { Plan::new(
        "SELECT s.queue_id, s.subscription FROM qs.push_subscriptions s WHERE s.queue_id = ANY ($1)",
    ) };
}

/// A fault, which rolls the transaction back. What a recipient causes (a revoked address, a full
/// queue, a bad key) is the [`Fate`] of its letter instead.
#[derive(Debug, thiserror::Error)]
enum DeliverError {
    #[error(
        "each address needs a part, each part the number of a payload (from 1), each payload an urgency (0 to 3), none of them null"
    )]
    Arguments,
    #[error("a delivery for a group needs the sender's domain")]
    NoDomain,
    #[error("{0}")]
    Address(#[from] AddressError),
    #[error("{0}")]
    Chain(#[from] ChainError),
    #[error("{0}")]
    Seal(#[from] SealError),
    #[error("a row in schema qs is not what this version of the extension expects: run \"postern migrate\"")]
    Schema,
    #[error("{0}")]
    Spi(#[from] spi::Error),
}

/// Delivers to each of `addresses` the payload whose number (from 1) is in `parts`, for a group, or
/// without one as a deposit. `urgencies` has one number (0 to 3) for each payload. Returns the
/// [`Fate`] of the letter to each address; an empty array if all were delivered.
#[pg_extern]
fn deliver(
    domain: Option<&str>,
    group_id: Option<&[u8]>,
    addresses: Array<&[u8]>,
    parts: Array<i16>,
    payloads: Array<&[u8]>,
    urgencies: Array<i16>,
) -> Result<Vec<i16>, DeliverError> {
    let sender = match (domain, group_id) {
        (Some(domain), Some(group_id)) => Sender::Group { domain, group_id },
        (None, Some(_)) => return Err(DeliverError::NoDomain),
        (_, None) => Sender::Depositor,
    };
    let mut delivery = Delivery::new(
        sender,
        &without_nulls(&addresses)?,
        &without_nulls(&parts)?,
        &without_nulls(&payloads)?,
        &without_nulls(&urgencies)?,
    )?;
    let snapshot = Snapshot::take();
    delivery.find(&snapshot)?;
    if delivery.bind()? {
        // Binding may have waited, so the first snapshot may be outdated.
        delivery.enqueue(&Snapshot::take())?;
    } else {
        delivery.enqueue(&snapshot)?;
    }
    secret::scrub_stack();
    end_command();
    delivery.unbind()?;
    push::set(&delivery.pushes()?);
    Ok(delivery.fates())
}

fn without_nulls<'a, T>(array: &'a Array<'a, T>) -> Result<Vec<T::As<'a>>, DeliverError>
where
    T: UnboxDatum,
{
    array.iter().collect::<Option<_>>().ok_or(DeliverError::Arguments)
}

#[derive(Clone, Copy)]
enum Sender<'a> {
    /// A group of a domain, which reaches group queues whose owner gave it an address.
    Group { domain: &'a str, group_id: &'a [u8] },
    /// An unknown sender, which reaches contact queues.
    Depositor,
}

impl Sender<'_> {
    /// The kind of queue that takes its messages.
    fn reaches(self) -> QueueKind {
        match self {
            Self::Group { .. } => QueueKind::Group,
            Self::Depositor => QueueKind::Contact,
        }
    }
}

/// One payload for one address.
struct Letter<'a> {
    address: &'a [u8],
    payload: &'a [u8],
    /// Index of the payload.
    part: usize,
    urgency: Urgency,
    /// The hash by which the address was found.
    lookup: Lookup,
    /// The queue that the address leads to, for as long as the letter may reach it.
    queue_id: Option<QueueId>,
    /// The binding this delivery establishes, when the address is used for the first time.
    first_use: Option<(Lookup, Binding)>,
    /// Key of the queue's push subscription, if its owner wants to be woken for this letter.
    push: Option<PushKey>,
    fate: Fate,
}

/// The outcome of a letter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Delivered = 0,
    /// The address does not exist for this sender: it was never made, it was revoked, its queue is
    /// gone, or it is another group's. That will not change.
    Gone = 1,
    /// The queue, or the address's share of it, is full, or its key is not usable. Its owner may mend that.
    NoRoom = 2,
}

struct Delivery<'a> {
    sender: Sender<'a>,
    letters: Vec<Letter<'a>>,
    /// Whether each payload is a handshake, once somebody asked.
    handshakes: Vec<OnceCell<bool>>,
}

/// A message that goes into a queue.
enum Entry {
    /// The letter with this index.
    Letter(usize),
    /// A marker: the payload.
    Lost(Vec<u8>),
}

impl<'a> Delivery<'a> {
    fn new(
        sender: Sender<'a>,
        addresses: &[&'a [u8]],
        parts: &[i16],
        payloads: &[&'a [u8]],
        urgencies: &[i16],
    ) -> Result<Self, DeliverError> {
        if addresses.len() != parts.len() || payloads.len() != urgencies.len() {
            return Err(DeliverError::Arguments);
        }
        let letter = |(&address, &part): (&&'a [u8], &i16)| {
            let index = usize::try_from(part).ok()?.checked_sub(1)?;
            let payload = payloads.get(index)?;
            let urgency = Urgency::try_from(urgencies[index]).ok()?;
            Some(Letter {
                address,
                payload,
                part: index,
                urgency,
                lookup: Lookup::default(),
                queue_id: None,
                first_use: None,
                push: None,
                fate: Fate::Gone,
            })
        };
        let letters: Option<_> = addresses.iter().zip(parts).map(letter).collect();
        let handshakes = vec![OnceCell::new(); payloads.len()];
        Ok(Self { sender, letters: letters.ok_or(DeliverError::Arguments)?, handshakes })
    }

    /// Finds the queues behind the addresses that take messages from this sender.
    fn find(&mut self, snapshot: &Snapshot) -> Result<(), DeliverError> {
        // An address may come with several letters.
        let mut addresses: BTreeMap<Lookup, Vec<(usize, Address)>> = BTreeMap::new();
        for (index, letter) in self.letters.iter().enumerate() {
            if let Ok(address) = Address::try_from(letter.address) {
                addresses.entry(address.lookup()).or_default().push((index, address));
            }
        }
        let table = Table::open(Access::Read);
        let mut rows = table.find_by(snapshot, KeyType::Bytea);
        let mut key = Bytea::default();
        for (lookup, letters) in addresses {
            let Some(row) = rows.get(key.set(&lookup).datum()) else { continue };
            let (_, address) = letters.first().ok_or(DeliverError::Schema)?;
            let address = address.key();
            let last_resort = row.boolean(AddressColumn::LastResort);
            let first_use = match self.sender {
                Sender::Depositor => None,
                // Every group may use a last-resort address (QS-6).
                Sender::Group { .. } if last_resort => None,
                Sender::Group { domain, group_id } => {
                    let ours = address.binding(domain, group_id)?;
                    match row.bytes(AddressColumn::Binding) {
                        None => Some((lookup, ours)),
                        Some(theirs) if *theirs == ours => None,
                        Some(_) => continue,
                    }
                }
            };
            let queue_id = Some(address.open(&lookup, row.value(AddressColumn::SealedQueueId))?);
            let sealed_push = row.bytes(AddressColumn::SealedPush);
            let push = sealed_push.and_then(|sealed| open_push(&address, &lookup, sealed));
            for (index, _) in letters {
                let letter = &mut self.letters[index];
                letter.lookup = lookup;
                letter.queue_id = queue_id;
                letter.first_use = first_use;
                let wanted = push.as_ref().filter(|push| letter.urgency >= push.at_least);
                letter.push = wanted.map(|push| push.key.clone());
            }
        }
        Ok(())
    }

    /// Binds the addresses that are used for the first time; returns whether there were any. Where
    /// another group was faster, the letter is not delivered.
    fn bind(&mut self) -> Result<bool, DeliverError> {
        let first_uses: BTreeMap<_, _> = self.letters.iter().filter_map(|letter| letter.first_use).collect();
        if first_uses.is_empty() {
            return Ok(false);
        }
        let lookups = ByteaArray::of(first_uses.keys());
        let bindings = ByteaArray::of(first_uses.values());
        let bound: HashSet<Lookup> = Spi::connect_mut(|client| {
            BIND_ADDRESSES
                .with(|plan| plan.run(client, &[(&lookups).into(), (&bindings).into()]))?
                .map(|row| bytes(&row, 1))
                .collect::<Result<_, DeliverError>>()
        })?;
        for letter in &mut self.letters {
            if letter.first_use.is_some_and(|(lookup, _)| !bound.contains(&lookup)) {
                letter.queue_id = None;
                letter.first_use = None;
            }
        }
        Ok(true)
    }

    /// Frees the addresses that this delivery bound and that nothing was delivered to.
    fn unbind(&mut self) -> Result<(), DeliverError> {
        let unused = self.letters.iter().filter(|letter| letter.fate != Fate::Delivered);
        let unused: Vec<Lookup> = unused.filter_map(|letter| Some(letter.first_use?.0)).collect();
        change(&UNBIND_ADDRESSES, &unused)
    }

    /// Puts the letters into the queues, which are locked until the end of the transaction, so that
    /// sequence numbers have no gaps and all queues get messages in one order. They are locked in the
    /// order of their ids, so that deliveries do not deadlock. Keys of chains are in this call's part of the
    /// stack only, which the caller scrubs.
    #[inline(never)]
    fn enqueue(&mut self, snapshot: &Snapshot) -> Result<(), DeliverError> {
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

    /// Deletes the addresses of letters to queues that are gone.
    fn drop_addresses(&self, dangling: &[usize]) -> Result<(), DeliverError> {
        let addresses =
            dangling.iter().filter_map(|&index| Address::try_from(self.letters[index].address).ok());
        let lookups: Vec<Lookup> = addresses.map(|address| address.lookup()).collect();
        change(&DROP_ADDRESSES, &lookups)
    }

    /// The pushes that became due: one for each queue that has a subscription and got a letter its
    /// owner wants to be woken for, with the greatest urgency of those letters.
    fn pushes(&mut self) -> Result<Vec<Push>, DeliverError> {
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

    /// The fate of each letter; empty if all were delivered.
    fn fates(&self) -> Vec<i16> {
        if self.letters.iter().all(|letter| letter.fate == Fate::Delivered) {
            return Vec::new();
        }
        self.letters.iter().map(|letter| letter.fate as i16).collect()
    }
}

/// Opens the address's push policy; none if its owner sealed anything else.
fn open_push(address: &AddressKey, lookup: &Lookup, sealed: &[u8]) -> Option<AddressPush> {
    AddressPush::open(address, lookup, &SealedPush::try_from(sealed).ok()?).ok()
}

/// Runs a statement on these addresses, if there are any.
fn change(statement: &'static LocalKey<Plan>, lookups: &[Lookup]) -> Result<(), DeliverError> {
    if lookups.is_empty() {
        return Ok(());
    }
    let lookups = ByteaArray::of(lookups.iter());
    Spi::connect_mut(|client| statement.with(|plan| plan.run(client, &[(&lookups).into()])).map(drop))?;
    Ok(())
}

type SpiRow<'conn> = spi::SpiHeapTupleData<'conn>;

/// A value of ours, made from the bytes of a `bytea` column (counted from 1).
fn bytes<T>(row: &SpiRow, column: usize) -> Result<T, DeliverError>
where
    T: for<'a> TryFrom<&'a [u8]>,
{
    let bytes = row.get::<&[u8]>(column)?.ok_or(DeliverError::Schema)?;
    T::try_from(bytes).map_err(|_| DeliverError::Schema)
}
