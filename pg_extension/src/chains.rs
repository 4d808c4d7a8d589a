//! Where the chains of queues (QS-5) stand: in shared memory and nowhere else. A chain key
//! is never in a table, so that WAL, replicas, base backups, dumps and dead rows cannot
//! hold one, and the key of a message that was sealed is overwritten at once.
//!
//! What is lost here costs a new chain: PostgreSQL restarted, the transaction failed, or
//! more queues are in use than there is room for. So nothing is durable or transactional.
//! Of one queue's chain there is one user at a time, who holds the lock on its row of
//! `qs.queues`; the locks here only guard the buckets that queues share.

use std::{
    cell::UnsafeCell,
    ffi::CStr,
    ptr,
    sync::atomic::{AtomicU64, Ordering},
};

use pgrx::{
    GucContext, GucFlags, GucRegistry, GucSetting, PgSharedMemoryInitialization, pg_shmem_init, prelude::*,
};
use postern_protocol::{QueueId, chain::ChainState};
use zeroize::Zeroize;

/// Chains of one bucket. Where a queue's key may be is decided by its id; within the bucket
/// the one that was used longest ago makes room.
const WAYS: usize = 16;
/// Locks, each for every so many buckets.
const LOCKS: usize = 128;
const NAME: &CStr = c"postern_chains";

/// Chains that are kept. 72 bytes each, and a tenth more, since queues do not spread evenly
/// over the buckets.
static MAX_CHAINS: GucSetting<i32> = GucSetting::<i32>::new(262_144);
static SHARED: Shared = Shared(UnsafeCell::new(None));

/// A chain between two messages, and when it was started.
pub struct Chain {
    pub state: ChainState,
    /// Seconds of PostgreSQL's clock.
    pub started: u32,
}

#[derive(Clone, Copy, Zeroize)]
#[repr(C)]
struct Slot {
    queue_id: [u8; QueueId::LEN],
    key: [u8; 32],
    /// 0 when the slot is free; chains are counted from 1.
    number: u64,
    next_index: u32,
    started: u32,
    used: u32,
}

type Bucket = [Slot; WAYS];

#[repr(C)]
struct Header {
    kept: AtomicU64,
    evicted: AtomicU64,
}

/// This process's way to the shared memory; the same addresses in all.
#[derive(Clone, Copy)]
struct Memory {
    header: *const Header,
    buckets: *mut Bucket,
    number: usize,
    locks: *mut pg_sys::LWLockPadded,
}

struct Shared(UnsafeCell<Option<Memory>>);

// SAFETY: written once by the postmaster before any backend exists; a backend has one thread.
unsafe impl Sync for Shared {}

/// To be called while the library is preloaded.
pub fn init() {
    GucRegistry::define_int_guc(
        c"postern.max_chains",
        c"Queues whose message keys are at hand.",
        c"110 bytes of shared memory each, with where its rows are. A queue beyond that starts a new chain with its next message, which costs a tenth of a millisecond.",
        &MAX_CHAINS,
        1024,
        64 * 1024 * 1024,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    pg_shmem_init!(SHARED = ());
}

/// Queues whose chains are kept.
pub fn max() -> usize {
    usize::try_from(MAX_CHAINS.get()).unwrap_or_default()
}

fn bucket_count() -> usize {
    (max() + max() / 10).div_ceil(WAYS)
}

fn bytes() -> usize {
    size_of::<Header>() + bucket_count() * size_of::<Bucket>()
}

impl PgSharedMemoryInitialization for Shared {
    type Value = ();

    unsafe fn on_shmem_request(&'static self) {
        // SAFETY: in the hook that is for this.
        unsafe {
            pg_sys::RequestAddinShmemSpace(bytes());
            pg_sys::RequestNamedLWLockTranche(NAME.as_ptr(), LOCKS as i32);
        }
    }

    unsafe fn on_shmem_startup(&'static self, (): ()) {
        // SAFETY: in the hook that is for this. The memory is ours alone until a backend is
        // started, aligned for anything, and as large as asked for.
        unsafe {
            let mut found = false;
            let memory = pg_sys::ShmemInitStruct(NAME.as_ptr(), bytes(), &mut found);
            let header = memory.cast::<Header>();
            let buckets = memory.add(size_of::<Header>()).cast::<Bucket>();
            let number = bucket_count();
            if !found {
                header.write(Header { kept: AtomicU64::new(0), evicted: AtomicU64::new(0) });
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

    /// Ids are random, and made by servers: they spread by themselves.
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

/// Takes a queue's chain out, so that its key is in one place. The caller holds the queue's
/// row; [`keep`] puts back what the chain has become.
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
        // Of a free slot, `used` is 0.
        let Some(slot) = bucket.iter_mut().min_by_key(|slot| slot.used) else { return };
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

/// Seconds of PostgreSQL's clock, which began in 2000; never 0.
pub fn now() -> u32 {
    // SAFETY: no preconditions.
    let microseconds = unsafe { pg_sys::GetCurrentTimestamp() };
    u32::try_from(microseconds / 1_000_000).unwrap_or(u32::MAX).max(1)
}

/// Forgets a queue's chain: its next message starts a new one.
#[pg_extern]
fn forget_chain(queue_id: &[u8]) {
    if let Ok(queue_id) = QueueId::try_from(queue_id) {
        drop(take(&queue_id));
    }
}

type Chains = TableIterator<'static, (name!(room, i64), name!(kept, i64), name!(evicted, i64))>;

/// How full the memory for chains is.
#[pg_extern]
fn chains() -> Chains {
    let row = Memory::get().map_or((0, 0, 0), |memory| {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as i64;
        ((memory.number * WAYS) as i64, count(&memory.header().kept), count(&memory.header().evicted))
    });
    TableIterator::once(row)
}
