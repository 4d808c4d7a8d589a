//! Changes that a commit makes, as events.

use openmls::prelude::{MlsGroup, Proposal, Sender, StagedCommit};
use postern_protocol::{
    PublicKey,
    ds::GroupId,
    mls::{GROUP_POLICY, GroupPolicy},
};

use super::rules;
use crate::{
    event::{Event, Member},
    mls,
};

pub(super) fn commit_events(id: &GroupId, group: &MlsGroup, by: Member, commit: &StagedCommit) -> Vec<Event> {
    let epoch = commit.epoch().as_u64();
    let mut added: Vec<_> = added_leaf_keys(commit).into_iter().map(Member::unknown).collect();
    if comes_in(commit) && commit.remove_proposals().next().is_none() {
        added.push(by.clone());
    }
    let removed = removed_members(group, commit);
    let removed = removed.iter().filter_map(|member| mls::public_key(&member.signature_key));
    let removed: Vec<_> = removed.map(Member::unknown).collect();
    let mut events = Vec::new();
    if let Some(admins) = admins_after(group, commit) {
        events.push(Event::AdminsChanged { group: id.clone(), epoch, by: by.clone(), admins });
    } else if added.is_empty() && removed.is_empty() {
        events.push(Event::Updated { group: id.clone(), epoch, by: by.clone() });
    }
    if !removed.is_empty() {
        events.push(Event::Removed { group: id.clone(), epoch, by: by.clone(), members: removed });
    }
    if !added.is_empty() {
        events.push(Event::Added { group: id.clone(), epoch, by, members: added });
    }
    events
}

/// The members that a commit removes. One that comes back removes its own old leaf, and is none of them.
pub(super) fn removed_members(group: &MlsGroup, commit: &StagedCommit) -> Vec<openmls::prelude::Member> {
    let comes_in = comes_in(commit);
    commit
        .queued_proposals()
        .filter_map(|queued| match (queued.proposal(), queued.sender()) {
            (Proposal::Remove(remove), _) if !comes_in => Some(remove.removed()),
            (Proposal::SelfRemove, Sender::Member(leaf)) => Some(*leaf),
            _ => None,
        })
        .filter_map(|leaf| group.member_at(leaf))
        .collect()
}

/// Whether the sender of a commit comes in by it, or back.
fn comes_in(commit: &StagedCommit) -> bool {
    commit.queued_proposals().any(|queued| matches!(queued.proposal(), Proposal::ExternalInit(_)))
}

/// The admins that a commit gives the group, if they are others than before.
fn admins_after(group: &MlsGroup, commit: &StagedCommit) -> Option<Vec<Member>> {
    let policy = commit.queued_proposals().find_map(|queued| match queued.proposal() {
        Proposal::GroupContextExtensions(change) => change.extensions().unknown(GROUP_POLICY),
        _ => None,
    })?;
    let policy = GroupPolicy::from_bytes(&policy.0).ok()?;
    let before = rules::policy(group).ok()?;
    if policy.admins == before.admins {
        return None;
    }
    let admins = group.members().filter(|member| rules::is_admin(&policy, &member.credential));
    Some(admins.filter_map(|member| mls::public_key(&member.signature_key)).map(Member::unknown).collect())
}

pub(super) fn added_leaf_keys(commit: &StagedCommit) -> Vec<PublicKey> {
    commit
        .add_proposals()
        .filter_map(|add| {
            mls::public_key(add.add_proposal().key_package().leaf_node().signature_key().as_slice())
        })
        .collect()
}
