//! A witness of the database's present state, in a file outside of it (QS-12). A snapshot of a disk, or a copy of the data
//! directory, that is put back is the same cluster on the same timeline, and whatever is written to it afterwards hides
//! that. So the database and the file share a random mark, another one each minute: one that was put back has an earlier
//! mark, and keeps it. A witness that is put back together with the database knows nothing.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    time::Duration,
};

use anyhow::ensure;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_postgres::Row;

use super::{Database, DatabaseError, SqlOutcome, UnknownOutcome, outcome};
use crate::files;

/// Said of a database that is behind its witness.
pub const PUT_BACK: &str = "the database was put back to an earlier state, as by a snapshot: it lacks what came last, tokens that were spent among it, and clients are ahead of it";
/// The way out where the operator has to decide.
pub const DECIDE: &str = "`postern generation begin` (SELECT operator.begin_generation()); if nothing at all was lost, `postern generation keep` (operator.keep_generation())";
/// Time between two marks: a rollback by less may go unnoticed.
const INTERVAL: Duration = Duration::from_secs(60);

outcome! {
    pub NoteMarkOutcome: "operator.note_mark_outcome" {
        Noted = "noted",
        Behind = "behind",
    }
}

/// The reason why a database has no other mark.
#[derive(Debug, thiserror::Error)]
pub enum NoteError {
    #[error("cannot write {0}: {1}")]
    File(PathBuf, #[source] io::Error),
    #[error(transparent)]
    Outcome(#[from] UnknownOutcome),
}

/// The contents of the file. Bytes are in hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    /// Id of the witness in the database, 16 bytes.
    witness: String,
    /// Marks of 16 bytes, one of which the database has: the one that it had, and the next, if that may have come in. Null:
    /// it may have none.
    marks: Vec<Option<String>>,
    /// Number of the operator's last decision about the generation. Those after it make any mark right.
    decided: i64,
}

/// The file that remembers the mark. Processes of one machine may share it.
#[derive(Debug, Clone)]
pub struct Witness(PathBuf);

fn random() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}

impl Seen {
    fn fresh() -> Self {
        Self { witness: random(), marks: vec![None], decided: 0 }
    }

    /// The witness's id. None in a file that is damaged.
    pub(super) fn id(&self) -> Option<Vec<u8>> {
        hex::decode(&self.witness).ok()
    }

    /// Whether a database with this decision and this mark is the one that was seen, or one that was decided about since. One
    /// without a number of decisions is new.
    fn knows(&self, decided: Option<i64>, mark: Option<&[u8]>) -> bool {
        let mark = mark.map(hex::encode);
        decided.is_none_or(|decided| decided > self.decided) || self.marks.contains(&mark)
    }
}

impl Witness {
    /// The witness in this file.
    pub fn new(file: PathBuf) -> Self {
        Self(file)
    }

    /// The contents of the file. One that is damaged counts as none.
    fn read(&self) -> Option<Seen> {
        serde_json::from_slice(&fs::read(&self.0).ok()?).ok()
    }

