//! From an empty directory to the first client of a user who lost all others (AS-8). The AS ends the user's identity, and
//! this client begins the next, which is chained to it. Contacts see a reset.

use std::{path::Path, sync::Arc};

use postern_api::Http;
use postern_protocol::{
    account::{EndIdentity, ResetAccount},
    eid::EidState,
    name::UserName,
    second_proof::Operation,
};

use super::{Account, OwnerProof};
use crate::{
    contact::{Friendship, FriendshipSecrets},
    error::{Error, Result},
    identity::{self, eid},
    options::Options,
    session,
    setup::{self, full_name},
    store::Store,
};

/// The nonce for the ID token of a reset of `name`, whose keys are made if there are none.
pub(crate) async fn nonce(directory: &Path, server: &str, name: &str, options: &Options) -> Result<String> {
    let user = full_name(&Http::new(server)?, name).await?;
    let store = Store::create(directory, options)?;
    let _step = store.step().await?;
    let account = begun(&store, server, user)?;
    let client = account.client_key().public_key();
    // The time is in no nonce: the token has its own.
    Ok(Operation::EndIdentity { client, time: store.now() }.nonce(&account.user, &client))
}

/// Begins the identity of `name` anew; the name may leave out the server's domain. Takes up a reset that was interrupted.
pub(crate) async fn reset(
    directory: &Path,
    server: &str,
    name: &str,
    proof: OwnerProof<'_>,
    options: &Options,
) -> Result<Arc<Store>> {
    let http = Http::new(server)?;
    let user = full_name(&http, name).await?;
    let store = Arc::new(Store::create(directory, options)?);
    let step = store.step().await?;
    let mut account = begun(&store, server, user)?;
    let (client, user) = (account.client_key(), account.user.clone());
    if account.credential.is_none() && account.reset.is_none() {
        let time = store.now();
        let proof_of_end = proof.of(&user, &Operation::EndIdentity { client: client.public_key(), time });
        let end = EndIdentity { name: user.clone(), time, proof: proof_of_end };
        let ended = http.end_identity(&end, &client).await?;
        account = store.write(|tx| {
            let mut account = Account::load(tx)?;
            let new = eid::create(tx, &user, &client, Some(&ended))?;
            account.eid_group_id = Some(new.group_id);
            let EidState { transcript: founding, .. } = new.state.eid;
            account.reset = Some(ResetAccount {
                name: user.clone(),
                group_info: new.group_info,
                ratchet_tree: new.ratchet_tree,
                state: new.state,
                proof: proof.of(&user, &Operation::ResetAccount { founding }),
            });
            account.save(tx)?;
            Ok(account)
        })?;
    }
    let api = session::api(&store, http, &account);
    if let Some(mut request) = account.reset.take() {
        // The same request again gets the same answer, as a registration does. A login may be too long ago by now.
        let founding = request.state.eid.transcript;
        request.proof = proof.of(&user, &Operation::ResetAccount { founding });
        match api.http.reset_account(&request, &client).await {
            Ok(credential) => account = identity::keep_credential(&store, &api, account, credential).await?,
            // If the key is nobody's, another client was faster, with the same proof. The next attempt ends what that began.
            Err(error) => account = setup::made_before(&store, &api, account, error.into()).await?,
        }
    }
    setup::finish(&store, &api, account).await?;
    drop(step);
    Ok(store)
}

/// The account whose reset begins in this directory, or began there.
fn begun(store: &Store, server: &str, user: UserName) -> Result<Account> {
    match store.read(Account::find)? {
        None => store.write(|tx| {
            // Kept before anything ends: the key is the one that begins the next identity.
            let mut account = Account::new(server.to_owned(), user)?;
            account.resets = true;
            account.save(tx)?;
            Friendship::join(FriendshipSecrets::generate()?).save(tx)?;
            Ok(account)
        }),
        Some(account) if account.user == user && !account.ready && account.resets => Ok(account),
        Some(_) => Err(Error::ClientExists(store.directory().to_owned())),
    }
}
