//! Keys that tokens are issued with, as everyone sees them (AAS-7): this client has tokens of no other key. Owns the
//! tables `token_keys` and `directory_checks`.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use postern_protocol::{
    MessageDigest,
    aas::{IssuerDirectory, TokenKey},
    label::Label,
    token::TOKEN_TYPE,
};
use rusqlite::{OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, IssuerError, Result},
    identity::Seen,
    store::{Tx, integer},
};

/// Seconds for which keys count as compared: a day.
const CHECK_EVERY: u64 = 24 * 60 * 60;
/// Keys of a token type that issue at a time, at most: one, and its successor or predecessor.
const MOST_KEYS: usize = 2;
/// Seconds for which a key is kept after it began to be used: two years.
const KEPT: u64 = 2 * 365 * 24 * 60 * 60;

/// The key that tokens were issued with from some day on, for friends to compare: everyone has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryDigest {
    /// Seconds since 1970: from when on clients are told to use the key.
    pub not_before: u64,
    /// SHA-256 of the key's type, time and bytes.
    pub digest: MessageDigest,
}

/// Checks that an issuer does not show so many keys that each person could have one.
///
/// # Errors
/// [`IssuerError::TooManyKeys`].
pub(super) fn check_number(directory: &IssuerDirectory) -> Result<(), IssuerError> {
    let mut numbers: BTreeMap<u16, usize> = BTreeMap::new();
    for key in &directory.token_keys {
        *numbers.entry(key.token_type).or_default() += 1;
    }
    match numbers.values().any(|number| *number > MOST_KEYS) {
        true => Err(IssuerError::TooManyKeys),
        false => Ok(()),
    }
}

/// Whether all of these keys are known, the newest that is in use among them, and were compared today.
pub(super) fn is_known(tx: &Tx<'_>, directory: &IssuerDirectory) -> Result<bool> {
    let now = tx.now();
    let checked: Option<u64> =
        tx.sql().query_row("SELECT checked FROM directory_checks", [], |row| row.get(0)).optional()?;
    let is_fresh =
        checked.is_some_and(|checked| (checked..checked.saturating_add(CHECK_EVERY)).contains(&now));
    let known = kept(tx, "live = 1")?;
    let shown: Vec<_> = directory.token_keys.iter().map(entry).collect();
    // A client that was left with an old key could be told by it, too.
    let newest = newest_in_use(&known, now);
    Ok(is_fresh
        && shown.iter().all(|key| known.contains(key))
        && newest.is_some_and(|newest| shown.contains(newest)))
}

/// Keeps keys that everyone sees.
pub(super) fn keep(tx: &Tx<'_>, directory: &IssuerDirectory) -> Result<()> {
    tx.sql().execute("UPDATE token_keys SET live = 0", [])?;
    for (token_type, token_key, not_before) in directory.token_keys.iter().map(entry) {
        tx.sql().execute(
            "INSERT OR REPLACE INTO token_keys (token_type, token_key, not_before, live) VALUES (?1, ?2, ?3, 1)",
            params![token_type, token_key, integer(not_before)],
        )?;
    }
    let long_ago = integer(tx.now().saturating_sub(KEPT));
    tx.sql().execute("DELETE FROM token_keys WHERE live = 0 AND not_before < ?1", [long_ago])?;
    tx.sql().execute(
        "INSERT OR REPLACE INTO directory_checks (one, checked) VALUES (1, ?1)",
        [integer(tx.now())],
    )?;
    Ok(())
}

/// The key that is in use now, for a friend to compare ([`compare`]); `None` before the first tokens.
pub(crate) fn directory_digest(tx: &Tx<'_>) -> Result<Option<DirectoryDigest>> {
    newest_in_use(&kept(tx, "live = 1")?, tx.now()).map(digest).transpose()
}

/// Compares the key that a friend has, of the same server, with those that this device saw.
pub(crate) fn compare_directory(tx: &Tx<'_>, theirs: &DirectoryDigest) -> Result<Seen> {
    let mut newest = 0;
    let mut of_that_time = false;
    for key in kept(tx, "true")?.iter().filter(|(token_type, ..)| *token_type == TOKEN_TYPE) {
        let ours = digest(key)?;
        if ours == *theirs {
            return Ok(Seen::Same);
        }
        of_that_time |= ours.not_before == theirs.not_before;
        newest = newest.max(ours.not_before);
    }
    Ok(match (of_that_time, theirs.not_before > newest) {
        (true, _) => Seen::Split,
        (false, true) => Seen::Newer,
        (false, false) => Seen::Unknown,
    })
}

/// Whether a directory that the server showed to somebody else has a key that this device would have been shown, too, but
/// was not: one of the same time as another one, or one that has been in use for a day.
pub(crate) fn contradicts(tx: &Tx<'_>, theirs: &IssuerDirectory) -> Result<bool> {
    let is_ours = |(token_type, ..): &Entry| *token_type == TOKEN_TYPE;
    let kept: Vec<_> = kept(tx, "true")?.into_iter().filter(is_ours).collect();
    let Some(oldest) = kept.iter().map(|(_, _, not_before)| *not_before).min() else { return Ok(false) };
    let is_unheard = |key: &Entry| {
        let in_use = (oldest + 1..tx.now().saturating_sub(CHECK_EVERY)).contains(&key.2);
        !kept.contains(key) && (in_use || kept.iter().any(|known| known.2 == key.2))
    };
    Ok(theirs.token_keys.iter().map(entry).filter(is_ours).any(|key| is_unheard(&key)))
}

type Entry = (u16, String, u64);

fn entry(key: &TokenKey) -> Entry {
    (key.token_type, key.token_key.clone(), key.not_before.unwrap_or_default())
}

