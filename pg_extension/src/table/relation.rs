//! An open relation of PostgreSQL's: a table or an index.

use std::ffi::c_char;

use pgrx::{PgTupleDesc, prelude::*};

/// An open relation, closed when dropped; its lock stays until the end of the transaction.
pub(super) struct Relation(pub(super) pg_sys::Relation);

impl Relation {
    /// Whether this module's writes do all that SQL would do: a table without triggers, rules,
    /// partitions and generated columns.
    pub(super) fn is_plain(&self) -> bool {
        // SAFETY: open, so that its parts are valid.
        unsafe {
            let class = (*self.0).rd_rel;
            let constraints = (*(*self.0).rd_att).constr;
            (*class).relkind == pg_sys::RELKIND_RELATION as c_char
                && !(*class).relispartition
                && (*self.0).trigdesc.is_null()
                && (*self.0).rd_rules.is_null()
                && (constraints.is_null() || !has_generated(&*constraints))
        }
    }

    pub(super) fn attributes(&self) -> PgTupleDesc<'_> {
        // SAFETY: open, so that its descriptor is valid.
        unsafe { PgTupleDesc::from_pg_unchecked((*self.0).rd_att) }
    }

    /// Opens the index of the table's primary key; without one PostgreSQL raises an error.
    pub(super) fn primary_index(&self) -> Self {
        // SAFETY: the table is open.
        unsafe {
            #[cfg(not(feature = "pg18"))]
            let oid = pg_sys::RelationGetPrimaryKeyIndex(self.0);
            #[cfg(feature = "pg18")]
            let oid = pg_sys::RelationGetPrimaryKeyIndex(self.0, false);
            Self(pg_sys::index_open(oid, pg_sys::AccessShareLock as pg_sys::LOCKMODE))
        }
    }
}

fn has_generated(constraints: &pg_sys::TupleConstr) -> bool {
    #[cfg(feature = "pg18")]
    if constraints.has_generated_virtual {
        return true;
    }
    constraints.has_generated_stored
}

impl Drop for Relation {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: open, and closed once. It stays locked.
            unsafe { pg_sys::relation_close(self.0, pg_sys::NoLock as pg_sys::LOCKMODE) };
        }
    }
}
