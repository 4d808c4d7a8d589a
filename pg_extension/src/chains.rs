//! The state of each queue's chain (QS-5), in shared memory and nowhere else. A chain key is never
//! in a table, so that WAL, replicas, base backups, dumps and dead rows cannot hold one, and the key
//! of a message that was sealed is overwritten at once.
//!
//! A chain that is lost costs the start of a new one: when PostgreSQL restarts, the transaction
//! fails, or more queues are in use than there is room for. So nothing here is durable or
//! transactional. A chain has one user at a time, which holds the lock on the queue's row in
//! `qs.queues`; the locks here only guard the buckets that queues share.

use std::{
    cell::UnsafeCell,
    ffi::CStr,
    ptr,
    sync::atomic::{AtomicU64, Ordering},
};

use pgrx::{PgSharedMemoryInitialization, pg_shmem_init, prelude::*};
use postern_protocol::{QueueId, chain::ChainState};
use zeroize::Zeroize;

use crate::{gucs, secret};

/// Number of chains in a bucket. A queue's id decides its bucket; within that, the chain that was
/// used longest ago makes room.
const WAYS: usize = 16;
/// Number of locks: lock `n` guards the buckets whose index is `n` modulo this.
const LOCKS: usize = 128;
const NAME: &CStr = c"postern_chains";

static SHARED: Shared = Shared(UnsafeCell::new(None));

/// A chain between two messages, and the time of its start.
pub struct Chain {
    pub state: ChainState,
    /// Seconds of PostgreSQL's clock (see [`now`]).
    pub started: u32,
}

#[derive(Clone, Copy, Zeroize)]
#[repr(C)]
struct Slot {
    queue_id: [u8; QueueId::LEN],
    key: [u8; 32],
    /// Number of the chain in its queue, counted from 1; 0 when the slot is free.
    number: u64,
    next_index: u32,
    started: u32,
    /// Time of its last use, which is 0 for a free slot.
    used: u32,
}

type Bucket = [Slot; WAYS];

#[repr(C)]
struct Header {
    kept: AtomicU64,
    evicted: AtomicU64,
    /// The key of what rows of queues hold for as long as PostgreSQL runs: see [`crate::room`].
    secret: [u8; 32],
}

/// The parts of the shared memory, at the same addresses in every process.
#[derive(Clone, Copy)]
struct Memory {
    header: *const Header,
    buckets: *mut Bucket,
    number: usize,
    locks: *mut pg_sys::LWLockPadded,
}

struct Shared(UnsafeCell<Option<Memory>>);

// SAFETY: the postmaster writes it once before any backend exists; a backend has one thread.
unsafe impl Sync for Shared {}

/// Asks for the shared memory. To be called while the library is preloaded.
pub fn init() {
    pg_shmem_init!(SHARED = ());
}

fn bucket_count() -> usize {
    let chains = gucs::max_chains();
    (chains + chains / 10).div_ceil(WAYS)
}

fn bytes() -> usize {
    size_of::<Header>() + bucket_count() * size_of::<Bucket>()
}

impl PgSharedMemoryInitialization for Shared {
    type Value = ();

    unsafe fn on_shmem_request(&'static self) {
        // SAFETY: this is the hook for such requests.
        unsafe {
            pg_sys::RequestAddinShmemSpace(bytes());
            pg_sys::RequestNamedLWLockTranche(NAME.as_ptr(), LOCKS as i32);
        }
    }

    unsafe fn on_shmem_startup(&'static self, (): ()) {
        // SAFETY: this is the hook for it. The memory is ours alone until a backend is started,
        // aligned for anything, and as large as asked for.
        unsafe {
            let mut found = false;
            let memory = pg_sys::ShmemInitStruct(NAME.as_ptr(), bytes(), &raw mut found);
            let header = memory.cast::<Header>();
            let buckets = memory.add(size_of::<Header>()).cast::<Bucket>();
            let number = bucket_count();
            if !found {
                let (kept, evicted) = (AtomicU64::new(0), AtomicU64::new(0));
                header.write(Header { kept, evicted, secret: secret::fresh() });
                ptr::write_bytes(buckets, 0, number);
            }
            let locks = pg_sys::GetNamedLWLockTranche(NAME.as_ptr());
            *self.0.get() = Some(Memory { header, buckets, number, locks });
        }
    }
}

