//! Tokens and the outstanding request as they are kept. Owns the tables `tokens` and
//! `token_requests`.

use postern_api::Token;
use rusqlite::{OptionalExtension as _, params};
use zeroize::Zeroizing;

use super::batch::Batch;
use crate::{error::Result, store::Tx};

/// Takes one token out, for good.
pub(super) fn pop(tx: &Tx<'_>) -> Result<Option<Token>> {
    Ok(tx
        .sql()
        .prepare_cached("DELETE FROM tokens WHERE rowid = (SELECT min(rowid) FROM tokens) RETURNING token")?
        .query_row([], |row| row.get(0).map(Token::new))
        .optional()?)
}

pub(super) fn count(tx: &Tx<'_>) -> Result<u64> {
    Ok(tx.sql().query_row("SELECT count(*) FROM tokens", [], |row| row.get(0))?)
}

/// Puts tokens in the place of the request that they answer.
pub(super) fn keep(tx: &Tx<'_>, token_key_id: &[u8; 32], tokens: &[Vec<u8>]) -> Result<()> {
    let mut statement = tx.sql().prepare_cached("INSERT INTO tokens (token, issuer_key) VALUES (?1, ?2)")?;
    for token in tokens {
        statement.execute(params![token, token_key_id])?;
    }
    forget_request(tx)
}

/// Drops the tokens of all issuer keys but these, which are named by their token key ids.
pub(super) fn drop_all_but(tx: &Tx<'_>, keys: &[[u8; 32]]) -> Result<()> {
    let mut statement = tx.sql().prepare_cached("SELECT DISTINCT issuer_key FROM tokens")?;
    let held = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<Vec<u8>>, _>>()?;
    for key in held.iter().filter(|held| !keys.iter().any(|key| key[..] == held[..])) {
        tx.sql().execute("DELETE FROM tokens WHERE issuer_key = ?1", [key])?;
    }
    Ok(())
}

/// The request whose answer is outstanding.
pub(super) fn outstanding(tx: &Tx<'_>) -> Result<Option<Batch>> {
    let batch = tx
        .sql()
        .query_row("SELECT issuer_key, secrets FROM token_requests", [], |row| {
            Ok(Batch { issuer_key: row.get(0)?, secrets: Zeroizing::new(row.get(1)?) })
        })
        .optional()?;
    Ok(batch)
}

pub(super) fn keep_request(tx: &Tx<'_>, batch: &Batch) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO token_requests (one, issuer_key, secrets) VALUES (1, ?1, ?2)";
    tx.sql().execute(sql, params![batch.issuer_key, *batch.secrets])?;
    Ok(())
}

pub(super) fn forget_request(tx: &Tx<'_>) -> Result<()> {
    tx.sql().execute("DELETE FROM token_requests", [])?;
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
        store.write(|tx| keep(tx, &[1; 32], &[vec![1], vec![2]])).unwrap();
        let taken = store.write(pop).unwrap().unwrap();
        // As after kill -9: nothing is closed, the database is opened anew.
        std::mem::forget(store);
        let store = Store::open(directory.path(), &Options::default()).unwrap();
        let next = store.write(pop).unwrap().unwrap();
        assert!(taken != next);
        assert!(store.write(pop).unwrap().is_none());
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
        store.write(|tx| keep_request(tx, &batch)).unwrap();
        std::mem::forget(store);
        let store = Store::open(directory.path(), &Options::default()).unwrap();
        let batch = store.read(outstanding).unwrap().unwrap();
        assert_eq!(batch.number(), 10);
        assert_eq!(batch.request(&domain).unwrap().0, request);
        // The tokens take its place.
        store.write(|tx| keep(tx, &[1; 32], &[vec![1]])).unwrap();
        assert!(store.read(outstanding).unwrap().is_none());
    }
}
