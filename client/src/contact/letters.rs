//! Letters that came in and wait. None takes effect before the AS was asked who wrote it: a device that its user removed is
//! nobody from then on (AS-13), and what a server sends again or keeps back changes nothing. Anybody can put letters into
//! a contact queue: those of strangers are kept only with a credential that the AS signed. Owns the table `letters`.

use postern_protocol::{
    Address, LookupSecret, Payload, PublicKey,
    name::{Domain, UserName},
};
use rusqlite::params;

use super::{
    friendship::Friendship,
    letter::{self, LetterBody, Stamp},
    numbers,
};
use crate::{
    account::Account,
    error::{Error, Rejection, Result},
    event::Event,
    identity,
    options::Options,
    store::{Tx, decode, encode, fixed, integer},
};

/// Letters of one user that are kept of clients that no lookup confirmed.
const OF_ONE_STRANGER: u64 = 32;
/// Letters that are kept of users of domains whose AS was not heard yet.
const OF_UNHEARD: u64 = 10;
/// The longest time, in seconds, for which a letter waits whose AS does not say who its sender is.
pub(super) const LONGEST_PAUSE: u64 = 6 * 60 * 60;
/// Seconds for which the request of a sender is kept that the AS does not confirm.
pub(super) const UNVERIFIED_FOR: u64 = 30 * 24 * 60 * 60;
/// The longest time, in seconds, for which such a request waits: until it is twice as old, if that is within its time.
const LONGEST_PAUSE_OF_UNVERIFIED: u64 = UNVERIFIED_FOR / 2 + 1;
/// Condition on a letter: the time has come to read it. Its parameters are the [`times_to_come`].
const IS_DUE: &str = "due NOT BETWEEN ?1 AND iif(unconfirmed = 1, ?3, ?2)";
/// The most secrets of letters that are tried when their user is looked up.
const SECRETS_AT_ONCE: usize = 3;

/// A letter that waits for the AS to be asked about its sender.
pub(super) struct WaitingLetter {
    pub client_key: PublicKey,
    pub subject: String,
    pub stamp: Stamp,
    pub body: LetterBody,
    /// The key of the sender's homeserver, as the sender has it.
    pub home_key: Option<PublicKey>,
    /// Where to write to the sender from now on.
    pub address: Option<Address>,
}

/// Keeps a deposit until its sender is known. What strangers send is bounded.
pub(crate) fn receive_letter(tx: &Tx<'_>, deposit: &Payload, options: &Options) -> Result<(), Rejection> {
    let account = Account::load(tx)?;
    let letter = letter::open(deposit, &account.letter_addresses(), &account.contact_key())
        .ok_or_else(|| Rejection::invalid("a deposit is no letter to us"))?;
    let (client_key, mut user) = (letter.sender.client_key, letter.sender.user);
    // A device that logs out is known by its key: another one may have given the user another name meanwhile.
    if matches!(letter.body, LetterBody::Leaving)
        && identity::has_device(tx, &account.user, &client_key)? == Some(true)
    {
        user = account.user.clone();
    }
    if Friendship::load(tx)?.secrets.is_blocked(&user) {
        return Ok(());
    }
    let subject = letter.body.subject();
    numbers::check(tx, &client_key, &subject, &letter.stamp)?;
    match &letter.body {
        // A user gets letters at the user's own homeserver only.
        LetterBody::Request(request) if request.contact.domain != *user.domain() => {
            return Err(Rejection::invalid("a contact request asks for an answer elsewhere"));
        }
        LetterBody::Secrets(_)
        | LetterBody::SecretsPart(_)
        | LetterBody::Contact(_)
        | LetterBody::Missed
        | LetterBody::Contacts { .. }
        | LetterBody::Group { .. }
        | LetterBody::Leaving
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
        if !identity::vouches(tx, &letter.credential, at)? && !may_come_from_unheard(tx, user.domain())? {
            return Err(Rejection::invalid("a letter's credential is none that the server signed"));
        }
        let (others, own) = strangers(tx, &user)?;
        if others >= options.waiting_requests || own >= OF_ONE_STRANGER {
            return Err(Rejection::invalid("more letters of strangers wait than are kept"));
        }
    }
    tx.sql().execute(
        "INSERT INTO letters
                (client_key, subject, user, number, time, stamp, body, stranger, lookup, home_key, address, due)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, 0)
         ON CONFLICT (client_key, subject)
         DO UPDATE SET user = excluded.user, number = excluded.number, time = excluded.time,
                       stamp = excluded.stamp, body = excluded.body, stranger = excluded.stranger,
                       lookup = excluded.lookup, home_key = excluded.home_key, address = excluded.address,
                       due = 0
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
            letter.told.lookup.as_ref().map(|secret| secret.as_bytes().as_slice()),
            letter.told.home_key.as_ref().map(|key| key.as_bytes().as_slice()),
            letter.told.address.as_ref().map(|address| address.as_bytes().as_slice())
        ],
    )?;
    Ok(())
}

