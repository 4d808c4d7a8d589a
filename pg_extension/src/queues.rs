//! A delivery's work on each queue: it locks the queue, looks at its room, continues its chain and
//! writes its messages (QS-5).

use std::cell::Cell;

use pgrx::pg_sys;
use postern_protocol::{
    HpkePublicKey, QueueId,
    chain::{ChainError, ChainSender, HEADER_LEN, TAG_LEN},
    qs::QueueKind,
    sealed::SealError,
};

use crate::{
    bytea::Bytea,
    chains::{self, Chain},
    room::{Quota, Room, Standing},
    table::{Access, Columns, Find, Insert, KeyType, Locked, Snapshot, Table, table, unexpected},
    watch::{self, Watch},
};

table! { SettingsColumn = c"qs", c"settings" {
    ChainMessages = c"chain_messages" INT4OID,
    ChainHours = c"chain_hours" INT4OID,
    GroupQueueDepth = c"group_queue_depth" INT4OID,
    GroupQueueKib = c"group_queue_kib" INT4OID,
    ContactQueueDepth = c"contact_queue_depth" INT4OID,
    ContactQueueKib = c"contact_queue_kib" INT4OID,
    HandshakeReserve = c"handshake_reserve_percent" INT4OID,
    AddressShare = c"address_share_percent" INT4OID,
    DepositsPerDay = c"deposits_per_day" INT4OID,
    DepositRefills = c"deposit_refills" INT4OID,
} }

table! { CalendarColumn = c"operator", c"calendar" {
    Day = c"day" DATEOID,
} }

