//! Fetching the KeyPackages of users that groups wait for.

use postern_protocol::{
    PublicKey, auth::SignedContact, mls::CIPHERSUITE, name::UserName, problem::ProblemType,
};

use super::theirs::{FriendsKeyPackage, keep_key_package, key_package_of, open_key_package};
use crate::{
    account::Account,
    contact::{self, Friendship},
    elsewhere,
    error::{Result, goes_on},
    event::Event,
    identity::{self, VerifiedUser},
    invitations,
    server::Api,
    store::{Store, Tx},
};

/// Seconds by which the clocks of a QS and of ours may differ.
const BATCH_TOLERANCE: u64 = 300;

/// Fetches the KeyPackages of users that are invited, and keeps them for the commits to come.
pub(crate) async fn fetch_key_packages(store: &Store, api: &Api) -> Result<()> {
    for user in store.read(invitations::wanted_key_packages)? {
        goes_on(fetch_of(store, api, &user).await)?;
    }
    Ok(())
}

async fn fetch_of(store: &Store, api: &Api, user: &UserName) -> Result<()> {
    let done = |tx: &Tx<'_>| invitations::fetched(tx, user);
    let account = store.read(Account::load)?;
    let friend = if account.user == *user {
        Some(store.read(Friendship::load)?.secrets.friend.clone())
    } else {
        store.read(|tx| contact::friend(tx, user))?
    };
    let Some(friend) = friend else {
        return store.write(done);
    };
    let qs = elsewhere::api_for(api, user.domain())?;
    let batch = match qs.fetch_key_packages(friend.friendship_token, CIPHERSUITE).await {
        // The user took another token, and did not tell us: we ask anew.
        Err(error) if error.problem() == Some(ProblemType::NotFound) => {
            let found = identity::look_up(api, store, user).await?;
            return store.write(|tx| {
                contact::forget_friend(tx, user)?;
                contact::ask(tx, user, &awaited_devices(tx, &found)?)?;
                done(tx)
            });
        }
        answer => answer?,
    };
    let keys = qs.http.queuing_keys().await?;
    if keys.domain != *user.domain() || batch.verify(&keys, store.now(), BATCH_TOLERANCE).is_err() {
        let reason = "the server's word for a batch of KeyPackages does not hold";
        return store.write(|tx| {
            Event::ignored(reason).record(tx)?;
            done(tx)
        });
    }
    let open = |tx: &Tx<'_>| -> Vec<Option<FriendsKeyPackage>> {
        batch.key_packages.iter().map(|package| open_key_package(tx, &friend, package)).collect()
    };
    let packages = store.read(|tx| Ok(open(tx)))?;
    let all_known = store.read(|tx| {
        packages.iter().flatten().try_fold(true, |known, package| Ok(known && is_known(tx, user, package)?))
    })?;
    if !all_known {
        // A device that is newer than our last lookup.
        identity::look_up(api, store, user).await?;
    }
    let own_key = account.client_key().public_key();
    store.write(|tx| {
        keep_batch(tx, user, &own_key, &packages)?;
        done(tx)
    })
}

/// Keeps the KeyPackages that were handed out as a user's, if their clients are the user's; `None` stands for one that does
/// not open. All that have the user's friendship could seal one, and a QS hand it out.
pub(crate) fn keep_batch(
    tx: &Tx<'_>,
    user: &UserName,
    own_key: &PublicKey,
    packages: &[Option<FriendsKeyPackage>],
) -> Result<()> {
    for package in packages {
        match package {
            Some(package) if package.client.client_key == *own_key => {}
            Some(package) if package.client.user == *user && is_known(tx, user, package)? => {
                keep_key_package(tx, package)?;
            }
            _ => Event::ignored(format!("a KeyPackage of {user} is unusable")).record(tx)?,
        }
    }
    Ok(())
}

/// Whether a lookup showed that a KeyPackage's client is one of a user's.
fn is_known(tx: &Tx<'_>, user: &UserName, package: &FriendsKeyPackage) -> Result<bool> {
    Ok(identity::confirmed(tx, &package.client.client_key)?.as_ref() == Some(user))
}

/// The devices of a user that groups wait for and whose KeyPackages are not at hand.
fn awaited_devices<'a>(tx: &Tx<'_>, user: &'a VerifiedUser) -> Result<Vec<(PublicKey, &'a SignedContact)>> {
    let mut devices = Vec::new();
    for client in &user.clients {
        if let Some(contact) = &client.contact
            && invitations::waits_for_client(tx, &client.client_key)?.is_some()
            && key_package_of(tx, &client.client_key)?.is_none()
        {
            devices.push((client.client_key, contact));
        }
    }
    Ok(devices)
}
