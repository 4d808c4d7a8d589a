//! The rules of DS-3, DS-6 and DS-7 as a member checks them: a DS that lets others in, or lets
//! members do what the policy forbids, is noticed. Pure functions.

use openmls::prelude::{
    BasicCredential, Credential, LeafNode, MlsGroup, Proposal, QueuedProposal, Sender, StagedCommit,
};
use postern_protocol::{
    Signature,
    mls::{GROUP_POLICY, GroupPolicy, USER_KEY, UserKey},
};

use crate::error::{Error, Result};

pub(super) fn policy(group: &MlsGroup) -> Result<GroupPolicy> {
    group
        .extensions()
        .unknown(GROUP_POLICY)
        .and_then(|extension| GroupPolicy::from_bytes(&extension.0).ok())
        .ok_or(Error::Damaged("the policy of a group"))
}

pub(super) fn is_admin(policy: &GroupPolicy, credential: &Credential) -> bool {
    BasicCredential::try_from(credential.clone())
        .is_ok_and(|basic| policy.admins.iter().any(|admin| admin.0 == basic.identity()))
}

/// Whether the policy lets its sender make a proposal.
pub(super) fn is_allowed(group: &MlsGroup, policy: &GroupPolicy, queued: &QueuedProposal) -> bool {
    let by = match queued.sender() {
        Sender::Member(leaf) => group.member_at(*leaf),
        // The server asks that somebody be removed, and nothing else.
        Sender::External(_) => return matches!(queued.proposal(), Proposal::Remove(_)),
        _ => None,
    };
    let Some(by) = by else { return false };
    let is_own = |credential: &Credential| *credential == by.credential;
    match queued.proposal() {
        _ if is_admin(policy, &by.credential) => true,
        Proposal::Add(add) => is_own(add.key_package().leaf_node().credential()),
        Proposal::Remove(remove) => {
            group.member_at(remove.removed()).is_some_and(|removed| is_own(&removed.credential))
        }
        Proposal::GroupContextExtensions(_) => false,
        _ => true,
    }
}

/// Whether a leaf may come in by external commit. A user's key has vouched for a client of the
/// user's in the group (`voucher`, a signature over `signed`), or the leaf takes its own old place
/// with the same key.
pub(super) fn may_enter(
    group: &MlsGroup,
    commit: &StagedCommit,
    leaf: &LeafNode,
    signed: &[u8],
    voucher: Vec<u8>,
) -> bool {
    let leaves = group.members().filter_map(|member| group.public_group().leaf(member.index));
    let of_user: Vec<_> = leaves.filter(|found| found.credential() == leaf.credential()).collect();
    let removes_others = commit.remove_proposals().any(|remove| {
        let removed = group.public_group().leaf(remove.remove_proposal().removed());
        removed.is_none_or(|removed| removed.credential() != leaf.credential())
    });
    let comes_back = of_user.iter().any(|old| old.signature_key() == leaf.signature_key());
    let user_key = of_user
        .iter()
        .filter_map(|found| UserKey::from_bytes(&found.extensions().unknown(USER_KEY)?.0).ok())
        .max_by_key(|key| key.generation);
    let vouched = user_key.is_some_and(|key| key.public_key.verify(signed, &Signature::new(voucher)).is_ok());
    !removes_others && (comes_back || vouched)
}