table! { QueueColumn = c"qs", c"queues" {
    Kind = c"kind" TEXTOID,
    HpkeKey = c"hpke_key" BYTEAOID,
    NextSeq = c"next_seq" INT8OID,
    AckedSeq = c"acked_seq" INT8OID,
    ExpiredSeq = c"expired_seq" INT8OID,
    Skipped = c"skipped" INT8OID,
    LastChain = c"last_chain" INT8OID,
    WaitingBytes = c"waiting_bytes" INT8OID,
    LastMarker = c"last_marker" INT8OID,
    Shares = c"shares" BYTEAOID,
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
    group: Quota,
    contact: Quota,
    /// Deposits that an address takes while they are not read, and in all.
    pub deposits_per_day: (u32, u32),
    /// Newest day that the database knows, in days since 2000: what comes while the clock is behind has that one.
    newest_day: i32,
    /// Day with which messages are dated (`operator.today`), in days since 2000.
    pub today: i32,
}

thread_local! {
    static POLICY: Cell<Option<Policy>> = const { Cell::new(None) };
    static WATCH: Watch = const { Watch::new() };
    static CALENDAR: Watch = const { Watch::new() };
}

impl Policy {
    /// The limits as this transaction sees them.
    pub fn current() -> Self {
        // Both watches are asked (`|`, not `||`), so that neither tells of the same change twice.
        let changed = WATCH.with(Watch::take_changed) | CALENDAR.with(Watch::take_changed);
        if let Some(policy) = POLICY.get().filter(|_| !changed) {
            return Self { today: today().max(policy.newest_day), ..policy };
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
        let amount = |column| i64::from(natural(column));
        let share = amount(SettingsColumn::AddressShare);
        let quota = |messages, kib, reserve| Quota::new(amount(messages), amount(kib), reserve, share);
        let reserve = amount(SettingsColumn::HandshakeReserve);
        let newest_day = newest_day(&snapshot);
        let deposits = natural(SettingsColumn::DepositsPerDay);
        let refills = natural(SettingsColumn::DepositRefills);
        Self {
            chain_messages: natural(SettingsColumn::ChainMessages),
            chain_seconds: natural(SettingsColumn::ChainHours).saturating_mul(3600),
            group: quota(SettingsColumn::GroupQueueDepth, SettingsColumn::GroupQueueKib, reserve),
            contact: quota(SettingsColumn::ContactQueueDepth, SettingsColumn::ContactQueueKib, 0),
            deposits_per_day: (deposits, deposits.saturating_mul(refills.saturating_add(1))),
            newest_day,
            today: today().max(newest_day),
        }
    }

    /// The bounds of queues of this kind.
    pub fn quota(&self, kind: QueueKind) -> &Quota {
        match kind {
            QueueKind::Group => &self.group,
            QueueKind::Contact => &self.contact,
        }
    }
}

/// A number of a table that must not be negative.
fn natural<C: Columns, T: TryFrom<i64>>(number: i64) -> T {
    T::try_from(number).unwrap_or_else(|_| unexpected(C::NAME))
}

fn newest_day(snapshot: &Snapshot) -> i32 {
    let table = Table::<CalendarColumn>::open(Access::Read);
    CALENDAR.with(|watch| watch.set_table(table.oid()));
    let mut rows = table.find_by(snapshot, KeyType::Boolean);
    let Some(row) = rows.get(pg_sys::Datum::from(true)) else { unexpected(CalendarColumn::NAME) };
    row.integer(CalendarColumn::Day)
}

/// Day of the transaction's start (UTC), in days since 2000.
fn today() -> i32 {
    const DAY: i64 = 24 * 60 * 60 * 1_000_000;
    // SAFETY: in a transaction.
    let microseconds = unsafe { pg_sys::GetCurrentTransactionStartTimestamp() };
    microseconds.div_euclid(DAY) as i32
}

/// The season of the transaction's start, as `qs.season` counts.
pub fn season() -> i32 {
    const DAYS: i32 = 90;
    today() / DAYS
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
    /// Numbers after that which no message has, since a generation began (QS-12).
    skipped: i64,
    /// Number of the chain started last.
    last_chain: u64,
    waiting_bytes: i64,
    last_marker: i64,
    shares: Vec<u8>,
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
            skipped: row.bigint(QueueColumn::Skipped),
            last_chain: natural::<QueueColumn, _>(row.bigint(QueueColumn::LastChain)),
            waiting_bytes: row.bigint(QueueColumn::WaitingBytes),
            last_marker: row.bigint(QueueColumn::LastMarker),
            // Empty, and so without memory of its own, for all queues but those that fill up.
            shares: row.bytes(QueueColumn::Shares).unwrap_or_default().to_vec(),
            row: locked,
        }
    }

    pub fn kind(&self) -> QueueKind {
        self.kind
    }

    /// The room in the queue.
    pub fn room<'p>(&self, policy: &'p Policy) -> Room<'p> {
        let standing = Standing {
            id: &self.id,
            kind: self.kind,
            next_seq: self.next_seq,
            removed_seq: self.removed_seq,
            skipped: self.skipped,
            bytes: self.waiting_bytes,
            last_marker: self.last_marker,
            shares: &self.shares,
        };
        Room::new(policy, &standing)
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
                // A chain that began in the future did so while a clock was ahead, and is not continued.
                && now.checked_sub(chain.started).is_some_and(|age| age < policy.chain_seconds)
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

    /// Writes the queue's row after messages of this chain, which took this room from [`Self::next_seq`]
    /// on, and leaves the chain to the next delivery.
    ///
    /// # Errors
    /// [`SealError::Crypto`].
    pub fn advance(self, chain: QueueChain, mut room: Room<'_>) -> Result<(), SealError> {
        let chain = Chain { state: chain.sender.into_state(), started: chain.started };
        let shares = room.sealed_shares()?;
        let mut sealed = Bytea::default();
        let moved = [
            (QueueColumn::NextSeq, room.next_seq().into()),
            (QueueColumn::LastChain, (chain.state.number as i64).into()),
            (QueueColumn::WaitingBytes, room.bytes().into()),
            (QueueColumn::LastMarker, room.last_marker().into()),
            (QueueColumn::Shares, sealed.set(shares.as_deref().unwrap_or_default()).datum()),
        ];
        let moved = if shares.is_some() { &moved[..] } else { &moved[..4] };
        // SAFETY: four bigints and a bytea, which lives longer than this.
        unsafe { self.row.update(moved) };
        chains::keep(&self.id, &chain);
        Ok(())
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
