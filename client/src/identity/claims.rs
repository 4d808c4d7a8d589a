//! States of users' identities that clients of theirs told: in messages, letters and handovers. They
//! show what the AS keeps back, and that it shows one history to some and another to others. Owns the
//! table `eid_claims`.

use postern_protocol::{eid::EidState, name::UserName};
use rusqlite::{OptionalExtension as _, params};

use super::known::{self, Seen};
use crate::{
    error::{Error, Result},
    event::Event,
    store::{Tx, decode, encode},
};

/// Takes note of a state that one of a user's clients told. Of a newer one the AS is asked with the next
/// errands; another history than the AS showed is told as [`Event::IdentitySplit`], once.
pub(crate) fn heard(tx: &Tx<'_>, name: &UserName, told: &EidState) -> Result<Seen> {
    let seen = known::compare(tx, name, told)?;
    match seen {
        Seen::Split => report_split(tx, name)?,
        Seen::Newer if claim(tx, name)?.is_none_or(|(claimed, _)| is_newer(told, &claimed)) => {
            tx.sql().execute(
                "INSERT OR REPLACE INTO eid_claims (user, state, tried) VALUES (?1, ?2, 0)",
                params![name.to_string(), encode(told)],
            )?;
        }
        Seen::Newer | Seen::Same | Seen::Unknown => {}
    }
    Ok(seen)
}

/// Users of whom a newer state was told than the AS showed.
pub(super) fn claimed(tx: &Tx<'_>) -> Result<Vec<UserName>> {
    let mut statement = tx.sql().prepare_cached("SELECT user FROM eid_claims ORDER BY user")?;
    let names = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    names.iter().map(|name| name.parse().map_err(|_| Error::Damaged("a user name"))).collect()
}

/// Compares what was told of a user with what a lookup showed just now. An AS that does not show it to
/// the second lookup either keeps it back: the first may have been under way when it was told.
pub(super) fn check(tx: &Tx<'_>, name: &UserName) -> Result<()> {
    let Some((told, tried)) = claim(tx, name)? else { return Ok(()) };
    match known::compare(tx, name, &told)? {
        Seen::Newer if tried == 0 => {
            tx.sql().execute("UPDATE eid_claims SET tried = 1 WHERE user = ?1", [name.to_string()])?;
            return Ok(());
        }
        Seen::Newer | Seen::Split => report_split(tx, name)?,
        Seen::Same | Seen::Unknown => {}
    }
    forget(tx, name)
}

/// Forgets what was told of a user whom the AS does not show: the lookup's failure says more.
pub(super) fn forget(tx: &Tx<'_>, name: &UserName) -> Result<()> {
    tx.sql().execute("DELETE FROM eid_claims WHERE user = ?1", [name.to_string()])?;
    Ok(())
}

/// Withdraws that the user is verified, and tells of the split unless that was told.
fn report_split(tx: &Tx<'_>, name: &UserName) -> Result<()> {
    if known::mark_split(tx, name)? {
        Event::IdentitySplit { user: name.clone() }.record(tx)?;
    }
    Ok(())
}

fn claim(tx: &Tx<'_>, name: &UserName) -> Result<Option<(EidState, u32)>> {
    let found: Option<(Vec<u8>, u32)> = tx
        .sql()
        .prepare_cached("SELECT state, tried FROM eid_claims WHERE user = ?1")?
        .query_row([name.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    found.map(|(state, tried)| Ok((decode(&state, "a state")?, tried))).transpose()
}

fn is_newer(one: &EidState, other: &EidState) -> bool {
    (one.incarnation, one.epoch) > (other.incarnation, other.epoch)
}
