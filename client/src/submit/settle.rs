//! Sending a group's outstanding requests, and letting their fates take effect.

use postern_api::Request;
use postern_protocol::{
    ds::{GroupId, MessageAccepted},
    problem::ProblemType,
    qs::QueueKind,
};

use super::{ATTEMPTS, Fate, Fates, Submission};
use crate::{
    elsewhere,
    error::{Error, Result},
    group::{GroupState, Kind, left_place, strayed},
    session::Session,
    store::{Step, Tx},
};

impl Submission {
    /// False once the queue told its fate.
    fn is_outstanding(&self, tx: &Tx<'_>) -> Result<bool> {
        let outstanding = GroupState::outstanding(tx, &self.group)?;
        Ok(outstanding.is_some_and(|found| found.epoch == self.epoch && found.kind == self.kind))
    }
}

impl Session {
    /// Sends a group's outstanding requests, one after the other, until their fates are known.
    ///
    /// # Errors
    /// Where an answer is missing, the request stays outstanding and is sent with the next step.
    pub(crate) async fn settle(&self, step: &Step<'_>, id: &GroupId) -> Result<Fates> {
        let mut fates = Fates::default();
        for _ in 0..ATTEMPTS {
            let Some(submission) = self.outstanding(id)? else {
                return Ok(fates);
            };
            let fate = self.hand_in(step, &submission).await?;
            fates.0.push((submission.kind, fate));
        }
        Err(Error::Contended(ATTEMPTS))
    }

    /// Sends an outstanding request, and lets its fate take effect.
    async fn hand_in(&self, step: &Step<'_>, submission: &Submission) -> Result<Fate> {
        let (id, kind) = (&submission.group, submission.kind);
        let answer = match kind {
            Kind::Creation => self.submit_creation(submission).await,
            _ => {
                let ds = self.ds(id)?;
                elsewhere::noted(&ds, ds.submit_request(submission.request.clone()).await)
            }
        };
        let error = match answer {
            Ok(accepted) => {
                self.accepted(step, submission, &accepted).await?;
                return Ok(Fate::Accepted(accepted));
            }
            Err(error) => error,
        };
        let Some(problem) = error.refusal().cloned() else { return Err(error) };
        // The message that made it too late, or us a stranger, is in the queue. It may be what
        // followed our commit, accepted with its answer lost: so nothing is abandoned before.
        self.drain(step, QueueKind::Group).await?;
        let current = problem.epoch;
        let is_late = problem.kind == ProblemType::WrongEpoch && kind != Kind::Rejoin;
        // The DS says that this device was removed. What it sent may have been accepted before. An external commit is not
        // allowed for other reasons, too, and waiting mends none of them.
        let is_out = problem.kind == ProblemType::NotAllowed && kind != Kind::Rejoin;
        let is_behind = |group: &GroupState| is_out || current.is_some_and(|epoch| epoch > group.epoch());
        if (is_late || is_out)
            && self.misses_what_is_on_the_way(step, id, is_behind).await?
            && self.store.write(|tx| strayed::wait(tx, id))?
        {
            return Err(Error::Behind);
        }
        self.store.write(|tx| {
            let mut group = match GroupState::load(tx, id) {
                Err(Error::NotMember) => return Ok(Fate::Over),
                group => group?,
            };
            if !submission.is_outstanding(tx)? {
                return Ok(Fate::Late);
            }
            if problem.kind == ProblemType::WrongEpoch {
                group.too_late(tx, kind)?;
                let found = problem.epoch.filter(|_| kind != Kind::Rejoin);
                let reason = match found {
                    Some(epoch) if epoch > group.epoch() => "a change of the group did not arrive here",
                    Some(epoch) if epoch < submission.epoch => {
                        "the server was restored to an earlier state of the group"
                    }
                    _ => return Ok(Fate::Late),
                };
                let state = (strayed::State::Strayed, group.size());
                strayed::note(tx, id, state, reason, &self.options)?;
                return Ok(Fate::Late);
            }
            if problem.kind == ProblemType::NotFound && strayed::state(tx, id)? != strayed::State::Follows {
                // The DS was restored to a state without the group: what is to be said waits.
                group.too_late(tx, kind)?;
                let state = (strayed::State::Strayed, group.size());
                strayed::note(
                    tx,
                    id,
                    state,
                    "the server does not know this state of the group",
                    &self.options,
                )?;
                return Ok(Fate::Late);
            }
            if kind == Kind::Commit
                && matches!(problem.kind, ProblemType::InvalidMls | ProblemType::PolicyViolation)
            {
                // The DS may wait for a proposal that did not arrive here.
                strayed::doubt(tx, id)?;
            }
            group.refused(tx, kind, &problem)?;
            Ok(Fate::Refused(problem))
        })
    }

    /// Lets an accepted request take effect. What was accepted before a commit is in the
    /// queue by then, and opens in the commit's old epoch only.
    pub(crate) async fn accepted(
        &self,
        step: &Step<'_>,
        submission: &Submission,
        accepted: &MessageAccepted,
    ) -> Result<()> {
        if submission.kind == Kind::Commit {
            self.drain(step, QueueKind::Group).await?;
        }
        self.store.write(|tx| {
            if submission.is_outstanding(tx)? {
                GroupState::load(tx, &submission.group)?.confirm(tx, submission.kind, accepted)?;
            }
            Ok(())
        })?;
        let id = &submission.group;
        // Messages from another homeserver may be on their way: there the next commit makes an end of it.
        let is_here = *id.domain() == self.api.origin;
        if submission.kind == Kind::Rejoin && is_here && self.store.read(|tx| left_place::is_kept(tx, id))? {
            self.drain(step, QueueKind::Group).await?;
            self.store.write(|tx| left_place::forget(tx, id))?;
        }
        Ok(())
    }

    pub(crate) fn outstanding(&self, id: &GroupId) -> Result<Option<Submission>> {
        self.store.read(|tx| {
            let Some(outstanding) = GroupState::outstanding(tx, id)? else { return Ok(None) };
            let group = GroupState::load(tx, id)?;
            let request = match outstanding.kind {
                Kind::Creation => Request::create_group(id, outstanding.body, &group.leaf),
                _ => Request::submit_message(id, outstanding.body, &group.leaf),
            };
            Ok(Some(Submission {
                group: id.clone(),
                epoch: outstanding.epoch,
                is_commit: outstanding.kind == Kind::Commit,
                kind: outstanding.kind,
                request,
            }))
        })
    }
}
