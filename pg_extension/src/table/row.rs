//! Values of a row that was read, by column.

use std::{marker::PhantomData, slice};

use pgrx::prelude::*;

use super::{
    columns::{Columns, Places},
    error::unexpected,
    slot::Slot,
};

/// A row that was read. A column that is asked for must be of the type that the method names;
/// null where the method does not allow it raises an error.
#[derive(Clone, Copy)]
pub struct Row<'a, C> {
    pub(super) values: &'a [pg_sys::Datum],
    pub(super) nulls: &'a [bool],
    places: &'a Places,
    columns: PhantomData<C>,
}

impl<'a, C: Columns> Row<'a, C> {
    /// # Safety
    /// The slot must hold a row of the table, for as long as the result is used.
    pub(super) unsafe fn of(slot: &'a Slot, places: &'a Places) -> Self {
        // SAFETY: as the caller says.
        unsafe {
            pg_sys::slot_getallattrs(slot.0);
            let len = (*(*slot.0).tts_tupleDescriptor).natts as usize;
            Self {
                values: slice::from_raw_parts((*slot.0).tts_values, len),
                nulls: slice::from_raw_parts((*slot.0).tts_isnull, len),
                places,
                columns: PhantomData,
            }
        }
    }

    fn datum(&self, column: C) -> Option<pg_sys::Datum> {
        let place = self.places.place(column);
        (!self.nulls[place]).then(|| self.values[place])
    }

    fn present(&self, column: C) -> usize {
        self.datum(column).unwrap_or_else(|| unexpected(C::NAME)).value()
    }

    /// The bytes of a `bytea` or a text; none for null.
    pub fn bytes(&self, column: C) -> Option<&'a [u8]> {
        // SAFETY: a value of variable length is a pointer to it; what PostgreSQL has to unpack
        // first lives as long as the function call.
        self.datum(column).map(|datum| unsafe {
            pgrx::varlena_to_byte_slice(pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr()))
        })
    }

    /// A type of ours, made from the bytes of a `bytea` that is not null.
    pub fn value<T: TryFrom<&'a [u8]>>(&self, column: C) -> T {
        let value = self.bytes(column).and_then(|bytes| bytes.try_into().ok());
        value.unwrap_or_else(|| unexpected(C::NAME))
    }

    /// A `bigint` that is not null.
    pub fn bigint(&self, column: C) -> i64 {
        self.present(column) as i64
    }

    /// An `integer` that is not null, or a date's days since 2000.
    pub fn integer(&self, column: C) -> i32 {
        self.present(column) as i32
    }

    /// A `boolean` that is not null.
    pub fn boolean(&self, column: C) -> bool {
        self.present(column) & 0xff != 0
    }
}
