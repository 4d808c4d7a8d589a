//! Errors of PostgreSQL during a migration, with the file and line where they arose.

use anyhow::anyhow;
use tokio_postgres::error::{ErrorPosition, SqlState};

/// An error of PostgreSQL's with the file and line where it arose.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Located {
    text: String,
    code: SqlState,
}

/// An error in a file of this text, by its path.
pub(super) fn located(path: &str, text: &str, error: &tokio_postgres::Error) -> anyhow::Error {
    let Some(error) = error.as_db_error() else {
        return anyhow!("{path}: {error}");
    };
    let line = match error.position() {
        // The position counts characters, from 1.
        Some(ErrorPosition::Original(position)) => {
            let before = text.chars().take((*position as usize).saturating_sub(1));
            format!(":{}", before.filter(|c| *c == '\n').count() + 1)
        }
        _ => String::new(),
    };
    let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
    Located { text: format!("{path}{line}: {}{hint}", error.message()), code: error.code().clone() }.into()
}

/// The error of PostgreSQL that caused another one.
pub(super) fn postgres_error<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a tokio_postgres::Error> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|error| error.downcast_ref())
}

/// Whether a lock did not come in time.
pub(super) fn waited_in_vain(error: &anyhow::Error) -> bool {
    let code = error.chain().find_map(|error| {
        let located = error.downcast_ref::<Located>().map(|located| &located.code);
        located.or_else(|| postgres_error(error)?.code())
    });
    // Sessions of the server lock tables in another order than a migration may.
    [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED].iter().any(|met| code == Some(met))
}
