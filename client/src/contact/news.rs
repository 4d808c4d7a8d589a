//! News for contacts and for this user's other devices, and answers to those that asked, until letters are written. They
//! go to the devices that a user has by then: the AS is asked first, so that a removed device hears nothing (AS-13). Owns
//! the table `news`.

use postern_protocol::{PublicKey, name::UserName, problem::ProblemType};
use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::{
    contacts,
    deposits::write_letter,
    friendship::Friendship,
    letter::{ContactAnswer, LetterBody},
    parts,
    requests::DeviceRequest,
};
use crate::{
    account::Account,
    error::{Error, Result, UNPAID_RETRY, goes_on},
    identity::{self, VerifiedClient, VerifiedUser},
    profile,
    server::Api,
    store::{Store, Tx, decode, encode, integer},
};

/// Seconds before a user is looked up again whose record does not hold together, or whose reset nobody accepted.
const RETRY_AFTER: u64 = 24 * 60 * 60;
/// Seconds before a user that the AS does not know is looked up again.
const MISSED_RETRY: u64 = 60 * 60;
/// Seconds before a user is looked up again of whom the AS said nothing that can be used.
const UNANSWERED_RETRY: u64 = 60 * 60;
/// How often the AS may know nobody of a name before its news are dropped: a user that not everybody can look up may have
/// another key, which is on its way.
const MISSES: u32 = 3;

/// Contacts in one letter. A deposit has 16 KiB at most, and the longest names fill a kilobyte with what was agreed.
const CONTACTS: usize = 12;

/// Something that devices of a user are to be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum News {
    /// To a device that asked: its user may add this one to groups.
    Answer(DeviceRequest),
    /// To a device that asked: its user may not.
    Decline(DeviceRequest),
    /// To a contact: there is another friendship.
    Renewal,
    /// To a contact: this user had another name before.
    Moved(UserName),
    /// To a contact: this user's account ends.
    Gone,
    /// To a contact: this user's profile changed.
    Profile,
    /// To this user's other devices: there is another friendship, or a user is blocked or not any more.
    Secrets,
    /// To this user's other devices: something was agreed with a contact.
    Contact(UserName),
    /// To this user's other devices: letters did not reach this one.
    Missed,
    /// To one of this user's other devices, which missed letters: what all of them share.
    Shared(PublicKey),
}

/// Has a user told something.
pub(super) fn tell(tx: &Tx<'_>, user: &UserName, news: &News) -> Result<()> {
    tx.sql().execute(
        "INSERT OR REPLACE INTO news (user, news, due) VALUES (?1, ?2, 0)",
        params![user.to_string(), encode(news)],
    )?;
    Ok(())
}

/// Has this user's other devices told what was agreed with a contact.
pub(super) fn tell_own_devices(tx: &Tx<'_>, contact: &UserName) -> Result<()> {
    tell(tx, &Account::load(tx)?.user, &News::Contact(contact.clone()))
}

/// Has a user not told what is not true any more.
pub(super) fn withdraw(tx: &Tx<'_>, user: &UserName, news: &News) -> Result<()> {
    let sql = "DELETE FROM news WHERE user = ?1 AND news = ?2";
    tx.sql().execute(sql, params![user.to_string(), encode(news)])?;
    Ok(())
}

/// Letters to this device are gone, or were not written. What contacts say is asked for when it is needed; this user's
/// other devices are asked now.
pub(crate) fn missed_letters(tx: &Tx<'_>) -> Result<()> {
    tell(tx, &Account::load(tx)?.user, &News::Missed)
}

/// Gives what a user is to be told, and what the own other devices are to be told of them, the user's present name.
pub(super) fn moved(tx: &Tx<'_>, from: &UserName, to: &UserName) -> Result<()> {
    let sql = "UPDATE OR REPLACE news SET user = ?2, due = 0, missed = 0 WHERE user = ?1";
    tx.sql().execute(sql, [from.to_string(), to.to_string()])?;
    let [before, after] = [from, to].map(|user| encode(&News::Contact(user.clone())));
    tx.sql().execute("UPDATE OR REPLACE news SET news = ?2 WHERE news = ?1", [before, after])?;
    Ok(())
}

