//! Hints, in shared memory, where rows were when they were last looked up by primary key. Among
//! millions of rows, descending an index reads dozens of cache lines that are in no processor's
//! cache; a hint takes one. The row at that place counts if it is visible and has the key, else the
//! index says where the row is. So no hint needs to be locked, updated, or right.

use std::{
    cell::UnsafeCell,
    ffi::CStr,
    ptr, slice,
    sync::atomic::{AtomicU64, Ordering},
};

use pgrx::{
    PgSharedMemoryInitialization,
    itemptr::{item_pointer_to_u64, u64_to_item_pointer},
    pg_shmem_init,
    prelude::*,
};

use crate::gucs;

/// Number of hints that share a cache line. A row's key decides its cache line.
const WAYS: usize = 8;
/// Number of hints for each chain: the row of a queue, the row of an address that leads to it, and
/// as many again for rows that are used at other times.
const HINTS_PER_CHAIN: usize = 4;
/// The bits of a hint that hold bits of the key: those that are free between a block's number and an
/// offset in it, where PostgreSQL puts a row's place into 64 bits.
const TAG: u64 = 0xffff_0000;
const NAME: &CStr = c"postern_hints";

static SHARED: Shared = Shared(UnsafeCell::new(&[]));

/// The place of a row, and some bits of its key; 0 is free, since offsets are counted from 1.
type Hint = AtomicU64;

#[repr(C, align(64))]
struct Bucket([Hint; WAYS]);

/// The shared memory, at the same address in every process.
struct Shared(UnsafeCell<&'static [Bucket]>);

// SAFETY: the postmaster writes it once before any backend exists; a backend has one thread.
unsafe impl Sync for Shared {}

/// Asks for the shared memory. To be called while the library is preloaded.
pub fn init() {
    pg_shmem_init!(SHARED = ());
}

fn bucket_count() -> usize {
    gucs::max_chains() * HINTS_PER_CHAIN / WAYS
}

impl PgSharedMemoryInitialization for Shared {
    type Value = ();

    unsafe fn on_shmem_request(&'static self) {
        // SAFETY: this is the hook for such requests.
        unsafe { pg_sys::RequestAddinShmemSpace(bucket_count() * size_of::<Bucket>()) };
    }

    unsafe fn on_shmem_startup(&'static self, (): ()) {
        // SAFETY: this is the hook for it. The memory is ours alone until a backend is started,
        // begins at a cache line, and is as large as asked for.
        unsafe {
            let mut found = false;
            let len = bucket_count();
            let buckets = pg_sys::ShmemInitStruct(NAME.as_ptr(), len * size_of::<Bucket>(), &raw mut found);
            let buckets = buckets.cast::<Bucket>();
            if !found {
                ptr::write_bytes(buckets, 0, len);
            }
            *self.0.get() = slice::from_raw_parts(buckets, len);
        }
    }
}

/// The bucket of a key, and its tag. Keys are random, or hashes: they spread by themselves.
fn bucket(key: &[u8]) -> Option<(&'static Bucket, u64)> {
    let (&hash, rest) = key.split_first_chunk()?;
    let (&tag, _) = rest.split_first_chunk()?;
    // SAFETY: nobody writes to it once backends run.
    let buckets = unsafe { *SHARED.0.get() };
    let index = u64::from_ne_bytes(hash) as usize % buckets.len().max(1);
    Some((buckets.get(index)?, u64::from(u16::from_ne_bytes(tag)) << 16))
}

/// The place where the row with this key was, most likely.
pub fn get(key: &[u8]) -> Option<pg_sys::ItemPointerData> {
    let (Bucket(hints), tag) = bucket(key)?;
    let mut hints = hints.iter().map(|hint| hint.load(Ordering::Relaxed));
    let hint = hints.find(|&hint| hint != 0 && hint & TAG == tag)?;
    let mut place = pg_sys::ItemPointerData::default();
    u64_to_item_pointer(hint & !TAG, &mut place);
    Some(place)
}

/// Remembers the place that the index names, which stays through updates that leave indexes alone.
pub fn set(key: &[u8], place: pg_sys::ItemPointerData) {
    let Some((Bucket(hints), tag)) = bucket(key) else { return };
    let known = |wanted: &dyn Fn(u64) -> bool| hints.iter().find(|hint| wanted(hint.load(Ordering::Relaxed)));
    let hint = known(&|hint| hint != 0 && hint & TAG == tag)
        .or_else(|| known(&|hint| hint == 0))
        .unwrap_or(&hints[usize::from(key[key.len() - 1]) % WAYS]);
    hint.store(item_pointer_to_u64(place) | tag, Ordering::Relaxed);
}
