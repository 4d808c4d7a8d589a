//! CHECK constraints of the tables that deliveries write, prepared once in a session, as PostgreSQL
//! does with those of domains. It reads and plans the constraints of tables anew for each statement,
//! which would take a tenth of a delivery to one queue.

use std::{
    cell::RefCell,
    collections::HashMap,
    ffi::{CStr, CString},
    slice,
};

use pgrx::{PgMemoryContexts, prelude::*};

thread_local! {
    static PREPARED: RefCell<HashMap<pg_sys::Oid, Checks>> = RefCell::default();
}

/// A table's constraints, in its own order.
struct Checks {
    /// Their text in the catalog; none for one that is not enforced.
    texts: Vec<Option<CString>>,
    /// Their prepared form. It stays until the session's end even when the constraints change, since
    /// an outer call may be using it.
    states: *mut *mut pg_sys::ExprState,
}

/// The constraints that `ExecConstraints` is to check, valid as long as the session; null if the
/// table has none.
pub fn prepared(table: pg_sys::Oid, descriptor: &pg_sys::TupleDescData) -> *mut *mut pg_sys::ExprState {
    // SAFETY: the table is open, so that the parts of its descriptor are valid.
    let checks = unsafe {
        match descriptor.constr.as_ref() {
            Some(constraints) if constraints.num_check > 0 => {
                slice::from_raw_parts(constraints.check, constraints.num_check.into())
            }
            _ => return std::ptr::null_mut(),
        }
    };
    PREPARED.with_borrow_mut(|known| {
        if let Some(known) = known.get(&table).filter(|known| known.hold(checks)) {
            return known.states;
        }
        let prepared = Checks::prepare(checks);
        let states = prepared.states;
        known.insert(table, prepared);
        states
    })
}

impl Checks {
    fn prepare(checks: &[pg_sys::ConstrCheck]) -> Self {
        let texts: Vec<_> = checks.iter().map(|check| text(check).map(CStr::to_owned)).collect();
        // SAFETY: the texts are the catalog's; the expressions live in a context that stays.
        let states = unsafe {
            PgMemoryContexts::CacheMemoryContext.switch_to(|_| {
                let states = pg_sys::palloc0(size_of::<*mut pg_sys::ExprState>() * texts.len());
                let states = states.cast::<*mut pg_sys::ExprState>();
                for (place, text) in texts.iter().enumerate() {
                    if let Some(text) = text {
                        let expression = pg_sys::stringToNode(text.as_ptr()).cast::<pg_sys::Expr>();
                        let planned = pg_sys::expression_planner(expression);
                        *states.add(place) = pg_sys::ExecInitExpr(planned, std::ptr::null_mut());
                    }
                }
                states
            })
        };
        Self { texts, states }
    }

    /// Whether the table still has these constraints.
    fn hold(&self, checks: &[pg_sys::ConstrCheck]) -> bool {
        self.texts.iter().map(Option::as_deref).eq(checks.iter().map(text))
    }
}

/// The constraint's expression as the catalog has it.
fn text(check: &pg_sys::ConstrCheck) -> Option<&CStr> {
    #[cfg(feature = "pg18")]
    if !check.ccenforced {
        return None;
    }
    // SAFETY: a string of the catalog, which ends with zero.
    Some(unsafe { CStr::from_ptr(check.ccbin) })
}
