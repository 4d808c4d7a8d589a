//! Errors of PostgreSQL and of the connection to it, as one type that is safe to log.

use std::{fmt, time::Duration};

use deadpool_postgres::{HookError, PoolError, TimeoutType};
use tokio_postgres::error::{DbError, SqlState};

use super::{generation, schema_state};

/// An error of the database. Its texts are safe to log: they contain no parameters and no rows, so an error's DETAIL is
/// dropped, and its message, too, where PostgreSQL quotes values in it (PRIV-4).
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    #[error("{0}")]
    Refused(Refusal),
    #[error("the connection string for PostgreSQL: {0}")]
    Settings(String),
    #[error("the connection to PostgreSQL failed: {0}")]
    Connection(String),
    #[error("no database connection: {0}")]
    Pool(&'static str),
    /// Nobody knows whether the call took place.
    #[error("PostgreSQL did not answer within {} seconds", .0.as_secs())]
    Silent(Duration),
    #[error("notifications are not heard: connect to PostgreSQL itself, or through a pooler in session mode")]
    Deaf,
    #[error("PostgreSQL answered with {0} rows, which is not their number")]
    Rows(usize),
    /// The database is of this release, which does not keep what this program calls (OPS-6).
    #[error("{}", schema_state::foreign(.0))]
    Foreign(String),
    /// The database was put back to an earlier state, and nobody said yet what became of it (QS-12).
    #[error("{0}: `postern status` says what to do")]
    Undecided(&'static str),
}

/// An error that PostgreSQL reported, as far as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: SqlState,
    message: Option<String>,
    constraint: Option<String>,
    function: Option<String>,
}

impl DatabaseError {
    pub fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Refused(refusal) => Some(&refusal.code),
            Self::Settings(_)
            | Self::Connection(_)
            | Self::Pool(_)
            | Self::Silent(_)
            | Self::Deaf
            | Self::Rows(_)
            | Self::Foreign(_)
            | Self::Undecided(_) => None,
        }
    }

    /// The result of the call, in a word for figures.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Refused(_) if self.met_a_lock() => "lock_timeout",
            Self::Refused(_) if self.asks_for_repeat() => "given_up_for_another",
            Self::Refused(refusal) if refusal.code == SqlState::QUERY_CANCELED => "statement_timeout",
            Self::Refused(_) | Self::Rows(_) | Self::Foreign(_) | Self::Undecided(_) => "refused",
            Self::Settings(_) | Self::Connection(_) => "no_connection",
            Self::Pool(_) => "no_connection_in_time",
            Self::Silent(_) | Self::Deaf => "silent",
        }
    }

    /// Whether the same call may work soon: the database is away, starting, stopping or overloaded, has no room on its
    /// disk or in its memory, it worked on the statement or waited for a lock for too long, or it gave up one of two
    /// transactions for the other. A later release's database is the next server's, which takes this one's place.
    pub fn is_passing(&self) -> bool {
        let passing = [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::TOO_MANY_CONNECTIONS,
            SqlState::INSUFFICIENT_RESOURCES,
            SqlState::DISK_FULL,
            SqlState::OUT_OF_MEMORY,
            SqlState::QUERY_CANCELED,
            SqlState::LOCK_NOT_AVAILABLE,
            SqlState::READ_ONLY_SQL_TRANSACTION,
        ];
        match self {
            Self::Refused(refusal) => passing.contains(&refusal.code) || self.asks_for_repeat(),
            Self::Connection(_)
            | Self::Pool(_)
            | Self::Silent(_)
            | Self::Deaf
            | Self::Foreign(_)
            | Self::Undecided(_) => true,
            Self::Settings(_) | Self::Rows(_) => false,
        }
    }

    /// Whether PostgreSQL gave the transaction up for another, and asks for it again.
    pub fn asks_for_repeat(&self) -> bool {
        let repeats = [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED];
        self.code().is_some_and(|code| repeats.contains(code))
    }

    /// Whether the call waited for a lock for too long. Nothing of it happened.
    pub fn met_a_lock(&self) -> bool {
        self.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
    }

    /// Whether what was prepared on the session is of no use any more: it is gone, or for tables that changed.
    pub fn voids_statements(&self) -> bool {
        let voids = [SqlState::INVALID_SQL_STATEMENT_NAME, SqlState::FEATURE_NOT_SUPPORTED];
        self.code().is_some_and(|code| voids.contains(code))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgreSQL error {}", self.code.code())?;
        for (label, part) in [("", &self.message), ("constraint ", &self.constraint), ("in ", &self.function)]
        {
            if let Some(part) = part {
                write!(f, ", {label}{part}")?;
            }
        }
        Ok(())
    }
}

impl From<&DbError> for Refusal {
    fn from(error: &DbError) -> Self {
        // Connection, authorisation, syntax and names, transactions, resources, operator intervention, system:
        // their messages name objects, roles and settings. Classes like 22 and 23 quote values.
        let quotes_no_values = matches!(
            error.code().code().get(..2),
            Some("08" | "0A" | "25" | "28" | "3D" | "40" | "42" | "53" | "55" | "57" | "58")
        );
        let function = error
            .where_()
            .and_then(|context| context.lines().find_map(|line| line.strip_prefix("PL/pgSQL function ")));
        Self {
            code: error.code().clone(),
            message: quotes_no_values.then(|| error.message().to_owned()),
            constraint: error.constraint().map(str::to_owned),
            function: function.map(str::to_owned),
        }
    }
}

impl From<tokio_postgres::Error> for DatabaseError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(error) => Self::Refused(error.into()),
            None => {
                // The driver's own message says what it was doing; its source says why (refused, no such file).
                let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
                Self::Connection(format!(
                    "{error}{}",
                    source.filter(|_| !error.to_string().contains(':')).unwrap_or_default()
                ))
            }
        }
    }
}

impl From<PoolError> for DatabaseError {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => error.into(),
            PoolError::Timeout(TimeoutType::Wait) => Self::Pool("all are busy"),
            PoolError::Timeout(_) => Self::Pool("PostgreSQL does not answer in time"),
            PoolError::Closed => Self::Pool("the pool is closed"),
            PoolError::PostCreateHook(HookError::Message(text)) => match generation::reason_of(&text) {
                Some(reason) => Self::Undecided(reason),
                None => Self::Foreign(text.into_owned()),
            },
            PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(HookError::Backend(_)) => {
                Self::Pool("the pool is misconfigured")
            }
        }
    }
}
