//! Leaving a group, and the end of this client's part in it.

use openmls::prelude::{Proposal, QueuedProposal, Sender};
use openmls_traits::OpenMlsProvider as _;
use postern_protocol::{PublicKey, ds::GroupId, encoding::Encoding};

use super::{
    Change, commit, evict, handover, left_place, members, onlooker, outbox, outcasts,
    outstanding::{self, Kind, Outstanding},
    past, places, record, removed, rules,
    state::GroupState,
    strayed,
};
use crate::{
    error::{Error, Result},
    identity, invitations, key_packages, leaf, mailbox,
    mls::{self, LeafSigner},
    store::Tx,
};

impl GroupState {
    /// Notes that this device wants to leave. It wants to until it is out, or the DS refuses: a
    /// proposal that lapsed with an epoch is made anew.
    pub(crate) fn want_to_leave(&self, tx: &Tx<'_>) -> Result<()> {
        record::set_leaving(tx, &self.id, true)
    }

    /// Whether this device wants to leave and has not proposed it in the present epoch.
    pub(crate) fn has_to_leave(&self, tx: &Tx<'_>) -> Result<bool> {
        Ok(record::is_leaving(tx, &self.id)? && !self.is_leaving())
    }

    /// The change that takes this user's other devices out of the group before this one leaves. `None` if
    /// there are none.
    pub(crate) fn without_own_devices(&self) -> Option<Change> {
        let own = self.leaf.public_key();
        let mut others = self.of_same_users(&[own]);
        others.retain(|leaf_key| *leaf_key != own);
        (!others.is_empty()).then_some(Change::Remove(others))
    }

    /// The change that takes devices of this user out of the group that were added as users of their own. `None` if
    /// there are none, or this device may not.
    pub(crate) fn without_places_apart(&self, tx: &Tx<'_>) -> Result<Option<Change>> {
        let leaves = self.places_apart(tx)?;
        let may = !leaves.is_empty() && self.is_admin(&self.leaf.public_key());
        Ok(may.then_some(Change::Remove(leaves)))
    }

    /// The leaves of this user's devices that were added as users of their own.
    pub(crate) fn places_apart(&self, tx: &Tx<'_>) -> Result<Vec<PublicKey>> {
        evict::places_of(tx, self, &identity::own_devices(tx)?)
    }

    /// Whether nobody but this user is in the group.
    pub(crate) fn is_alone(&self) -> bool {
        self.of_same_users(&[self.leaf.public_key()]).len() == self.size()
    }

    /// The change by which the last admin makes another user the one admin: of those whose identity the AS confirmed,
    /// or else of all, the one in the first place of the tree. Places are given from the first on, so that is the
    /// member that is there the longest, unless a place became free. `None` if there is another admin, or nobody.
    pub(crate) fn succession(&self, tx: &Tx<'_>) -> Result<Option<Change>> {
        if !self.is_last_admin()? {
            return Ok(None);
        }
        let own = self.own_leaf()?.pseudonym;
        let mut candidates = Vec::new();
        for (place, leaf) in rules::leaves(&self.mls) {
            if leaf.pseudonym != own {
                let is_confirmed = members::resolve(tx, &self.id, leaf.leaf_key)?.verified;
                candidates.push((!is_confirmed, place, leaf.pseudonym));
            }
        }
        Ok(candidates.into_iter().min().map(|(.., successor)| Change::Admins(vec![successor])))
    }

    /// Whether this device's user is the only admin: another has to be named before it leaves.
    pub(crate) fn is_last_admin(&self) -> Result<bool> {
        let own = self.own_leaf()?.pseudonym;
        let admins = self.admins()?;
        let leaves = rules::leaves(&self.mls);
        let others = leaves.values().any(|it| it.pseudonym != own && admins.contains(&it.pseudonym));
        Ok(admins.contains(&own) && !others)
    }

    /// Makes the proposal to leave, which another member has to commit, and keeps it until the DS's
    /// answer is known.
    pub(crate) fn stage_leaving(&mut self, tx: &Tx<'_>) -> Result<()> {
        let proposal = self
            .mls
            .leave_group_via_self_remove(tx, &LeafSigner(&self.leaf))
            .map_err(Error::mls("cannot make the proposal to leave"))?;
        let submission = self.submission(mls::message_bytes(&proposal)?)?;
        let body = Encoding::Cbor.encode(&submission);
        outstanding::keep(tx, &self.id, &Outstanding { kind: Kind::Leave, epoch: self.epoch(), body })
    }

