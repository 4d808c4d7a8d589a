//! Rights in a group (DS-6), in one place: these functions derive the effect ([`Operation`]) of a
//! validated message from its content, and decide whether its sender has the right to it. They are
//! pure functions of the group's state, the sender and the message, and know no encoding;
//! [`crate::mls`] checks that members could process the message.
//!
//! A user is a pseudonym; its clients are the leaves that have it. Admins are users.

use std::collections::HashSet;

use postern_protocol::{
    PublicKey,
    leaves::{BrokenRule, GroupLeaf, check_leaves},
    mls::{GroupPolicy, Pseudonym},
};

use super::roster::{Member, Roster};

/// The effect of a message, as far as rights to it differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A user becomes a member, with one client or several.
    AddUser,
    /// A user's client adds another client of the user's.
    AddClient,
    /// Another user is no longer a member.
    RemoveUser,
    /// A user's client removes another client of the user's.
    RemoveClient,
    /// A client proposes its own removal.
    Leave,
    /// The DS proposes a client's removal (DS-10).
    ProposeRemoval,
    /// A client renews its leaf.
    Update,
    /// The group's admins or other parts of its context change.
    ChangeContext,
    /// A user's new client joins by external commit.
    Join,
    /// A client that lost its state comes back by external commit.
    Resync,
    /// The group ends.
    Delete,
}

/// The reason why a message is refused. The texts name the rule, never a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("only admins can add users")]
    AddByMember,
    #[error("only admins can remove other users")]
    RemoveByMember,
    #[error("only admins can change the group's policy or extensions")]
    ContextByMember,
    #[error("this server accepts no proposals of this type from this sender")]
    ProposalType,
    #[error("this change is accepted by value in a commit only, not as a proposal of its own")]
    OnlyCommitted,
    #[error("a pending proposal already makes this change or removes this member")]
    AlreadyProposed,
    #[error("a member leaves by a SelfRemove proposal (0x000a), not by a Remove of its own leaf")]
    LeavesByRemove,
    #[error(
        "two leaves of a group cannot have the same delivery address (0xf0a2), whatever domains they name"
    )]
    AddressShared,
    #[error("only an admin can delete a group, and only when no other user is left in it")]
    NotAlone,
    #[error("the pseudonym belongs to another user of the group, or to one of its admins")]
    PseudonymTaken,
    #[error("a leaf cannot change its pseudonym")]
    PseudonymChanged,
    #[error("a group cannot change its state secret")]
    StateSecretChanged,
    #[error("a group must keep at least one admin")]
    NoAdminLeft,
    #[error("another user can be removed only with all of its clients")]
    PartOfUser,
    #[error("a member whose removal is pending cannot commit")]
    CommitterLeaves,
    #[error("a commit must include every pending proposal")]
    ProposalOmitted,
    #[error("a committer needs a user key (0xf0a3) in its own leaf or in that of another client of its user")]
    NoUserKey,
    #[error("a user key can be replaced only by one of a later generation")]
    UserKeyChanged,
    #[error("the generation of a new user key can be at most 1,000 ahead of the epoch that it comes with")]
    UserKeyAhead,
    #[error("a commit that removes a client of the committer's user must replace the user key")]
    UserKeyKept,
    #[error(
        "an external commit needs the user key's signature as authenticated data, or the key of the leaf that it replaces"
    )]
    UnknownJoiner,
    #[error("an external commit can remove only a client of its sender's user")]
    ResyncOfAnother,
    #[error("only a commit can set attributes, those of the committer's own leaf or of one that it adds")]
    AttributesOfAnother,
}

impl From<BrokenRule> for Violation {
    fn from(rule: BrokenRule) -> Self {
        match rule {
            BrokenRule::AddressShared => Self::AddressShared,
            BrokenRule::TwoUserKeys | BrokenRule::UserKeyTakenBack => Self::UserKeyChanged,
            BrokenRule::UserKeyAhead => Self::UserKeyAhead,
        }
    }
}

/// A group's state, as far as rights depend on it.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub policy: &'a GroupPolicy,
    pub roster: &'a Roster,
}

/// A proposal's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A new leaf with this pseudonym.
    Add(Pseudonym),
    Update,
    /// The leaf.
    Remove(u32),
    SelfRemove,
    Context,
    ExternalInit,
    /// A proposal that this server never accepts: pre-shared keys, reinitialisation, custom types.
    Other,
}

