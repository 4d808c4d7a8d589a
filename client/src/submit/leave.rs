//! Leaving a group, and ending it for everyone.

use postern_protocol::{
    ds::{DeleteGroup, GroupId},
    problem::ProblemType,
};

use super::{ATTEMPTS, Fate, commit::proposals_of_others};
use crate::{
    error::{Error, Result, or_repeated},
    group::{Change, GroupState, Kind},
    session::Session,
    store::{Step, Tx},
};

impl Session {
    /// Proposes to leave; the next commit of another member removes this client. Once that
    /// is said, nothing else is said in the group. Where the proposal lapsed, it is made anew.
    pub(crate) async fn leave(&self, step: &Step<'_>, id: &GroupId) -> Result<()> {
        for _ in 0..ATTEMPTS {
            match self.settle(step, id).await?.of(Kind::Leave) {
                Some(Fate::Accepted(_) | Fate::Over) => return Ok(()),
                Some(Fate::Refused(problem)) => return Err(problem.clone().into()),
                _ => {}
            }
            let over = |tx: &Tx<'_>| match GroupState::load(tx, id) {
                Err(Error::NotMember) => Ok(true),
                group => Ok(!group?.has_to_leave(tx)?),
            };
            if self.store.read(over)? {
                return Ok(());
            }
            self.send_outbox(step, id).await?;
            // The whole user leaves: first its other devices, by this one.
            self.commit(step, id, |_, group| Ok(group.without_own_devices())).await?;
            self.store.write(|tx| {
                let mut group = GroupState::load(tx, id)?;
                if group.has_to_leave(tx)? { group.stage_leaving(tx) } else { Ok(()) }
            })?;
        }
        Err(Error::Contended(ATTEMPTS))
    }

    /// Takes this user out of a group as far as this device can, because its account ends: a group in which nobody else
    /// is left is deleted, and a last admin names another. Returns how many of the user's devices stay in: those that
    /// were added as users of their own, where this one may not remove them.
    pub(crate) async fn leave_for_good(&self, step: &Step<'_>, id: &GroupId) -> Result<usize> {
        self.learn_cards(id).await?;
        self.commit(step, id, proposals_of_others).await?;
        self.commit(step, id, |tx, group| group.without_places_apart(tx)).await?;
        if self.store.read(|tx| Ok(GroupState::load(tx, id)?.is_alone()))? {
            self.delete_group(step, id).await?;
            return Ok(0);
        }
        self.commit(step, id, |tx, group| group.succession(tx)).await?;
        let staying = self.store.write(|tx| {
            let group = GroupState::load(tx, id)?;
            group.want_to_leave(tx)?;
            group.devices_apart(tx)
        })?;
        self.leave(step, id).await?;
        Ok(staying)
    }

    /// Ends a group for everyone (DS-11): removes all others, who learn of it, and then the group.
    pub(crate) async fn delete_group(&self, step: &Step<'_>, id: &GroupId) -> Result<()> {
        self.commit(step, id, |_, group| {
            let own = group.leaf.public_key();
            if !group.is_admin(&own) {
                return Err(Error::NotAdmin);
            }
            let others: Vec<_> = group.leaf_keys().filter(|leaf_key| *leaf_key != own).collect();
            Ok((!others.is_empty()).then_some(Change::Remove(others)))
        })
        .await?;
        let (leaf, deletion) = self.store.read(|tx| {
            let group = GroupState::load(tx, id)?;
            let deletion = DeleteGroup { state_key: group.fetch_info()?.state_key };
            Ok((group.leaf, deletion))
        })?;
        or_repeated(self.ds(id)?.delete_group(id, &deletion, &leaf).await, ProblemType::NotFound)?;
        self.store.write(|tx| GroupState::load(tx, id)?.quit(tx))
    }
}