    /// Drops the proposal to leave: it never happened.
    pub(super) fn drop_leaving(&mut self, tx: &Tx<'_>) -> Result<()> {
        let own = Sender::Member(self.mls.own_leaf_index());
        let is_leaving = |queued: &&QueuedProposal| {
            *queued.sender() == own && matches!(queued.proposal(), Proposal::SelfRemove)
        };
        let proposals = self.mls.pending_proposals().filter(is_leaving);
        let leaving: Vec<_> = proposals.map(|queued| queued.proposal_reference_ref().clone()).collect();
        for proposal in leaving {
            self.mls
                .remove_pending_proposal(tx.storage(), &proposal)
                .map_err(Error::mls("cannot withdraw the proposal to leave"))?;
        }
        outstanding::forget(tx, &self.id, Kind::Leave)
    }

    /// Ends this client's part in the group by its user's will: none of the user's other devices brings
    /// it in again.
    pub(crate) fn quit(&mut self, tx: &Tx<'_>) -> Result<()> {
        self.end(tx)?;
        handover::give_up_entry(tx, &self.id)?;
        record::block(tx, &self.id)
    }

    /// Ends this client's part in the group. Nothing of it is kept that could open its
    /// messages, and its address leads nowhere any more.
    pub(crate) fn end(&mut self, tx: &Tx<'_>) -> Result<()> {
        outstanding::forget_all(tx, &self.id)?;
        outbox::give_up(tx, &self.id)?;
        strayed::forget(tx, &self.id)?;
        places::remember(tx, self)?;
        outcasts::forget_doubts(tx, &self.id)?;
        self.mls.delete(tx.storage())?;
        left_place::forget(tx, &self.id)?;
        removed::forget(tx, &self.id)?;
        past::forget(tx, &self.id)?;
        onlooker::forget(tx, &self.id)?;
        record::deactivate(tx, &self.id)?;
        invitations::end_all(tx, &self.id)?;
        self.forget_place(tx)
    }

    /// Forgets the keys of this device's leaf, and has its address lead nowhere.
    pub(super) fn forget_place(&self, tx: &Tx<'_>) -> Result<()> {
        let address = self.delivery_address();
        let user_key = self.own_leaf().ok().and_then(|own| own.user_key);
        let leaf_key = self.leaf.public_key();
        // A last-resort KeyPackage serves other groups, with its key and address.
        if !key_packages::holds(tx, &leaf_key)? && !record::is_leaf_key_in_use(tx, &leaf_key)? {
            leaf::forget_key(tx, &leaf_key)?;
            if let Some(key) = user_key {
                leaf::forget_key(tx, &key.public_key)?;
            }
            if let Some(address) = address {
                mailbox::revoke_later(tx, &address)?;
            }
        }
        Ok(())
    }
}

/// Has another KeyPackage fetched of a client that is invited, in place of those at hand, after the DS refused the MLS of a commit
/// with one of these: how long one has to be good in this group, only the DS knows. Returns false if that was done before.
pub(crate) fn try_another_key_package(tx: &Tx<'_>, id: &GroupId, client_key: &PublicKey) -> Result<bool> {
    let Some(user) = invitations::waits_for_client(tx, client_key)? else { return Ok(false) };
    if !invitations::retry(tx, id, client_key)? {
        return Ok(false);
    }
    key_packages::forget_key_packages_of(tx, client_key)?;
    invitations::want_key_packages(tx, &user)?;
    Ok(true)
}

/// Forgets the invitation of a client into a group, which the DS refuses, and the KeyPackage that was to serve it. The others at
/// hand are as good for other groups as they were.
pub(crate) fn withdraw_invitation(tx: &Tx<'_>, id: &GroupId, client_key: &PublicKey) -> Result<()> {
    let invited = commit::invited(tx, &GroupState::load(tx, id)?)?;
    if let Some(refused) = invited.iter().find(|invited| invited.client_key == *client_key) {
        key_packages::forget_key_package(tx, &refused.leaf_key)?;
    }
    commit::end_invitation(tx, id, client_key)
}
