//! Members that are no devices of their users any more (AS-13): a device is out of the AS's record of its user, and in a
//! group under a pseudonym of its own it would read on. The clients of admins remove it, also where it took another leaf of
//! which nobody knows whose it is. Owns the tables `outcasts` and `doubted_places`.

use std::collections::{BTreeSet, HashMap};

use postern_protocol::{
    PublicKey, credential::ClientCredential, ds::GroupId, mls::Pseudonym, name::UserName,
};
use rusqlite::params;

use super::{
    Change, links,
    places::{self, UserPlace},
    state::GroupState,
};
use crate::{
    error::{Error, Result},
    identity,
    store::{Tx, fixed, integer},
};

/// Seconds between two looks whether a member is gone that this device may not remove, or could not.
const LOOK_AGAIN: u64 = 24 * 60 * 60;
/// Seconds for which a place is left alone in which somebody is who may be another device of the user, and has yet to say so.
const PATIENCE: u64 = 24 * 60 * 60;

/// What a place has to do with removed devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// None is known to have been in it.
    Free,
    /// A device is in it that a lookup showed to be a user's. Only that device can remove those beside it, since others
    /// remove whole users.
    Shared,
    /// Others are known to have been in it, too, and whoever is in it may be one of them: another device of the user, say,
    /// that has just come.
    Doubtful,
    /// Nobody is in it but removed devices, and leaves without a name that they let in: nobody else is known ever to have
    /// been there.
    Theirs,
}

/// A lookup showed that a client is its user's no more: it is to go from all groups, also from those that this device is out
/// of, as soon as it comes in again.
pub(crate) fn was_removed(tx: &Tx<'_>, client_key: &PublicKey) -> Result<()> {
    tx.sql().execute(
        "INSERT OR IGNORE INTO outcasts (group_id, client_key, due)
         SELECT DISTINCT l.group_id, l.client_key, 0 FROM links l
           JOIN groups g ON g.group_id = l.group_id
          WHERE l.client_key = ?1
            AND (g.active = 1 OR EXISTS (SELECT 1 FROM former_leaves f
                                          WHERE f.group_id = l.group_id AND f.leaf_key = l.leaf_key))",
        [client_key.as_bytes()],
    )?;
    Ok(())
}

