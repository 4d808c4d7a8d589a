//! This client's own credential.

use postern_protocol::{IssuedCredential, credential::ClientCredential};

use super::issuer;
use crate::{
    account::Account,
    contact,
    error::{Error, IdentityError, Result},
    server::Api,
    store::Store,
};

/// How many seconds before its end a credential is renewed.
const RENEW_BEFORE: u64 = 30 * 24 * 60 * 60;

/// Has the AS sign the client's key, and keeps what it signed.
pub(crate) async fn obtain_credential(store: &Store, api: &Api, mut account: Account) -> Result<Account> {
    let credential = api.sign_credential(&account.client_key()).await?;
    account.credential = Some(verified(store, api, &account, credential).await?);
    store.write(|tx| account.save(tx))?;
    Ok(account)
}

/// Has the AS sign a new credential long before the old one ends, and when the key that signed the old one is good no
/// more: once an hour it looks. Where an end is near, it asks with every errand until it has the new one.
pub(crate) async fn renew_credential(store: &Store, api: &Api) -> Result<()> {
    let account = store.read(Account::load)?;
    let own = account.credential()?;
    let credential = ClientCredential::parse(&own).map_err(|_| Error::Damaged("the credential"))?;
    let ends_soon = credential.not_after <= store.now() + RENEW_BEFORE || credential.user != account.user;
    if !ends_soon && !store.read(|tx| issuer::is_due(tx, &api.origin))? {
        return Ok(());
    }
    let keys = issuer::authentication_keys(store, api).await?;
    if credential.not_after < store.now() {
        // It was nobody's device meanwhile, to which nobody wrote.
        store.write(contact::missed_letters)?;
    }
    if ends_soon || issuer::is_worthless(&own, &keys, store.now()) {
        obtain_credential(store, api, account).await?;
    }
    store.write(|tx| issuer::looked(tx, &api.origin))
}

/// A credential of this client's that others will accept.
///
/// # Errors
/// [`IdentityError::Credential`].
pub(crate) async fn verified(
    store: &Store,
    api: &Api,
    account: &Account,
    credential: IssuedCredential,
) -> Result<IssuedCredential> {
    let keys = issuer::authentication_keys(store, api).await?;
    let is_ours = |found: &ClientCredential| {
        found.user == account.user && found.client_key == account.client_key().public_key()
    };
    issuer::verify_credential(&credential, &keys, store.now())
        .ok()
        .filter(is_ours)
        .ok_or(IdentityError::Credential)?;
    Ok(credential)
}
