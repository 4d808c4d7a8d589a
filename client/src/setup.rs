//! From an empty directory to a client that sends and receives: registration of a user
//! (AS-1) or linking to one (AS-3), credential, tokens, queues, contact. Each step is
//! stored before the next, and taking it up again after a crash repeats nothing.

use std::{path::Path, sync::Arc};

use postern_api::Http;
use postern_protocol::{
    IssuedCredential, MlsMessage,
    chain::HpkePrivateKey,
    credential::ClientCredential,
    key::SigningKey,
    name::UserName,
    problem::ProblemType,
    qs::{CreateQueue, QueueKind},
    token::BATCH_SIZES,
};

use crate::{
    account::Account,
    contact, eid,
    error::{Error, IdentityError, Result},
    friendship::{Friendship, FriendshipSecrets},
    identity,
    link::{LinkGrant, LinkRequest},
    queue::Queue,
    server::Api,
    stock,
    store::{Options, Store},
    sync::{add_addresses, load_queue},
    wallet::{Owner, Wallet, now},
};

/// Registers `name`, which may leave out the server's domain.
pub(crate) async fn register(
    directory: &Path,
    server: &str,
    name: &str,
    options: &Options,
) -> Result<Arc<Store>> {
    let http = Http::new(server)?;
    let user = full_name(&http, name).await?;
    let store = Arc::new(Store::create(directory, options)?);
    let step = store.step().await?;
    let mut account = match store.read(Account::load)? {
        None => store.write(|tx| {
            // Kept before it is sent: a crash in between must not lose the key to the name.
            let mut account = Account::new(server.to_owned(), user)?;
            let (group_id, registration) = eid::create(tx, &account.user, &account.client_key())?;
            account.eid_group_id = Some(group_id);
            account.registration = Some(registration);
            account.friendship = Some(Friendship::join(FriendshipSecrets::generate()?));
            account.save(tx)?;
            Ok(account)
        })?,
        Some(account) if account.user == user && !account.ready => account,
        Some(_) => return Err(Error::ClientExists(directory.to_owned())),
    };
    let api = api(&store, http, &account);
    if let Some(registration) = account.registration.take() {
        let answer = api.http.register_user(&registration, &account.client_key()).await;
        match answer {
            Ok(credential) => account.credential = Some(verified(&api, &account, credential).await?),
            // Ours, if an earlier answer was lost: then the AS knows our key.
            Err(error) if error.problem() == Some(ProblemType::NameTaken) => {
                if api.wallet.fetch(BATCH_SIZES[0]).await.is_err() {
                    store.write(eid::delete)?;
                    return Err(error.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
        store.write(|tx| account.save(tx))?;
    }
    finish(&store, &api, account).await?;
    drop(step);
    Ok(store)
}

/// Makes the keys of a new device of `name`, and its request to be added. Offline.
pub(crate) fn request_link(
    directory: &Path,
    server: &str,
    user: &UserName,
    options: &Options,
) -> Result<LinkRequest> {
    Http::new(server)?;
    Store::create(directory, options)?.write(|tx| {
        let account = match Account::load(tx)? {
            None => Account::new(server.to_owned(), user.clone())?,
            Some(account) if account.user == *user && account.eid_group_id.is_none() => account,
            Some(_) => return Err(Error::ClientExists(directory.to_owned())),
        };
        account.save(tx)?;
        let key_package = eid::key_package(tx, user, &account.client_key())?;
        let hpke_key = account.contact_key().public_key().map_err(Error::mls("cannot use a key"))?;
        Ok(LinkRequest { user: user.clone(), key_package: MlsMessage::new(key_package), hpke_key })
    })
}

/// Makes a linked device ready, once another device granted its request.
pub(crate) async fn complete_link(
    directory: &Path,
    grant: &LinkGrant,
    options: &Options,
) -> Result<Arc<Store>> {
    let store = Arc::new(Store::open(directory, options)?);
    let step = store.step().await?;
    let account = store.write(|tx| {
        let mut account = Account::load(tx)?.ok_or_else(|| Error::NoClient(directory.to_owned()))?;
        if account.user != grant.user {
            return Err(Error::BadBlob("link grant"));
        }
        if account.eid_group_id.is_none() {
            let client_key = account.client_key().public_key();
            let secrets = contact::open_secrets(&grant.friendship, &client_key, &account.contact_key())
                .ok_or(Error::BadBlob("link grant"))?;
            account.friendship = Some(Friendship::join(secrets));
            account.eid_group_id = Some(eid::join(tx, &account.user, &grant.welcome)?);
            account.save(tx)?;
        }
        Ok(account)
    })?;
    let api = api(&store, Http::new(&account.server)?, &account);
    finish(&store, &api, account).await?;
    drop(step);
    Ok(store)
}

pub(crate) fn api(store: &Arc<Store>, http: Http, account: &Account) -> Api {
    let domain = account.user.domain().clone();
    let owner = Owner { domain: domain.clone(), client_key: account.client_key() };
    Api::new(http.clone(), domain, Wallet::new(store.clone(), http, owner))
}

/// Credential, queues and contact, as far as they are missing.
async fn finish(store: &Store, api: &Api, mut account: Account) -> Result<()> {
    if account.ready {
        return Ok(());
    }
    if account.credential.is_none() {
        account = obtain_credential(store, api, account).await?;
    }
    for kind in [QueueKind::Contact, QueueKind::Group] {
        if store.read(|tx| Queue::load(tx, kind))?.is_none() {
            create_queue(store, api, kind).await?;
        }
    }
    let contact_queue = store.read(|tx| load_queue(tx, QueueKind::Contact))?;
    let address = vec![account.contact_address];
    add_addresses(api, &contact_queue, address, Vec::new()).await?;
    // Before anyone can ask for this device: what friends fetch has it in it.
    stock::keep(store, api).await?;
    api.publish_contact(account.contact()?, &account.client_key()).await?;
    account.ready = true;
    store.write(|tx| account.save(tx))
}

/// Has the AS sign the client's key, and keeps what it signed.
pub(crate) async fn obtain_credential(store: &Store, api: &Api, mut account: Account) -> Result<Account> {
    let credential = api.sign_credential(&account.client_key()).await?;
    account.credential = Some(verified(api, &account, credential).await?);
    store.write(|tx| account.save(tx))?;
    Ok(account)
}

/// Each queue has keys of its own, so that nothing links the two (QS-1).
async fn create_queue(store: &Store, api: &Api, kind: QueueKind) -> Result<()> {
    let owner = SigningKey::generate();
    let hpke = HpkePrivateKey::generate().map_err(Error::mls("cannot make a key"))?;
    let hpke_key = hpke.public_key().map_err(Error::mls("cannot make a key"))?;
    let id = api.create_queue(&CreateQueue { kind, hpke_key }, &owner).await?;
    store.write(|tx| Queue::new(kind, id, owner, hpke).save(tx))
}

/// A credential of ours that others will accept.
async fn verified(api: &Api, account: &Account, credential: IssuedCredential) -> Result<IssuedCredential> {
    let keys = api.http.authentication_keys().await?.keys;
    let is_ours = |found: &ClientCredential| {
        found.user == account.user && found.client_key == account.client_key().public_key()
    };
    identity::verify_credential(&credential, &keys, now())
        .ok()
        .filter(is_ours)
        .ok_or(IdentityError::Credential)?;
    Ok(credential)
}

async fn full_name(http: &Http, name: &str) -> Result<UserName> {
    let full = if name.contains('@') {
        name.to_owned()
    } else {
        format!("{name}@{}", http.authentication_keys().await?.domain)
    };
    full.parse().map_err(Error::BadName)
}
