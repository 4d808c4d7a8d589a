//! Settings that are read at every request and changed once in a while stay in each backend's memory.
//! The trigger of their table, `postern.forget`, sends the invalidation that PostgreSQL sends when a
//! table is altered; every backend has taken it by the time its next transaction begins.

use std::cell::Cell;

use pgrx::{AllocatedByPostgres, WhoAllocated, prelude::*, trigger_support::PgTriggerError};

/// Tells whether a table's rows may have changed. Lives in a thread-local, as long as the backend.
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

    /// Whether the rows may have changed since the last call. To be called before they are read with
    /// a new snapshot: a change that this snapshot does not show is reported later.
    pub fn take_changed(&self) -> bool {
        if !self.watched.replace(true) {
            let this = pg_sys::Datum::from(&raw const *self);
            // SAFETY: registered once for each; the callback raises no error, and this lives as long
            // as the backend.
            unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(table_changed), this) };
        }
        self.changed.take()
    }

    /// Names the table, once it was read.
    pub fn set_table(&self, table: pg_sys::Oid) {
        self.table.set(table);
    }
}

/// PostgreSQL calls it while it takes invalidations, at any time; `InvalidOid` stands for all tables.
unsafe extern "C-unwind" fn table_changed(watch: pg_sys::Datum, table: pg_sys::Oid) {
    // SAFETY: the callback was registered with this argument.
    let watch = unsafe { &*watch.cast_mut_ptr::<Watch>() };
    if table == pg_sys::InvalidOid || table == watch.table.get() {
        watch.changed.set(true);
    }
}

/// Whether rows that this transaction reads now may be kept: under REPEATABLE READ they may be
/// outdated.
pub fn reads_the_latest() -> bool {
    // SAFETY: a setting of this session.
    unsafe { pg_sys::XactIsoLevel < pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// The trigger that makes every backend read its table anew once the transaction is committed.
#[pg_trigger]
fn forget<'a>(
    trigger: &'a PgTrigger<'a>,
) -> Result<Option<PgHeapTuple<'a, impl WhoAllocated>>, PgTriggerError> {
    // SAFETY: the relation exists, as its trigger calls this.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(trigger.relid()?) };
    Ok(None::<PgHeapTuple<'a, AllocatedByPostgres>>)
}
