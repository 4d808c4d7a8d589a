//! The client's knowledge of each group apart from its MLS state. Owns the table `groups`.

use postern_protocol::{PublicKey, ds::GroupId};
use rusqlite::{OptionalExtension as _, params};

use crate::{
    error::{Error, Result},
    store::{Tx, integer},
};

/// Numbers of titles for each epoch of a group.
const TITLES: u64 = 1 << 20;

/// A group this client is or was in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSummary {
    pub id: GroupId,
    /// Empty until this device was told.
    pub title: String,
    /// Whether this device is still in it.
    pub active: bool,
}

/// When this device's turn to commit in a group comes.
pub(super) struct Turn {
    pub id: GroupId,
    pub leaf_key: PublicKey,
    /// Seconds since 1970.
    pub committed: u64,
    /// Seconds since 1970; `None` if nothing waits.
    pub proposed: Option<u64>,
}

/// Begins a membership under a leaf key. Numbers of messages go on from those of an earlier one: a
/// KeyPackage of last resort may bring the same leaf key again, whose numbers members remember. What is left to compare stays
/// where this device only moves.
pub(super) fn insert(tx: &Tx<'_>, id: &GroupId, title: &str, leaf_key: &PublicKey) -> Result<()> {
    tx.sql().execute(
        "INSERT INTO groups (group_id, title, leaf_key, active, introduce, next_number, committed)
         VALUES (?1, ?2, ?3, 1, 0, 1, ?4)
         ON CONFLICT (group_id) DO UPDATE
         SET title = excluded.title, titled = 0, leaf_key = excluded.leaf_key, active = 1, entering = 0,
             blocked = 0, introduce = 0, committed = excluded.committed, attributes_key = NULL,
             attributes = x'', proposed = NULL, leaving = 0, successor = NULL, server_key = NULL",
        params![id.to_mls(), title, leaf_key.as_bytes(), integer(tx.now())],
    )?;
    Ok(())
}

/// Notes that this device is on its way into the group, or `moves` in it from one place to another.
pub(super) fn set_entering(tx: &Tx<'_>, id: &GroupId, moves: bool) -> Result<()> {
    let entering = if moves { 2 } else { 1 };
    tx.sql()
        .execute("UPDATE groups SET entering = ?2 WHERE group_id = ?1", params![id.to_mls(), entering])?;
    Ok(())
}

/// Notes that this device is in the group.
pub(super) fn entered(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    tx.sql().execute("UPDATE groups SET entering = 0 WHERE group_id = ?1", [id.to_mls()])?;
    Ok(())
}

/// Whether this device is on its way from one place in the group to another.
pub(super) fn is_moving(tx: &Tx<'_>, id: &GroupId) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM groups WHERE group_id = ?1 AND active = 1 AND entering = 2)";
    Ok(tx.sql().query_row(sql, [id.to_mls()], |row| row.get(0))?)
}

/// Whether the DS has not accepted yet that this device comes in.
pub(crate) fn is_entering(tx: &Tx<'_>, id: &GroupId) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM groups WHERE group_id = ?1 AND active = 1 AND entering > 0)";
    Ok(tx.sql().prepare_cached(sql)?.query_row([id.to_mls()], |row| row.get(0))?)
}

/// Notes that this device is out by its user's will, and is not to come in again by itself.
pub(super) fn block(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    tx.sql().execute("UPDATE groups SET blocked = 1 WHERE group_id = ?1", [id.to_mls()])?;
    Ok(())
}

/// Notes that all that the DS took before this epoch began has come here.
pub(super) fn set_arrived(tx: &Tx<'_>, id: &GroupId, epoch: u64) -> Result<()> {
    tx.sql()
        .prepare_cached("UPDATE groups SET arrived = ?2 WHERE group_id = ?1")?
        .execute(params![id.to_mls(), integer(epoch)])?;
    Ok(())
}

/// The epoch before which all that the DS took has come here.
pub(super) fn arrived(tx: &Tx<'_>, id: &GroupId) -> Result<u64> {
    let sql = "SELECT arrived FROM groups WHERE group_id = ?1";
    Ok(tx.sql().prepare_cached(sql)?.query_row([id.to_mls()], |row| row.get(0))?)
}

/// Notes what is left to compare with what other devices of the user tell of the group.
pub(super) fn set_comparison(tx: &Tx<'_>, id: &GroupId, comparison: &[u8]) -> Result<()> {
    let sql = "UPDATE groups SET comparison = ?2 WHERE group_id = ?1";
    tx.sql().execute(sql, params![id.to_mls(), comparison])?;
    Ok(())
}