/// The newest of these keys that is of our token type and in use at `now`, in seconds since 1970.
fn newest_in_use(keys: &[Entry], now: u64) -> Option<&Entry> {
    keys.iter()
        .filter(|(token_type, _, not_before)| *token_type == TOKEN_TYPE && *not_before <= now)
        .max_by_key(|(_, _, not_before)| *not_before)
}

fn kept(tx: &Tx<'_>, condition: &str) -> Result<Vec<Entry>> {
    let sql = format!("SELECT token_type, token_key, not_before FROM token_keys WHERE {condition}");
    let mut statement = tx.sql().prepare_cached(&sql)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// `SHA-256("Postern token key" || 0 || token type (2, BE) || not before (8, BE) || key)`
fn digest((token_type, token_key, not_before): &Entry) -> Result<DirectoryDigest> {
    let key = URL_SAFE.decode(token_key).map_err(|_| Error::Damaged("a token key"))?;
    let message = Label::TOKEN_KEY.followed_by(&[&token_type.to_be_bytes(), &not_before.to_be_bytes(), &key]);
    Ok(DirectoryDigest { not_before: *not_before, digest: MessageDigest::of(&message) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{options::Options, store::Store};

    fn key(bytes: &[u8], token_type: u16, not_before: u64) -> TokenKey {
        TokenKey { token_type, token_key: URL_SAFE.encode(bytes), not_before: Some(not_before) }
    }

    fn directory(token_keys: Vec<TokenKey>) -> IssuerDirectory {
        IssuerDirectory { issuer_request_uri: "/aas/token-request".to_owned(), token_keys }
    }

    #[test]
    fn two_keys_of_a_type_issue_at_a_time_and_no_third() {
        let two = vec![key(b"a", 5, 1), key(b"b", 5, 2), key(b"c", 1, 1), key(b"d", 1, 2)];
        assert_eq!(check_number(&directory(two.clone())), Ok(()));
        let three = [two, vec![key(b"e", 5, 3)]].concat();
        assert_eq!(check_number(&directory(three)), Err(IssuerError::TooManyKeys));
    }

    #[test]
    fn keys_are_known_for_a_day_with_their_times_and_together_with_the_newest() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::create(home.path(), &Options::default()).unwrap();
        let now = store.now();
        let (old, new) = (key(b"old", TOKEN_TYPE, now - 100), key(b"new", TOKEN_TYPE, now - 1));
        let both = directory(vec![new.clone(), old.clone()]);
        let known = |directory: &IssuerDirectory| store.read(|tx| is_known(tx, directory)).unwrap();
        assert!(!known(&both));
        store.write(|tx| keep(tx, &both)).unwrap();
        assert!(known(&both) && known(&directory(vec![new.clone()])));
        assert!(!known(&directory(vec![old.clone()])), "everyone else has a newer one");
        let sooner = key(b"new", TOKEN_TYPE, now - 2);
        let made_up = key(b"yours", TOKEN_TYPE, now - 1);
        for other in [sooner, made_up] {
            assert!(!known(&directory(vec![new.clone(), other])));
        }
        store.write(|tx| Ok(tx.sql().execute("UPDATE directory_checks SET checked = 0", [])?)).unwrap();
        assert!(!known(&both), "strangers are asked again");
    }

    #[test]
    fn friends_compare_the_key_of_the_same_day() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::create(home.path(), &Options::default()).unwrap();
        let now = store.now();
        let (old, new) = (key(b"old", TOKEN_TYPE, now - 100), key(b"new", TOKEN_TYPE, now - 1));
        let digest_of = |key: &TokenKey| digest(&entry(key)).unwrap();
        assert_eq!(store.read(directory_digest).unwrap(), None);
        store.write(|tx| keep(tx, &directory(vec![old.clone()]))).unwrap();
        store.write(|tx| keep(tx, &directory(vec![new.clone()]))).unwrap();
        assert_eq!(store.read(directory_digest).unwrap(), Some(digest_of(&new)));
        let compare = |key: &TokenKey| store.read(|tx| compare_directory(tx, &digest_of(key))).unwrap();
        assert_eq!(compare(&new), Seen::Same);
        assert_eq!(compare(&old), Seen::Same, "a friend who was away has it");
        assert_eq!(compare(&key(b"yours", TOKEN_TYPE, now - 1)), Seen::Split);
        assert_eq!(compare(&key(b"next", TOKEN_TYPE, now)), Seen::Newer);
        assert_eq!(compare(&key(b"other", TOKEN_TYPE, now - 50)), Seen::Unknown);
    }

    #[test]
    fn a_key_that_everybody_else_has_contradicts_the_own_ones() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::create(home.path(), &Options::default()).unwrap();
        let (now, day) = (store.now(), CHECK_EVERY);
        let own = key(b"own", TOKEN_TYPE, now - 10 * day);
        let contradicts =
            |token_keys: Vec<TokenKey>| store.read(|tx| contradicts(tx, &directory(token_keys))).unwrap();
        let of_same_time = key(b"theirs", TOKEN_TYPE, now - 10 * day);
        assert!(!contradicts(vec![of_same_time.clone()]), "there is nothing to compare");
        store.write(|tx| keep(tx, &directory(vec![own.clone()]))).unwrap();
        assert!(!contradicts(vec![own.clone()]));
        assert!(contradicts(vec![own, of_same_time]));
        assert!(contradicts(vec![key(b"newer", TOKEN_TYPE, now - 2 * day)]), "it was not shown here");
        assert!(!contradicts(vec![key(b"new", TOKEN_TYPE, now - day / 2)]), "it may come yet");
        assert!(!contradicts(vec![key(b"old", TOKEN_TYPE, now - 20 * day)]), "it was before our time");
    }
}