/// Has a user told nothing any more.
pub(super) fn forget(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    tx.sql().execute("DELETE FROM news WHERE user = ?1", [user.to_string()])?;
    Ok(())
}

/// The users to whom letters are due.
pub(crate) fn receivers(tx: &Tx<'_>) -> Result<Vec<UserName>> {
    let sql = "SELECT DISTINCT user FROM news WHERE due NOT BETWEEN ?1 AND ?2";
    let mut statement = tx.sql().prepare_cached(sql)?;
    // None waits longer than that.
    let rows = statement.query_map(tx.to_come(RETRY_AFTER), |row| row.get::<_, String>(0))?;
    rows.map(|user| name(&user?)).collect()
}

/// Writes the letters that are due.
pub(crate) async fn write_news(store: &Store, api: &Api) -> Result<()> {
    for user in store.read(receivers)? {
        goes_on(write_to(store, api, &user).await)?;
    }
    Ok(())
}

async fn write_to(store: &Store, api: &Api, user: &UserName) -> Result<()> {
    match identity::look_up(api, store, user).await {
        Ok(found) => store.write(|tx| write(tx, &found)),
        Err(error) if error.problem() == Some(ProblemType::NotFound) => store.write(|tx| missed(tx, user)),
        Err(error) if error.refusal().is_some() || matches!(error, Error::Identity(_)) => {
            store.write(|tx| put_off(tx, user, RETRY_AFTER))?;
            Err(error)
        }
        Err(error) => {
            if error.is_unpaid() {
                store.write(|tx| put_off(tx, user, UNPAID_RETRY))?;
            } else if error.leads_nowhere() {
                store.write(|tx| put_off(tx, user, UNANSWERED_RETRY))?;
            }
            Err(error)
        }
    }
}

/// Has the news of a user wait for so many seconds.
fn put_off(tx: &Tx<'_>, user: &UserName, pause: u64) -> Result<()> {
    let due = integer(tx.now().saturating_add(pause));
    tx.sql().execute("UPDATE news SET due = ?1 WHERE user = ?2", params![due, user.to_string()])?;
    Ok(())
}

/// Tries again in an hour where the AS knows nobody of that name, until that has been so for some times.
fn missed(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    let due = integer(tx.now().saturating_add(MISSED_RETRY));
    let sql = "UPDATE news SET due = ?2, missed = missed + 1 WHERE user = ?1";
    tx.sql().execute(sql, params![user.to_string(), due])?;
    let sql = "DELETE FROM news WHERE user = ?1 AND missed >= ?2";
    tx.sql().execute(sql, params![user.to_string(), MISSES])?;
    Ok(())
}

/// Writes all news of a user to each of the user's devices but this one, and answers to those that asked.
fn write(tx: &Tx<'_>, user: &VerifiedUser) -> Result<()> {
    let account = Account::load(tx)?;
    let own_key = account.client_key().public_key();
    let mut statement = tx.sql().prepare_cached("SELECT news FROM news WHERE user = ?1")?;
    let rows = statement
        .query_map([user.name.to_string()], |row| row.get(0))?
        .collect::<Result<Vec<Vec<u8>>, _>>()?;
    for news in rows {
        let news: News = decode(&news, "news")?;
        let bodies = bodies(tx, &user.name, &news)?;
        if let News::Answer(asked) | News::Decline(asked) = &news {
            if let Some(client) = user.clients.iter().find(|client| client.client_key == asked.client_key) {
                // It may have published another one since.
                let contact = client.contact.as_ref().unwrap_or(&asked.contact);
                for body in &bodies {
                    write_letter(tx, &account, &user.name, &client.client_key, contact, body)?;
                }
            }
            continue;
        }
        let is_meant = |client: &&VerifiedClient| match &news {
            News::Shared(device) => client.client_key == *device,
            _ => client.client_key != own_key,
        };
        for client in user.clients.iter().filter(is_meant) {
            let Some(contact) = &client.contact else { continue };
            for body in &bodies {
                write_letter(tx, &account, &user.name, &client.client_key, contact, body)?;
            }
        }
    }
    forget(tx, &user.name)
}

