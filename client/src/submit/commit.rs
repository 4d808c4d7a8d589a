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
                let (change, known) = (decide(tx, &group)?, extent(&group));
                change.map(|change| group.stage_commit(tx, &change).map(|()| known)).transpose()
            })?;
            let Some(known) = staged else { return Ok(()) };
            let settled = self.settle(step, id).await?;
            match settled.of(Kind::Commit) {
                Some(Fate::Accepted(_)) => return Ok(()),
                Some(Fate::Refused(problem)) if !self.clears_the_way(step, id, known).await? => {
                    return Err(problem.clone().into());
                }
                _ => {}
            }
        }
        Err(Error::Contended(ATTEMPTS))
    }

    /// After a commit was refused: true if that may be because the DS waits for a proposal that this
    /// device did not have when it made the commit, with the group as far as it was `known`; and the proposal came by now,
    /// or coming back has made an end of it.
    ///
    /// # Errors
    /// [`Error::Behind`] where the proposal is on its way from another homeserver, [`Error::CannotFollow`] where this device
    /// comes back later: it came back lately. Neither refuses what the commit was to do.
    async fn clears_the_way(&self, step: &Step<'_>, id: &GroupId, known: (u64, usize)) -> Result<bool> {
        let state = self.store.read(|tx| strayed::state(tx, id))?;
        if !matches!(state, strayed::State::Doubtful | strayed::State::Lost) {
            return Ok(false);
        }
        self.come_back(step, id).await?;
        let (now, state) =
            self.store.read(|tx| Ok((extent(&GroupState::load(tx, id)?), strayed::state(tx, id)?)))?;
        match (now == known, state) {
            (true, strayed::State::Behind) => Err(Error::Behind),
            (true, strayed::State::Strayed | strayed::State::ByHand) => Err(Error::CannotFollow),
            (is_as_known, _) => Ok(!is_as_known),
        }
    }
}

/// The epoch of a group and the number of its proposals that wait, as far as this device knows.
fn extent(group: &GroupState) -> (u64, usize) {
    (group.epoch(), group.pending_proposals())
}

/// The commit that has to come before anything is said: of what others proposed.
pub(super) fn proposals_of_others(_: &Tx<'_>, group: &GroupState) -> Result<Option<Change>> {
    Ok(group.has_pending_proposals().then_some(Change::Update))
}
