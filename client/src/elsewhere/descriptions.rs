//! Descriptions of homeservers of other domains, and their keys. The keys of each are pinned at first use: what is shown
//! later has to be endorsed by them (FED-1). Owns the tables `homeservers` and `homeserver_keys`, where `compare` notes
//! what friends tell, and `restores` when a homeserver is looked at again.

use std::{future::Future, pin::Pin};

use postern_protocol::{
    PublicKey,
    federation::{Description, DescriptionError, KnownKeys},
    name::Domain,
};
use rusqlite::{OptionalExtension as _, params};

use crate::{
    error::{Error, HomeserverError, Result},
    event::Event,
    server::Api,
    store::{Tx, fixed, integer},
};

/// Seconds of a day.
pub(super) const DAY: u64 = 24 * 60 * 60;

/// A description under way.
pub(crate) type Described<'a> = Pin<Box<dyn Future<Output = Result<Description>> + Send + 'a>>;

/// The description of another domain's homeserver: the one that is kept, while it holds, unless it is fetched `anew`.
///
/// # Errors
/// [`Error::Homeserver`] for one that is not accepted; `homeserver-blocked`, `homeserver-unknown`.
pub(crate) fn description<'a>(own: &'a Api, domain: &'a Domain, anew: bool) -> Described<'a> {
    Box::pin(async move {
        let store = own.wallet.store();
        // All clients of a domain look anew with the day: else the keys of the hour in which one looked would tell whose
        // requests belong together.
        let now = store.now();
        let of_today = |(kept, day): (Description, u64)| (day == now / DAY).then_some(kept);
        let kept = store.read(|tx| find(tx, domain))?.and_then(of_today);
        let holds = |kept: &Description| kept.held_until() >= now && !kept.is_of_the_future(now);
        if let Some(kept) = kept.filter(|kept| !anew && holds(kept)) {
            return Ok(kept);
        }
        let shown = own.show_homeserver(domain, anew).await?;
        store.write(|tx| take(tx, domain, shown.as_bytes()))?
    })
}

/// Whether the homeserver of a domain was looked at.
pub(crate) fn is_known(tx: &Tx<'_>, domain: &Domain) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM homeservers WHERE domain = ?1)";
    Ok(tx.sql().query_row(sql, [domain.as_str()], |row| row.get(0))?)
}

/// Forgets a domain's homeserver, and so accepts whatever keys it shows next: a person decided so, or nobody of there
/// is known here.
pub(crate) fn forget(tx: &Tx<'_>, domain: &Domain) -> Result<()> {
    for table in ["homeservers", "homeserver_keys"] {
        tx.sql().execute(&format!("DELETE FROM {table} WHERE domain = ?1"), [domain.as_str()])?;
    }
    Ok(())
}

