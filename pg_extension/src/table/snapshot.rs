//! The rows that a reader sees.

use pgrx::prelude::*;

/// The rows committed when it is taken, and those that the transaction wrote before.
pub struct Snapshot(pub(super) pg_sys::Snapshot);

impl Snapshot {
    pub fn take() -> Self {
        // SAFETY: in a transaction.
        unsafe { Self(pg_sys::RegisterSnapshot(pg_sys::GetTransactionSnapshot())) }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: registered, and the current resource owner is the one it was.
            unsafe { pg_sys::UnregisterSnapshot(self.0) };
        }
    }
}

/// Makes what was written visible to the transaction's next snapshot.
pub fn end_command() {
    // SAFETY: in a transaction that may write.
    unsafe { pg_sys::CommandCounterIncrement() };
}
