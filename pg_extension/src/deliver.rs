//! Delivery: one call puts the messages of one sender into all the queues behind the
//! addresses given, set at a time, so that the number of SQL statements does not depend
//! on the number of recipients (DS-5, QS-2, QS-3, QS-5). Who may send is decided before;
//! what an undeliverable address means is decided by the caller.

use std::collections::{BTreeMap, HashSet};

use pgrx::{datum::UnboxDatum, prelude::*, spi::SpiClient};
use postern_protocol::{
    Address, HpkePublicKey, QueueId, SealedPush, WrongLength,
    address::{AddressError, AddressKey, Binding, Lookup},
    chain::{ChainError, ChainSender, HEADER_LEN, TAG_LEN},
    push::{AddressPush, Push, PushKey, Urgency},
};

use crate::{
    arrays::ByteaArray,
    chains::{self, Chain},
    plan::Plan,
    push, wake,
};

thread_local! {
    static FIND_ADDRESSES: Plan = const { Plan::new(
        "SELECT a.lookup, a.sealed_queue_id, a.binding, a.last_resort, a.sealed_push
           FROM qs.addresses a
          WHERE a.lookup = ANY ($1)",
    ) };

    /// The condition is checked again here because another group may have bound the
    /// address since FIND_ADDRESSES.
    static BIND_ADDRESSES: Plan = const { Plan::new(
        "UPDATE qs.addresses a
            SET binding = n.binding
           FROM unnest($1::bytea[], $2::bytea[]) AS n (lookup, binding)
          WHERE a.lookup = n.lookup
            AND (a.binding IS NULL OR a.binding = n.binding)
      RETURNING a.lookup",
    ) };

    static UNBIND_ADDRESSES: Plan = const { Plan::new(
        "UPDATE qs.addresses a SET binding = NULL WHERE a.lookup = ANY ($1)",
    ) };

    /// Takes the next sequence numbers of queues that have room for their letters, and locks
    /// them until the end of the transaction, which keeps the numbers gapless and two queues'
    /// messages in one order. The ids come sorted, and rows are locked in the order that they
    /// come in, as nothing but an index of the queues can be joined to them (see the settings
    /// of the role `postern_server`): no deadlock between deliveries.
    static ADVANCE_GROUP_QUEUES: Plan = const { Plan::new(
        "UPDATE qs.queues q
            SET next_seq = q.next_seq + n.letters
           FROM unnest($1::bytea[], $2::bigint[]) AS n (queue_id, letters), qs.settings s
          WHERE q.queue_id = n.queue_id AND q.kind = 'group' AND s.singleton
            AND q.next_seq - 1 - greatest(q.acked_seq, q.expired_seq) + n.letters <= s.group_queue_depth
      RETURNING q.queue_id::bytea, q.hpke_key::bytea, q.next_seq - n.letters, q.last_chain::bigint,
                s.chain_messages, s.chain_hours",
    ) };

    /// The same; `$3` is today, in days since 2000.
    static ADVANCE_CONTACT_QUEUES: Plan = const { Plan::new(
        "UPDATE qs.queues q
            SET next_seq = q.next_seq + n.letters,
                deposit_day = date '2000-01-01' + $3,
                deposit_count = n.letters
                    + CASE WHEN q.deposit_day = date '2000-01-01' + $3 THEN q.deposit_count ELSE 0 END
           FROM unnest($1::bytea[], $2::bigint[]) AS n (queue_id, letters), qs.settings s
          WHERE q.queue_id = n.queue_id AND q.kind = 'contact' AND s.singleton
            AND q.next_seq - 1 - greatest(q.acked_seq, q.expired_seq) + n.letters <= s.contact_queue_depth
            AND n.letters + CASE WHEN q.deposit_day = date '2000-01-01' + $3 THEN q.deposit_count ELSE 0 END
                <= s.deposits_per_day
      RETURNING q.queue_id::bytea, q.hpke_key::bytea, q.next_seq - n.letters, q.last_chain::bigint,
                s.chain_messages, s.chain_hours",
    ) };

    static FIND_QUEUES: Plan = const { Plan::new(
        "SELECT q.queue_id::bytea, q.kind = $2 FROM qs.queues q WHERE q.queue_id = ANY ($1)",
    ) };

    /// An address outlives its queue when whoever deleted the queue did not know it. One that
    /// another delivery is dropping is left to that one: no wait, no deadlock.
    static DROP_ADDRESSES: Plan = const { Plan::new(
        "DELETE FROM qs.addresses a
          USING (SELECT d.lookup
                   FROM qs.addresses d
                  WHERE d.lookup = ANY ($1)
                    FOR UPDATE SKIP LOCKED) AS gone
          WHERE a.lookup = gone.lookup",
    ) };

    static FIND_SUBSCRIPTIONS: Plan = const { Plan::new(
        "SELECT s.queue_id, s.subscription FROM qs.push_subscriptions s WHERE s.queue_id = ANY ($1)",
    ) };

    /// What is rare: a new chain has begun, or numbers were taken that nothing can be sealed for.
    static CORRECT_QUEUES: Plan = const { Plan::new(
        "UPDATE qs.queues q
            SET last_chain = n.last_chain, next_seq = n.next_seq
           FROM unnest($1::bytea[], $2::bigint[], $3::bigint[]) AS n (queue_id, last_chain, next_seq)
          WHERE q.queue_id = n.queue_id",
    ) };

    /// `$7` is today, in days since 2000.
    static INSERT_MESSAGES: Plan = const { Plan::new(
        "INSERT INTO qs.messages (queue_id, seq, chain, chain_index, chain_header, ciphertext, enqueued)
         SELECT n.queue_id, n.seq, n.chain, n.chain_index, nullif(n.chain_header, ''), n.ciphertext,
                date '2000-01-01' + $7
           FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::integer[], $5::bytea[], $6::bytea[])
                AS n (queue_id, seq, chain, chain_index, chain_header, ciphertext)",
    ) };
}