    /// Does something with the file on a thread of its own: a disk that is slow holds up nobody else.
    async fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let witness = self.clone();
        spawn_blocking(move || work(&witness)).await.map_err(io::Error::other)?
    }

    /// The contents of the file, as [`Self::read`] finds them.
    pub(super) async fn seen(&self) -> Option<Seen> {
        self.apart(|witness| Ok(witness.read())).await.ok().flatten()
    }

    /// Whether a database that had this mark after the file had said `before` was put back to an earlier state.
    pub(super) async fn finds_behind(
        &self,
        before: Option<&Seen>,
        decided: Option<i64>,
        mark: Option<&[u8]>,
    ) -> bool {
        let Some(before) = before else { return false };
        // Meanwhile there may have been another mark, in both.
        !before.knows(decided, mark) && self.seen().await.is_some_and(|now| !now.knows(decided, mark))
    }

    /// Whether a database was put back since the file was written last.
    ///
    /// # Errors
    /// A database that does not answer.
    pub async fn is_behind(&self, database: &Database) -> Result<bool, DatabaseError> {
        let before = self.seen().await;
        let id = before.as_ref().and_then(Seen::id);
        let row = database.query_opt("SELECT decided, mark FROM operator.current_mark($1)", &[&id]).await?;
        let Some(row) = row else { return Ok(false) };
        Ok(self.finds_behind(before.as_ref(), row.get("decided"), row.get("mark")).await)
    }

    /// Refuses a database that was put back since the file was written last, and gives it another mark: also a database that
    /// no server has used yet.
    ///
    /// # Errors
    /// The way to mend it, or a database that does not answer.
    pub async fn expect_not_behind(&self, database: &Database) -> anyhow::Result<()> {
        ensure!(!self.is_behind(database).await?, "{PUT_BACK}: {DECIDE}");
        // A reason that keeps it from being noted is told by what watches.
        let _told = self.note(database).await;
        Ok(())
    }

    /// Gives the database another mark from time to time, until the task is aborted.
    pub fn watch(&self, database: Database) -> JoinHandle<()> {
        let witness = self.clone();
        tokio::spawn(async move {
            let mut told = false;
            loop {
                if let Err(error) = witness.note(&database).await
                    && !std::mem::replace(&mut told, true)
                {
                    let unnoticed = "a snapshot that is put back goes unnoticed";
                    match error {
                        NoteError::File(..) => tracing::warn!("{unnoticed}: {error}"),
                        NoteError::Outcome(_) => tracing::error!("{unnoticed}: {error}"),
                    }
                }
                tokio::time::sleep(INTERVAL).await;
            }
        })
    }

    /// Gives the database another mark, and remembers it. That it does not answer is no error here: others tell of it.
    ///
    /// # Errors
    /// The file cannot be written; an outcome that this program does not know.
    pub async fn note(&self, database: &Database) -> Result<(), NoteError> {
        let unwritable = |error| NoteError::File(self.0.clone(), error);
        // Another process that is at it gives a mark as good.
        let begun = self.apart(Self::begin).await.map_err(unwritable)?;
        let Some((lock, mut seen)) = begun else { return Ok(()) };
        let Ok(row) = note(database, &seen).await else { return Ok(()) };
        match NoteMarkOutcome::of(&row)? {
            NoteMarkOutcome::Noted => {
                let decided: i64 = row.get("decision");
                let end = move |witness: &Self| {
                    let written = witness.write(&Seen { marks: seen.marks.split_off(1), decided, ..seen });
                    // The caller may be gone: others wait until it is written.
                    drop(lock);
                    written
                };
                self.apart(end).await.map_err(unwritable)
            }
            NoteMarkOutcome::Behind => {
                tracing::error!("{PUT_BACK}: {DECIDE}");
                database.end_sessions();
                Ok(())
            }
        }
    }

    /// Takes the lock, and writes the mark that the database is to have before it comes in: whatever happens, the file has
    /// the database's mark. None while another process is at it.
    fn begin(&self) -> io::Result<Option<(Flock<File>, Seen)>> {
        let Some(lock) = self.lock()? else { return Ok(None) };
        let mut seen = self.read().filter(|seen| seen.id().is_some()).unwrap_or_else(Seen::fresh);
        // One of which nobody knows whether it came in is tried again.
        if seen.marks.len() < 2 {
            seen.marks.push(Some(random()));
        }
        self.write(&seen)?;
        Ok(Some((lock, seen)))
    }

    fn lock(&self) -> io::Result<Option<Flock<File>>> {
        let file = self.0.with_added_extension("lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(file)?;
        Ok(Flock::lock(file, FlockArg::LockExclusiveNonblock).ok())
    }

    fn write(&self, seen: &Seen) -> io::Result<()> {
        files::replace(&self.0, &serde_json::to_vec(seen)?)
    }
}

/// Notes the last of the marks in the database.
async fn note(database: &Database, seen: &Seen) -> Result<Row, DatabaseError> {
    let bytes = |text: &String| hex::decode(text).unwrap_or_default();
    let known: Vec<Option<Vec<u8>>> = seen.marks.iter().map(|mark| mark.as_ref().map(bytes)).collect();
    database
        .query_one(
            "SELECT outcome, decision FROM operator.note_mark($1, $2, $3, $4)",
            &[&seen.id(), &known, &known.last().cloned().flatten(), &seen.decided],
        )
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(byte: u8) -> Option<String> {
        Some(hex::encode([byte; 16]))
    }

    #[test]
    fn a_database_with_neither_of_two_marks_is_behind_until_somebody_decides() {
        let seen = Seen { marks: vec![mark(1), mark(2)], decided: 7, ..Seen::fresh() };
        for (decided, byte, known) in [
            (7, Some(1), true),
            (7, Some(2), true),
            (7, Some(0), false),
            (7, None, false),
            (6, Some(0), false),
            (8, None, true),
        ] {
            let decided = Some(decided);
            let mark = byte.map(|byte: u8| [byte; 16]);
            assert_eq!(
                seen.knows(decided, mark.as_ref().map(<[u8; 16]>::as_slice)),
                known,
                "{decided:?} {byte:?}"
            );
        }
        assert!(seen.knows(None, None), "no server has used the database");
        assert!(Seen::fresh().knows(Some(0), None), "nothing was noted yet");
    }

    #[tokio::test]
    async fn a_mark_that_came_meanwhile_is_no_earlier_one() {
        let dir = tempfile::tempdir().unwrap();
        let witness = Witness::new(dir.path().join("witness"));
        let before = Seen { marks: vec![mark(1)], ..Seen::fresh() };
        witness.write(&Seen { marks: vec![mark(2)], ..before.clone() }).unwrap();
        for (before, byte, expected) in [
            (Some(&before), 2_u8, false),
            (Some(&before), 1, false),
            (Some(&before), 0, true),
            // No file says anything.
            (None, 0, false),
        ] {
            let mark = [byte; 16];
            assert_eq!(witness.finds_behind(before, Some(0), Some(&mark)).await, expected, "{byte}");
        }
    }
}
