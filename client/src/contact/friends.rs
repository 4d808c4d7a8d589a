//! Friendships that users gave to this one, and clients that this device gave its user's. Owns the
//! tables `friends` and `given`.

use postern_protocol::{PublicKey, auth::SignedContact, name::UserName};
use rusqlite::{OptionalExtension as _, params};

use super::friendship::Friend;
use crate::{
    error::{Error, Result},
    store::{Tx, decode, encode},
};

/// The friendship that a user gave to this one.
pub(crate) fn friend(tx: &Tx<'_>, user: &UserName) -> Result<Option<Friend>> {
    let friend: Option<Vec<u8>> = tx
        .sql()
        .query_row("SELECT friend FROM friends WHERE user = ?1", [user.to_string()], |row| row.get(0))
        .optional()?;
    friend.map(|friend| decode(&friend, "a friendship")).transpose()
}

pub(super) fn keep_friend(tx: &Tx<'_>, user: &UserName, friend: &Friend) -> Result<()> {
    tx.sql().execute(
        "INSERT OR REPLACE INTO friends (user, friend) VALUES (?1, ?2)",
        params![user.to_string(), encode(friend)],
    )?;
    Ok(())
}

pub(crate) fn forget_friend(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    tx.sql().execute("DELETE FROM friends WHERE user = ?1", [user.to_string()])?;
    Ok(())
}

/// Remembers that a client of a user is given the friendship, and where it hears of another.
pub(super) fn give(
    tx: &Tx<'_>,
    client_key: &PublicKey,
    user: &UserName,
    contact: &SignedContact,
) -> Result<()> {
    tx.sql().execute(
        "INSERT OR REPLACE INTO given (client_key, user, contact) VALUES (?1, ?2, ?3)",
        params![client_key.as_bytes(), user.to_string(), encode(contact)],
    )?;
    Ok(())
}

/// Forgets that a user's clients were given the friendship.
pub(super) fn take_back(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    tx.sql().execute("DELETE FROM given WHERE user = ?1", [user.to_string()])?;
    Ok(())
}

/// All clients that were given the friendship: their users and contacts.
pub(super) fn given(tx: &Tx<'_>) -> Result<Vec<(UserName, SignedContact)>> {
    let mut statement = tx.sql().prepare("SELECT user, contact FROM given")?;
    let rows = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<Vec<(String, Vec<u8>)>, _>>()?;
    rows.into_iter()
        .map(|(user, contact)| {
            let user = user.parse().map_err(|_| Error::Damaged("a user name"))?;
            Ok((user, decode(&contact, "a contact")?))
        })
        .collect()
}
