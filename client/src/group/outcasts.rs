//! Members that are no devices of their users any more (AS-13): a device is out of the AS's record of its user, and in a
//! group under a pseudonym of its own it would read on. The clients of admins remove it, also where it took another leaf of
//! which nobody knows whose it is. Owns the tables `outcasts` and `doubted_places`.

use std::collections::{BTreeSet, HashMap, HashSet};

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
    store::{Tx, decode, encode, integer},
};

/// Seconds between two looks whether a member is gone that this device may not remove, or could not.
const LOOK_AGAIN: u64 = 24 * 60 * 60;
/// Seconds before the next attempt after one that failed and that was not refused; each further one waits four times as long.
const TRY_AGAIN: u64 = 5 * 60;
/// Seconds that the next attempt waits at the longest.
const LONGEST_PAUSE: u64 = 60 * 60;
/// Seconds for which a place is left alone in which somebody is who may be another device of the user, and has yet to say so:
/// from the look on that showed the last leaf which came in.
const PATIENCE: u64 = 24 * 60 * 60;
/// Seconds for which it is left alone at the longest, from the first look on, whoever else comes in, and though an AS does not
/// answer.
const LONGEST_PATIENCE: u64 = 7 * 24 * 60 * 60;

/// The part that removed devices have in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// None is known to have been in it.
    Free,
    /// A device is in it that a lookup showed to be a user's. Only that device can remove those beside it, since others
    /// remove whole users.
    Shared,
    /// Others are known to have been in it, too, and whoever is in it may be one of them: another device of the user, say,
    /// that has just come. Or it may be another user's by now.
    Doubtful,
    /// Nobody is in it but removed devices, and leaves without a name that they let in: nobody else is known ever to have
    /// been there.
    Theirs,
}

/// The doubts about a place.
struct Doubt {
    /// The first look that showed it as it is doubted, in seconds since 1970.
    since: u64,
    /// The look that showed the last leaf which came in, in seconds since 1970.
    grown: u64,
    /// The keys of the leaves that the last look showed.
    leaves: BTreeSet<PublicKey>,
}

/// A lookup showed that a client is this user's no more: it is to go from all groups, also from those that this device is out
/// of, as soon as it comes in again.
pub(crate) fn was_removed(tx: &Tx<'_>, user: &UserName, client_key: &PublicKey) -> Result<()> {
    tx.sql().execute(
        "INSERT OR IGNORE INTO outcasts (group_id, client_key, user, due)
         SELECT DISTINCT l.group_id, l.client_key, ?2, 0 FROM links l
           JOIN groups g ON g.group_id = l.group_id
          WHERE l.client_key = ?1
            AND (g.active = 1 OR EXISTS (SELECT 1 FROM former_leaves f
                                          WHERE f.group_id = l.group_id AND f.leaf_key = l.leaf_key))",
        params![client_key.as_bytes(), user.to_string()],
    )?;
    Ok(())
}

/// Keeps under another name which devices were removed from a user (AS-9).
pub(crate) fn user_was_renamed(tx: &Tx<'_>, from: &UserName, to: &UserName) -> Result<()> {
    let sql = "UPDATE outcasts SET user = ?2 WHERE user = ?1";
    tx.sql().execute(sql, [from.to_string(), to.to_string()])?;
    Ok(())
}

/// A lookup just now did not confirm a client that a member says to be. If the AS vouched for it, and it is not in its
/// user's identity, it was removed before this device knew the user. Its credential may have ended since: a removed device gets
/// no other, and stays in the group. The name may be somebody else's by now.
pub(crate) fn doubt(tx: &Tx<'_>, user: &UserName, client_key: &PublicKey) -> Result<()> {
    if identity::is_device(tx, user, client_key)?
        || identity::has_device(tx, user, client_key)? != Some(false)
    {
        return Ok(());
    }
    for link in links::of_client(tx, client_key)? {
        let claim = ClientCredential::parse(&link.credential).map_err(|_| Error::Damaged("a credential"))?;
        let at = claim.not_after.min(tx.now());
        if claim.user == *user && identity::vouches(tx, &link.credential, at)? {
            return was_removed(tx, user, client_key);
        }
    }
    Ok(())
}

