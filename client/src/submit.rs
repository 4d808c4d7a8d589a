//! Handing requests to the DS (DS-1 to DS-7) so that each takes effect once, whatever fails in
//! between: bytes are kept before they are sent, sent again unchanged while the answer is outstanding,
//! and made anew only after the DS said that they came too late. An answer that was lost is no refusal.

use postern_api::Request;
use postern_protocol::{
    ds::{CurrentGroup, GroupId, MessageAccepted},
    mls::DeliveryAddress,
    problem::{Problem, ProblemType},
    qs::QueueKind,
};

use crate::{
    error::{Error, Result},
    group::{self, Change, GroupState, Kind, strayed},
    mailbox::{self, Queue, add_addresses, fresh_address},
    session::Session,
    store::{Step, Tx},
};

/// How often something is tried again because others changed the group first.
const ATTEMPTS: u32 = 8;

/// The fate of an outstanding request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    Accepted(MessageAccepted),
    /// It came too late, and its reason has to be looked at again; or the queue told what became of it.
    Late,
    Refused(Problem),
    /// This device is not in the group any more.
    Over,
}

/// The fates of a group's outstanding requests, in the order in which they showed.
#[derive(Debug, Default)]
pub(crate) struct Fates(Vec<(Kind, Fate)>);

/// A request ready for the DS.
#[derive(Clone)]
pub struct Submission {
    pub group: GroupId,
    /// The epoch that it was made in.
    pub epoch: u64,
    /// Whether it is a commit; else it is most often an application message.
    pub is_commit: bool,
    pub(crate) kind: Kind,
    /// The request that hands it in, which is signed with each sending and lacks a token.
    pub request: Request,
}

impl Fates {
    /// The fate of the last request of a kind.
    fn of(&self, kind: Kind) -> Option<&Fate> {
        self.0.iter().rev().find(|(found, _)| *found == kind).map(|(_, fate)| fate)
    }
}

