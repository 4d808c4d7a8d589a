//! The wake-ups of a transaction, from its deliveries to its commit.

use std::{
    cell::{Cell, RefCell},
    ffi::c_void,
};

use pgrx::{pg_sys::panic::ErrorReport, prelude::*};

use super::{
    memory::{Key, SHARED, now, preloaded, this_database},
    notifier,
    notify::notify,
};
use crate::gucs;

/// The queues whose waiters this transaction wakes.
struct Pending {
    keys: Vec<Key>,
    everyone: bool,
    /// Whether a notifier takes them at commit.
    to_notifier: bool,
}

thread_local! {
    static PENDING: RefCell<Pending> =
        const { RefCell::new(Pending { keys: Vec::new(), everyone: false, to_notifier: false }) };
    /// Whether this backend has registered for the ends of its transactions.
    static HOOKED: Cell<bool> = const { Cell::new(false) };
    /// Whether this session was told that wake-ups slow its deliveries down.
    static WARNED: Cell<bool> = const { Cell::new(false) };
}

/// Wakes the waiters of these queues when the transaction commits. A key collected in a
/// subtransaction that is rolled back is sent all the same: waking too many is harmless.
pub fn collect(keys: &[Key]) {
    if !gucs::wakeups() {
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
        // COMMIT PREPARED may run in another backend, which would not know the keys.
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

/// Finds or starts the notifier, or else sends from within this transaction. This is the last
/// moment at which something may fail.
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
        let (why, remedy) = if preloaded() {
            ("No background worker is free.", "Raise max_worker_processes.")
        } else {
            (
                "postern is not in shared_preload_libraries.",
                "Add it to shared_preload_libraries and restart PostgreSQL.",
            )
        };
        ErrorReport::new(
            PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            "postern sends wake-ups inside transactions, which slows deliveries down",
            "before_commit",
        )
        .set_detail(why)
        .set_hint(remedy)
        .report(PgLogLevel::WARNING);
    }
    notify(&keys, everyone);
}

/// Whether this database has a notifier, or one that is starting.
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

/// Hands the keys to the notifier. This runs after the commit record, where a failure would restart
/// the whole cluster, so nothing is allocated, and nothing can be refused.
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

/// Forgets the keys of a transaction that failed.
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