/// The groups in which it is time to remove members. In one that this device cannot follow it is time once it can: before that
/// it removes nobody, and would ask about its members all the same, which is paid for.
pub(crate) fn with_outcasts(tx: &Tx<'_>) -> Result<Vec<GroupId>> {
    let mut statement = tx.sql().prepare_cached(
        "SELECT DISTINCT o.group_id FROM outcasts o JOIN groups g ON g.group_id = o.group_id AND g.active = 1
          WHERE o.due NOT BETWEEN ?1 AND ?2
            AND NOT EXISTS (SELECT 1 FROM strayed s WHERE s.group_id = o.group_id AND s.state IN (2, 3))",
    )?;
    // None waits longer than between two looks.
    let ids = statement.query_map(tx.to_come(LOOK_AGAIN), |row| row.get(0))?;
    let ids = ids.collect::<Result<Vec<Vec<u8>>, _>>()?;
    ids.iter().map(|id| GroupId::from_mls(id).map_err(|_| Error::Damaged("a group id"))).collect()
}

/// The change that removes them, with all that is in their places. `None` if none is there, if this device is no admin's, and
/// for those that share a place with devices of their user: those remove them, since only whole users can be removed by
/// others. Where it is not sure that nobody else is in a place, that is looked at for a day, and longer while the AS of a user
/// is among the `unanswered` of whom somebody there says to be.
pub(crate) fn cast_out(
    tx: &Tx<'_>,
    group: &GroupState,
    unanswered: &BTreeSet<UserName>,
) -> Result<Option<Change>> {
    let doubts = doubts(tx, &group.id)?;
    let mut leaves = Vec::new();
    for Suspects { user, place, unknown, are_doubtful } in suspects(tx, group)? {
        let may_answer = unknown.iter().any(|user| unanswered.contains(user));
        let is_over = |doubt: &Doubt| doubt.is_over(&place, may_answer, tx.now());
        if !are_doubtful || doubts.get(&user).is_some_and(is_over) {
            leaves.extend(place.into_leaf_keys());
        }
    }
    Ok((!leaves.is_empty()).then_some(Change::Remove(leaves)))
}

/// Makes the change of [`cast_out`], if all whom it removes were in the group when this device asked who the members are: `asked`
/// has the leaf keys of then.
pub(crate) fn cast_out_if_asked(
    tx: &Tx<'_>,
    group: &GroupState,
    unanswered: &BTreeSet<UserName>,
    asked: &HashSet<PublicKey>,
) -> Result<Option<Change>> {
    Ok(cast_out(tx, group, unanswered)?.filter(|change| match change {
        Change::Remove(leaves) => leaves.iter().all(|leaf_key| asked.contains(leaf_key)),
        _ => true,
    }))
}

impl Doubt {
    /// Whether all who are in the place had their time to show whose they are.
    fn is_over(&self, place: &UserPlace, may_answer: bool, now: u64) -> bool {
        let has_passed = |since: u64, time: u64| since.saturating_add(time) <= now;
        let were_all_there = place.leaves.iter().all(|(leaf_key, _)| self.leaves.contains(leaf_key));
        has_passed(self.since, LONGEST_PATIENCE)
            || were_all_there && !may_answer && has_passed(self.grown, PATIENCE)
    }
}

/// A place where removed devices are or were, and no device is known that a user has.
struct Suspects {
    user: Pseudonym,
    place: UserPlace,
    /// The users whose devices those say to be that no lookup confirmed.
    unknown: BTreeSet<UserName>,
    are_doubtful: bool,
}

/// The places that this device is to remove, or may be. None if it is no admin's.
fn suspects(tx: &Tx<'_>, group: &GroupState) -> Result<Vec<Suspects>> {
    let outcasts = clients(tx, &group.id)?;
    let mut suspects = Vec::new();
    if outcasts.is_empty() || !group.is_admin(&group.leaf.public_key()) {
        return Ok(suspects);
    }
    for (user, place) in places::of_others(tx, group)? {
        let are_doubtful = match standing(tx, &place, &outcasts)? {
            Standing::Free | Standing::Shared => continue,
            Standing::Doubtful => true,
            Standing::Theirs => false,
        };
        let others = place.present().filter(|client| !outcasts.contains(&client.client_key));
        let unknown = others.map(|client| client.user.clone()).collect();
        suspects.push(Suspects { user, place, unknown, are_doubtful });
    }
    Ok(suspects)
}

