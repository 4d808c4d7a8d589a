//! Comparisons of the own homeserver's keys that fail (AAS-7): it could keep its keys back just where it would be found out.
//! Its user is told if it is there for everything else, and again once it shows them. Owns the table `missed_comparisons`.

use postern_api::Http;
use rusqlite::{OptionalExtension as _, params};

use crate::{
    error::{Error, IssuerError, Result},
    event::Event,
    server,
    store::{Store, Tx, integer},
};

/// Seconds for which comparisons fail before the user is told: a day.
const TOLD_AFTER: u64 = 24 * 60 * 60;
/// Failures before the user is told, between which the homeserver was there.
const TOLD_FAILURES: u64 = 3;
/// Seconds after a failure in which no other one counts, and no errand tries again that can wait: an hour.
const AGAIN: u64 = 60 * 60;

/// Whether the last comparison of these keys, if it failed, is long enough ago for an errand to try again.
pub(crate) fn may_try(tx: &Tx<'_>, keys: &str) -> Result<bool> {
    let sql = "SELECT failed FROM missed_comparisons WHERE keys = ?1";
    let failed: Option<u64> = tx.sql().query_row(sql, [keys], |row| row.get(0)).optional()?;
    Ok(failed.is_none_or(|failed| !(failed..failed.saturating_add(AGAIN)).contains(&tx.now())))
}

/// Whether an error kept keys from being compared. Keys that differ were compared, and the user was told.
///
/// A description of another time counts, though this machine's clock may be wrong: else the own homeserver could hide behind
/// an old one. So the user is told of the clock, too.
pub(crate) fn is_failure(error: &Error) -> bool {
    matches!(error, Error::Server(_) | Error::Homeserver(_) | Error::Issuer(IssuerError::TooManyKeys))
}

/// Takes note that keys of the own homeserver could be compared, or of the error that kept them from it. After an error the
/// homeserver is asked for a sign of life: without tokens, which may have run out by that, nothing else is answered.
pub(crate) async fn note(
    store: &Store,
    http: &Http,
    keys: &'static str,
    error: Option<&Error>,
) -> Result<()> {
    let Some(error) = error else {
        if store.read(|tx| is_missed(tx, keys))? {
            store.write(|tx| note_shown(tx, keys))?;
        }
        return Ok(());
    };
    if !is_failure(error) || !store.read(|tx| may_try(tx, keys))? {
        return Ok(());
    }
    let is_there = server::sign_of_life(http).await.is_ok();
    store.write(|tx| {
        // Another process may have met the same fault, and taken note of it meanwhile.
        if !may_try(tx, keys)? {
            return Ok(());
        }
        if is_there {
            note_answer(tx)?;
        }
        note_failure(tx, keys)
    })
}

/// Takes note that the own homeserver answers, if a comparison failed since it did last.
pub(crate) fn server_answered(store: &Store) -> Result<()> {
    let sql = "SELECT EXISTS (SELECT 1 FROM missed_comparisons WHERE has_answered = 0)";
    let is_news: bool =
        store.read(|tx| Ok(tx.sql().prepare_cached(sql)?.query_row([], |row| row.get(0))?))?;
    if is_news {
        store.write(note_answer)?;
    }
    Ok(())
}

fn note_answer(tx: &Tx<'_>) -> Result<()> {
    tx.sql().execute("UPDATE missed_comparisons SET has_answered = 1", [])?;
    Ok(())
}

fn is_missed(tx: &Tx<'_>, keys: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM missed_comparisons WHERE keys = ?1)";
    Ok(tx.sql().prepare_cached(sql)?.query_row([keys], |row| row.get(0))?)
}

/// Takes note of a failure. It counts if the homeserver was there since the one before: else it was away, with all else.
fn note_failure(tx: &Tx<'_>, keys: &str) -> Result<()> {
    let now = tx.now();
    let sql = "INSERT INTO missed_comparisons (keys, since, failed) VALUES (?1, ?2, ?2)
               ON CONFLICT (keys) DO UPDATE SET failed = excluded.failed, failures = failures + has_answered,
                                                has_answered = 0";
    tx.sql().execute(sql, params![keys, integer(now)])?;
    let sql = "UPDATE missed_comparisons SET is_told = 1
                WHERE keys = ?1 AND is_told = 0 AND failures >= ?2 AND since <= ?3";
    let long_ago = integer(now.saturating_sub(TOLD_AFTER));
    if tx.sql().execute(sql, params![keys, integer(TOLD_FAILURES), long_ago])? > 0 {
        Event::KeysHidden { keys: keys.to_owned() }.record(tx)?;
    }
    Ok(())
}

/// Takes note that keys are shown, and that they are good: those that are known already need no comparison.
fn note_shown(tx: &Tx<'_>, keys: &str) -> Result<()> {
    let sql = "SELECT is_told FROM missed_comparisons WHERE keys = ?1";
    let is_told: Option<bool> = tx.sql().query_row(sql, [keys], |row| row.get(0)).optional()?;
    tx.sql().execute("DELETE FROM missed_comparisons WHERE keys = ?1", [keys])?;
    if is_told == Some(true) {
        Event::KeysShown { keys: keys.to_owned() }.record(tx)?;
    }
    Ok(())
}

