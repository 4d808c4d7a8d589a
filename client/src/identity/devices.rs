//! The user's own devices: which there are, what they are called, and what is done for them unasked. Owns
//! the tables `device_names`, `silent_devices` and `identity_upkeep`.

use postern_protocol::{PublicKey, problem::ProblemType, qs::QueueKind};
use rusqlite::{OptionalExtension as _, params};
use serde::Serialize;

use super::{
    claims, credential, eid, hidden, known,
    lookup::{self, Found},
    silence,
};
use crate::{
    account::{self, Account},
    contact,
    error::{Error, IdentityError, Result, goes_on},
    group,
    mailbox::{Queue, add_addresses},
    options::Options,
    server::Api,
    store::{Store, Tx, integer},
};

/// Seconds between two looks at the user's own devices: a day.
const UPKEEP_EVERY: u64 = 24 * 60 * 60;

/// One device of this user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Its key at the AS (Ed25519).
    pub client_key: PublicKey,
    /// Its name on this device.
    pub name: Option<String>,
    /// Whether it is this device.
    pub this: bool,
    pub state: DeviceState,
    /// The end of its credential, in seconds since 1970. It is renewed while the device is in use.
    pub credential_ends: Option<u64>,
}

/// How a device counts for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceState {
    /// It is one of the user's.
    Confirmed,
    /// It was added, and did not confirm that it is the user's (AS-4).
    Pending,
    /// Its credential ended, or it has none yet: others do not see it.
    Silent,
}

/// Asks the AS for the user's devices.
pub(crate) async fn devices(api: &Api, store: &Store, account: &Account) -> Result<Vec<Device>> {
    let found = lookup::find(api, store, &account.user).await?;
    let this = account.client_key().public_key();
    store.read(|tx| {
        found
            .leaves
            .iter()
            .map(|leaf| {
                let key = leaf.client_key;
                let counts = found.user.clients.iter().any(|client| client.client_key == key);
                let credential = found.credentials.iter().find(|(client, _)| *client == key);
                let state = match (leaf.pending, counts) {
                    (true, _) => DeviceState::Pending,
                    (false, true) => DeviceState::Confirmed,
                    (false, false) => DeviceState::Silent,
                };
                Ok(Device {
                    client_key: key,
                    name: name_of(tx, &key)?,
                    this: key == this,
                    state,
                    credential_ends: credential.map(|(_, end)| *end),
                })
            })
            .collect()
    })
}

/// Calls a device something, on this device. An empty name takes the old one away.
pub(crate) fn name_device(tx: &Tx<'_>, device: &PublicKey, name: &str) -> Result<()> {
    if name.is_empty() {
        tx.sql().execute("DELETE FROM device_names WHERE client_key = ?1", [device.as_bytes()])?;
        return Ok(());
    }
    tx.sql().execute(
        "INSERT OR REPLACE INTO device_names (client_key, name) VALUES (?1, ?2)",
        params![device.as_bytes(), name],
    )?;
    Ok(())
}

/// The one of these devices with this name, key or beginning of a key (unpadded base64url).
///
/// # Errors
/// [`Error::UnknownDevice`], [`Error::AmbiguousDevice`].
pub(crate) fn device_named<'a>(devices: &'a [Device], name: &str) -> Result<&'a Device> {
    let by_name = devices.iter().filter(|device| device.name.as_deref() == Some(name));
    let by_key = devices
        .iter()
        .filter(|device| !name.is_empty() && device.client_key.to_base64url().starts_with(name));
    let found = [by_name.collect::<Vec<_>>(), by_key.collect()];
    match found.iter().find(|found| !found.is_empty()).map(Vec::as_slice) {
        Some([device]) => Ok(device),
        Some(_) => Err(Error::AmbiguousDevice(name.to_owned())),
        None => Err(Error::UnknownDevice(name.to_owned())),
    }
}

