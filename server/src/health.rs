//! The verdicts of `operator.health`, on the database and what it keeps for the servers, and one on this process's clock,
//! which is compared with the database's. `postern check`, `postern status` and the metrics tell of them.

use std::{
    cmp::Reverse,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use postern_protocol::signature::MAX_CLOCK_SKEW;
use tokio_postgres::Row;

use crate::{
    clock::span,
    database::{Database, DatabaseError, SqlOutcome, UnknownOutcome, outcome},
};

/// The item of the clock.
pub const CLOCK: &str = "server clock";

outcome! {
    pub Verdict: "operator.health_outcome" {
        Ok = "ok",
        Warning = "warning",
        Problem = "problem",
    }
}

impl Verdict {
    /// 0 if all is well, 1 for a warning, 2 for a problem: also the exit code of `postern status`, and a metric.
    pub fn severity(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warning => 1,
            Self::Problem => 2,
        }
    }
}

/// A verdict on one item, in words for the operator.
pub struct Line {
    pub item: String,
    pub verdict: Verdict,
    pub says: String,
    /// How to mend what is not well.
    pub mend: Option<String>,
}

/// The reason why there are no verdicts.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Verdict(#[from] UnknownOutcome),
}

/// The verdicts of one look.
pub struct Health {
    /// The verdict on each item, what needs somebody first.
    pub lines: Vec<Line>,
    /// Seconds by which this process's clock is ahead of the database's; below 0: behind.
    pub clock_offset: f64,
}

/// Looks at each item.
///
/// # Errors
/// A database that does not answer, or whose schema is another version's.
pub async fn look(database: &Database) -> Result<Health, HealthError> {
    let sql = "SELECT verdict, item, says, mend FROM operator.health()";
    let rows = database.query(sql, &[]).await?;
    let mut lines = rows.iter().map(line).collect::<Result<Vec<_>, _>>()?;
    let clock_offset = clock_offset(database).await?;
    lines.push(clock(clock_offset));
    // The database's own are in this order.
    lines.sort_by_key(|line| Reverse(line.verdict.severity()));
    Ok(Health { lines, clock_offset })
}

/// Compares the clocks, by the middle of the time that the question took.
async fn clock_offset(database: &Database) -> Result<f64, DatabaseError> {
    let before = since_1970();
    let row = database.query_one("SELECT extract(epoch FROM clock_timestamp())::float8", &[]).await?;
    let theirs: f64 = row.get(0);
    Ok(f64::midpoint(before, since_1970()) - theirs)
}

fn since_1970() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

/// The verdict on two clocks. One of them is wrong if they differ, and a server takes signatures by its own.
fn clock(offset: f64) -> Line {
    let bound = MAX_CLOCK_SKEW.as_secs_f64();
    let verdict = match offset.abs() {
        apart if apart >= bound => Verdict::Problem,
        apart if apart >= bound / 2.0 => Verdict::Warning,
        _ => Verdict::Ok,
    };
    let side = if offset < 0.0 { "behind" } else { "ahead of" };
    let says = match verdict {
        Verdict::Ok => "it is the database's time here".to_owned(),
        Verdict::Warning | Verdict::Problem => {
            format!("the clock here is {} {side} the database's", span(offset.abs()))
        }
    };
    let mend = "set the one right that is wrong (`timedatectl`): servers refuse requests whose signature is of another time than theirs";
    let mend = (verdict != Verdict::Ok).then(|| mend.to_owned());
    Line { item: CLOCK.to_owned(), verdict, says, mend }
}

fn line(row: &Row) -> Result<Line, HealthError> {
    let (verdict, item) = (Verdict::of(row)?, row.get("item"));
    Ok(Line { item, verdict, says: row.get("says"), mend: row.get("mend") })
}

#[cfg(test)]
pub fn outcomes() -> Vec<outcome::Declared> {
    vec![outcome::declared::<Verdict>()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_differ_are_told_before_signatures_are_refused_for_it() {
        const YEAR: f64 = 365.0 * 86400.0;
        for (offset, expected, says) in [
            (0.0, Verdict::Ok, "it is the database's time here"),
            (29.9, Verdict::Ok, "it is the database's time here"),
            (-31.0, Verdict::Warning, "the clock here is 31 seconds behind the database's"),
            (60.0, Verdict::Problem, "the clock here is 60 seconds ahead of the database's"),
            (-3.0 * 3600.0, Verdict::Problem, "the clock here is 3 hours behind the database's"),
            (YEAR, Verdict::Problem, "the clock here is 365 days ahead of the database's"),
        ] {
            let line = clock(offset);
            assert_eq!((line.verdict, line.says.as_str()), (expected, says));
            assert_eq!(line.mend.is_none(), expected == Verdict::Ok);
        }
    }
}
