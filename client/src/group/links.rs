//! Links that members showed, and the numbers of each one's messages. Owns the table `links`.

use std::collections::HashSet;

use postern_protocol::{PublicKey, credential::ClientCredential, ds::GroupId, eid::EidState, name::UserName};
use rusqlite::{OptionalExtension as _, params};

use super::{
    accounts::{EAGER, InVain, LONGEST_PAUSE, MOST_LOOKS},
    message::RosterEntry,
    record,
    state::GroupState,
};
use crate::{
    error::{Error, Result},
    identity::{self, IdentityLink},
    mls,
    profile::{self, SharedProfileKey, Source, Teller},
    store::{Tx, decode, encode, integer},
};

/// Seconds before the AS is asked again about a client that it did not show, the first time: it may show it soon.
const SHOW_AGAIN: u64 = 60;
/// Seconds before the AS is asked again, at most, about a client that itself told a key by which it may be found.
const NEWS_AGAIN: u64 = 60 * 60;
/// The same where the AS was asked about as often as it is at all.
const LATE_NEWS_AGAIN: u64 = 24 * 60 * 60;
/// The most states told by cards that are compared in one go. Others have their turn with the next step.
const MOST_JUDGED: u32 = 100;

/// Condition on a row `e` of `eids`: in a group of this device somebody says to be the user, by its present name or one that it
/// had before, or a client of the user's was seen. A member that was silent for long has no credential by which lookups show its
/// clients, and may speak again.
pub(crate) const NAMES_USER: &str = "(
    e.user IN (SELECT i.user FROM links l
                 JOIN groups g ON g.group_id = l.group_id AND g.active = 1
                 JOIN identities i ON i.client_key = l.client_key
                UNION
               SELECT l.user FROM links l
                 JOIN groups g ON g.group_id = l.group_id AND g.active = 1
                WHERE l.user IS NOT NULL)
    OR e.former <> x'80' AND EXISTS
        (SELECT 1 FROM links l
           JOIN groups g ON g.group_id = l.group_id AND g.active = 1
          WHERE instr(e.former, CAST(l.user AS BLOB)) > 0))";

/// The link of a leaf and its client.
pub(super) fn link(tx: &Tx<'_>, group: &GroupId, leaf_key: &PublicKey) -> Result<Option<IdentityLink>> {
    let link: Option<Option<Vec<u8>>> = tx
        .sql()
        .prepare_cached("SELECT link FROM links WHERE group_id = ?1 AND leaf_key = ?2")?
        .query_row(params![group.to_mls(), leaf_key.as_bytes()], |row| row.get(0))
        .optional()?;
    link.flatten().map(|link| decode(&link, "an identity link")).transpose()
}

/// The client that a leaf is by its link, which both keys signed.
pub(super) fn client(tx: &Tx<'_>, group: &GroupId, leaf_key: &PublicKey) -> Result<Option<ClientCredential>> {
    Ok(link(tx, group, leaf_key)?.and_then(|link| link.claim(group, leaf_key)))
}

/// Keeps a link that a member itself showed, if both keys signed it. A leaf stays its client's; the
/// credential may be a newer one.
pub(super) fn shown(tx: &Tx<'_>, group: &GroupId, leaf_key: &PublicKey, link: &IdentityLink) -> Result<()> {
    keep(tx, group, leaf_key, link, "links.client_key IS NULL OR links.client_key = excluded.client_key")
}

/// Keeps a link that another told of a member, if both keys signed it and no other link is known:
/// what was known is never overwritten.
pub(super) fn told(tx: &Tx<'_>, group: &GroupId, leaf_key: &PublicKey, link: &IdentityLink) -> Result<()> {
    keep(tx, group, leaf_key, link, "links.client_key IS NULL")
}

/// Keeps the state of its user's identity that a member's card tells, until a lookup confirmed the client.
pub(super) fn told_state(tx: &Tx<'_>, group: &GroupId, leaf_key: &PublicKey, eid: &EidState) -> Result<()> {
    tx.sql()
        .prepare_cached(
            "UPDATE links SET eid = ?3, judged = iif(eid IS ?3, judged, NULL)
              WHERE group_id = ?1 AND leaf_key = ?2",
        )?
        .execute(params![group.to_mls(), leaf_key.as_bytes(), encode(eid)])?;
    Ok(())
}

/// A state of a user's identity that a card told.
pub(crate) struct ToldState {
    row: i64,
    client_key: PublicKey,
    /// The name that the client says its user has.
    user: UserName,
    eid: EidState,
}

