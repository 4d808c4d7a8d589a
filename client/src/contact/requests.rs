//! Contact requests (AS-12): those of this device, and those of others, which wait until a person decides. Owns the
//! tables `requests` and `received_requests`.

use postern_protocol::{PublicKey, auth::SignedContact, name::UserName};
use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::{
    block, contacts,
    deposits::write_letter,
    friendship::{Friend, Friendship},
    letter::{ContactAnswer, ContactRequest, LetterBody, RequestId},
    letters,
    news::{self, News},
};
use crate::{
    account::Account,
    error::{Error, Rejection, Result},
    event::Event,
    identity::VerifiedUser,
    invitations,
    options::Options,
    store::{Tx, decode, encode, fixed, integer},
};

/// Seconds after which a request that nobody decided on lapses, and one that was declined may be shown again.
const LAPSES_AFTER: u64 = 60 * 24 * 60 * 60;

/// A user that asks for this one's friendship.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedRequest {
    pub user: UserName,
    /// When it came first, by the sender's clock: seconds since 1970.
    pub time: u64,
    /// Whether the AS confirmed who asks. Only then it can be accepted.
    pub verified: bool,
    /// Whether it was declined: it can be accepted all the same.
    pub declined: bool,
}

/// A request of one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DeviceRequest {
    pub client_key: PublicKey,
    pub request_id: RequestId,
    /// Where the answer goes.
    pub contact: SignedContact,
}

/// Asks devices of a user for the user's friendship.
pub(crate) fn ask(tx: &Tx<'_>, user: &UserName, devices: &[(PublicKey, &SignedContact)]) -> Result<()> {
    let account = Account::load(tx)?;
    for (client_key, contact) in devices {
        let request_id = RequestId::new(rand::random());
        let request = ContactRequest { request_id, contact: account.contact()? };
        tx.sql().execute(
            "INSERT OR REPLACE INTO requests (client_key, request_id, user, declined) VALUES (?1, ?2, ?3, 0)",
            params![client_key.as_bytes(), request_id.as_bytes(), user.to_string()],
        )?;
        write_letter(tx, &account, user, client_key, contact, &LetterBody::Request(request))?;
    }
    Ok(())
}

/// The users that were asked, and have neither accepted nor declined.
pub(super) fn asked(tx: &Tx<'_>) -> Result<Vec<UserName>> {
    let mut statement = tx.sql().prepare("SELECT DISTINCT user FROM requests WHERE declined = 0")?;
    let rows = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    rows.iter().map(|user| user.parse().map_err(|_| Error::Damaged("a user name"))).collect()
}

/// A device of a user says that this one may add the user to groups. One answer is enough: others, which devices write
/// that do not know of it yet, change nothing.
pub(super) fn accepted(
    tx: &Tx<'_>,
    user: &UserName,
    client_key: &PublicKey,
    answer: &ContactAnswer,
) -> Result<(), Rejection> {
    if !is_request_to(tx, &answer.request_id, client_key, user)? {
        if contacts::friend(tx, user)?.is_some() {
            contacts::keep_friend(tx, user, &answer.friend)?;
            return Ok(());
        }
        return Err(Rejection::invalid("an answer came that we did not ask for"));
    }
    tx.sql().execute("DELETE FROM requests WHERE user = ?1", [user.to_string()])?;
    got_friend(tx, user, &answer.friend)?;
    Event::ContactAnswered { user: user.clone() }.record(tx)?;
    Ok(())
}

fn got_friend(tx: &Tx<'_>, user: &UserName, friend: &Friend) -> Result<()> {
    if contacts::keep_friend(tx, user, friend)? {
        news::tell_own_devices(tx, user)?;
    }
    wanted(tx, user)
}

/// Fetches KeyPackages of a user whose friendship came, if a group waits for the user.
pub(super) fn wanted(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    if contacts::friend(tx, user)?.is_some() && invitations::waits_for_user(tx, user)? {
        invitations::want_key_packages(tx, user)?;
    }
    Ok(())
}

/// A user declined. The requests stay: a person may think otherwise.
pub(super) fn declined(
    tx: &Tx<'_>,
    user: &UserName,
    client_key: &PublicKey,
    request_id: &RequestId,
) -> Result<(), Rejection> {
    if !is_request_to(tx, request_id, client_key, user)? {
        return Err(Rejection::invalid("an answer came that we did not ask for"));
    }
    let sql = "UPDATE requests SET declined = 1 WHERE user = ?1 AND declined = 0";
    if tx.sql().execute(sql, [user.to_string()])? > 0 {
        Event::ContactDeclined { user: user.clone() }.record(tx)?;
    }
    Ok(())
}

