//! Another name for this device's user (AS-9): taken here, or on another of the user's devices.

use postern_protocol::{credential::ClientCredential, name::UserName};

use super::Account;
use crate::{
    contact,
    error::{Error, Result, goes_on},
    group, identity, key_packages,
    server::Api,
    store::{Store, Tx},
};

/// Takes the user's new name over, which the AS has by now.
pub(crate) fn take_name(tx: &Tx<'_>, from: &UserName, to: &UserName) -> Result<()> {
    let mut account = Account::load(tx)?;
    account.user = to.clone();
    account.save(tx)?;
    group::tell_groups(tx)?;
    // The packages in stock name the user as it was called.
    key_packages::publish_again(tx)?;
    // This device's leaf has the old name yet, if another one took the new one.
    identity::look_after_devices(tx)?;
    identity::rename(tx, from, to)?;
    contact::own_letters_moved(tx, from, to)?;
    contact::moved(tx, from, to)
}

/// Whether the user has this name by now: the AS shows the user's own identity under it.
pub(crate) async fn was_renamed(api: &Api, store: &Store, to: &UserName) -> Result<bool> {
    goes_on(identity::look_up(api, store, to).await)?;
    Ok(store.read(Account::load)?.user == *to)
}

/// Looks for the name that another device gave the user, after the AS does not know the old one any more: the AS signs
/// credentials under the present one. It is taken over only with the user's own identity.
pub(crate) async fn follow(api: &Api, store: &Store) -> Result<bool> {
    let account = store.read(Account::load)?;
    let credential = api.sign_credential(&account.client_key()).await?;
    let name = ClientCredential::parse(&credential).map_err(|_| Error::unexpected("a credential"))?.user;
    if name == account.user { Ok(false) } else { was_renamed(api, store, &name).await }
}
