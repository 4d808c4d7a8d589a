//! Devices of this user that logged out, as they said themselves: this one removes them, unless another is faster. Owns the table
//! `leaving_devices`.

use postern_protocol::PublicKey;

use super::eid;
use crate::{
    account::Account,
    error::{Error, Result},
    server::Api,
    store::{Store, Tx, fixed},
};

/// Has a device removed that said that it logs out.
pub(crate) fn said_to_leave(tx: &Tx<'_>, device: &PublicKey) -> Result<()> {
    let sql = "INSERT OR IGNORE INTO leaving_devices (client_key) VALUES (?1)";
    tx.sql().execute(sql, [device.as_bytes()])?;
    Ok(())
}

/// Removes the devices that logged out from the user's, with all that follows from that (AS-13).
pub(crate) async fn remove_leaving(api: &Api, store: &Store) -> Result<()> {
    let devices = store.read(leaving)?;
    if devices.is_empty() {
        return Ok(());
    }
    let account = store.read(Account::load)?;
    for device in devices {
        match eid::remove(api, store, &account, &device).await {
            // No device removes itself, and one that was removed removes nobody.
            Ok(()) | Err(Error::OwnDevice | Error::RemovedDevice) => store.write(|tx| forget(tx, &device))?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn leaving(tx: &Tx<'_>) -> Result<Vec<PublicKey>> {
    let mut statement =
        tx.sql().prepare_cached("SELECT client_key FROM leaving_devices ORDER BY client_key")?;
    let rows = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<Vec<u8>>, _>>()?;
    rows.iter().map(|key| fixed(key, "a device's key")).collect()
}

fn forget(tx: &Tx<'_>, device: &PublicKey) -> Result<()> {
    tx.sql().execute("DELETE FROM leaving_devices WHERE client_key = ?1", [device.as_bytes()])?;
    Ok(())
}
