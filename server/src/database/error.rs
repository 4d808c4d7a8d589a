//! Errors of PostgreSQL and of the connection to it, as one type that is safe to log.

use std::fmt;

use deadpool_postgres::{PoolError, TimeoutType};
use tokio_postgres::error::{DbError, SqlState};

/// An error of the database. Its texts are safe to log: they contain no parameters and no rows, so an error's DETAIL is
/// dropped, and its message, too, where PostgreSQL quotes values in it (PRIV-4).
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    #[error("{0}")]
    Refused(Refusal),
    #[error("the connection to PostgreSQL failed: {0}")]
    Connection(String),
    #[error("no database connection: {0}")]
    Pool(&'static str),
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
            Self::Connection(_) | Self::Pool(_) => None,
        }
    }

    /// Whether the same call may work soon: the database is away, starting, stopping or overloaded, or it gave up one
    /// of two transactions for the other.
    pub fn is_passing(&self) -> bool {
        self.code().is_none_or(|code| {
            let passing = [
                SqlState::ADMIN_SHUTDOWN,
                SqlState::CRASH_SHUTDOWN,
                SqlState::CANNOT_CONNECT_NOW,
                SqlState::TOO_MANY_CONNECTIONS,
                SqlState::T_R_SERIALIZATION_FAILURE,
                SqlState::T_R_DEADLOCK_DETECTED,
            ];
            passing.contains(code)
        })
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
            PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => {
                Self::Pool("the pool is misconfigured")
            }
        }
    }
}
