//! The state of a database in comparison with this program: whether its tables and functions are those that the program
//! calls (OPS-6). [`super::migrate`] changes it.

use anyhow::{Context, bail};
use tokio_postgres::{Client, Row};

use super::{
    Database, DatabaseError,
    release::{Release, Version},
};

/// The state of a database in comparison with this program.
#[derive(Debug, PartialEq, Eq)]
pub enum SchemaState {
    Current,
    /// The same release and tables, other functions: one of the two is being developed.
    OtherFunctions,
    /// A program of the same release, which has more migrations, migrated.
    Newer {
        found: i32,
    },
    /// The release after this program's migrated, which keeps what this one calls (OPS-6).
    Following {
        release: String,
    },
    /// Another release migrated, which does not: a later one, or an earlier one.
    Foreign {
        release: String,
    },
    Older {
        found: i32,
        expected: i32,
    },
}

/// The query for the state.
const STATE: &str =
    "SELECT migration, functions_hash, release, previous FROM operator.current_schema_state()";

/// Reads the state as `postern_server`. Sessions to a database that this program cannot work with end.
///
/// # Errors
/// A database that does not answer.
pub async fn state(database: &Database) -> Result<SchemaState, DatabaseError> {
    let row = match database.query_opt(STATE, &[]).await {
        Err(DatabaseError::Foreign(release)) => return Ok(SchemaState::Foreign { release }),
        found => found?,
    };
    let state = SchemaState::of(row.as_ref());
    if matches!(state, SchemaState::Foreign { .. }) {
        database.end_sessions();
    }
    Ok(state)
}

/// The release of a database with which this program cannot work. None also for one that does not tell: what is called
/// there says why. The question is one round trip.
pub(super) async fn foreign_release(client: &Client) -> Option<String> {
    let row = client.query_typed_opt(STATE, &[]).await.ok()?;
    match SchemaState::of(row.as_ref()) {
        SchemaState::Foreign { release } => Some(release),
        _ => None,
    }
}

impl SchemaState {
    /// The state that a row of `operator.current_schema_state` tells.
    fn of(row: Option<&Row>) -> Self {
        let program = Release::of_this_process();
        let (expected, hash) = program.state();
        let Some(row) = row else {
            return Self::Older { found: 0, expected };
        };
        let (found, release, served): (i32, &str, Option<&str>) = (row.get(0), row.get(2), row.get(3));
        let version = program.version().to_string();
        if found < expected {
            Self::Older { found, expected }
        } else if served == Some(version.as_str()) {
            Self::Following { release: release.to_owned() }
        } else if release != version {
            Self::Foreign { release: release.to_owned() }
        } else if found > expected {
            Self::Newer { found }
        } else if row.get::<_, &[u8]>(1) != hash {
            Self::OtherFunctions
        } else {
            Self::Current
        }
    }
}

/// Refuses a database that this program cannot work with.
///
/// # Errors
/// Such a database, or one that does not answer.
pub async fn expect_current(database: &Database) -> anyhow::Result<()> {
    match state(database).await.context("cannot use the database (was `postern migrate` run on it?)")? {
        SchemaState::Current => {}
        SchemaState::OtherFunctions => {
            tracing::warn!(
                "the functions in the database are another version's: if this program is the newer one, run `postern migrate`"
            );
        }
        SchemaState::Newer { found } => {
            tracing::warn!(
                "the database is at migration {found}, newer than this program, which may not work with it: use the program that migrated it"
            );
        }
        SchemaState::Following { release } => {
            tracing::warn!(
                "the database is of {release}, which works with this program until the release after: replace it"
            );
        }
        SchemaState::Foreign { release } => bail!("{}", foreign(&release)),
        SchemaState::Older { found, expected } => {
            bail!(
                "the database is at migration {found}, this program needs {expected}: run `postern migrate`"
            )
        }
    }
    Ok(())
}

/// Says what is wrong with a database of another release, and how to mend it.
pub fn foreign(release: &str) -> String {
    let version = Release::of_this_process().version();
    match release.parse::<Version>().is_ok_and(|release| version < release) {
        true => format!(
            "the database is of {release}, which does not keep what this program, of {version}, calls: start {release}"
        ),
        false => {
            format!("the database is of {release}, this program is of {version}: run `postern migrate`")
        }
    }
}
