//! The comparison of keys with those that others see: the own homeserver's with a neighbour, and other homeservers' with
//! people there (AAS-7, FED-1). Owns the table `own_homeserver`.

use postern_api::Side;
use postern_protocol::{
    PublicKey,
    federation::{Description, DescriptionError, KnownKeys},
    name::Domain,
    problem::ProblemType,
};
use rusqlite::{OptionalExtension as _, params};

use super::{
    api_for,
    descriptions::{DAY, description, pin, pinned, trusted},
};
use crate::{
    error::{Error, HomeserverError, Result, goes_on},
    event::Event,
    missed,
    server::Api,
    store::{Store, Tx, fixed, integer},
    tokens,
};

/// The keys in the own homeserver's description, as the user is told of them.
const OWN_KEYS: &str = "the keys that it signs with as a homeserver";
/// The keys that tokens are issued with, where a neighbour was to say what it sees. What the own homeserver shows for tokens
/// makes no end of that: it could hide its keys here alone.
const ISSUER_KEYS_ELSEWHERE: &str = "the keys that tokens are issued with, as other homeservers see them";

/// The key with which the own homeserver signs, as it says; `None` before this device had to do with another domain.
pub(crate) fn own_key(tx: &Tx<'_>) -> Result<Option<PublicKey>> {
    let sql = "SELECT public_key FROM own_homeserver WHERE public_key IS NOT NULL";
    let key: Option<Vec<u8>> = tx.sql().query_row(sql, [], |row| row.get(0)).optional()?;
    key.map(|key| fixed(&key, "a key")).transpose()
}

/// A friend in a domain tells a key of the homeserver there. One that is not known here is looked at with the next
/// errands: it may be new. Others that are told meanwhile wait until that is settled: its day does not begin anew.
pub(crate) fn was_told(tx: &Tx<'_>, domain: &Domain, key: &PublicKey) -> Result<()> {
    if !pinned(tx, domain)?.iter().any(|(known, _)| known == key) {
        let sql = "UPDATE homeservers SET told = ?2, told_since = ?3
                    WHERE domain = ?1 AND told IS NULL AND doubted IS NOT ?2";
        tx.sql().execute(sql, params![domain.as_str(), key.as_bytes(), integer(tx.now())])?;
    }
    Ok(())
}

/// Compares keys with those that others see, once this device has to do with another domain: looks at homeservers of which
/// people there told another key; looks at the own homeserver's description once a day, so that letters can tell its key;
/// and has a neighbour say with which keys it issues tokens (AAS-7). Each goes on whatever comes of the others: the own
/// homeserver, which relays all of it, cannot end them with one answer.
pub(crate) async fn compare_keys(store: &Store, api: &Api) -> Result<()> {
    let sql = "SELECT domain FROM homeservers WHERE domain <> ?1 ORDER BY random() LIMIT 1";
    let neighbour: Option<String> = store
        .read(|tx| Ok(tx.sql().query_row(sql, [api.origin.as_str()], |row| row.get(0)).optional()?))?;
    let Some(neighbour) = neighbour else { return Ok(()) };
    goes_on(compare_told(store, api).await)?;
    let sql = "SELECT looked, compared FROM own_homeserver";
    let (looked, compared): (Option<u64>, Option<u64>) = store
        .read(|tx| Ok(tx.sql().query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).optional()?))?
        .unwrap_or_default();
    let now = store.now();
    let is_due = |last: Option<u64>, keys: &str| -> Result<bool> {
        let is_old = last.is_none_or(|last| !(last..last.saturating_add(DAY)).contains(&now));
        Ok(is_old && store.read(|tx| missed::may_try(tx, keys))?)
    };
    if is_due(looked, OWN_KEYS)? {
        goes_on(look_at_own(store, api).await)?;
    }
    if is_due(compared, ISSUER_KEYS_ELSEWHERE)? {
        let neighbour: Domain = neighbour.parse().map_err(|_| Error::Damaged("a domain"))?;
        goes_on(compare_issuer(store, api, &neighbour).await)?;
    }
    Ok(())
}

/// Looks at the own homeserver's description. If it shows none that is good for a day, while it is there, the user is told.
/// One that passes for being away ends no other errand by that: what comes next shows whether it is.
async fn look_at_own(store: &Store, api: &Api) -> Result<()> {
    let seen: Result<()> = match api.http.describe_server().await {
        Ok(shown) => store.write(|tx| see_own(tx, &api.origin, &shown))?,
        Err(error) => Err(error.into()),
    };
    missed::note(store, &api.http, OWN_KEYS, seen.as_ref().err()).await?;
    match seen {
        Err(error) if error.server_is_away() => {
            tracing::warn!(%error, "the own homeserver does not describe itself");
            Ok(())
        }
        seen => seen,
    }
}

