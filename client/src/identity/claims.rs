//! States of users' identities that clients of theirs told: in messages and letters. They show what the AS keeps back, and
//! that it shows one history to some and another to others. A claim counts once a lookup after it shows that its teller is
//! still the user's, and waits while the AS shows nothing that holds. Owns the table `eid_claims`.

use postern_protocol::{PublicKey, eid::EidState, name::UserName};
use rusqlite::params;

use super::{
    known::{self, Seen, Which},
    public_eid::Leaf,
};
use crate::{
    error::{Error, IdentityError, Result, UNPAID_RETRY},
    event::Event,
    group::InVain,
    store::{Tx, decode, encode, fixed, integer},
};

/// How often the word of one client has the AS asked at once, before a lookup has shown what it told.
const EAGER: u32 = 3;
/// Seconds before the AS is asked again that did not show what a client told, the first time.
const ASK_AGAIN: u64 = 60;

/// A state that one of a user's clients told.
struct Claim {
    teller: PublicKey,
    told: EidState,
    /// Lookups since that showed the user, and did not show the state.
    tried: u32,
    /// Lookups for the word of this client that did not show what it told.
    in_vain: u32,
    /// Attempts since the AS answered last.
    unreached: u32,
    /// When the AS is asked because of it, in seconds since 1970; `None` once it was told as a split.
    due: Option<u64>,
}

/// Takes note of a state that a client told, which says that its user has this `name`, if it speaks for a user that is known.
pub(crate) fn told(tx: &Tx<'_>, name: &UserName, teller: &PublicKey, told: &EidState) -> Result<()> {
    match spoken_for(tx, name, teller, told)? {
        Some(user) => heard(tx, &user, teller, told).map(drop),
        None => Ok(()),
    }
}

/// The user for whom a client speaks that told this state, and says that its user has this `name`: a client that the last
/// lookup confirmed, or one of the accepted identity, if it told news. No AS takes a device the word by leaving out its
/// credential. `None` while a reset waits for a person.
pub(crate) fn spoken_for(
    tx: &Tx<'_>,
    name: &UserName,
    teller: &PublicKey,
    told: &EidState,
) -> Result<Option<UserName>> {
    if let Some(user) = known::confirmed(tx, teller)? {
        return Ok(Some(user));
    }
    for user in known::called(tx, name)? {
        let is_news = matches!(known::compare(tx, &user, told)?, Seen::Newer | Seen::Split);
        if is_news && devices(tx, &user)?.contains(teller) {
            return Ok(Some(user));
        }
    }
    Ok(None)
}

/// Takes note of a state that one of a user's clients told. If it is newer than what the AS showed, or of another history,
/// the AS is asked with the next errands: the teller may have been removed since it was asked last. A client that tells ever
/// other states which no lookup shows has it asked ever more seldom.
pub(crate) fn heard(tx: &Tx<'_>, name: &UserName, teller: &PublicKey, told: &EidState) -> Result<Seen> {
    let seen = known::compare(tx, name, told)?;
    if !matches!(seen, Seen::Newer | Seen::Split) {
        return Ok(seen);
    }
    let before = claim_of(tx, name, teller)?;
    let replaces =
        |before: &Claim| before.due.is_none() || seen == Seen::Split || is_newer(told, &before.told);
    if before.as_ref().is_none_or(replaces) {
        let pause = pause_after(before.map_or(0, |before| before.in_vain));
        tx.sql().execute(
            "INSERT INTO eid_claims (user, client_key, state, tried, due) VALUES (?1, ?2, ?3, 0, 0)
             ON CONFLICT (user, client_key)
             DO UPDATE SET state = excluded.state, tried = 0,
                           due = iif(in_vain + unreached < ?4, 0, coalesce(due, ?5))",
            params![
                name.to_string(),
                teller.as_bytes(),
                encode(told),
                EAGER,
                integer(tx.now().saturating_add(pause))
            ],
        )?;
    }
    Ok(seen)
}

/// The users with another state than the AS showed, as somebody told, about whom it is time to ask the AS.
pub(crate) fn claimed(tx: &Tx<'_>) -> Result<Vec<UserName>> {
    let sql = "SELECT DISTINCT user FROM eid_claims WHERE due NOT BETWEEN ?1 AND ?2 ORDER BY user";
    let mut statement = tx.sql().prepare_cached(sql)?;
    let names = statement
        .query_map(tx.to_come(InVain::LONGEST_PAUSE), |row| row.get(0))?
        .collect::<Result<Vec<String>, _>>()?;
    names.iter().map(|name| name.parse().map_err(|_| Error::Damaged("a user name"))).collect()
}