/// Some of the states of users' identities that cards told and that can be compared with what the AS showed: lookups confirmed
/// the client, or showed a user of that name since the client was found not to speak for one. First those of confirmed clients, and
/// then those that wait the longest: though the AS shows the user anew with each step, none is behind others for good.
pub(crate) fn told_states(tx: &Tx<'_>) -> Result<Vec<ToldState>> {
    let mut statement = tx.sql().prepare_cached(
        "SELECT number, client_key, user, eid
           FROM (SELECT l.rowid AS number, l.client_key, l.user, l.eid, l.judged,
                        EXISTS (SELECT 1 FROM identities i
                                 WHERE i.client_key = l.client_key AND i.pending = 0
                                   AND NOT EXISTS (SELECT 1 FROM eids p
                                                    WHERE p.user = i.user AND p.pending = 1)) AS is_confirmed
                   FROM links l
                  WHERE l.eid IS NOT NULL AND l.client_key IS NOT NULL AND l.user IS NOT NULL) t
          WHERE is_confirmed OR EXISTS (SELECT 1 FROM eids e
                                         WHERE e.user = t.user AND e.pending = 0 AND e.seen IS NOT t.judged)
          ORDER BY is_confirmed DESC, judged, number LIMIT ?1",
    )?;
    let rows = statement
        .query_map([MOST_JUDGED], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
        .collect::<Result<Vec<(i64, [u8; 32], String, Vec<u8>)>, _>>()?;
    rows.into_iter()
        .map(|(row, client_key, user, eid)| {
            let user = user.parse().map_err(|_| Error::Damaged("a user name"))?;
            let (client_key, eid) = (PublicKey::new(client_key), decode(&eid, "a state")?);
            Ok(ToldState { row, client_key, user, eid })
        })
        .collect()
}

/// Compares [`told_states`] with what the AS showed. A client that speaks for no user that is known has its turn again once the AS
/// showed a user of that name anew, or with another state: members can be made up by the thousand.
pub(crate) fn hear_states(tx: &Tx<'_>) -> Result<()> {
    for ToldState { row, client_key, user: name, eid } in told_states(tx)? {
        let sql = if let Some(user) = identity::spoken_for(tx, &name, &client_key, &eid)? {
            identity::heard(tx, &user, &client_key, &eid)?;
            "UPDATE links SET eid = NULL, judged = NULL WHERE rowid = ?1"
        } else {
            "UPDATE links
                SET judged = (SELECT e.seen FROM eids e WHERE e.user = links.user AND e.pending = 0)
              WHERE rowid = ?1"
        };
        tx.sql().prepare_cached(sql)?.execute([row])?;
    }
    Ok(())
}

/// Keeps the key to the profile of a member's user that the member with the leaf key `by` told, if the link that it told is of
/// the client that the leaf is known to be. The AS is asked about that client at once, which it may show by now, but not as often
/// as a member likes: later on within an hour or a day, if it is the member's own key and the AS was in reach.
pub(super) fn told_profile_key(
    tx: &Tx<'_>,
    group: &GroupId,
    leaf_key: &PublicKey,
    told: &IdentityLink,
    profile_key: Option<&SharedProfileKey>,
    (by, is_itself): (&PublicKey, bool),
) -> Result<()> {
    let Some(shared) = profile_key else { return Ok(()) };
    let Some(kept) = link(tx, group, leaf_key)? else { return Ok(()) };
    let Some((claim, known)) = told.claim(group, leaf_key).zip(kept.claim(group, leaf_key)) else {
        return Ok(());
    };
    if (claim.client_key, &claim.user) != (known.client_key, &known.user) {
        return Ok(());
    }
    let is_vouched = identity::vouches(tx, &kept.credential, tx.now())?;
    let is_own_leaf = by == leaf_key;
    let teller = Teller { leaf_key: *by, is_vouched, is_itself, is_own_leaf };
    if profile::keep_key(tx, &claim.user, shared, Source::Told(teller))? {
        tx.sql()
            .prepare_cached("UPDATE links SET due = 0 WHERE client_key = ?1 AND tried + unreached < ?2")?
            .execute(params![claim.client_key.as_bytes(), EAGER])?;
        if is_own_leaf {
            news_of_itself(tx, &claim.client_key)?;
        }
    }
    Ok(())
}

/// Has the AS asked about a client that told news of itself, also if it was asked in vain for long.
fn news_of_itself(tx: &Tx<'_>, client_key: &PublicKey) -> Result<()> {
    let in_time = |pause: u64| integer(tx.now().saturating_add(pause));
    tx.sql()
        .prepare_cached(
            "UPDATE links SET due = min(due, iif(tried < ?2, ?3, ?4)), tried = min(tried, ?2)
              WHERE client_key = ?1 AND unreached = 0",
        )?
        .execute(params![
            client_key.as_bytes(),
            MOST_LOOKS - 1,
            in_time(NEWS_AGAIN),
            in_time(LATE_NEWS_AGAIN)
        ])?;
    Ok(())
}

/// The key to the profile of the user that a link names, if this device has it.
pub(super) fn profile_key(tx: &Tx<'_>, link: &IdentityLink) -> Result<Option<SharedProfileKey>> {
    let claim = ClientCredential::parse(&link.credential).map_err(|_| Error::Damaged("a credential"))?;
    profile::key_of(tx, &claim.user)
}

fn keep(
    tx: &Tx<'_>,
    group: &GroupId,
    leaf_key: &PublicKey,
    link: &IdentityLink,
    replaces: &str,
) -> Result<()> {
    let Some(credential) = link.claim(group, leaf_key) else {
        return Ok(());
    };
    if identity::is_revoked(tx, credential.user.domain(), &credential.issuer_key)? {
        return Ok(());
    }
    let before: Option<Option<String>> = tx
        .sql()
        .prepare_cached("SELECT user FROM links WHERE group_id = ?1 AND leaf_key = ?2")?
        .query_row(params![group.to_mls(), leaf_key.as_bytes()], |row| row.get(0))
        .optional()?;
    let user = credential.user.to_string();
    let sql = format!(
        "INSERT INTO links (group_id, leaf_key, client_key, user, link, last_number)
         VALUES (?1, ?2, ?3, ?4, ?5, 0)
         ON CONFLICT (group_id, leaf_key)
         DO UPDATE SET client_key = excluded.client_key, user = excluded.user, link = excluded.link,
                       judged = iif(links.user IS excluded.user, links.judged, NULL)
         WHERE {replaces}"
    );
    tx.sql().prepare_cached(&sql)?.execute(params![
        group.to_mls(),
        leaf_key.as_bytes(),
        credential.client_key.as_bytes(),
        user,
        encode(link)
    ])?;
    if before.flatten().is_some_and(|before| before != user) {
        profile::forget_unnamed(tx)?;
    }
    Ok(())
}

/// Notes a member that this device added: the others are to be told who it is.
pub(super) fn newcomer(tx: &Tx<'_>, group: &GroupId, leaf_key: &PublicKey) -> Result<()> {
    let sql = "UPDATE links SET newcomer = 1 WHERE group_id = ?1 AND leaf_key = ?2";
    tx.sql().execute(sql, params![group.to_mls(), leaf_key.as_bytes()])?;
    Ok(())
}

/// Takes the members that this device added and nobody was told of yet.
pub(super) fn take_newcomers(tx: &Tx<'_>, group: &GroupId) -> Result<Vec<RosterEntry>> {
    let mut statement = tx.sql().prepare_cached(
        "UPDATE links SET newcomer = 0 WHERE group_id = ?1 AND newcomer = 1 RETURNING leaf_key, link",
    )?;
    let rows = statement
        .query_map([group.to_mls()], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<Vec<([u8; 32], Vec<u8>)>, _>>()?;
    rows.into_iter()
        .map(|(leaf_key, link)| {
            let link = decode(&link, "an identity link")?;
            let profile_key = profile_key(tx, &link)?;
            Ok(RosterEntry { leaf_key: PublicKey::new(leaf_key), link, profile_key })
        })
        .collect()
}

/// The place of a message among those of its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It is the latest one.
    Latest,
    /// It was missing, and later ones came before it.
    Late,
    /// It came before, or is older than what is remembered.
    Before,
}

/// The numbers of a member's messages that came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Numbers {
    /// The highest one; 0 before the first.
    last: u64,
    /// The numbers before it that did not come: bit 0 is for the one just before, and so on.
    missing: u64,
}