/// Whether a letter is kept though its AS could not be asked about anything yet: that of another domain may be away.
fn may_come_from_unheard(tx: &Tx<'_>, domain: &Domain) -> Result<bool> {
    if identity::is_heard(tx, domain)? {
        return Ok(false);
    }
    let sql = "SELECT count(*) FROM letters
                WHERE stranger = 1 AND substr(user, instr(user, '@') + 1) NOT IN (SELECT domain FROM issuers)";
    Ok(tx.sql().query_row(sql, [], |row| row.get::<_, u64>(0))? < OF_UNHEARD)
}

/// The number of other users whose letters wait for the first lookup, and of letters of this user: both of clients that
/// no lookup had confirmed when the letters came.
fn strangers(tx: &Tx<'_>, user: &UserName) -> Result<(u64, u64)> {
    let sql = "SELECT count(DISTINCT user) FILTER (WHERE user <> ?1 AND unconfirmed = 0),
                      count(*) FILTER (WHERE user = ?1)
                 FROM letters WHERE stranger = 1";
    Ok(tx.sql().query_row(sql, [user.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))?)
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

/// Has the letters that wait of this user's other devices read under the name that another one gave the user. A request to be a
/// contact is of somebody who took the old name.
pub(crate) fn own_moved(tx: &Tx<'_>, from: &UserName, to: &UserName) -> Result<()> {
    let sql = "UPDATE letters SET user = ?2, due = 0 WHERE user = ?1 AND subject <> 'request'";
    tx.sql().execute(sql, [from.to_string(), to.to_string()])?;
    Ok(())
}

/// Has the letters of a user read with the next errands, whose reset a person accepted.
pub(crate) fn read_again(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    tx.sql().execute("UPDATE letters SET due = 0 WHERE user = ?1", [user.to_string()])?;
    Ok(())
}

/// The first time that is yet to come, the last one for an ordinary letter, and for a request that the AS did not confirm.
fn times_to_come(tx: &Tx<'_>) -> [i64; 3] {
    let [first, last] = tx.to_come(LONGEST_PAUSE);
    let [_, last_of_unverified] = tx.to_come(LONGEST_PAUSE_OF_UNVERIFIED);
    [first, last, last_of_unverified]
}

/// The users whose letters are to be read now.
pub(crate) fn senders(tx: &Tx<'_>) -> Result<Vec<UserName>> {
    let sql = format!("SELECT DISTINCT user FROM letters WHERE {IS_DUE}");
    let mut statement = tx.sql().prepare_cached(&sql)?;
    let rows = statement.query_map(times_to_come(tx), |row| row.get::<_, String>(0))?;
    rows.map(|user| name(&user?)).collect()
}

/// The letters of a user that are to be read now, in the order of their numbers.
pub(super) fn waiting(tx: &Tx<'_>, user: &UserName) -> Result<Vec<WaitingLetter>> {
    type Row = (Vec<u8>, String, Vec<u8>, Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>);
    let sql = format!(
        "SELECT client_key, subject, stamp, body, home_key, address FROM letters
          WHERE user = ?4 AND {IS_DUE} ORDER BY number"
    );
    let mut statement = tx.sql().prepare_cached(&sql)?;
    let [first, last, last_of_unverified] = times_to_come(tx);
    let rows = statement
        .query_map(params![first, last, last_of_unverified, user.to_string()], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
        })?
        .collect::<Result<Vec<Row>, _>>()?;
    rows.into_iter()
        .map(|(client_key, subject, stamp, body, home_key, address)| {
            Ok(WaitingLetter {
                client_key: fixed(&client_key, "a key")?,
                subject,
                stamp: decode(&stamp, "a letter")?,
                body: decode(&body, "a letter")?,
                home_key: home_key.map(|key| fixed(&key, "a key")).transpose()?,
                address: address.map(|address| fixed(&address, "an address")).transpose()?,
            })
        })
        .collect()
}

