//! The notifier's side of the shared memory.

use pgrx::prelude::*;

use super::memory::{Key, PENDING_KEYS, SHARED, now, this_database};

/// The keys that the notifier takes from shared memory at once.
pub struct Batch {
    pub keys: Vec<Key>,
    pub everyone: bool,
}

impl Batch {
    pub fn new() -> Self {
        Self { keys: Vec::with_capacity(PENDING_KEYS), everyone: false }
    }
}

/// Makes this process its database's notifier; false if there is one already, or no slot for one.
/// The keys pending for an earlier one may be incomplete, so the new one begins with `*`.
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

/// Gives the slot back: the notifier's last act, however it ends.
pub fn detach() {
    // SAFETY: a number of this process.
    let pid = unsafe { pg_sys::MyProcPid };
    if let Some(slot) = SHARED.exclusive().slots.iter_mut().find(|slot| slot.notifier == pid) {
        slot.notifier = 0;
        slot.latch = std::ptr::null_mut();
        slot.asleep = false;
    }
}

/// Whether there is anything to send; if not, the notifier is marked asleep and must wait on its
/// latch.
pub fn pending_or_asleep() -> bool {
    let mut shared = SHARED.exclusive();
    let Some(slot) = shared.slot_mut(this_database()) else { return false };
    let pending = slot.everyone || slot.len > 0;
    slot.asleep = !pending;
    pending
}

/// Moves all pending keys into `batch`, which has room for them.
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

/// Adds to the number of notifications that were sent.
pub fn count_sent(notifications: i64) {
    if let Some(slot) = SHARED.exclusive().slot_mut(this_database()) {
        slot.sent += notifications;
    }
}
