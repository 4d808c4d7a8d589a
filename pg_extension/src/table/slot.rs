//! The executor's container of one row.

use std::slice;

use pgrx::prelude::*;

pub(super) struct Slot(pub(super) *mut pg_sys::TupleTableSlot);

impl Slot {
    /// Fills it with a row's values.
    ///
    /// # Safety
    /// They must be of the types of the table's columns, and valid until [`Self::own`].
    pub(super) unsafe fn store(&mut self, set: impl FnOnce(&mut [pg_sys::Datum], &mut [bool])) {
        // SAFETY: the slot has as many values as its descriptor has attributes.
        unsafe {
            pg_sys::ExecClearTuple(self.0);
            let len = (*(*self.0).tts_tupleDescriptor).natts as usize;
            set(
                slice::from_raw_parts_mut((*self.0).tts_values, len),
                slice::from_raw_parts_mut((*self.0).tts_isnull, len),
            );
            pg_sys::ExecStoreVirtualTuple(self.0);
        }
    }

    /// Copies the values into a row of its own.
    pub(super) fn own(&mut self) {
        // SAFETY: the slot is filled.
        unsafe { pg_sys::ExecMaterializeSlot(self.0) };
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made by us, and dropped once.
            unsafe { pg_sys::ExecDropSingleTupleTableSlot(self.0) };
        }
    }
}
