//! Constraints and indexes of a table that is written.

use std::ptr;

use pgrx::prelude::*;

use super::{relation::Relation, slot::Slot};
use crate::checks;

/// The indexes that an update concerns.
#[cfg(feature = "pg15")]
pub(super) type Indexes = bool;
#[cfg(not(feature = "pg15"))]
pub(super) type Indexes = pg_sys::TU_UpdateIndexes::Type;

/// The executor's state with which rows are checked and a table's indexes are written.
pub(super) struct Writer {
    state: *mut pg_sys::EState,
    result: *mut pg_sys::ResultRelInfo,
}

impl Writer {
    pub(super) fn new(relation: &Relation) -> Self {
        // SAFETY: the relation is open. All of it lives in the state's memory.
        unsafe {
            let state = pg_sys::CreateExecutorState();
            let before = pg_sys::MemoryContextSwitchTo((*state).es_query_cxt);
            let result = pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast::<pg_sys::ResultRelInfo>();
            (*result).type_ = pg_sys::NodeTag::T_ResultRelInfo;
            // There is no query, and so no range table that the relation is in.
            pg_sys::InitResultRelInfo(result, relation.0, 0, ptr::null_mut(), 0);
            pg_sys::MemoryContextSwitchTo(before);
            let checks = checks::prepared((*relation.0).rd_id, &*(*relation.0).rd_att);
            #[cfg(not(feature = "pg18"))]
            {
                (*result).ri_ConstraintExprs = checks;
            }
            #[cfg(feature = "pg18")]
            {
                (*result).ri_CheckConstraintExprs = checks;
            }
            Self { state, result }
        }
    }

    /// The default of a column that has one.
    pub(super) fn prepare_default(&self, place: usize) -> *mut pg_sys::ExprState {
        // SAFETY: the relation is open. The expression lives in the state's memory.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo((*self.state).es_query_cxt);
            let default = pg_sys::build_column_default((*self.result).ri_RelationDesc, place as i32 + 1);
            let default = pg_sys::ExecPrepareExpr(default.cast(), self.state);
            pg_sys::MemoryContextSwitchTo(before);
            default
        }
    }

    /// The value of a default, which lives as long as the state; none for null.
    pub(super) fn default(&self, default: *mut pg_sys::ExprState) -> Option<pg_sys::Datum> {
        // SAFETY: the expression was prepared with this state, which has its context from then on.
        unsafe {
            let mut null = false;
            if (*self.state).es_per_tuple_exprcontext.is_null() {
                pg_sys::MakePerTupleExprContext(self.state);
            }
            let context = (*self.state).es_per_tuple_exprcontext;
            let value = pg_sys::ExecEvalExprSwitchContext(default, context, &raw mut null);
            (!null).then_some(value)
        }
    }

    /// Raises an error if the row breaks a constraint of the table.
    pub(super) fn check(&self, slot: &Slot) {
        // SAFETY: the slot holds a row of the relation.
        unsafe {
            // A constraint may refer to it.
            (*slot.0).tts_tableOid = (*(*self.result).ri_RelationDesc).rd_id;
            if !(*(*slot.0).tts_tupleDescriptor).constr.is_null() {
                pg_sys::ExecConstraints(self.result, slot.0, self.state);
            }
        }
    }

    pub(super) fn index_inserted(&self, slot: &Slot) {
        self.index(slot, false, false);
    }

    pub(super) fn index_updated(&self, slot: &Slot, indexes: Indexes) {
        #[cfg(feature = "pg15")]
        if indexes {
            self.index(slot, true, false);
        }
        #[cfg(not(feature = "pg15"))]
        if indexes != pg_sys::TU_UpdateIndexes::TU_None {
            self.index(slot, true, indexes == pg_sys::TU_UpdateIndexes::TU_Summarizing);
        }
    }

    fn index(&self, slot: &Slot, update: bool, _only_summarizing: bool) {
        // SAFETY: the row in the slot was just written, which put its place there.
        unsafe {
            // Opened late: hardly any update needs indexes.
            if (*self.result).ri_NumIndices == 0 {
                let before = pg_sys::MemoryContextSwitchTo((*self.state).es_query_cxt);
                pg_sys::ExecOpenIndices(self.result, false);
                pg_sys::MemoryContextSwitchTo(before);
            }
            pg_sys::ExecInsertIndexTuples(
                self.result,
                slot.0,
                self.state,
                update,
                false,
                ptr::null_mut(),
                ptr::null_mut(),
                #[cfg(not(feature = "pg15"))]
                _only_summarizing,
            );
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made by us, and dropped once; the relation is still open.
            unsafe {
                pg_sys::ExecCloseIndices(self.result);
                pg_sys::FreeExecutorState(self.state);
            }
        }
    }
}
