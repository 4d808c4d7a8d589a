//! Blocking a user (QS-7): taking another friendship token and telling everyone else. Owns the
//! table `rotations`.

use postern_protocol::{
    PublicKey, auth::SignedContact, name::UserName, problem::ProblemType, qs::RotateFriendshipToken,
};
use rusqlite::OptionalExtension as _;

use super::{
    deposits::write_letter,
    friends,
    friendship::{self, Friendship},
    letter::LetterBody,
};
use crate::{
    account::Account,
    error::{Result, or_repeated},
    server::Api,
    store::{Store, Tx, decode, encode},
};

/// Takes another friendship token, and writes it to all who had the old one but `user`: to the
/// user's own `devices` with the secrets, to contacts without.
pub(crate) fn block(tx: &Tx<'_>, user: &UserName, devices: &[(PublicKey, &SignedContact)]) -> Result<()> {
    let account = Account::load(tx)?;
    let old = Friendship::load(tx)?;
    let secrets = old.secrets.without(user)?;
    let rotation = RotateFriendshipToken {
        friendship_token: old.token(),
        new_friendship_token: secrets.friend.friendship_token,
    };
    tx.sql().execute("INSERT INTO rotations (one, rotation) VALUES (1, ?1)", [encode(&rotation)])?;
    for (client_key, contact) in devices {
        if *client_key != account.client_key().public_key() {
            let body = LetterBody::Secrets(secrets.clone());
            write_letter(tx, &account, &account.user, contact, &body)?;
        }
    }
    friends::take_back(tx, user)?;
    for (user, contact) in friends::given(tx)? {
        if secrets.is_blocked(&user) {
            continue; // By another device of this user.
        }
        let body = LetterBody::Renewal(secrets.friend.clone());
        write_letter(tx, &account, &user, &contact, &body)?;
    }
    friendship::replace(tx, secrets)
}

/// Has the QS replace a friendship token, if another one was taken here. Comes before anybody is
/// told.
pub(crate) async fn rotate_friendship_token(store: &Store, api: &Api) -> Result<()> {
    let rotation: Option<Vec<u8>> = store.read(|tx| {
        Ok(tx.sql().query_row("SELECT rotation FROM rotations", [], |row| row.get(0)).optional()?)
    })?;
    let Some(rotation) = rotation else { return Ok(()) };
    let rotation = decode(&rotation, "a rotation")?;
    let owner = store.read(Friendship::load)?.secrets.owner();
    let answer = api.rotate_friendship_token(&rotation, &owner).await;
    // Rotated by an attempt whose answer was lost, or not there at all.
    or_repeated(answer, ProblemType::NotFound)?;
    store.write(|tx| {
        tx.sql().execute("DELETE FROM rotations", [])?;
        Ok(())
    })
}
