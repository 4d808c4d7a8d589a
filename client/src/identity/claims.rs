//! States of users' identities that clients of theirs told: in messages and letters. They show what the AS keeps back, and
//! that it shows one history to some and another to others. A claim counts once a lookup after it shows that its teller is
//! still the user's. Owns the table `eid_claims`.

use postern_protocol::{PublicKey, eid::EidState, name::UserName};
use rusqlite::params;

use super::known::{self, Seen};
use crate::{
    error::{Error, Result},
    event::Event,
    store::{Tx, decode, encode, fixed},
};

/// A state that one of a user's clients told.
struct Claim {
    teller: PublicKey,
    told: EidState,
    /// Lookups since that showed the teller, and did not show the state.
    tried: u32,
}

/// Takes note of a state that one of a user's clients told. If it is newer than what the AS showed, or of another history,
/// the AS is asked with the next errands: the teller may have been removed since it was asked last.
pub(crate) fn heard(tx: &Tx<'_>, name: &UserName, teller: &PublicKey, told: &EidState) -> Result<Seen> {
    let seen = known::compare(tx, name, told)?;
    let replaces = |before: Claim| seen == Seen::Split || is_newer(told, &before.told);
    if matches!(seen, Seen::Newer | Seen::Split) && claim_of(tx, name, teller)?.is_none_or(replaces) {
        tx.sql().execute(
            "INSERT OR REPLACE INTO eid_claims (user, client_key, state, tried) VALUES (?1, ?2, ?3, 0)",
            params![name.to_string(), teller.as_bytes(), encode(told)],
        )?;
    }
    Ok(seen)
}

/// The users with another state than the AS showed, as somebody told.
pub(super) fn claimed(tx: &Tx<'_>) -> Result<Vec<UserName>> {
    let mut statement = tx.sql().prepare_cached("SELECT DISTINCT user FROM eid_claims ORDER BY user")?;
    let names = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    names.iter().map(|name| name.parse().map_err(|_| Error::Damaged("a user name"))).collect()
}

/// Compares what was told of a user with what a lookup showed just now. The word of a client that it did not show
/// counts for nothing. An AS that does not show a newer state to the second lookup either keeps it back: the first may
/// have been under way when it was told.
pub(super) fn check(tx: &Tx<'_>, name: &UserName) -> Result<()> {
    for Claim { teller, told, tried } in claims(tx, name)? {
        let is_theirs = known::confirmed(tx, &teller)?.as_ref() == Some(name);
        match known::compare(tx, name, &told)? {
            Seen::Newer if is_theirs && tried == 0 => {
                tx.sql().execute(
                    "UPDATE eid_claims SET tried = 1 WHERE user = ?1 AND client_key = ?2",
                    params![name.to_string(), teller.as_bytes()],
                )?;
                continue;
            }
            Seen::Newer | Seen::Split if is_theirs => report_split(tx, name, &told)?,
            _ => {}
        }
        tx.sql().execute(
            "DELETE FROM eid_claims WHERE user = ?1 AND client_key = ?2",
            params![name.to_string(), teller.as_bytes()],
        )?;
    }
    Ok(())
}

/// Forgets the claims about a user that the AS does not show: the lookup's failure says more.
pub(super) fn forget(tx: &Tx<'_>, name: &UserName) -> Result<()> {
    tx.sql().execute("DELETE FROM eid_claims WHERE user = ?1", [name.to_string()])?;
    Ok(())
}

/// Withdraws that the user is verified, and tells of the split unless this one was told.
fn report_split(tx: &Tx<'_>, name: &UserName, told: &EidState) -> Result<()> {
    if known::mark_split(tx, name, told)? {
        Event::IdentitySplit { user: name.clone() }.record(tx)?;
    }
    Ok(())
}

fn claim_of(tx: &Tx<'_>, name: &UserName, teller: &PublicKey) -> Result<Option<Claim>> {
    Ok(claims(tx, name)?.into_iter().find(|claim| claim.teller == *teller))
}

fn claims(tx: &Tx<'_>, name: &UserName) -> Result<Vec<Claim>> {
    let mut statement = tx.sql().prepare_cached(
        "SELECT client_key, state, tried FROM eid_claims WHERE user = ?1 ORDER BY client_key",
    )?;
    let rows = statement
        .query_map([name.to_string()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<Vec<(Vec<u8>, Vec<u8>, u32)>, _>>()?;
    rows.into_iter()
        .map(|(teller, told, tried)| {
            Ok(Claim { teller: fixed(&teller, "a key")?, told: decode(&told, "a state")?, tried })
        })
        .collect()
}

fn is_newer(one: &EidState, other: &EidState) -> bool {
    (one.incarnation, one.epoch) > (other.incarnation, other.epoch)
}