/// Takes note of the server keys in what the own homeserver says of itself, and of nothing else: it could show this
/// client a gateway's key of its own, and know it by that behind a relay (FED-7).
fn see_own(tx: &Tx<'_>, domain: &Domain, json: &[u8]) -> Result<Result<()>> {
    let known = KnownKeys { trusted: trusted(tx, domain)?, distrusted: Vec::new() };
    let verified = Description::from_json(json)
        .and_then(|description| description.verify(domain, &known, tx.now()).map(|keys| (description, keys)));
    let (description, keys) = match verified {
        Ok(verified) => verified,
        Err(error) => return Ok(Err(HomeserverError::Description(domain.clone(), error).into())),
    };
    pin(tx, domain, &description, &keys)?;
    let now = tx.now();
    let mut valid = description.keys.iter().filter(|key| (key.not_before..=key.not_after).contains(&now));
    let Some(key) = valid.find(|key| keys.contains(&key.public_key)) else {
        return Ok(Err(HomeserverError::Description(domain.clone(), DescriptionError::NotValidNow).into()));
    };
    let sql = "INSERT INTO own_homeserver (one, public_key, looked) VALUES (1, ?1, ?2)
               ON CONFLICT (one) DO UPDATE SET public_key = excluded.public_key, looked = excluded.looked";
    tx.sql().execute(sql, params![key.public_key.as_bytes(), integer(now)])?;
    Ok(Ok(()))
}

/// Has a neighbour show the description of the own homeserver that it has, and compares the keys in it that tokens are
/// issued with. The neighbour cannot make it up: the own homeserver signed it. One that does not show its keys here, or does
/// not hand the request on, is asked again an hour later, and ends none of the other errands. After a day the user is told.
async fn compare_issuer(store: &Store, api: &Api, neighbour: &Domain) -> Result<()> {
    if store.read(|tx| trusted(tx, &api.origin))?.is_empty() {
        // Nobody could tell whether it did.
        return Ok(());
    }
    // They may have changed since tokens were fetched last.
    let asked = match api.wallet.look_at_keys().await {
        Ok(()) => {
            let asked = api_for(api, neighbour)?.show_homeserver(&api.origin, false).await;
            asked.map_err(|error| (is_of_own(&error), error))
        }
        Err(error) => Err((missed::is_failure(&error), error)),
    };
    let shown = match asked {
        Ok(shown) => shown,
        Err((true, error)) => {
            missed::note(store, &api.http, ISSUER_KEYS_ELSEWHERE, Some(&error)).await?;
            tracing::warn!(%error, "the own homeserver does not let the keys that tokens are issued with be compared");
            return Ok(());
        }
        Err((false, error)) => {
            store.write(asked_neighbour)?;
            return Err(error);
        }
    };
    let is_same = store.write(|tx| {
        asked_neighbour(tx)?;
        let known = KnownKeys { trusted: trusted(tx, &api.origin)?, distrusted: Vec::new() };
        let signed = Description::from_json(shown.as_bytes())
            .and_then(|shown| shown.verify(&api.origin, &known, tx.now()).map(|_| shown));
        match signed {
            Ok(shown) if tokens::contradicts(tx, &shown.issuer)? => {
                let keys = format!("the keys that tokens are issued with, as {neighbour} sees them");
                Event::KeysDiffer { keys }.record(tx)?;
                Ok(false)
            }
            Ok(_) => Ok(true),
            Err(error) => {
                tracing::warn!(%error, "a neighbour has no description of the own homeserver that is good");
                Ok(false)
            }
        }
    })?;
    if is_same {
        missed::note(store, &api.http, ISSUER_KEYS_ELSEWHERE, None).await?;
    }
    Ok(())
}

/// Whether the own homeserver, as the relay, kept a neighbour from being asked. It does not see what it hands on, and so can
/// refuse this only with all else that goes there, which its user notices; a domain that its operator blocked, openly, is
/// none of it. The error of a neighbour that is away, which the relay could make up, looks as that of an honest relay; nor
/// does a refusal without a side say which of the two refuses: those are not counted.
fn is_of_own(error: &Error) -> bool {
    let Error::Server(error) = error else { return false };
    match error {
        postern_api::Error::Relay { side: Side::Relay, problem } => {
            problem.kind != ProblemType::HomeserverBlocked
        }
        postern_api::Error::Unreachable(_) => true,
        _ => false,
    }
}

/// Takes note that a neighbour was asked for what it sees, whatever came of it.
fn asked_neighbour(tx: &Tx<'_>) -> Result<()> {
    let sql = "INSERT INTO own_homeserver (one, compared) VALUES (1, ?1)
               ON CONFLICT (one) DO UPDATE SET compared = excluded.compared";
    tx.sql().execute(sql, [integer(tx.now())])?;
    Ok(())
}