/// The rest that is to be compared of the group with what other devices of the user tell; `None`: nothing was noted.
pub(super) fn comparison(tx: &Tx<'_>, id: &GroupId) -> Result<Option<Vec<u8>>> {
    let sql = "SELECT comparison FROM groups WHERE group_id = ?1";
    Ok(tx.sql().prepare_cached(sql)?.query_row([id.to_mls()], |row| row.get(0))?)
}

/// Whether this device left the group by its user's will.
pub(super) fn is_blocked(tx: &Tx<'_>, id: &GroupId) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM groups WHERE group_id = ?1 AND blocked = 1)";
    Ok(tx.sql().query_row(sql, [id.to_mls()], |row| row.get(0))?)
}

/// The membership is over.
pub(super) fn deactivate(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    let sql = "UPDATE groups SET active = 0, committed = ?2, comparison = NULL WHERE group_id = ?1";
    tx.sql().execute(sql, params![id.to_mls(), integer(tx.now())])?;
    Ok(())
}

pub(super) fn delete(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    tx.sql().execute("DELETE FROM groups WHERE group_id = ?1", [id.to_mls()])?;
    Ok(())
}

/// The leaf key of this device in a group, and whether it is still a member.
pub(super) fn find(tx: &Tx<'_>, id: &GroupId) -> Result<Option<(PublicKey, bool)>> {
    let row: Option<([u8; 32], bool)> = tx
        .sql()
        .prepare_cached("SELECT leaf_key, active FROM groups WHERE group_id = ?1")?
        .query_row([id.to_mls()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(row.map(|(leaf_key, active)| (PublicKey::new(leaf_key), active)))
}

/// The title; empty until it was told.
pub(crate) fn title(tx: &Tx<'_>, id: &GroupId) -> Result<String> {
    let sql = "SELECT title FROM groups WHERE group_id = ?1";
    Ok(tx.sql().query_row(sql, [id.to_mls()], |row| row.get(0))?)
}

/// The title and its number; empty and 0 until it was told.
pub(super) fn numbered_title(tx: &Tx<'_>, id: &GroupId) -> Result<(String, u64)> {
    let sql = "SELECT title, titled FROM groups WHERE group_id = ?1";
    Ok(tx.sql().query_row(sql, [id.to_mls()], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

/// Notes that this device wants to leave, or that it does not any more.
pub(super) fn set_leaving(tx: &Tx<'_>, id: &GroupId, leaving: bool) -> Result<()> {
    tx.sql().execute("UPDATE groups SET leaving = ?2 WHERE group_id = ?1", params![id.to_mls(), leaving])?;
    Ok(())
}

/// Whether this device wants to leave.
pub(super) fn is_leaving(tx: &Tx<'_>, id: &GroupId) -> Result<bool> {
    let sql = "SELECT leaving FROM groups WHERE group_id = ?1";
    Ok(tx.sql().query_row(sql, [id.to_mls()], |row| row.get(0))?)
}

/// Notes the group that is founded in place of this one.
pub(crate) fn set_successor(tx: &Tx<'_>, id: &GroupId, successor: &GroupId) -> Result<()> {
    let sql = "UPDATE groups SET successor = ?2 WHERE group_id = ?1";
    tx.sql().execute(sql, params![id.to_mls(), successor.to_mls()])?;
    Ok(())
}

/// The group that is founded in place of this one, if its founding was begun and not refused.
pub(crate) fn successor(tx: &Tx<'_>, id: &GroupId) -> Result<Option<GroupId>> {
    let sql = "SELECT s.group_id FROM groups g JOIN groups s ON s.group_id = g.successor AND s.active = 1
                WHERE g.group_id = ?1";
    let successor: Option<Vec<u8>> = tx.sql().query_row(sql, [id.to_mls()], |row| row.get(0)).optional()?;
    successor.map(|id| id_of(&id)).transpose()
}

/// Notes the external sender's key that the server wants the group to have; `None`: the one that it has.
pub(super) fn set_server_key(tx: &Tx<'_>, id: &GroupId, key: Option<&PublicKey>) -> Result<()> {
    let key = key.map(PublicKey::as_bytes);
    tx.sql()
        .prepare_cached("UPDATE groups SET server_key = ?2 WHERE group_id = ?1")?
        .execute(params![id.to_mls(), key])?;
    Ok(())
}

/// The external sender's key that the server wants the group to have.
pub(super) fn server_key(tx: &Tx<'_>, id: &GroupId) -> Result<Option<PublicKey>> {
    let sql = "SELECT server_key FROM groups WHERE group_id = ?1";
    let key: Option<[u8; 32]> = tx.sql().prepare_cached(sql)?.query_row([id.to_mls()], |row| row.get(0))?;
    Ok(key.map(PublicKey::new))
}

/// Notes the generation of a key that the user has in a group.
pub(super) fn note_user_generation(tx: &Tx<'_>, id: &GroupId, generation: u32) -> Result<()> {
    tx.sql()
        .prepare_cached(
            "UPDATE groups SET user_generation = max(ifnull(user_generation, 0), ?2) WHERE group_id = ?1",
        )?
        .execute(params![id.to_mls(), generation])?;
    Ok(())
}

/// The highest generation of the keys that the user had in a group, as far as this device saw it.
pub(super) fn user_generation(tx: &Tx<'_>, id: &GroupId) -> Result<Option<u32>> {
    let sql = "SELECT user_generation FROM groups WHERE group_id = ?1";
    Ok(tx.sql().prepare_cached(sql)?.query_row([id.to_mls()], |row| row.get(0)).optional()?.flatten())
}

/// Whether a leaf is this device's.
pub(super) fn is_own(tx: &Tx<'_>, id: &GroupId, leaf_key: &PublicKey) -> Result<bool> {
    Ok(tx
        .sql()
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM groups WHERE group_id = ?1 AND leaf_key = ?2)")?
        .query_row(params![id.to_mls(), leaf_key.as_bytes()], |row| row.get(0))?)
}

/// Whether this client acts under a leaf key in any group.
pub(crate) fn is_leaf_key_in_use(tx: &Tx<'_>, leaf_key: &PublicKey) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM groups WHERE leaf_key = ?1 AND active = 1)";
    Ok(tx.sql().prepare_cached(sql)?.query_row([leaf_key.as_bytes()], |row| row.get(0))?)
}

/// All groups, those that this device is in first.
pub(crate) fn summaries(tx: &Tx<'_>) -> Result<Vec<GroupSummary>> {
    let mut statement =
        tx.sql().prepare("SELECT group_id, title, active FROM groups ORDER BY active DESC, rowid")?;
    let rows = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<Vec<(Vec<u8>, String, bool)>, _>>()?;
    rows.into_iter().map(|(id, title, active)| Ok(GroupSummary { id: id_of(&id)?, title, active })).collect()
}

/// The groups that this device is in.
pub(crate) fn active(tx: &Tx<'_>) -> Result<Vec<GroupId>> {
    ids(tx, "SELECT group_id FROM groups WHERE active = 1 AND entering = 0")
}

/// The groups whose new members wait for an introduction by this device.
pub(super) fn unintroduced(tx: &Tx<'_>) -> Result<Vec<GroupId>> {
    ids(tx, "SELECT group_id FROM groups WHERE introduce = 1 AND active = 1 AND entering = 0")
}

/// Notes that this device added members.
pub(super) fn introduce(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    tx.sql().execute("UPDATE groups SET introduce = 1 WHERE group_id = ?1", [id.to_mls()])?;
    Ok(())
}

/// Ends the wait for an introduction. False if nobody waits.
pub(super) fn introduced(tx: &Tx<'_>, id: &GroupId) -> Result<bool> {
    let sql = "UPDATE groups SET introduce = 0 WHERE group_id = ?1 AND introduce = 1";
    Ok(tx.sql().execute(sql, [id.to_mls()])? == 1)
}

/// The highest number that a title has which is given in an epoch. Each epoch has room for later ones than any before it:
/// no admin's device that is to be removed uses the numbers up.
pub(super) fn latest_title(epoch: u64) -> u64 {
    epoch.saturating_add(1).saturating_mul(TITLES)
}

/// Sets the title, which was given in an epoch, if its number is greater than the one before; of two with one number, which
/// two admins gave at once, the greater text counts, everywhere. False if the group is called as before.
pub(super) fn retitle(tx: &Tx<'_>, id: &GroupId, title: &str, number: u64, epoch: u64) -> Result<bool> {
    let (old, old_number) = numbered_title(tx, id)?;
    let number = number.min(latest_title(epoch));
    if (number, title) <= (old_number, old.as_str()) {
        return Ok(false);
    }
    let sql = "UPDATE groups SET title = ?2, titled = ?3 WHERE group_id = ?1";
    tx.sql().execute(sql, params![id.to_mls(), title, integer(number)])?;
    Ok(title != old)
}

/// The number of this device's next application message, which no other message gets.
pub(super) fn take_number(tx: &Tx<'_>, id: &GroupId) -> Result<u64> {
    Ok(tx
        .sql()
        .prepare_cached(
            "UPDATE groups SET next_number = next_number + 1 WHERE group_id = ?1
             RETURNING next_number - 1",
        )?
        .query_row([id.to_mls()], |row| row.get(0))?)
}

/// Nothing waits, and this device's own keys are new.
pub(super) fn committed(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    let sql = "UPDATE groups SET committed = ?2, proposed = NULL WHERE group_id = ?1";
    tx.sql().prepare_cached(sql)?.execute(params![id.to_mls(), integer(tx.now())])?;
    Ok(())
}

/// Makes it time for this device to commit in all of its groups.
pub(super) fn commit_everywhere(tx: &Tx<'_>) -> Result<()> {
    tx.sql().execute("UPDATE groups SET committed = 0 WHERE active = 1", [])?;
    Ok(())
}

/// Something waits for a commit that nobody else can make: it is this device's turn.
pub(super) fn urgent(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    tx.sql().execute("UPDATE groups SET proposed = 0 WHERE group_id = ?1", [id.to_mls()])?;
    Ok(())
}

/// Something waits for a commit, from now on if nothing did before.
pub(super) fn proposed(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    let sql = "UPDATE groups SET proposed = ifnull(proposed, ?2) WHERE group_id = ?1";
    tx.sql().execute(sql, params![id.to_mls(), integer(tx.now())])?;
    Ok(())
}

/// Another member committed: nothing waits.
pub(super) fn settled(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    tx.sql().execute("UPDATE groups SET proposed = NULL WHERE group_id = ?1", [id.to_mls()])?;
    Ok(())
}

/// When this device's turn comes in each group that it is in.
pub(super) fn turns(tx: &Tx<'_>) -> Result<Vec<Turn>> {
    type Row = (Vec<u8>, [u8; 32], u64, Option<u64>);
    let mut statement = tx.sql().prepare_cached(
        "SELECT group_id, leaf_key, committed, proposed FROM groups WHERE active = 1 AND entering = 0",
    )?;
    let rows = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
        .collect::<Result<Vec<Row>, _>>()?;
    rows.into_iter()
        .map(|(id, leaf_key, committed, proposed)| {
            Ok(Turn { id: id_of(&id)?, leaf_key: PublicKey::new(leaf_key), committed, proposed })
        })
        .collect()
}

/// Keeps what opens the attributes of leaves. The first key that this device was told counts: a
/// member cannot take away what it has.
pub(super) fn keep_attributes_key(tx: &Tx<'_>, id: &GroupId, key: &[u8; 32]) -> Result<()> {
    tx.sql().execute(
        "UPDATE groups SET attributes_key = ifnull(attributes_key, ?2) WHERE group_id = ?1",
        params![id.to_mls(), key],
    )?;
    Ok(())
}

pub(super) fn attributes_key(tx: &Tx<'_>, id: &GroupId) -> Result<Option<[u8; 32]>> {
    let sql = "SELECT attributes_key FROM groups WHERE group_id = ?1";
    Ok(tx.sql().query_row(sql, [id.to_mls()], |row| row.get(0))?)
}

/// The application's attributes of this device's leaf.
pub(super) fn attributes(tx: &Tx<'_>, id: &GroupId) -> Result<Vec<u8>> {
    let sql = "SELECT attributes FROM groups WHERE group_id = ?1";
    Ok(tx.sql().query_row(sql, [id.to_mls()], |row| row.get(0))?)
}

pub(super) fn set_attributes(tx: &Tx<'_>, id: &GroupId, content: &[u8]) -> Result<()> {
    tx.sql()
        .execute("UPDATE groups SET attributes = ?2 WHERE group_id = ?1", params![id.to_mls(), content])?;
    Ok(())
}

fn ids(tx: &Tx<'_>, sql: &str) -> Result<Vec<GroupId>> {
    let mut statement = tx.sql().prepare_cached(sql)?;
    let ids = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<Vec<u8>>, _>>()?;
    ids.iter().map(|id| id_of(id)).collect()
}

fn id_of(bytes: &[u8]) -> Result<GroupId> {
    GroupId::from_mls(bytes).map_err(|_| Error::Damaged("a group id"))
}
