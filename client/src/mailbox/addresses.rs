//! Addresses that lead to a queue (QS-3), and their end. Owns the table `revocations`.

use postern_protocol::{
    Address,
    problem::ProblemType,
    qs::{AddAddresses, QueueKind},
};

use super::queue::Queue;
use crate::{
    error::{Error, Result, or_repeated},
    server::Api,
    store::{Store, Tx, fixed},
};

/// How many addresses one request may name.
const AT_ONCE: i64 = 1000;

pub(crate) fn fresh_address() -> Result<Address> {
    Address::generate().map_err(Error::mls("cannot make an address"))
}

/// Has addresses lead to a queue. They are fresh random bytes: if they exist, an attempt whose
/// answer was lost made them.
pub(crate) async fn add_addresses(
    api: &Api,
    queue: &Queue,
    addresses: Vec<Address>,
    last_resort: Vec<Address>,
) -> Result<()> {
    let answer = api.add_addresses(&queue.id, &AddAddresses { addresses, last_resort }, &queue.owner).await;
    or_repeated(answer, ProblemType::AddressExists)
}

/// Notes that an address of the group queue is to lead nowhere.
pub(crate) fn revoke_later(tx: &Tx<'_>, address: &Address) -> Result<()> {
    tx.sql().execute("INSERT OR IGNORE INTO revocations (address) VALUES (?1)", [address.as_bytes()])?;
    Ok(())
}

/// Revokes the addresses that are noted.
pub(crate) async fn revoke_addresses(store: &Store, api: &Api) -> Result<()> {
    let noted: Vec<Vec<u8>> = store.read(|tx| {
        let mut statement = tx.sql().prepare_cached("SELECT address FROM revocations LIMIT ?1")?;
        Ok(statement.query_map([AT_ONCE], |row| row.get(0))?.collect::<Result<_, _>>()?)
    })?;
    if noted.is_empty() {
        return Ok(());
    }
    let addresses: Vec<Address> =
        noted.iter().map(|address| fixed(address, "an address")).collect::<Result<_>>()?;
    let queue = store.read(|tx| Queue::load(tx, QueueKind::Group))?;
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
            tx.sql().execute("DELETE FROM revocations WHERE address = ?1", [address])?;
        }
        Ok(())
    })
}
