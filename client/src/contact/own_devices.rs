//! Friendships that other devices of this user send after they renewed the user's. Owns the table
//! `received_secrets`.

use postern_protocol::{Payload, PublicKey, auth::SignedContact};
use rusqlite::params;

use super::{
    deposits::write_letter,
    friendship::{self, FriendshipSecrets},
    letter::LetterBody,
};
use crate::{
    account::Account,
    error::Result,
    event::Event,
    group::GroupHandover,
    identity,
    server::Api,
    store::{Store, Tx, decode, encode},
};

/// The most groups that one letter tells of.
const GROUPS_AT_ONCE: usize = 50;

/// Writes to another device of this user what it needs to come into groups.
pub(crate) fn write_groups(tx: &Tx<'_>, contact: &SignedContact, groups: &[GroupHandover]) -> Result<()> {
    let account = Account::load(tx)?;
    for groups in groups.chunks(GROUPS_AT_ONCE) {
        let body = LetterBody::Groups(Payload::new(encode(&groups)));
        write_letter(tx, &account, &account.user, contact, &body)?;
    }
    Ok(())
}

/// Keeps what a device sent which says that it is this user's, until the AS was asked.
pub(super) fn keep_secrets(tx: &Tx<'_>, client_key: &PublicKey, secrets: &FriendshipSecrets) -> Result<()> {
    tx.sql().execute(
        "INSERT OR REPLACE INTO received_secrets (client_key, secrets) VALUES (?1, ?2)",
        params![client_key.as_bytes(), encode(secrets)],
    )?;
    Ok(())
}

/// Takes over the friendship that another device of this user renewed.
pub(crate) async fn adopt_secrets(store: &Store, api: &Api) -> Result<()> {
    let received = store.read(|tx| {
        let mut statement = tx.sql().prepare_cached("SELECT client_key, secrets FROM received_secrets")?;
        Ok(statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<Vec<(Vec<u8>, Vec<u8>)>, _>>()?)
    })?;
    if received.is_empty() {
        return Ok(());
    }
    let user = store.read(Account::load)?.user.clone();
    let devices = identity::look_up(api, store, &user).await?.clients;
    store.write(|tx| {
        for (client_key, secrets) in &received {
            if devices.iter().any(|device| device.client_key.as_bytes().as_slice() == client_key) {
                friendship::replace(tx, decode(secrets, "a friendship")?)?;
            } else {
                Event::ignored("secrets came that are not from a device of ours").record(tx)?;
            }
        }
        tx.sql().execute("DELETE FROM received_secrets", [])?;
        Ok(())
    })
}
