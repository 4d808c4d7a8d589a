//! Members that a commit removed. What they said before a commit of this device may come later than the answer to it, from the
//! homeserver of another domain, when their leaves are gone already: who they were is kept for as long as the keys that open
//! it. Also of those that others removed: a device of the same user may have their place by now, and is not taken for them. Owns
//! the table `removed_members`.

use openmls::prelude::{Credential, LeafNodeIndex, Member};
use postern_protocol::{PublicKey, ds::GroupId};
use rusqlite::{OptionalExtension as _, params};

use super::rules;
use crate::{
    error::Result,
    mls,
    store::{Tx, integer},
};

/// Notes the members that a commit removes, which `is_own` if this device made it, and the last epoch that they were in.
pub(super) fn note(tx: &Tx<'_>, id: &GroupId, epoch: u64, members: &[Member], is_own: bool) -> Result<()> {
    for member in members {
        let leaf_key = mls::public_key(&member.signature_key);
        let Some((leaf_key, pseudonym)) = leaf_key.zip(rules::pseudonym(&member.credential)) else {
            continue;
        };
        tx.sql().execute(
            "INSERT OR REPLACE INTO removed_members (group_id, leaf, epoch, pseudonym, leaf_key, is_own)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                id.to_mls(),
                member.index.u32(),
                integer(epoch),
                pseudonym.0,
                leaf_key.as_bytes(),
                is_own
            ],
        )?;
    }
    Ok(())
}

/// The leaf key of a removed member that was in a place of the tree in an epoch, with this credential; and whether a commit of
/// this device removed it.
pub(super) fn leaf_key(
    tx: &Tx<'_>,
    id: &GroupId,
    leaf: LeafNodeIndex,
    epoch: u64,
    credential: &Credential,
) -> Result<Option<(PublicKey, bool)>> {
    let Some(pseudonym) = rules::pseudonym(credential) else { return Ok(None) };
    let found: Option<([u8; 32], bool)> = tx
        .sql()
        .prepare_cached(
            "SELECT leaf_key, is_own FROM removed_members
             WHERE group_id = ?1 AND leaf = ?2 AND epoch >= ?3 AND pseudonym = ?4
             ORDER BY epoch LIMIT 1",
        )?
        .query_row(params![id.to_mls(), leaf.u32(), integer(epoch), pseudonym.0], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    Ok(found.map(|(leaf_key, is_own)| (PublicKey::new(leaf_key), is_own)))
}

/// Forgets those of whom nothing opens any more, where this is the first epoch of which something does.
pub(super) fn forget_past(tx: &Tx<'_>, id: &GroupId, first: u64) -> Result<()> {
    let sql = "DELETE FROM removed_members WHERE group_id = ?1 AND epoch < ?2";
    tx.sql().prepare_cached(sql)?.execute(params![id.to_mls(), integer(first)])?;
    Ok(())
}

/// Forgets them all: this device is in the group no more, or came in anew, without the keys of before.
pub(super) fn forget(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    tx.sql().execute("DELETE FROM removed_members WHERE group_id = ?1", [id.to_mls()])?;
    Ok(())
}
