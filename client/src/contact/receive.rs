//! Letters that arrive in the contact queue.

use postern_protocol::Payload;

use super::{
    friends,
    letter::{self, LetterBody},
    own_devices,
    requests::{self, ContactSender},
};
use crate::{account::Account, error::Rejection, event::Event, identity, invitations, store::Tx};

/// Lets a deposit take effect.
pub(crate) fn receive_letter(tx: &Tx<'_>, deposit: &Payload) -> Result<(), Rejection> {
    let account = Account::load(tx)?;
    let letter = letter::open(deposit, &account.contact_address, &account.contact_key())
        .ok_or_else(|| Rejection::invalid("a deposit is no letter to us"))?;
    if identity::is_revoked(tx, &letter.sender.issuer_key)? {
        return Err(Rejection::invalid("a letter's credential was signed by a key that the server revoked"));
    }
    let (client_key, user) = (letter.sender.client_key, letter.sender.user);
    match letter.body {
        LetterBody::Request(request) => {
            if request.contact.domain != *account.user.domain() {
                return Err(Rejection::invalid("a contact request is from another domain"));
            }
            requests::keep_request(tx, &ContactSender { user, client_key }, &request)?;
        }
        LetterBody::Answer(answer) => {
            if !requests::is_answer(tx, &answer.request_id, &client_key, &user)? {
                return Err(Rejection::invalid("an answer came that we did not ask for"));
            }
            friends::keep_friend(tx, &user, &answer.friend)?;
            if invitations::waits_for_user(tx, &user)? {
                invitations::want_key_packages(tx, &user)?;
            }
            Event::ContactAnswered { user }.record(tx)?;
        }
        LetterBody::Renewal(friend) => {
            // Only from devices that a lookup confirmed, of users that gave us theirs before.
            let known = identity::confirmed(tx, &client_key)?.as_ref() == Some(&user)
                && friends::friend(tx, &user)?.is_some();
            if !known {
                return Err(Rejection::invalid("a friendship came that we did not ask for"));
            }
            friends::keep_friend(tx, &user, &friend)?;
        }
        LetterBody::Secrets(secrets) => {
            if user != account.user {
                return Err(Rejection::invalid("secrets came that are not from a device of ours"));
            }
            own_devices::keep_secrets(tx, &client_key, &secrets)?;
        }
    }
    Ok(())
}
