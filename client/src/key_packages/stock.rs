//! This device's KeyPackages, as long as somebody may use them, and their publication. Owns the
//! tables `stock`, `publications` and `stock_state`.

use openmls::prelude::KeyPackageRef;
use openmls_traits::{OpenMlsProvider as _, storage::StorageProvider as _};
use postern_protocol::{Address, PublicKey, qs::StockedKeyPackage};
use rusqlite::{OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

use super::own::OwnKeyPackage;
use crate::{
    error::Result,
    leaf, mailbox,
    store::{Store, Tx, decode, encode, fixed, integer},
};

/// A publication on its way to the QS: first the addresses, then the packages they are in.
#[derive(Serialize, Deserialize)]
pub(super) struct Publication {
    pub addresses: Vec<Address>,
    pub last_resort_address: Address,
    pub key_packages: Vec<StockedKeyPackage>,
    pub last_resort: StockedKeyPackage,
}

/// When the stock was published and counted last, in seconds since 1970.
pub(super) struct LastTimes {
    pub published: u64,
    pub counted: u64,
}

/// Starts another publication: all packages so far are of an earlier one.
pub(super) fn begin(tx: &Tx<'_>) -> Result<()> {
    tx.sql().execute("UPDATE stock SET current = 0", [])?;
    Ok(())
}

/// Keeps a package of the publication.
pub(super) fn keep(tx: &Tx<'_>, made: &OwnKeyPackage, address: &Address, last_resort: bool) -> Result<()> {
    tx.sql().execute(
        "INSERT INTO stock (leaf_key, address, reference, expires, last_resort, current)
         VALUES (?1, ?2, ?3, ?4, ?5, 1)",
        params![
            made.leaf_key.as_bytes(),
            address.as_bytes(),
            encode(&made.reference),
            integer(made.expires),
            last_resort
        ],
    )?;
    Ok(())
}

/// Keeps a publication until the QS has it.
pub(super) fn keep_publication(tx: &Tx<'_>, publication: &Publication) -> Result<()> {
    tx.sql().execute("INSERT INTO publications (one, publication) VALUES (1, ?1)", [encode(publication)])?;
    Ok(())
}

/// The publication that is on its way, and when the QS refused it, if it did (seconds since 1970).
pub(super) fn outstanding(tx: &Tx<'_>) -> Result<Option<(Publication, Option<u64>)>> {
    let row: Option<(Vec<u8>, Option<u64>)> = tx
        .sql()
        .query_row("SELECT publication, refused FROM publications", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    row.map(|(publication, refused)| Ok((decode(&publication, "a publication")?, refused))).transpose()
}

/// The QS refused the publication.
pub(super) fn refused(tx: &Tx<'_>) -> Result<()> {
    tx.sql().execute("UPDATE publications SET refused = ?1", [integer(tx.now())])?;
    Ok(())
}

/// Gives a publication up. Its packages stay until they expire: they may have been published.
pub(super) fn give_up(tx: &Tx<'_>) -> Result<()> {
    tx.sql().execute("UPDATE stock SET current = 0", [])?;
    tx.sql().execute("DELETE FROM publications", [])?;
    Ok(())
}

/// Whether a package of the last publication will have expired at a time (seconds since 1970).
pub(super) fn expires_before(tx: &Tx<'_>, time: u64) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM stock WHERE current = 1 AND expires < ?1)";
    Ok(tx.sql().query_row(sql, [integer(time)], |row| row.get(0))?)
}

/// The QS has the publication, which makes it published and counted now.
pub(super) fn published(tx: &Tx<'_>) -> Result<()> {
    tx.sql().execute("DELETE FROM publications", [])?;
    tx.sql().execute(
        "INSERT OR REPLACE INTO stock_state (one, published, counted) VALUES (1, ?1, ?1)",
        [integer(tx.now())],
    )?;
    Ok(())
}

/// Forgets that anything was published.
pub(super) fn unpublished(tx: &Tx<'_>) -> Result<()> {
    tx.sql().execute("DELETE FROM stock_state", [])?;
    Ok(())
}

/// Makes it time to publish again.
pub(super) fn publish_anew(tx: &Tx<'_>) -> Result<()> {
    tx.sql().execute("UPDATE stock_state SET published = 0", [])?;
    Ok(())
}

/// Notes when the QS was asked how many packages are left; 0: as if long ago.
pub(super) fn counted(tx: &Tx<'_>, at: u64) -> Result<()> {
    tx.sql().execute("UPDATE stock_state SET counted = ?1", [integer(at)])?;
    Ok(())
}

/// `None` before anything was published.
pub(super) fn last_times(tx: &Tx<'_>) -> Result<Option<LastTimes>> {
    let sql = "SELECT published, counted FROM stock_state";
    let times = |row: &rusqlite::Row<'_>| Ok(LastTimes { published: row.get(0)?, counted: row.get(1)? });
    Ok(tx.sql().query_row(sql, [], times).optional()?)
}

/// How many packages of the last publication were not used, as far as this device knows, and are good
/// until a time (seconds since 1970).
pub(super) fn unused(tx: &Tx<'_>, until: u64) -> Result<u32> {
    let sql = "SELECT count(*) FROM stock WHERE last_resort = 0 AND current = 1 AND expires >= ?1";
    Ok(tx.sql().query_row(sql, [integer(until)], |row| row.get(0))?)
}

/// Gives up expired packages: their keys, and addresses that lead to no group. `is_in_use` tells
/// whether a group is joined under a leaf key.
pub(crate) fn drop_expired(
    store: &Store,
    is_in_use: impl Fn(&Tx<'_>, &PublicKey) -> Result<bool>,
) -> Result<()> {
    type Row = ([u8; 32], Vec<u8>, Vec<u8>);
    let expired = store.read(|tx| {
        let mut statement =
            tx.sql().prepare_cached("SELECT leaf_key, address, reference FROM stock WHERE expires < ?1")?;
        Ok(statement
            .query_map([integer(tx.now())], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<Result<Vec<Row>, _>>()?)
    })?;
    if expired.is_empty() {
        return Ok(());
    }
    store.write(|tx| {
        for (leaf_key, address, reference) in &expired {
            let leaf_key = PublicKey::new(*leaf_key);
            let reference: KeyPackageRef = decode(reference, "a KeyPackage's reference")?;
            tx.storage().delete_key_package(&reference)?;
            tx.sql().execute("DELETE FROM stock WHERE leaf_key = ?1", [leaf_key.as_bytes()])?;
            if !is_in_use(tx, &leaf_key)? {
                leaf::forget_key(tx, &leaf_key)?;
                mailbox::revoke_later(tx, &fixed(address, "an address")?)?;
            }
        }
        Ok(())
    })
}

/// A group was joined by the KeyPackage of this leaf key: it, and its address, are the group's
/// now. One of last resort may be other groups', too, and tells their servers that they have one
/// member in common: another is published, so that it does so no longer than it must.
pub(crate) fn used(tx: &Tx<'_>, leaf_key: &PublicKey) -> Result<()> {
    let key = [leaf_key.as_bytes()];
    let sql = "DELETE FROM stock WHERE leaf_key = ?1 AND last_resort = 0";
    if tx.sql().execute(sql, key)? > 0 {
        return Ok(());
    }
    let sql = "UPDATE stock_state SET published = 0
                WHERE EXISTS (SELECT 1 FROM stock WHERE leaf_key = ?1 AND current = 1)";
    tx.sql().execute(sql, key)?;
    Ok(())
}

/// A Welcome by the KeyPackage of this leaf key was opened, and this device is not in the group by it: its leaf's key is forgotten,
/// and its address leads nowhere from now on, so that the DS proposes to remove that leaf (DS-10). One of last resort may be other
/// groups', too, or become so: its leaf stays until the DS takes it for silent.
pub(crate) fn used_in_vain(tx: &Tx<'_>, leaf_key: &PublicKey) -> Result<()> {
    let sql = "DELETE FROM stock WHERE leaf_key = ?1 AND last_resort = 0 RETURNING address";
    let address: Option<Vec<u8>> =
        tx.sql().query_row(sql, [leaf_key.as_bytes()], |row| row.get(0)).optional()?;
    let Some(address) = address else { return used(tx, leaf_key) };
    leaf::forget_key(tx, leaf_key)?;
    mailbox::revoke_later(tx, &fixed(&address, "an address")?)
}

/// Whether friends may still be handed the KeyPackage of this leaf key.
pub(crate) fn holds(tx: &Tx<'_>, leaf_key: &PublicKey) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM stock WHERE leaf_key = ?1)";
    Ok(tx.sql().prepare_cached(sql)?.query_row([leaf_key.as_bytes()], |row| row.get(0))?)
}

/// The addresses of all KeyPackages that nobody used yet.
pub(crate) fn addresses(tx: &Tx<'_>) -> Result<Vec<Address>> {
    let mut statement = tx.sql().prepare("SELECT address FROM stock")?;
    let rows = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<Vec<u8>>, _>>()?;
    rows.iter().map(|address| fixed(address, "an address")).collect()
}
