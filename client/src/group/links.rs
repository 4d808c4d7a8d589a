//! Links that members showed, and the number of each one's last message. Owns the table `links`.

use postern_protocol::{PublicKey, credential::ClientCredential, ds::GroupId, name::UserName};
use rusqlite::{OptionalExtension as _, params};

use crate::{
    error::{Error, Result},
    identity::{self, IdentityLink},
    store::{Tx, decode, encode, integer},
};

/// The link that a member showed.
pub(super) fn link(tx: &Tx<'_>, group: &GroupId, leaf_key: &PublicKey) -> Result<Option<IdentityLink>> {
    let link: Option<Option<Vec<u8>>> = tx
        .sql()
        .prepare_cached("SELECT link FROM links WHERE group_id = ?1 AND leaf_key = ?2")?
        .query_row(params![group.to_mls(), leaf_key.as_bytes()], |row| row.get(0))
        .optional()?;
    link.flatten().map(|link| decode(&link, "an identity link")).transpose()
}

/// Keeps a link that a member itself showed, if its client signed it for this leaf. A member that has
/// shown which client it is stays that client.
pub(super) fn shown(tx: &Tx<'_>, group: &GroupId, leaf_key: &PublicKey, link: &IdentityLink) -> Result<()> {
    keep(tx, group, leaf_key, link, "links.shown = 0 OR links.client_key = excluded.client_key", true)
}

/// Keeps a link that another told of a member, if its client signed it for this leaf and no other link
/// is known. It says that the client knows the leaf, but not that the leaf is the client's: anybody
/// can sign the leaf key of another.
pub(super) fn told(tx: &Tx<'_>, group: &GroupId, leaf_key: &PublicKey, link: &IdentityLink) -> Result<()> {
    keep(tx, group, leaf_key, link, "links.client_key IS NULL", false)
}

fn keep(
    tx: &Tx<'_>,
    group: &GroupId,
    leaf_key: &PublicKey,
    link: &IdentityLink,
    replaces: &str,
    shown: bool,
) -> Result<()> {
    let Some(credential) = link.claim(group, leaf_key) else {
        return Ok(());
    };
    if identity::is_revoked(tx, &credential.issuer_key)? {
        return Ok(());
    }
    let sql = format!(
        "INSERT INTO links (group_id, leaf_key, client_key, link, shown, last_number)
         VALUES (?1, ?2, ?3, ?4, ?5, 0)
         ON CONFLICT (group_id, leaf_key)
         DO UPDATE SET client_key = excluded.client_key, link = excluded.link, shown = excluded.shown
         WHERE {replaces}"
    );
    tx.sql().prepare_cached(&sql)?.execute(params![
        group.to_mls(),
        leaf_key.as_bytes(),
        credential.client_key.as_bytes(),
        encode(link),
        shown
    ])?;
    Ok(())
}

/// The number of a member's last message; 0 before the first.
pub(super) fn last_number(tx: &Tx<'_>, group: &GroupId, leaf_key: &PublicKey) -> Result<u64> {
    let last: Option<u64> = tx
        .sql()
        .prepare_cached("SELECT last_number FROM links WHERE group_id = ?1 AND leaf_key = ?2")?
        .query_row(params![group.to_mls(), leaf_key.as_bytes()], |row| row.get(0))
        .optional()?;
    Ok(last.unwrap_or(0))
}

pub(super) fn keep_number(tx: &Tx<'_>, group: &GroupId, leaf_key: &PublicKey, number: u64) -> Result<()> {
    tx.sql()
        .prepare_cached(
            "INSERT INTO links (group_id, leaf_key, last_number) VALUES (?1, ?2, ?3)
             ON CONFLICT (group_id, leaf_key) DO UPDATE SET last_number = excluded.last_number",
        )?
        .execute(params![group.to_mls(), leaf_key.as_bytes(), integer(number)])?;
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
