//! This client's own credential.

use postern_protocol::{IssuedCredential, credential::ClientCredential};

use super::issuer;
use crate::{
    account::Account,
    error::{Error, IdentityError, Result},
    server::Api,
    store::Store,
};

/// How many seconds before its end a credential is renewed.
const RENEW_BEFORE: u64 = 30 * 24 * 60 * 60;

/// Has the AS sign the client's key, and keeps what it signed.
pub(crate) async fn obtain_credential(store: &Store, api: &Api, mut account: Account) -> Result<Account> {
    let credential = api.sign_credential(&account.client_key()).await?;
    account.credential = Some(verified(api, &account, credential, store.now()).await?);
    store.write(|tx| account.save(tx))?;
    Ok(account)
}

/// Has the AS sign a new credential long before the old one ends.
pub(crate) async fn renew_credential(store: &Store, api: &Api) -> Result<()> {
    let account = store.read(Account::load)?;
    let credential =
        ClientCredential::parse(&account.credential()?).map_err(|_| Error::Damaged("the credential"))?;
    if credential.not_after > store.now() + RENEW_BEFORE && credential.user == account.user {
        return Ok(());
    }
    obtain_credential(store, api, account).await.map(drop)
}

/// A credential of this client's that others will accept.
///
/// # Errors
/// [`IdentityError::Credential`].
pub(crate) async fn verified(
    api: &Api,
    account: &Account,
    credential: IssuedCredential,
    now: u64,
) -> Result<IssuedCredential> {
    let keys = api.http.authentication_keys().await?;
    let is_ours = |found: &ClientCredential| {
        found.user == account.user && found.client_key == account.client_key().public_key()
    };
    issuer::verify_credential(&credential, &keys, now)
        .ok()
        .filter(is_ours)
        .ok_or(IdentityError::Credential)?;
    Ok(credential)
}
