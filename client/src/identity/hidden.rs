//! Known users of whom the AS shows nothing that holds, though it is there: so it could keep back for good that a device was
//! removed, since what was seen before goes on to count. This user is told, once. Owns the table `hidden_identities`.

use postern_protocol::{name::UserName, problem::ProblemType};
use rusqlite::params;

use crate::{
    error::{Error, IdentityError, Result},
    event::Event,
    store::{Store, Tx, integer},
};

/// Seconds for which lookups fail before this user is told: a day.
const TOLD_AFTER: u64 = 24 * 60 * 60;
/// Failures that count before this user is told.
const TOLD_FAILURES: u32 = 3;
/// Seconds after a failure in which no other one counts, and members are not looked up by themselves: an hour.
pub(crate) const AGAIN: u64 = 60 * 60;

/// Condition on a row: it is of this user, or of nobody who is known any more.
const IS_OVER: &str = "(user = ?1 OR user NOT IN (SELECT user FROM eids WHERE pending = 0))";

/// Passes the end of a lookup on, and takes note of it. The AS showed its keys before.
pub(super) fn noted<T>(store: &Store, user: &UserName, found: Result<T>) -> Result<T> {
    match &found {
        Ok(_) if store.read(|tx| is_noted(tx, user))? => store.write(|tx| shown(tx, user))?,
        Err(error) if is_failure(error) => store.write(|tx| failed(tx, user))?,
        Ok(_) | Err(_) => {}
    }
    found
}

/// Whether an error is an answer that does not hold, or a refusal by whatever name: the AS, or its homeserver's gateway, chooses
/// it. Of users that it does not know, of a reset and of a split this user hears elsewhere. An AS that is away, and one that could
/// not be asked, hide nothing: the own server is away, too, if it says that it has a fault, and then nothing else is done there.
fn is_failure(error: &Error) -> bool {
    use postern_api::{Error as Answer, Side};
    match error {
        Error::Identity(error) => {
            !matches!(error, IdentityError::Reset | IdentityError::Split | IdentityError::Unknown)
        }
        // The log of the own identity.
        Error::Mls { .. } => true,
        Error::Server(Answer::Refused(problem)) => {
            problem.kind != ProblemType::NotFound && !error.server_is_away()
        }
        Error::Server(answer) => {
            matches!(answer, Answer::UnexpectedAnswer(_) | Answer::Relay { side: Side::Gateway, .. })
        }
        _ => false,
    }
}

/// Takes note that a lookup of a known user failed, though the AS is there.
pub(super) fn failed(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    let now = integer(tx.now());
    let sql = "INSERT INTO hidden_identities (user, since, failed)
               SELECT user, ?2, ?2 FROM eids WHERE user = ?1 AND pending = 0
               ON CONFLICT (user)
               DO UPDATE SET since = min(since, excluded.since), failed = excluded.failed,
                             failures = failures + 1
                WHERE excluded.failed < failed OR excluded.failed >= failed + ?3";
    tx.sql().execute(sql, params![user.to_string(), now, integer(AGAIN)])?;
    let sql = "UPDATE hidden_identities SET is_told = 1
                WHERE user = ?1 AND is_told = 0 AND failures >= ?2 AND since <= ?3";
    let long_ago = integer(tx.now().saturating_sub(TOLD_AFTER));
    if tx.sql().execute(sql, params![user.to_string(), TOLD_FAILURES, long_ago])? > 0 {
        Event::IdentityHidden { user: user.clone() }.record(tx)?;
    }
    Ok(())
}

fn is_noted(tx: &Tx<'_>, user: &UserName) -> Result<bool> {
    let sql = format!("SELECT EXISTS (SELECT 1 FROM hidden_identities WHERE {IS_OVER})");
    Ok(tx.sql().prepare_cached(&sql)?.query_row([user.to_string()], |row| row.get(0))?)
}

fn shown(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    tx.sql().execute(&format!("DELETE FROM hidden_identities WHERE {IS_OVER}"), [user.to_string()])?;
    Ok(())
}

/// Lets all failures be so many seconds longer ago.
#[cfg(any(test, feature = "lab"))]
pub(crate) fn pass_time(tx: &Tx<'_>, seconds: u64) -> Result<()> {
    let sql = "UPDATE hidden_identities SET since = max(since - ?1, 0), failed = max(failed - ?1, 0)";
    tx.sql().execute(sql, [integer(seconds)])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use postern_protocol::problem::Problem;

    use super::*;

    #[test]
    fn an_as_hides_by_any_refusal_but_not_if_it_is_away_or_could_not_be_asked_or_knows_nobody() {
        let of = |kind: ProblemType| Error::from(Problem::new(kind));
        let relay = |side: postern_api::Side, kind: ProblemType| {
            Error::from(postern_api::Error::Relay { side, problem: kind.into() })
        };
        for error in [
            Error::Server(postern_api::Error::Unreachable("nobody is there".into())),
            of(ProblemType::Unavailable),
            of(ProblemType::Fault),
            of(ProblemType::NotFound),
            relay(postern_api::Side::Relay, ProblemType::NotAllowed),
            relay(postern_api::Side::Relay, ProblemType::HomeserverBlocked),
            relay(postern_api::Side::Pipe, ProblemType::HomeserverUnreachable),
            of(ProblemType::AllowanceUsedUp).of_wallet(),
            of(ProblemType::AccountSuspended).of_wallet(),
            Error::NoTokenKey,
            Error::Contended(5),
            Error::Identity(IdentityError::Reset),
            Error::Identity(IdentityError::Split),
        ] {
            assert!(!is_failure(&error), "{error}");
        }
        for error in [
            Error::Identity(IdentityError::RolledBack),
            Error::Identity(IdentityError::Ticket("it is old")),
            Error::Identity(IdentityError::State),
            Error::Identity(IdentityError::OtherUser),
            Error::unexpected("nonsense"),
            relay(postern_api::Side::Gateway, ProblemType::HomeserverRefused),
            relay(postern_api::Side::Gateway, ProblemType::Fault),
            relay(postern_api::Side::Gateway, ProblemType::Unavailable),
        ] {
            assert!(is_failure(&error), "{error}");
        }
        for kind in ProblemType::ALL {
            let error = of(*kind);
            let is_harmless = *kind == ProblemType::NotFound || error.server_is_away();
            assert_eq!(is_failure(&error), !is_harmless, "{}", kind.slug());
        }
        for kind in [
            ProblemType::TokenRequired,
            ProblemType::TokenSpent,
            ProblemType::UnknownTokenKey,
            ProblemType::AccountSuspended,
            ProblemType::HomeserverBlocked,
        ] {
            assert!(is_failure(&of(kind)), "{}", kind.slug());
        }
    }
}