fn is_request_to(
    tx: &Tx<'_>,
    request_id: &RequestId,
    client_key: &PublicKey,
    user: &UserName,
) -> Result<bool> {
    let sql =
        "SELECT EXISTS (SELECT 1 FROM requests WHERE request_id = ?1 AND client_key = ?2 AND user = ?3)";
    let found = params![request_id.as_bytes(), client_key.as_bytes(), user.to_string()];
    Ok(tx.sql().query_row(sql, found, |row| row.get(0))?)
}

/// Keeps a request of a device that the AS confirmed, for a person to decide on; one for each device, the latest.
/// A user that was accepted before is answered: the device is new, or lost what it was given.
pub(super) fn receive(
    tx: &Tx<'_>,
    user: &UserName,
    client_key: &PublicKey,
    request: &ContactRequest,
    time: u64,
    options: &Options,
) -> Result<(), Rejection> {
    lapse(tx)?;
    if block::is_blocked(tx, &Friendship::load(tx)?.secrets, user)? {
        return Ok(());
    }
    let sql = "SELECT max(declined), min(time) FROM received_requests WHERE user = ?1";
    let (declined, first): (Option<bool>, Option<u64>) =
        tx.sql().query_row(sql, [user.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let is_contact = contacts::is_given(tx, user)?;
    if !is_contact
        && declined.is_none()
        && !options.accept_contacts
        && open_users(tx)? >= options.waiting_requests
    {
        return Err(Rejection::invalid("more users ask to become contacts than are kept: decide on some"));
    }
    tx.sql().execute(
        "INSERT OR REPLACE INTO received_requests (client_key, user, request_id, contact, time, declined)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            client_key.as_bytes(),
            user.to_string(),
            request.request_id.as_bytes(),
            encode(&request.contact),
            integer(first.unwrap_or(time)),
            declined.unwrap_or(false)
        ],
    )?;
    let accepted = is_contact || options.accept_contacts;
    if accepted {
        answer(tx, user)?;
    }
    if !is_contact && (declined.is_none() || accepted) {
        Event::ContactRequested { user: user.clone(), verified: true, accepted }.record(tx)?;
    }
    Ok(())
}

/// Gives a user the friendship, if one of the user's current devices asked: those of a fresh lookup.
///
/// # Errors
/// [`Error::NoRequest`] if none of them asked.
pub(crate) fn accept(tx: &Tx<'_>, user: &VerifiedUser) -> Result<()> {
    let rows = rows(tx, &user.name)?;
    for row in &rows {
        let is_current = user.clients.iter().any(|client| client.client_key == row.client_key);
        if !is_current {
            let sql = "DELETE FROM received_requests WHERE client_key = ?1";
            tx.sql().execute(sql, [row.client_key.as_bytes()])?;
        }
    }
    if self::rows(tx, &user.name)?.is_empty() {
        return Err(Error::NoRequest(user.name.clone()));
    }
    answer(tx, &user.name)
}

/// Answers all requests of a user's devices, of those that are the user's by then, and remembers that the user has the
/// friendship.
pub(super) fn answer(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    let rows = rows(tx, user)?;
    if rows.is_empty() {
        return Ok(());
    }
    for row in rows {
        news::withdraw(tx, user, &News::Decline(row.clone()))?;
        news::tell(tx, user, &News::Answer(row))?;
    }
    forget_received(tx, user)?;
    if !contacts::is_given(tx, user)? {
        contacts::decide(tx, user, true)?;
        news::tell_own_devices(tx, user)?;
    }
    Ok(())
}

/// Declines a user's requests, whether the AS confirmed them or not. The user is told unless `silently`, and only if it
/// is known who that is.
///
/// # Errors
/// [`Error::NoRequest`].
pub(crate) fn decline(tx: &Tx<'_>, user: &UserName, silently: bool) -> Result<()> {
    let unverified = letters::forget_request(tx, user)?;
    let rows = rows(tx, user)?;
    if rows.is_empty() {
        return if unverified { Ok(()) } else { Err(Error::NoRequest(user.clone())) };
    }
    if !silently {
        for row in rows {
            news::tell(tx, user, &News::Decline(row))?;
        }
    }
    mark_declined(tx, user)?;
    contacts::decide(tx, user, false)?;
    news::tell_own_devices(tx, user)
}

/// Takes over what another device of this user decided.
pub(super) fn decided(tx: &Tx<'_>, user: &UserName, given: bool) -> Result<()> {
    if given { answer(tx, user) } else { mark_declined(tx, user) }
}

fn mark_declined(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    tx.sql().execute("UPDATE received_requests SET declined = 1 WHERE user = ?1", [user.to_string()])?;
    Ok(())
}

/// All users that ask; first those that the AS confirmed.
pub(crate) fn received(tx: &Tx<'_>) -> Result<Vec<ReceivedRequest>> {
    let mut statement = tx.sql().prepare(
        "SELECT user, min(time), max(declined) FROM received_requests WHERE time >= ?1
         GROUP BY user ORDER BY min(time), user",
    )?;
    let rows = statement
        .query_map([lapsed_before(tx)], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<Vec<(String, u64, bool)>, _>>()?;
    let verified = rows.into_iter().map(|(user, time, declined)| {
        let user = user.parse().map_err(|_| Error::Damaged("a user name"))?;
        Ok(ReceivedRequest { user, time, verified: true, declined })
    });
    let mut all = verified.collect::<Result<Vec<_>>>()?;
    for (user, time) in letters::unverified_requests(tx)? {
        if !all.iter().any(|request| request.user == user) {
            all.push(ReceivedRequest { user, time, verified: false, declined: false });
        }
    }
    Ok(all)
}

/// Forgets a user's requests.
pub(super) fn forget_received(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    tx.sql().execute("DELETE FROM received_requests WHERE user = ?1", [user.to_string()])?;
    letters::forget_request(tx, user)?;
    Ok(())
}

/// Forgets what a user was asked, and asked.
pub(super) fn forget(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    tx.sql().execute("DELETE FROM requests WHERE user = ?1", [user.to_string()])?;
    forget_received(tx, user)
}

/// A user has another name now.
pub(super) fn moved(tx: &Tx<'_>, from: &UserName, to: &UserName) -> Result<()> {
    for table in ["requests", "received_requests"] {
        let sql = format!("UPDATE {table} SET user = ?2 WHERE user = ?1");
        tx.sql().execute(&sql, params![from.to_string(), to.to_string()])?;
    }
    Ok(())
}

fn lapse(tx: &Tx<'_>) -> Result<()> {
    tx.sql().execute("DELETE FROM received_requests WHERE time < ?1", [lapsed_before(tx)])?;
    Ok(())
}

/// The time (seconds since 1970) before which requests that wait have lapsed.
fn lapsed_before(tx: &Tx<'_>) -> i64 {
    integer(tx.now().saturating_sub(LAPSES_AFTER))
}

/// The number of users that wait for a decision.
fn open_users(tx: &Tx<'_>) -> Result<u64> {
    let sql = "SELECT count(DISTINCT user) FROM received_requests WHERE declined = 0";
    Ok(tx.sql().query_row(sql, [], |row| row.get(0))?)
}

fn rows(tx: &Tx<'_>, user: &UserName) -> Result<Vec<DeviceRequest>> {
    let sql = "SELECT client_key, request_id, contact FROM received_requests WHERE user = ?1 AND time >= ?2";
    let mut statement = tx.sql().prepare_cached(sql)?;
    let rows = statement
        .query_map(params![user.to_string(), lapsed_before(tx)], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?
        .collect::<Result<Vec<(Vec<u8>, [u8; 16], Vec<u8>)>, _>>()?;
    rows.into_iter()
        .map(|(client_key, request_id, contact)| {
            Ok(DeviceRequest {
                client_key: fixed(&client_key, "a key")?,
                request_id: RequestId::new(request_id),
                contact: decode(&contact, "a contact")?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use postern_protocol::{Address, HpkePublicKey, key::SigningKey};

    use super::*;
    use crate::{clock::Clock, contact::FriendshipSecrets, store::Store};

    #[test]
    fn a_request_that_nobody_decides_on_is_neither_shown_nor_accepted_after_sixty_days() {
        let directory = tempfile::tempdir().unwrap();
        let at = |days: i64| Options { clock: Clock::ahead_by(days * 24 * 60 * 60), ..Options::default() };
        let (alice, bob): (UserName, UserName) =
            ("alice@example.org".parse().unwrap(), "bob@example.org".parse().unwrap());
        let key = SigningKey::generate();
        let (address, hpke_key) = (Address::new([1; 32]), HpkePublicKey::new([2; 32]));
        let contact = SignedContact::sign(alice.domain().clone(), address, hpke_key, &key);
        let request = ContactRequest { request_id: RequestId::new([3; 16]), contact };
        let store = Store::create(directory.path(), &at(0)).unwrap();
        let received_in_time = store.write(|tx| {
            Account::new("http://127.0.0.1:1".to_owned(), bob)?.save(tx)?;
            Friendship::join(FriendshipSecrets::generate()?).save(tx)?;
            Ok(receive(tx, &alice, &key.public_key(), &request, tx.now(), &at(0)).is_ok())
        });
        assert!(received_in_time.unwrap());
        drop(store);
        for (days, waits) in [(59, true), (61, false)] {
            let store = Store::open(directory.path(), &at(days)).unwrap();
            assert_eq!(store.read(received).unwrap().len(), usize::from(waits), "{days}");
            assert_eq!(store.read(|tx| rows(tx, &alice)).unwrap().len(), usize::from(waits), "{days}");
        }
    }
}
