//! From an empty directory to the first client of a user who lost all others (AS-8). The AS ends the user's identity, and
//! this client begins the next, which is chained to it. Contacts see a reset.

use std::{path::Path, sync::Arc};

use postern_api::Http;
use postern_protocol::{
    account::{EndIdentity, ResetAccount},
    eid::EidState,
    problem::ProblemType,
    second_proof::{Operation, RecoveryKey, SecondProof},
};

use super::Account;
use crate::{
    contact::{Friendship, FriendshipSecrets},
    error::{Error, Result},
    identity::{self, eid},
    options::Options,
    session,
    setup::{self, full_name},
    store::Store,
};

/// Begins the identity of `name` anew; the name may leave out the server's domain. Takes up a reset that was interrupted.
pub(crate) async fn reset(
    directory: &Path,
    server: &str,
    name: &str,
    recovery_key: &RecoveryKey,
    options: &Options,
) -> Result<Arc<Store>> {
    let http = Http::new(server)?;
    let user = full_name(&http, name).await?;
    let store = Arc::new(Store::create(directory, options)?);
    let step = store.step().await?;
    let mut account = match store.read(Account::find)? {
        None => store.write(|tx| {
            // Kept before anything ends: the key is the one that begins the next identity.
            let mut account = Account::new(server.to_owned(), user)?;
            account.resets = true;
            account.save(tx)?;
            Friendship::join(FriendshipSecrets::generate()?).save(tx)?;
            Ok(account)
        })?,
        Some(account) if account.user == user && !account.ready && account.resets => account,
        Some(_) => return Err(Error::ClientExists(directory.to_owned())),
    };
    let (client, user) = (account.client_key(), account.user.clone());
    let prove = |operation: &Operation<'_>| SecondProof::recovery(recovery_key, &user, operation);
    if account.credential.is_none() && account.reset.is_none() {
        let time = store.now();
        let proof = prove(&Operation::EndIdentity { client: client.public_key(), time });
        let ended = http.end_identity(&EndIdentity { name: user.clone(), time, proof }, &client).await?;
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
                proof: prove(&Operation::ResetAccount { founding }),
            });
            account.save(tx)?;
            Ok(account)
        })?;
    }
    let api = session::api(&store, http, &account);
    if let Some(request) = account.reset.take() {
        // The same request again gets the same answer, as a registration does.
        let credential = match api.http.reset_account(&request, &client).await {
            Ok(credential) => credential,
            Err(error) => {
                if error.problem() == Some(ProblemType::NotAllowed) {
                    // Another client was faster, with the same recovery key. The next attempt ends what that began.
                    store.write(|tx| {
                        eid::delete(tx)?;
                        Friendship::delete(tx)
                    })?;
                }
                return Err(error.into());
            }
        };
        account.credential = Some(identity::verified(&store, &api, &account, credential).await?);
        store.write(|tx| account.save(tx))?;
    }
    setup::finish(&store, &api, account).await?;
    drop(step);
    Ok(store)
}