/// Whether this device is to remove members of a group, or may be once it has asked whose they are.
pub(crate) fn has_suspects(tx: &Tx<'_>, group: &GroupState) -> Result<bool> {
    Ok(!suspects(tx, group)?.is_empty())
}

/// The users of whom they say to be, as far as no lookup confirmed it.
pub(crate) fn users_of_suspects(tx: &Tx<'_>, group: &GroupState) -> Result<BTreeSet<UserName>> {
    Ok(suspects(tx, group)?.into_iter().flat_map(|suspects| suspects.unknown).collect())
}

/// The devices that are noted to be removed from a group.
pub(crate) fn removed_devices(tx: &Tx<'_>, id: &GroupId) -> Result<Vec<PublicKey>> {
    Ok(noted(tx, id)?.into_iter().map(|(client_key, _)| client_key).collect())
}

/// Forgets those in whose places nobody is any more, and those that are their users' again. The others that this device has
/// `looked_for` are looked for again later, also where they went: they may come back by what they know, and under a key of which
/// nobody knows whose it is. This user's own place is no matter of admins: its devices shut others out of it ([`super::evict`]).
/// Where this device is out of the group it looks when it comes in again.
pub(crate) fn look_for_outcasts_again(tx: &Tx<'_>, id: &GroupId, looked_for: &[PublicKey]) -> Result<()> {
    let Some(group) = find(tx, id)? else { return Ok(()) };
    let known = look(tx, &group)?;
    for client_key in removed_devices(tx, id)?.iter().filter(|client_key| !known.contains(*client_key)) {
        let sql = "DELETE FROM outcasts WHERE group_id = ?1 AND client_key = ?2";
        tx.sql().execute(sql, params![id.to_mls(), client_key.as_bytes()])?;
    }
    let due = integer(tx.now().saturating_add(LOOK_AGAIN));
    for client_key in looked_for {
        let sql = "UPDATE outcasts SET due = ?3, failures = 0 WHERE group_id = ?1 AND client_key = ?2";
        tx.sql().execute(sql, params![id.to_mls(), client_key.as_bytes(), due])?;
    }
    Ok(())
}

/// An attempt to remove them failed, and may succeed later. The next one waits, since each asks about users, and that is paid
/// for; and the longer the more attempts failed, unless others committed first or the own server is away. Places that are doubted
/// have their time meanwhile.
pub(crate) fn casting_out_failed(tx: &Tx<'_>, id: &GroupId, error: &Error) -> Result<()> {
    let Some(group) = find(tx, id)? else { return Ok(()) };
    look(tx, &group)?;
    let grows = !matches!(error, Error::Contended(_)) && !error.server_is_away();
    let longest = if grows { LONGEST_PAUSE } else { TRY_AGAIN };
    let sql = "UPDATE outcasts
                  SET due = ?2 + min(?3 << (2 * min(failures, 8)), ?4), failures = failures + ?5
                WHERE group_id = ?1 AND due NOT BETWEEN ?6 AND ?7";
    let (now, [first, last]) = (integer(tx.now()), tx.to_come(LOOK_AGAIN));
    let (pause, longest) = (integer(TRY_AGAIN), integer(longest));
    tx.sql().execute(sql, params![id.to_mls(), now, pause, longest, grows, first, last])?;
    Ok(())
}

fn find(tx: &Tx<'_>, id: &GroupId) -> Result<Option<GroupState>> {
    match GroupState::find(tx, id) {
        Err(Error::NotMember) => Ok(None),
        found => found,
    }
}

