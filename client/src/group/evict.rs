//! Removed devices of this user: out of its groups they go, too. Owns the table `evictions`.

use postern_protocol::{PublicKey, ds::GroupId};
use rusqlite::params;

use super::{Change, handover, record, state::GroupState};
use crate::{
    error::{Error, Result},
    store::{Tx, fixed},
};

/// Has a device that was removed from this user removed from all groups: in each, the first of the
/// user's devices to commit does it, and gives the user another key.
pub(crate) fn remove_own_device(tx: &Tx<'_>, client_key: &PublicKey) -> Result<()> {
    tx.sql().execute("DELETE FROM told_devices WHERE client_key = ?1", [client_key.as_bytes()])?;
    for id in record::active(tx)? {
        let sql = "INSERT OR IGNORE INTO evictions (group_id, client_key) VALUES (?1, ?2)";
        tx.sql().execute(sql, params![id.to_mls(), client_key.as_bytes()])?;
    }
    Ok(())
}

/// The groups that a removed device may be in yet.
pub(crate) fn evictions(tx: &Tx<'_>) -> Result<Vec<GroupId>> {
    let mut statement = tx.sql().prepare_cached("SELECT DISTINCT group_id FROM evictions")?;
    let ids = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<Vec<u8>>, _>>()?;
    ids.iter().map(|id| GroupId::from_mls(id).map_err(|_| Error::Damaged("a group id"))).collect()
}

/// The change that removes them from a group; `None` if they are not in it.
pub(crate) fn evict(tx: &Tx<'_>, group: &GroupState) -> Result<Option<Change>> {
    let mut statement = tx.sql().prepare_cached("SELECT client_key FROM evictions WHERE group_id = ?1")?;
    let removed =
        statement.query_map([group.id.to_mls()], |row| row.get(0))?.collect::<Result<Vec<Vec<u8>>, _>>()?;
    let removed: Vec<PublicKey> = removed.iter().map(|key| fixed(key, "a key")).collect::<Result<_>>()?;
    if removed.is_empty() {
        return Ok(None);
    }
    let leaves = handover::own_leaves_to_go(tx, group, &removed)?;
    Ok((!leaves.is_empty()).then_some(Change::Remove(leaves)))
}

/// No removed device is in a group any more, or this one cannot change that.
pub(crate) fn evicted(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    tx.sql().execute("DELETE FROM evictions WHERE group_id = ?1", [id.to_mls()])?;
    Ok(())
}
