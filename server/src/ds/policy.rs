//! Who may do what in a group (DS-6): a pure function of policy, roster, sender and
//! proposals. Admins add and remove members and change the policy; everyone updates itself
//! and removes itself; nobody does what the DS could not follow.

use std::collections::HashSet;

use openmls::prelude::{Proposal, Sender};
use postern_protocol::{
    PublicKey,
    mls::{GroupPolicy, Pseudonym},
};

use super::roster::{Member, Roster};

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("only admins add members")]
    AddByMember,
    #[error("only admins remove others")]
    RemoveByMember,
    #[error("only admins change the group's policy or extensions")]
    PolicyByMember,
    #[error("a leaf's pseudonym never changes")]
    PseudonymChanged,
    #[error("the group's state secret never changes")]
    StateSecretChanged,
    #[error("a group keeps at least one admin")]
    NoAdminLeft,
    #[error("this server takes no proposals of this type")]
    ProposalType,
}

/// A proposal, by value in a commit or on its own, from `proposer`.
pub fn check_proposal(
    policy: &GroupPolicy,
    roster: &Roster,
    proposal: &Proposal,
    proposer: &Sender,
) -> Result<(), Violation> {
    let proposer = match proposer {
        Sender::Member(leaf) => roster.member(leaf.u32()),
        _ => None,
    }
    .ok_or(Violation::ProposalType)?;
    let is_admin = is_admin(policy, proposer);
    match proposal {
        Proposal::Add(_) if is_admin => Ok(()),
        Proposal::Add(_) => Err(Violation::AddByMember),
        Proposal::Remove(remove) if is_admin || remove.removed().u32() == proposer.leaf => Ok(()),
        Proposal::Remove(_) => Err(Violation::RemoveByMember),
        Proposal::GroupContextExtensions(_) if is_admin => Ok(()),
        Proposal::GroupContextExtensions(_) => Err(Violation::PolicyByMember),
        Proposal::Update(_) => Ok(()),
        _ => Err(Violation::ProposalType),
    }
}

/// What has to hold for the group after a commit that `added` leaves with these keys.
pub fn check_result(
    before: (&GroupPolicy, &Roster),
    after: (&GroupPolicy, &Roster),
    added: &HashSet<PublicKey>,
) -> Result<(), Violation> {
    let renamed = after.1.members().iter().any(|member| {
        !added.contains(&member.signature_key)
            && before.1.member(member.leaf).is_some_and(|old| old.pseudonym != member.pseudonym)
    });
    if renamed {
        return Err(Violation::PseudonymChanged);
    }
    if before.0.state_secret != after.0.state_secret {
        return Err(Violation::StateSecretChanged);
    }
    if !after.0.admins.iter().any(|admin| after.1.has(admin)) {
        return Err(Violation::NoAdminLeft);
    }
    Ok(())
}

fn is_admin(policy: &GroupPolicy, member: &Member) -> bool {
    policy.admins.contains(&Pseudonym(member.pseudonym))
}
