//! The secrets of past epochs, by which a message opens that commits overtook (DS-3). The DS takes it for a few epochs after its
//! own, and what the DS took comes in its order: so secrets of [`MAX_PAST_EPOCHS`] are enough. But a commit of this device takes
//! effect with the DS's answer, and from a DS of another domain messages that it took before may come later than that. Until
//! something shows that they came, secrets of more epochs are kept, one for each such commit, [`OWN_COMMITS`] at most. A delivery
//! that was set aside, and that an operator has sent again after days, may come later still: it is told as one without keys.
//!
//! The commits by which past epochs began are remembered here, too: a DS of another domain that was restored to an earlier state
//! (QS-12) goes another way from there, and nothing else may tell so to a device that only listens. By them it shows, too, whether
//! two devices of a user are in one group ([`super::one_group`]). Owns the table `epochs`.

use std::time::Duration;

use openmls::prelude::{ConfirmationTag, PastEpochDeletion, ProtocolMessage};
use postern_protocol::{
    Payload,
    ds::{GroupId, MAX_PAST_EPOCHS},
};
use rusqlite::{OptionalExtension as _, params};
use tls_codec::Serialize as _;

use super::{record, removed, state::GroupState};
use crate::{
    error::{Error, Result},
    store::{Tx, integer},
};

/// Commits of this device, at most, for which secrets of more epochs are kept.
const OWN_COMMITS: usize = 20;
/// Past epochs, at most, of which a group's secrets are kept.
pub(super) const MOST_PAST_EPOCHS: usize = MAX_PAST_EPOCHS + OWN_COMMITS;
/// Epochs, at most, of a group whose beginnings are kept.
const MOST_BEGINNINGS: u64 = 1000;

impl GroupState {
    /// Notes that a commit of this device took effect. Where the group is at the own homeserver, all that the DS took before was
    /// in the queue, and is processed.
    pub(super) fn own_commit_passed(&mut self, tx: &Tx<'_>) -> Result<()> {
        if self.is_at_home()? {
            record::set_arrived(tx, &self.id, self.epoch())?;
        }
        self.keep_beginning(tx)?;
        self.forget_past(tx)
    }

    /// Notes that a commit of another member took effect, which came after all that the DS took before it.
    pub(super) fn commit_passed(&mut self, tx: &Tx<'_>) -> Result<()> {
        record::set_arrived(tx, &self.id, self.epoch())?;
        self.keep_beginning(tx)?;
        self.forget_past(tx)
    }

    /// Notes that this device came in, or back. Commits that led elsewhere, or in a way that it did not see, are compared with
    /// nothing from then on.
    pub(super) fn came_in(&self, tx: &Tx<'_>) -> Result<()> {
        record::set_arrived(tx, &self.id, self.epoch())?;
        forget(tx, &self.id)?;
        self.keep_beginning(tx)
    }

    /// Whether a message is a commit that begins another epoch than the one of its number that this device was in. The own
    /// homeserver tells by its queue that it was restored.
    pub(super) fn is_another_way(&self, tx: &Tx<'_>, message: &ProtocolMessage) -> Result<bool> {
        if self.is_at_home()? {
            return Ok(false);
        }
        let ProtocolMessage::PublicMessage(public) = message else { return Ok(false) };
        let Some(tag) = public.confirmation_tag() else { return Ok(false) };
        let epoch = public.epoch().as_u64().saturating_add(1);
        let tag = bytes(tag)?;
        Ok(self.beginning_of(tx, epoch)?.is_some_and(|known| known != tag))
    }

    /// The tag of the commit by which an epoch began that this device was in since it came in, or back; of the last thousand.
    pub(super) fn beginning_of(&self, tx: &Tx<'_>, epoch: u64) -> Result<Option<Payload>> {
        Ok(tx
            .sql()
            .prepare_cached("SELECT tag FROM epochs WHERE group_id = ?1 AND epoch = ?2")?
            .query_row(params![self.id.to_mls(), integer(epoch)], |row| row.get(0))
            .optional()?
            .map(Payload::new))
    }

    /// Whether the DS took the commit by which the present epoch began: a device that comes back is in the one after its external
    /// commit before there is an answer.
    pub(crate) fn is_taken(&self, tx: &Tx<'_>) -> Result<bool> {
        // No commit began the first one.
        Ok(self.epoch() == 0 || self.beginning_of(tx, self.epoch())? == Some(self.beginning()?))
    }

    /// The tag of the commit by which the present epoch began.
    pub(super) fn beginning(&self) -> Result<Payload> {
        bytes(self.mls.confirmation_tag())
    }

    /// Keeps by which commit the present epoch began.
    fn keep_beginning(&self, tx: &Tx<'_>) -> Result<()> {
        if !self.mls.is_active() {
            return Ok(());
        }
        let (id, epoch) = (self.id.to_mls(), self.epoch());
        tx.sql()
            .prepare_cached("INSERT OR REPLACE INTO epochs (group_id, epoch, tag) VALUES (?1, ?2, ?3)")?
            .execute(params![id, integer(epoch), self.beginning()?.as_bytes()])?;
        let last = epoch.saturating_sub(MOST_BEGINNINGS);
        tx.sql()
            .prepare_cached("DELETE FROM epochs WHERE group_id = ?1 AND epoch <= ?2")?
            .execute(params![id, integer(last)])?;
        Ok(())
    }

    /// Notes that something of this epoch came, and so all that the DS took before the epoch began.
    pub(super) fn came(&mut self, tx: &Tx<'_>, epoch: u64) -> Result<()> {
        if record::arrived(tx, &self.id)? >= epoch {
            return Ok(());
        }
        record::set_arrived(tx, &self.id, epoch)?;
        self.forget_past(tx)
    }

    /// The first epoch of which messages open.
    pub(super) fn opens_from(&self, tx: &Tx<'_>) -> Result<u64> {
        let ahead = self.epoch().saturating_sub(record::arrived(tx, &self.id)?);
        let kept = (MAX_PAST_EPOCHS as u64).saturating_add(ahead).min(MOST_PAST_EPOCHS as u64);
        Ok(self.epoch().saturating_sub(kept))
    }

    fn forget_past(&mut self, tx: &Tx<'_>) -> Result<()> {
        let first = self.opens_from(tx)?;
        let kept = usize::try_from(self.epoch().saturating_sub(first)).unwrap_or(MOST_PAST_EPOCHS);
        // None is too old: openmls only counts them where it is told of a time, too.
        let past = PastEpochDeletion::older_than_duration(Duration::MAX).max_past_epochs(kept);
        self.mls
            .delete_past_epoch_secrets(tx, past)
            .map_err(Error::mls("cannot forget the secrets of past epochs"))?;
        removed::forget_past(tx, &self.id, first)
    }
}

/// Forgets by which commits epochs of a group began.
pub(super) fn forget(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    tx.sql().prepare_cached("DELETE FROM epochs WHERE group_id = ?1")?.execute([id.to_mls()])?;
    Ok(())
}

/// The tag that goes with the commit which begins an epoch, and tells it from any other (RFC 9420 §6.1).
fn bytes(tag: &ConfirmationTag) -> Result<Payload> {
    tag.tls_serialize_detached().map(Payload::new).map_err(Error::mls("cannot write a confirmation tag"))
}
