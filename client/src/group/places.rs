//! The users' places in a group: who is in each, and who was. A user is a pseudonym, and its clients are the leaves that have
//! it. A removed device could come back with another leaf, of which nobody knows whose it is (AS-13): so the leaves that went
//! are remembered for as long as their user is in the group, in whatever way the tree changed. Nobody else gets into a place:
//! its user's key vouches for who comes in, and no other user takes a pseudonym that is there ([`super::rules`]). And whose a
//! leaf was is known by its link only, which both keys signed. Owns the table `former_leaves`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use openmls::prelude::{LeafNodeIndex, MlsGroup, StagedCommit};
use postern_protocol::{PublicKey, credential::ClientCredential, ds::GroupId, mls::Pseudonym};
use rusqlite::params;

use super::{
    links,
    rules::{self, Leaf},
    state::GroupState,
};
use crate::{error::Result, mls, store::Tx};

/// The most leaves of one user that are remembered after they went. A device that lookups showed does not lose its room to
/// leaves that say to be nobody knows whose.
pub(super) const MOST: u32 = 100;

/// A leaf and the user in whose place it is.
pub(super) type UsersLeaf = (PublicKey, Pseudonym);

/// A user's place in a group, as far as this device knows it.
#[derive(Debug, Default)]
pub(super) struct UserPlace {
    /// The leaves that are in it, and the clients that they are.
    pub leaves: Vec<(PublicKey, Option<ClientCredential>)>,
    /// The clients that leaves were which are in it no more.
    former: Vec<ClientCredential>,
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
    for (leaf_key, user) in former(tx, &group.id)? {
        if let Some(place) = places.get_mut(&user) {
            place.former.extend(links::client(tx, &group.id, &leaf_key)?);
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
    let mut grown = BTreeSet::new();
    for leaf in before {
        if users.contains(&leaf.1) && !present.contains(leaf) {
            insert(tx, &group.id, leaf)?;
            grown.insert(leaf.1);
        }
    }
    for user in grown {
        forget_surplus(tx, &group.id, user)?;
    }
    let noted: BTreeSet<Pseudonym> = former(tx, &group.id)?.into_iter().map(|(_, user)| user).collect();
    for user in noted.into_iter().filter(|user| !users.contains(user)) {
        let sql = "DELETE FROM former_leaves WHERE group_id = ?1 AND pseudonym = ?2";
        tx.sql().execute(sql, params![group.id.to_mls(), user.0])?;
    }
    Ok(())
}

/// Notes all others' leaves of a group that this device is about to be in no more. If it comes in again it knows who was where.
pub(super) fn remember(tx: &Tx<'_>, group: &GroupState) -> Result<()> {
    let own = group.leaf.public_key();
    let mut others = leaves(&rules::leaves(&group.mls));
    others.retain(|(leaf_key, _)| *leaf_key != own);
    others.iter().try_for_each(|leaf| insert(tx, &group.id, leaf))
}

fn insert(tx: &Tx<'_>, id: &GroupId, (leaf_key, user): &UsersLeaf) -> Result<()> {
    tx.sql()
        .prepare_cached(
            "INSERT OR IGNORE INTO former_leaves (group_id, leaf_key, pseudonym) VALUES (?1, ?2, ?3)",
        )?
        .execute(params![id.to_mls(), leaf_key.as_bytes(), user.0])?;
    Ok(())
}

/// Forgets leaves of a user where there are too many: the latest ones, and devices that lookups showed last of all.
fn forget_surplus(tx: &Tx<'_>, id: &GroupId, user: Pseudonym) -> Result<()> {
    let sql = "DELETE FROM former_leaves WHERE rowid IN
                   (SELECT f.rowid FROM former_leaves f
                      LEFT JOIN links l ON l.group_id = f.group_id AND l.leaf_key = f.leaf_key
                     WHERE f.group_id = ?1 AND f.pseudonym = ?2
                     ORDER BY EXISTS (SELECT 1 FROM identities i WHERE i.client_key = l.client_key)
                           OR EXISTS (SELECT 1 FROM outcasts o
                                       WHERE o.group_id = f.group_id AND o.client_key = l.client_key) DESC,
                              f.rowid
                     LIMIT -1 OFFSET ?3)";
    tx.sql().execute(sql, params![id.to_mls(), user.0, MOST])?;
    Ok(())
}

/// The leaves that are remembered, in the order in which they went.
fn former(tx: &Tx<'_>, id: &GroupId) -> Result<Vec<UsersLeaf>> {
    let sql = "SELECT leaf_key, pseudonym FROM former_leaves WHERE group_id = ?1 ORDER BY rowid";
    let mut statement = tx.sql().prepare_cached(sql)?;
    let rows = statement
        .query_map([id.to_mls()], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<Vec<([u8; 32], [u8; 16])>, _>>()?;
    Ok(rows.into_iter().map(|(leaf_key, user)| (PublicKey::new(leaf_key), Pseudonym(user))).collect())
}
