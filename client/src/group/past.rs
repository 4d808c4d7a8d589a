//! The secrets of past epochs, by which a message opens that commits overtook (DS-3). The DS takes it for a few epochs after its
//! own, and what the DS took comes in its order: so secrets of [`MAX_PAST_EPOCHS`] are enough. But a commit of this device takes
//! effect with the DS's answer, and from a DS of another domain messages that it took before may come later than that. Until
//! something shows that they came, secrets of more epochs are kept, one for each such commit, [`OWN_COMMITS`] at most. A delivery
//! that was set aside, and that an operator has sent again after days, may come later still: it is told as one without keys.

use std::time::Duration;

use openmls::prelude::PastEpochDeletion;
use postern_protocol::ds::MAX_PAST_EPOCHS;

use super::{record, removed, state::GroupState};
use crate::{
    error::{Error, Result},
    store::Tx,
};

/// Commits of this device, at most, for which secrets of more epochs are kept.
const OWN_COMMITS: usize = 20;
/// Past epochs, at most, of which a group's secrets are kept.
pub(super) const MOST_PAST_EPOCHS: usize = MAX_PAST_EPOCHS + OWN_COMMITS;

impl GroupState {
    /// Notes that a commit of this device took effect. Where the group is at the own homeserver, all that the DS took before was
    /// in the queue, and is processed.
    pub(super) fn own_commit_passed(&mut self, tx: &Tx<'_>) -> Result<()> {
        if self.own_leaf()?.delivery.is_some_and(|delivery| delivery.domain == *self.id.domain()) {
            record::set_arrived(tx, &self.id, self.epoch())?;
        }
        self.forget_past(tx)
    }

    /// Notes that a commit of another member took effect, which came after all that the DS took before it.
    pub(super) fn commit_passed(&mut self, tx: &Tx<'_>) -> Result<()> {
        record::set_arrived(tx, &self.id, self.epoch())?;
        self.forget_past(tx)
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