/// The sender of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    /// A member, by its leaf.
    Member(u32),
    /// The DS, as external sender.
    Server,
    /// The sender of an external commit, by the leaf it takes.
    Joiner(u32),
}

/// A proposal that waits for a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proposed {
    pub by: Actor,
    pub change: Change,
}

#[derive(Debug, Clone)]
pub struct Commit {
    pub by: Actor,
    /// The user's key that vouches for an external commit, if one does.
    pub voucher: Option<PublicKey>,
    /// The changes that the commit contains by value.
    pub changes: Vec<Change>,
    /// For each pending proposal, whether the commit includes it.
    pub takes: Vec<bool>,
}

impl Proposed {
    /// The leaf that a commit of the proposal removes.
    pub fn removes(self) -> Option<u32> {
        match (self.change, self.by) {
            (Change::Remove(leaf), _) | (Change::SelfRemove, Actor::Member(leaf)) => Some(leaf),
            _ => None,
        }
    }
}

impl Commit {
    /// The leaves that the commit removes. Others may take their places in the same commit.
    fn removes(&self, waiting: &[Proposed]) -> HashSet<u32> {
        let taken =
            waiting.iter().zip(&self.takes).filter(|(_, taken)| **taken).map(|(proposed, _)| *proposed);
        let own = self.changes.iter().map(|change| Proposed { by: self.by, change: *change });
        taken.chain(own).filter_map(Proposed::removes).collect()
    }
}

/// The operation that a change by an actor amounts to.
fn operation(group: View<'_>, by: Actor, change: Change) -> Result<Operation, Violation> {
    match (by, change) {
        (Actor::Member(leaf), change) => {
            let member = group.roster.member(leaf).ok_or(Violation::ProposalType)?;
            let operation = match change {
                Change::Add(pseudonym) if pseudonym == member.pseudonym => Operation::AddClient,
                // Also the pseudonym of an admin that left: its new holder would have the admin's rights.
                Change::Add(pseudonym) if group.knows(pseudonym) => return Err(Violation::PseudonymTaken),
                Change::Add(_) => Operation::AddUser,
                // An external commit can take a SelfRemove along, and any member can see whose will it is.
                Change::Remove(removed) if removed == leaf => return Err(Violation::LeavesByRemove),
                Change::Remove(removed) if group.is_client_of(removed, member.pseudonym) => {
                    Operation::RemoveClient
                }
                Change::Remove(_) => Operation::RemoveUser,
                Change::SelfRemove => Operation::Leave,
                Change::Update => Operation::Update,
                Change::Context => Operation::ChangeContext,
                Change::ExternalInit | Change::Other => return Err(Violation::ProposalType),
            };
            allow(operation, group.policy.admins.contains(&member.pseudonym))
        }
        (Actor::Server, Change::Remove(_)) => Ok(Operation::ProposeRemoval),
        (Actor::Joiner(_), Change::ExternalInit) => Ok(Operation::Join),
        (Actor::Joiner(_), Change::Remove(_)) => Ok(Operation::Resync),
        _ => Err(Violation::ProposalType),
    }
}

/// Checks roles: admins change others' membership and the context, every member its own user's clients.
fn allow(operation: Operation, is_admin: bool) -> Result<Operation, Violation> {
    match operation {
        Operation::AddUser if !is_admin => Err(Violation::AddByMember),
        Operation::RemoveUser if !is_admin => Err(Violation::RemoveByMember),
        Operation::ChangeContext if !is_admin => Err(Violation::ContextByMember),
        allowed => Ok(allowed),
    }
}

impl View<'_> {
    fn knows(self, pseudonym: Pseudonym) -> bool {
        self.roster.has(pseudonym) || self.policy.admins.contains(&pseudonym)
    }

    fn is_client_of(self, leaf: u32, pseudonym: Pseudonym) -> bool {
        self.roster.member(leaf).is_some_and(|member| member.pseudonym == pseudonym)
    }

    fn has_admin(self) -> bool {
        self.roster.members().iter().any(|member| self.policy.admins.contains(&member.pseudonym))
    }
}

