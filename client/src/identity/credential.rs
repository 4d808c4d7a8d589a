//! This client's own credential.

use postern_protocol::{IssuedCredential, credential::ClientCredential, name::UserName};

use super::issuer;
use crate::{
    account::Account,
    clock::is_of_the_future,
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

/// Keeps the credential that the AS answered a registration or a reset with. A repeat is answered as the first time, and that may
/// be long ago: then the credential has ended, or its issuer's key was revoked, and the AS is asked for another one.
pub(crate) async fn keep_credential(
    store: &Store,
    api: &Api,
    mut account: Account,
    credential: IssuedCredential,
) -> Result<Account> {
    match verified(store, api, &account, credential).await {
        Err(Error::Identity(IdentityError::Credential)) => obtain_credential(store, api, account).await,
        credential => {
            account.credential = Some(credential?);
            store.write(|tx| account.save(tx))?;
            Ok(account)
        }
    }
}

/// Has the AS sign a new credential long before the old one ends, and when the key that signed the old one is good no
/// more: once an hour it looks. Where an end is near, or the old one is no good yet, it asks with every errand until it has the
/// new one.
pub(crate) async fn renew_credential(store: &Store, api: &Api) -> Result<()> {
    let account = store.read(Account::load)?;
    let own = account.credential()?;
    let credential = ClientCredential::parse(&own).map_err(|_| Error::Damaged("the credential"))?;
    let is_due = is_due(&credential, &account.user, store.now());
    if !is_due && !store.read(|tx| issuer::is_due(tx, &api.origin))? {
        return Ok(());
    }
    let keys = issuer::authentication_keys(store, api).await?;
    if credential.not_after < store.now() {
        // It was nobody's device meanwhile, to which nobody wrote.
        store.write(contact::missed_letters)?;
    }
    if is_due || issuer::is_worthless(&own, &keys, store.now()) {
        obtain_credential(store, api, account).await?;
    }
    store.write(|tx| issuer::looked(tx, &api.origin))
}

/// Whether a credential is to be renewed now (seconds since 1970): it ends soon, names the user by another name, or was made while
/// this clock and the AS's were ahead, and is good for nothing until then.
fn is_due(credential: &ClientCredential, user: &UserName, now: u64) -> bool {
    credential.not_after <= now + RENEW_BEFORE
        || credential.user != *user
        || is_of_the_future(credential.not_before, now)
}

/// A credential of this client's that others will accept.
///
/// # Errors
/// [`IdentityError::Credential`].
async fn verified(
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

#[cfg(test)]
mod tests {
    use postern_protocol::PublicKey;

    use super::*;

    #[test]
    fn a_credential_is_renewed_before_its_end_and_when_it_is_of_a_time_to_come() {
        const DAY: u64 = 24 * 60 * 60;
        let now = 1_800_000_000;
        let [alice, alicia]: [UserName; 2] =
            ["alice@example.org", "alicia@example.org"].map(|name| name.parse().unwrap());
        let is_due = |user: &UserName, not_before, not_after| {
            let (client_key, issuer_key) = (PublicKey::new([1; 32]), PublicKey::new([2; 32]));
            let credential =
                ClientCredential { user: alice.clone(), client_key, not_before, not_after, issuer_key };
            is_due(&credential, user, now)
        };
        assert!(!is_due(&alice, now - DAY, now + 31 * DAY));
        assert!(is_due(&alice, now - DAY, now + 29 * DAY), "it ends soon");
        assert!(is_due(&alicia, now - DAY, now + 31 * DAY), "the user has another name");
        assert!(!is_due(&alice, now + 300, now + 31 * DAY), "clocks differ");
        assert!(is_due(&alice, now + 3600, now + 31 * DAY));
        assert!(is_due(&alice, now + 365 * DAY, now + 455 * DAY), "both clocks were ahead");
    }
}
