//! Clients that groups wait for, and users whose KeyPackages are to be fetched for that. Owns the
//! tables `invitations` and `fetches`.

use postern_protocol::{PublicKey, ds::GroupId, name::UserName};
use rusqlite::{OptionalExtension as _, params};

use crate::{
    error::{Error, Result},
    store::{Tx, fixed},
};

/// Has a group wait for a client of a user.
pub(crate) fn invite(tx: &Tx<'_>, group: &GroupId, client_key: &PublicKey, user: &UserName) -> Result<()> {
    tx.sql().execute(
        "INSERT OR IGNORE INTO invitations (group_id, client_key, user) VALUES (?1, ?2, ?3)",
        params![group.to_mls(), client_key.as_bytes(), user.to_string()],
    )?;
    Ok(())
}

/// The clients that a group waits for, in the order in which they were invited.
pub(crate) fn of_group(tx: &Tx<'_>, group: &GroupId) -> Result<Vec<PublicKey>> {
    let mut statement =
        tx.sql().prepare_cached("SELECT client_key FROM invitations WHERE group_id = ?1 ORDER BY rowid")?;
    let invited =
        statement.query_map([group.to_mls()], |row| row.get(0))?.collect::<Result<Vec<Vec<u8>>, _>>()?;
    invited.iter().map(|client_key| fixed(client_key, "a key")).collect()
}

/// The groups that wait for anybody.
pub(crate) fn waiting_groups(tx: &Tx<'_>) -> Result<Vec<GroupId>> {
    let mut statement = tx.sql().prepare_cached("SELECT DISTINCT group_id FROM invitations")?;
    let ids = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<Vec<u8>>, _>>()?;
    ids.iter().map(|id| GroupId::from_mls(id).map_err(|_| Error::Damaged("a group id"))).collect()
}

/// The user whose client this is, if any group waits for it.
pub(crate) fn waits_for_client(tx: &Tx<'_>, client_key: &PublicKey) -> Result<Option<UserName>> {
    let user: Option<String> = tx
        .sql()
        .query_row(
            "SELECT user FROM invitations WHERE client_key = ?1 LIMIT 1",
            [client_key.as_bytes()],
            |row| row.get(0),
        )
        .optional()?;
    user.map(|user| user.parse().map_err(|_| Error::Damaged("a user name"))).transpose()
}

/// Whether any group waits for a client of a user's.
pub(crate) fn waits_for_user(tx: &Tx<'_>, user: &UserName) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM invitations WHERE user = ?1)";
    Ok(tx.sql().query_row(sql, [user.to_string()], |row| row.get(0))?)
}

/// Notes that a client is invited by another KeyPackage than the one that was refused. Returns false if that was noted before.
pub(crate) fn retry(tx: &Tx<'_>, group: &GroupId, client_key: &PublicKey) -> Result<bool> {
    let sql = "UPDATE invitations SET retried = 1 WHERE group_id = ?1 AND client_key = ?2 AND retried = 0";
    Ok(tx.sql().execute(sql, params![group.to_mls(), client_key.as_bytes()])? == 1)
}

/// A group does not wait for a client any more.
pub(crate) fn end(tx: &Tx<'_>, group: &GroupId, client_key: &PublicKey) -> Result<()> {
    tx.sql().execute(
        "DELETE FROM invitations WHERE group_id = ?1 AND client_key = ?2",
        params![group.to_mls(), client_key.as_bytes()],
    )?;
    Ok(())
}

/// A group does not wait for anybody any more.
pub(crate) fn end_all(tx: &Tx<'_>, group: &GroupId) -> Result<()> {
    tx.sql().execute("DELETE FROM invitations WHERE group_id = ?1", [group.to_mls()])?;
    Ok(())
}

/// Goes on with a user's invitations and fetches under another name of the user.
pub(crate) fn moved(tx: &Tx<'_>, from: &UserName, to: &UserName) -> Result<()> {
    for table in ["invitations", "fetches"] {
        let sql = format!("UPDATE OR REPLACE {table} SET user = ?2 WHERE user = ?1");
        tx.sql().execute(&sql, [from.to_string(), to.to_string()])?;
    }
    Ok(())
}

/// Notes that a user's KeyPackages are to be fetched.
pub(crate) fn want_key_packages(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    tx.sql().execute("INSERT OR IGNORE INTO fetches (user) VALUES (?1)", [user.to_string()])?;
    Ok(())
}

/// The users whose KeyPackages are to be fetched.
pub(crate) fn wanted_key_packages(tx: &Tx<'_>) -> Result<Vec<UserName>> {
    let mut statement = tx.sql().prepare_cached("SELECT user FROM fetches")?;
    let rows = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    rows.iter().map(|user| user.parse().map_err(|_| Error::Damaged("a user name"))).collect()
}

/// A user's KeyPackages were fetched, or are not to be fetched any more.
pub(crate) fn fetched(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    tx.sql().execute("DELETE FROM fetches WHERE user = ?1", [user.to_string()])?;
    Ok(())
}
