//! A delivery's work on each queue: it locks the queue, checks that it has room, continues its chain
//! and writes its messages (QS-5).

use std::cell::Cell;

use pgrx::pg_sys;
use postern_protocol::{
    HpkePublicKey, QueueId,
    chain::{ChainError, ChainSender, HEADER_LEN, TAG_LEN},
    qs::QueueKind,
};

use crate::{
    bytea::Bytea,
    chains::{self, Chain},
    table::{Access, Columns, Find, Insert, KeyType, Locked, Snapshot, Table, table, unexpected},
    watch::{self, Watch},
};

table! { SettingsColumn = c"qs", c"settings" {
    ChainMessages = c"chain_messages" INT4OID,
    ChainHours = c"chain_hours" INT4OID,
    GroupQueueDepth = c"group_queue_depth" INT4OID,
    ContactQueueDepth = c"contact_queue_depth" INT4OID,
    DepositsPerDay = c"deposits_per_day" INT4OID,
} }

table! { QueueColumn = c"qs", c"queues" {
    Kind = c"kind" TEXTOID,
    HpkeKey = c"hpke_key" BYTEAOID,
    NextSeq = c"next_seq" INT8OID,
    AckedSeq = c"acked_seq" INT8OID,
    ExpiredSeq = c"expired_seq" INT8OID,
    LastChain = c"last_chain" INT8OID,
    DepositDay = c"deposit_day" DATEOID,
    DepositCount = c"deposit_count" INT8OID,
} }

table! { MessageColumn = c"qs", c"messages" {
    QueueId = c"queue_id" BYTEAOID,
    Seq = c"seq" INT8OID,
    Chain = c"chain" INT8OID,
    ChainIndex = c"chain_index" INT4OID,
    ChainHeader = c"chain_header" BYTEAOID,
    Ciphertext = c"ciphertext" BYTEAOID,
    Enqueued = c"enqueued" DATEOID,
} }

/// The operator's limits on deliveries.
#[derive(Clone, Copy)]
pub struct Policy {
    chain_messages: u32,
    chain_seconds: u32,
    group_queue_depth: i64,
    contact_queue_depth: i64,
    deposits_per_day: i64,
    /// Day of the transaction's start (UTC), in days since 2000.
    today: i32,
}

thread_local! {
    static POLICY: Cell<Option<Policy>> = const { Cell::new(None) };
    static WATCH: Watch = const { Watch::new() };
}

impl Policy {
    /// The limits as this transaction sees them.
    pub fn current() -> Self {
        let changed = WATCH.with(Watch::take_changed);
        if let Some(policy) = POLICY.get().filter(|_| !changed) {
            return Self { today: today(), ..policy };
        }
        let policy = Self::read();
        POLICY.set(watch::reads_the_latest().then_some(policy));
        policy
    }

    fn read() -> Self {
        let snapshot = Snapshot::take();
        let table = Table::<SettingsColumn>::open(Access::Read);
        WATCH.with(|watch| watch.set_table(table.oid()));
        let mut rows = table.find_by(&snapshot, KeyType::Boolean);
        let Some(row) = rows.get(pg_sys::Datum::from(true)) else { unexpected(SettingsColumn::NAME) };
        let natural = |column| natural::<SettingsColumn, u32>(row.integer(column).into());
        Self {
            chain_messages: natural(SettingsColumn::ChainMessages),
            chain_seconds: natural(SettingsColumn::ChainHours).saturating_mul(3600),
            group_queue_depth: row.integer(SettingsColumn::GroupQueueDepth).into(),
            contact_queue_depth: row.integer(SettingsColumn::ContactQueueDepth).into(),
            deposits_per_day: row.integer(SettingsColumn::DepositsPerDay).into(),
            today: today(),
        }
    }
}

/// A number of a table that must not be negative.
fn natural<C: Columns, T: TryFrom<i64>>(number: i64) -> T {
    T::try_from(number).unwrap_or_else(|_| unexpected(C::NAME))
}

