//! Errors of row access, raised as PostgreSQL's executor raises them.

use std::ffi::CStr;

use pgrx::{
    pg_sys::panic::ErrorReport,
    prelude::{PgLogLevel, PgSqlErrorCode, ereport},
};

/// Raises an error: the table was made by migrations older or newer than this library.
pub fn unexpected(table: &CStr) -> ! {
    ErrorReport::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("table {table:?} is not what this version of the extension expects"),
        "unexpected",
    )
    .set_hint(
        "Run \"postern migrate\" of this extension's release, and undo changes to the table made by hand.",
    )
    .report(PgLogLevel::ERROR);
    unreachable!("an error does not return")
}

/// Raises the error that PostgreSQL raises when another transaction changed the row in question.
pub(super) fn serialization_failure() -> ! {
    ereport!(
        ERROR,
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "could not serialize access due to concurrent update"
    );
}
