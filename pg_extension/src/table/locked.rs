//! Updating a row that was locked.

use pgrx::prelude::*;

use super::{columns::Columns, open::Table, row::Row, slot::Slot, snapshot::Snapshot, writer::Indexes};

/// A row that nobody else updates.
pub struct Locked<'a, C> {
    pub(super) table: &'a Table<C>,
    pub(super) snapshot: &'a Snapshot,
    pub(super) row: &'a Slot,
    /// The slot that the row's next version is made in.
    pub(super) next: &'a mut Slot,
}

impl<C: Columns> Locked<'_, C> {
    pub fn row(&self) -> Row<'_, C> {
        // SAFETY: the slot holds the row until the next call of `lock`, for which
        // this borrow must have ended.
        unsafe { Row::of(self.row, &self.table.places) }
    }

    /// Writes the row with these columns changed.
    ///
    /// # Safety
    /// The values must be of the types of the columns.
    pub unsafe fn update(self, changes: &[(C, pg_sys::Datum)]) {
        let Self { table, snapshot, row: slot, next } = self;
        // SAFETY: the other values are the row's own, in a slot that outlives this; the new ones
        // are the caller's to answer for.
        unsafe {
            let row = Row::<C>::of(slot, &table.places);
            next.store(|values, nulls| {
                values.copy_from_slice(row.values);
                nulls.copy_from_slice(row.nulls);
                for &(column, value) in changes {
                    let place = table.places.place(column);
                    (values[place], nulls[place]) = (value, false);
                }
            });
            let writer = table.writer();
            writer.check(next);
            let (relation, place) = (table.relation.0, &raw mut (*slot.0).tts_tid);
            let mut indexes = Indexes::default();
            pg_sys::simple_table_tuple_update(relation, place, next.0, snapshot.0, &raw mut indexes);
            writer.index_updated(next, indexes);
        }
    }
}