/// Checks that a proposal may wait for a commit at all. Whether members could commit it, together with what waits, is
/// for [`check_commit`] to say, of the group that such a commit would lead to.
///
/// # Errors
/// The [`Violation`].
pub fn check_proposal(
    group: View<'_>,
    waiting: &[Proposed],
    proposal: Proposed,
) -> Result<Operation, Violation> {
    let operation = operation(group, proposal.by, proposal.change)?;
    let is_to_go = |leaf| waiting.iter().any(|waiting| waiting.removes() == Some(leaf));
    let again = match operation {
        Operation::Update => {
            waiting.contains(&proposal) || matches!(proposal.by, Actor::Member(leaf) if is_to_go(leaf))
        }
        Operation::Leave | Operation::ProposeRemoval => proposal.removes().is_none_or(is_to_go),
        // These need a commit: it brings a newcomer's Welcome, removes all of a user's clients
        // together, and brings the user's new key when it removes a client.
        _ => return Err(Violation::OnlyCommitted),
    };
    if again { Err(Violation::AlreadyProposed) } else { Ok(operation) }
}

/// The commit that some member could make next: it takes along all that waits, but for what its sender's path and the
/// removals make needless. `None` if nobody would be left to make it.
pub fn next_commit(group: View<'_>, waiting: &[Proposed]) -> Option<Commit> {
    let removed: HashSet<u32> = waiting.iter().filter_map(|waiting| waiting.removes()).collect();
    let updates = |leaf| waiting.contains(&Proposed { by: Actor::Member(leaf), change: Change::Update });
    // A committer that proposed no Update takes along more.
    let staying = group.roster.members().iter().filter(|member| !removed.contains(&member.leaf));
    let by = staying.min_by_key(|member| updates(member.leaf))?.leaf;
    let needless = |proposed: &Proposed| match (proposed.change, proposed.by) {
        (Change::Update, Actor::Member(leaf)) => leaf == by || removed.contains(&leaf),
        _ => false,
    };
    let takes = waiting.iter().map(|proposed| !needless(proposed)).collect();
    Some(Commit { by: Actor::Member(by), voucher: None, changes: Vec::new(), takes })
}

/// Checks the end of a group: other users must be removed before, by a commit that they get.
///
/// # Errors
/// [`Violation::NotAlone`], also if the sender is no admin.
pub fn check_deletion(group: View<'_>, by: u32) -> Result<Operation, Violation> {
    let sender = group.roster.member(by).ok_or(Violation::NotAlone)?;
    let alone = group.roster.members().iter().all(|member| member.pseudonym == sender.pseudonym);
    let is_admin = group.policy.admins.contains(&sender.pseudonym);
    if alone && is_admin { Ok(Operation::Delete) } else { Err(Violation::NotAlone) }
}

/// Checks a commit, given the group before and after it.
///
/// # Errors
/// The first [`Violation`].
pub fn check_commit(
    before: View<'_>,
    waiting: &[Proposed],
    commit: &Commit,
    after: View<'_>,
) -> Result<Vec<Operation>, Violation> {
    let removed = commit.removes(waiting);
    let operations = commit
        .changes
        .iter()
        .map(|change| operation(before, commit.by, *change))
        .collect::<Result<Vec<_>, _>>()?;
    check_newcomers(&commit.changes, &operations)?;
    check_joiner(before, commit, after)?;
    check_waiting(waiting, commit, &removed)?;

    for change in &commit.changes {
        if let (Actor::Member(by), Change::Remove(leaf)) = (commit.by, *change) {
            check_whole_user(before, by, leaf, after)?;
        }
    }
    let renamed = after.roster.members().iter().any(|member| {
        let old = before.roster.member(member.leaf).filter(|old| !removed.contains(&old.leaf));
        old.is_some_and(|old| old.pseudonym != member.pseudonym)
    });
    if renamed {
        return Err(Violation::PseudonymChanged);
    }
    if before.policy.state_secret != after.policy.state_secret {
        return Err(Violation::StateSecretChanged);
    }
    if !after.has_admin() {
        return Err(Violation::NoAdminLeft);
    }
    let (gone, staying): (Vec<_>, Vec<_>) =
        before.roster.members().iter().partition(|member| removed.contains(&member.leaf));
    let [gone, staying] = [gone, staying].map(|members| leaves(members.into_iter()));
    check_leaves(&staying, &gone, &leaves(after.roster.members().iter()))?;
    check_user_key(before, commit.by, operations.contains(&Operation::RemoveClient), after)?;
    Ok(operations)
}

