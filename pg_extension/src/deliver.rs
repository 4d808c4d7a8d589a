//! Delivery: one call puts the messages of one sender into all the queues behind the
//! addresses given, set at a time, so that the number of SQL statements does not depend
//! on the number of recipients (DS-5, QS-2, QS-3, QS-5). Who may send is decided before;
//! what an undeliverable address means is decided by the caller.

use std::collections::{BTreeMap, HashMap, HashSet};

use pgrx::{datum::UnboxDatum, prelude::*, spi::SpiClient};
use postern_protocol::{
    Address, HpkePublicKey, QueueId, WrongLength,
    address::{AddressError, Binding, Lookup},
    chain::{ChainError, ChainSender, HEADER_LEN, TAG_LEN},
};

use crate::{
    arrays::ByteaArray,
    chains::{self, Chain},
    plan::Plan,
    wake,
};

thread_local! {
    static FIND_ADDRESSES: Plan = const { Plan::new(
        "SELECT a.lookup, a.sealed_queue_id, a.binding
           FROM qs.addresses a
          WHERE a.lookup = ANY ($1)",
    ) };

    /// One order of locks for everyone: no deadlock between deliveries, and every pair
    /// of queues sees two deliveries in the same order. The rows stay locked until the
    /// end of the transaction, which keeps sequence numbers gapless.
    static LOCK_QUEUES: Plan = const { Plan::new(
        "SELECT q.queue_id, q.kind, q.hpke_key, q.next_seq, q.last_chain,
                CASE q.kind WHEN 'group' THEN s.group_queue_depth
                            ELSE s.contact_queue_depth END
                - (q.next_seq - 1 - q.acked_seq) AS room,
                s.chain_messages, s.chain_hours
           FROM qs.queues q CROSS JOIN qs.settings s
          WHERE q.queue_id = ANY ($1) AND s.singleton
          ORDER BY q.queue_id
            FOR NO KEY UPDATE OF q",
    ) };

    /// The condition is checked again here because another group may have bound the
    /// address between FIND_ADDRESSES and LOCK_QUEUES.
    static BIND_ADDRESSES: Plan = const { Plan::new(
        "UPDATE qs.addresses a
            SET binding = n.binding
           FROM unnest($1::bytea[], $2::bytea[]) AS n (lookup, binding)
          WHERE a.lookup = n.lookup
            AND (a.binding IS NULL OR a.binding = n.binding)
      RETURNING a.lookup",
    ) };

    static WRITE: Plan = const { Plan::new(
        "WITH advanced AS (
             UPDATE qs.queues q
                SET next_seq = n.next_seq, last_chain = n.chain
               FROM unnest($1::bytea[], $2::bigint[], $3::bigint[])
                    AS n (queue_id, next_seq, chain)
              WHERE q.queue_id = n.queue_id
         )
         INSERT INTO qs.messages (queue_id, seq, chain, chain_index, chain_header, ciphertext)
         SELECT n.queue_id, n.seq, n.chain, n.chain_index, nullif(n.chain_header, ''), n.ciphertext
           FROM unnest($4::bytea[], $5::bigint[], $6::bigint[], $7::integer[], $8::bytea[], $9::bytea[])
                AS n (queue_id, seq, chain, chain_index, chain_header, ciphertext)",
    ) };
}

