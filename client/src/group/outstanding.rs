//! Requests that were handed to the DS, or are about to be, with their answer outstanding. Owns the
//! table `submissions`.

use postern_protocol::ds::GroupId;
use rusqlite::{OptionalExtension as _, params};

use crate::{
    error::{Error, Result},
    key_packages,
    store::{Tx, integer},
};

/// The kind of an outstanding request. Those of one group are sent in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The founding of the group: a serialised `CreateGroup`. All others are `SubmitMessage`s.
    Creation,
    /// The external commit by which this device comes back.
    Rejoin,
    Commit,
    /// The proposal to leave.
    Leave,
    /// The first message in the outbox.
    Message,
}

/// A request and the answer that it waits for.
pub(crate) struct Outstanding {
    pub kind: Kind,
    /// The epoch that it was made in.
    pub epoch: u64,
    /// The request's body in CBOR. The bytes are kept, so that a repeat is identical.
    pub body: Vec<u8>,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Creation, Self::Rejoin, Self::Commit, Self::Leave, Self::Message];

    fn from_column(column: i64) -> Result<Self> {
        let kind = Self::ALL.into_iter().find(|kind| *kind as i64 == column);
        kind.ok_or(Error::Damaged("the kind of a request"))
    }
}

/// Keeps a request until its answer is known.
pub(super) fn keep(tx: &Tx<'_>, id: &GroupId, request: &Outstanding) -> Result<()> {
    tx.sql()
        .prepare_cached("INSERT INTO submissions (group_id, kind, epoch, body) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![id.to_mls(), request.kind as i64, integer(request.epoch), request.body])?;
    Ok(())
}

/// The request of a group that is to be sent first of those whose answer is outstanding.
pub(super) fn find(tx: &Tx<'_>, id: &GroupId) -> Result<Option<Outstanding>> {
    let row: Option<(i64, u64, Vec<u8>)> = tx
        .sql()
        .prepare_cached(
            "SELECT kind, epoch, body FROM submissions WHERE group_id = ?1 ORDER BY kind LIMIT 1",
        )?
        .query_row([id.to_mls()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    row.map(|(kind, epoch, body)| Ok(Outstanding { kind: Kind::from_column(kind)?, epoch, body })).transpose()
}

/// Whether the answer to a request of this kind is outstanding.
pub(super) fn holds(tx: &Tx<'_>, id: &GroupId, kind: Kind) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM submissions WHERE group_id = ?1 AND kind = ?2)";
    Ok(tx.sql().prepare_cached(sql)?.query_row(params![id.to_mls(), kind as i64], |row| row.get(0))?)
}

/// Forgets a request; with a commit's, gives the KeyPackages back that it did not use.
pub(super) fn forget(tx: &Tx<'_>, id: &GroupId, kind: Kind) -> Result<()> {
    tx.sql()
        .prepare_cached("DELETE FROM submissions WHERE group_id = ?1 AND kind = ?2")?
        .execute(params![id.to_mls(), kind as i64])?;
    if kind == Kind::Commit { key_packages::end_reservations(tx, id) } else { Ok(()) }
}

pub(super) fn forget_all(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    Kind::ALL.into_iter().try_for_each(|kind| forget(tx, id, kind))
}

/// The group of this title whose founding waits for its answer.
pub(crate) fn founding(tx: &Tx<'_>, title: &str) -> Result<Option<GroupId>> {
    let sql = "SELECT g.group_id FROM groups g JOIN submissions s ON s.group_id = g.group_id
                WHERE s.kind = ?1 AND g.title = ?2 ORDER BY g.rowid LIMIT 1";
    let id: Option<Vec<u8>> =
        tx.sql().query_row(sql, params![Kind::Creation as i64, title], |row| row.get(0)).optional()?;
    id.map(|id| GroupId::from_mls(&id).map_err(|_| Error::Damaged("a group id"))).transpose()
}

/// The groups that wait for an answer of the DS, or have something to say.
pub(crate) fn unsettled(tx: &Tx<'_>) -> Result<Vec<GroupId>> {
    let mut statement = tx.sql().prepare_cached(
        "SELECT group_id FROM submissions UNION SELECT group_id FROM outbox
         UNION SELECT group_id FROM groups WHERE leaving = 1 AND active = 1",
    )?;
    let ids = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<Vec<u8>>, _>>()?;
    ids.iter().map(|id| GroupId::from_mls(id).map_err(|_| Error::Damaged("a group id"))).collect()
}