/// A lookup just now did not confirm a client that a member says to be. If the AS vouches for it, and it is not in its
/// user's identity, it was removed before this device knew the user. The name may be somebody else's by now.
pub(crate) fn doubt(tx: &Tx<'_>, user: &UserName, client_key: &PublicKey) -> Result<()> {
    if identity::is_device(tx, user, client_key)?
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

/// The change that removes them, with all that is in their places. `None` if none is there, if this device is no admin's, and
/// for those that share a place with devices of their user: those remove them, since only whole users can be removed by
/// others. Where it is not sure that nobody else is in a place, that is looked at for a day.
pub(crate) fn cast_out(tx: &Tx<'_>, group: &GroupState) -> Result<Option<Change>> {
    let outcasts = clients(tx, &group.id)?;
    if outcasts.is_empty() || !group.is_admin(&group.leaf.public_key()) {
        return Ok(None);
    }
    let doubts = doubts(tx, &group.id)?;
    let is_old = |since: &u64| since.saturating_add(PATIENCE) <= tx.now();
    let mut leaves = Vec::new();
    for (user, place) in places::of_others(tx, group)? {
        let goes = match standing(tx, &place, &outcasts)? {
            Standing::Free | Standing::Shared => false,
            Standing::Doubtful => doubts.get(&user).is_some_and(is_old),
            Standing::Theirs => true,
        };
        if goes {
            leaves.extend(place.into_leaf_keys());
        }
    }
    Ok((!leaves.is_empty()).then_some(Change::Remove(leaves)))
}

/// Forgets those in whose places nobody is any more, and those that are their users' again. The others are looked for again,
/// also where they went: they may come back by what they know, and under a key of which nobody knows whose it is. This user's own
/// place is no matter of admins: its devices shut others out of it ([`super::evict`]). Where this device is out of the group it
/// looks when it comes in again.
pub(crate) fn look_for_outcasts_again(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    let group = match GroupState::find(tx, id) {
        Ok(Some(group)) => group,
        Ok(None) | Err(Error::NotMember) => return Ok(()),
        Err(error) => return Err(error),
    };
    let outcasts = clients(tx, id)?;
    let (mut known, mut doubtful) = (BTreeSet::new(), Vec::new());
    for (user, place) in places::of_others(tx, &group)? {
        let clients = place.clients().map(|client| client.client_key);
        known.extend(clients.filter(|client_key| outcasts.contains(client_key)));
        if standing(tx, &place, &outcasts)? == Standing::Doubtful {
            doubtful.push(user);
        }
    }
    note_doubts(tx, id, &doubtful)?;
    for client_key in noted(tx, id)?.iter().filter(|client_key| !known.contains(*client_key)) {
        let sql = "DELETE FROM outcasts WHERE group_id = ?1 AND client_key = ?2";
        tx.sql().execute(sql, params![id.to_mls(), client_key.as_bytes()])?;
    }
    let sql = "UPDATE outcasts SET due = ?2 WHERE group_id = ?1";
    tx.sql().execute(sql, params![id.to_mls(), integer(tx.now().saturating_add(LOOK_AGAIN))])?;
    Ok(())
}

/// Forgets which places are doubted: this device is in the group no more.
pub(super) fn forget_doubts(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    tx.sql().execute("DELETE FROM doubted_places WHERE group_id = ?1", [id.to_mls()])?;
    Ok(())
}

fn standing(tx: &Tx<'_>, place: &UserPlace, outcasts: &[PublicKey]) -> Result<Standing> {
    let is_outcast = |client: &ClientCredential| outcasts.contains(&client.client_key);
    if !place.clients().any(is_outcast) {
        return Ok(Standing::Free);
    }
    for client in place.present().filter(|client| !is_outcast(client)) {
        if identity::is_device(tx, &client.user, &client.client_key)? {
            return Ok(Standing::Shared);
        }
    }
    let are_all_known = place.leaves.iter().all(|(_, client)| client.as_ref().is_some_and(is_outcast));
    let theirs = are_all_known || place.clients().all(is_outcast);
    Ok(if theirs { Standing::Theirs } else { Standing::Doubtful })
}

/// The removed devices of a group. One that a lookup has shown since to be a user's is none of them.
fn clients(tx: &Tx<'_>, id: &GroupId) -> Result<Vec<PublicKey>> {
    let mut clients = Vec::new();
    for client_key in noted(tx, id)? {
        if identity::confirmed(tx, &client_key)?.is_none() {
            clients.push(client_key);
        }
    }
    Ok(clients)
}

fn noted(tx: &Tx<'_>, id: &GroupId) -> Result<Vec<PublicKey>> {
    let mut statement = tx.sql().prepare_cached("SELECT client_key FROM outcasts WHERE group_id = ?1")?;
    let keys = statement.query_map([id.to_mls()], |row| row.get(0))?.collect::<Result<Vec<Vec<u8>>, _>>()?;
    keys.iter().map(|key| fixed(key, "a key")).collect()
}

/// The places that are doubted, and since when, in seconds since 1970.
fn doubts(tx: &Tx<'_>, id: &GroupId) -> Result<HashMap<Pseudonym, u64>> {
    let mut statement =
        tx.sql().prepare_cached("SELECT pseudonym, since FROM doubted_places WHERE group_id = ?1")?;
    let rows = statement
        .query_map([id.to_mls()], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<Vec<([u8; 16], u64)>, _>>()?;
    Ok(rows.into_iter().map(|(user, since)| (Pseudonym(user), since)).collect())
}

/// Notes which places are doubted. Those that were not before are from now on.
fn note_doubts(tx: &Tx<'_>, id: &GroupId, doubtful: &[Pseudonym]) -> Result<()> {
    let before = doubts(tx, id)?;
    forget_doubts(tx, id)?;
    for user in doubtful {
        let since = before.get(user).copied().unwrap_or_else(|| tx.now());
        let sql = "INSERT INTO doubted_places (group_id, pseudonym, since) VALUES (?1, ?2, ?3)";
        tx.sql().execute(sql, params![id.to_mls(), user.0, integer(since)])?;
    }
    Ok(())
}
