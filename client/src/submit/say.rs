//! Sending what this device says in a group, in the order in which it was said.

use postern_protocol::ds::GroupId;

use super::{ATTEMPTS, Fate, commit::proposals_of_others};
use crate::{
    error::{Error, Result},
    group::{GroupState, Kind},
    session::Session,
    store::Step,
};

impl Session {
    /// Sends what this device said in a group, in order, and leaves the group if it is to. Returns the
    /// refusal of the message numbered `own`, if the DS refused that one; others are told as events.
    ///
    /// # Errors
    /// Whatever is not accepted yet is kept.
    pub(crate) async fn deliver(&self, step: &Step<'_>, id: &GroupId, own: Option<u64>) -> Result<()> {
        let sent = self.send_outbox(step, id).await;
        let refusal = self.store.write(|tx| GroupState::tell_refused(tx, id, own))?;
        sent?;
        match refusal {
            Some(problem) => Err(problem.into()),
            None => Ok(()),
        }
    }

    pub(super) async fn send_outbox(&self, step: &Step<'_>, id: &GroupId) -> Result<()> {
        let mut late = 0;
        while late < ATTEMPTS {
            self.settle(step, id).await?;
            if self.store.read(|tx| GroupState::unsent(tx, id))? == 0 {
                return Ok(());
            }
            self.commit(step, id, proposals_of_others).await?;
            // Another process may have been faster, or the last commit removed this device.
            if !self.store.write(|tx| GroupState::load(tx, id)?.stage_message(tx))? {
                return Ok(());
            }
            match self.settle(step, id).await?.of(Kind::Message) {
                Some(Fate::Late) => late += 1,
                _ => late = 0,
            }
        }
        Err(Error::Contended(ATTEMPTS))
    }
}
