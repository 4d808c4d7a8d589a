//! Delivery: one call puts the messages of one sender into all the queues behind the
//! addresses given, set at a time, so that the number of SQL statements does not depend
//! on the number of recipients (DS-5, QS-2, QS-3, QS-5). Who may send is decided before;
//! what an undeliverable address means is decided by the caller.

use std::collections::{BTreeMap, HashMap, HashSet};

use pgrx::{datum::UnboxDatum, prelude::*, spi::SpiClient};
use postern_protocol::{
    Address, HpkePublicKey, QueueId, WrongLength,
    address::{AddressError, Binding, Lookup},
    chain::{ChainError, ChainSender, ChainState, HEADER_LEN, TAG_LEN},
};
use zeroize::Zeroizing;

use crate::{arrays::ByteaArray, plan::Plan, wake};

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
                least(CASE q.kind WHEN 'group' THEN s.group_queue_depth
                                  ELSE s.contact_queue_depth END
                      - (q.next_seq - 1 - greatest(q.acked_seq, q.expired_seq)),
                      CASE q.kind WHEN 'contact' THEN s.deposits_per_day
                          - CASE WHEN q.deposit_day = (now() AT TIME ZONE 'UTC')::date
                                 THEN q.deposit_count ELSE 0 END END) AS room
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

    /// A statement of its own, after LOCK_QUEUES: joined to it, it would after a wait
    /// for a lock still show the chain as it was before that wait, and a message key
    /// would be used twice. Chains that are due to be replaced are left out.
    static READ_CHAINS: Plan = const { Plan::new(
        "SELECT c.queue_id, c.chain, c.next_index, c.chain_key
           FROM qs.chains c CROSS JOIN qs.settings s
          WHERE c.queue_id = ANY ($1) AND s.singleton
            AND c.next_index < s.chain_messages
            AND c.started > (now() AT TIME ZONE 'UTC')::date - s.chain_days",
    ) };

    static WRITE: Plan = const { Plan::new(
        "WITH today (today) AS (
             SELECT (now() AT TIME ZONE 'UTC')::date
         ), advanced AS (
             UPDATE qs.queues q
                SET next_seq = n.next_seq, last_chain = n.chain,
                    deposit_day = CASE q.kind WHEN 'contact' THEN (SELECT t.today FROM today t)
                                              ELSE q.deposit_day END,
                    deposit_count = CASE WHEN q.kind = 'group' THEN 0
                                         WHEN q.deposit_day = (SELECT t.today FROM today t)
                                         THEN q.deposit_count + n.next_seq - q.next_seq
                                         ELSE n.next_seq - q.next_seq END
               FROM unnest($1::bytea[], $2::bigint[], $3::bigint[])
                    AS n (queue_id, next_seq, chain)
              WHERE q.queue_id = n.queue_id
         ), stepped AS (
             INSERT INTO qs.chains AS c (queue_id, chain, next_index, chain_key, started)
             SELECT n.queue_id, n.chain, n.next_index, n.chain_key,
                    (now() AT TIME ZONE 'UTC')::date
               FROM unnest($1::bytea[], $3::bigint[], $4::integer[], $5::bytea[])
                    AS n (queue_id, chain, next_index, chain_key)
                 ON CONFLICT (queue_id) DO UPDATE
                SET chain = excluded.chain,
                    next_index = excluded.next_index,
                    chain_key = excluded.chain_key,
                    started = CASE WHEN c.chain = excluded.chain THEN c.started
                                   ELSE excluded.started END
         )
         INSERT INTO qs.messages (queue_id, seq, chain, chain_index, chain_header, ciphertext, enqueued)
         SELECT n.queue_id, n.seq, n.chain, n.chain_index, nullif(n.chain_header, ''), n.ciphertext,
                (SELECT t.today FROM today t)
           FROM unnest($6::bytea[], $7::bigint[], $8::bigint[], $9::integer[], $10::bytea[], $11::bytea[])
                AS n (queue_id, seq, chain, chain_index, chain_header, ciphertext)",
    ) };
}

/// Faults: the transaction rolls back. Whatever is the doing of a recipient (a revoked
/// address, a full queue, a bad key) is an undeliverable address instead.
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

