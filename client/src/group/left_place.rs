//! The place in a group that this device left, to come into another by itself (DS-7). What members said until the DS had
//! the commit of that is on its way then, and opens with the keys of the old place only: they are kept until the queue was
//! read up to there. Owns the table `left_places`.

use openmls::prelude::{
    GroupId as MlsGroupId, MlsGroup, ProcessMessageError, ProcessedMessageContent, ProtocolMessage, Sender,
};
use openmls_sqlite_storage::Codec as _;
use openmls_traits::OpenMlsProvider as _;
use postern_protocol::{PublicKey, ds::GroupId};
use rusqlite::{OptionalExtension as _, params};

use super::state::GroupState;
use crate::{
    error::{Error, Result},
    mls::{self, Cbor},
    store::{Tx, integer},
};

/// An application message, opened.
pub(super) struct Said {
    pub sender: PublicKey,
    pub content: Vec<u8>,
}

impl GroupState {
    /// Keeps the keys of this place, which the device is about to leave.
    pub(super) fn keep_place(&self, tx: &Tx<'_>) -> Result<()> {
        forget(tx, &self.id)?;
        tx.sql().execute(
            "INSERT INTO left_places (group_id, epoch, provider_version, data_type, group_data)
             SELECT ?1, ?2, provider_version, data_type, group_data FROM openmls_group_data WHERE group_id = ?3",
            params![self.id.to_mls(), integer(self.epoch()), key(&self.id)?],
        )?;
        Ok(())
    }
}

/// Forgets the keys of the place that this device left.
pub(crate) fn forget(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    tx.sql().execute("DELETE FROM left_places WHERE group_id = ?1", [id.to_mls()])?;
    Ok(())
}

/// Whether keys of a place are kept that this device left.
pub(crate) fn is_kept(tx: &Tx<'_>, id: &GroupId) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM left_places WHERE group_id = ?1)";
    Ok(tx.sql().prepare_cached(sql)?.query_row([id.to_mls()], |row| row.get(0))?)
}

/// Opens an application message with the keys of the place that this device left; `None` if there are none, or they do not
/// open it.
pub(super) fn open(tx: &Tx<'_>, id: &GroupId, message: &ProtocolMessage) -> Result<Option<Said>> {
    let (epoch, key) = (message.epoch().as_u64(), key(id)?);
    let last: Option<u64> = tx
        .sql()
        .prepare_cached("SELECT max(epoch) FROM left_places WHERE group_id = ?1")?
        .query_row([id.to_mls()], |row| row.get(0))
        .optional()?
        .flatten();
    if last.is_none_or(|last| last < epoch) {
        return Ok(None);
    }
    // For openmls the group is as it was, and then again as it is.
    let opened = tx.trial(|| {
        tx.sql().execute("DELETE FROM openmls_group_data WHERE group_id = ?1", [&key])?;
        tx.sql().execute(
            "INSERT INTO openmls_group_data (provider_version, group_id, data_type, group_data)
             SELECT provider_version, ?2, data_type, group_data FROM left_places WHERE group_id = ?1",
            params![id.to_mls(), key],
        )?;
        let Some(mut group) = MlsGroup::load(tx.storage(), &MlsGroupId::from_slice(&id.to_mls()))? else {
            return Ok::<_, Error>(None);
        };
        let processed = match group.process_message(tx, message.clone()) {
            Ok(processed) => processed,
            Err(ProcessMessageError::StorageError(error)) => return Err(error.into()),
            Err(_) => return Ok(None),
        };
        let Sender::Member(leaf) = *processed.sender() else { return Ok(None) };
        let sender = group.member_at(leaf).filter(|found| found.credential == *processed.credential());
        let sender = sender.and_then(|sender| mls::public_key(&sender.signature_key));
        // The key that opened the message is used up.
        let secrets: Vec<u8> = tx.sql().query_row(
            "SELECT group_data FROM openmls_group_data WHERE group_id = ?1 AND data_type = 'message_secrets'",
            [&key],
            |row| row.get(0),
        )?;
        Ok(match (processed.into_content(), sender) {
            (ProcessedMessageContent::ApplicationMessage(message), Some(sender)) => {
                Some((Said { sender, content: message.into_bytes() }, secrets))
            }
            _ => None,
        })
    })?;
    let Some((said, secrets)) = opened else { return Ok(None) };
    let sql = "UPDATE left_places SET group_data = ?2 WHERE group_id = ?1 AND data_type = 'message_secrets'";
    tx.sql().execute(sql, params![id.to_mls(), secrets])?;
    Ok(Some(said))
}

/// The group's id as openmls keeps it.
fn key(id: &GroupId) -> Result<Vec<u8>> {
    Cbor::to_vec(&MlsGroupId::from_slice(&id.to_mls())).map_err(|_| Error::Damaged("a group id"))
}
