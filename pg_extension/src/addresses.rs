//! Sealing of addresses for `qs.add_addresses`: the address itself is never stored.

use pgrx::prelude::*;
use postern_protocol::{Address, QueueId, WrongLength, address::AddressError};

#[derive(Debug, thiserror::Error)]
enum SealError {
    #[error("an address has 32 bytes and a queue id 16")]
    Length(#[from] WrongLength),
    #[error("{0}")]
    Address(#[from] AddressError),
    #[error("an address must not be null")]
    Null,
}

type Sealed = TableIterator<'static, (name!(lookup, Vec<u8>), name!(sealed_queue_id, Vec<u8>))>;

/// The two values that the QS keeps of each address: its lookup, and the queue id sealed for it
/// (32 bytes each).
#[pg_extern]
fn seal_addresses(addresses: Array<&[u8]>, queue_id: &[u8]) -> Result<Sealed, SealError> {
    let queue_id = QueueId::try_from(queue_id)?;
    let rows = addresses
        .iter()
        .map(|address| {
            let address = Address::try_from(address.ok_or(SealError::Null)?)?;
            Ok((address.lookup().to_vec(), address.seal(&queue_id)?.to_vec()))
        })
        .collect::<Result<Vec<_>, SealError>>()?;
    Ok(TableIterator::new(rows))
}