fn today() -> i32 {
    const DAY: i64 = 24 * 60 * 60 * 1_000_000;
    // SAFETY: in a transaction.
    let microseconds = unsafe { pg_sys::GetCurrentTransactionStartTimestamp() };
    microseconds.div_euclid(DAY) as i32
}

/// The table `qs.queues`, open for updates.
pub struct Queues(Table<QueueColumn>);

impl Queues {
    pub fn open() -> Self {
        Self(Table::open(Access::Update))
    }

    pub fn lock_by_id<'a>(&'a self, snapshot: &'a Snapshot) -> LockById<'a> {
        LockById { rows: self.0.find_by(snapshot, KeyType::Bytea), key: Bytea::default() }
    }
}

/// Locks queues, one after the other.
pub struct LockById<'a> {
    rows: Find<'a, QueueColumn>,
    key: Bytea,
}

impl LockById<'_> {
    /// Locks a queue until the end of the transaction; none if the queue is gone.
    pub fn lock(&mut self, id: QueueId) -> Option<Queue<'_>> {
        self.rows.lock(self.key.set(id.as_bytes()).datum()).map(|row| Queue::new(id, row))
    }
}

/// A locked queue.
pub struct Queue<'a> {
    row: Locked<'a, QueueColumn>,
    id: QueueId,
    kind: QueueKind,
    hpke_key: HpkePublicKey,
    next_seq: i64,
    /// Sequence number up to which messages were acknowledged or expired, and are gone.
    removed_seq: i64,
    /// Number of the chain started last.
    last_chain: u64,
    deposit_day: i32,
    deposit_count: i64,
}

impl<'a> Queue<'a> {
    fn new(id: QueueId, locked: Locked<'a, QueueColumn>) -> Self {
        let row = locked.row();
        Self {
            id,
            kind: match row.bytes(QueueColumn::Kind) {
                Some(b"group") => QueueKind::Group,
                Some(b"contact") => QueueKind::Contact,
                _ => unexpected(QueueColumn::NAME),
            },
            hpke_key: row.value(QueueColumn::HpkeKey),
            next_seq: row.bigint(QueueColumn::NextSeq),
            removed_seq: row.bigint(QueueColumn::AckedSeq).max(row.bigint(QueueColumn::ExpiredSeq)),
            last_chain: natural::<QueueColumn, _>(row.bigint(QueueColumn::LastChain)),
            deposit_day: row.integer(QueueColumn::DepositDay),
            deposit_count: row.bigint(QueueColumn::DepositCount),
            row: locked,
        }
    }

    pub fn kind(&self) -> QueueKind {
        self.kind
    }

    /// Whether the queue takes so many messages more.
    pub fn has_room(&self, policy: &Policy, messages: usize) -> bool {
        let messages = messages as i64;
        let waiting = self.next_seq - 1 - self.removed_seq + messages;
        match self.kind {
            QueueKind::Group => waiting <= policy.group_queue_depth,
            QueueKind::Contact => {
                waiting <= policy.contact_queue_depth
                    && self.deposits(policy) + messages <= policy.deposits_per_day
            }
        }
    }

    /// Number of deposits of today.
    fn deposits(&self, policy: &Policy) -> i64 {
        if self.deposit_day == policy.today { self.deposit_count } else { 0 }
    }

    /// The chain to continue. A new one is started when there is none, it is due to be replaced, or
    /// it is not the queue's last, because the transaction that started it failed or the owner
    /// rotated the queue's keys.
    ///
    /// # Errors
    /// [`ChainError::UnusablePublicKey`] if a new chain cannot be sealed to the queue's key.
    pub fn chain(&self, policy: &Policy) -> Result<QueueChain, ChainError> {
        let now = chains::now();
        let usable = chains::take(&self.id).filter(|chain| {
            chain.state.number == self.last_chain
                && chain.state.next_index < policy.chain_messages
                && now.saturating_sub(chain.started) < policy.chain_seconds
        });
        Ok(match usable {
            Some(chain) => QueueChain {
                sender: ChainSender::resume(self.id, chain.state),
                started: chain.started,
                header: None,
            },
            None => {
                let (sender, header) = ChainSender::start(self.id, self.last_chain + 1, &self.hpke_key)?;
                QueueChain { sender, started: now, header: Some(header) }
            }
        })
    }