/// Lets all failures be so many seconds longer ago.
#[cfg(any(test, feature = "lab"))]
pub(crate) fn pass_time(tx: &Tx<'_>, seconds: u64) -> Result<()> {
    let sql = "UPDATE missed_comparisons SET since = since - ?1, failed = failed - ?1";
    tx.sql().execute(sql, [integer(seconds)])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use postern_api::{Carried, Limits, Transport};
    use postern_protocol::federation::DescriptionError;
    use tokio::sync::Barrier;

    use super::*;
    use crate::{error::HomeserverError, event, options::Options};

    const KEYS: &str = "some keys";

    /// A device whose comparisons fail.
    struct Device {
        store: Store,
        _home: tempfile::TempDir,
    }

    impl Device {
        fn new() -> Self {
            let home = tempfile::tempdir().unwrap();
            Self { store: Store::create(home.path(), &Options::default()).unwrap(), _home: home }
        }

        /// A comparison fails, after so many seconds, in which the homeserver was there or not.
        fn fails(&self, after: u64, was_there: bool) {
            self.store.write(|tx| pass_time(tx, after)).unwrap();
            if was_there {
                server_answered(&self.store).unwrap();
            }
            self.store.write(|tx| note_failure(tx, KEYS)).unwrap();
        }

        fn shows_keys(&self) {
            self.store.write(|tx| note_shown(tx, KEYS)).unwrap();
        }

        /// How often the user was told that keys are hidden, and that they are shown again.
        fn told(&self) -> (usize, usize) {
            let events = self.store.read(event::pending).unwrap();
            let count = |told: fn(&Event) -> bool| events.iter().filter(|(_, event)| told(event)).count();
            (
                count(|event| matches!(event, Event::KeysHidden { .. })),
                count(|event| matches!(event, Event::KeysShown { .. })),
            )
        }
    }

    #[test]
    fn keys_that_are_hidden_for_a_day_are_told_of_once_and_once_they_are_shown_again() {
        let device = Device::new();
        device.fails(0, true);
        for _ in 0..20 {
            device.fails(AGAIN, true);
        }
        assert_eq!(device.told(), (0, 0), "they may be back soon");
        for _ in 0..10 {
            device.fails(AGAIN, true);
        }
        assert_eq!(device.told(), (1, 0));
        device.shows_keys();
        device.shows_keys();
        assert_eq!(device.told(), (1, 1));
        // A day begins with the first failure after that.
        device.fails(2 * TOLD_AFTER, true);
        device.fails(AGAIN, true);
        device.fails(AGAIN, true);
        assert_eq!(device.told(), (1, 1));
        device.fails(TOLD_AFTER, true);
        assert_eq!(device.told(), (2, 1));
    }

    #[test]
    fn keys_that_are_shown_again_before_the_user_was_told_are_not_told_of() {
        let device = Device::new();
        device.fails(0, true);
        device.fails(AGAIN, true);
        device.shows_keys();
        device.fails(TOLD_AFTER, true);
        device.shows_keys();
        assert_eq!(device.told(), (0, 0));
    }

    #[test]
    fn a_homeserver_that_is_away_altogether_hides_nothing_and_neither_do_two_faults_days_apart() {
        let device = Device::new();
        device.fails(0, true);
        for _ in 0..10 {
            device.fails(TOLD_AFTER, false);
        }
        device.fails(TOLD_AFTER, true);
        assert_eq!(device.told(), (0, 0));
        device.fails(AGAIN, true);
        assert_eq!(device.told(), (1, 0), "it is back, and shows none");
    }

    #[test]
    fn an_errand_tries_again_after_an_hour() {
        let device = Device::new();
        let may_try = || device.store.read(|tx| may_try(tx, KEYS)).unwrap();
        assert!(may_try());
        device.fails(0, true);
        assert!(!may_try());
        device.store.write(|tx| pass_time(tx, AGAIN)).unwrap();
        assert!(may_try());
        device.fails(0, true);
        device.shows_keys();
        assert!(may_try());
    }

    #[tokio::test]
    async fn keys_that_differ_and_a_fault_of_the_device_itself_are_no_failure_to_compare() {
        let device = Device::new();
        let http = Http::new("http://127.0.0.1:1").unwrap();
        let is_missed = || device.store.read(|tx| is_missed(tx, KEYS)).unwrap();
        for error in [Error::Issuer(IssuerError::Differ(KEYS)), Error::Damaged("a key")] {
            note(&device.store, &http, KEYS, Some(&error)).await.unwrap();
            assert!(!is_missed(), "{error}");
        }
        let other_time =
            HomeserverError::Description("x.example".parse().unwrap(), DescriptionError::NotValidNow);
        let too_many = Error::Issuer(IssuerError::TooManyKeys);
        for error in [Error::unexpected("no keys"), too_many, Error::Homeserver(other_time)] {
            note(&device.store, &http, KEYS, Some(&error)).await.unwrap();
            assert!(is_missed(), "{error}");
            note(&device.store, &http, KEYS, None).await.unwrap();
            assert!(!is_missed());
        }
    }

    /// A homeserver that gives its signs of life once two are asked for.
    #[derive(Debug)]
    struct TwoAsked(Barrier);

    impl Transport for TwoAsked {
        fn carry(&self, _: http::Request<Vec<u8>>, _: Limits) -> Carried<'_> {
            Box::pin(async {
                self.0.wait().await;
                Ok(http::Response::new(Vec::new()))
            })
        }
    }

    #[tokio::test]
    async fn a_fault_that_is_met_twice_at_the_same_time_counts_once() {
        let device = Device::new();
        let http = Http::through("https://home.example", TwoAsked(Barrier::new(2))).unwrap();
        let error = Error::unexpected("no keys");
        let meet = || note(&device.store, &http, KEYS, Some(&error));
        let (one, other) = tokio::join!(meet(), meet());
        one.and(other).unwrap();
        let sql = "SELECT failures FROM missed_comparisons";
        let failures = device.store.read(|tx| Ok(tx.sql().query_row(sql, [], |row| row.get::<_, u64>(0))?));
        assert_eq!(failures.unwrap(), 1);
    }
}
