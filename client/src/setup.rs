//! From an empty directory to a client that sends and receives: registration of a user
//! (AS-1) or linking to one (AS-3), credential, tokens, queues, contact. Each step is
//! stored before the next, and taking it up again after a crash repeats nothing.

use std::{path::Path, sync::Arc};

use postern_api::Http;
use postern_protocol::{
    MlsMessage,
    admission::{Admission, RegistrationTerms, registration_nonce as nonce_for},
    auth::RegisterUser,
    name::UserName,
    problem::ProblemType,
    qs::QueueKind,
    second_proof::RecoveryKey,
};

use crate::{
    account::{Account, LinkGrant, LinkRequest},
    contact::{Friendship, FriendshipSecrets},
    error::{Error, Result},
    identity::{self, eid},
    key_packages,
    link::Handover,
    mailbox::{self, KINDS, Queue, add_addresses},
    options::Options,
    server::Api,
    session,
    store::Store,
};

/// The proof that a registration at the server needs.
pub(crate) async fn registration_terms(server: &str) -> Result<RegistrationTerms> {
    Ok(Http::new(server)?.registration_terms().await?)
}

/// The nonce for the ID token of a registration of `name`, whose keys are made if there are none.
pub(crate) async fn registration_nonce(
    directory: &Path,
    server: &str,
    name: &str,
    options: &Options,
) -> Result<String> {
    let user = full_name(&Http::new(server)?, name).await?;
    let store = Store::create(directory, options)?;
    let _step = store.step().await?;
    let account = begun(&store, server, user)?;
    Ok(nonce_for(account.user.domain(), &account.client_key().public_key()))
}

/// Answers by which no account is made. An earlier attempt, whose answer was lost, may have made one: `not-allowed` is what
/// a key hears that is a client already, too.
const REFUSALS: [ProblemType; 4] =
    [ProblemType::NameTaken, ProblemType::NotAdmitted, ProblemType::AccountExists, ProblemType::NotAllowed];

/// Registers `name`, which may leave out the server's domain.
pub(crate) async fn register(
    directory: &Path,
    server: &str,
    name: &str,
    admission: Admission,
    options: &Options,
) -> Result<Arc<Store>> {
    let http = Http::new(server)?;
    let user = full_name(&http, name).await?;
    let store = Arc::new(Store::create(directory, options)?);
    let step = store.step().await?;
    let mut account = begun(&store, server, user)?;
    let api = session::api(&store, http, &account);
    if let Some(registration) = account.registration.take() {
        let registration = RegisterUser { admission, ..registration };
        // The same key and name again get the same answer: whether an earlier one was lost, nobody has
        // to know. The key is given up only when the AS says that it has no account.
        match api.http.register_user(&registration, &account.client_key()).await {
            Ok(credential) => account = identity::keep_credential(&store, &api, account, credential).await?,
            Err(error) => account = made_before(&store, &api, account, error.into()).await?,
        }
    }
    finish(&store, &api, account).await?;
    drop(step);
    Ok(store)
}

/// The account, if it is there though its registration or its reset was refused with this error. If the AS says that the
/// key is nobody's, what was made for it is given up: another may begin in this directory, of another name, say.
///
/// # Errors
/// The refusal.
pub(crate) async fn made_before(
    store: &Store,
    api: &Api,
    account: Account,
    refusal: Error,
) -> Result<Account> {
    if refusal.problem().is_some_and(|kind| REFUSALS.contains(&kind)) {
        // A client gets what it asks for; a key that is no client's, not even tokens to ask with.
        match identity::obtain_credential(store, api, account).await {
            Ok(account) => return Ok(account),
            Err(error) if error.problem() == Some(ProblemType::NotAllowed) => store.write(|tx| {
                eid::delete(tx)?;
                Friendship::delete(tx)
            })?,
            Err(_) => {}
        }
    }
    Err(refusal)
}

/// The account whose registration begins in this directory, or began there.
fn begun(store: &Store, server: &str, user: UserName) -> Result<Account> {
    match store.read(Account::find)? {
        None => store.write(|tx| {
            // Kept before it is sent: a crash in between must not lose the key to the name.
            let mut account = Account::new(server.to_owned(), user)?;
            let new = eid::create(tx, &account.user, &account.client_key(), None)?;
            account.eid_group_id = Some(new.group_id);
            let recovery_key = RecoveryKey::generate();
            account.set_recovery_key(Some(&recovery_key));
            account.registration = Some(RegisterUser {
                name: account.user.clone(),
                group_info: new.group_info,
                ratchet_tree: new.ratchet_tree,
                admission: Admission::Open,
                state: new.state,
                recovery_key: recovery_key.verifier(),
            });
            account.save(tx)?;
            Friendship::join(FriendshipSecrets::generate()?).save(tx)?;
            Ok(account)
        }),
        Some(account) if account.user == user && !account.ready && !account.resets => Ok(account),
        Some(_) => Err(Error::ClientExists(store.directory().to_owned())),
    }
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
        let account = match Account::find(tx)? {
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
        let mut account = Account::find(tx)?.ok_or_else(|| Error::NoClient(directory.to_owned()))?;
        if account.user != grant.user {
            return Err(Error::BadBlob("link grant"));
        }
        if account.eid_group_id.is_none() {
            let client_key = account.client_key().public_key();
            Handover::open(&grant.handover, &client_key, &account.contact_key())?
                .take_over(tx, &mut account)?;
        }
        Ok(account)
    })?;
    let api = session::api(&store, Http::new(&account.server)?, &account);
    finish(&store, &api, account).await?;
    drop(step);
    Ok(store)
}

/// Makes credential, queues and contact, as far as they are missing.
pub(crate) async fn finish(store: &Store, api: &Api, mut account: Account) -> Result<()> {
    if account.ready {
        return Ok(());
    }
    if account.credential.is_none() {
        eid::confirm(api, store, &account).await?;
        account = identity::obtain_credential(store, api, account).await?;
    }
    for kind in KINDS {
        if store.read(|tx| Queue::find(tx, kind))?.is_none() {
            mailbox::create_queue(store, api, kind).await?;
        }
    }
    let contact_queue = store.read(|tx| Queue::load(tx, QueueKind::Contact))?;
    add_addresses(api, &contact_queue, account.contact_addresses().to_vec(), Vec::new()).await?;
    // Before anyone can ask for this device: what friends fetch has it in it.
    key_packages::publish_if_due(store, api).await?;
    api.publish_contact(account.contact()?, &account.client_key()).await?;
    account.ready = true;
    store.write(|tx| {
        identity::looked_after(tx)?;
        account.save(tx)
    })
}

pub(crate) async fn full_name(http: &Http, name: &str) -> Result<UserName> {
    let full = if name.contains('@') {
        name.to_owned()
    } else {
        format!("{name}@{}", http.authentication_keys().await?.domain)
    };
    full.parse().map_err(Error::BadName)
}
