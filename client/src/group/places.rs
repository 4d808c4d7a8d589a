//! The users' places in a group: who is in each, and who was. A user is a pseudonym, and its clients are the leaves that have
//! it. A removed device could come back with another leaf, of which nobody knows whose it is (AS-13): so the leaves that went
//! are remembered for as long as their user is in the group, in whatever way the tree changed. Nobody else gets into a place:
//! its user's key vouches for who comes in, and no other user takes a pseudonym that is there ([`super::rules`]), as far as this
//! device sees the group. And whose a leaf was is known by its link only, which both keys signed. Owns the table `former_leaves`.

use std::collections::{BTreeMap, HashMap, HashSet};

use openmls::prelude::{LeafNodeIndex, MlsGroup, StagedCommit};
use postern_protocol::{PublicKey, credential::ClientCredential, ds::GroupId, mls::Pseudonym};
use rusqlite::params;

use super::{
    links,
    rules::{self, Leaf},
    state::GroupState,
};
use crate::{
    error::Result,
    mls,
    store::{Tx, integer},
};

/// The most leaves of one user that are remembered after they went. A device that lookups showed does not lose its room to
/// leaves that say to be nobody knows whose.
pub(super) const MOST: u32 = 100;
/// Seconds for which those of a group are remembered that this device is out of: a quarter of a year.
const KEPT_FOR: u64 = 91 * 24 * 60 * 60;

/// A leaf and the user in whose place it is.
pub(super) type UsersLeaf = (PublicKey, Pseudonym);

/// A user's place in a group, as far as this device knows it.
#[derive(Debug, Default)]
pub(super) struct UserPlace {
    /// The leaves that are in it, and the clients that they are.
    pub leaves: Vec<(PublicKey, Option<ClientCredential>)>,
    /// The clients that leaves were which are in it no more.
    former: Vec<ClientCredential>,
    /// Whether it may be another user's by now ([`catch_up`]).
    pub is_severed: bool,
}

impl UserPlace {
    /// The clients that are in it.
    pub(super) fn present(&self) -> impl Iterator<Item = &ClientCredential> {
        self.leaves.iter().filter_map(|(_, client)| client.as_ref())
    }

    /// The clients that are in it or were.
    pub(super) fn clients(&self) -> impl Iterator<Item = &ClientCredential> {
        self.present().chain(&self.former)
    }

    /// Whether one of these clients is in it or was.
    pub(super) fn knows(&self, clients: &[PublicKey]) -> bool {
        self.clients().any(|client| clients.contains(&client.client_key))
    }

    pub(super) fn into_leaf_keys(self) -> impl Iterator<Item = PublicKey> {
        self.leaves.into_iter().map(|(leaf_key, _)| leaf_key)
    }
}

/// The places of all users but this device's own.
pub(super) fn of_others(tx: &Tx<'_>, group: &GroupState) -> Result<BTreeMap<Pseudonym, UserPlace>> {
    let own = group.own_leaf()?.pseudonym;
    let mut places: BTreeMap<Pseudonym, UserPlace> = BTreeMap::new();
    for leaf in rules::leaves(&group.mls).into_values().filter(|leaf| leaf.pseudonym != own) {
        let client = links::client(tx, &group.id, &leaf.leaf_key)?;
        places.entry(leaf.pseudonym).or_default().leaves.push((leaf.leaf_key, client));
    }
    for ((leaf_key, user), is_severed) in former(tx, &group.id)? {
        if let Some(place) = places.get_mut(&user) {
            place.former.extend(links::client(tx, &group.id, &leaf_key)?);
            place.is_severed |= is_severed;
        }
    }
    Ok(places)
}

/// The leaves of a group.
pub(super) fn leaves(leaves: &HashMap<u32, Leaf>) -> Vec<UsersLeaf> {
    leaves.values().map(|leaf| (leaf.leaf_key, leaf.pseudonym)).collect()
}

/// The leaves that a commit takes away, also that of a client which comes back by it.
pub(super) fn taken_by(group: &MlsGroup, commit: &StagedCommit) -> Vec<UsersLeaf> {
    let indexes = commit.queued_proposals().filter_map(rules::removed_leaf);
    let members = indexes.filter_map(|index| group.member_at(LeafNodeIndex::new(index)));
    let leaf = |member: openmls::prelude::Member| {
        Some((mls::public_key(&member.signature_key)?, rules::pseudonym(&member.credential)?))
    };
    members.filter_map(leaf).collect()
}

/// Follows a change of the tree: notes which of the leaves `before` it went while others of their users stay, and forgets the
/// places of users that are in the group no more.
pub(super) fn follow(tx: &Tx<'_>, group: &GroupState, before: &[UsersLeaf]) -> Result<()> {
    let present: HashSet<UsersLeaf> = leaves(&rules::leaves(&group.mls)).into_iter().collect();
    let users: HashSet<Pseudonym> = present.iter().map(|(_, user)| *user).collect();
    for leaf in before {
        if users.contains(&leaf.1) && !present.contains(leaf) {
            insert(tx, &group.id, leaf)?;
        }
    }
    forget_surplus(tx, &group.id)?;
    for user in users_of_former(tx, &group.id)?.difference(&users) {
        let sql = "DELETE FROM former_leaves WHERE group_id = ?1 AND pseudonym = ?2";
        tx.sql().execute(sql, params![group.id.to_mls(), user.0])?;
    }
    Ok(())
}

