//! The columns of a table that deliveries use, and where they stand in its rows.

use std::{cell::RefCell, ffi::CStr, thread::LocalKey};

use pgrx::prelude::*;

use super::relation::Relation;

/// A table and its columns: see [`table!`].
pub trait Columns: Copy + 'static {
    const SCHEMA: &'static CStr;
    const NAME: &'static CStr;
    /// Names and types; for a column of a domain, the domain's base type.
    const COLUMNS: &'static [(&'static CStr, pg_sys::Oid)];

    /// The column's index in [`Self::COLUMNS`].
    fn position(self) -> usize;
    /// The places found last by this backend.
    fn known_places() -> &'static LocalKey<RefCell<Places>>;
}

/// Place of each column in the table's rows, counted from 0, and its declared type, which may be a
/// domain.
#[derive(Clone)]
pub struct Places(Vec<(usize, pg_sys::Oid)>);

impl Places {
    pub const UNKNOWN: Self = Self(Vec::new());

    /// Finds the columns by name; none if one is missing or of another base type.
    fn find(table: &Relation, columns: &[(&CStr, pg_sys::Oid)]) -> Option<Self> {
        let attributes = table.attributes();
        let place = |&(name, wanted): &(&CStr, pg_sys::Oid)| {
            let (place, attribute) = attributes.iter().enumerate().find(|(_, one)| is_column(one, name))?;
            // SAFETY: a type of the catalog.
            let base = unsafe { pg_sys::getBaseType(attribute.atttypid) };
            (base == wanted).then_some((place, attribute.atttypid))
        };
        columns.iter().map(place).collect::<Option<_>>().map(Self)
    }

    /// Whether the columns still are what they were.
    fn hold(&self, table: &Relation, columns: &[(&CStr, pg_sys::Oid)]) -> bool {
        let attributes = table.attributes();
        let holds = |(&(place, declared), &(name, _)): (&(usize, pg_sys::Oid), &(&CStr, pg_sys::Oid))| {
            attributes.get(place).is_some_and(|one| is_column(one, name) && one.atttypid == declared)
        };
        self.0.len() == columns.len() && self.0.iter().zip(columns).all(holds)
    }

    /// The places of the columns in an open table; none if it is not the table they were declared
    /// for.
    pub(super) fn of<C: Columns>(table: &Relation) -> Option<Self> {
        C::known_places().with_borrow_mut(|known| {
            if !known.hold(table, C::COLUMNS) {
                *known = Self::find(table, C::COLUMNS)?;
            }
            Some(known.clone())
        })
    }

    pub(super) fn place(&self, column: impl Columns) -> usize {
        self.0[column.position()].0
    }

    pub(super) fn contains(&self, place: usize) -> bool {
        self.0.iter().any(|&(known, _)| known == place)
    }
}

fn is_column(attribute: &pg_sys::FormData_pg_attribute, name: &CStr) -> bool {
    // SAFETY: names in the catalog end with zero.
    !attribute.attisdropped && unsafe { CStr::from_ptr(attribute.attname.data.as_ptr()) } == name
}

/// Declares an enum of those columns of a table that are read or written.
macro_rules! table {
    ($table:ident = $schema:literal, $name:literal { $($column:ident = $text:literal $type:ident),* $(,)? }) => {
        #[derive(Clone, Copy)]
        enum $table { $($column),* }

        impl $crate::table::columns::Columns for $table {
            const SCHEMA: &'static std::ffi::CStr = $schema;
            const NAME: &'static std::ffi::CStr = $name;
            const COLUMNS: &'static [(&'static std::ffi::CStr, pgrx::pg_sys::Oid)] =
                &[$(($text, pgrx::pg_sys::$type)),*];

            fn position(self) -> usize {
                self as usize
            }

            fn known_places()
            -> &'static std::thread::LocalKey<std::cell::RefCell<$crate::table::columns::Places>> {
                thread_local! {
                    static PLACES: std::cell::RefCell<$crate::table::columns::Places> =
                        const { std::cell::RefCell::new($crate::table::columns::Places::UNKNOWN) };
                }
                &PLACES
            }
        }
    };
}
pub(crate) use table;
