//! Results of lookups: which client is whose, and how far each user's EID was seen. Owns the
//! tables `identities` and `eids`.

use postern_protocol::{PublicKey, name::UserName};
use rusqlite::{OptionalExtension as _, params};

use super::verify::{Eid, VerifiedUser};
use crate::{
    error::{Error, IdentityError, Result},
    store::{Tx, integer},
};

/// The user whose client this is, if a lookup confirmed it.
pub(crate) fn confirmed(tx: &Tx<'_>, client_key: &PublicKey) -> Result<Option<UserName>> {
    let name: Option<String> = tx
        .sql()
        .prepare_cached("SELECT user FROM identities WHERE client_key = ?1")?
        .query_row([client_key.as_bytes()], |row| row.get(0))
        .optional()?;
    name.map(|name| name.parse().map_err(|_| Error::Damaged("a user name"))).transpose()
}

/// Remembers a user's verified clients, and the EID that they are in.
///
/// # Errors
/// [`IdentityError::Reset`] and [`IdentityError::RolledBack`] for an EID that was replaced, or
/// went back.
pub(super) fn keep(tx: &Tx<'_>, user: &VerifiedUser, eid: &Eid) -> Result<()> {
    pin(tx, &user.name, eid)?;
    for client in &user.clients {
        tx.sql()
            .prepare_cached("INSERT OR REPLACE INTO identities (client_key, user) VALUES (?1, ?2)")?
            .execute(params![client.client_key.as_bytes(), user.name.to_string()])?;
    }
    Ok(())
}

fn pin(tx: &Tx<'_>, name: &UserName, eid: &Eid) -> Result<()> {
    let known: Option<(Vec<u8>, u64)> = tx
        .sql()
        .prepare_cached("SELECT group_id, epoch FROM eids WHERE user = ?1")?
        .query_row([name.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    if let Some((group_id, epoch)) = known {
        if group_id != eid.group_id {
            return Err(IdentityError::Reset.into());
        }
        if eid.epoch < epoch {
            return Err(IdentityError::RolledBack.into());
        }
    }
    tx.sql()
        .prepare_cached("INSERT OR REPLACE INTO eids (user, group_id, epoch) VALUES (?1, ?2, ?3)")?
        .execute(params![name.to_string(), eid.group_id, integer(eid.epoch)])?;
    Ok(())
}
