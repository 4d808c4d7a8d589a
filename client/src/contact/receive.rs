//! Letters that arrive in the contact queue.

use postern_protocol::{Payload, encoding::Encoding};

use super::{
    friends,
    letter::{self, LetterBody},
    own_devices,
    requests::{self, ContactSender},
};
use crate::{
    account::Account,
    error::Rejection,
    event::Event,
    group::{self, GroupHandover},
    identity, invitations,
    store::Tx,
};

/// Lets a deposit take effect.
pub(crate) fn receive_letter(tx: &Tx<'_>, deposit: &Payload) -> Result<(), Rejection> {
    let account = Account::load(tx)?;
    let letter = letter::open(deposit, &account.contact_address, &account.contact_key())
        .ok_or_else(|| Rejection::invalid("a deposit is no letter to us"))?;
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
        LetterBody::Groups(groups) => {
            if user != account.user {
                return Err(Rejection::invalid("groups came that are not from a device of ours"));
            }
            let groups: Vec<GroupHandover> = Encoding::Cbor
                .decode(groups.as_bytes())
                .map_err(|_| Rejection::invalid("a list of groups is malformed"))?;
            group::keep_received(tx, &client_key, &groups)?;
        }
    }
    Ok(())
}
