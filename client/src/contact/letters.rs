//! Letters that came in. None takes effect before the AS was asked who wrote it: a device that its user removed is
//! nobody from then on (AS-13), and what a server sends again or keeps back changes nothing. Anybody can put letters into
//! a contact queue: those of strangers are kept only with a credential that the AS signed. Owns the table `letters`.

use std::collections::BTreeSet;

use postern_protocol::{LookupSecret, Payload, PublicKey, name::UserName};
use rusqlite::params;

use super::{
    contacts::{self, SharedContact},
    friendship::Friendship,
    letter::{self, LetterBody, Stamp},
    news::{self, News},
    numbers, requests, rotation,
};
use crate::{
    account::Account,
    error::{Error, Rejection, Result, goes_on},
    event::Event,
    group::{self, GroupHandover},
    identity::{self, Seen, VerifiedUser},
    options::Options,
    profile,
    server::Api,
    store::{Store, Tx, decode, encode, fixed, integer},
};

const HOUR: u64 = 60 * 60;
const DAY: u64 = 24 * HOUR;
/// Seconds for which a request of a sender waits whom the AS does not confirm.
const UNVERIFIED_FOR: u64 = 30 * DAY;
/// Letters of one user that are kept of clients that no lookup confirmed.
const OF_ONE_STRANGER: u64 = 32;
/// Seconds for which the farewell of a user waits that the AS still knows.
const FAREWELL_FOR: u64 = 2 * DAY;
/// The most secrets of letters that are tried when their user is looked up.
const SECRETS_AT_ONCE: usize = 3;

/// A letter that waits for the AS to be asked about its sender.
struct WaitingLetter {
    client_key: PublicKey,
    subject: String,
    stamp: Stamp,
    body: LetterBody,
}

/// The AS's word about the user that a letter is from.
enum Sender {
    Found(VerifiedUser),
    /// There is no such user.
    Absent,
    /// Its word does not hold together, or a person has to accept it first, or it refuses to say anything.
    Doubtful,
}

/// The fate of a letter.
enum Fate {
    Done,
    /// It waits until this time (seconds since 1970).
    Waits(u64),
}

