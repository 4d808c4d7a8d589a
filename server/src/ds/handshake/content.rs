//! The content of commits and proposals, as the policy sees it.

use std::collections::HashSet;

use openmls::prelude::{Proposal, QueuedProposal, Sender, StagedCommit};

use crate::{
    ds::policy::{Actor, Change, Commit, Proposed},
    mls::{InvalidMls, leaf::pseudonym},
};

/// The content of a commit, as the policy sees it.
pub(super) fn content(
    commit: &StagedCommit,
    by: Actor,
    waiting: &[QueuedProposal],
) -> Result<Commit, InvalidMls> {
    let known: HashSet<_> = waiting.iter().map(QueuedProposal::proposal_reference_ref).collect();
    let mut taken = HashSet::new();
    let mut changes = Vec::new();
    for proposal in commit.queued_proposals() {
        if known.contains(proposal.proposal_reference_ref()) {
            taken.insert(proposal.proposal_reference_ref());
        } else {
            changes.push(change(proposal.proposal())?);
        }
    }
    let takes = waiting.iter().map(|proposal| taken.contains(proposal.proposal_reference_ref())).collect();
    Ok(Commit { by, voucher: None, changes, takes })
}

pub(super) fn proposed(proposal: &QueuedProposal) -> Result<Proposed, InvalidMls> {
    let by = match proposal.sender() {
        Sender::Member(leaf) => Actor::Member(leaf.u32()),
        Sender::External(_) => Actor::Server,
        _ => return Err(InvalidMls::Refused("only members and the server can propose")),
    };
    Ok(Proposed { by, change: change(proposal.proposal())? })
}

fn change(proposal: &Proposal) -> Result<Change, InvalidMls> {
    Ok(match proposal {
        Proposal::Add(add) => Change::Add(pseudonym(add.key_package().leaf_node())?),
        Proposal::Update(_) => Change::Update,
        Proposal::Remove(remove) => Change::Remove(remove.removed().u32()),
        Proposal::SelfRemove => Change::SelfRemove,
        Proposal::GroupContextExtensions(_) => Change::Context,
        Proposal::ExternalInit(_) => Change::ExternalInit,
        _ => Change::Other,
    })
}