/// A description that is kept, and the day on which it was fetched.
pub(super) fn find(tx: &Tx<'_>, domain: &Domain) -> Result<Option<(Description, u64)>> {
    let sql = "SELECT description, day FROM homeservers WHERE domain = ?1";
    let kept: Option<(Vec<u8>, u64)> =
        tx.sql().query_row(sql, [domain.as_str()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    kept.map(|(json, day)| {
        let description = Description::from_json(&json).map_err(|_| Error::Damaged("a description"))?;
        Ok((description, day))
    })
    .transpose()
}

/// The keys of a domain's homeserver that are pinned, with the last second of each.
pub(super) fn pinned(tx: &Tx<'_>, domain: &Domain) -> Result<Vec<(PublicKey, u64)>> {
    let sql = "SELECT public_key, not_after FROM homeserver_keys WHERE domain = ?1";
    let mut statement = tx.sql().prepare_cached(sql)?;
    let keys = statement.query_map([domain.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let keys = keys.collect::<Result<Vec<(Vec<u8>, u64)>, _>>()?;
    keys.iter().map(|(key, not_after)| Ok((fixed(key, "a key")?, *not_after))).collect()
}

/// The pinned keys that vouch for others. One that has ended does only if all have: somebody may have found it since.
pub(super) fn trusted(tx: &Tx<'_>, domain: &Domain) -> Result<Vec<PublicKey>> {
    let (pinned, now) = (pinned(tx, domain)?, tx.now());
    let current: Vec<_> =
        pinned.iter().filter(|(_, not_after)| *not_after >= now).map(|(key, _)| *key).collect();
    let all = || pinned.iter().map(|(key, _)| *key).collect();
    Ok(if current.is_empty() { all() } else { current })
}

/// Pins keys of a description, which was verified, and forgets those that it revokes.
pub(super) fn pin(tx: &Tx<'_>, domain: &Domain, description: &Description, keys: &[PublicKey]) -> Result<()> {
    for key in &description.revoked {
        let sql = "DELETE FROM homeserver_keys WHERE domain = ?1 AND public_key = ?2";
        tx.sql().execute(sql, params![domain.as_str(), key.as_bytes()])?;
    }
    for key in description.keys.iter().filter(|key| keys.contains(&key.public_key)) {
        let sql =
            "INSERT OR REPLACE INTO homeserver_keys (domain, public_key, not_after) VALUES (?1, ?2, ?3)";
        let not_after = integer(key.not_after.min(u64::from(u32::MAX)));
        tx.sql().execute(sql, params![domain.as_str(), key.public_key.as_bytes(), not_after])?;
    }
    Ok(())
}

/// Verifies a description and keeps it. A refusal is a result and no failure of the transaction, which keeps the event that
/// tells of it.
pub(super) fn take(tx: &Tx<'_>, domain: &Domain, json: &[u8]) -> Result<Result<Description>> {
    let refused = |error| Ok(Err(HomeserverError::Description(domain.clone(), error).into()));
    let trusted = trusted(tx, domain)?;
    let was_known = !trusted.is_empty();
    let verified = Description::from_json(json).and_then(|description| {
        let known = KnownKeys { trusted, distrusted: Vec::new() };
        description.verify(domain, &known, tx.now()).map(|keys| (description, keys))
    });
    let (description, keys) = match verified {
        Ok(verified) => verified,
        Err(DescriptionError::UnknownKey | DescriptionError::WrongSignature) if was_known => {
            // Told once a day, however often it is shown.
            let sql = "UPDATE homeservers SET differs = ?2 WHERE domain = ?1 AND differs IS NOT ?2";
            if tx.sql().execute(sql, params![domain.as_str(), integer(tx.now() / DAY)])? > 0 {
                Event::HomeserverKeysDiffer { domain: domain.clone() }.record(tx)?;
            }
            return Ok(Err(HomeserverError::KeysDiffer(domain.clone()).into()));
        }
        Err(error) => return refused(error),
    };
    let (kept, now) = (find(tx, domain)?.map(|(kept, _)| kept), tx.now());
    let was_restored = kept.as_ref().is_some_and(|kept| kept.generation != description.generation);
    // One of a time to come was kept while this clock was ahead, and that homeserver's: it is newer than none.
    if let Some(kept) = kept.filter(|kept| kept.issued > description.issued && !kept.is_of_the_future(now)) {
        // Somebody between has an old one, and this device has a newer.
        return match kept.held_until() >= now {
            true => Ok(Ok(kept)),
            false => refused(DescriptionError::NotValidNow),
        };
    }
    pin(tx, domain, &description, &keys)?;
    tx.sql().execute(
        "INSERT INTO homeservers (domain, description, day) VALUES (?1, ?2, ?3)
         ON CONFLICT (domain) DO UPDATE SET (description, day) = (excluded.description, excluded.day)",
        params![domain.as_str(), json, integer(now / DAY)],
    )?;
    if was_restored {
        let sql = "UPDATE homeservers SET restored = 1 WHERE domain = ?1";
        tx.sql().execute(sql, [domain.as_str()])?;
    }
    Ok(Ok(description))
}

#[cfg(test)]
mod tests {
    use postern_protocol::key::SigningKey;

    use super::{
        super::tests::{described, domain},
        *,
    };
    use crate::{clock::Clock, event, options::Options, store::Store};

    #[test]
    fn what_was_seen_while_clocks_were_ahead_is_newer_than_nothing_once_they_are_right() {
        for ahead in [60 * 60, 365 * 24 * 60 * 60] {
            let home = tempfile::tempdir().unwrap();
            let clock = Clock::ahead_by(ahead);
            let early = Store::create(home.path(), &Options { clock, ..Options::default() }).unwrap();
            let [one, two] = [(); 2].map(|()| SigningKey::generate());
            let shown = |store: &Store, json: &[u8]| store.write(|tx| take(tx, &domain(), json)).unwrap();
            shown(&early, &described(&[&one], early.now(), 0)).unwrap();
            drop(early);
            let store = Store::open(home.path(), &Options::default()).unwrap();
            let now = store.now();
            let later = shown(&store, &described(&[&one, &two], now, 0)).unwrap();
            assert_eq!(later.issued, now, "{ahead} seconds");
            let kept = shown(&store, &described(&[&one, &two], now - 100, 0)).unwrap();
            assert_eq!(kept.issued, now, "from then on no old one takes the place of a newer one");
            let other = described(&[&SigningKey::generate()], now, 1);
            assert!(shown(&store, &other).is_err(), "and the keys that were pinned stay");
        }
    }

    #[test]
    fn keys_are_pinned_at_first_use_and_only_those_that_they_endorse_come_after_them() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::create(home.path(), &Options::default()).unwrap();
        let now = store.now();
        let [one, two, other] = [(); 3].map(|()| SigningKey::generate());
        let shown = |json: &[u8]| store.write(|tx| take(tx, &domain(), json)).unwrap();
        let differs = || {
            let events = store.read(event::pending).unwrap();
            events.iter().filter(|(_, event)| matches!(event, Event::HomeserverKeysDiffer { .. })).count()
        };
        assert!(shown(&described(&[&one], now, 0)).is_ok(), "the first");
        assert!(shown(&described(&[&one, &two], now, 1)).is_ok(), "endorsed");
        for _ in 0..2 {
            let refused = shown(&described(&[&other], now, 2)).unwrap_err();
            assert!(matches!(refused, Error::Homeserver(HomeserverError::KeysDiffer(_))), "{refused}");
            assert_eq!(differs(), 1, "told once");
        }
        assert!(shown(&described(&[&one, &two], now, 1)).is_ok(), "the right one, too");
        assert!(shown(&described(&[&other], now, 2)).is_err());
        assert_eq!(differs(), 1, "whatever is shown in turn");
        let older = shown(&described(&[&one], now, 0)).unwrap();
        assert_eq!(older.issued, now + 1, "an old one does not take the place of a newer one");
        let other_domain = shown(b"{}").unwrap_err();
        assert!(matches!(other_domain, Error::Homeserver(HomeserverError::Description(..))));
        // A key that somebody found after its end vouches for nobody.
        let sql = "UPDATE homeserver_keys SET not_after = 1 WHERE public_key = ?1";
        store.write(|tx| Ok(tx.sql().execute(sql, [one.public_key().as_bytes()])?)).unwrap();
        assert!(shown(&described(&[&one, &other], now, 2)).is_err(), "endorsed by a key that has ended");
        store.write(|tx| Ok(tx.sql().execute("UPDATE homeserver_keys SET not_after = 1", [])?)).unwrap();
        assert!(shown(&described(&[&one, &two], now, 2)).is_ok(), "all have: this device was away for long");
        store.write(|tx| forget(tx, &domain())).unwrap();
        assert!(shown(&described(&[&other], now, 2)).is_ok(), "a person accepted it");
        assert!(shown(&described(&[&one, &two], now, 3)).is_err(), "and those before it are nobody's");
    }
}
