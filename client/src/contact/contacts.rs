//! Contacts: users that gave this one their friendship, and users that were given this one's. All devices of this user
//! know of both. What was agreed holds for one identity of the user, which its founding names: after a reset it counts
//! for nothing, and the user is no contact until a person decides anew (AS-11). Owns the table `contacts`.

use postern_protocol::{Transcript, eid::EidState, name::UserName};
use rusqlite::{OptionalExtension as _, Row, params};
use serde::{Deserialize, Serialize};

use super::{
    friendship::{Edition, Friend},
    looks,
};
use crate::{
    error::{Error, Result},
    identity::{self, Known},
    profile,
    store::{Tx, decode, encode},
};

/// An agreement of a user with this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedContact {
    pub user: UserName,
    /// Transcript of epoch 0 of the identity that it holds for.
    pub founding: Transcript,
    /// The friendship that the user gave to this one.
    pub friend: Option<Friend>,
    /// Whether the user was given this one's.
    pub given: bool,
    /// When that was decided; `None`: never.
    pub decided: Option<Edition>,
}

impl SharedContact {
    fn new(user: &UserName, founding: Transcript) -> Self {
        Self { user: user.clone(), founding, friend: None, given: false, decided: None }
    }

    /// Whether it was decided by this point in the life of the identity of the user whose devices share it.
    pub(super) fn is_by(&self, eid: &EidState) -> bool {
        self.decided.is_none_or(|decided| decided.is_by(eid))
    }

    /// Whether it tells more of the user than is known: then the AS is asked first.
    pub(super) fn is_ahead(&self, known: Option<&Known>) -> bool {
        known.is_none_or(|known| self.friend.as_ref().is_some_and(|friend| !friend.edition.is_by(&known.eid)))
    }
}

const COLUMNS: &str = "user, founding, friend, given, decided";

/// The agreement that holds with a user now; `None` if none does.
pub(super) fn find(tx: &Tx<'_>, user: &UserName) -> Result<Option<SharedContact>> {
    let contact = stored(tx, user)?;
    let founding = founding(tx, user)?;
    Ok(contact.filter(|contact| Some(contact.founding) == founding))
}

fn stored(tx: &Tx<'_>, user: &UserName) -> Result<Option<SharedContact>> {
    let sql = format!("SELECT {COLUMNS} FROM contacts WHERE user = ?1");
    let row = tx.sql().query_row(&sql, [user.to_string()], columns).optional()?;
    row.map(read).transpose()
}

/// Whether there is or was an agreement with a user.
pub(super) fn is_kept(tx: &Tx<'_>, user: &UserName) -> Result<bool> {
    Ok(stored(tx, user)?.is_some())
}

/// All agreements that hold.
pub(super) fn all(tx: &Tx<'_>) -> Result<Vec<SharedContact>> {
    let mut statement = tx.sql().prepare(&format!("SELECT {COLUMNS} FROM contacts ORDER BY user"))?;
    let rows = statement.query_map([], columns)?.collect::<Result<Vec<_>, _>>()?;
    let mut contacts = Vec::new();
    for row in rows {
        let contact = read(row)?;
        if Some(contact.founding) == founding(tx, &contact.user)? {
            contacts.push(contact);
        }
    }
    Ok(contacts)
}

/// All users with whom there is or was an agreement.
pub(super) fn users(tx: &Tx<'_>) -> Result<Vec<UserName>> {
    let mut statement = tx.sql().prepare("SELECT user FROM contacts")?;
    let rows = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    rows.iter().map(|user| user.parse().map_err(|_| Error::Damaged("a user name"))).collect()
}

/// The friendship that a user gave to this one.
pub(crate) fn friend(tx: &Tx<'_>, user: &UserName) -> Result<Option<Friend>> {
    Ok(find(tx, user)?.and_then(|contact| contact.friend))
}

/// Keeps a friendship that a user gave to this one, unless a later one is known. Returns whether it was news.
pub(super) fn keep_friend(tx: &Tx<'_>, user: &UserName, friend: &Friend) -> Result<bool> {
    let Some(mut contact) = find_or_new(tx, user)? else { return Ok(false) };
    if contact.friend.as_ref().is_some_and(|known| !friend.replaces(known)) {
        return Ok(false);
    }
    contact.friend = Some(friend.clone());
    save(tx, &contact)?;
    Ok(true)
}

/// Forgets a friendship that is good for nothing any more.
pub(crate) fn forget_friend(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    tx.sql().execute("UPDATE contacts SET friend = NULL WHERE user = ?1", [user.to_string()])?;
    Ok(())
}

/// Decides whether a user has this one's friendship.
pub(super) fn decide(tx: &Tx<'_>, user: &UserName, given: bool) -> Result<()> {
    let Some(mut contact) = find_or_new(tx, user)? else { return Ok(()) };
    contact.given = given;
    let before = contact.decided.unwrap_or_default();
    contact.decided = Some(before.decided(&identity::own_state(tx)?, tx.now()));
    save(tx, &contact)
}