impl Submission {
    /// False once the queue told its fate.
    fn is_outstanding(&self, tx: &Tx<'_>) -> Result<bool> {
        let outstanding = GroupState::outstanding(tx, &self.group)?;
        Ok(outstanding.is_some_and(|found| found.epoch == self.epoch && found.kind == self.kind))
    }
}

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
        let address = fresh_address()?;
        let queue = self.store.read(|tx| Queue::load(tx, QueueKind::Group))?;
        let reserved = async {
            add_addresses(&self.api, &queue, vec![address], Vec::new()).await?;
            self.api.reserve_group_id().await
        };
        let reserved = match reserved.await {
            Ok(reserved) => reserved,
            Err(error) => {
                // It may exist, and leads to no group.
                self.store.write(|tx| mailbox::revoke_later(tx, &address))?;
                return Err(error);
            }
        };
        let delivery = DeliveryAddress { domain: self.account.user.domain().clone(), address };
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

    async fn send_outbox(&self, step: &Step<'_>, id: &GroupId) -> Result<()> {
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
    /// device does not have, and coming back has made an end of it.
    async fn clears_the_way(&self, step: &Step<'_>, id: &GroupId) -> Result<bool> {
        let epoch = |tx: &Tx<'_>| -> Result<u64> { Ok(GroupState::load(tx, id)?.epoch()) };
        if self.store.read(|tx| strayed::state(tx, id))? != strayed::State::Doubtful {
            return Ok(false);
        }
        let before = self.store.read(epoch)?;
        self.come_back(step, id).await?;
        Ok(self.store.read(epoch)? != before)
    }

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
            self.be_current(step, id).await?;
            self.store.write(|tx| {
                let mut group = GroupState::load(tx, id)?;
                if group.has_to_leave(tx)? { group.stage_leaving(tx) } else { Ok(()) }
            })?;
        }
        Err(Error::Contended(ATTEMPTS))
    }

    /// Makes sure that this device follows the group; where it does not, tries to come back unless it
    /// did so lately.
    ///
    /// # Errors
    /// [`Error::CannotFollow`].
    async fn be_current(&self, step: &Step<'_>, id: &GroupId) -> Result<()> {
        let (state, may_try) =
            self.store.read(|tx| Ok((strayed::state(tx, id)?, strayed::may_try(tx, id)?)))?;
        match state {
            strayed::State::Follows | strayed::State::Doubtful => Ok(()),
            strayed::State::Strayed if may_try => self.come_back(step, id).await.map_err(|error| {
                // It was no refusal of what the caller wants.
                if error.is_final() { Error::CannotFollow } else { error }
            }),
            strayed::State::Strayed | strayed::State::ByHand => Err(Error::CannotFollow),
        }
    }

    /// Looks whether this device still follows a group, and comes back if not.
    ///
    /// # Errors
    /// Where it is not known for good that it cannot come back, the next step tries again; else a later
    /// one does.
    pub(crate) async fn come_back(&self, step: &Step<'_>, id: &GroupId) -> Result<()> {
        let done = match self.store.read(|tx| strayed::state(tx, id))? {
            strayed::State::Doubtful => self.look(step, id).await,
            _ => self.rejoin(step, id).await,
        };
        if let Err(error) = &done
            && error.is_final()
        {
            self.store.write(|tx| {
                let members = match GroupState::load(tx, id) {
                    Err(Error::NotMember) => return Ok(()),
                    group => group?.size(),
                };
                strayed::failed(tx, id, members, error, &self.options)
            })?;
        }
        done
    }

    /// Compares a group with what the DS has of it: this device cannot follow where commits are
    /// missing, and cannot commit where the DS waits for a proposal that this device does not have.
    async fn look(&self, step: &Step<'_>, id: &GroupId) -> Result<()> {
        let current = self.fetch_current(id).await?;
        let epoch = GroupState::epoch_of(&current)?;
        // All that led there is in the queue, unless it was lost.
        self.drain(step, QueueKind::Group).await?;
        let follows = self.store.write(|tx| {
            let group = match GroupState::load(tx, id) {
                Err(Error::NotMember) => return Ok(true),
                group => group?,
            };
            let follows = group.epoch() > epoch
                || group.epoch() == epoch && group.pending_proposals() >= current.proposals.len();
            if follows {
                strayed::clear(tx, id)?;
            } else {
                let state = (strayed::State::Strayed, group.size());
                strayed::note(tx, id, state, "messages of the group were lost", &self.options)?;
            }
            Ok(follows)
        })?;
        let may_try = self.store.read(|tx| strayed::may_try(tx, id))?;
        if follows || !may_try { Ok(()) } else { self.rejoin(step, id).await }
    }

    /// Fetches a group as the DS has it.
    pub(crate) async fn fetch_current(&self, id: &GroupId) -> Result<CurrentGroup> {
        let (leaf, fetch) = self.store.read(|tx| {
            let group = GroupState::load(tx, id)?;
            let fetch = group.fetch_info()?;
            Ok((group.leaf, fetch))
        })?;
        self.api.fetch_group_info(id, &fetch, &leaf).await
    }

    /// Comes back into a group by external commit (DS-7), for a client that cannot follow any more.
    pub(crate) async fn rejoin(&self, step: &Step<'_>, id: &GroupId) -> Result<()> {
        // Messages that can still be read are read now: afterwards none of them can be.
        self.drain(step, QueueKind::Group).await?;
        for _ in 0..ATTEMPTS {
            // The answer to an earlier one may have been lost.
            if self.store.read(|tx| GroupState::awaits(tx, id, Kind::Rejoin))? {
                match self.settle(step, id).await?.of(Kind::Rejoin) {
                    Some(Fate::Accepted(_)) => return Ok(()),
                    Some(Fate::Refused(problem)) => return Err(problem.clone().into()),
                    Some(Fate::Over) => return Err(Error::NotMember),
                    // Somebody committed in between: once more from there.
                    Some(Fate::Late) | None => {}
                }
                if self.store.read(|tx| strayed::state(tx, id))? == strayed::State::Follows {
                    return Ok(());
                }
            }
            let current = self.fetch_current(id).await?;
            self.store.write(|tx| GroupState::load(tx, id)?.rejoin(tx, &current))?;
        }
        Err(Error::Contended(ATTEMPTS))
    }

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
            _ => self.api.submit_request(submission.request.clone()).await,
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
                if kind != Kind::Rejoin && problem.epoch.is_some_and(|epoch| epoch > group.epoch()) {
                    let state = (strayed::State::Strayed, group.size());
                    strayed::note(tx, id, state, "a change of the group did not arrive here", &self.options)?;
                }
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

    /// Hands in the founding of a group. That its id is taken, though it was reserved for it, says that
    /// the group was made and the answer lost; or that the reservation is over. The group itself tells.
    async fn submit_creation(&self, submission: &Submission) -> Result<MessageAccepted> {
        let Err(error) = self.api.paid(submission.request.clone()).await else {
            return Ok(MessageAccepted { epoch: 0, undelivered: 0 });
        };
        if error.problem() != Some(ProblemType::GroupExists) {
            return Err(error);
        }
        match self.fetch_current(&submission.group).await {
            Ok(_) => Ok(MessageAccepted { epoch: 0, undelivered: 0 }),
            Err(missing) if missing.refusal().is_some() => Err(error),
            Err(open) => Err(open),
        }
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
        })
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

/// The commit that has to come before anything is said: of what others proposed.
fn proposals_of_others(_: &Tx<'_>, group: &GroupState) -> Result<Option<Change>> {
    Ok(group.has_pending_proposals().then_some(Change::Update))
}