    /// Writes the queue's row after so many messages of this chain, the first of which got
    /// [`Self::next_seq`], and leaves the chain to the next delivery.
    pub fn advance(self, policy: &Policy, chain: QueueChain, messages: usize) {
        let messages = messages as i64;
        let chain = Chain { state: chain.sender.into_state(), started: chain.started };
        let moved = [
            (QueueColumn::NextSeq, (self.next_seq + messages).into()),
            (QueueColumn::LastChain, (chain.state.number as i64).into()),
            (QueueColumn::DepositDay, policy.today.into()),
            (QueueColumn::DepositCount, (self.deposits(policy) + messages).into()),
        ];
        let moved = match self.kind {
            QueueKind::Group => &moved[..2],
            QueueKind::Contact => &moved[..],
        };
        // SAFETY: three bigints and a date.
        unsafe { self.row.update(moved) };
        chains::keep(&self.id, &chain);
    }

    /// Sequence number of the next message.
    pub fn next_seq(&self) -> i64 {
        self.next_seq
    }
}

/// The chain of a locked queue, taken out of the shared memory.
pub struct QueueChain {
    sender: ChainSender,
    started: u32,
    /// The start of a new chain, for its first message.
    header: Option<[u8; HEADER_LEN]>,
}

/// The table `qs.messages`, open for inserts.
pub struct Messages(Table<MessageColumn>);

impl Messages {
    pub fn open() -> Self {
        Self(Table::open(Access::Insert))
    }

    pub fn add(&self) -> AddMessages<'_> {
        AddMessages {
            rows: self.0.insert(),
            queue_id: Bytea::default(),
            header: Bytea::default(),
            ciphertext: Bytea::default(),
        }
    }
}

/// Adds messages to queues.
pub struct AddMessages<'a> {
    rows: Insert<'a, MessageColumn>,
    queue_id: Bytea,
    header: Bytea,
    ciphertext: Bytea,
}

impl AddMessages<'_> {
    /// Encrypts a message under the chain of its queue, in which it gets this sequence number.
    pub fn seal(
        &mut self,
        policy: &Policy,
        chain: &mut QueueChain,
        seq: i64,
        payload: &[u8],
    ) -> Result<(), ChainError> {
        let len = payload.len() + TAG_LEN;
        let unsigned_seq = natural::<MessageColumn, _>(seq);
        let index = chain.sender.seal_into(unsigned_seq, payload, self.ciphertext.zeroed(len))?;
        let header = chain.header.take();
        // SAFETY: values of the columns' types, which live until the row is made.
        unsafe {
            self.rows.row(
                len,
                [
                    (
                        MessageColumn::QueueId,
                        Some(self.queue_id.set(chain.sender.queue_id().as_bytes()).datum()),
                    ),
                    (MessageColumn::Seq, Some(seq.into())),
                    (MessageColumn::Chain, Some((chain.sender.state().number as i64).into())),
                    (MessageColumn::ChainIndex, Some((index as i32).into())),
                    (MessageColumn::ChainHeader, header.map(|header| self.header.set(&header).datum())),
                    (MessageColumn::Ciphertext, Some(self.ciphertext.datum())),
                    (MessageColumn::Enqueued, Some(policy.today.into())),
                ],
            );
        }
        Ok(())
    }

    /// Writes the messages that are not written yet.
    pub fn finish(self) {
        self.rows.finish();
    }
}
