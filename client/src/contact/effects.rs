//! The effect of a letter, once the AS was asked about its sender.

use postern_protocol::name::UserName;

use super::{
    contacts::{self, SharedContact},
    given_addresses,
    letter::LetterBody,
    letters::{self, WaitingLetter},
    news::{self, News},
    numbers, parts, requests, rotation,
};
use crate::{
    error::{Rejection, Result},
    event::Event,
    group::{self, GroupHandover},
    identity::{self, Seen, VerifiedUser},
    invitations,
    options::Options,
    profile,
    store::Tx,
};

const HOUR: u64 = 60 * 60;
const DAY: u64 = 24 * HOUR;
/// Seconds for which the farewell of a user waits while the AS still knows the user.
const FAREWELL_FOR: u64 = 2 * DAY;
const LATER_THAN_KNOWN: &str = "a letter says that something was decided later than its sender can know";

/// The AS's word about the user that a letter is from.
pub(super) enum Sender {
    Found(VerifiedUser),
    /// There is no such user.
    Absent,
    /// Its word does not hold together, or a person has to accept it first, or it refuses to say anything.
    Doubtful,
}

/// The fate of a letter.
pub(super) enum Fate {
    Done,
    /// It waits until this time (seconds since 1970).
    Waits(u64),
}

/// Lets a letter take effect, as far as it has one.
pub(super) fn take_effect(
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
        Sender::Doubtful if has_moved(tx, user, letter)? => return Ok(Fate::Done),
        Sender::Absent | Sender::Doubtful if matches!(letter.body, LetterBody::Leaving) => {
            return leaves_later(tx, letter);
        }
        Sender::Absent | Sender::Doubtful => return unverified(tx, user, letter, options),
    };
    let client_key = &letter.client_key;
    let leaves = matches!(letter.body, LetterBody::Leaving);
    if leaves {
        // It counts also if the sender's credential has ended since: nobody renews that.
        if identity::has_device(tx, user, client_key)? != Some(true) {
            // Another device was faster.
            numbers::check(tx, client_key, &letter.subject, &letter.stamp)?;
            numbers::keep(tx, client_key, &letter.subject, &letter.stamp)?;
            return Ok(Fate::Done);
        }
    } else if !found.clients.iter().any(|client| client.client_key == *client_key) {
        // The AS may leave it out so that nobody hears what it knows.
        identity::told(tx, user, client_key, &letter.stamp.eid)?;
        return Err(Rejection::invalid("a letter is from a device that is not its user's, or not any more"));
    }
    match identity::heard(tx, user, client_key, &letter.stamp.eid)? {
        Seen::Same | Seen::Unknown => {}
        // It decides about nobody else, and brings nothing of its own again after the AS was restored.
        Seen::Newer | Seen::Split if leaves => {}
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
        LetterBody::SecretsPart(part) => match parts::put_together(tx, client_key, part, &letter.stamp)? {
            Some(secrets) if secrets.is_by(&letter.stamp.eid) => {
                rotation::adopt(tx, &secrets, letter.stamp.time)?;
            }
            Some(_) => return Err(Rejection::invalid(LATER_THAN_KNOWN)),
            None => {}
        },
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
            return Err(Rejection::invalid(LATER_THAN_KNOWN));
        }
        LetterBody::Decline(request_id) => requests::declined(tx, user, client_key, request_id)?,
        LetterBody::Group { handover, .. } => {
            let handover = GroupHandover::decode(handover, client_key)
                .ok_or_else(|| Rejection::invalid("a group that was handed over is malformed"))?;
            group::take_over(tx, std::slice::from_ref(&handover))?;
            if group::follows(tx, &handover)? {
                group::told(tx, &handover.id, client_key)?;
            }
        }
        // The lookup showed that the identity is the one of the old name, if it is.
        LetterBody::Moved(from) if told_of_move(tx, from, user)? => {}
        LetterBody::Moved(_) => {
            return Err(Rejection::invalid(
                "a user says to have had a name that is not known to have been its",
            ));
        }
        // The lookup showed it.
        LetterBody::Profile(version) if profile::version(tx, user)? >= *version => {}
        LetterBody::Profile(_) => {
            return Err(Rejection::invalid(profile::KEPT_BACK));
        }
        LetterBody::Gone => {}
        LetterBody::Leaving => identity::said_to_leave(tx, client_key)?,
    }
    Ok(Fate::Done)
}

/// Takes over what another device of this user agreed with a contact.
fn agreed(tx: &Tx<'_>, contact: &SharedContact, written: u64) -> Result<()> {
    if let Some(given) = contacts::merge(tx, contact, written)? {
        requests::decided(tx, &contact.user, given)?;
    }
    requests::wanted(tx, &contact.user)
}