/// Faults: the transaction rolls back. Whatever is the doing of a recipient (a revoked
/// address, a full queue, a bad key) is its letter's fate instead.
#[derive(Debug, thiserror::Error)]
enum DeliverError {
    #[error(
        "addresses and parts must have the same length, parts must index payloads, and each of those has an urgency"
    )]
    Arguments,
    #[error("a delivery for a group needs the sender's domain")]
    NoDomain,
    #[error("{0}")]
    Address(#[from] AddressError),
    #[error("{0}")]
    Chain(#[from] ChainError),
    #[error("a row of qs has another shape than this extension expects")]
    Schema,
    #[error("{0}")]
    Spi(#[from] spi::Error),
}

/// Returns what became of the letter to each address ([`Fate`]); nothing if all were
/// delivered.
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
    Spi::connect_mut(|client| -> Result<(), DeliverError> {
        delivery.find(client)?;
        delivery.bind(client)?;
        let queues = delivery.advance(client)?;
        let sealed = delivery.seal(&queues)?;
        delivery.unbind(client)?;
        sealed.write(client)?;
        push::set(&delivery.pushes(client)?);
        Ok(())
    })?;
    Ok(delivery.fates())
}

fn without_nulls<'a, T>(array: &'a Array<'a, T>) -> Result<Vec<T::As<'a>>, DeliverError>
where
    T: UnboxDatum,
{
    array.iter().collect::<Option<_>>().ok_or(DeliverError::Arguments)
}

enum Sender<'a> {
    /// A group of a domain: reaches group queues whose owner gave it an address.
    Group { domain: &'a str, group_id: &'a [u8] },
    /// Anyone: reaches contact queues.
    Depositor,
}

/// One payload for one address.
struct Letter<'a> {
    address: &'a [u8],
    payload: &'a [u8],
    urgency: Urgency,
    /// The queue that the address leads to, for as long as the letter may reach it.
    queue_id: Option<QueueId>,
    /// The binding this delivery establishes, when the address is used for the first time.
    first_use: Option<(Lookup, Binding)>,
    /// When its owner wants to be woken for it.
    push: Option<PushKey>,
    fate: Fate,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Delivered = 0,
    /// The address leads nowhere, or not this sender: it was never made, it was revoked, its
    /// queue is gone, or it is another group's. It will not become better.
    Gone = 1,
    /// The queue is full or cannot be encrypted to. Its owner may mend that.
    NoRoom = 2,
}