/// Finishes what was begun in the user's identity, and asks the AS for users whose devices told of newer states than it
/// showed. Once a day it follows the own identity, takes the user's present name, and removes devices that
/// were silent for long; and it forgets users, and what was in groups, that this one has nothing to do with any more.
pub(crate) async fn upkeep(api: &Api, store: &Store, options: &Options) -> Result<()> {
    let account = store.read(Account::load)?;
    goes_on(eid::settle(api, store, &account).await)?;
    for user in store.read(claims::claimed)? {
        let found = lookup::look_up(api, store, &user).await;
        if let Err(error) = &found
            && !error.server_is_away()
        {
            store.write(|tx| claims::asked_in_vain(tx, &user, error))?;
        }
        goes_on(found)?;
    }
    let now = store.now();
    if store.read(last_upkeep)?.is_some_and(|last| (last..last.saturating_add(UPKEEP_EVERY)).contains(&now)) {
        return Ok(());
    }
    let found = match lookup::find(api, store, &account.user).await {
        Err(Error::Identity(IdentityError::RolledBack)) if eid::make_again(api, store, &account).await? => {
            lookup::find(api, store, &account.user).await?
        }
        // Another device of the user may have taken another name for it.
        Err(error)
            if error.problem() == Some(ProblemType::NotFound)
                && account::follow_rename(api, store).await? =>
        {
            return Ok(());
        }
        // It gives this device a credential of a user whom it does not show.
        Err(error) if error.problem() == Some(ProblemType::NotFound) => {
            store.write(|tx| hidden::failed(tx, &account.user))?;
            return Err(error);
        }
        found => found?,
    };
    goes_on(eid::take_name(api, store, &account).await)?;
    show_itself(api, store, &found).await?;
    let (this, patience) = (account.client_key().public_key(), options.remove_silent_after.as_secs());
    for device in store.write(|tx| silence::watch(tx, &found, &this, patience))? {
        goes_on(eid::remove(api, store, &account, &device).await)?;
    }
    store.write(|tx| {
        known::forget_strangers(tx)?;
        group::forget_ended(tx)?;
        looked_after(tx)
    })
}

/// Has the AS show this device with its credential and contact where it does not: it takes both from a device that was
/// silent for long (AS-9), and the contact becomes another with the mailbox that it leads to.
async fn show_itself(api: &Api, store: &Store, found: &Found) -> Result<()> {
    let (account, queue) = store.read(|tx| Ok((Account::load(tx)?, Queue::load(tx, QueueKind::Contact)?)))?;
    let this = account.client_key().public_key();
    if !found.leaves.iter().any(|leaf| leaf.client_key == this && !leaf.pending) {
        return Ok(());
    }
    let (own, addresses) =
        (found.user.clients.iter().find(|client| client.client_key == this), account.contact_addresses());
    if own.is_none() {
        credential::obtain_credential(store, api, account.clone()).await?;
    }
    let contact = own.and_then(|own| own.contact.as_ref());
    if contact.is_some_and(|contact| contact.address == account.contact_address) {
        return Ok(());
    }
    add_addresses(api, &queue, addresses.to_vec(), Vec::new()).await?;
    api.publish_contact(account.contact()?, &account.client_key()).await?;
    // Letters to this user's devices could not be written to this one meanwhile.
    store.write(contact::missed_letters)
}

/// Makes the next look at the user's devices due.
pub(crate) fn look_after_devices(tx: &Tx<'_>) -> Result<()> {
    tx.sql().execute("DELETE FROM identity_upkeep", [])?;
    Ok(())
}

/// Keeps that the user's devices were looked after now: the next time is a day later.
pub(crate) fn looked_after(tx: &Tx<'_>) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO identity_upkeep (one, done) VALUES (1, ?1)";
    tx.sql().execute(sql, [integer(tx.now())])?;
    Ok(())
}

fn last_upkeep(tx: &Tx<'_>) -> Result<Option<u64>> {
    Ok(tx.sql().query_row("SELECT done FROM identity_upkeep", [], |row| row.get(0)).optional()?)
}

fn name_of(tx: &Tx<'_>, device: &PublicKey) -> Result<Option<String>> {
    Ok(tx
        .sql()
        .prepare_cached("SELECT name FROM device_names WHERE client_key = ?1")?
        .query_row([device.as_bytes()], |row| row.get(0))
        .optional()?)
}
