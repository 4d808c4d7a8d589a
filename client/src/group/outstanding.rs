//! Messages that were handed to the DS, or are about to be, with their answer outstanding. Owns the
//! table `submissions`.

use postern_protocol::{
    ds::{GroupId, SubmitMessage},
    encoding::Encoding,
};
use rusqlite::{OptionalExtension as _, params};

use super::message::ApplicationMessage;
use crate::{
    error::{Error, Result},
    key_packages,
    store::{Tx, decode, encode, integer},
};

/// A message and the answer that it waits for.
pub(crate) struct Outstanding {
    /// The epoch that it was made in.
    pub epoch: u64,
    /// A serialised [`SubmitMessage`]. The bytes are kept, so that a repeat is identical.
    pub body: Vec<u8>,
    /// Plaintext of an application message; absent for a commit.
    pub content: Option<ApplicationMessage>,
}

/// Keeps a message until its answer is known.
pub(super) fn keep(
    tx: &Tx<'_>,
    id: &GroupId,
    epoch: u64,
    submission: &SubmitMessage,
    content: Option<ApplicationMessage>,
) -> Result<Outstanding> {
    let body = Encoding::Cbor.encode(submission);
    tx.sql()
        .prepare_cached(
            "INSERT INTO submissions (group_id, is_commit, epoch, body, content)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            id.to_mls(),
            content.is_none(),
            integer(epoch),
            body,
            content.as_ref().map(encode)
        ])?;
    Ok(Outstanding { epoch, body, content })
}

/// The message of a group whose answer is outstanding, if any; a commit first.
pub(super) fn find(tx: &Tx<'_>, id: &GroupId) -> Result<Option<Outstanding>> {
    type Row = (u64, Vec<u8>, Option<Vec<u8>>);
    let row: Option<Row> = tx
        .sql()
        .prepare_cached(
            "SELECT epoch, body, content FROM submissions WHERE group_id = ?1
             ORDER BY is_commit DESC LIMIT 1",
        )?
        .query_row([id.to_mls()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    row.map(|(epoch, body, content)| {
        let content = content.map(|content| decode(&content, "a message")).transpose()?;
        Ok(Outstanding { epoch, body, content })
    })
    .transpose()
}

pub(super) fn forget_message(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    tx.sql()
        .prepare_cached("DELETE FROM submissions WHERE group_id = ?1 AND is_commit = 0")?
        .execute([id.to_mls()])?;
    Ok(())
}

/// Forgets a commit, and gives the KeyPackages back that it did not use.
pub(super) fn forget_commit(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    tx.sql().execute("DELETE FROM submissions WHERE group_id = ?1 AND is_commit = 1", [id.to_mls()])?;
    key_packages::end_reservations(tx, id)
}

/// The groups that wait for an answer of the DS.
pub(crate) fn unsettled(tx: &Tx<'_>) -> Result<Vec<GroupId>> {
    let mut statement = tx.sql().prepare_cached("SELECT DISTINCT group_id FROM submissions")?;
    let ids = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<Vec<u8>>, _>>()?;
    ids.iter().map(|id| GroupId::from_mls(id).map_err(|_| Error::Damaged("a group id"))).collect()
}
