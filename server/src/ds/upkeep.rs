//! The chore of the DS: it drops expired group ids, groups and Welcome trees (DS-1, DS-7, DS-11). `ds.clean_up` decides
//! which are; two processes at once do no harm.

use super::Ds;

/// # Errors
/// A database that does not answer.
pub async fn run(ds: &Ds) -> anyhow::Result<()> {
    ds.home.database.for_chores().query_one("SELECT ds.clean_up()", &[]).await?;
    Ok(())
}
