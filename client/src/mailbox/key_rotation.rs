//! Other keys for a queue, from before the QS is asked until it took them. Owns the table
//! `key_rotations`.

use postern_protocol::{
    chain::HpkePrivateKey,
    key::SigningKey,
    problem::ProblemType,
    qs::{NewOwner, QueueKind, RotateKeys},
};
use rusqlite::{OptionalExtension as _, params};

use super::queue::Queue;
use crate::{
    error::{Error, Result, or_repeated},
    server::Api,
    store::{Store, Tx},
};

/// Makes new keys for a queue.
pub(crate) fn prepare_rotation(tx: &Tx<'_>, kind: QueueKind) -> Result<()> {
    let hpke = HpkePrivateKey::generate().map_err(Error::mls("cannot make a key"))?;
    tx.sql().execute(
        "INSERT INTO key_rotations (kind, owner_seed, hpke_key) VALUES (?1, ?2, ?3)",
        params![kind.as_str(), SigningKey::generate().seed(), hpke.as_bytes()],
    )?;
    Ok(())
}

/// The new keys of a queue: its owner's, and the one that chains open with.
pub(crate) fn prepared_rotation(
    tx: &Tx<'_>,
    kind: QueueKind,
) -> Result<Option<(SigningKey, HpkePrivateKey)>> {
    let row: Option<([u8; 32], [u8; 32])> = tx
        .sql()
        .prepare_cached("SELECT owner_seed, hpke_key FROM key_rotations WHERE kind = ?1")?
        .query_row([kind.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(row.map(|(owner, hpke)| (SigningKey::from_seed(owner), HpkePrivateKey::from_bytes(hpke))))
}

/// Has the QS take new keys of a queue.
pub(crate) async fn finish_rotation(
    store: &Store,
    api: &Api,
    kind: QueueKind,
    owner: SigningKey,
    hpke: HpkePrivateKey,
) -> Result<()> {
    let queue = store.read(|tx| Queue::load(tx, kind))?;
    let rotation = RotateKeys {
        owner: Some(NewOwner::sign(&queue.id, queue.owner.public_key(), &owner)),
        hpke_key: Some(hpke.public_key().map_err(Error::mls("cannot use a key"))?),
    };
    let answer = api.rotate_keys(&queue.id, &rotation, &queue.owner).await;
    // The key that we know is the old one, by an attempt whose answer was lost.
    or_repeated(answer, ProblemType::NotFound)?;
    store.write(|tx| {
        let mut queue = Queue::load(tx, kind)?;
        queue.rotate(owner, hpke);
        queue.save(tx)?;
        tx.sql().execute("DELETE FROM key_rotations WHERE kind = ?1", [kind.as_str()])?;
        Ok(())
    })
}
