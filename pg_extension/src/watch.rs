//! What is read at every request and changed once in a while stays in each backend's memory. Its
//! table's trigger, `postern.forget`, sends the invalidation that PostgreSQL sends when a table is
//! altered; every backend has taken it by the time its next transaction begins.

use std::cell::Cell;

use pgrx::{AllocatedByPostgres, WhoAllocated, prelude::*, trigger_support::PgTriggerError};

/// Whether a table's rows may have changed. Lives in a thread-local, as long as the backend.
pub struct Watch {
    table: Cell<pg_sys::Oid>,
    watched: Cell<bool>,
    changed: Cell<bool>,
}

impl Watch {
    pub const fn new() -> Self {
        let table = Cell::new(pg_sys::InvalidOid);
        Self { table, watched: Cell::new(false), changed: Cell::new(false) }
    }

    /// Whether they may have changed since this was last asked. To be asked before they are read
    /// with a new snapshot: what it does not show changes later.
    pub fn take_changed(&self) -> bool {
        if !self.watched.replace(true) {
            let this = pg_sys::Datum::from(&raw const *self);
            // SAFETY: once for each; the callback does not raise, and this lives as long as the backend.
            unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(table_changed), this) };
        }
        self.changed.take()
    }

    /// Says which table it is, once it was read.
    pub fn set_table(&self, table: pg_sys::Oid) {
        self.table.set(table);
    }
}

/// Called while PostgreSQL takes invalidations, at any time; `InvalidOid` stands for everything.
unsafe extern "C-unwind" fn table_changed(watch: pg_sys::Datum, table: pg_sys::Oid) {
    // SAFETY: what it was registered with.
    let watch = unsafe { &*watch.cast_mut_ptr::<Watch>() };
    if table == pg_sys::InvalidOid || table == watch.table.get() {
        watch.changed.set(true);
    }
}

/// Whether what this transaction reads now may be kept: what an old snapshot shows may be over.
pub fn reads_the_latest() -> bool {
    // SAFETY: a setting of this session.
    unsafe { pg_sys::XactIsoLevel < pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// Makes every backend read the trigger's table anew once the transaction is committed.
#[pg_trigger]
fn forget<'a>(
    trigger: &'a PgTrigger<'a>,
) -> Result<Option<PgHeapTuple<'a, impl WhoAllocated>>, PgTriggerError> {
    // SAFETY: of a relation that is there, as its trigger calls this.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(trigger.relid()?) };
    Ok(None::<PgHeapTuple<'a, AllocatedByPostgres>>)
}
