//! The shared memory between deliveries and the notifier of each database.

use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::{PGRXSharedMemory, PgLwLock, pg_shmem_init, prelude::*};

use crate::secret;

/// The key of a queue in notifications: see [`super::key()`].
pub type Key = postern_protocol::wake::WakeKey;

/// Number of databases of one cluster that can have a notifier at the same time.
const DATABASES: usize = 8;
/// Number of keys that can wait for one notifier. It sends every few milliseconds, and a busy
/// cluster delivers some hundred messages in that time; beyond, the notifier says `*`.
pub(super) const PENDING_KEYS: usize = 2048;
/// Time after which a notifier that did not attach has failed to start, and may be started again.
const LAUNCH_TIMEOUT_MICROSECONDS: i64 = 10_000_000;

static PRELOADED: AtomicBool = AtomicBool::new(false);
// SAFETY: the name is this extension's.
pub(super) static SHARED: PgLwLock<Shared> = unsafe { PgLwLock::new(c"postern_wake") };

/// The content of the shared memory, under one lock. It is valid after every step, because a lock
/// of PostgreSQL's is released, not poisoned, when its holder fails.
#[derive(Clone, Copy)]
pub(super) struct Shared {
    secret: [u8; 32],
    /// Number of the last notification, of whatever database.
    number: u64,
    pub(super) slots: [Slot; DATABASES],
}

// SAFETY: plain values and one pointer into shared memory, the same in every process.
unsafe impl PGRXSharedMemory for Shared {}

/// One database's notifier and the keys that wait for it.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    database: pg_sys::Oid,
    /// Process id of the notifier, 0 while there is none.
    pub(super) notifier: i32,
    /// The notifier's latch: null unless it is attached, so that nobody touches the latch of a
    /// process that has exited.
    pub(super) latch: *mut pg_sys::Latch,
    /// Time at which a backend last asked for a notifier, 0 once that attached.
    pub(super) launched: pg_sys::TimestampTz,
    /// Whether the notifier sleeps, so that a backend that adds keys has to wake it.
    pub(super) asleep: bool,
    /// Whether to say `*` instead of the keys.
    pub(super) everyone: bool,
    pub(super) len: usize,
    pub(super) keys: [Key; PENDING_KEYS],
    /// Times that the keys had no room.
    overflows: i64,
    /// Notifications that the notifiers sent.
    pub(super) sent: i64,
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

    pub(super) fn launching(&self, now: pg_sys::TimestampTz) -> bool {
        // A start in the future was noted by a clock that was ahead.
        self.launched != 0 && (0..LAUNCH_TIMEOUT_MICROSECONDS).contains(&(now - self.launched))
    }

    pub(super) fn add(&mut self, keys: &[Key], everyone: bool) {
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
        Self { secret: secret::fresh(), number: 0, slots: [Slot::FREE; DATABASES] }
    }

    pub(super) fn slot(&self, database: pg_sys::Oid) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.database == database)
    }

    pub(super) fn slot_mut(&mut self, database: pg_sys::Oid) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.database == database)
    }

    /// The slot of a database; if it has none, a free one, or that of a database without a notifier
    /// (which was dropped, most likely; if not, its next notifier starts with `*`).
    pub(super) fn claim(&mut self, database: pg_sys::Oid, now: pg_sys::TimestampTz) -> Option<&mut Slot> {
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

/// Asks for the shared memory. To be called while the library is preloaded; without it, the
/// transactions themselves send wake-ups.
pub fn init() {
    pg_shmem_init!(SHARED = Shared::new());
    PRELOADED.store(true, Ordering::Relaxed);
}

pub(super) fn preloaded() -> bool {
    PRELOADED.load(Ordering::Relaxed)
}

pub(super) fn this_database() -> pg_sys::Oid {
    // SAFETY: PostgreSQL sets it once, before any function of ours can run.
    unsafe { pg_sys::MyDatabaseId }
}

pub(super) fn now() -> pg_sys::TimestampTz {
    // SAFETY: no preconditions.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// The secret that keys are made with: random for each start of the cluster, zeros without shared
/// memory.
pub(super) fn secret() -> [u8; 32] {
    if preloaded() { SHARED.share().secret } else { [0; 32] }
}

/// The number of the next notification; 0 without shared memory.
pub(super) fn next_number() -> u64 {
    if !preloaded() {
        return 0;
    }
    let mut shared = SHARED.exclusive();
    shared.number += 1;
    shared.number
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