struct Delivery<'a> {
    sender: Sender<'a>,
    letters: Vec<Letter<'a>>,
}

/// A locked queue that takes its letters.
struct Queue {
    id: QueueId,
    /// Indexes, in the order given.
    letters: Vec<usize>,
    hpke_key: HpkePublicKey,
    /// Sequence number of the first letter.
    first_seq: i64,
    /// Number of its last chain, and for how many messages and seconds a chain is used.
    last_chain: u64,
    chain_messages: u32,
    chain_seconds: u32,
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
            let (queue_id, first_use, push) = (None, None, None);
            Some(Letter { address, payload, urgency, queue_id, first_use, push, fate: Fate::Gone })
        };
        let letters: Option<_> = addresses.iter().zip(parts).map(letter).collect();
        Ok(Self { sender, letters: letters.ok_or(DeliverError::Arguments)? })
    }

    /// Finds the queues behind the addresses that take messages from this sender.
    fn find(&mut self, client: &mut SpiClient) -> Result<(), DeliverError> {
        // An address may come with several letters.
        let mut addresses: BTreeMap<Lookup, Vec<(usize, Address)>> = BTreeMap::new();
        for (index, letter) in self.letters.iter().enumerate() {
            if let Ok(address) = Address::try_from(letter.address) {
                addresses.entry(address.lookup()).or_default().push((index, address));
            }
        }
        let lookups = ByteaArray::of(addresses.keys());
        for row in FIND_ADDRESSES.with(|plan| plan.run(client, &[(&lookups).into()]))? {
            let lookup: Lookup = array(&row, 1)?;
            let letters = addresses.get(&lookup).ok_or(DeliverError::Schema)?;
            let (_, address) = letters.first().ok_or(DeliverError::Schema)?;
            let address = address.key();
            let bound = row.get::<&[u8]>(3)?;
            let last_resort: bool = row.get(4)?.ok_or(DeliverError::Schema)?;
            let first_use = match self.sender {
                Sender::Depositor => None,
                // Every group may use it (QS-6).
                Sender::Group { .. } if last_resort => None,
                Sender::Group { domain, group_id } => {
                    let ours = address.binding(domain, group_id)?;
                    match bound {
                        None => Some((lookup, ours)),
                        Some(theirs) if *theirs == ours => None,
                        Some(_) => continue,
                    }
                }
            };
            let queue_id = Some(address.open(&lookup, &array(&row, 2)?)?);
            let push = row.get::<&[u8]>(5)?.and_then(|sealed| open_push(&address, &lookup, sealed));
            for &(index, _) in letters {
                let letter = &mut self.letters[index];
                letter.queue_id = queue_id;
                letter.first_use = first_use;
                let wanted = push.as_ref().filter(|push| letter.urgency >= push.at_least);
                letter.push = wanted.map(|push| push.key.clone());
            }
        }
        Ok(())
    }

    /// Binds the addresses that are used for the first time. Where another group was
    /// faster, the letter does not go out.
    fn bind(&mut self, client: &mut SpiClient) -> Result<(), DeliverError> {
        let first_uses: BTreeMap<_, _> = self.letters.iter().filter_map(|letter| letter.first_use).collect();
        if first_uses.is_empty() {
            return Ok(());
        }
        let lookups = ByteaArray::of(first_uses.keys());
        let bindings = ByteaArray::of(first_uses.values());
        let bound: HashSet<Lookup> = BIND_ADDRESSES
            .with(|plan| plan.run(client, &[(&lookups).into(), (&bindings).into()]))?
            .map(|row| array(&row, 1))
            .collect::<Result<_, _>>()?;
        for letter in &mut self.letters {
            if letter.first_use.is_some_and(|(lookup, _)| !bound.contains(&lookup)) {
                letter.queue_id = None;
                letter.first_use = None;
            }
        }
        Ok(())
    }

    /// An address that nothing was delivered to stays free.
    fn unbind(&mut self, client: &mut SpiClient) -> Result<(), DeliverError> {
        let unused = self.letters.iter().filter(|letter| letter.fate != Fate::Delivered);
        let unused: Vec<Lookup> = unused.filter_map(|letter| Some(letter.first_use?.0)).collect();
        if !unused.is_empty() {
            let lookups = ByteaArray::of(unused.iter());
            UNBIND_ADDRESSES.with(|plan| plan.run(client, &[(&lookups).into()]))?;
        }
        Ok(())
    }

    /// Locks the queues in the order of their ids and takes sequence numbers of those that
    /// have room for all of their letters.
    fn advance(&mut self, client: &mut SpiClient) -> Result<Vec<Queue>, DeliverError> {
        let mut letters: BTreeMap<QueueId, Vec<usize>> = BTreeMap::new();
        for (index, letter) in self.letters.iter().enumerate() {
            if let Some(queue_id) = letter.queue_id {
                letters.entry(queue_id).or_default().push(index);
            }
        }
        if letters.is_empty() {
            return Ok(Vec::new());
        }
        let ids = ByteaArray::of(letters.keys().map(QueueId::as_bytes));
        let numbers: Vec<i64> = letters.values().map(|letters| letters.len() as i64).collect();
        let numbers = numbers.as_slice().into();
        let rows = match self.sender {
            Sender::Group { .. } => {
                ADVANCE_GROUP_QUEUES.with(|plan| plan.run(client, &[(&ids).into(), numbers]))
            }
            Sender::Depositor => ADVANCE_CONTACT_QUEUES
                .with(|plan| plan.run(client, &[(&ids).into(), numbers, today().into()])),
        };
        let mut queues = Vec::with_capacity(letters.len());
        for row in rows? {
            let id = bytes(&row, 1)?;
            let letters = letters.remove(&id).ok_or(DeliverError::Schema)?;
            letters.iter().for_each(|&index| self.letters[index].fate = Fate::Delivered);
            queues.push(Queue {
                id,
                letters,
                hpke_key: bytes(&row, 2)?,
                first_seq: number::<i64, _>(&row, 3)?,
                last_chain: number::<i64, _>(&row, 4)?,
                chain_messages: number::<i32, _>(&row, 5)?,
                chain_seconds: number::<i32, u32>(&row, 6)?.saturating_mul(3600),
            });
        }
        if !letters.is_empty() {
            self.without_room(client, letters)?;
        }
        Ok(queues)
    }

    /// Queues that did not take their letters: those that are there have no room. A queue is
    /// older than its addresses: those of one that is not there any more are dropped.
    fn without_room(
        &mut self,
        client: &mut SpiClient,
        mut letters: BTreeMap<QueueId, Vec<usize>>,
    ) -> Result<(), DeliverError> {
        let ids = ByteaArray::of(letters.keys().map(QueueId::as_bytes));
        let kind = match self.sender {
            Sender::Group { .. } => "group",
            Sender::Depositor => "contact",
        };
        for row in FIND_QUEUES.with(|plan| plan.run(client, &[(&ids).into(), kind.into()]))? {
            let letters = letters.remove(&bytes(&row, 1)?).ok_or(DeliverError::Schema)?;
            if row.get::<bool>(2)?.ok_or(DeliverError::Schema)? {
                letters.iter().for_each(|&index| self.letters[index].fate = Fate::NoRoom);
            }
        }
        let dangling: Vec<Lookup> = letters
            .into_values()
            .flatten()
            .filter_map(|index| Address::try_from(self.letters[index].address).ok())
            .map(|address| address.lookup())
            .collect();
        if !dangling.is_empty() {
            let lookups = ByteaArray::of(dangling.iter());
            DROP_ADDRESSES.with(|plan| plan.run(client, &[(&lookups).into()]))?;
        }
        Ok(())
    }

    /// Encrypts every letter under its queue's chain, or under a new chain where there is
    /// none to go on with.
    fn seal(&mut self, queues: &[Queue]) -> Result<Sealed, DeliverError> {
        let letters = queues.iter().flat_map(|queue| &queue.letters);
        let ciphertext_bytes = letters.map(|&i| self.letters[i].payload.len() + TAG_LEN).sum();
        let mut sealed = Sealed::with_capacity(queues.len(), self.letters.len(), ciphertext_bytes);
        for queue in queues {
            let (mut chain, started, mut header) = match queue.chain() {
                Ok(chain) => chain,
                Err(ChainError::UnusablePublicKey) => {
                    queue.letters.iter().for_each(|&i| self.letters[i].fate = Fate::NoRoom);
                    sealed.correct(queue, queue.last_chain, queue.first_seq);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if header.is_some() {
                let next_seq = queue.first_seq + queue.letters.len() as i64;
                sealed.correct(queue, chain.state().number, next_seq);
            }
            for (seq, &index) in (queue.first_seq..).zip(&queue.letters) {
                sealed.message(&mut chain, seq, header.take(), self.letters[index].payload)?;
            }
            sealed.wake_keys.push(wake::key(&queue.id));
            chains::keep(&queue.id, &Chain { state: chain.into_state(), started });
        }
        Ok(sealed)
    }

    /// Of the queues that got a letter which its owner wants to be woken for, those that have a
    /// subscription.
    fn pushes(&mut self, client: &mut SpiClient) -> Result<Vec<Push>, DeliverError> {
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
        FIND_SUBSCRIPTIONS
            .with(|plan| plan.run(client, &[(&ids).into()]))?
            .map(|row| {
                let queue_id = bytes(&row, 1)?;
                let (urgency, key) = wanted.remove(&queue_id).ok_or(DeliverError::Schema)?;
                Ok(Push { urgency, queue_id, key, subscription: bytes(&row, 2)? })
            })
            .collect()
    }

    fn fates(&self) -> Vec<i16> {
        if self.letters.iter().all(|letter| letter.fate == Fate::Delivered) {
            return Vec::new();
        }
        self.letters.iter().map(|letter| letter.fate as i16).collect()
    }
}

impl Queue {
    /// The chain to go on with and since when it is used, or a new one and its header: when
    /// there is none, it is due to be replaced, or it is not the queue's last, because the
    /// transaction that started it failed or the owner rotated the queue's keys.
    fn chain(&self) -> Result<(ChainSender, u32, Option<[u8; HEADER_LEN]>), ChainError> {
        let now = chains::now();
        let usable = chains::take(&self.id).filter(|chain| {
            chain.state.number == self.last_chain
                && chain.state.next_index < self.chain_messages
                && now.saturating_sub(chain.started) < self.chain_seconds
        });
        match usable {
            Some(chain) => Ok((ChainSender::resume(self.id, chain.state), chain.started, None)),
            None => {
                let (chain, header) = ChainSender::start(self.id, self.last_chain + 1, &self.hpke_key)?;
                Ok((chain, now, Some(header)))
            }
        }
    }
}

/// What is to be written: a row for each message, and for each queue whose row has to be
/// corrected.
struct Sealed {
    wake_keys: Vec<wake::Key>,
    queue_ids: ByteaArray,
    seqs: Vec<i64>,
    chains: Vec<i64>,
    indexes: Vec<i32>,
    headers: ByteaArray,
    ciphertexts: ByteaArray,
    corrected_ids: Vec<QueueId>,
    last_chains: Vec<i64>,
    next_seqs: Vec<i64>,
}

impl Sealed {
    fn with_capacity(queues: usize, messages: usize, ciphertext_bytes: usize) -> Self {
        Self {
            wake_keys: Vec::with_capacity(queues),
            queue_ids: ByteaArray::with_capacity(messages, messages * QueueId::LEN),
            seqs: Vec::with_capacity(messages),
            chains: Vec::with_capacity(messages),
            indexes: Vec::with_capacity(messages),
            headers: ByteaArray::with_capacity(messages, 0),
            ciphertexts: ByteaArray::with_capacity(messages, ciphertext_bytes),
            corrected_ids: Vec::new(),
            last_chains: Vec::new(),
            next_seqs: Vec::new(),
        }
    }

    fn correct(&mut self, queue: &Queue, last_chain: u64, next_seq: i64) {
        self.corrected_ids.push(queue.id);
        self.last_chains.push(last_chain as i64);
        self.next_seqs.push(next_seq);
    }

    fn message(
        &mut self,
        chain: &mut ChainSender,
        seq: i64,
        header: Option<[u8; HEADER_LEN]>,
        payload: &[u8],
    ) -> Result<(), DeliverError> {
        let ciphertext = self.ciphertexts.push_zeroed(payload.len() + TAG_LEN);
        let unsigned_seq = u64::try_from(seq).map_err(|_| DeliverError::Schema)?;
        let index = chain.seal_into(unsigned_seq, payload, ciphertext)?;
        self.queue_ids.push(chain.queue_id().as_bytes());
        self.seqs.push(seq);
        self.chains.push(chain.state().number as i64);
        self.indexes.push(index as i32);
        self.headers.push(header.as_ref().map_or(&[], |header| header.as_slice()));
        Ok(())
    }

    fn write(self, client: &mut SpiClient) -> Result<(), DeliverError> {
        if !self.corrected_ids.is_empty() {
            let ids = ByteaArray::of(self.corrected_ids.iter().map(QueueId::as_bytes));
            let (last_chains, next_seqs) = (self.last_chains.as_slice(), self.next_seqs.as_slice());
            let arguments = [(&ids).into(), last_chains.into(), next_seqs.into()];
            CORRECT_QUEUES.with(|plan| plan.run(client, &arguments))?;
        }
        if self.wake_keys.is_empty() {
            return Ok(());
        }
        INSERT_MESSAGES.with(|plan| {
            plan.run(
                client,
                &[
                    (&self.queue_ids).into(),
                    self.seqs.as_slice().into(),
                    self.chains.as_slice().into(),
                    self.indexes.as_slice().into(),
                    (&self.headers).into(),
                    (&self.ciphertexts).into(),
                    today().into(),
                ],
            )
        })?;
        wake::collect(&self.wake_keys);
        Ok(())
    }
}

/// What the address's owner sealed, if it is what it should be.
fn open_push(address: &AddressKey, lookup: &Lookup, sealed: &[u8]) -> Option<AddressPush> {
    AddressPush::open(address, lookup, &SealedPush::try_from(sealed).ok()?).ok()
}

/// Days since 2000 (UTC), as of the transaction's start.
fn today() -> i32 {
    const DAY: i64 = 24 * 60 * 60 * 1_000_000;
    // SAFETY: in a transaction.
    let microseconds = unsafe { pg_sys::GetCurrentTransactionStartTimestamp() };
    microseconds.div_euclid(DAY) as i32
}

type Row<'conn> = spi::SpiHeapTupleData<'conn>;

fn array<const N: usize>(row: &Row, column: usize) -> Result<[u8; N], DeliverError> {
    let bytes = row.get::<&[u8]>(column)?.ok_or(DeliverError::Schema)?;
    bytes.try_into().map_err(|_| DeliverError::Schema)
}

fn bytes<T>(row: &Row, column: usize) -> Result<T, DeliverError>
where
    T: for<'a> TryFrom<&'a [u8], Error = WrongLength>,
{
    let bytes = row.get::<&[u8]>(column)?.ok_or(DeliverError::Schema)?;
    T::try_from(bytes).map_err(|_| DeliverError::Schema)
}

fn number<T, U>(row: &Row, column: usize) -> Result<U, DeliverError>
where
    T: pgrx::FromDatum + IntoDatum,
    U: TryFrom<T>,
{
    let number = row.get::<T>(column)?.ok_or(DeliverError::Schema)?;
    U::try_from(number).map_err(|_| DeliverError::Schema)
}
