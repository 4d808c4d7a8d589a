//! Every message that a queue delivered, for tests that compare the order in several queues. Owns
//! the table `deliveries`.

use postern_protocol::qs::{QueueKind, QueuePayload};
use rusqlite::params;

use super::queue::Queue;
use crate::{
    error::Result,
    store::{Tx, decode, encode, integer},
};

/// Keeps what a queue delivered last.
pub(crate) fn record(tx: &Tx<'_>, queue: &Queue, payload: &QueuePayload) -> Result<()> {
    tx.sql().execute(
        "INSERT INTO deliveries (kind, seq, payload) VALUES (?1, ?2, ?3)",
        params![queue.kind.as_str(), integer(queue.position), encode(payload)],
    )?;
    Ok(())
}

/// Forgets what a queue delivered: another one took its place, which counts anew.
pub(super) fn forget(tx: &Tx<'_>, kind: QueueKind) -> Result<()> {
    tx.sql().execute("DELETE FROM deliveries WHERE kind = ?1", [kind.as_str()])?;
    Ok(())
}

/// All that was kept of a queue, in order, by sequence number.
pub(crate) fn all(tx: &Tx<'_>, kind: QueueKind) -> Result<Vec<(u64, QueuePayload)>> {
    let mut statement =
        tx.sql().prepare("SELECT seq, payload FROM deliveries WHERE kind = ?1 ORDER BY seq")?;
    let rows = statement
        .query_map([kind.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<Vec<(u64, Vec<u8>)>, _>>()?;
    rows.into_iter().map(|(seq, payload)| Ok((seq, decode(&payload, "a delivery")?))).collect()
}
