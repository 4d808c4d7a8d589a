//! Times and numbers of letters: an old letter changes nothing, whether it was kept back, sent again by a server, or
//! written by a device that knows no better. Owns the tables `letter_clock` and `letter_numbers`.

use postern_protocol::PublicKey;
use rusqlite::{OptionalExtension as _, params};

use super::letter::Stamp;
use crate::{
    error::{Rejection, Result},
    identity,
    store::{Tx, integer},
};

const DAY: u64 = 24 * 60 * 60;
/// Seconds after which a letter is too old. It waits in a queue for 60 days at most (`operator.settings.message_days`).
pub(super) const MAX_AGE: u64 = 62 * DAY;
/// Seconds by which a letter may be ahead of this device's clock. Servers take requests of clocks that are off by 300 s.
pub(super) const MAX_AHEAD: u64 = 60 * 60;
/// The reason why a letter that is too old has no effect.
pub(super) const TOO_OLD: &str = "a letter is too old";
/// Numbers for each second of the clock. They follow the clock so that they tell nobody how many letters others got.
const PER_SECOND: u32 = 20;

/// The stamp of a letter that is written now.
pub(super) fn next(tx: &Tx<'_>) -> Result<Stamp> {
    let last: Option<u64> =
        tx.sql().query_row("SELECT number FROM letter_clock", [], |row| row.get(0)).optional()?;
    let time = tx.now();
    let number = (time << PER_SECOND).max(last.unwrap_or(0) + 1);
    tx.sql()
        .execute("INSERT OR REPLACE INTO letter_clock (one, number) VALUES (1, ?1)", [integer(number)])?;
    Ok(Stamp { time, number, eid: identity::own_state(tx)? })
}

/// Refuses a letter that is too old or of the future, or that came before, or after a later one of its subject.
pub(super) fn check(
    tx: &Tx<'_>,
    client_key: &PublicKey,
    subject: &str,
    stamp: &Stamp,
) -> Result<(), Rejection> {
    if stamp.time > tx.now().saturating_add(MAX_AHEAD) {
        return Err(Rejection::invalid("a letter is of the future: one of the two clocks is wrong"));
    }
    if stamp.time.saturating_add(MAX_AGE) < tx.now() {
        return Err(Rejection::invalid(TOO_OLD));
    }
    let sql = "SELECT number FROM letter_numbers WHERE client_key = ?1 AND subject = ?2";
    let last: Option<u64> =
        tx.sql().query_row(sql, params![client_key.as_bytes(), subject], |row| row.get(0)).optional()?;
    if last.is_some_and(|last| stamp.number <= last) {
        return Err(Rejection::invalid("a letter came again, or after a later one"));
    }
    Ok(())
}

/// Remembers the letter as its sender's last one of its subject, for as long as it is not too old.
pub(super) fn keep(tx: &Tx<'_>, client_key: &PublicKey, subject: &str, stamp: &Stamp) -> Result<()> {
    let over = tx.now().saturating_sub(MAX_AGE + MAX_AHEAD);
    tx.sql().execute("DELETE FROM letter_numbers WHERE time < ?1", [integer(over)])?;
    tx.sql().execute(
        "INSERT OR REPLACE INTO letter_numbers (client_key, subject, number, time) VALUES (?1, ?2, ?3, ?4)",
        params![client_key.as_bytes(), subject, integer(stamp.number), integer(stamp.time)],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Clock, options::Options, store::Store};
    use postern_protocol::{Transcript, eid::EidState};

    fn store_at(ahead: i64) -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let options = Options { clock: Clock::ahead_by(ahead), ..Options::default() };
        let store = Store::create(directory.path(), &options).unwrap();
        (directory, store)
    }

    fn stamp(time: u64, number: u64) -> Stamp {
        Stamp { time, number, eid: EidState::founded(0, Transcript::new([1; 32])) }
    }

    #[test]
    fn a_letter_is_taken_once_in_order_and_in_time() {
        let (_directory, store) = store_at(0);
        let (key, other) = (PublicKey::new([1; 32]), PublicKey::new([2; 32]));
        let now = store.now();
        store
            .write(|tx| {
                let check =
                    |key, subject, time, number| check(tx, key, subject, &stamp(time, number)).is_ok();
                assert!(check(&key, "secrets", now, 5));
                keep(tx, &key, "secrets", &stamp(now, 5))?;
                assert!(!check(&key, "secrets", now, 5), "again");
                assert!(!check(&key, "secrets", now, 4), "out of order");
                assert!(check(&key, "secrets", now - 1, 6), "a clock that was set back");
                assert!(check(&key, "renewal", now, 4) && check(&other, "secrets", now, 4));
                assert!(check(&key, "secrets", now + MAX_AHEAD - 60, 6));
                assert!(!check(&key, "secrets", now + MAX_AHEAD + 60, 6), "of the future");
                assert!(check(&key, "secrets", now - MAX_AGE + 60, 6));
                assert!(!check(&key, "secrets", now - MAX_AGE - 60, 6), "too old");
                Ok(())
            })
            .unwrap();
    }
}