/// The letters' contents that say it now; none if it is not true any more.
fn bodies(tx: &Tx<'_>, to: &UserName, news: &News) -> Result<Vec<LetterBody>> {
    Ok(match news {
        News::Answer(asked) if contacts::is_given(tx, to)? => {
            let friend = Friendship::load(tx)?.secrets.friend.clone();
            vec![LetterBody::Answer(ContactAnswer { request_id: asked.request_id, friend })]
        }
        News::Decline(asked) => vec![LetterBody::Decline(asked.request_id)],
        News::Renewal if contacts::is_given(tx, to)? => {
            vec![LetterBody::Renewal(Friendship::load(tx)?.secrets.friend.clone())]
        }
        News::Answer(_) | News::Renewal => Vec::new(),
        News::Moved(from) => vec![LetterBody::Moved(from.clone())],
        News::Gone => vec![LetterBody::Gone],
        News::Profile => vec![LetterBody::Profile(profile::own_version(tx)?)],
        News::Secrets => secrets(tx)?,
        News::Contact(user) => contacts::find(tx, user)?.map(LetterBody::Contact).into_iter().collect(),
        News::Missed => vec![LetterBody::Missed],
        News::Shared(_) => {
            let contacts = contacts::all(tx)?;
            let parts = (0..).zip(contacts.chunks(CONTACTS));
            let parts =
                parts.map(|(part, contacts)| LetterBody::Contacts { part, contacts: contacts.to_vec() });
            secrets(tx)?.into_iter().chain(parts).collect()
        }
    })
}

fn secrets(tx: &Tx<'_>) -> Result<Vec<LetterBody>> {
    Ok(parts::divide(&Friendship::load(tx)?.secrets))
}

/// Has every contact told that this user was called something else before.
pub(crate) fn tell_contacts_of_name(tx: &Tx<'_>, before: &UserName) -> Result<()> {
    tell_contacts(tx, &News::Moved(before.clone()))
}

/// Has every contact told that this user's account ends. The letters count once the AS knows the user no more.
pub(crate) fn tell_contacts_of_end(tx: &Tx<'_>) -> Result<()> {
    tell_contacts(tx, &News::Gone)
}

/// Has every contact told that this user's profile changed.
pub(crate) fn tell_contacts_of_profile(tx: &Tx<'_>) -> Result<()> {
    tell_contacts(tx, &News::Profile)
}

/// Users that are blocked are none: a letter shows by what secret its sender can be looked up.
fn tell_contacts(tx: &Tx<'_>, news: &News) -> Result<()> {
    let Some(friendship) = Friendship::find(tx)? else { return Ok(()) };
    contacts::all(tx)?
        .iter()
        .filter(|contact| contact.given || contact.friend.is_some())
        .filter(|contact| !friendship.secrets.is_blocked(&contact.user))
        .try_for_each(|contact| tell(tx, &contact.user, news))
}

fn name(user: &str) -> Result<UserName> {
    user.parse().map_err(|_| Error::Damaged("a user name"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::tests::Home;

    #[tokio::test]
    async fn news_of_whose_user_nothing_is_said_are_not_written_with_the_next_errands() {
        let bob = "bob@home.example".parse().unwrap();
        for (home, pause) in [
            (Home::of_nonsense(), UNANSWERED_RETRY),
            (Home::of_problem(ProblemType::NotAllowed), RETRY_AFTER),
            (Home::behind_relay(ProblemType::NotAllowed), UNPAID_RETRY),
        ] {
            let store = &home.store;
            store.write(|tx| tell(tx, &bob, &News::Profile)).unwrap();
            let before = store.now();
            write_news(store, &home.api).await.expect("the other errands go on");
            let after = store.now();
            let due = "SELECT due FROM news";
            let due: u64 = store.read(|tx| Ok(tx.sql().query_row(due, [], |row| row.get(0))?)).unwrap();
            assert!((before + pause..=after + pause).contains(&due), "{pause}: {due}");
        }
    }
}
