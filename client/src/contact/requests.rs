//! Contact requests of this device, and of others. Owns the tables `requests` and
//! `received_requests`.

use postern_protocol::{PublicKey, auth::SignedContact, name::UserName};
use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::{
    deposits::write_letter,
    friends,
    friendship::Friendship,
    letter::{ContactAnswer, ContactRequest, LetterBody, RequestId},
};
use crate::{
    account::Account,
    error::{Error, Result, goes_on},
    event::Event,
    identity,
    options::Options,
    server::Api,
    store::{Store, Tx, decode, encode},
};

/// Sender of a contact request: named by its credential, which its key signed. Whether the AS
/// vouches for it was not asked yet.
#[derive(Serialize, Deserialize)]
pub(super) struct ContactSender {
    pub user: UserName,
    pub client_key: PublicKey,
}

/// Asks devices of a user for the user's friendship.
pub(crate) fn ask(tx: &Tx<'_>, user: &UserName, devices: &[(PublicKey, &SignedContact)]) -> Result<()> {
    let account = Account::load(tx)?;
    for (client_key, contact) in devices {
        let request_id = RequestId::new(rand::random());
        let request = ContactRequest { request_id, contact: account.contact()? };
        tx.sql().execute(
            "INSERT INTO requests (request_id, client_key, user) VALUES (?1, ?2, ?3)",
            params![request_id.as_bytes(), client_key.as_bytes(), user.to_string()],
        )?;
        write_letter(tx, &account, user, contact, &LetterBody::Request(request))?;
    }
    Ok(())
}

/// Ends a request of this device's. False if a client of a user was not asked that, or answered
/// before.
pub(super) fn is_answer(
    tx: &Tx<'_>,
    request_id: &RequestId,
    client_key: &PublicKey,
    user: &UserName,
) -> Result<bool> {
    let asked = tx.sql().execute(
        "DELETE FROM requests WHERE request_id = ?1 AND client_key = ?2 AND user = ?3",
        params![request_id.as_bytes(), client_key.as_bytes(), user.to_string()],
    )?;
    Ok(asked > 0)
}

/// Keeps a request of another client's until it is answered.
pub(super) fn keep_request(tx: &Tx<'_>, sender: &ContactSender, request: &ContactRequest) -> Result<()> {
    tx.sql().execute(
        "INSERT OR IGNORE INTO received_requests (request_id, request) VALUES (?1, ?2)",
        params![request.request_id.as_bytes(), encode(&(sender, request))],
    )?;
    Ok(())
}

/// The requests of others that were not answered yet.
fn unanswered(tx: &Tx<'_>) -> Result<Vec<(ContactSender, ContactRequest)>> {
    let mut statement = tx.sql().prepare("SELECT request FROM received_requests")?;
    let rows = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<Vec<u8>>, _>>()?;
    rows.iter().map(|row| decode(row, "a contact request")).collect()
}

/// Answers contact requests with this user's friendship.
pub(crate) async fn answer_requests(store: &Store, api: &Api, options: &Options) -> Result<()> {
    for (sender, request) in store.read(unanswered)? {
        goes_on(answer(store, api, options, sender, request).await)?;
    }
    Ok(())
}

async fn answer(
    store: &Store,
    api: &Api,
    options: &Options,
    sender: ContactSender,
    request: ContactRequest,
) -> Result<()> {
    let known = match identity::look_up(api, store, &sender.user).await {
        Ok(user) => user.clients.iter().any(|client| client.client_key == sender.client_key),
        Err(error) if error.refusal().is_some() || matches!(error, Error::Identity(_)) => {
            tracing::warn!(%error, "a contact request cannot be verified");
            false
        }
        // The request waits until the AS was heard.
        Err(error) => return Err(error),
    };
    store.write(|tx| {
        tx.sql().execute(
            "DELETE FROM received_requests WHERE request_id = ?1",
            [request.request_id.as_bytes()],
        )?;
        if !known {
            return Event::ignored("a contact request is not from whom it says").record(tx);
        }
        let account = Account::load(tx)?;
        let secrets = &Friendship::load(tx)?.secrets;
        let accepted = options.accept_contacts && !secrets.is_blocked(&sender.user);
        Event::ContactRequested { user: sender.user.clone(), accepted }.record(tx)?;
        if !accepted {
            return Ok(());
        }
        let answer = ContactAnswer { request_id: request.request_id, friend: secrets.friend.clone() };
        friends::give(tx, &sender.client_key, &sender.user, &request.contact)?;
        write_letter(tx, &account, &sender.user, &request.contact, &LetterBody::Answer(answer))
    })
}