/// Forgets a letter that was read.
pub(super) fn forget(tx: &Tx<'_>, letter: &WaitingLetter) -> Result<()> {
    let sql = "DELETE FROM letters WHERE client_key = ?1 AND subject = ?2";
    tx.sql().execute(sql, params![letter.client_key.as_bytes(), letter.subject])?;
    Ok(())
}

/// Forgets all letters of a user.
pub(super) fn forget_all(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    tx.sql().execute("DELETE FROM letters WHERE user = ?1", [user.to_string()])?;
    Ok(())
}

/// Has a letter wait until a time (seconds since 1970).
pub(super) fn wait(tx: &Tx<'_>, letter: &WaitingLetter, due: u64) -> Result<()> {
    let sql = "UPDATE letters SET due = ?3 WHERE client_key = ?1 AND subject = ?2";
    tx.sql().execute(sql, params![letter.client_key.as_bytes(), letter.subject, integer(due)])?;
    Ok(())
}

/// Has the letters of a user wait of whom the AS says nothing that can be used: until each is twice as old as now, for six hours
/// at most. So a letter is tried a few times soon, and then ever more seldom, also one that says to be of the future.
pub(super) fn put_off(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    defer(tx, user, "min(max(abs(?5 - time), 1), ?6)", LONGEST_PAUSE)
}

/// Has the letters of a user wait for so many seconds, whatever their age: nobody was asked.
pub(super) fn postpone(tx: &Tx<'_>, user: &UserName, pause: u64) -> Result<()> {
    defer(tx, user, "?6", pause)
}

/// Has those letters of a user wait that are to be read now: each for a `pause` of its own, in SQL, where ?5 is the present time and
/// ?6 a number of `seconds`.
fn defer(tx: &Tx<'_>, user: &UserName, pause: &str, seconds: u64) -> Result<()> {
    let sql = format!("UPDATE letters SET due = ?5 + {pause} WHERE user = ?4 AND {IS_DUE}");
    let [first, last, last_of_unverified] = times_to_come(tx);
    let (now, seconds) = (integer(tx.now()), integer(seconds));
    tx.sql().execute(&sql, params![first, last, last_of_unverified, user.to_string(), now, seconds])?;
    Ok(())
}

/// Forgets letters that became too old while they waited, before their AS is asked again.
pub(super) fn forget_old(tx: &Tx<'_>) -> Result<()> {
    let oldest = integer(tx.now().saturating_sub(numbers::MAX_AGE));
    for _ in 0..tx.sql().execute("DELETE FROM letters WHERE time < ?1", [oldest])? {
        Event::ignored(numbers::TOO_OLD).record(tx)?;
    }
    Ok(())
}

