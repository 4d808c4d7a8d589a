//! Handing messages to the DS (DS-2 to DS-5) so that each takes effect once, whatever
//! fails in between: bytes are kept before they are sent, sent again unchanged while the
//! answer is outstanding, and made anew only after the DS said that they came too late.

use postern_api::Request;
use postern_protocol::{
    ds::{GroupId, MessageAccepted},
    problem::ProblemType,
    qs::QueueKind,
};

use crate::{
    error::{Error, Result, is_unanswered},
    group::{self, Change, Content, GroupState},
    session::Session,
    store::{Step, Tx},
};

/// How often something is tried again because others changed the group first.
const ATTEMPTS: u32 = 8;

/// The fate of an outstanding message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    Accepted(MessageAccepted),
    /// A commit that came too late: its reason has to be looked at again.
    Lost,
    Nothing,
}

/// A message ready for the DS.
#[derive(Clone)]
pub struct Submission {
    pub group: GroupId,
    /// The epoch that it was made in.
    pub epoch: u64,
    /// Whether it is a commit; else it is an application message.
    pub is_commit: bool,
    /// The request that hands it in, which is signed with each sending and lacks a token.
    pub request: Request,
}

impl Submission {
    /// False once the queue told its fate.
    fn is_outstanding(&self, tx: &Tx<'_>) -> Result<bool> {
        let outstanding = GroupState::outstanding(tx, &self.group)?;
        Ok(outstanding
            .is_some_and(|found| found.epoch == self.epoch && found.content.is_none() == self.is_commit))
    }
}

impl Session {
    /// Says something in a group.
    pub(crate) async fn send(&self, step: &Step<'_>, id: &GroupId, content: Content) -> Result<()> {
        self.commit(step, id, proposals_of_others).await?;
        self.store.write(|tx| GroupState::load(tx, id)?.stage_content(tx, content).map(drop))?;
        self.settle(step, id).await.map(drop)
    }

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
            let staged = self.store.write(|tx| {
                let mut group = GroupState::load(tx, id)?;
                let change = decide(tx, &group)?;
                change.map(|change| group.stage_commit(tx, &change)).transpose()
            })?;
            if staged.is_none() || matches!(self.settle(step, id).await?, Settled::Accepted(_)) {
                return Ok(());
            }
        }
        Err(Error::Contended(ATTEMPTS))
    }

    /// Proposes to leave; the next commit of another member removes this client. Once that
    /// is said, nothing else is said in the group.
    pub(crate) async fn leave(&self, step: &Step<'_>, id: &GroupId) -> Result<()> {
        for _ in 0..ATTEMPTS {
            self.settle(step, id).await?;
            let (leaf, proposal) = self.store.write(|tx| {
                let mut group = GroupState::load(tx, id)?;
                let proposal = group.stage_leaving(tx)?;
                Ok((group.leaf, proposal))
            })?;
            match self.api.submit_request(Request::submit_message(id, proposal.body, &leaf)).await {
                Err(error) if error.problem() == Some(ProblemType::WrongEpoch) => {
                    self.drain(step, QueueKind::Group).await?;
                }
                Err(error) if error.problem().is_some_and(|kind| !is_unanswered(kind)) => {
                    self.store.write(|tx| GroupState::load(tx, id)?.withdraw_leaving(tx))?;
                    return Err(error);
                }
                answer => return answer.map(drop),
            }
        }
        Err(Error::Contended(ATTEMPTS))
    }

    /// Comes back into a group by external commit (DS-7), for a client that cannot follow
    /// any more. May be repeated when the answer was lost.
    pub(crate) async fn rejoin(&self, _step: &Step<'_>, id: &GroupId) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let (leaf, fetch) = self.store.read(|tx| {
                let group = GroupState::load(tx, id)?;
                let fetch = group.fetch_info()?;
                Ok((group.leaf, fetch))
            })?;
            let current = self.api.fetch_group_info(id, &fetch, &leaf).await?;
            let commit = self.store.write(|tx| GroupState::load(tx, id)?.rejoin(tx, &current))?;
            match self.api.submit_request(Request::submit_message(id, commit.body, &leaf)).await {
                // Somebody committed in between: once more from there.
                Err(error) if error.problem() == Some(ProblemType::WrongEpoch) => {}
                answer => return answer.map(drop),
            }
        }
        Err(Error::Contended(ATTEMPTS))
    }

    /// Sends the outstanding message or change of a group until its fate is known.
    ///
    /// # Errors
    /// After a passing fault it stays outstanding and is sent with the next step.
    pub(crate) async fn settle(&self, step: &Step<'_>, id: &GroupId) -> Result<Settled> {
        let mut settled = Settled::Nothing;
        for _ in 0..ATTEMPTS {
            let Some(submission) = self.outstanding(id)? else {
                return Ok(settled);
            };
            match self.api.submit_request(submission.request.clone()).await {
                Ok(accepted) => {
                    self.accepted(step, &submission).await?;
                    settled = Settled::Accepted(accepted);
                }
                Err(error) if error.problem().is_none_or(is_unanswered) => return Err(error),
                Err(error) => {
                    let too_late = error.problem() == Some(ProblemType::WrongEpoch);
                    let is_kept = too_late && !submission.is_commit;
                    // The message that made it too late, or us a stranger, is in the queue. It may
                    // be what followed our commit, accepted with its answer lost: so nothing is
                    // abandoned before.
                    self.drain(step, QueueKind::Group).await?;
                    self.store.write(|tx| {
                        let mut group = GroupState::load(tx, id)?;
                        if is_kept || !submission.is_outstanding(tx)? {
                            return Ok(());
                        }
                        group.abandon(tx)
                    })?;
                    if !too_late {
                        return Err(error);
                    }
                    settled = Settled::Lost;
                    if is_kept {
                        self.store.write(|tx| group::encrypt_anew(tx, id))?;
                    }
                }
            }
        }
        Err(Error::Contended(ATTEMPTS))
    }

    /// Lets an accepted message take effect. What was accepted before a commit is in the
    /// queue by then, and opens in the commit's old epoch only.
    pub(crate) async fn accepted(&self, step: &Step<'_>, submission: &Submission) -> Result<()> {
        if submission.is_commit {
            self.drain(step, QueueKind::Group).await?;
        }
        self.store.write(|tx| {
            if submission.is_outstanding(tx)? {
                GroupState::load(tx, &submission.group)?.confirm(tx)?;
            }
            Ok(())
        })
    }

    pub(crate) fn outstanding(&self, id: &GroupId) -> Result<Option<Submission>> {
        self.store.read(|tx| {
            let Some(outstanding) = GroupState::outstanding(tx, id)? else { return Ok(None) };
            let group = GroupState::load(tx, id)?;
            Ok(Some(Submission {
                group: id.clone(),
                epoch: outstanding.epoch,
                is_commit: outstanding.content.is_none(),
                request: Request::submit_message(id, outstanding.body, &group.leaf),
            }))
        })
    }
}

/// The commit that has to come before anything is said: of what others proposed.
fn proposals_of_others(_: &Tx<'_>, group: &GroupState) -> Result<Option<Change>> {
    Ok(group.has_pending_proposals().then_some(Change::Update))
}
