//! Members that are no devices of their users any more (AS-13): a device is out of the AS's record of its user, and in a
//! group under a pseudonym of its own it would read on. The clients of admins remove it. Owns the table `outcasts`.

use postern_protocol::{PublicKey, credential::ClientCredential, ds::GroupId, name::UserName};
use rusqlite::params;

use super::{
    Change,
    evict::{self, SparedFor},
    links,
    state::GroupState,
};
use crate::{
    error::{Error, Result},
    identity,
    store::{Tx, fixed, integer},
};

/// Seconds between two looks whether a member is gone that this device may not remove, or could not.
const LOOK_AGAIN: u64 = 24 * 60 * 60;

/// A lookup showed that a client is its user's no more: it is to go from all groups.
pub(crate) fn was_removed(tx: &Tx<'_>, client_key: &PublicKey) -> Result<()> {
    tx.sql().execute(
        "INSERT OR IGNORE INTO outcasts (group_id, client_key, due)
         SELECT DISTINCT l.group_id, l.client_key, 0 FROM links l
           JOIN groups g ON g.group_id = l.group_id AND g.active = 1
          WHERE l.client_key = ?1",
        [client_key.as_bytes()],
    )?;
    Ok(())
}

/// A lookup just now did not confirm a client that a member says to be. If the AS vouches for it, and it is not in its
/// user's identity, it was removed before this device knew the user.
pub(crate) fn doubt(tx: &Tx<'_>, user: &UserName, client_key: &PublicKey) -> Result<()> {
    if identity::confirmed(tx, client_key)?.is_some()
        || identity::has_device(tx, user, client_key)? != Some(false)
    {
        return Ok(());
    }
    for link in links::of_client(tx, client_key)? {
        let claim = ClientCredential::parse(&link.credential).map_err(|_| Error::Damaged("a credential"))?;
        if claim.user == *user && identity::vouches(tx, &link.credential, tx.now())? {
            return was_removed(tx, client_key);
        }
    }
    Ok(())
}

/// The groups in which it is time to remove members.
pub(crate) fn with_outcasts(tx: &Tx<'_>) -> Result<Vec<GroupId>> {
    let mut statement = tx.sql().prepare_cached(
        "SELECT DISTINCT o.group_id FROM outcasts o JOIN groups g ON g.group_id = o.group_id AND g.active = 1
          WHERE o.due <= ?1",
    )?;
    let ids = statement.query_map([integer(tx.now())], |row| row.get(0))?;
    let ids = ids.collect::<Result<Vec<Vec<u8>>, _>>()?;
    ids.iter().map(|id| GroupId::from_mls(id).map_err(|_| Error::Damaged("a group id"))).collect()
}

/// The change that removes them. `None` if none is there, if this device is no admin's, and for those that share a
/// place with devices of their user: those remove them, since only whole users can be removed by others.
pub(crate) fn cast_out(tx: &Tx<'_>, group: &GroupState) -> Result<Option<Change>> {
    if !group.is_admin(&group.leaf.public_key()) {
        return Ok(None);
    }
    let leaves = evict::places_of(tx, group, &clients(tx, &group.id)?, SparedFor::Anybody)?;
    Ok((!leaves.is_empty()).then_some(Change::Remove(leaves)))
}

/// Forgets those that are in the group under no pseudonym any more. The others are looked for again.
pub(crate) fn look_for_outcasts_again(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    let mut present = Vec::new();
    match GroupState::find(tx, id) {
        Ok(Some(group)) => {
            for leaf_key in group.leaf_keys() {
                let link = links::link(tx, id, &leaf_key)?;
                present.extend(link.and_then(|link| link.claim(id, &leaf_key)).map(|claim| claim.client_key));
            }
        }
        Ok(None) | Err(Error::NotMember) => {}
        Err(error) => return Err(error),
    }
    for client_key in clients(tx, id)? {
        let key = params![id.to_mls(), client_key.as_bytes(), integer(tx.now().saturating_add(LOOK_AGAIN))];
        let sql = if present.contains(&client_key) {
            "UPDATE outcasts SET due = ?3 WHERE group_id = ?1 AND client_key = ?2"
        } else {
            "DELETE FROM outcasts WHERE group_id = ?1 AND client_key = ?2 AND ?3 > 0"
        };
        tx.sql().execute(sql, key)?;
    }
    Ok(())
}

fn clients(tx: &Tx<'_>, id: &GroupId) -> Result<Vec<PublicKey>> {
    let mut statement = tx.sql().prepare_cached("SELECT client_key FROM outcasts WHERE group_id = ?1")?;
    let keys = statement.query_map([id.to_mls()], |row| row.get(0))?.collect::<Result<Vec<Vec<u8>>, _>>()?;
    keys.iter().map(|key| fixed(key, "a key")).collect()
}