/// Has the request of a sender wait that the AS does not confirm, and may confirm later; it is shown as what it is. Such
/// requests have a quota of their own, and take no place from those of confirmed senders.
fn unverified(
    tx: &Tx<'_>,
    user: &UserName,
    letter: &WaitingLetter,
    options: &Options,
) -> Result<Fate, Rejection> {
    let first = letter.stamp.time;
    if !matches!(letter.body, LetterBody::Request(_))
        || first.saturating_add(letters::UNVERIFIED_FOR) < tx.now()
    {
        return Err(Rejection::invalid("a letter is from a user whom the server does not confirm"));
    }
    let (users, own) = letters::unconfirmed(tx, user)?;
    if own == 0 {
        if users >= options.unconfirmed_requests {
            return Err(Rejection::invalid("more users ask whom the server does not confirm than are kept"));
        }
        Event::ContactRequested { user: user.clone(), verified: false, accepted: false }.record(tx)?;
    }
    letters::mark_unconfirmed(tx, letter)?;
    // Each time costs a token: after a day, then after two, and so on.
    let next = tx.now().saturating_add(DAY.max(tx.now().saturating_sub(first)));
    Ok(Fate::Waits(next.min(first.saturating_add(letters::UNVERIFIED_FOR + 1))))
}

/// Ends everything with a user that says farewell and that the AS does not know any more: the account was deleted (AS-9).
/// The letter is signed by a device that was the user's.
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

/// Has a farewell wait while the AS still knows the user: for two days.
fn still_there(tx: &Tx<'_>, letter: &WaitingLetter) -> Result<Fate, Rejection> {
    if letter.stamp.time.saturating_add(FAREWELL_FOR) < tx.now() {
        return Err(Rejection::invalid("a user said farewell and is still there"));
    }
    Ok(Fate::Waits(tx.now().saturating_add(HOUR)))
}

/// Has the letter of a device that logs out wait while the AS shows nothing of this user that holds: it was restored to an earlier
/// state, say, or another device renamed the user. Nobody writes that letter again.
fn leaves_later(tx: &Tx<'_>, letter: &WaitingLetter) -> Result<Fate, Rejection> {
    let (now, written) = (tx.now(), letter.stamp.time);
    if written.saturating_add(numbers::MAX_AGE) < now {
        return Err(Rejection::invalid(numbers::TOO_OLD));
    }
    let pause = now.saturating_sub(written).clamp(HOUR, letters::LONGEST_PAUSE);
    Ok(Fate::Waits(now.saturating_add(pause)))
}

/// Takes over that a user had another name, as a letter of the user says. Returns false if it is known not to be so. Where
/// nobody is a contact under that name there is nothing to take over: a lookup has moved what it proved by then, and what else
/// waits under the name is somebody else's.
fn told_of_move(tx: &Tx<'_>, from: &UserName, to: &UserName) -> Result<bool> {
    if from == to || !contacts::is_kept(tx, from)? {
        return Ok(true);
    }
    if !contacts::is_agreed_with(tx, from, to)? {
        return Ok(false);
    }
    moved(tx, from, to).map(|()| true)
}

/// Whether a letter says that its user had another name, and a lookup followed the user to the present one, though the user was
/// reset since: a device sent the letter that is known as the user's of before.
fn has_moved(tx: &Tx<'_>, user: &UserName, letter: &WaitingLetter) -> Result<bool> {
    let LetterBody::Moved(from) = &letter.body else { return Ok(false) };
    Ok(identity::is_device(tx, user, &letter.client_key)? && !contacts::is_kept(tx, from)?)
}

/// Goes on with a user under another name, who is the same, with all that was agreed and asked, with invitations, and with what the
/// user is to be told.
pub(crate) fn moved(tx: &Tx<'_>, from: &UserName, to: &UserName) -> Result<()> {
    contacts::moved(tx, from, to)?;
    given_addresses::moved(tx, from, to)?;
    requests::moved(tx, from, to)?;
    news::moved(tx, from, to)?;
    invitations::moved(tx, from, to)
}

#[cfg(test)]
mod tests {
    use postern_protocol::{
        Address, HpkePublicKey, Transcript, auth::SignedContact, ds::GroupId, eid::EidState, key::SigningKey,
    };

    use super::*;
    use crate::{
        contact::{ContactRequest, RequestId, Stamp},
        identity::VerifiedClient,
        store::{Store, decode},
    };

