//! Removed devices of this user: out of its groups they go, too, and what they know lets nobody in any more (AS-13).
//! Owns the table `evictions`.

use std::time::Duration;

use postern_protocol::{PublicKey, credential::ClientCredential, ds::GroupId, problem::ProblemType};
use rusqlite::params;

use super::{
    Change, handover,
    places::{self, UserPlace},
    record,
    state::GroupState,
};
use crate::{
    error::{Error, Result},
    event::Event,
    identity,
    store::{Tx, fixed, integer},
};

/// The longest pause between two attempts, in seconds.
const LONGEST_PAUSE: u64 = 24 * 60 * 60;
/// The longest pause after an attempt that others' commits forestalled, in seconds: a removed device that goes on
/// committing puts its removal off by no more.
const LONGEST_PAUSE_FOR_OTHERS: u64 = 5 * 60;
/// The user is told once the group's rules have forbidden so many attempts: a first one may have been forbidden for what
/// this device could not know.
const TOLD_AFTER_REFUSALS: u32 = 2;
/// The user is told once so many attempts have failed, for whatever reason.
const TOLD_AFTER: u32 = 4;

/// Has a device that was removed from this user removed from all groups, and the user's key in each replaced, which
/// the device may know though it is not there: the first of the user's devices to commit does it.
pub(crate) fn remove_own_device(tx: &Tx<'_>, client_key: &PublicKey) -> Result<()> {
    tx.sql().execute("DELETE FROM told_devices WHERE client_key = ?1", [client_key.as_bytes()])?;
    for id in record::active(tx)? {
        let generation = GroupState::load(tx, &id)?.user_key().map_or(0, |key| key.generation);
        let sql =
            "INSERT OR IGNORE INTO evictions (group_id, client_key, generation, attempts, refusals, due)
                   VALUES (?1, ?2, ?3, 0, 0, 0)";
        tx.sql().execute(sql, params![id.to_mls(), client_key.as_bytes(), generation])?;
    }
    Ok(())
}

/// The groups that a removed device may be in yet, or come into, and where it is time to shut it out.
pub(crate) fn evictions(tx: &Tx<'_>) -> Result<Vec<GroupId>> {
    let sql = "SELECT DISTINCT group_id FROM evictions WHERE due NOT BETWEEN ?1 AND ?2";
    let mut statement = tx.sql().prepare_cached(sql)?;
    let ids = statement.query_map(tx.to_come(LONGEST_PAUSE), |row| row.get(0))?;
    let ids = ids.collect::<Result<Vec<Vec<u8>>, _>>()?;
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

/// The leaves in the places which these devices are in or were, added as users of their own, unless another device that this
/// user has is there. A removed device cannot stay by bringing in a leaf, with a name or without, also if it goes itself then:
/// nobody comes into a place but by those that are in it, and all of them go. So do another user's devices of whom one let it
/// in.
pub(super) fn places_of(tx: &Tx<'_>, group: &GroupState, devices: &[PublicKey]) -> Result<Vec<PublicKey>> {
    let own_devices = identity::own_devices(tx)?;
    let is_ours = |client: &ClientCredential| {
        own_devices.contains(&client.client_key) && !devices.contains(&client.client_key)
    };
    let mut places = places::of_others(tx, group)?;
    places.retain(|_, place| place.knows(devices) && !place.present().any(is_ours));
    Ok(places.into_values().flat_map(UserPlace::into_leaf_keys).collect())
}

/// Whether the DS found that the group's rules forbid what was to shut others out of it.
pub(super) fn was_refused(tx: &Tx<'_>, id: &GroupId) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM evictions WHERE group_id = ?1 AND refusals > 0)";
    Ok(tx.sql().prepare_cached(sql)?.query_row([id.to_mls()], |row| row.get(0))?)
}

/// An attempt failed for good. Another one comes later, since the removed devices read on, and may come in again. The user
/// is told once of each device: one that was removed later than another has had no failures yet, and is tried again soon.
pub(crate) fn eviction_failed(tx: &Tx<'_>, id: &GroupId, error: &Error) -> Result<()> {
    // Other refusals, such as one to a device that is out, say nothing about the key that the commit would have brought.
    let is_forbidden = error.refusal().is_some_and(|problem| problem.kind == ProblemType::PolicyViolation);
    let is_told = |attempts: u32, refusals: u32| attempts >= TOLD_AFTER || refusals >= TOLD_AFTER_REFUSALS;
    let mut tells = false;
    for (client_key, attempts, refusals) in failures(tx, id)? {
        let was_told = is_told(attempts, refusals);
        let (longest, most) = match error {
            // The pause after a failure of another kind gets no longer by it.
            Error::Contended(_) => (LONGEST_PAUSE_FOR_OTHERS, attempts.max(TOLD_AFTER)),
            _ => (LONGEST_PAUSE, u32::MAX),
        };
        let pause = 4u64.saturating_pow(attempts).min(longest);
        let due = integer(tx.now().saturating_add(pause));
        let attempts = attempts.saturating_add(1).min(most);
        let refusals = refusals.saturating_add(u32::from(is_forbidden));
        let sql = "UPDATE evictions SET attempts = ?3, refusals = ?4, due = ?5 WHERE group_id = ?1 AND client_key = ?2";
        tx.sql().execute(sql, params![id.to_mls(), client_key, attempts, refusals, due])?;
        tells |= !was_told && is_told(attempts, refusals);
    }
    if tells {
        Event::NotShutOut { group: id.clone(), reason: error.to_string() }.record(tx)?;
    }
    Ok(())
}

/// The removed devices that may be in a group, each with its attempts and refusals so far.
fn failures(tx: &Tx<'_>, id: &GroupId) -> Result<Vec<(Vec<u8>, u32, u32)>> {
    let sql = "SELECT client_key, attempts, refusals FROM evictions WHERE group_id = ?1";
    let mut statement = tx.sql().prepare_cached(sql)?;
    let rows = statement.query_map([id.to_mls()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// How long it is until the next attempt, of those whose time did not come before `since` (seconds since 1970).
pub(crate) fn next_eviction(tx: &Tx<'_>, since: u64) -> Result<Option<Duration>> {
    let sql = "SELECT min(due) FROM evictions WHERE due >= ?1";
    let due: Option<u64> = tx.sql().query_row(sql, [integer(since)], |row| row.get(0))?;
    Ok(due.map(|due| Duration::from_secs(due.saturating_sub(tx.now()))))
}

/// Ends the evictions from a group in which no removed device is any more, and into which none can come, or that this
/// device is not in.
pub(crate) fn evicted(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    let goes_on = match GroupState::find(tx, id) {
        Ok(Some(group)) => evict(tx, &group)?.is_some(),
        Ok(None) | Err(Error::NotMember) => false,
        Err(error) => return Err(error),
    };
    if !goes_on {
        tx.sql().execute("DELETE FROM evictions WHERE group_id = ?1", [id.to_mls()])?;
    }
    Ok(())
}