impl Numbers {
    /// Numbers before the last one that are remembered; as many as fit into an integer of SQLite.
    const WINDOW: u64 = mls::LATE_MESSAGES as u64;
    const MASK: u64 = (1_u64 << Self::WINDOW) - 1;

    fn take(&mut self, number: u64) -> Place {
        if let Some(step) = number.checked_sub(self.last).filter(|step| *step > 0) {
            self.missing = match step {
                ..=Self::WINDOW => ((self.missing << step) | ((1_u64 << (step - 1)) - 1)) & Self::MASK,
                _ => Self::MASK,
            };
            self.last = number;
            return Place::Latest;
        }
        let back = self.last - number;
        if number == 0 || !(1..=Self::WINDOW).contains(&back) {
            return Place::Before;
        }
        let bit = 1_u64 << (back - 1);
        if self.missing & bit == 0 {
            return Place::Before;
        }
        self.missing &= !bit;
        Place::Late
    }
}

/// Takes a member's message by its number.
pub(super) fn take_number(tx: &Tx<'_>, group: &GroupId, leaf_key: &PublicKey, number: u64) -> Result<Place> {
    let kept = tx
        .sql()
        .prepare_cached("SELECT last_number, missing FROM links WHERE group_id = ?1 AND leaf_key = ?2")?
        .query_row(params![group.to_mls(), leaf_key.as_bytes()], |row| {
            Ok(Numbers { last: row.get(0)?, missing: row.get(1)? })
        })
        .optional()?;
    let mut numbers = kept.unwrap_or_default();
    let place = numbers.take(number);
    if place != Place::Before {
        tx.sql()
            .prepare_cached(
                "INSERT INTO links (group_id, leaf_key, last_number, missing) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (group_id, leaf_key)
                 DO UPDATE SET last_number = excluded.last_number, missing = excluded.missing",
            )?
            .execute(params![
                group.to_mls(),
                leaf_key.as_bytes(),
                integer(numbers.last),
                integer(numbers.missing)
            ])?;
    }
    Ok(place)
}

