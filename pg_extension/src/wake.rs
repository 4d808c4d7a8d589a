//! Wake-ups (QS-9): from a delivery to the notifier. A transaction that NOTIFYs holds one
//! cluster-wide lock until its commit is flushed, which would serialise all deliveries.
//! So keys of queues are collected during the transaction, put into shared memory once it
//! has committed, and sent by a background worker, many at a time (see [`crate::notifier`]).
//!
//! A key is a keyed hash of the queue id, since any database user may LISTEN. Waiters look
//! again from time to time anyway: a lost wake-up costs latency, never a message.

use std::{
    cell::{Cell, OnceCell, RefCell},
    ffi::c_void,
    sync::atomic::{AtomicBool, Ordering},
};

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use pgrx::{
    GucContext, GucFlags, GucRegistry, GucSetting, PGRXSharedMemory, PgLwLock, direct_function_call,
    pg_shmem_init, prelude::*,
};
use postern_protocol::QueueId;

use crate::notifier;

/// First half of HMAC-SHA256(wake secret, queue id).
pub type Key = [u8; 16];

const CHANNEL: &str = "postern_wake";
/// The payload that tells every waiter to look again.
const EVERYONE: &str = "*";
/// So that the base64 of a payload's keys stays below NOTIFY's 8,000 bytes.
const KEYS_PER_PAYLOAD: usize = 360;

/// Databases of one cluster that can have a notifier at the same time.
const DATABASES: usize = 8;
/// Keys that can wait for one notifier. It sends every few milliseconds, a busy cluster
/// delivers some hundred messages in that time; beyond, the notifier says `*`.
const PENDING_KEYS: usize = 2048;
/// A notifier that did not attach in this time failed to start, and may be tried again.
const LAUNCH_TIMEOUT_MICROSECONDS: i64 = 10_000_000;

static PRELOADED: AtomicBool = AtomicBool::new(false);
// SAFETY: the name is this extension's.
static SHARED: PgLwLock<Shared> = unsafe { PgLwLock::new(c"postern_wake") };

/// In shared memory, under one lock, valid after every step: a lock of PostgreSQL's is
/// released, not poisoned, when its holder fails.
#[derive(Clone, Copy)]
struct Shared {
    secret: [u8; 32],
    slots: [Slot; DATABASES],
}

// SAFETY: plain values and one pointer into shared memory, the same in every process.
unsafe impl PGRXSharedMemory for Shared {}

/// One database's notifier and what waits for it.
#[derive(Clone, Copy)]
struct Slot {
    database: pg_sys::Oid,
    /// Process id of the notifier, 0 while there is none.
    notifier: i32,
    /// The notifier's latch: null unless it is attached, so that nobody touches the
    /// latch of a process that has exited.
    latch: *mut pg_sys::Latch,
    /// When a backend last asked for a notifier, 0 once it attached.
    launched: pg_sys::TimestampTz,
    /// The notifier sleeps: whoever adds keys wakes it.
    asleep: bool,
    /// Say `*`, and forget the keys.
    everyone: bool,
    len: usize,
    keys: [Key; PENDING_KEYS],
    overflows: i64,
    sent: i64,
}

impl Slot {
    const FREE: Self = Self {
        database: pg_sys::InvalidOid,
        notifier: 0,
        latch: std::ptr::null_mut(),
        launched: 0,
        asleep: false,
        everyone: false,
        len: 0,
        keys: [[0; 16]; PENDING_KEYS],
        overflows: 0,
        sent: 0,
    };

    fn launching(&self, now: pg_sys::TimestampTz) -> bool {
        self.launched != 0 && now - self.launched < LAUNCH_TIMEOUT_MICROSECONDS
    }

    fn add(&mut self, keys: &[Key], everyone: bool) {
        self.everyone |= everyone;
        if self.everyone {
            return;
        }
        match self.keys.get_mut(self.len..self.len + keys.len()) {
            Some(room) => {
                room.copy_from_slice(keys);
                self.len += keys.len();
            }
            None => {
                self.everyone = true;
                self.overflows += 1;
            }
        }
    }
}

