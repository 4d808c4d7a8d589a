//! Devices that this one added to the user's identity, until they have shown up in it. One that does not within its time
//! is removed again, so that nothing half-added stays for ever. Owns the table `added_devices`.

use postern_protocol::PublicKey;
use rusqlite::params;

use crate::{
    error::Result,
    identity::{self, DeviceState, eid},
    session::Session,
    store::{Tx, fixed, integer},
};

/// Seconds that a device has to show up which did not say that it has it all: a day.
pub(super) const UNHEARD_OF: u64 = 24 * 60 * 60;
/// The same for others: a week.
pub(crate) const EXPECTED: u64 = 7 * UNHEARD_OF;

/// Gives a device so many seconds from now on.
pub(super) fn expect(tx: &Tx<'_>, device: &PublicKey, seconds: u64) -> Result<()> {
    tx.sql().execute(
        "INSERT OR REPLACE INTO added_devices (client_key, due) VALUES (?1, ?2)",
        params![device.as_bytes(), integer(tx.now().saturating_add(seconds))],
    )?;
    Ok(())
}

/// Looks after the devices whose time is over.
pub(crate) async fn remove_absent(session: &Session) -> Result<()> {
    let due = session.store.read(due)?;
    if due.is_empty() {
        return Ok(());
    }
    let (api, store, account) = (&session.api, &*session.store, &session.account);
    let devices = identity::devices(api, store, account).await?;
    for device in due {
        let is_absent =
            |found: &identity::Device| found.client_key == device && found.state == DeviceState::Pending;
        if devices.iter().any(is_absent) {
            eid::remove(api, store, account, &device).await?;
        }
        store.write(|tx| {
            tx.sql().execute("DELETE FROM added_devices WHERE client_key = ?1", [device.as_bytes()])?;
            Ok(())
        })?;
    }
    Ok(())
}

fn due(tx: &Tx<'_>) -> Result<Vec<PublicKey>> {
    let mut statement = tx.sql().prepare_cached("SELECT client_key FROM added_devices WHERE due <= ?1")?;
    let keys =
        statement.query_map([integer(tx.now())], |row| row.get(0))?.collect::<Result<Vec<Vec<u8>>, _>>()?;
    keys.iter().map(|key| fixed(key, "a device's key")).collect()
}
