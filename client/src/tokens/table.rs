//! Tokens and the outstanding requests as they are kept, of each issuer apart. Owns the tables `tokens` and
//! `token_requests`.

use postern_api::Token;
use postern_protocol::name::Domain;
use rusqlite::{OptionalExtension as _, params};
use zeroize::Zeroizing;

use super::batch::Batch;
use crate::{error::Result, store::Tx};

/// Takes one token of a domain out, for good.
pub(super) fn pop(tx: &Tx<'_>, domain: &Domain) -> Result<Option<Token>> {
    let sql =
        "DELETE FROM tokens WHERE rowid = (SELECT min(rowid) FROM tokens WHERE domain = ?1) RETURNING token";
    let mut statement = tx.sql().prepare_cached(sql)?;
    Ok(statement.query_row([domain.as_str()], |row| row.get(0).map(Token::new)).optional()?)
}

pub(super) fn count(tx: &Tx<'_>, domain: &Domain) -> Result<u64> {
    let sql = "SELECT count(*) FROM tokens WHERE domain = ?1";
    Ok(tx.sql().query_row(sql, [domain.as_str()], |row| row.get(0))?)
}

/// Puts tokens in the place of the request that they answer.
pub(super) fn keep(tx: &Tx<'_>, domain: &Domain, token_key_id: &[u8; 32], tokens: &[Vec<u8>]) -> Result<()> {
    let sql = "INSERT INTO tokens (token, domain, issuer_key) VALUES (?1, ?2, ?3)";
    let mut statement = tx.sql().prepare_cached(sql)?;
    for token in tokens {
        statement.execute(params![token, domain.as_str(), token_key_id])?;
    }
    forget_request(tx, domain)
}

/// Drops a domain's tokens of all issuer keys but these, which are named by their token key ids.
pub(super) fn drop_all_but(tx: &Tx<'_>, domain: &Domain, keys: &[[u8; 32]]) -> Result<()> {
    let sql = "SELECT DISTINCT issuer_key FROM tokens WHERE domain = ?1";
    let mut statement = tx.sql().prepare_cached(sql)?;
    let held =
        statement.query_map([domain.as_str()], |row| row.get(0))?.collect::<Result<Vec<Vec<u8>>, _>>()?;
    for key in held.iter().filter(|held| !keys.iter().any(|key| key[..] == held[..])) {
        let sql = "DELETE FROM tokens WHERE domain = ?1 AND issuer_key = ?2";
        tx.sql().execute(sql, params![domain.as_str(), key])?;
    }
    Ok(())
}

/// Forgets the tokens of a domain, and what was asked for.
pub(crate) fn forget(tx: &Tx<'_>, domain: &Domain) -> Result<()> {
    tx.sql().execute("DELETE FROM tokens WHERE domain = ?1", [domain.as_str()])?;
    forget_request(tx, domain)
}

/// The request to a domain's issuer whose answer is outstanding.
pub(super) fn outstanding(tx: &Tx<'_>, domain: &Domain) -> Result<Option<Batch>> {
    let sql = "SELECT issuer_key, secrets FROM token_requests WHERE domain = ?1";
    let batch = tx
        .sql()
        .query_row(sql, [domain.as_str()], |row| {
            Ok(Batch { issuer_key: row.get(0)?, secrets: Zeroizing::new(row.get(1)?) })
        })
        .optional()?;
    Ok(batch)
}

pub(super) fn keep_request(tx: &Tx<'_>, domain: &Domain, batch: &Batch) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO token_requests (domain, issuer_key, secrets) VALUES (?1, ?2, ?3)";
    tx.sql().execute(sql, params![domain.as_str(), batch.issuer_key, *batch.secrets])?;
    Ok(())
}

pub(super) fn forget_request(tx: &Tx<'_>, domain: &Domain) -> Result<()> {
    tx.sql().execute("DELETE FROM token_requests WHERE domain = ?1", [domain.as_str()])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{options::Options, store::Store};
    use voprf::{Group as _, Ristretto255};

    #[test]
    fn a_token_taken_before_a_crash_is_not_there_after_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path(), &Options::default()).unwrap();
        let (domain, other) = ("example.org".parse().unwrap(), "example.net".parse().unwrap());
        store.write(|tx| keep(tx, &domain, &[1; 32], &[vec![1], vec![2]])).unwrap();
        assert!(
            store.write(|tx| pop(tx, &other)).unwrap().is_none(),
            "another issuer's pay for nothing there"
        );
        let taken = store.write(|tx| pop(tx, &domain)).unwrap().unwrap();
        // As after kill -9: nothing is closed, the database is opened anew.
        std::mem::forget(store);
        let store = Store::open(directory.path(), &Options::default()).unwrap();
        let next = store.write(|tx| pop(tx, &domain)).unwrap().unwrap();
        assert!(taken != next);
        assert!(store.write(|tx| pop(tx, &domain)).unwrap().is_none());
    }

    #[test]
    fn a_request_kept_before_a_crash_is_the_same_request_after_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path(), &Options::default()).unwrap();
        let key = voprf::VoprfServer::<Ristretto255>::new_from_seed(&[7; 32], b"").unwrap();
        let public = Ristretto255::serialize_elem(key.get_public_key()).to_vec();
        let domain = "example.org".parse().unwrap();
        let batch = Batch::new(public, 10);
        let (request, _) = batch.request(&domain).unwrap();
        store.write(|tx| keep_request(tx, &domain, &batch)).unwrap();
        std::mem::forget(store);
        let store = Store::open(directory.path(), &Options::default()).unwrap();
        let batch = store.read(|tx| outstanding(tx, &domain)).unwrap().unwrap();
        assert_eq!(batch.number(), 10);
        assert_eq!(batch.request(&domain).unwrap().0, request);
        // The tokens take its place.
        store.write(|tx| keep(tx, &domain, &[1; 32], &[vec![1]])).unwrap();
        assert!(store.read(|tx| outstanding(tx, &domain)).unwrap().is_none());
    }
}
