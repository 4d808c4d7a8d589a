//! Removed devices of this user: out of its groups they go, too, and what they know lets nobody in any more (AS-13).
//! Owns the table `evictions`.

use std::collections::BTreeMap;

use postern_protocol::{PublicKey, ds::GroupId};
use rusqlite::params;

use super::{Change, handover, links, record, rules, state::GroupState};
use crate::{
    error::{Error, Result},
    store::{Tx, fixed},
};

/// Has a device that was removed from this user removed from all groups, and the user's key in each replaced, which
/// the device may know though it is not there: the first of the user's devices to commit does it.
pub(crate) fn remove_own_device(tx: &Tx<'_>, client_key: &PublicKey) -> Result<()> {
    tx.sql().execute("DELETE FROM told_devices WHERE client_key = ?1", [client_key.as_bytes()])?;
    for id in record::active(tx)? {
        let generation = GroupState::load(tx, &id)?.user_key().map_or(0, |key| key.generation);
        let sql = "INSERT OR IGNORE INTO evictions (group_id, client_key, generation) VALUES (?1, ?2, ?3)";
        tx.sql().execute(sql, params![id.to_mls(), client_key.as_bytes(), generation])?;
    }
    Ok(())
}

/// The groups that a removed device may be in yet, or come into.
pub(crate) fn evictions(tx: &Tx<'_>) -> Result<Vec<GroupId>> {
    let mut statement = tx.sql().prepare_cached("SELECT DISTINCT group_id FROM evictions")?;
    let ids = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<Vec<u8>>, _>>()?;
    ids.iter().map(|id| GroupId::from_mls(id).map_err(|_| Error::Damaged("a group id"))).collect()
}

/// The next change that shuts them out of a group: they are removed as far as they are in it, and the user gets a key
/// that they do not know. `None` if both is done.
pub(crate) fn evict(tx: &Tx<'_>, group: &GroupState) -> Result<Option<Change>> {
    let mut statement =
        tx.sql().prepare_cached("SELECT client_key, generation FROM evictions WHERE group_id = ?1")?;
    let rows = statement
        .query_map([group.id.to_mls()], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<Vec<(Vec<u8>, u32)>, _>>()?;
    let removed: Vec<PublicKey> = rows.iter().map(|(key, _)| fixed(key, "a key")).collect::<Result<_>>()?;
    let Some(known) = rows.iter().map(|(_, generation)| *generation).max() else { return Ok(None) };
    let mut leaves = handover::own_leaves_to_go(tx, group, &removed)?;
    if group.is_admin(&group.leaf.public_key()) {
        leaves.extend(places_of(tx, group, &removed)?);
    }
    if !leaves.is_empty() {
        return Ok(Some(Change::Remove(leaves)));
    }
    let knows = group.user_key().is_none_or(|key| key.generation <= known);
    Ok(knows.then_some(Change::UserKey))
}

/// The leaves of these devices of this user that were added as users of their own, in places that they share with
/// nobody else.
pub(super) fn places_of(tx: &Tx<'_>, group: &GroupState, devices: &[PublicKey]) -> Result<Vec<PublicKey>> {
    let own = group.own_leaf()?.pseudonym;
    let mut places = BTreeMap::new();
    for leaf in rules::leaves(&group.mls).into_values().filter(|leaf| leaf.pseudonym != own) {
        let link = links::link(tx, &group.id, &leaf.leaf_key)?;
        let claim = link.and_then(|link| link.claim(&group.id, &leaf.leaf_key));
        let (leaves, is_theirs) = places.entry(leaf.pseudonym).or_insert((Vec::new(), true));
        leaves.push(leaf.leaf_key);
        *is_theirs &= claim.is_some_and(|claim| devices.contains(&claim.client_key));
    }
    Ok(places.into_values().filter(|(_, is_theirs)| *is_theirs).flat_map(|(leaves, _)| leaves).collect())
}

/// No removed device is in a group any more or can come in, or this device cannot change that.
pub(crate) fn evicted(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    tx.sql().execute("DELETE FROM evictions WHERE group_id = ?1", [id.to_mls()])?;
    Ok(())
}