/// Looks who is in the places that removed devices are or were in, and notes which are doubted. Returns these devices.
fn look(tx: &Tx<'_>, group: &GroupState) -> Result<BTreeSet<PublicKey>> {
    let outcasts = clients(tx, &group.id)?;
    let (mut known, mut doubtful) = (BTreeSet::new(), Vec::new());
    for (user, place) in places::of_others(tx, group)? {
        let clients = place.clients().map(|client| client.client_key);
        known.extend(clients.filter(|client_key| outcasts.contains(client_key)));
        if standing(tx, &place, &outcasts)? == Standing::Doubtful {
            doubtful.push((user, place.into_leaf_keys().collect()));
        }
    }
    note_doubts(tx, &group.id, doubtful)?;
    Ok(known)
}

/// Forgets the removed devices of groups that ended so long ago that nothing is known of their places any more.
pub(super) fn forget_ended(tx: &Tx<'_>) -> Result<()> {
    let sql = "DELETE FROM outcasts
                WHERE group_id IN (SELECT group_id FROM groups WHERE active = 0)
                  AND group_id NOT IN (SELECT group_id FROM former_leaves)";
    tx.sql().execute(sql, [])?;
    Ok(())
}

/// Forgets which places of a group are doubted, as this device has to where it is about to be out.
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
    let theirs = are_all_known || !place.is_severed && place.clients().all(is_outcast);
    Ok(if theirs { Standing::Theirs } else { Standing::Doubtful })
}

/// The removed devices of a group. One that a lookup has shown since to be its user's again is none of them. That it is another
/// user's counts for nothing: whoever has it can register it under another name.
fn clients(tx: &Tx<'_>, id: &GroupId) -> Result<Vec<PublicKey>> {
    let mut clients = Vec::new();
    for (client_key, user) in noted(tx, id)? {
        if !identity::is_again(tx, &user, &client_key)? {
            clients.push(client_key);
        }
    }
    Ok(clients)
}

/// The devices of which this one noted that they were removed, and the users from whom.
fn noted(tx: &Tx<'_>, id: &GroupId) -> Result<Vec<(PublicKey, UserName)>> {
    let sql = "SELECT client_key, user FROM outcasts WHERE group_id = ?1";
    let mut statement = tx.sql().prepare_cached(sql)?;
    let rows = statement
        .query_map([id.to_mls()], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<Vec<([u8; 32], String)>, _>>()?;
    let device = |(client_key, user): ([u8; 32], String)| {
        let user = user.parse().map_err(|_| Error::Damaged("a user name"))?;
        Ok((PublicKey::new(client_key), user))
    };
    rows.into_iter().map(device).collect()
}

/// The places that are doubted.
fn doubts(tx: &Tx<'_>, id: &GroupId) -> Result<HashMap<Pseudonym, Doubt>> {
    let sql = "SELECT pseudonym, since, grown, leaves FROM doubted_places WHERE group_id = ?1";
    let mut statement = tx.sql().prepare_cached(sql)?;
    let rows = statement
        .query_map([id.to_mls()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
        .collect::<Result<Vec<([u8; 16], u64, u64, Vec<u8>)>, _>>()?;
    let doubt = |(user, since, grown, leaves): ([u8; 16], u64, u64, Vec<u8>)| {
        Ok((Pseudonym(user), Doubt { since, grown, leaves: decode(&leaves, "leaf keys")? }))
    };
    rows.into_iter().map(doubt).collect()
}

/// Notes which places are doubted, with the leaves that are there. A place that was not doubted before is from now on, and a leaf
/// that was not there has its time from now on.
fn note_doubts(tx: &Tx<'_>, id: &GroupId, doubtful: Vec<(Pseudonym, BTreeSet<PublicKey>)>) -> Result<()> {
    let before = doubts(tx, id)?;
    forget_doubts(tx, id)?;
    for (user, leaves) in doubtful {
        let doubt = before.get(&user);
        let since = doubt.map_or_else(|| tx.now(), |doubt| doubt.since);
        let grown = doubt.filter(|doubt| leaves.is_subset(&doubt.leaves)).map(|doubt| doubt.grown);
        let grown = grown.unwrap_or_else(|| tx.now());
        let sql = "INSERT INTO doubted_places (group_id, pseudonym, since, grown, leaves)
                   VALUES (?1, ?2, ?3, ?4, ?5)";
        tx.sql()
            .execute(sql, params![id.to_mls(), user.0, integer(since), integer(grown), encode(&leaves)])?;
    }
    Ok(())
}