/// Compares what was told of a user with what a lookup showed just now. The word of a client that is not in the identity
/// counts for nothing. An AS that does not show a newer state to the second lookup either keeps it back: the first may
/// have been under way when it was told.
pub(super) fn check(tx: &Tx<'_>, name: &UserName) -> Result<()> {
    let claims = claims(tx, name)?;
    if claims.is_empty() {
        return Ok(());
    }
    let devices = devices(tx, name)?;
    for Claim { teller, told, tried, due, .. } in claims {
        let seen = known::compare(tx, name, &told)?;
        if !devices.contains(&teller) || matches!(seen, Seen::Same | Seen::Unknown) {
            tx.sql().execute(
                "DELETE FROM eid_claims WHERE user = ?1 AND client_key = ?2",
                params![name.to_string(), teller.as_bytes()],
            )?;
            continue;
        }
        if due.is_none() {
            continue;
        }
        let is_kept_back = seen == Seen::Split || tried > 0;
        if is_kept_back {
            report_split(tx, name, &told)?;
        }
        tx.sql().execute(
            "UPDATE eid_claims
                SET tried = tried + 1, in_vain = in_vain + 1, unreached = 0, due = iif(?3, NULL, due)
              WHERE user = ?1 AND client_key = ?2",
            params![name.to_string(), teller.as_bytes(), is_kept_back],
        )?;
    }
    Ok(())
}

/// Takes note that the AS was asked because of what was told of a user, and did not show the user. The claims wait for a lookup
/// that does: else an AS would be rid of them by any answer that does not hold. A reset or a split was told, and says more.
pub(super) fn asked_in_vain(tx: &Tx<'_>, name: &UserName, error: &Error) -> Result<()> {
    if matches!(error, Error::Identity(IdentityError::Reset | IdentityError::Split)) {
        return forget(tx, name);
    }
    for claim in claims(tx, name)?.iter().filter(|claim| claim.due.is_some()) {
        let (in_vain, unreached, pause) = if error.is_unpaid() {
            (claim.in_vain, claim.unreached, UNPAID_RETRY)
        } else if error.is_passing() {
            let pause = InVain::OutOfReach.pause(claim.unreached, ASK_AGAIN, true);
            (claim.in_vain, claim.unreached.saturating_add(1), pause)
        } else {
            (claim.in_vain.saturating_add(1), 0, pause_after(claim.in_vain))
        };
        tx.sql().execute(
            "UPDATE eid_claims SET in_vain = ?3, unreached = ?4, due = ?5
              WHERE user = ?1 AND client_key = ?2",
            params![
                name.to_string(),
                claim.teller.as_bytes(),
                in_vain,
                unreached,
                integer(tx.now().saturating_add(pause))
            ],
        )?;
    }
    Ok(())
}

/// Lets all claims have waited for so many seconds longer.
#[cfg(any(test, feature = "lab"))]
pub(crate) fn pass_time(tx: &Tx<'_>, seconds: u64) -> Result<()> {
    tx.sql().execute("UPDATE eid_claims SET due = max(due - ?1, 0)", [integer(seconds)])?;
    Ok(())
}

/// Seconds before the AS is asked again, after so many lookups that did not show what a client told.
fn pause_after(in_vain: u32) -> u64 {
    InVain::NotShown.pause(in_vain, ASK_AGAIN, true)
}

fn forget(tx: &Tx<'_>, name: &UserName) -> Result<()> {
    tx.sql().execute("DELETE FROM eid_claims WHERE user = ?1", [name.to_string()])?;
    Ok(())
}

/// The clients of a user's accepted identity that say that they are the user's, with a credential or without. None while a
/// reset waits for a person.
fn devices(tx: &Tx<'_>, name: &UserName) -> Result<Vec<PublicKey>> {
    if known::find(tx, name, Which::Pending)?.is_some() {
        return Ok(Vec::new());
    }
    let Some(kept) = known::find(tx, name, Which::Accepted)? else { return Ok(Vec::new()) };
    let names: Vec<UserName> = [name].into_iter().chain(&kept.former).cloned().collect();
    Ok(Leaf::clients(&kept.public_eid()?.leaves(name)?, &names))
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
        "SELECT client_key, state, tried, in_vain, unreached, due FROM eid_claims WHERE user = ?1
          ORDER BY client_key",
    )?;
    let rows = statement
        .query_map([name.to_string()], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
        })?
        .collect::<Result<Vec<(Vec<u8>, Vec<u8>, u32, u32, u32, Option<u64>)>, _>>()?;
    rows.into_iter()
        .map(|(teller, told, tried, in_vain, unreached, due)| {
            let (teller, told) = (fixed(&teller, "a key")?, decode(&told, "a state")?);
            Ok(Claim { teller, told, tried, in_vain, unreached, due })
        })
        .collect()
}

fn is_newer(one: &EidState, other: &EidState) -> bool {
    (one.incarnation, one.epoch) > (other.incarnation, other.epoch)
}
