//! Inserting rows, many with one call of PostgreSQL's.

use std::ptr;

use pgrx::prelude::*;

use super::{columns::Columns, open::Table, slot::Slot};

/// Rows that go into a table together; PostgreSQL writes one WAL record for those that share a page.
const BATCH_ROWS: usize = 64;
/// Bytes after which a batch is full, however few rows they are.
const BATCH_BYTES: usize = 256 * 1024;

/// Inserts rows, many at a time.
pub struct Insert<'a, C> {
    table: &'a Table<C>,
    /// The default of each column that is not known here, with its place.
    defaults: Vec<(usize, *mut pg_sys::ExprState)>,
    slots: Vec<Slot>,
    /// Number of slots, from the first on, that hold a row not written yet.
    rows: usize,
    /// About how large those rows are.
    bytes: usize,
}

impl<C: Columns> Table<C> {
    pub fn insert(&self) -> Insert<'_, C> {
        let attributes = self.relation.attributes();
        let unknown = attributes
            .iter()
            .enumerate()
            .filter(|&(place, one)| one.atthasdef && !self.places.contains(place));
        let defaults = unknown.map(|(place, _)| (place, self.writer().prepare_default(place))).collect();
        Insert { table: self, defaults, slots: Vec::new(), rows: 0, bytes: 0 }
    }
}

impl<C: Columns> Insert<'_, C> {
    /// Adds a row of about `bytes` bytes. Known columns that are not given become null.
    ///
    /// # Safety
    /// The values must be of the types of the columns.
    pub unsafe fn row<const N: usize>(&mut self, bytes: usize, row: [(C, Option<pg_sys::Datum>); N]) {
        if self.rows == self.slots.len() {
            self.slots.push(self.table.slot());
        }
        let slot = &mut self.slots[self.rows];
        let table = self.table;
        // SAFETY: as the caller says.
        unsafe {
            slot.store(|values, nulls| {
                nulls.fill(true);
                let given = row.into_iter().map(|(column, value)| (table.places.place(column), value));
                let defaults = self.defaults.iter();
                for (place, value) in
                    given.chain(defaults.map(|&(n, default)| (n, table.writer().default(default))))
                {
                    if let Some(value) = value {
                        (values[place], nulls[place]) = (value, false);
                    }
                }
            });
        }
        self.table.writer().check(slot);
        slot.own();
        self.rows += 1;
        self.bytes += bytes;
        if self.rows == BATCH_ROWS || self.bytes >= BATCH_BYTES {
            self.write();
        }
    }

    /// Writes the rows that are not written yet.
    pub fn finish(mut self) {
        self.write();
    }

    fn write(&mut self) {
        if self.rows == 0 {
            return;
        }
        let mut slots: Vec<_> = self.slots[..self.rows].iter().map(|slot| slot.0).collect();
        // SAFETY: each slot holds a row of the table.
        unsafe {
            let command = pg_sys::GetCurrentCommandId(true);
            let len = self.rows as i32;
            let relation = self.table.relation.0;
            pg_sys::table_multi_insert(relation, slots.as_mut_ptr(), len, command, 0, ptr::null_mut());
        }
        for slot in &self.slots[..self.rows] {
            self.table.writer().index_inserted(slot);
            // SAFETY: the slot is ours; its row is written.
            unsafe { pg_sys::ExecClearTuple(slot.0) };
        }
        (self.rows, self.bytes) = (0, 0);
    }
}
