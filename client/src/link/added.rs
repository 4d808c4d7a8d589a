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
    if session.store.read(has_wrong_times)? {
        session.store.write(begin_anew)?;
    }
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

/// Whether the time of a device is longer than any that it is given: it was noted by a clock that was ahead.
fn has_wrong_times(tx: &Tx<'_>) -> Result<bool> {
    let [_, last] = tx.to_come(EXPECTED);
    let sql = "SELECT EXISTS (SELECT 1 FROM added_devices WHERE due > ?1)";
    Ok(tx.sql().prepare_cached(sql)?.query_row([last], |row| row.get(0))?)
}

/// Has such times begin now: they are an end, and no pause, and no device is removed before it had its time.
fn begin_anew(tx: &Tx<'_>) -> Result<()> {
    let ([_, last], end) = (tx.to_come(EXPECTED), integer(tx.now().saturating_add(EXPECTED)));
    tx.sql().execute("UPDATE added_devices SET due = ?1 WHERE due > ?2", [end, last])?;
    Ok(())
}

fn due(tx: &Tx<'_>) -> Result<Vec<PublicKey>> {
    let mut statement = tx.sql().prepare_cached("SELECT client_key FROM added_devices WHERE due <= ?1")?;
    let keys =
        statement.query_map([integer(tx.now())], |row| row.get(0))?.collect::<Result<Vec<Vec<u8>>, _>>()?;
    keys.iter().map(|key| fixed(key, "a device's key")).collect()
}

/// Takes so many seconds from the time that each device has.
#[cfg(feature = "lab")]
pub(crate) fn pass_time(tx: &Tx<'_>, seconds: u64) -> Result<()> {
    tx.sql().execute("UPDATE added_devices SET due = due - ?1", [integer(seconds)])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use postern_protocol::key::SigningKey;

    use super::*;
    use crate::{clock::Clock, options::Options, store::Store};

    #[test]
    fn a_device_that_was_added_while_the_clock_was_ahead_has_its_time_and_no_longer() {
        let home = tempfile::tempdir().unwrap();
        drop(Store::create(home.path(), &Options::default()).unwrap());
        let at = |days: i64| {
            let clock = Clock::ahead_by(days * 24 * 60 * 60);
            Store::open(home.path(), &Options { clock, ..Options::default() }).unwrap()
        };
        let device = SigningKey::generate().public_key();
        at(365).write(|tx| expect(tx, &device, EXPECTED)).unwrap();
        let is_due = |days| !at(days).read(due).unwrap().is_empty();
        let is_wrong = |days| at(days).read(has_wrong_times).unwrap();
        assert!(is_wrong(0) && !is_wrong(365));
        at(0).write(begin_anew).unwrap();
        assert!(!is_wrong(0));
        assert!(!is_due(6), "a week is not over");
        assert!(is_due(8));
    }
}
