//! Addresses that lead to a queue (QS-3), their renewal and their end. Owns the tables `renewals` and `revocations`.

use postern_protocol::{
    Address,
    problem::ProblemType,
    qs::{AddAddresses, QueueKind},
};
use rusqlite::{OptionalExtension as _, params};

use super::queue::{KINDS, Queue};
use crate::{
    clock::is_recent,
    error::{Error, Result, or_repeated},
    server::Api,
    store::{Store, Tx, fixed, integer},
};

/// How many addresses one revocation may name.
const AT_ONCE: i64 = 1000;
/// How many addresses one request may add or renew.
const ADDED_AT_ONCE: usize = 256;
/// Seconds for which a revoked address is kept, for a QS that is restored to an earlier state: no older backup is.
const REVOKED_FOR: u64 = 90 * 24 * 60 * 60;
/// Seconds after which addresses are renewed: less than a season of the QS.
const RENEWED_EVERY: u64 = 60 * 24 * 60 * 60;

pub(crate) fn fresh_address() -> Result<Address> {
    Address::generate().map_err(Error::mls("cannot make an address"))
}

/// Has addresses lead to a queue. Those that lead there already, since an attempt whose answer was lost made
/// them, are renewed.
pub(crate) async fn add_addresses(
    api: &Api,
    queue: &Queue,
    addresses: Vec<Address>,
    last_resort: Vec<Address>,
) -> Result<()> {
    api.add_addresses(&queue.id, &AddAddresses { addresses, last_resort }, &queue.owner).await
}

/// Whether it is time to renew a queue's addresses.
pub(crate) fn is_renewal_due(tx: &Tx<'_>, kind: QueueKind) -> Result<bool> {
    let sql = "SELECT done FROM renewals WHERE kind = ?1";
    let done: Option<u64> = tx.sql().query_row(sql, [kind.as_str()], |row| row.get(0)).optional()?;
    Ok(done.is_none_or(|done| !is_recent(done, RENEWED_EVERY, tx.now())))
}

/// Renews addresses of a queue: one that nobody writes to, as that of a group in which only this device says something,
/// would be taken for that of a queue that is gone.
pub(crate) async fn renew_addresses(
    store: &Store,
    api: &Api,
    kind: QueueKind,
    addresses: &[Address],
) -> Result<()> {
    let queue = store.read(|tx| Queue::load(tx, kind))?;
    for some in addresses.chunks(ADDED_AT_ONCE) {
        let answer = add_addresses(api, &queue, some.to_vec(), Vec::new()).await;
        if answer.as_ref().is_err_and(|error| error.refusal().is_none()) {
            return answer;
        }
    }
    store.write(|tx| renewed(tx, kind))
}

/// Notes that a queue's addresses were renewed now.
pub(super) fn renewed(tx: &Tx<'_>, kind: QueueKind) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO renewals (kind, done) VALUES (?1, ?2)";
    tx.sql().execute(sql, params![kind.as_str(), integer(tx.now())])?;
    Ok(())
}

/// Makes it time to renew all addresses.
pub(crate) fn forget_renewals(tx: &Tx<'_>) -> Result<()> {
    tx.sql().execute("DELETE FROM renewals", [])?;
    Ok(())
}

/// Makes it time to renew a queue's addresses: it has others by now.
pub(crate) fn renew_soon(tx: &Tx<'_>, kind: QueueKind) -> Result<()> {
    tx.sql().execute("DELETE FROM renewals WHERE kind = ?1", [kind.as_str()])?;
    Ok(())
}

/// Notes that an address of the group queue is to lead nowhere.
pub(crate) fn revoke_later(tx: &Tx<'_>, address: &Address) -> Result<()> {
    note_revocation(tx, QueueKind::Group, address)
}

/// Notes that an address of the contact queue is to lead nowhere.
pub(crate) fn revoke_contact_later(tx: &Tx<'_>, address: &Address) -> Result<()> {
    note_revocation(tx, QueueKind::Contact, address)
}

fn note_revocation(tx: &Tx<'_>, kind: QueueKind, address: &Address) -> Result<()> {
    let sql = "INSERT INTO revocations (address, kind) VALUES (?1, ?2)
               ON CONFLICT (address) DO UPDATE SET done = NULL";
    tx.sql().execute(sql, params![address.as_bytes(), kind.as_str()])?;
    Ok(())
}

/// Has all addresses of a queue revoked again that were lately: the QS was restored to an earlier state.
pub(crate) fn revoke_again(tx: &Tx<'_>, kind: QueueKind) -> Result<()> {
    tx.sql().execute("UPDATE revocations SET done = NULL WHERE kind = ?1", [kind.as_str()])?;
    Ok(())
}

/// Forgets the addresses of a queue that are noted: they lead nowhere as it is.
pub(super) fn forget_revocations(tx: &Tx<'_>, kind: QueueKind) -> Result<()> {
    tx.sql().execute("DELETE FROM revocations WHERE kind = ?1", [kind.as_str()])?;
    Ok(())
}

/// Revokes the addresses that are noted.
pub(crate) async fn revoke_addresses(store: &Store, api: &Api) -> Result<()> {
    for kind in KINDS {
        revoke_addresses_of(store, api, kind).await?;
    }
    Ok(())
}

async fn revoke_addresses_of(store: &Store, api: &Api, kind: QueueKind) -> Result<()> {
    let noted: Vec<Vec<u8>> = store.read(|tx| {
        let sql = "SELECT address FROM revocations WHERE kind = ?1 AND done IS NULL LIMIT ?2";
        let mut statement = tx.sql().prepare_cached(sql)?;
        let rows = statement.query_map(params![kind.as_str(), AT_ONCE], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    })?;
    if noted.is_empty() {
        return Ok(());
    }
    let addresses: Vec<Address> =
        noted.iter().map(|address| fixed(address, "an address")).collect::<Result<_>>()?;
    let queue = store.read(|tx| Queue::load(tx, kind))?;
    match api.revoke_addresses(&queue.id, addresses.clone(), &queue.owner).await {
        // One of them is gone already, by an attempt whose answer was lost.
        Err(error) if error.problem() == Some(ProblemType::NotFound) => {
            for address in addresses {
                let answer = api.revoke_addresses(&queue.id, vec![address], &queue.owner).await;
                or_repeated(answer, ProblemType::NotFound)?;
            }
        }
        answer => answer?,
    }
    store.write(|tx| {
        for address in &noted {
            let sql = "UPDATE revocations SET done = ?2 WHERE address = ?1";
            tx.sql().execute(sql, params![address, integer(tx.now())])?;
        }
        let long_ago = integer(tx.now().saturating_sub(REVOKED_FOR));
        tx.sql().execute("DELETE FROM revocations WHERE done < ?1", [long_ago])?;
        Ok(())
    })
}