impl Memory {
    fn get() -> Option<Self> {
        // SAFETY: nobody writes to it once backends run.
        unsafe { *SHARED.0.get() }
    }

    fn header(&self) -> &Header {
        // SAFETY: initialised at start, never moved, and its changing parts are atomic.
        unsafe { &*self.header }
    }

    /// Index of a queue's bucket. Ids are random, and made by servers: they spread by themselves.
    fn index(&self, queue_id: &QueueId) -> usize {
        let [a, b, c, d, ..] = *queue_id.as_bytes();
        u32::from_ne_bytes([a, b, c, d]) as usize % self.number
    }

    /// Works on the bucket of a queue, under its lock. `work` must neither fail nor panic.
    fn with_bucket<T>(&self, queue_id: &QueueId, work: impl FnOnce(&mut Bucket) -> T) -> T {
        let index = self.index(queue_id);
        // SAFETY: the index is in range, and the lock makes this the only reference.
        unsafe {
            let lock = &raw mut (*self.locks.add(index % LOCKS)).lock;
            pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
            let done = work(&mut *self.buckets.add(index));
            pg_sys::LWLockRelease(lock);
            done
        }
    }
}

/// Takes a queue's chain out, so that its key is in one place. The caller holds the queue's row
/// lock; [`keep`] puts the advanced chain back.
pub fn take(queue_id: &QueueId) -> Option<Chain> {
    let memory = Memory::get()?;
    memory.with_bucket(queue_id, |bucket| {
        let slot =
            bucket.iter_mut().find(|slot| slot.number != 0 && slot.queue_id == *queue_id.as_bytes())?;
        let state = ChainState { number: slot.number, next_index: slot.next_index, key: slot.key };
        let chain = Chain { state, started: slot.started };
        slot.zeroize();
        memory.header().kept.fetch_sub(1, Ordering::Relaxed);
        Some(chain)
    })
}

/// Keeps a queue's chain for its next message.
pub fn keep(queue_id: &QueueId, chain: &Chain) {
    let Some(memory) = Memory::get() else { return };
    let now = now();
    memory.with_bucket(queue_id, |bucket| {
        // A free slot comes first: its `used` is 0. Next comes a slot that was used in the future, by a clock that was ahead.
        let Some(slot) = bucket.iter_mut().min_by_key(|slot| if slot.used > now { 1 } else { slot.used })
        else {
            return;
        };
        let counter = if slot.number == 0 { &memory.header().kept } else { &memory.header().evicted };
        counter.fetch_add(1, Ordering::Relaxed);
        *slot = Slot {
            queue_id: *queue_id.as_bytes(),
            key: chain.state.key,
            number: chain.state.number,
            next_index: chain.state.next_index,
            started: chain.started,
            used: now,
        };
    });
}

/// The key of what rows of queues hold for as long as PostgreSQL runs; none without shared memory.
pub fn secret() -> Option<[u8; 32]> {
    Memory::get().map(|memory| memory.header().secret)
}

/// Seconds of PostgreSQL's clock, which began in 2000; never 0.
pub fn now() -> u32 {
    // SAFETY: no preconditions.
    let microseconds = unsafe { pg_sys::GetCurrentTimestamp() };
    // PostgreSQL counts from 2000, and a clock may be as far behind as 1970.
    u32::try_from((microseconds / 1_000_000).max(1)).unwrap_or(u32::MAX)
}

/// Forgets a queue's chain, so that its next message starts a new one.
#[pg_extern]
fn forget_chain(queue_id: &[u8]) {
    if let Ok(queue_id) = QueueId::try_from(queue_id) {
        drop(take(&queue_id));
    }
}

type Chains = TableIterator<'static, (name!(room, i64), name!(kept, i64), name!(evicted, i64))>;

/// Room for chains, chains kept now, and chains that had to make room since the cluster started.
#[pg_extern]
fn chains() -> Chains {
    let row = Memory::get().map_or((0, 0, 0), |memory| {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as i64;
        ((memory.number * WAYS) as i64, count(&memory.header().kept), count(&memory.header().evicted))
    });
    TableIterator::once(row)
}
