//! This user's other devices that are silent: for how long, as this device saw it with its own eyes. The AS's word alone
//! removes nobody. Owns the table `watched_devices`.

use std::collections::HashSet;

use postern_protocol::PublicKey;
use rusqlite::params;

use super::lookup::Found;
use crate::{
    error::Result,
    store::{Tx, fixed, integer},
};

/// Takes note of the user's devices as a look showed them just now, all but this one, and returns those that were silent
/// for `patience` seconds. A device is silent from the first look at which it had no valid credential, but not before the
/// latest end of one that this device verified: so a device that was away itself gives the others as much time again, and
/// an AS that hides or forges a credential gains nothing.
pub(super) fn watch(tx: &Tx<'_>, found: &Found, this: &PublicKey, patience: u64) -> Result<Vec<PublicKey>> {
    let devices: HashSet<PublicKey> =
        found.leaves.iter().map(|leaf| leaf.client_key).filter(|device| device != this).collect();
    for device in watched(tx)?.iter().filter(|device| !devices.contains(device)) {
        tx.sql().execute("DELETE FROM watched_devices WHERE client_key = ?1", [device.as_bytes()])?;
    }
    for device in &devices {
        let ends = found.credentials.iter().find(|(client, _)| client == device).map_or(0, |(_, end)| *end);
        let counts = found.user.clients.iter().any(|client| client.client_key == *device);
        let silent = (!counts).then(|| integer(found.time));
        tx.sql().execute(
            "INSERT INTO watched_devices (client_key, ends, silent) VALUES (?1, ?2, ?3)
             ON CONFLICT (client_key)
             DO UPDATE SET ends = max(ends, excluded.ends),
                           silent = iif(excluded.silent IS NULL, NULL, coalesce(silent, excluded.silent))",
            params![device.as_bytes(), integer(ends), silent],
        )?;
    }
    let mut statement = tx.sql().prepare_cached(
        "SELECT client_key FROM watched_devices WHERE max(silent, ends) < ?1 ORDER BY client_key",
    )?;
    let long_ago = integer(found.time.saturating_sub(patience));
    let rows = statement.query_map([long_ago], |row| row.get(0))?.collect::<Result<Vec<Vec<u8>>, _>>()?;
    rows.iter().map(|key| fixed(key, "a device's key")).collect()
}

fn watched(tx: &Tx<'_>) -> Result<Vec<PublicKey>> {
    let mut statement = tx.sql().prepare_cached("SELECT client_key FROM watched_devices")?;
    let rows = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<Vec<u8>>, _>>()?;
    rows.iter().map(|key| fixed(key, "a device's key")).collect()
}

/// Lets all that was seen of these devices be so many seconds longer ago.
#[cfg(any(test, feature = "lab"))]
pub(crate) fn pass_time(tx: &Tx<'_>, seconds: u64) -> Result<()> {
    let sql = "UPDATE watched_devices SET ends = max(ends - ?1, 0), silent = silent - ?1";
    tx.sql().execute(sql, [integer(seconds)])?;
    Ok(())
}