/// Whether a user was given this one's friendship.
pub(super) fn is_given(tx: &Tx<'_>, user: &UserName) -> Result<bool> {
    Ok(find(tx, user)?.is_some_and(|contact| contact.given))
}

/// The users that were given this one's friendship.
pub(super) fn given(tx: &Tx<'_>) -> Result<Vec<UserName>> {
    Ok(all(tx)?.into_iter().filter(|contact| contact.given).map(|contact| contact.user).collect())
}

/// Takes over what another device of this user knows later, and wrote at a time (seconds since 1970). What is of a time
/// or a point to come is none. Where this one does not know the user's identity yet, it counts once a lookup shows the
/// one that it holds for. Returns whether the user was given the friendship, or refused it, by that.
pub(super) fn merge(tx: &Tx<'_>, theirs: &SharedContact, written: u64) -> Result<Option<bool>> {
    let known = identity::known(tx, &theirs.user)?;
    if known.as_ref().is_some_and(|known| known.reset_pending || known.founding != theirs.founding) {
        return Ok(None);
    }
    let own = stored(tx, &theirs.user)?.filter(|own| own.founding == theirs.founding);
    let mut contact = own.unwrap_or_else(|| SharedContact::new(&theirs.user, theirs.founding));
    if let Some(friend) = &theirs.friend
        && !theirs.is_ahead(known.as_ref())
        && contact.friend.as_ref().is_none_or(|known| friend.replaces(known))
    {
        contact.friend = Some(friend.clone());
    }
    let is_later =
        theirs.decided > contact.decided && theirs.decided.is_some_and(|decided| decided.is_timely(written));
    let decided = is_later.then_some(theirs.given);
    if let Some(given) = decided {
        contact.given = given;
        contact.decided = theirs.decided;
    }
    save(tx, &contact)?;
    Ok(decided)
}

/// Whether what was agreed with one user was agreed with the identity that another one has.
pub(super) fn is_agreed_with(tx: &Tx<'_>, user: &UserName, other: &UserName) -> Result<bool> {
    let agreed = stored(tx, user)?.map(|contact| contact.founding);
    Ok(agreed.is_some() && agreed == founding(tx, other)?)
}

/// A user has another name now: what was agreed is kept under that. It holds as before, for the identity that it was agreed with.
pub(super) fn moved(tx: &Tx<'_>, from: &UserName, to: &UserName) -> Result<()> {
    let sql = "UPDATE OR REPLACE contacts SET user = ?2 WHERE user = ?1";
    tx.sql().execute(sql, [from.to_string(), to.to_string()])?;
    looks::forget(tx, from)
}

/// Forgets a user.
pub(super) fn forget(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    tx.sql().execute("DELETE FROM contacts WHERE user = ?1", [user.to_string()])?;
    looks::forget(tx, user)
}

/// The agreement that holds with a user, or an empty one; `None` as long as no identity of the user is known that needs
/// nobody's consent.
fn find_or_new(tx: &Tx<'_>, user: &UserName) -> Result<Option<SharedContact>> {
    let new = |founding| SharedContact::new(user, founding);
    Ok(find(tx, user)?.or(founding(tx, user)?.map(new)))
}

fn save(tx: &Tx<'_>, contact: &SharedContact) -> Result<()> {
    tx.sql().execute(
        "INSERT OR REPLACE INTO contacts (user, founding, friend, given, decided) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            contact.user.to_string(),
            contact.founding.as_bytes(),
            contact.friend.as_ref().map(encode),
            contact.given,
            contact.decided.as_ref().map(encode)
        ],
    )?;
    if let Some(friend) = &contact.friend {
        profile::keep_key(tx, &contact.user, &friend.shared_profile_key(), profile::Source::User)?;
    }
    Ok(())
}

/// The founding of a user's identity; `None` while none is known, or a reset waits for a person.
fn founding(tx: &Tx<'_>, user: &UserName) -> Result<Option<Transcript>> {
    let known = identity::known(tx, user)?;
    Ok(known.filter(|known| !known.reset_pending).map(|known| known.founding))
}

type Columns = (String, [u8; 32], Option<Vec<u8>>, bool, Option<Vec<u8>>);

fn columns(row: &Row<'_>) -> rusqlite::Result<Columns> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
}

fn read((user, founding, friend, given, decided): Columns) -> Result<SharedContact> {
    Ok(SharedContact {
        user: user.parse().map_err(|_| Error::Damaged("a user name"))?,
        founding: Transcript::new(founding),
        friend: friend.map(|friend| decode(&friend, "a friendship")).transpose()?,
        given,
        decided: decided.map(|decided| decode(&decided, "a decision")).transpose()?,
    })
}