/// Looks at homeservers of which friends there told a key that is not known here. If a look does not show it, or no look is
/// answered for a day, the user is told, once for each key.
async fn compare_told(store: &Store, api: &Api) -> Result<()> {
    let told: Vec<(String, Vec<u8>, u64)> = store.read(|tx| {
        let sql = "SELECT domain, told, told_since FROM homeservers WHERE told IS NOT NULL";
        let mut statement = tx.sql().prepare_cached(sql)?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    })?;
    for (domain, key, since) in told {
        let domain: Domain = domain.parse().map_err(|_| Error::Damaged("a domain"))?;
        let key: PublicKey = fixed(&key, "a key")?;
        let looked = description(api, &domain, true).await;
        let is_open = looked.as_ref().is_err_and(|error| !matches!(error, Error::Homeserver(_)));
        if is_open && store.now() < since.saturating_add(DAY) {
            goes_on(looked)?;
            continue;
        }
        store.write(|tx| {
            let is_known = pinned(tx, &domain)?.iter().any(|(known, _)| *known == key);
            if !is_known {
                Event::HomeserverKeysDiffer { domain: domain.clone() }.record(tx)?;
            }
            let sql = "UPDATE homeservers
                          SET told = NULL, doubted = CASE WHEN ?2 THEN doubted ELSE told END WHERE domain = ?1";
            tx.sql().execute(sql, params![domain.as_str(), is_known])?;
            Ok(())
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use postern_protocol::key::SigningKey;

    use super::{
        super::{
            descriptions::{find, take},
            tests::{described, domain},
        },
        *,
    };
    use crate::options::Options;

    #[test]
    fn the_own_homeserver_shows_its_server_key_and_no_key_of_its_gateway() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::create(home.path(), &Options::default()).unwrap();
        let (key, now) = (SigningKey::generate(), store.now());
        store.write(|tx| see_own(tx, &domain(), &described(&[&key], now, 0))).unwrap().unwrap();
        assert_eq!(store.read(own_key).unwrap(), Some(key.public_key()));
        assert!(store.read(|tx| find(tx, &domain())).unwrap().is_none(), "a neighbour has to show that");
    }

    #[test]
    fn a_relay_that_hands_nothing_on_is_told_from_a_neighbour_that_is_away_or_blocked() {
        let failed = |side: Side, kind: ProblemType| {
            is_of_own(&Error::Server(postern_api::Error::Relay { side, problem: kind.into() }))
        };
        assert!(failed(Side::Relay, ProblemType::NotAllowed));
        assert!(is_of_own(&Error::Server(postern_api::Error::Unreachable("no answer".into()))));
        assert!(
            !failed(Side::Relay, ProblemType::HomeserverBlocked),
            "people are told of that where they go there"
        );
        assert!(!failed(Side::Pipe, ProblemType::HomeserverUnreachable));
        assert!(!failed(Side::Gateway, ProblemType::HomeserverRefused));
        assert!(!is_of_own(&Error::unexpected("something else")), "either of the two may have sent that");
    }

    #[test]
    fn a_key_that_a_friend_tells_is_looked_for_and_missed_once() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::create(home.path(), &Options::default()).unwrap();
        let (key, other, now) = (SigningKey::generate(), SigningKey::generate().public_key(), store.now());
        store.write(|tx| take(tx, &domain(), &described(&[&key], now, 0))).unwrap().unwrap();
        let told = |key: &PublicKey| {
            store.write(|tx| was_told(tx, &domain(), key)).unwrap();
            let sql = "SELECT told FROM homeservers";
            store.read(|tx| Ok(tx.sql().query_row(sql, [], |row| row.get::<_, Option<Vec<u8>>>(0))?)).unwrap()
        };
        assert_eq!(told(&key.public_key()), None, "it is known");
        assert_eq!(told(&other), Some(other.as_bytes().to_vec()));
        let sql = "UPDATE homeservers SET doubted = told, told = NULL";
        store.write(|tx| Ok(tx.sql().execute(sql, [])?)).unwrap();
        assert_eq!(told(&other), None, "the user was told of it");
    }

    #[test]
    fn a_key_that_another_friend_tells_does_not_begin_the_day_of_the_first_one_anew() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::create(home.path(), &Options::default()).unwrap();
        let (key, now) = (SigningKey::generate(), store.now());
        store.write(|tx| take(tx, &domain(), &described(&[&key], now, 0))).unwrap().unwrap();
        let [first, second] = [(); 2].map(|()| SigningKey::generate().public_key());
        store.write(|tx| was_told(tx, &domain(), &first)).unwrap();
        let sql = "UPDATE homeservers SET told_since = told_since - 1000";
        store.write(|tx| Ok(tx.sql().execute(sql, [])?)).unwrap();
        store.write(|tx| was_told(tx, &domain(), &second)).unwrap();
        store.write(|tx| was_told(tx, &domain(), &first)).unwrap();
        let sql = "SELECT told, told_since FROM homeservers";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, u64>(1)?));
        let (told, since) = store.read(|tx| Ok(tx.sql().query_row(sql, [], read)?)).unwrap();
        assert_eq!(told, first.as_bytes());
        assert!(since <= store.now() - 1000, "its day goes on");
    }
}
