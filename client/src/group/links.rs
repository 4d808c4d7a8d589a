//! Links that members showed, and the numbers of each one's messages. Owns the table `links`.

use std::collections::HashSet;

use postern_protocol::{PublicKey, credential::ClientCredential, ds::GroupId, name::UserName};
use rusqlite::{OptionalExtension as _, params};

use super::{accounts, message::RosterEntry, state::GroupState};
use crate::{
    error::{Error, Result},
    identity::{self, IdentityLink},
    mls,
    profile::{self, SharedProfileKey, Source},
    store::{Tx, decode, encode, integer},
};

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

/// Keeps the key to the profile of a member's user that somebody told, if both keys signed the link.
pub(super) fn told_profile_key(
    tx: &Tx<'_>,
    group: &GroupId,
    leaf_key: &PublicKey,
    link: &IdentityLink,
    profile_key: Option<&SharedProfileKey>,
) -> Result<()> {
    let Some((claim, shared)) = link.claim(group, leaf_key).zip(profile_key) else { return Ok(()) };
    if profile::keep_key(tx, &claim.user, shared, Source::Told)? {
        accounts::look_again(tx, &claim.user)?;
    }
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
    let sql = format!(
        "INSERT INTO links (group_id, leaf_key, client_key, link, last_number)
         VALUES (?1, ?2, ?3, ?4, 0)
         ON CONFLICT (group_id, leaf_key)
         DO UPDATE SET client_key = excluded.client_key, link = excluded.link
         WHERE {replaces}"
    );
    tx.sql().prepare_cached(&sql)?.execute(params![
        group.to_mls(),
        leaf_key.as_bytes(),
        credential.client_key.as_bytes(),
        encode(link)
    ])?;
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
    Ok(())
}

/// The clients that members said they are and that no lookup confirmed, and their users.
pub(crate) fn unconfirmed(tx: &Tx<'_>) -> Result<Vec<(PublicKey, UserName)>> {
    let mut statement = tx.sql().prepare_cached(
        "SELECT DISTINCT l.client_key, l.link FROM links l
         WHERE l.client_key IS NOT NULL
         AND NOT EXISTS (SELECT 1 FROM identities i WHERE i.client_key = l.client_key)",
    )?;
    let rows = statement.query_map([], |row| row.get(1))?.collect::<Result<Vec<Vec<u8>>, _>>()?;
    rows.iter()
        .map(|link| {
            let link: IdentityLink = decode(link, "an identity link")?;
            let claim =
                ClientCredential::parse(&link.credential).map_err(|_| Error::Damaged("a credential"))?;
            Ok((claim.client_key, claim.user))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