/// The number of users with letters that wait and that the AS did not confirm, and the number of such letters of this
/// user.
pub(super) fn unconfirmed(tx: &Tx<'_>, user: &UserName) -> Result<(u64, u64)> {
    let sql = "SELECT count(DISTINCT user), count(*) FILTER (WHERE user = ?1)
                 FROM letters WHERE unconfirmed = 1";
    Ok(tx.sql().query_row(sql, [user.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

/// Notes that the AS did not confirm the sender of a letter.
pub(super) fn mark_unconfirmed(tx: &Tx<'_>, letter: &WaitingLetter) -> Result<()> {
    let sql = "UPDATE letters SET unconfirmed = 1 WHERE client_key = ?1 AND subject = ?2";
    tx.sql().execute(sql, params![letter.client_key.as_bytes(), letter.subject])?;
    Ok(())
}

/// Forgets a request whose sender was not confirmed. Returns whether there was one.
pub(super) fn forget_request(tx: &Tx<'_>, user: &UserName) -> Result<bool> {
    let sql = "DELETE FROM letters WHERE user = ?1 AND subject = 'request'";
    Ok(tx.sql().execute(sql, [user.to_string()])? > 0)
}

/// The senders of requests that the AS has not confirmed, with the time of the first request.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event, store::Store};

    /// Has a letter of a user wait that was written at a time, alone.
    fn written(tx: &Tx<'_>, time: u64) -> Result<()> {
        tx.sql().execute("DELETE FROM letters", [])?;
        tx.sql().execute(
            "INSERT INTO letters (client_key, subject, user, number, time, stamp, body, stranger, due)
             VALUES (x'00', 'request', 'eve@x.example', 1, ?1, x'', x'', 1, 0)",
            [integer(time)],
        )?;
        Ok(())
    }

    fn store() -> (tempfile::TempDir, Store) {
        let home = tempfile::tempdir().unwrap();
        let store = Store::create(home.path(), &Options::default()).unwrap();
        (home, store)
    }

    #[test]
    fn a_letter_of_whose_sender_nothing_is_said_waits_for_ever_longer() {
        let (_home, store) = store();
        let eve = "eve@x.example".parse().unwrap();
        let now = store.now();
        // A letter that says to be of the future is tried again once it is of the present.
        for (time, pause) in [
            (now - 100, 100),
            (now - 10_000, 10_000),
            (now - 60 * 24 * 60 * 60, LONGEST_PAUSE),
            (now + 3000, 3000),
        ] {
            store.write(|tx| written(tx, time)).unwrap();
            assert_eq!(store.read(senders).unwrap().len(), 1);
            store.write(|tx| put_off(tx, &eve)).unwrap();
            assert_eq!(store.read(senders).unwrap().len(), 0, "it is not its turn: {pause}");
            let due = "SELECT due FROM letters";
            let due: u64 = store.read(|tx| Ok(tx.sql().query_row(due, [], |row| row.get(0))?)).unwrap();
            // The clock goes on meanwhile, and the letter gets older.
            let passed = store.now() - now;
            assert!((pause..=pause + 2 * passed + 1).contains(&(due - now)), "{pause}: {}", due - now);
        }
        store.write(|tx| read_again(tx, &eve)).unwrap();
        assert_eq!(store.read(senders).unwrap().len(), 1, "a person asks for it");
        // However old it is.
        let before = store.now();
        store.write(|tx| postpone(tx, &eve, 300)).unwrap();
        let due = "SELECT due FROM letters";
        let due: u64 = store.read(|tx| Ok(tx.sql().query_row(due, [], |row| row.get(0))?)).unwrap();
        assert!((before + 300..=store.now() + 300).contains(&due), "{}", due - before);
    }

    #[test]
    fn letters_of_the_own_devices_are_read_under_the_users_new_name() {
        let (_home, store) = store();
        let [alice, alicia]: [UserName; 2] =
            ["alice@x.example", "alicia@x.example"].map(|name| name.parse().unwrap());
        let wait = "INSERT INTO letters (client_key, subject, user, number, time, stamp, body, stranger, due)
                    VALUES (x'00', 'leaving', 'alice@x.example', 1, 1, x'', x'', 0, ?1),
                           (x'01', 'request', 'alice@x.example', 1, 1, x'', x'', 1, 0)";
        let later = integer(store.now() + 1000);
        store.write(|tx| Ok(tx.sql().execute(wait, [later])?)).unwrap();
        store.write(|tx| own_moved(tx, &alice, &alicia)).unwrap();
        let mut senders = store.read(senders).unwrap();
        senders.sort();
        assert_eq!(senders, [alice, alicia]);
    }

    #[test]
    fn a_letter_that_is_too_old_is_forgotten_before_anybody_is_asked_about_it() {
        let (_home, store) = store();
        let now = store.now();
        for (age, waits) in [(numbers::MAX_AGE - 600, true), (numbers::MAX_AGE + 600, false)] {
            store.write(|tx| written(tx, now - age)).unwrap();
            store.write(forget_old).unwrap();
            assert_eq!(store.read(senders).unwrap().len(), usize::from(waits), "{age}");
            let told = store.read(event::pending).unwrap();
            assert_eq!(told.len(), usize::from(!waits), "{told:?}");
        }
    }
}
