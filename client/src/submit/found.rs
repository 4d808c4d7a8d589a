//! Founding a group (DS-1).

use postern_protocol::{
    ds::{GroupId, MessageAccepted},
    problem::ProblemType,
};

use super::{Fate, Submission};
use crate::{
    error::Result,
    group::{self, GroupState, Kind},
    mailbox,
    session::Session,
    store::Step,
};

impl Session {
    /// Founds a group, or goes on with founding one of this title where no answer came before.
    pub(crate) async fn found(&self, step: &Step<'_>, title: &str) -> Result<GroupId> {
        let id = match self.store.read(|tx| group::founding(tx, title))? {
            Some(id) => id,
            None => self.prepare_group(title, None).await?,
        };
        self.finish_founding(step, &id).await?;
        Ok(id)
    }

    /// Makes a group with an id that the DS reserved, and keeps its founding; in place of another
    /// group, if one is named.
    pub(crate) async fn prepare_group(&self, title: &str, in_place_of: Option<&GroupId>) -> Result<GroupId> {
        let delivery = self.new_address().await?;
        let reserved = match self.api.reserve_group_id().await {
            Ok(reserved) => reserved,
            Err(error) => {
                // It leads to no group.
                self.store.write(|tx| mailbox::revoke_later(tx, &delivery.address))?;
                return Err(error);
            }
        };
        self.store.write(|tx| {
            let founded = GroupState::create(tx, &reserved, title, &delivery)?;
            if let Some(id) = in_place_of {
                group::set_successor(tx, id, &founded.id)?;
            }
            Ok(founded.id)
        })
    }

    /// Has the DS make a group that was prepared.
    pub(crate) async fn finish_founding(&self, step: &Step<'_>, id: &GroupId) -> Result<()> {
        match self.settle(step, id).await?.of(Kind::Creation) {
            Some(Fate::Refused(problem)) => Err(problem.clone().into()),
            _ => Ok(()),
        }
    }

    /// Hands in the founding of a group. That its id is taken, though it was reserved for it, says that
    /// the group was made and the answer lost; or that the reservation is over. The group itself tells.
    pub(super) async fn submit_creation(&self, submission: &Submission) -> Result<MessageAccepted> {
        let Err(error) = self.api.paid(submission.request.clone()).await else {
            return Ok(MessageAccepted::in_epoch(0));
        };
        if error.problem() != Some(ProblemType::GroupExists) {
            return Err(error);
        }
        match self.fetch_current(&submission.group).await {
            Ok(_) => Ok(MessageAccepted::in_epoch(0)),
            Err(missing) if missing.refusal().is_some() => Err(error),
            Err(open) => Err(open),
        }
    }
}
