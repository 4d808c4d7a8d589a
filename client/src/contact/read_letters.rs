//! Reading the letters that wait: the AS is asked about their senders, and each takes effect.

use std::collections::BTreeSet;

use postern_protocol::name::UserName;

use super::{
    contacts,
    effects::{Fate, Sender, take_effect},
    given_addresses,
    letter::LetterBody,
    letters,
    met_domains::may_ask,
};
use crate::{
    elsewhere,
    error::{Error, Rejection, Result, UNPAID_RETRY, goes_on},
    event::Event,
    identity,
    options::Options,
    server::Api,
    store::{Store, Tx},
};

/// Lets the letters take effect that wait, after one lookup of each user that they are from. Those that are too old are not worth
/// one.
pub(crate) async fn read_letters(store: &Store, api: &Api, options: &Options) -> Result<()> {
    store.write(letters::forget_old)?;
    for user in store.read(letters::senders)? {
        let domain = user.domain();
        let is_heard = |tx: &Tx<'_>| Ok(*domain == api.origin || identity::is_heard(tx, domain)?);
        if !store.read(is_heard)? && !store.write(|tx| may_ask(tx, domain))? {
            continue;
        }
        goes_on(read_from(store, api, options, &user).await)?;
    }
    Ok(())
}

/// Lets the letters of one user take effect.
async fn read_from(store: &Store, api: &Api, options: &Options, user: &UserName) -> Result<()> {
    let sender = ask_about(store, api, user).await?;
    if matches!(sender, Sender::Found(_)) {
        for contact in store.read(|tx| told_of(tx, user))? {
            goes_on(identity::look_up(api, store, &contact).await)?;
        }
    }
    store.write(|tx| {
        for letter in letters::waiting(tx, user)? {
            let fate = match take_effect(tx, user, &sender, &letter, options) {
                Ok(fate) => {
                    if let (Sender::Found(_), Fate::Done, Some(address)) = (&sender, &fate, &letter.address) {
                        let (client_key, number) = (&letter.client_key, letter.stamp.number);
                        given_addresses::keep(tx, user, client_key, address, number)?;
                    }
                    fate
                }
                Err(Rejection::Fault(error)) => return Err(error),
                Err(Rejection::Invalid(reason)) => {
                    Event::Ignored { reason }.record(tx)?;
                    Fate::Done
                }
                Err(_) => Fate::Done,
            };
            // Anybody can make a key up: only contacts are believed.
            if let (Sender::Found(_), Some(key)) = (&sender, &letter.home_key)
                && contacts::friend(tx, user)?.is_some()
            {
                elsewhere::was_told(tx, user.domain(), key)?;
            }
            match fate {
                Fate::Done => letters::forget(tx, &letter)?,
                Fate::Waits(due) => letters::wait(tx, &letter, due)?,
            }
        }
        Ok(())
    })
}

/// The users that this user's other devices know more of than this one does, as their letters tell.
fn told_of(tx: &Tx<'_>, user: &UserName) -> Result<BTreeSet<UserName>> {
    let mut users = BTreeSet::new();
    for letter in letters::waiting(tx, user)? {
        let told = match letter.body {
            LetterBody::Contact(contact) => vec![contact],
            LetterBody::Contacts { contacts, .. } => contacts,
            _ => Vec::new(),
        };
        for contact in told {
            if contact.is_ahead(identity::known(tx, &contact.user)?.as_ref()) {
                users.insert(contact.user);
            }
        }
    }
    Ok(users)
}

/// Asks the AS about a user.
async fn ask_about(store: &Store, api: &Api, user: &UserName) -> Result<Sender> {
    match identity::look_up(api, store, user).await {
        Ok(found) => Ok(Sender::Found(found)),
        Err(error) if error.is_of_nobody() => Ok(Sender::Absent),
        Err(error) if error.refusal().is_some() || matches!(error, Error::Identity(_)) => {
            tracing::warn!(%error, "the sender of a letter cannot be verified");
            Ok(Sender::Doubtful)
        }
        // The letter waits until the AS was heard.
        Err(error) => {
            if error.is_unpaid() {
                store.write(|tx| letters::postpone(tx, user, UNPAID_RETRY))?;
            } else if error.leads_nowhere() {
                store.write(|tx| letters::put_off(tx, user))?;
            }
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use postern_protocol::problem::ProblemType;

    use super::*;
    use crate::server::tests::Home;

    /// Has the client of this homeserver read a letter of somebody there that is half an hour old. Returns for how many seconds it
    /// waits from then on, at least and at most.
    async fn waits_after_reading(home: &Home) -> (u64, u64) {
        let store = &home.store;
        let sql = format!(
            "INSERT INTO letters (client_key, subject, user, number, time, stamp, body, stranger, due)
             VALUES (x'00', 'request', 'eve@home.example', 1, {}, x'', x'', 1, 0)",
            store.now() - 1800
        );
        store.write(|tx| Ok(tx.sql().execute(&sql, [])?)).unwrap();
        assert_eq!(store.read(letters::senders).unwrap().len(), 1);
        let before = store.now();
        read_letters(store, &home.api, &Options::default()).await.expect("the other errands go on");
        let due = "SELECT due FROM letters";
        let due: u64 = store.read(|tx| Ok(tx.sql().query_row(due, [], |row| row.get(0))?)).unwrap();
        (due.saturating_sub(store.now()), due.saturating_sub(before))
    }

    #[tokio::test]
    async fn a_letter_whose_as_answers_nonsense_is_not_read_with_the_next_errands() {
        let (_, at_most) = waits_after_reading(&Home::of_nonsense()).await;
        assert!(at_most >= 1800, "until it is twice as old: {at_most}");
    }

    #[tokio::test]
    async fn a_letter_whose_as_could_not_be_asked_is_read_in_five_minutes_whatever_its_age() {
        let home = Home::behind_relay(ProblemType::NotAllowed);
        let (at_least, at_most) = waits_after_reading(&home).await;
        assert!(at_least <= UNPAID_RETRY && UNPAID_RETRY <= at_most, "{at_least} {at_most}");
    }
}