impl Shared {
    fn new() -> Self {
        let mut secret = [0; 32];
        // SAFETY: the buffer has the length given. PostgreSQL's source of randomness,
        // because this runs in the postmaster, whose children must not inherit the state
        // of a generator.
        if !unsafe { pg_sys::pg_strong_random(secret.as_mut_ptr().cast(), secret.len()) } {
            error!("no randomness for the wake secret");
        }
        Self { secret, slots: [Slot::FREE; DATABASES] }
    }

    fn slot(&self, database: pg_sys::Oid) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.database == database)
    }

    fn slot_mut(&mut self, database: pg_sys::Oid) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.database == database)
    }

    /// The slot of a database, if need be a free one or that of a database without a
    /// notifier (dropped, most likely; if not, its next notifier starts with `*`).
    fn claim(&mut self, database: pg_sys::Oid, now: pg_sys::TimestampTz) -> Option<&mut Slot> {
        let position = |wanted: &dyn Fn(&Slot) -> bool| self.slots.iter().position(wanted);
        let index = position(&|slot| slot.database == database)
            .or_else(|| position(&|slot| slot.database == pg_sys::InvalidOid))
            .or_else(|| position(&|slot| slot.notifier == 0 && !slot.launching(now)))?;
        let slot = &mut self.slots[index];
        if slot.database != database {
            *slot = Slot { database, ..Slot::FREE };
        }
        Some(slot)
    }
}

/// For measuring what wake-ups cost. Without them, who waits looks again after a while.
static WAKEUPS: GucSetting<bool> = GucSetting::<bool>::new(true);

/// To be called when the library is loaded.
pub fn define_settings() {
    GucRegistry::define_bool_guc(
        c"postern.wakeups",
        c"Whether deliveries wake those who wait.",
        c"For measuring only: without, waiters look again after some seconds.",
        &WAKEUPS,
        GucContext::Suset,
        GucFlags::default(),
    );
}

/// To be called while the library is preloaded. Without, wake-ups are sent by the
/// transactions themselves.
pub fn init() {
    pg_shmem_init!(SHARED = Shared::new());
    PRELOADED.store(true, Ordering::Relaxed);
}

fn preloaded() -> bool {
    PRELOADED.load(Ordering::Relaxed)
}

fn this_database() -> pg_sys::Oid {
    // SAFETY: set once, before any function of ours can run.
    unsafe { pg_sys::MyDatabaseId }
}