/// The most links of a group that are kept of leaves that are not in it any more: the history names them. Those that tell who
/// was in a user's place are kept besides ([`super::places`]).
pub(super) const DEPARTED: usize = 1000;

/// The links that name a client.
pub(super) fn of_client(tx: &Tx<'_>, client_key: &PublicKey) -> Result<Vec<IdentityLink>> {
    let sql = "SELECT link FROM links WHERE client_key = ?1 AND link IS NOT NULL";
    let mut statement = tx.sql().prepare_cached(sql)?;
    let rows = statement
        .query_map([client_key.as_bytes()], |row| row.get(0))?
        .collect::<Result<Vec<Vec<u8>>, _>>()?;
    rows.iter().map(|link| decode(link, "an identity link")).collect()
}

/// Forgets links of leaves that are not in the group any more, where there are too many: the oldest ones.
pub(super) fn forget_departed(tx: &Tx<'_>, group: &GroupState) -> Result<()> {
    let id = group.id.to_mls();
    let kept: usize =
        tx.sql().query_row("SELECT count(*) FROM links WHERE group_id = ?1", [&id], |row| row.get(0))?;
    if kept <= group.size().saturating_add(DEPARTED) {
        return Ok(());
    }
    let present: HashSet<PublicKey> = group.leaf_keys().collect();
    let mut statement = tx.sql().prepare(
        "SELECT leaf_key FROM links l WHERE group_id = ?1 AND NOT EXISTS
             (SELECT 1 FROM former_leaves f WHERE f.group_id = l.group_id AND f.leaf_key = l.leaf_key)
          ORDER BY rowid DESC",
    )?;
    let leaf_keys = statement.query_map([&id], |row| row.get(0))?.collect::<Result<Vec<[u8; 32]>, _>>()?;
    let departed = leaf_keys.into_iter().map(PublicKey::new).filter(|leaf_key| !present.contains(leaf_key));
    for leaf_key in departed.skip(DEPARTED) {
        let sql = "DELETE FROM links WHERE group_id = ?1 AND leaf_key = ?2";
        tx.sql().execute(sql, params![id, leaf_key.as_bytes()])?;
    }
    profile::forget_unnamed(tx)
}

