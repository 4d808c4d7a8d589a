//! Members that a commit of this device removed. What they said before it may come later than the answer to it, from the
//! homeserver of another domain, when their leaves are gone already: who they were is kept for as long as the keys that open
//! it. Owns the table `removed_members`.

use openmls::prelude::{Credential, LeafNodeIndex, Member};
use postern_protocol::{
    PublicKey,
    ds::{GroupId, MAX_PAST_EPOCHS},
};
use rusqlite::{OptionalExtension as _, params};

use super::rules;
use crate::{
    error::Result,
    mls,
    store::{Tx, integer},
};

/// Notes the members that a commit removes, and the last epoch that they were in.
pub(super) fn note(tx: &Tx<'_>, id: &GroupId, epoch: u64, members: &[Member]) -> Result<()> {
    for member in members {
        let leaf_key = mls::public_key(&member.signature_key);
        let Some((leaf_key, pseudonym)) = leaf_key.zip(rules::pseudonym(&member.credential)) else {
            continue;
        };
        tx.sql().execute(
            "INSERT OR REPLACE INTO removed_members (group_id, leaf, epoch, pseudonym, leaf_key)
             VALUES (?1, ?2, ?3, ?4, ?5)",
            params![id.to_mls(), member.index.u32(), integer(epoch), pseudonym.0, leaf_key.as_bytes()],
        )?;
    }
    Ok(())
}

/// The leaf key of a removed member that was in a place of the tree in an epoch, with this credential.
pub(super) fn leaf_key(
    tx: &Tx<'_>,
    id: &GroupId,
    leaf: LeafNodeIndex,
    epoch: u64,
    credential: &Credential,
) -> Result<Option<PublicKey>> {
    let Some(pseudonym) = rules::pseudonym(credential) else { return Ok(None) };
    let leaf_key: Option<[u8; 32]> = tx
        .sql()
        .prepare_cached(
            "SELECT leaf_key FROM removed_members
             WHERE group_id = ?1 AND leaf = ?2 AND epoch >= ?3 AND pseudonym = ?4
             ORDER BY epoch LIMIT 1",
        )?
        .query_row(params![id.to_mls(), leaf.u32(), integer(epoch), pseudonym.0], |row| row.get(0))
        .optional()?;
    Ok(leaf_key.map(PublicKey::new))
}

/// Forgets those of whom nothing opens any more, now that the group is in this epoch.
pub(super) fn forget_past(tx: &Tx<'_>, id: &GroupId, epoch: u64) -> Result<()> {
    let opens = epoch.saturating_sub(MAX_PAST_EPOCHS as u64);
    let sql = "DELETE FROM removed_members WHERE group_id = ?1 AND epoch < ?2";
    tx.sql().prepare_cached(sql)?.execute(params![id.to_mls(), integer(opens)])?;
    Ok(())
}

/// Forgets them all: this device is in the group no more, or came in anew, without the keys of before.
pub(super) fn forget(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    tx.sql().execute("DELETE FROM removed_members WHERE group_id = ?1", [id.to_mls()])?;
    Ok(())
}