fn now() -> pg_sys::TimestampTz {
    // SAFETY: no preconditions.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// What this transaction wants to wake.
struct Pending {
    keys: Vec<Key>,
    everyone: bool,
    /// A notifier is there to take them at commit.
    to_notifier: bool,
}

thread_local! {
    static PENDING: RefCell<Pending> =
        const { RefCell::new(Pending { keys: Vec::new(), everyone: false, to_notifier: false }) };
    static SECRET: OnceCell<hmac::Key> = const { OnceCell::new() };
    static HOOKED: Cell<bool> = const { Cell::new(false) };
    static WARNED: Cell<bool> = const { Cell::new(false) };
}

fn secret() -> [u8; 32] {
    if preloaded() { SHARED.share().secret } else { [0; 32] }
}

/// The wake key of a queue.
pub fn key(queue_id: &QueueId) -> Key {
    SECRET.with(|secret_key| {
        let secret_key = secret_key.get_or_init(|| hmac::Key::new(hmac::HMAC_SHA256, &secret()));
        let mut key = Key::default();
        key.copy_from_slice(&hmac::sign(secret_key, queue_id.as_bytes()).as_ref()[..16]);
        key
    })
}

/// Wakes the waiters of these queues when the transaction commits. A key collected in a
/// subtransaction that is rolled back is sent all the same: waking too many is harmless.
pub fn collect(keys: &[Key]) {
    if !WAKEUPS.get() {
        return;
    }
    hook();
    PENDING.with_borrow_mut(|pending| pending.keys.extend_from_slice(keys));
}

/// Wakes everyone when the transaction commits.
#[pg_extern]
fn wake_all() {
    hook();
    PENDING.with_borrow_mut(|pending| pending.everyone = true);
}

/// What keys are made with; only for who may know which queue is which.
#[pg_extern]
fn wake_secret() -> Vec<u8> {
    secret().to_vec()
}

type Wakeups = TableIterator<
    'static,
    (
        name!(preloaded, bool),
        name!(worker_pid, Option<i32>),
        name!(pending, i32),
        name!(overflowed, i64),
        name!(sent, i64),
    ),
>;

/// The state of this database's notifier.
#[pg_extern]
fn wakeups() -> Wakeups {
    let row = if preloaded() {
        match SHARED.share().slot(this_database()) {
            Some(slot) => {
                let pid = (slot.notifier != 0).then_some(slot.notifier);
                (true, pid, slot.len as i32, slot.overflows, slot.sent)
            }
            None => (true, None, 0, 0, 0),
        }
    } else {
        (false, None, 0, 0, 0)
    };
    TableIterator::once(row)
}

/// Registers for the ends of this backend's transactions, once.
fn hook() {
    if !HOOKED.replace(true) {
        // SAFETY: the callback lives as long as the library, which is never unloaded.
        unsafe { pg_sys::RegisterXactCallback(Some(at_transaction_end), std::ptr::null_mut()) };
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_transaction_end(event: pg_sys::XactEvent::Type, _arg: *mut c_void) {
    use pg_sys::XactEvent::*;
    match event {
        XACT_EVENT_PRE_COMMIT => before_commit(),
        XACT_EVENT_COMMIT => publish(),
        XACT_EVENT_ABORT => forget(),
        // Its commit may happen in another backend, which would not know the keys.
        XACT_EVENT_PRE_PREPARE if PENDING.with_borrow(|p| p.everyone || !p.keys.is_empty()) => {
            ereport!(
                ERROR,
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                "cannot PREPARE a transaction that has delivered messages"
            );
        }
        _ => {}
    }
}

/// The last moment at which something may fail: finds or starts the notifier, or else
/// sends from within this transaction.
fn before_commit() {
    let Some((keys, everyone)) = PENDING.with_borrow_mut(|pending| {
        if pending.keys.is_empty() && !pending.everyone {
            return None;
        }
        pending.keys.sort_unstable();
        pending.keys.dedup();
        pending.to_notifier = preloaded() && notifier_present();
        (!pending.to_notifier)
            .then(|| (std::mem::take(&mut pending.keys), std::mem::take(&mut pending.everyone)))
    }) else {
        return;
    };
    if !WARNED.replace(true) {
        let why = if preloaded() {
            "no background worker is free (max_worker_processes)"
        } else {
            "postern is not in shared_preload_libraries"
        };
        ereport!(
            PgLogLevel::WARNING,
            PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            "postern sends wake-ups inside transactions, which slows deliveries down",
            why
        );
    }
    notify(&keys, everyone);
}

/// Whether this database has a notifier, or will have one in a moment.
fn notifier_present() -> bool {
    let database = this_database();
    if SHARED.share().slot(database).is_some_and(|slot| slot.notifier != 0) {
        return true;
    }
    let now = now();
    match SHARED.exclusive().claim(database, now) {
        None => return false,
        Some(slot) if slot.notifier != 0 || slot.launching(now) => return true,
        Some(slot) => slot.launched = now,
    }
    let launched = notifier::launch(database);
    if !launched && let Some(slot) = SHARED.exclusive().slot_mut(database) {
        slot.launched = 0;
    }
    launched
}

/// After the commit record: a failure here would restart the whole cluster, so nothing
/// is allocated, and nothing can be refused.
fn publish() {
    PENDING.with(|pending| {
        let Ok(mut pending) = pending.try_borrow_mut() else { return };
        if pending.to_notifier {
            if let Some(slot) = SHARED.exclusive().slot_mut(this_database()) {
                slot.add(&pending.keys, pending.everyone);
                if slot.asleep && !slot.latch.is_null() {
                    slot.asleep = false;
                    // SAFETY: under the lock a latch that is not null is a live process's.
                    unsafe { pg_sys::SetLatch(slot.latch) };
                }
            }
            pending.clear();
        }
    });
}

fn forget() {
    PENDING.with(|pending| {
        if let Ok(mut pending) = pending.try_borrow_mut() {
            pending.clear();
        }
    });
}

impl Pending {
    fn clear(&mut self) {
        self.keys.clear();
        self.everyone = false;
        self.to_notifier = false;
    }
}

/// Sends within the current transaction; returns how many notifications that took.
pub fn notify(keys: &[Key], everyone: bool) -> i64 {
    if everyone {
        send(EVERYONE);
        return 1;
    }
    let payloads = keys.chunks(KEYS_PER_PAYLOAD);
    let count = payloads.len() as i64;
    payloads.for_each(|keys| send(&STANDARD_NO_PAD.encode(keys.as_flattened())));
    count
}

fn send(payload: &str) {
    // SAFETY: pg_notify(text, text), with texts.
    unsafe { direct_function_call::<()>(pg_sys::pg_notify, &[CHANNEL.into_datum(), payload.into_datum()]) };
}

/// What the notifier takes from shared memory.
pub struct Batch {
    pub keys: Vec<Key>,
    pub everyone: bool,
}

impl Batch {
    pub fn new() -> Self {
        Self { keys: Vec::with_capacity(PENDING_KEYS), everyone: false }
    }
}

/// Makes this process its database's notifier, unless there is one. Whatever was pending
/// for an earlier one may be incomplete, so the new one begins with `*`.
pub fn attach() -> bool {
    let now = now();
    let mut shared = SHARED.exclusive();
    let Some(slot) = shared.claim(this_database(), now) else { return false };
    if slot.notifier != 0 {
        return false;
    }
    // SAFETY: this process's own latch and process id.
    (slot.notifier, slot.latch) = unsafe { (pg_sys::MyProcPid, pg_sys::MyLatch) };
    slot.launched = 0;
    slot.asleep = false;
    slot.everyone = true;
    slot.len = 0;
    true
}

/// The notifier's last act, however it ends.
pub fn detach() {
    // SAFETY: a number of this process.
    let pid = unsafe { pg_sys::MyProcPid };
    if let Some(slot) = SHARED.exclusive().slots.iter_mut().find(|slot| slot.notifier == pid) {
        slot.notifier = 0;
        slot.latch = std::ptr::null_mut();
        slot.asleep = false;
    }
}

/// Whether anything is to be sent; if not, the notifier is marked asleep and must wait on
/// its latch.
pub fn pending_or_asleep() -> bool {
    let mut shared = SHARED.exclusive();
    let Some(slot) = shared.slot_mut(this_database()) else { return false };
    let pending = slot.everyone || slot.len > 0;
    slot.asleep = !pending;
    pending
}

/// Moves everything pending into `batch`, which has room for it.
pub fn take(batch: &mut Batch) {
    batch.keys.clear();
    let mut shared = SHARED.exclusive();
    let Some(slot) = shared.slot_mut(this_database()) else { return };
    if !slot.everyone {
        batch.keys.extend_from_slice(&slot.keys[..slot.len]);
    }
    batch.everyone = std::mem::take(&mut slot.everyone);
    slot.len = 0;
}

/// Counts what the notifier sent.
pub fn count_sent(notifications: i64) {
    if let Some(slot) = SHARED.exclusive().slot_mut(this_database()) {
        slot.sent += notifications;
    }
}
