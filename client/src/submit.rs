//! Handing requests to the DS (DS-1 to DS-7) so that each takes effect once, whatever fails in
//! between: bytes are kept before they are sent, sent again unchanged while the answer is outstanding,
//! and made anew only after the DS said that they came too late. An answer that was lost is no refusal.

use postern_api::Request;
use postern_protocol::{
    Address,
    ds::{CurrentGroup, DeleteGroup, GroupId, MessageAccepted},
    mls::DeliveryAddress,
    problem::{Problem, ProblemType},
    qs::QueueKind,
};

use crate::{
    error::{Error, Result, goes_on, or_repeated},
    event::Event,
    group::{self, Change, Differences, GroupState, Kind, strayed},
    identity,
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
        let address = self.new_address().await?;
        let reserved = match self.api.reserve_group_id().await {
            Ok(reserved) => reserved,
            Err(error) => {
                // It leads to no group.
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
        // The DS has the cards of leaves of which no member told this device.
        match self.fetch_current(id).await {
            Ok(current) => self.store.write(|tx| GroupState::load(tx, id)?.learn(tx, &current.attributes))?,
            error => goes_on(error)?,
        }
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
            Ok(group.places_apart(tx)?.len())
        })?;
        self.leave(step, id).await?;
        Ok(staying)
    }

    /// Makes sure that this device follows the group; where it does not, tries to come back unless it
    /// did so lately.
    ///
    /// # Errors
    /// [`Error::CannotFollow`].
    async fn be_current(&self, step: &Step<'_>, id: &GroupId) -> Result<()> {
        if self.store.read(|tx| group::is_entering(tx, id))? {
            self.enter(step, id).await?;
        }
        let state = |tx: &Tx<'_>| {
            let is_to_go = GroupState::load(tx, id)?.is_to_go();
            Ok((strayed::state(tx, id)?, strayed::may_try(tx, id)?, is_to_go))
        };
        let tries = match self.store.read(state)? {
            (strayed::State::Follows, ..) | (strayed::State::Doubtful, _, false) => return Ok(()),
            (strayed::State::Doubtful, ..) => true,
            (strayed::State::Strayed, may_try, _) => may_try,
            (strayed::State::ByHand, ..) => false,
        };
        if tries {
            self.come_back(step, id).await.map_err(|error| {
                // It was no refusal of what the caller wants.
                if error.is_final() { Error::CannotFollow } else { error }
            })?;
        }
        match self.store.read(|tx| strayed::state(tx, id))? {
            strayed::State::Follows | strayed::State::Doubtful => Ok(()),
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
            _ => self.rejoin(step, id, &Differences::default()).await,
        };
        if let Err(Error::Strangers(differences)) = &done {
            // Not silently: a person decides whether to take the group as it is now.
            return self.store.write(|tx| {
                strayed::leave_to_person(tx, id)?;
                Event::Strangers {
                    group: id.clone(),
                    strangers: differences.strangers.clone(),
                    admins: differences.admins.clone(),
                    removed: differences.removed.clone(),
                }
                .record(tx)
            });
        }
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
            let reason = match follows {
                true if !group.is_to_go() => {
                    strayed::clear(tx, id)?;
                    return Ok(true);
                }
                true => "the server wants to remove this device, which is still in use",
                false => "messages of the group were lost",
            };
            strayed::note(tx, id, (strayed::State::Strayed, group.size()), reason, &self.options)?;
            Ok(false)
        })?;
        let may_try = self.store.read(|tx| strayed::may_try(tx, id))?;
        if follows || !may_try { Ok(()) } else { self.rejoin(step, id, &Differences::default()).await }
    }

    /// Fetches a group as the DS has it: with the key of this device's leaf, or if that is in it no more,
    /// with the user's.
    pub(crate) async fn fetch_current(&self, id: &GroupId) -> Result<CurrentGroup> {
        let (leaf, user, fetch) = self.store.read(|tx| {
            let group = GroupState::load(tx, id)?;
            let (user, fetch) = (group.private_user_key(tx)?, group.fetch_info()?);
            Ok((group.leaf, user, fetch))
        })?;
        match (self.api.fetch_group_info(id, &fetch, &leaf).await, user) {
            (Err(error), Some(user)) if error.problem() == Some(ProblemType::NotAllowed) => {
                self.api.fetch_group_info(id, &fetch, &user).await
            }
            (answer, _) => answer,
        }
    }

    /// Comes back into a group by external commit (DS-7), for a client that cannot follow any more.
    ///
    /// # Errors
    /// [`Error::Strangers`] where the group differs by more than a person accepted.
    pub(crate) async fn rejoin(&self, step: &Step<'_>, id: &GroupId, accepted: &Differences) -> Result<()> {
        // Messages that can still be read are read now: afterwards none of them can be.
        self.drain(step, QueueKind::Group).await?;
        // The address of before may be gone, or known to lead to a device that is to be removed.
        let address = self.new_address().await?;
        let done = self.rejoin_at(step, id, accepted, address).await;
        self.store.write(|tx| match GroupState::load(tx, id) {
            Ok(group) if group.delivery_address() == Some(address) => Ok(()),
            _ => mailbox::revoke_later(tx, &address),
        })?;
        done
    }

    async fn rejoin_at(
        &self,
        step: &Step<'_>,
        id: &GroupId,
        accepted: &Differences,
        address: Address,
    ) -> Result<()> {
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
            let unknown =
                self.store.read(|tx| GroupState::load(tx, id)?.unconfirmed_strangers(tx, &current))?;
            for user in unknown {
                goes_on(identity::look_up(&self.api, &self.store, &user).await.map(drop))?;
            }
            self.store.write(|tx| GroupState::load(tx, id)?.rejoin(tx, &current, accepted, address))?;
        }
        Err(Error::Contended(ATTEMPTS))
    }

    /// Comes into a group that another device of this user handed over (DS-7).
    ///
    /// # Errors
    /// Refusals are kept for a later attempt.
    pub(crate) async fn enter(&self, step: &Step<'_>, id: &GroupId) -> Result<()> {
        if self.store.read(|tx| strayed::state(tx, id))? != strayed::State::Follows {
            return Ok(());
        }
        let Some(entry) = self.store.write(|tx| group::entry(tx, id))? else { return Ok(()) };
        let queue = self.store.read(|tx| Queue::load(tx, QueueKind::Group))?;
        add_addresses(&self.api, &queue, vec![entry.address], Vec::new()).await?;
        // Where it is in already, in a place of its own, it leaves that with the same commit. What can still be
        // read there is read now.
        self.settle(step, id).await?;
        self.drain(step, QueueKind::Group).await?;
        let moves = |tx: &Tx<'_>| match GroupState::load(tx, id) {
            Ok(mut group) if !group.is_leaving() && !group::is_entering(tx, id)? => {
                group.stage_leaving(tx).map(|()| true)
            }
            Ok(_) | Err(Error::NotMember | Error::UnknownGroup(_)) => Ok(false),
            Err(error) => Err(error),
        };
        if self.store.write(moves)?
            && let Some(Fate::Refused(problem)) = self.settle(step, id).await?.of(Kind::Leave)
        {
            self.store.write(|tx| group::drop_entry(tx, id))?;
            return Err(problem.clone().into());
        }
        for _ in 0..ATTEMPTS {
            if self.store.read(|tx| GroupState::awaits(tx, id, Kind::Rejoin))? {
                match self.settle(step, id).await?.of(Kind::Rejoin) {
                    Some(Fate::Accepted(_)) => return Ok(()),
                    Some(Fate::Refused(problem)) => return Err(problem.clone().into()),
                    Some(Fate::Late | Fate::Over) | None => {}
                }
                if !self.store.read(|tx| group::is_entering(tx, id))? {
                    return Ok(());
                }
            }
            let (fetch, user) = entry.handover.fetch_info();
            let current = match self.api.fetch_group_info(id, &fetch, &user).await {
                // The group is gone, or this user is in it no more, or with another key: another device
                // says if there is a way.
                Err(error) if error.refusal().is_some() => {
                    self.store.write(|tx| group::entry_failed(tx, id))?;
                    return Err(error);
                }
                current => current?,
            };
            self.store.write(|tx| GroupState::enter(tx, &entry, &current))?;
        }
        Err(Error::Contended(ATTEMPTS))
    }

    /// Has messages of a group go to another address.
    pub(crate) async fn renew_address(&self, step: &Step<'_>, id: &GroupId) -> Result<()> {
        let delivery = DeliveryAddress { domain: id.domain().clone(), address: self.new_address().await? };
        let done = self
            .commit(step, id, |_, group| {
                let is_new = group.delivery_address() != Some(delivery.address);
                Ok(is_new.then(|| Change::Address(delivery.clone())))
            })
            .await;
        if done.as_ref().is_err_and(Error::is_final) {
            self.store.write(|tx| mailbox::revoke_later(tx, &delivery.address))?;
        }
        done
    }

    /// Makes an address that leads to this device's group queue.
    async fn new_address(&self) -> Result<Address> {
        let address = fresh_address()?;
        let queue = self.store.read(|tx| Queue::load(tx, QueueKind::Group))?;
        if let Err(error) = add_addresses(&self.api, &queue, vec![address], Vec::new()).await {
            // It may exist, and leads to no group.
            self.store.write(|tx| mailbox::revoke_later(tx, &address))?;
            return Err(error);
        }
        Ok(address)
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
        or_repeated(self.api.delete_group(id, &deletion, &leaf).await, ProblemType::NotFound)?;
        self.store.write(|tx| GroupState::load(tx, id)?.quit(tx))
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
