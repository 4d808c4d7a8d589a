//! Commits, decided anew as often as somebody else's comes first.

use postern_protocol::ds::GroupId;

use super::{ATTEMPTS, Fate};
use crate::{
    error::{Error, Result},
    group::{Change, GroupState, Kind, strayed},
    session::Session,
    store::{Step, Tx},
};

impl Session {
    /// Commits what `decide` wants in the group's current state, deciding anew whenever
    /// somebody else's commit came first; `None` means there is nothing to do (any more).
    pub(crate) async fn commit(
        &self,
        step: &Step<'_>,
        id: &GroupId,
        decide: impl Fn(&Tx<'_>, &GroupState) -> Result<Option<Change>>,
    ) -> Result<()> {
        for _ in 0..ATTEMPTS {
            self.settle(step, id).await?;
            self.be_current(step, id).await?;
            let staged = self.store.write(|tx| {
                let mut group = GroupState::load(tx, id)?;
                let change = decide(tx, &group)?;
                change.map(|change| group.stage_commit(tx, &change)).transpose()
            })?;
            if staged.is_none() {
                return Ok(());
            }
            let settled = self.settle(step, id).await?;
            match settled.of(Kind::Commit) {
                Some(Fate::Accepted(_)) => return Ok(()),
                Some(Fate::Refused(problem)) if !self.clears_the_way(step, id).await? => {
                    return Err(problem.clone().into());
                }
                _ => {}
            }
        }
        Err(Error::Contended(ATTEMPTS))
    }

    /// After a commit was refused: true if that may be because the DS waits for a proposal that this
    /// device did not have, and it came by now, or coming back has made an end of it.
    async fn clears_the_way(&self, step: &Step<'_>, id: &GroupId) -> Result<bool> {
        let known = |tx: &Tx<'_>| -> Result<(u64, usize)> {
            let group = GroupState::load(tx, id)?;
            Ok((group.epoch(), group.pending_proposals()))
        };
        if self.store.read(|tx| strayed::state(tx, id))? != strayed::State::Doubtful {
            return Ok(false);
        }
        let before = self.store.read(known)?;
        self.come_back(step, id).await?;
        Ok(self.store.read(known)? != before)
    }
}

/// The commit that has to come before anything is said: of what others proposed.
pub(super) fn proposals_of_others(_: &Tx<'_>, group: &GroupState) -> Result<Option<Change>> {
    Ok(group.has_pending_proposals().then_some(Change::Update))
}