/// The same after changes that this device did not see. Where none of a user's leaves is any more that it knew, the user may have
/// gone meanwhile, and another one may have come with the pseudonym, which somebody had taken from its KeyPackage: that is noted
/// of the place.
pub(super) fn catch_up(tx: &Tx<'_>, group: &GroupState, before: &[UsersLeaf]) -> Result<()> {
    follow(tx, group, before)?;
    let present: HashSet<UsersLeaf> = leaves(&rules::leaves(&group.mls)).into_iter().collect();
    let former = former(tx, &group.id)?.into_iter().map(|(leaf, _)| leaf);
    let staying = before.iter().copied().chain(former).filter(|leaf| present.contains(leaf));
    let staying: HashSet<Pseudonym> = staying.map(|(_, user)| user).collect();
    for user in users_of_former(tx, &group.id)?.difference(&staying) {
        let sql = "UPDATE former_leaves SET severed = 1 WHERE group_id = ?1 AND pseudonym = ?2";
        tx.sql().execute(sql, params![group.id.to_mls(), user.0])?;
    }
    Ok(())
}

/// Notes all others' leaves of a group that this device is about to be in no more, as far as they say whose they are. If it comes
/// in again it knows who was where.
pub(super) fn remember(tx: &Tx<'_>, group: &GroupState) -> Result<()> {
    let own = group.leaf.public_key();
    for leaf in leaves(&rules::leaves(&group.mls)) {
        if leaf.0 != own && links::link(tx, &group.id, &leaf.0)?.is_some() {
            insert(tx, &group.id, &leaf)?;
        }
    }
    forget_surplus(tx, &group.id)
}

/// Forgets the leaves of groups that ended long ago.
pub(super) fn forget_ended(tx: &Tx<'_>) -> Result<()> {
    let sql = "DELETE FROM former_leaves
                WHERE group_id IN (SELECT group_id FROM groups WHERE active = 0 AND committed < ?1)";
    tx.sql().execute(sql, [integer(tx.now().saturating_sub(KEPT_FOR))])?;
    Ok(())
}

fn insert(tx: &Tx<'_>, id: &GroupId, (leaf_key, user): &UsersLeaf) -> Result<()> {
    tx.sql()
        .prepare_cached(
            "INSERT OR IGNORE INTO former_leaves (group_id, leaf_key, pseudonym) VALUES (?1, ?2, ?3)",
        )?
        .execute(params![id.to_mls(), leaf_key.as_bytes(), user.0])?;
    Ok(())
}

/// Forgets leaves where a user has too many: the latest ones, devices that lookups showed last of all. Of each client the first
/// leaf is enough.
fn forget_surplus(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    let sql = "DELETE FROM former_leaves WHERE rowid IN
        (SELECT number FROM
            (SELECT number, is_again,
                    row_number() OVER (PARTITION BY pseudonym ORDER BY is_again, is_device DESC, number) AS place
               FROM (SELECT f.rowid AS number, f.pseudonym AS pseudonym,
                            row_number() OVER (PARTITION BY f.pseudonym, coalesce(l.client_key, f.leaf_key)
                                                   ORDER BY f.rowid) > 1 AS is_again,
                            EXISTS (SELECT 1 FROM identities i WHERE i.client_key = l.client_key)
                                OR EXISTS (SELECT 1 FROM outcasts o
                                            WHERE o.group_id = f.group_id AND o.client_key = l.client_key)
                                AS is_device
                       FROM former_leaves f
                       LEFT JOIN links l ON l.group_id = f.group_id AND l.leaf_key = f.leaf_key
                      WHERE f.group_id = ?1))
          WHERE is_again OR place > ?2)";
    tx.sql().prepare_cached(sql)?.execute(params![id.to_mls(), MOST])?;
    Ok(())
}

/// The leaves that are remembered, in the order in which they went, and whether their places may be others' by now.
fn former(tx: &Tx<'_>, id: &GroupId) -> Result<Vec<(UsersLeaf, bool)>> {
    let sql = "SELECT leaf_key, pseudonym, severed FROM former_leaves WHERE group_id = ?1 ORDER BY rowid";
    let mut statement = tx.sql().prepare_cached(sql)?;
    let rows = statement
        .query_map([id.to_mls()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<Vec<([u8; 32], [u8; 16], bool)>, _>>()?;
    let leaf = |(leaf_key, user, is_severed)| ((PublicKey::new(leaf_key), Pseudonym(user)), is_severed);
    Ok(rows.into_iter().map(leaf).collect())
}

fn users_of_former(tx: &Tx<'_>, id: &GroupId) -> Result<HashSet<Pseudonym>> {
    Ok(former(tx, id)?.into_iter().map(|((_, user), _)| user).collect())
}