/// Faults: the transaction rolls back. Whatever is the doing of a recipient (a revoked
/// address, a full queue, a bad key) is its letter's fate instead.
#[derive(Debug, thiserror::Error)]
enum DeliverError {
    #[error("addresses and parts must have the same length, and parts must index payloads")]
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
    )?;
    Spi::connect_mut(|client| -> Result<(), DeliverError> {
        let mut queues = delivery.queues(client)?;
        delivery.bind(client, &mut queues)?;
        if !queues.is_empty() {
            delivery.seal(&queues)?.write(client)?;
        }
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
    /// The binding this delivery establishes, when the address is used for the first time.
    first_use: Option<(Lookup, Binding)>,
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

/// A locked queue and its letters, as indexes in the order given.
struct Queue {
    letters: Vec<usize>,
    hpke_key: HpkePublicKey,
    next_seq: i64,
    /// Number of its last chain, and for how many messages and seconds a chain is used.
    last_chain: u64,
    chain_messages: u32,
    chain_seconds: u32,
}

/// Queues in the order of their locks.
type Queues = BTreeMap<QueueId, Queue>;

impl<'a> Delivery<'a> {
    fn new(
        sender: Sender<'a>,
        addresses: &[&'a [u8]],
        parts: &[i16],
        payloads: &[&'a [u8]],
    ) -> Result<Self, DeliverError> {
        if addresses.len() != parts.len() {
            return Err(DeliverError::Arguments);
        }
        let letter = |(&address, &part): (&&'a [u8], &i16)| {
            let index = usize::try_from(part).ok()?.checked_sub(1)?;
            let payload = payloads.get(index)?;
            Some(Letter { address, payload, first_use: None, fate: Fate::Gone })
        };
        let letters: Option<_> = addresses.iter().zip(parts).map(letter).collect();
        Ok(Self { sender, letters: letters.ok_or(DeliverError::Arguments)? })
    }

    /// Finds and locks the queues behind the addresses, and keeps those that take
    /// messages from this sender and have room for all of its letters.
    fn queues(&mut self, client: &mut SpiClient) -> Result<Queues, DeliverError> {
        let found = self.find(client)?;
        let mut letters: BTreeMap<QueueId, Vec<usize>> = BTreeMap::new();
        for (index, letter) in self.letters.iter_mut().enumerate() {
            let Ok(address) = Address::try_from(letter.address) else { continue };
            let lookup = address.lookup();
            let Some((sealed, binding)) = found.get(&lookup) else { continue };
            if let Sender::Group { domain, group_id } = self.sender {
                let ours = address.binding(domain, group_id)?;
                match binding {
                    None => letter.first_use = Some((lookup, ours)),
                    Some(theirs) if *theirs == ours => {}
                    Some(_) => continue,
                }
            }
            letters.entry(address.open(&lookup, sealed)?).or_default().push(index);
        }
        if letters.is_empty() {
            return Ok(Queues::new());
        }

        let kind = match self.sender {
            Sender::Group { .. } => "group",
            Sender::Depositor => "contact",
        };
        let ids = ByteaArray::of(letters.keys().map(QueueId::as_bytes));
        let mut queues = Queues::new();
        for row in LOCK_QUEUES.with(|plan| plan.run(client, &[(&ids).into()]))? {
            let queue_id = bytes(&row, 1)?;
            let (Some(letters), Some(found), Some(room)) =
                (letters.remove(&queue_id), row.get::<&str>(2)?, row.get::<i64>(6)?)
            else {
                return Err(DeliverError::Schema);
            };
            if found != kind {
                continue;
            }
            let fate = if letters.len() as i64 <= room { Fate::Delivered } else { Fate::NoRoom };
            letters.iter().for_each(|&index| self.letters[index].fate = fate);
            if fate == Fate::Delivered {
                let queue = Queue {
                    letters,
                    hpke_key: bytes(&row, 3)?,
                    next_seq: number::<i64, _>(&row, 4)?,
                    last_chain: number::<i64, _>(&row, 5)?,
                    chain_messages: number::<i32, _>(&row, 7)?,
                    chain_seconds: number::<i32, u32>(&row, 8)?.saturating_mul(3600),
                };
                queues.insert(queue_id, queue);
            }
        }
        Ok(queues)
    }

    fn find(
        &self,
        client: &mut SpiClient,
    ) -> Result<HashMap<Lookup, ([u8; 32], Option<Binding>)>, DeliverError> {
        let lookups: Vec<_> = self
            .letters
            .iter()
            .filter_map(|letter| Address::try_from(letter.address).ok())
            .map(|address| address.lookup())
            .collect();
        let lookups = ByteaArray::of(lookups.iter());
        FIND_ADDRESSES
            .with(|plan| plan.run(client, &[(&lookups).into()]))?
            .map(|row| {
                let binding = row.get::<&[u8]>(3)?.map(Binding::try_from).transpose();
                let binding = binding.map_err(|_| DeliverError::Schema)?;
                Ok((array(&row, 1)?, (array(&row, 2)?, binding)))
            })
            .collect()
    }

    /// Binds the addresses that are used for the first time. Where another group was
    /// faster, the letter does not go out.
    fn bind(&mut self, client: &mut SpiClient, queues: &mut Queues) -> Result<(), DeliverError> {
        let first_uses: BTreeMap<Lookup, Binding> = self
            .letters
            .iter()
            .filter(|letter| letter.fate == Fate::Delivered)
            .filter_map(|letter| letter.first_use)
            .collect();
        if first_uses.is_empty() {
            return Ok(());
        }
        let lookups = ByteaArray::of(first_uses.keys());
        let bindings = ByteaArray::of(first_uses.values());
        let bound: HashSet<Lookup> = BIND_ADDRESSES
            .with(|plan| plan.run(client, &[(&lookups).into(), (&bindings).into()]))?
            .map(|row| array(&row, 1))
            .collect::<Result<_, _>>()?;
        if bound.len() == first_uses.len() {
            return Ok(());
        }
        let letters = &mut self.letters;
        queues.retain(|_, queue| {
            queue.letters.retain(|&index| {
                let letter = &mut letters[index];
                let ours = letter.first_use.is_none_or(|(lookup, _)| bound.contains(&lookup));
                if !ours {
                    letter.fate = Fate::Gone;
                }
                ours
            });
            !queue.letters.is_empty()
        });
        Ok(())
    }

    /// Encrypts every letter under its queue's chain, or under a new chain where there is
    /// none to go on with.
    fn seal(&mut self, queues: &Queues) -> Result<Sealed, DeliverError> {
        let letters = queues.values().flat_map(|queue| &queue.letters);
        let ciphertext_bytes = letters.map(|&i| self.letters[i].payload.len() + TAG_LEN).sum();
        let mut sealed = Sealed::with_capacity(queues.len(), self.letters.len(), ciphertext_bytes);
        for (queue_id, queue) in queues {
            let (mut chain, started, mut header) = match queue.chain(queue_id) {
                Ok(chain) => chain,
                Err(ChainError::UnusablePublicKey) => {
                    queue.letters.iter().for_each(|&i| self.letters[i].fate = Fate::NoRoom);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let mut seq = queue.next_seq;
            for &index in &queue.letters {
                sealed.message(&mut chain, seq, header.take(), self.letters[index].payload)?;
                seq += 1;
            }
            sealed.queue(&chain, seq);
            chains::keep(queue_id, &Chain { state: chain.into_state(), started });
        }
        Ok(sealed)
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
    fn chain(
        &self,
        queue_id: &QueueId,
    ) -> Result<(ChainSender, u32, Option<[u8; HEADER_LEN]>), ChainError> {
        let now = chains::now();
        let usable = chains::take(queue_id).filter(|chain| {
            chain.state.number == self.last_chain
                && chain.state.next_index < self.chain_messages
                && now.saturating_sub(chain.started) < self.chain_seconds
        });
        match usable {
            Some(chain) => Ok((ChainSender::resume(*queue_id, chain.state), chain.started, None)),
            None => {
                let (chain, header) = ChainSender::start(*queue_id, self.last_chain + 1, &self.hpke_key)?;
                Ok((chain, now, Some(header)))
            }
        }
    }
}

/// What WRITE is given: a row per queue, then a row per message.
struct Sealed {
    wake_keys: Vec<wake::Key>,
    queue_ids: ByteaArray,
    next_seqs: Vec<i64>,
    chains: Vec<i64>,
    message_queue_ids: ByteaArray,
    message_seqs: Vec<i64>,
    message_chains: Vec<i64>,
    message_indexes: Vec<i32>,
    headers: ByteaArray,
    ciphertexts: ByteaArray,
}

impl Sealed {
    fn with_capacity(queues: usize, messages: usize, ciphertext_bytes: usize) -> Self {
        Self {
            wake_keys: Vec::with_capacity(queues),
            queue_ids: ByteaArray::with_capacity(queues, queues * QueueId::LEN),
            next_seqs: Vec::with_capacity(queues),
            chains: Vec::with_capacity(queues),
            message_queue_ids: ByteaArray::with_capacity(messages, messages * QueueId::LEN),
            message_seqs: Vec::with_capacity(messages),
            message_chains: Vec::with_capacity(messages),
            message_indexes: Vec::with_capacity(messages),
            headers: ByteaArray::with_capacity(messages, queues * HEADER_LEN),
            ciphertexts: ByteaArray::with_capacity(messages, ciphertext_bytes),
        }
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
        self.message_queue_ids.push(chain.queue_id().as_bytes());
        self.message_seqs.push(seq);
        self.message_chains.push(chain.state().number as i64);
        self.message_indexes.push(index as i32);
        self.headers.push(header.as_ref().map_or(&[], |header| header.as_slice()));
        Ok(())
    }

    fn queue(&mut self, chain: &ChainSender, next_seq: i64) {
        self.wake_keys.push(wake::key(chain.queue_id()));
        self.queue_ids.push(chain.queue_id().as_bytes());
        self.next_seqs.push(next_seq);
        self.chains.push(chain.state().number as i64);
    }

    fn write(self, client: &mut SpiClient) -> Result<(), DeliverError> {
        if self.wake_keys.is_empty() {
            return Ok(());
        }
        WRITE.with(|plan| {
            plan.run(
                client,
                &[
                    (&self.queue_ids).into(),
                    self.next_seqs.as_slice().into(),
                    self.chains.as_slice().into(),
                    (&self.message_queue_ids).into(),
                    self.message_seqs.as_slice().into(),
                    self.message_chains.as_slice().into(),
                    self.message_indexes.as_slice().into(),
                    (&self.headers).into(),
                    (&self.ciphertexts).into(),
                ],
            )
        })?;
        wake::collect(&self.wake_keys);
        Ok(())
    }
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