    #[test]
    fn who_says_to_have_had_anothers_name_takes_nothing_that_waits_under_it() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options::default();
        let store = Store::create(directory.path(), &options).unwrap();
        let [alice, bob, robert, mallory] =
            ["alice", "bob", "robert", "mallory"].map(|name| format!("{name}@example.org"));
        let name = |user: &str| user.parse::<UserName>().unwrap();
        // Alice asked Bob, who asks, too, and is no contact yet. Her other devices are to be told something.
        let asked = format!(
            "INSERT INTO requests (client_key, request_id, user, declined) VALUES (x'01', x'02', '{bob}', 0);
             INSERT INTO received_requests (client_key, user, request_id, contact, time, declined)
                  VALUES (x'01', '{bob}', x'02', x'', 1, 0)"
        );
        store
            .write(|tx| {
                tx.sql().execute_batch(&asked)?;
                news::tell(tx, &name(&alice), &News::Missed)
            })
            .unwrap();
        let waits = || {
            let sql = "SELECT (SELECT user FROM requests), (SELECT user FROM received_requests),
                              (SELECT user FROM news)";
            let users = |tx: &Tx<'_>| {
                Ok(tx.sql().query_row(sql, [], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?]))?)
            };
            store.read::<[String; 3]>(users).unwrap()
        };
        let (client_key, eid) =
            (SigningKey::generate().public_key(), EidState::founded(0, Transcript::new([1; 32])));
        let clients = vec![VerifiedClient { client_key, contact: None }];
        let sender = Sender::Found(VerifiedUser { name: name(&mallory), eid, clients });
        for (number, from) in (1..).zip([&bob, &alice, &mallory]) {
            let letter = WaitingLetter {
                client_key,
                subject: "account".to_owned(),
                stamp: Stamp { time: store.now(), number, eid },
                body: LetterBody::Moved(name(from)),
                home_key: None,
                address: None,
            };
            let take = |tx: &Tx<'_>| Ok(take_effect(tx, &name(&mallory), &sender, &letter, &options));
            assert!(matches!(store.write(take).unwrap(), Ok(Fate::Done)), "{from}");
            assert_eq!(waits(), [&bob, &bob, &alice].map(String::clone), "{from}");
        }
        // A lookup showed it.
        store.write(|tx| moved(tx, &name(&bob), &name(&robert))).unwrap();
        assert_eq!(waits(), [&robert, &robert, &alice].map(String::clone));
    }

    #[test]
    fn a_letter_of_a_device_that_is_out_of_the_identity_has_nobody_removed_and_is_taken_once() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options::default();
        let store = Store::create(directory.path(), &options).unwrap();
        let (bob, client_key): (UserName, _) =
            ("bob@example.org".parse().unwrap(), SigningKey::generate().public_key());
        let eid = EidState::founded(0, Transcript::new([1; 32]));
        let sender = Sender::Found(VerifiedUser { name: bob.clone(), eid, clients: Vec::new() });
        let letter = WaitingLetter {
            client_key,
            subject: LetterBody::Leaving.subject(),
            stamp: Stamp { time: store.now(), number: 1, eid },
            body: LetterBody::Leaving,
            home_key: None,
            address: None,
        };
        let take = || store.write(|tx| Ok(take_effect(tx, &bob, &sender, &letter, &options))).unwrap();
        assert!(matches!(take(), Ok(Fate::Done)), "another device was faster");
        assert!(matches!(take(), Err(Rejection::Invalid(_))), "it came again");
        let waits = "SELECT count(*) FROM leaving_devices";
        let waiting = store.read(|tx| Ok(tx.sql().query_row(waits, [], |row| row.get::<_, u64>(0))?));
        assert_eq!(waiting.unwrap(), 0);
    }

    /// The AS was restored to a state before one that the device knew, and the user's identity goes on in another way, perhaps.
    #[test]
    fn a_device_that_logged_out_is_removed_though_it_knew_more_than_the_as_shows() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options::default();
        let store = Store::create(directory.path(), &options).unwrap();
        let (bob, device): (UserName, _) = ("bob@example.org".parse().unwrap(), SigningKey::generate());
        let client_key = device.public_key();
        let eid = store.write(|tx| identity::eid::create(tx, &bob, &device, None)).unwrap().state.eid;
        let another_history = EidState { transcript: Transcript::new([1; 32]), ..eid };
        let sender = Sender::Found(VerifiedUser { name: bob.clone(), eid, clients: Vec::new() });
        for (what, told) in [("news", eid.followed_by(b"a commit")), ("a split", another_history)] {
            let letter = WaitingLetter {
                client_key,
                subject: LetterBody::Leaving.subject(),
                stamp: Stamp { time: store.now(), number: 1, eid: told },
                body: LetterBody::Leaving,
                home_key: None,
                address: None,
            };
            let leaves = |tx: &Tx<'_>| {
                let fate = take_effect(tx, &bob, &sender, &letter, &options);
                let sql = "SELECT client_key FROM leaving_devices";
                let mut statement = tx.sql().prepare(sql)?;
                let leaving = statement.query_map([], |row| row.get(0))?;
                Ok((fate, leaving.collect::<Result<Vec<Vec<u8>>, _>>()?))
            };
            let (fate, leaving) = store.trial(leaves).unwrap();
            assert!(matches!(fate, Ok(Fate::Done)), "{what}");
            assert_eq!(leaving, [client_key.as_bytes()], "{what}");
        }
    }

    #[test]
    fn the_letter_of_a_device_that_logged_out_waits_while_the_as_shows_nothing_that_holds() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options::default();
        let store = Store::create(directory.path(), &options).unwrap();
        let (bob, client_key): (UserName, _) =
            ("bob@example.org".parse().unwrap(), SigningKey::generate().public_key());
        for sender in [Sender::Absent, Sender::Doubtful] {
            for (age, waits) in [(0, true), (61 * DAY, true), (63 * DAY, false)] {
                let letter = WaitingLetter {
                    client_key,
                    subject: LetterBody::Leaving.subject(),
                    stamp: Stamp {
                        time: store.now() - age,
                        number: 1,
                        eid: EidState::founded(0, Transcript::new([1; 32])),
                    },
                    body: LetterBody::Leaving,
                    home_key: None,
                    address: None,
                };
                let take = |tx: &Tx<'_>| Ok(take_effect(tx, &bob, &sender, &letter, &options));
                let fate = store.write(take).unwrap();
                assert_eq!(matches!(fate, Ok(Fate::Waits(due)) if due > store.now()), waits, "{age}");
            }
        }
    }

    #[test]
    fn what_a_user_is_to_be_told_and_invited_to_goes_on_under_another_name() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path(), &Options::default()).unwrap();
        let [alice, bob, robert] =
            ["alice", "bob", "robert"].map(|name| format!("{name}@example.org").parse::<UserName>().unwrap());
        let group = GroupId::new([7; 16], bob.domain().clone());
        let later = |tx: &Tx<'_>| {
            news::tell(tx, &bob, &News::Renewal)?;
            news::tell(tx, &bob, &News::Profile)?;
            tx.sql().execute("UPDATE news SET due = 1 << 40", [])?;
            // Alice's other devices are to be told what was agreed with Bob.
            news::tell(tx, &alice, &News::Contact(bob.clone()))?;
            news::tell(tx, &robert, &News::Profile)?;
            invitations::invite(tx, &group, &SigningKey::generate().public_key(), &bob)?;
            invitations::want_key_packages(tx, &bob)?;
            moved(tx, &bob, &robert)
        };
        store.write(later).unwrap();
        let told = |user: &UserName| {
            let told = |tx: &Tx<'_>| {
                let sql = "SELECT news FROM news WHERE user = ?1 AND due = 0 ORDER BY rowid";
                let mut statement = tx.sql().prepare(sql)?;
                let rows = statement.query_map([user.to_string()], |row| row.get(0))?;
                let rows = rows.collect::<Result<Vec<Vec<u8>>, _>>()?;
                rows.iter().map(|news| decode(news, "news")).collect::<Result<Vec<News>>>()
            };
            store.read(told).unwrap()
        };
        assert_eq!(told(&bob), []);
        assert_eq!(told(&robert), [News::Renewal, News::Profile]);
        assert_eq!(told(&alice), [News::Contact(robert.clone())]);
        assert!(store.read(|tx| invitations::waits_for_user(tx, &robert)).unwrap());
        assert_eq!(store.read(invitations::wanted_key_packages).unwrap(), [robert]);
    }

    #[test]
    fn a_request_whose_sender_is_not_confirmed_waits_for_thirty_days() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options::default();
        let store = Store::create(directory.path(), &options).unwrap();
        let (alice, key): (UserName, _) = ("alice@example.org".parse().unwrap(), SigningKey::generate());
        let (address, hpke_key) = (Address::new([1; 32]), HpkePublicKey::new([2; 32]));
        let contact = SignedContact::sign(alice.domain().clone(), address, hpke_key, &key);
        for (days, waits) in [(29, true), (31, false)] {
            let request = ContactRequest { request_id: RequestId::new([3; 16]), contact: contact.clone() };
            let eid = EidState::founded(0, Transcript::new([1; 32]));
            let letter = WaitingLetter {
                client_key: key.public_key(),
                subject: "request".to_owned(),
                stamp: Stamp { time: store.now() - days * DAY, number: 1, eid },
                body: LetterBody::Request(request),
                home_key: None,
                address: None,
            };
            let fate = store.write(|tx| Ok(unverified(tx, &alice, &letter, &options))).unwrap();
            assert_eq!(matches!(fate, Ok(Fate::Waits(due)) if due > store.now()), waits, "{days}");
        }
    }
}