/// Checks that each other user that a commit adds comes in by one client, whose user key vouches for the others later: whoever
/// has seen a KeyPackage can name its pseudonym, and a second one that named it would be another's client.
fn check_newcomers(changes: &[Change], operations: &[Operation]) -> Result<(), Violation> {
    let mut users = HashSet::new();
    let is_distinct = |(change, operation): (&Change, &Operation)| match (change, operation) {
        (Change::Add(user), Operation::AddUser) => users.insert(*user),
        _ => true,
    };
    let are_distinct = changes.iter().zip(operations).all(is_distinct);
    if are_distinct { Ok(()) } else { Err(Violation::PseudonymTaken) }
}

fn leaves<'a>(members: impl Iterator<Item = &'a Member>) -> Vec<GroupLeaf> {
    members.map(Member::in_group).collect()
}

/// Checks that a client that joins by external commit belongs to the user whose pseudonym it has: the user's key vouches
/// for it, so that members see it, too, or it takes its own old place with the same key.
fn check_joiner(before: View<'_>, commit: &Commit, after: View<'_>) -> Result<(), Violation> {
    let Actor::Joiner(leaf) = commit.by else { return Ok(()) };
    let joiner = after.roster.member(leaf).ok_or(Violation::UnknownJoiner)?;
    let mut comes_back = false;
    for change in &commit.changes {
        let Change::Remove(replaced) = change else { continue };
        let replaced = before.roster.member(*replaced).ok_or(Violation::ResyncOfAnother)?;
        if replaced.pseudonym != joiner.pseudonym {
            return Err(Violation::ResyncOfAnother);
        }
        comes_back |= replaced.signature_key == joiner.signature_key;
    }
    let users = before.roster.user_key(joiner.pseudonym).map(|key| key.public_key);
    let vouched = commit.voucher.is_some() && commit.voucher == users;
    if comes_back || vouched { Ok(()) } else { Err(Violation::UnknownJoiner) }
}

/// Checks that a member's commit includes every pending proposal, unless it has the same effect itself. With an external
/// commit they lapse: it can include leavers' `SelfRemove`s only (RFC 9420 §12.2), and its sender cannot know which of
/// them members could verify (DS-13).
fn check_waiting(waiting: &[Proposed], commit: &Commit, removed: &HashSet<u32>) -> Result<(), Violation> {
    let Actor::Member(by) = commit.by else { return Ok(()) };
    for (proposed, taken) in waiting.iter().zip(&commit.takes) {
        if proposed.removes() == Some(by) {
            return Err(Violation::CommitterLeaves);
        }
        let done = match (proposed.change, proposed.by) {
            (Change::Update, Actor::Member(leaf)) => leaf == by || removed.contains(&leaf),
            _ => proposed.removes().is_some_and(|leaf| removed.contains(&leaf)),
        };
        if !*taken && !done {
            return Err(Violation::ProposalOmitted);
        }
    }
    Ok(())
}

/// Checks that another user is removed whole: a client left behind would know the user's key, and
/// let the others in again.
fn check_whole_user(before: View<'_>, by: u32, removed: u32, after: View<'_>) -> Result<(), Violation> {
    let pseudonym_of = |leaf| before.roster.member(leaf).map(|member| member.pseudonym);
    match pseudonym_of(removed) {
        Some(user) if pseudonym_of(by) != Some(user) && after.roster.has(user) => Err(Violation::PartOfUser),
        _ => Ok(()),
    }
}

/// Checks the key of the committer's user: it is set by the user's first commit, and replaced when a client of the user,
/// which knows it, is removed.
fn check_user_key(
    before: View<'_>,
    by: Actor,
    removes_client: bool,
    after: View<'_>,
) -> Result<(), Violation> {
    let (Actor::Member(leaf) | Actor::Joiner(leaf)) = by else { return Err(Violation::ProposalType) };
    let committer = after.roster.member(leaf).ok_or(Violation::NoUserKey)?.pseudonym;
    match after.roster.newest_key(committer).map(|key| key.generation) {
        None => Err(Violation::NoUserKey),
        new if removes_client && new <= before.roster.generation(committer) => Err(Violation::UserKeyKept),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
