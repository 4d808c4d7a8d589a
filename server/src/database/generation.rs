//! The generation of a database (QS-12): after it was restored to an earlier state, another one has to begin before a
//! server uses it, or clients are ahead of their queues and spent tokens pay once more. A database that was restored or
//! promoted by hand is noticed by its cluster and timeline.

use anyhow::bail;
use tokio_postgres::{
    Client, Row,
    types::{ToSql, Type},
};

use super::{
    Database, DatabaseError, SqlOutcome, outcome,
    witness::{DECIDE, PUT_BACK, Seen, Witness},
};

const UNDECIDED: &str = "SELECT undecided FROM operator.current_generation()";
const OF_SESSION: &str = "SELECT undecided, decided, mark FROM operator.current_mark($1)";
/// Tells whether the database accepts what is written.
pub const TAKES_CHANGES: &str = "SELECT outcome FROM operator.takes_changes()";

/// The generation, as far as this database says. `operator.health` has the same words for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Generation {
    Decided,
    /// Another timeline: the promotion of a standby that commits waited for. Most likely nothing was lost.
    OtherTimeline,
    /// Another timeline: a recovery, or the promotion of a standby that may lack something.
    Earlier,
    /// Another cluster: a dump was restored.
    OtherCluster,
    /// There is none: a restore did not come to its end.
    Missing,
}

/// The setting of a database that is being restored: the backup's id and, after a space, what was there before; or the id and
/// [`BEGUN`] once nothing is missing.
pub const RESTORING: &str = "postern_restore.unfinished";
/// The end of [`RESTORING`]'s value once another generation has begun after the restore.
pub const BEGUN: &str = " begun";

const OTHER_TIMELINE: &str =
    "the database was recovered or promoted: it may lack what came last, tokens that were spent among it";
const EARLIER: &str = "the database was recovered up to an earlier moment, or promoted though commits had not waited for it: clients are ahead of it";
const OTHER_CLUSTER: &str = "the database was restored from a dump, and clients are ahead of it";
const MISSING: &str = "the database is not whole: a restore did not come to its end";
/// The way out of [`Generation::Missing`].
const AGAIN: &str = "restore into an empty database once more";

outcome! {
    pub TakesChangesOutcome: "operator.takes_changes_outcome" {
        Yes = "yes",
        Standby = "standby",
        CommitsWait = "commits_wait",
    }
}

impl Generation {
    async fn of(database: &Database) -> Result<Self, DatabaseError> {
        Ok(Self::from(database.query_opt(UNDECIDED, &[]).await?.as_ref()))
    }

    /// The reason for which no server works with the database.
    fn refusal(self) -> Option<&'static str> {
        match self {
            Self::Decided | Self::OtherTimeline => None,
            Self::Earlier => Some(EARLIER),
            Self::OtherCluster => Some(OTHER_CLUSTER),
            Self::Missing => Some(MISSING),
        }
    }
}

impl From<Option<&Row>> for Generation {
    fn from(row: Option<&Row>) -> Self {
        match row.map(|row| row.get("undecided")) {
            None => Self::Missing,
            Some("no") => Self::Decided,
            Some("timeline") => Self::OtherTimeline,
            Some("recovered") => Self::Earlier,
            Some(_) => Self::OtherCluster,
        }
    }
}

/// Reads what tells a database that is being restored from a whole one: the value of [`RESTORING`], empty without it, and
/// whether there is a generation, whose row is the last that a restore brings. That is none without a table of generations.
///
/// # Errors
/// A database that does not answer.
pub async fn marks_of_restore(client: &Client) -> Result<(String, Option<bool>), tokio_postgres::Error> {
    let marks = format!(
        "SELECT coalesce(current_setting('{RESTORING}', true), ''), to_regclass('operator.generation') IS NOT NULL"
    );
    let row = client.query_one(&marks, &[]).await?;
    let (mark, has_table): (String, bool) = (row.get(0), row.get(1));
    if !has_table {
        return Ok((mark, None));
    }
    let row = client.query_one("SELECT EXISTS (SELECT FROM operator.generation)", &[]).await?;
    Ok((mark, Some(row.get(0))))
}

/// Refuses a database that was restored, or recovered up to an earlier moment, without another generation. One that was
/// promoted, and that each commit had waited for, goes on with a warning: it has everything, and nobody may be awake.
///
/// # Errors
/// The way to mend it, or a database that does not answer.
pub async fn expect_decided(database: &Database) -> anyhow::Result<()> {
    let generation = Generation::of(database).await?;
    match generation.refusal() {
        Some(MISSING) => bail!("{MISSING}: {AGAIN}"),
        Some(reason) => bail!("{reason}: {DECIDE}"),
        None if generation == Generation::OtherTimeline => tracing::warn!("{OTHER_TIMELINE}: {DECIDE}"),
        None => {}
    }
    Ok(())
}

/// Refuses a standby, on which no server can start. After its promotion one can.
///
/// # Errors
/// The way to mend it, or a database that does not answer.
pub async fn expect_primary(database: &Database) -> anyhow::Result<()> {
    match TakesChangesOutcome::of(&database.query_one(TAKES_CHANGES, &[]).await?)? {
        TakesChangesOutcome::Standby => bail!(
            "the database is a standby, and takes no changes: name the primary in database.url (of several hosts, target_session_attrs=read-write finds it), or promote it"
        ),
        TakesChangesOutcome::Yes | TakesChangesOutcome::CommitsWait => Ok(()),
    }
}

/// Notes in the database whether commits wait for its standbys, and ends the sessions to one that was put back while this
/// process ran: new ones are refused until the operator has decided.
///
/// # Errors
/// A database that does not answer.
pub async fn look(database: &Database) -> anyhow::Result<()> {
    if Generation::of(database).await?.refusal().is_some() {
        database.end_sessions();
        return Ok(());
    }
    database.query_one("SELECT operator.note_standbys()", &[]).await?;
    Ok(())
}

/// The reason of [`refusal`] that an error's text is, if it is one.
pub(super) fn reason_of(text: &str) -> Option<&'static str> {
    [EARLIER, OTHER_CLUSTER, PUT_BACK, MISSING].into_iter().find(|reason| *reason == text)
}

/// The reason for which a new session is of no use to a server. None also for a database that does not tell. The question is
/// one round trip.
pub(super) async fn refusal(client: &Client, witness: Option<&Witness>) -> Option<&'static str> {
    let before = match witness {
        Some(witness) => witness.seen().await,
        None => None,
    };
    let id = before.as_ref().and_then(Seen::id);
    let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&id, Type::BYTEA)];
    let row = client.query_typed_opt(OF_SESSION, &parameters).await.ok()?;
    let refusal = Generation::from(row.as_ref()).refusal();
    if refusal.is_some() {
        return refusal;
    }
    let (witness, row) = (witness?, row?);
    let is_behind = witness.finds_behind(before.as_ref(), row.get("decided"), row.get("mark")).await;
    is_behind.then_some(PUT_BACK)
}

#[cfg(test)]
pub fn outcomes() -> Vec<outcome::Declared> {
    vec![outcome::declared::<TakesChangesOutcome>()]
}