/// Returns the addresses that could not be delivered to.
#[pg_extern]
fn deliver(
    domain: Option<&str>,
    group_id: Option<&[u8]>,
    addresses: Array<&[u8]>,
    parts: Array<i16>,
    payloads: Array<&[u8]>,
) -> Result<Vec<Vec<u8>>, DeliverError> {
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
            delivery.seal(client, &queues)?.write(client)?;
        }
        Ok(())
    })?;
    Ok(delivery.undeliverable())
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
    deliverable: bool,
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
    last_chain: i64,
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
            Some(Letter { address, payload, first_use: None, deliverable: false })
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
            if found == kind && letters.len() as i64 <= room {
                letters.iter().for_each(|&index| self.letters[index].deliverable = true);
                let queue = Queue {
                    letters,
                    hpke_key: bytes(&row, 3)?,
                    next_seq: row.get(4)?.ok_or(DeliverError::Schema)?,
                    last_chain: row.get(5)?.ok_or(DeliverError::Schema)?,
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
            .filter(|letter| letter.deliverable)
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
                letter.deliverable = letter.first_use.is_none_or(|(lookup, _)| bound.contains(&lookup));
                letter.deliverable
            });
            !queue.letters.is_empty()
        });
        Ok(())
    }

    /// Encrypts every letter under its queue's chain, or under a new chain where there is
    /// none to go on with: none was started yet, it is due to be replaced, or the
    /// unlogged table was emptied by a crash.
    fn seal(&mut self, client: &mut SpiClient, queues: &Queues) -> Result<Sealed, DeliverError> {
        let ids = ByteaArray::of(queues.keys().map(QueueId::as_bytes));
        let mut chains: HashMap<QueueId, ChainState> = READ_CHAINS
            .with(|plan| plan.run(client, &[(&ids).into()]))?
            .map(|row| Ok((bytes(&row, 1)?, chain_state(&row)?)))
            .collect::<Result<_, DeliverError>>()?;

        let letters = queues.values().flat_map(|queue| &queue.letters);
        let ciphertext_bytes = letters.map(|&i| self.letters[i].payload.len() + TAG_LEN).sum();
        let mut sealed = Sealed::with_capacity(queues.len(), self.letters.len(), ciphertext_bytes);
        for (queue_id, queue) in queues {
            let last_chain = u64::try_from(queue.last_chain).map_err(|_| DeliverError::Schema)?;
            let usable = chains.remove(queue_id).filter(|state| state.number == last_chain);
            let (mut chain, mut header) = match usable {
                Some(state) => (ChainSender::resume(*queue_id, state), None),
                None => match ChainSender::start(*queue_id, last_chain + 1, &queue.hpke_key) {
                    Ok((chain, header)) => (chain, Some(header)),
                    Err(ChainError::UnusablePublicKey) => {
                        queue.letters.iter().for_each(|&i| self.letters[i].deliverable = false);
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                },
            };
            let mut seq = queue.next_seq;
            for &index in &queue.letters {
                sealed.message(&mut chain, seq, header.take(), self.letters[index].payload)?;
                seq += 1;
            }
            sealed.queue(&chain, seq);
        }
        Ok(sealed)
    }

    /// Each once, in the order given.
    fn undeliverable(&self) -> Vec<Vec<u8>> {
        let mut seen = HashSet::new();
        let refused = self.letters.iter().filter(|letter| !letter.deliverable);
        refused.filter(|letter| seen.insert(letter.address)).map(|letter| letter.address.to_vec()).collect()
    }
}

/// What WRITE is given: a row per queue, then a row per message.
struct Sealed {
    wake_keys: Vec<wake::Key>,
    queue_ids: ByteaArray,
    next_seqs: Vec<i64>,
    chains: Vec<i64>,
    next_indexes: Vec<i32>,
    chain_keys: Zeroizing<ByteaArray>,
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
            next_indexes: Vec::with_capacity(queues),
            chain_keys: Zeroizing::new(ByteaArray::with_capacity(queues, queues * 32)),
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
        self.next_indexes.push(chain.state().next_index as i32);
        self.chain_keys.push(&chain.state().key);
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
                    self.next_indexes.as_slice().into(),
                    (&*self.chain_keys).into(),
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

/// The columns of READ_CHAINS.
fn chain_state(row: &Row) -> Result<ChainState, DeliverError> {
    let number: i64 = row.get(2)?.ok_or(DeliverError::Schema)?;
    let next_index: i32 = row.get(3)?.ok_or(DeliverError::Schema)?;
    Ok(ChainState {
        number: u64::try_from(number).map_err(|_| DeliverError::Schema)?,
        next_index: u32::try_from(next_index).map_err(|_| DeliverError::Schema)?,
        key: array(row, 4)?,
    })
}
