//! Welcomes for devices that this one added, until they are asked for. The table `grants`.

use openmls::prelude::MlsGroup;
use postern_protocol::PublicKey;
use rusqlite::{OptionalExtension as _, params};

use super::{EidWelcome, index_of, load};
use crate::{
    account::Account,
    error::Result,
    store::{Tx, decode, encode},
};

/// Keeps the Welcome for a device.
pub(super) fn keep(tx: &Tx<'_>, client_key: &PublicKey, welcome: &EidWelcome) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO grants (client_key, welcome) VALUES (?1, ?2)";
    tx.sql().execute(sql, params![client_key.as_bytes(), encode(welcome)])?;
    Ok(())
}

/// Forgets the Welcomes of a commit of this device that came too late: they lead nowhere.
pub(super) fn withdraw_grants(tx: &Tx<'_>, group: &MlsGroup) -> Result<()> {
    for add in group.pending_commit().into_iter().flat_map(openmls::group::StagedCommit::add_proposals) {
        let leaf = add.add_proposal().key_package().leaf_node();
        tx.sql().execute("DELETE FROM grants WHERE client_key = ?1", [leaf.signature_key().as_slice()])?;
    }
    Ok(())
}

/// The Welcome for a device that is in the identity by now.
pub(crate) fn granted(tx: &Tx<'_>, account: &Account, client_key: &PublicKey) -> Result<Option<EidWelcome>> {
    if index_of(&load(tx, account)?, client_key).is_none() {
        return Ok(None);
    }
    let welcome: Option<Vec<u8>> = tx
        .sql()
        .query_row("SELECT welcome FROM grants WHERE client_key = ?1", [client_key.as_bytes()], |row| {
            row.get(0)
        })
        .optional()?;
    welcome.map(|welcome| decode(&welcome, "a grant")).transpose()
}