/// The clients that members said they are, that no lookup confirmed, and about which it is time to ask the AS; and their
/// users.
pub(crate) fn unconfirmed(tx: &Tx<'_>) -> Result<Vec<(PublicKey, UserName)>> {
    let mut statement = tx.sql().prepare_cached(
        "SELECT DISTINCT l.client_key, l.user FROM links l
          WHERE l.client_key IS NOT NULL AND l.user IS NOT NULL AND l.due NOT BETWEEN ?1 AND ?2
            AND NOT EXISTS (SELECT 1 FROM identities i WHERE i.client_key = l.client_key)
            AND NOT EXISTS (SELECT 1 FROM links o
                             WHERE o.client_key = l.client_key
                               AND (o.due BETWEEN ?1 AND ?2 OR o.tried >= ?3))",
    )?;
    let [first, last] = tx.to_come(LONGEST_PAUSE);
    let rows = statement
        .query_map(params![first, last, MOST_LOOKS], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<Vec<([u8; 32], String)>, _>>()?;
    rows.into_iter()
        .map(|(client_key, user)| {
            let user = user.parse().map_err(|_| Error::Damaged("a user name"))?;
            Ok((PublicKey::new(client_key), user))
        })
        .collect()
}

/// Notes that the AS was asked about a client that a member says to be, of the user that it names. One that it did not show is
/// asked about ever later, and in the end no more, unless the client tells news. An AS that is out of reach is asked again as
/// long as the client is in a group, and otherwise once in a long while.
pub(crate) fn was_asked(tx: &Tx<'_>, client_key: &PublicKey, user: &UserName, in_vain: InVain) -> Result<()> {
    let (tried, unreached, due) = if identity::confirmed(tx, client_key)?.is_some() {
        (0, 0, 0)
    } else {
        let sql = "SELECT ifnull(max(tried), 0), ifnull(max(unreached), 0) FROM links WHERE client_key = ?1";
        let (tried, unreached): (u32, u32) = tx
            .sql()
            .prepare_cached(sql)?
            .query_row([client_key.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let is_heard = identity::is_heard(tx, user.domain())?;
        let (before, after) = match in_vain {
            InVain::OutOfReach => (unreached, (tried, unreached.saturating_add(1))),
            InVain::NotShown => (tried, (tried.saturating_add(1), 0)),
        };
        let pause = if unreached >= MOST_LOOKS && !is_member(tx, client_key)? {
            LONGEST_PAUSE
        } else {
            in_vain.pause(before, SHOW_AGAIN, is_heard)
        };
        (after.0, after.1, tx.now().saturating_add(pause))
    };
    tx.sql()
        .prepare_cached("UPDATE links SET tried = ?2, unreached = ?3, due = ?4 WHERE client_key = ?1")?
        .execute(params![client_key.as_bytes(), tried, unreached, integer(due)])?;
    Ok(())
}

/// Whether a leaf that is this client by its link is in a group now.
fn is_member(tx: &Tx<'_>, client_key: &PublicKey) -> Result<bool> {
    let sql = "SELECT leaf_key FROM links WHERE group_id = ?1 AND client_key = ?2";
    for id in record::active(tx)? {
        let mut statement = tx.sql().prepare_cached(sql)?;
        let leaf_keys = statement
            .query_map(params![id.to_mls(), client_key.as_bytes()], |row| row.get(0))?
            .collect::<Result<Vec<[u8; 32]>, _>>()?;
        if leaf_keys.is_empty() {
            continue;
        }
        let group = GroupState::load(tx, &id)?;
        if leaf_keys.into_iter().any(|leaf_key| group.member(&PublicKey::new(leaf_key)).is_some()) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use postern_protocol::Transcript;

    use super::*;
    use crate::{options::Options, store::Store};

    #[test]
    fn a_state_told_by_a_client_that_is_not_the_users_is_judged_once_until_the_as_or_a_card_says_more() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path(), &Options::default()).unwrap();
        let id = GroupId::new([7; 16], "example.org".parse().unwrap());
        let key = |number: u32| {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&number.to_be_bytes());
            PublicKey::new(key)
        };
        // A state that is no news needs no look at the devices of the user.
        let eid = EidState { incarnation: 0, epoch: 0, transcript: Transcript::new([1; 32]) };
        let sql = |sql: &str| store.write(|tx| Ok(tx.sql().execute(sql, [])?)).unwrap();
        store
            .write(|tx| {
                for number in 0..=MOST_JUDGED {
                    let insert = "INSERT INTO links (group_id, leaf_key, client_key, user, last_number)
                                  VALUES (?1, ?2, ?2, 'bob@example.org', 0)";
                    tx.sql().execute(insert, params![id.to_mls(), key(number).as_bytes()])?;
                    told_state(tx, &id, &key(number), &eid)?;
                }
                Ok(())
            })
            .unwrap();
        let waiting = || store.read(told_states).unwrap().len();
        let judge = || store.write(hear_states).unwrap();
        assert_eq!(waiting(), 0, "nobody is known who has that name");
        sql("INSERT INTO eids (user, pending, founder, founding, incarnation, epoch, transcript, public_group,
                               seen, verified)
             VALUES ('bob@example.org', 0, zeroblob(32), zeroblob(32), 0, 0, zeroblob(32), x'', 1, 0)");
        assert_eq!(waiting(), MOST_JUDGED as usize);
        judge();
        assert_eq!(waiting(), 1, "not all at once");
        judge();
        assert_eq!(waiting(), 0);

        store.write(|tx| told_state(tx, &id, &key(0), &eid)).unwrap();
        assert_eq!(waiting(), 0, "the card is the same");
        let other = EidState { transcript: Transcript::new([2; 32]), ..eid };
        store.write(|tx| told_state(tx, &id, &key(0), &other)).unwrap();
        assert_eq!(waiting(), 1);
        judge();
        assert_eq!(waiting(), 0);

        sql("UPDATE eids SET seen = 2");
        for left in [MOST_JUDGED as usize, 1, 0] {
            assert_eq!(waiting(), left, "the AS showed the user again");
            judge();
        }
        // A lookup confirms one, and what it told is done with.
        sql("INSERT INTO identities (client_key, user)
             SELECT client_key, user FROM links ORDER BY leaf_key LIMIT 1");
        assert_eq!(waiting(), 1);
        judge();
        sql("UPDATE eids SET seen = 3");
        for left in [MOST_JUDGED as usize, 0] {
            assert_eq!(waiting(), left);
            judge();
        }
    }

    #[test]
    fn a_true_state_has_its_turn_though_the_as_shows_the_user_of_many_false_ones_with_each_step() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path(), &Options::default()).unwrap();
        let id = GroupId::new([7; 16], "example.org".parse().unwrap());
        let sql = |sql: &str| store.write(|tx| Ok(tx.sql().execute(sql, [])?)).unwrap();
        sql("INSERT INTO eids (user, pending, founder, founding, incarnation, epoch, transcript, public_group,
                               seen, verified)
             VALUES ('bob@example.org', 0, zeroblob(32), zeroblob(32), 0, 0, zeroblob(32), x'', 1, 0)");
        let eid = EidState { incarnation: 0, epoch: 0, transcript: Transcript::new([1; 32]) };
        let tells = |number: u32| {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&number.to_be_bytes());
            let key = PublicKey::new(key);
            store
                .write(|tx| {
                    let insert = "INSERT INTO links (group_id, leaf_key, client_key, user, last_number)
                                  VALUES (?1, ?2, ?2, 'bob@example.org', 0)";
                    tx.sql().execute(insert, params![id.to_mls(), key.as_bytes()])?;
                    told_state(tx, &id, &key, &eid)
                })
                .unwrap();
            key
        };
        let next = |key: &PublicKey| {
            let states = store.read(told_states).unwrap();
            states.iter().position(|state| state.client_key == *key)
        };
        let step = || {
            store.write(hear_states).unwrap();
            sql("UPDATE eids SET seen = seen + 1");
        };
        let many = 3 * MOST_JUDGED;
        for number in 0..many {
            tells(number);
        }
        let (last, confirmed) = (tells(many), tells(many + 1));
        assert_eq!((next(&last), next(&confirmed)), (None, None), "they are behind the others");
        for _ in 0..2 {
            for _ in 0..3 {
                assert_eq!(next(&last), None);
                step();
            }
            assert!(next(&last).is_some());
            step();
        }
        sql("INSERT INTO identities (client_key, user)
             SELECT client_key, user FROM links ORDER BY leaf_key DESC LIMIT 1");
        assert_eq!(next(&confirmed), Some(0));
        step();
        assert_eq!(next(&confirmed), None, "it was compared");
    }

    #[test]
    fn a_message_is_taken_once_also_if_later_ones_of_its_sender_came_before() {
        let mut numbers = Numbers::default();
        let steps = [
            (1, Place::Latest),
            (1, Place::Before),
            (4, Place::Latest),
            (2, Place::Late),
            (2, Place::Before),
            (5, Place::Latest),
            (3, Place::Late),
            (3, Place::Before),
            (1, Place::Before),
            (0, Place::Before),
            (5 + Numbers::WINDOW, Place::Latest),
            (5, Place::Before),
            (6, Place::Late),
            (1000, Place::Latest),
            (1000 - Numbers::WINDOW, Place::Late),
            (999 - Numbers::WINDOW, Place::Before),
            (7, Place::Before),
            (u64::MAX >> 1, Place::Latest),
        ];
        for (number, expected) in steps {
            assert_eq!(numbers.take(number), expected, "{number}");
            assert!(i64::try_from(numbers.missing).is_ok());
        }
    }
}
