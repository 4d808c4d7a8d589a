//! Queues that are made: the first ones, and others in place of those that the QS does not have any more, because this
//! device was away for longer than it keeps them (QS-8).

use postern_protocol::{
    chain::HpkePrivateKey,
    key::SigningKey,
    problem::ProblemType,
    qs::{CreateQueue, QueueKind},
};

use super::{
    addresses::{forget_revocations, renewed},
    key_rotation::{finish_rotation, prepared_rotation},
    queue::Queue,
};
use crate::{
    error::{Error, Result},
    server::Api,
    store::{Store, Tx},
};

/// Makes a queue. Each has keys of its own, so that nothing links the two (QS-1).
pub(crate) async fn create_queue(store: &Store, api: &Api, kind: QueueKind) -> Result<()> {
    replace_queue(store, api, kind, |_, _| Ok(())).await
}

/// Makes a queue in place of the one that is kept, if one is. `replaced` learns of that one in the same transaction.
pub(crate) async fn replace_queue(
    store: &Store,
    api: &Api,
    kind: QueueKind,
    replaced: impl FnOnce(&Tx<'_>, &Queue) -> Result<()>,
) -> Result<()> {
    let owner = SigningKey::generate();
    let hpke = HpkePrivateKey::generate().map_err(Error::mls("cannot make a key"))?;
    let hpke_key = hpke.public_key().map_err(Error::mls("cannot make a key"))?;
    let id = api.create_queue(&CreateQueue { kind, hpke_key }, &owner).await?;
    store.write(|tx| {
        let before = Queue::find(tx, kind)?;
        Queue::new(kind, id, owner, hpke).save(tx)?;
        renewed(tx, kind)?;
        #[cfg(feature = "lab")]
        super::deliveries::forget(tx, kind)?;
        forget_revocations(tx, kind)?;
        before.map_or(Ok(()), |before| replaced(tx, &before))
    })
}

/// Whether the QS, which does not know a queue under the key that is kept, knows it under the next one: the answer to the
/// change of keys was lost. Then that one is kept from now on.
pub(crate) async fn is_under_new_keys(store: &Store, api: &Api, kind: QueueKind) -> Result<bool> {
    let Some((owner, hpke)) = store.read(|tx| prepared_rotation(tx, kind))? else { return Ok(false) };
    finish_rotation(store, api, kind, owner, hpke).await?;
    Ok(true)
}

/// Whether the QS does not have a queue of this device, or has one that is behind what this device read: it was restored to
/// an earlier state, and began no generation. Nothing comes to such a queue that this device would be given.
pub(crate) fn is_gone(error: &Error) -> bool {
    matches!(error.problem(), Some(ProblemType::NotFound | ProblemType::AcknowledgedTooMuch))
}