/// Whether the AS's keys have to be asked for before some deposits are received: one says that it is from a client whose
/// credential a key signed that was not seen yet.
pub(crate) fn has_new_issuer<'a>(tx: &Tx<'_>, deposits: impl Iterator<Item = &'a Payload>) -> Result<bool> {
    let account = Account::load(tx)?;
    let key = account.contact_key();
    for deposit in deposits {
        if let Some(letter) = letter::open(deposit, &account.contact_address, &key)
            && letter.sender.user.domain() == account.user.domain()
            && !identity::was_seen(tx, &letter.sender.issuer_key)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Keeps a deposit until its sender is known. What strangers send is bounded.
pub(crate) fn receive_letter(tx: &Tx<'_>, deposit: &Payload, options: &Options) -> Result<(), Rejection> {
    let account = Account::load(tx)?;
    let letter = letter::open(deposit, &account.contact_address, &account.contact_key())
        .ok_or_else(|| Rejection::invalid("a deposit is no letter to us"))?;
    let (client_key, user) = (letter.sender.client_key, letter.sender.user);
    if Friendship::load(tx)?.secrets.is_blocked(&user) {
        return Ok(());
    }
    let subject = letter.body.subject();
    numbers::check(tx, &client_key, &subject, &letter.stamp)?;
    match &letter.body {
        LetterBody::Request(request) if request.contact.domain != *account.user.domain() => {
            return Err(Rejection::invalid("a contact request is from another domain"));
        }
        LetterBody::Secrets(_)
        | LetterBody::Contact(_)
        | LetterBody::Missed
        | LetterBody::Contacts { .. }
        | LetterBody::Group { .. }
            if user != account.user =>
        {
            return Err(Rejection::invalid("secrets came that are not from a device of ours"));
        }
        _ => {}
    }
    let stranger = identity::confirmed(tx, &client_key)?.as_ref() != Some(&user);
    if stranger {
        // It may have waited in the queue for longer than the credential lasted.
        let written = letter.stamp.time;
        let at = letter.sender.not_before.min(written.saturating_add(numbers::MAX_AHEAD)).max(written);
        if !identity::vouches(tx, &letter.credential, at)? {
            return Err(Rejection::invalid("a letter's credential is none that the server signed"));
        }
        let (others, own) = strangers(tx, &user)?;
        if others >= options.waiting_requests || own >= OF_ONE_STRANGER {
            return Err(Rejection::invalid("more letters of strangers wait than are kept"));
        }
    }
    tx.sql().execute(
        "INSERT INTO letters (client_key, subject, user, number, time, stamp, body, stranger, lookup, due)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 0)
         ON CONFLICT (client_key, subject)
         DO UPDATE SET user = excluded.user, number = excluded.number, time = excluded.time,
                       stamp = excluded.stamp, body = excluded.body, stranger = excluded.stranger,
                       lookup = excluded.lookup, due = 0
         WHERE excluded.number > letters.number",
        params![
            client_key.as_bytes(),
            subject,
            user.to_string(),
            integer(letter.stamp.number),
            integer(letter.stamp.time),
            encode(&letter.stamp),
            encode(&letter.body),
            stranger,
            letter.lookup.as_ref().map(|secret| secret.as_bytes().as_slice())
        ],
    )?;
    Ok(())
}

/// The secrets by which a user can be looked up, as letters say that wait: first those of senders that were confirmed, and
/// not so many that they cost more than they are worth.
pub(crate) fn secrets_in_letters(tx: &Tx<'_>, user: &UserName) -> Result<Vec<LookupSecret>> {
    let mut statement = tx.sql().prepare_cached(
        "SELECT lookup FROM letters WHERE user = ?1 AND lookup IS NOT NULL
         GROUP BY lookup ORDER BY min(stranger), max(number) DESC LIMIT ?2",
    )?;
    let secrets = statement
        .query_map(params![user.to_string(), SECRETS_AT_ONCE], |row| row.get::<_, [u8; 32]>(0))?
        .collect::<Result<Vec<_>, _>>()?;
    Ok(secrets.into_iter().map(LookupSecret::new).collect())
}

/// The number of other users whose letters wait for the first lookup, and of letters of this user: both of clients that
/// no lookup had confirmed when the letters came.
fn strangers(tx: &Tx<'_>, user: &UserName) -> Result<(u64, u64)> {
    let sql = "SELECT count(DISTINCT user) FILTER (WHERE user <> ?1 AND unconfirmed = 0),
                      count(*) FILTER (WHERE user = ?1)
                 FROM letters WHERE stranger = 1";
    Ok(tx.sql().query_row(sql, [user.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

/// Lets the letters take effect that wait, after one lookup of each user that they are from.
pub(crate) async fn read_letters(store: &Store, api: &Api, options: &Options) -> Result<()> {
    let users: Vec<UserName> = store.read(|tx| {
        let mut statement = tx.sql().prepare_cached("SELECT DISTINCT user FROM letters WHERE due <= ?1")?;
        let rows = statement.query_map([integer(tx.now())], |row| row.get::<_, String>(0))?;
        rows.map(|user| name(&user?)).collect()
    })?;
    for user in users {
        goes_on(read_from(store, api, options, &user).await)?;
    }
    Ok(())
}

/// Has the letters of a user read with the next errands, whose reset a person accepted.
pub(crate) fn read_again(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    tx.sql().execute("UPDATE letters SET due = 0 WHERE user = ?1", [user.to_string()])?;
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
        for letter in waiting(tx, user)? {
            let fate = match take_effect(tx, user, &sender, &letter, options) {
                Ok(fate) => fate,
                Err(Rejection::Fault(error)) => return Err(error),
                Err(Rejection::Invalid(reason)) => {
                    Event::Ignored { reason }.record(tx)?;
                    Fate::Done
                }
                Err(_) => Fate::Done,
            };
            let key = letter.client_key;
            match fate {
                Fate::Done => tx.sql().execute(
                    "DELETE FROM letters WHERE client_key = ?1 AND subject = ?2",
                    params![key.as_bytes(), letter.subject],
                )?,
                Fate::Waits(due) => tx.sql().execute(
                    "UPDATE letters SET due = ?3 WHERE client_key = ?1 AND subject = ?2",
                    params![key.as_bytes(), letter.subject, integer(due)],
                )?,
            };
        }
        Ok(())
    })
}

/// The users of whom letters of this user's other devices tell more than is known here.
fn told_of(tx: &Tx<'_>, user: &UserName) -> Result<BTreeSet<UserName>> {
    let mut users = BTreeSet::new();
    for letter in waiting(tx, user)? {
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

async fn ask_about(store: &Store, api: &Api, user: &UserName) -> Result<Sender> {
    match identity::look_up(api, store, user).await {
        Ok(found) => Ok(Sender::Found(found)),
        Err(error) if error.is_of_nobody() => Ok(Sender::Absent),
        Err(error) if error.refusal().is_some() || matches!(error, Error::Identity(_)) => {
            tracing::warn!(%error, "the sender of a letter cannot be verified");
            Ok(Sender::Doubtful)
        }
        // The letter waits until the AS was heard.
        Err(error) => Err(error),
    }
}

fn waiting(tx: &Tx<'_>, user: &UserName) -> Result<Vec<WaitingLetter>> {
    let sql =
        "SELECT client_key, subject, stamp, body FROM letters WHERE user = ?1 AND due <= ?2 ORDER BY number";
    let mut statement = tx.sql().prepare_cached(sql)?;
    let rows = statement
        .query_map(params![user.to_string(), integer(tx.now())], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?
        .collect::<Result<Vec<(Vec<u8>, String, Vec<u8>, Vec<u8>)>, _>>()?;
    rows.into_iter()
        .map(|(client_key, subject, stamp, body)| {
            Ok(WaitingLetter {
                client_key: fixed(&client_key, "a key")?,
                subject,
                stamp: decode(&stamp, "a letter")?,
                body: decode(&body, "a letter")?,
            })
        })
        .collect()
}

fn take_effect(
    tx: &Tx<'_>,
    user: &UserName,
    sender: &Sender,
    letter: &WaitingLetter,
    options: &Options,
) -> Result<Fate, Rejection> {
    let found = match sender {
        Sender::Found(found) => found,
        Sender::Absent if matches!(letter.body, LetterBody::Gone) => return ended(tx, user, letter),
        Sender::Doubtful if matches!(letter.body, LetterBody::Gone) => return still_there(tx, letter),
        Sender::Absent | Sender::Doubtful => return unverified(tx, user, letter, options),
    };
    let client_key = &letter.client_key;
    if !found.clients.iter().any(|client| client.client_key == *client_key) {
        return Err(Rejection::invalid("a letter is from a device that is not its user's, or not any more"));
    }
    match identity::heard(tx, user, client_key, &letter.stamp.eid)? {
        Seen::Same | Seen::Unknown => {}
        Seen::Newer => {
            return Err(Rejection::invalid("the server keeps back what a letter's sender knows of itself"));
        }
        Seen::Split => {
            return Err(Rejection::invalid("a letter's sender knows another history of its user's devices"));
        }
    }
    numbers::check(tx, client_key, &letter.subject, &letter.stamp)?;
    if matches!(letter.body, LetterBody::Gone) {
        return still_there(tx, letter);
    }
    numbers::keep(tx, client_key, &letter.subject, &letter.stamp)?;
    match &letter.body {
        LetterBody::Request(request) => {
            requests::receive(tx, user, client_key, request, letter.stamp.time, options)?;
        }
        LetterBody::Answer(answer) if answer.friend.edition.is_by(&letter.stamp.eid) => {
            requests::accepted(tx, user, client_key, answer)?;
        }
        LetterBody::Renewal(friend) if friend.edition.is_by(&letter.stamp.eid) => {
            if contacts::friend(tx, user)?.is_none() {
                return Err(Rejection::invalid("a friendship came that we did not ask for"));
            }
            contacts::keep_friend(tx, user, friend)?;
        }
        LetterBody::Secrets(secrets) if secrets.is_by(&letter.stamp.eid) => {
            rotation::adopt(tx, secrets, letter.stamp.time)?;
        }
        LetterBody::Contact(contact) if contact.is_by(&letter.stamp.eid) => {
            agreed(tx, contact, letter.stamp.time)?;
        }
        LetterBody::Contacts { contacts, .. }
            if contacts.iter().all(|contact| contact.is_by(&letter.stamp.eid)) =>
        {
            contacts.iter().try_for_each(|contact| agreed(tx, contact, letter.stamp.time))?;
        }
        LetterBody::Missed => {
            news::tell(tx, user, &News::Shared(*client_key))?;
            group::retell_all(tx, client_key)?;
        }
        LetterBody::Answer(_)
        | LetterBody::Renewal(_)
        | LetterBody::Secrets(_)
        | LetterBody::Contact(_)
        | LetterBody::Contacts { .. } => {
            return Err(Rejection::invalid(
                "a letter says that something was decided later than its sender can know",
            ));
        }
        LetterBody::Decline(request_id) => requests::declined(tx, user, client_key, request_id)?,
        LetterBody::Group { handover, .. } => {
            let handover = GroupHandover::decode(handover)
                .ok_or_else(|| Rejection::invalid("a group that was handed over is malformed"))?;
            group::take_over(tx, std::slice::from_ref(&handover))?;
            if group::follows(tx, &handover)? {
                group::told(tx, &handover.id, client_key)?;
            }
        }
        // The lookup showed that the identity is the one of the old name, if it is.
        LetterBody::Moved(from) if moved(tx, from, user)? => {}
        LetterBody::Moved(_) => {
            return Err(Rejection::invalid(
                "a user says to have had a name that is not known to have been its",
            ));
        }
        // The lookup showed it.
        LetterBody::Profile(version) if profile::version(tx, user)? >= *version => {}
        LetterBody::Profile(_) => {
            return Err(Rejection::invalid("the server keeps back a user's profile"));
        }
        LetterBody::Gone => {}
    }
    Ok(Fate::Done)
}

/// Another device of this user agreed something with a contact.
fn agreed(tx: &Tx<'_>, contact: &SharedContact, written: u64) -> Result<()> {
    if let Some(given) = contacts::merge(tx, contact, written)? {
        requests::decided(tx, &contact.user, given)?;
    }
    requests::wanted(tx, &contact.user)
}

/// A sender whom the AS does not confirm may be confirmed later: its request waits, and is shown as what it is.
/// They have a quota of their own, and take no place from those whom the AS confirms.
fn unverified(
    tx: &Tx<'_>,
    user: &UserName,
    letter: &WaitingLetter,
    options: &Options,
) -> Result<Fate, Rejection> {
    let first = letter.stamp.time;
    if !matches!(letter.body, LetterBody::Request(_)) || first.saturating_add(UNVERIFIED_FOR) < tx.now() {
        return Err(Rejection::invalid("a letter is from a user whom the server does not confirm"));
    }
    let sql = "SELECT count(DISTINCT user), count(*) FILTER (WHERE user = ?1)
                 FROM letters WHERE unconfirmed = 1";
    let (users, own): (u64, u64) =
        tx.sql().query_row(sql, [user.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if own == 0 {
        if users >= options.unconfirmed_requests {
            return Err(Rejection::invalid("more users ask whom the server does not confirm than are kept"));
        }
        Event::ContactRequested { user: user.clone(), verified: false, accepted: false }.record(tx)?;
    }
    let sql = "UPDATE letters SET unconfirmed = 1 WHERE client_key = ?1 AND subject = ?2";
    tx.sql().execute(sql, params![letter.client_key.as_bytes(), letter.subject])?;
    // Each time costs a token: after a day, then after two, and so on.
    let next = tx.now().saturating_add(DAY.max(tx.now().saturating_sub(first)));
    Ok(Fate::Waits(next.min(first.saturating_add(UNVERIFIED_FOR + 1))))
}

/// A user says farewell and the AS knows nobody of that name any more: the account was deleted (AS-9). The letter is
/// signed by a device that was the user's.
fn ended(tx: &Tx<'_>, user: &UserName, letter: &WaitingLetter) -> Result<Fate, Rejection> {
    if identity::confirmed(tx, &letter.client_key)?.as_ref() != Some(user) {
        return Err(Rejection::invalid("a farewell is from a device that is not known to be its user's"));
    }
    // The device was there at the end, as far as this one knows how long the identity went on.
    let told = &letter.stamp.eid;
    let last = identity::known(tx, user)?.map(|known| known.eid.epoch);
    let was_last = match identity::compare(tx, user, told)? {
        Seen::Same => Some(told.epoch) == last,
        Seen::Newer => true,
        Seen::Unknown | Seen::Split => false,
    };
    if !was_last {
        return Err(Rejection::invalid(
            "a farewell is from a device that does not know its user's last devices",
        ));
    }
    numbers::check(tx, &letter.client_key, &letter.subject, &letter.stamp)?;
    numbers::keep(tx, &letter.client_key, &letter.subject, &letter.stamp)?;
    contacts::forget(tx, user)?;
    requests::forget(tx, user)?;
    news::forget(tx, user)?;
    Event::ContactDeleted { user: user.clone() }.record(tx)?;
    Ok(Fate::Done)
}

fn still_there(tx: &Tx<'_>, letter: &WaitingLetter) -> Result<Fate, Rejection> {
    if letter.stamp.time.saturating_add(FAREWELL_FOR) < tx.now() {
        return Err(Rejection::invalid("a user said farewell and is still there"));
    }
    Ok(Fate::Waits(tx.now().saturating_add(HOUR)))
}

/// A user has another name now, if the identity is the same: what was agreed and asked goes on under that name.
/// Returns whether it is.
pub(crate) fn moved(tx: &Tx<'_>, from: &UserName, to: &UserName) -> Result<bool> {
    if !contacts::moved(tx, from, to)? {
        return Ok(false);
    }
    requests::moved(tx, from, to)?;
    news::forget(tx, from)?;
    Ok(true)
}

/// Forgets a request whose sender was not confirmed. Returns whether there was one.
pub(super) fn forget_request(tx: &Tx<'_>, user: &UserName) -> Result<bool> {
    let sql = "DELETE FROM letters WHERE user = ?1 AND subject = 'request'";
    Ok(tx.sql().execute(sql, [user.to_string()])? > 0)
}

/// The requests of senders whom the AS has not confirmed, and when they came first.
pub(super) fn unverified_requests(tx: &Tx<'_>) -> Result<Vec<(UserName, u64)>> {
    let sql = "SELECT user, min(time) FROM letters WHERE unconfirmed = 1 GROUP BY user ORDER BY min(time)";
    let mut statement = tx.sql().prepare(sql)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.map(|row| {
        let (user, time): (String, u64) = row?;
        Ok((name(&user)?, time))
    })
    .collect()
}

fn name(user: &str) -> Result<UserName> {
    user.parse().map_err(|_| Error::Damaged("a user name"))
}
