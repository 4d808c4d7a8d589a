//! Rights in a group (DS-6), in one place: these functions derive the effect ([`Operation`]) of a
//! validated message from its content, and decide whether its sender has the right to it. They are
//! pure functions of the group's state, the sender and the message, and know no encoding;
//! [`crate::mls`] checks that members could process the message.
//!
//! A user is a pseudonym; its clients are the leaves that have it. Admins are users.

use std::collections::{HashMap, HashSet};

use postern_protocol::{
    PublicKey,
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
    #[error("two leaves of a group cannot have the same delivery address (0xf0a2)")]
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
    #[error("a commit that removes a client of the committer's user must replace the user key")]
    UserKeyKept,
    #[error(
        "an external commit must be signed with the user key, or with the key of the leaf that it replaces"
    )]
    UnknownJoiner,
    #[error("an external commit can remove only a client of its sender's user")]
    ResyncOfAnother,
    #[error("only a commit can set attributes, those of the committer's own leaf or of one that it adds")]
    AttributesOfAnother,
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
    /// The keys that signed: the one of the request, and for an external commit the user's, if that signed it.
    pub vouchers: Vec<PublicKey>,
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
    Some(Commit { by: Actor::Member(by), vouchers: Vec::new(), changes: Vec::new(), takes })
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
    let mut addresses = HashSet::new();
    if !after.roster.members().iter().all(|member| addresses.insert(member.address)) {
        return Err(Violation::AddressShared);
    }
    check_user_keys(before, commit.by, operations.contains(&Operation::RemoveClient), &removed, after)?;
    Ok(operations)
}

/// Checks that a client that joins by external commit belongs to the user whose pseudonym it has.
fn check_joiner(before: View<'_>, commit: &Commit, after: View<'_>) -> Result<(), Violation> {
    let Actor::Joiner(leaf) = commit.by else { return Ok(()) };
    let joiner = after.roster.member(leaf).ok_or(Violation::UnknownJoiner)?;
    let mut keys: Vec<PublicKey> = Vec::new();
    keys.extend(before.roster.user_key(joiner.pseudonym).map(|key| key.public_key));
    for change in &commit.changes {
        let Change::Remove(replaced) = change else { continue };
        let replaced = before.roster.member(*replaced).ok_or(Violation::ResyncOfAnother)?;
        if replaced.pseudonym != joiner.pseudonym {
            return Err(Violation::ResyncOfAnother);
        }
        keys.push(replaced.signature_key);
    }
    let vouched = commit.vouchers.iter().any(|voucher| keys.contains(voucher));
    if vouched { Ok(()) } else { Err(Violation::UnknownJoiner) }
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

/// Checks the users' keys: a user's key is set by its first commit, stays the same within a
/// generation, and is replaced when a client of the user, which knows it, is removed.
fn check_user_keys(
    before: View<'_>,
    by: Actor,
    removes_client: bool,
    removed: &HashSet<u32>,
    after: View<'_>,
) -> Result<(), Violation> {
    let (old, new) = (before.roster.users(), after.roster.users());
    // The key of a removed client counts no longer, unless another client of its user has it, too.
    let stays = |member: &&Member| !removed.contains(&member.leaf);
    let staying = Roster::new(before.roster.members().iter().filter(stays).cloned().collect()).users();
    let mut generations = HashMap::new();
    for member in after.roster.members() {
        if let Some(key) = member.user_key {
            let same = generations.entry((member.pseudonym, key.generation)).or_insert(key.public_key);
            if *same != key.public_key {
                return Err(Violation::UserKeyChanged);
            }
        }
    }
    for (user, new) in &new {
        let Some(Some(old)) = staying.get(user) else { continue };
        let kept = new.is_some_and(|new| {
            new.generation > old.generation
                || new.generation == old.generation && new.public_key == old.public_key
        });
        if !kept {
            return Err(Violation::UserKeyChanged);
        }
    }
    let (Actor::Member(leaf) | Actor::Joiner(leaf)) = by else { return Err(Violation::ProposalType) };
    let committer = after.roster.member(leaf).ok_or(Violation::NoUserKey)?.pseudonym;
    let generation = |users: &HashMap<_, Option<postern_protocol::mls::UserKey>>| {
        users.get(&committer).copied().flatten().map(|key| key.generation)
    };
    match generation(&new) {
        None => Err(Violation::NoUserKey),
        new if removes_client && new <= generation(&old) => Err(Violation::UserKeyKept),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use postern_protocol::{Address, mls::UserKey};

    use super::super::roster::LeafRecord;
    use super::*;

    const ALICE: Pseudonym = Pseudonym([1; 16]);
    const BOB: Pseudonym = Pseudonym([2; 16]);
    const CAROL: Pseudonym = Pseudonym([3; 16]);
    const DAVE: Pseudonym = Pseudonym([4; 16]);
    const ERIN: Pseudonym = Pseudonym([5; 16]);

    /// Leaves: Alice, who is admin, has one; Bob has two; Carol has one.
    const A: u32 = 0;
    const B1: u32 = 1;
    const B2: u32 = 2;
    const C: u32 = 3;
    /// The first free leaf.
    const FREE: u32 = 4;

    fn user_key(user: Pseudonym, generation: u32) -> UserKey {
        UserKey {
            generation,
            public_key: PublicKey::new([100 + user.0[0] + u8::try_from(generation).unwrap() * 10; 32]),
        }
    }

    fn leaf_key(leaf: u32) -> PublicKey {
        PublicKey::new([u8::try_from(leaf).unwrap(); 32])
    }

    fn member(leaf: u32, pseudonym: Pseudonym) -> Member {
        Member {
            leaf,
            pseudonym,
            signature_key: leaf_key(leaf),
            address: Address::new([u8::try_from(leaf).unwrap(); 32]),
            user_key: Some(user_key(pseudonym, 0)),
            record: LeafRecord::new(None, 0, 0),
        }
    }

    /// A commit in a group as above. The state after it follows from the commit, unless a test changes it.
    #[derive(Clone)]
    struct Scene {
        policy: GroupPolicy,
        members: Vec<Member>,
        waiting: Vec<Proposed>,
        commit: Commit,
        next_policy: GroupPolicy,
        next_members: Vec<Member>,
    }

    fn scene(by: Actor, changes: &[Change], waiting: &[Proposed]) -> Scene {
        let policy = GroupPolicy { state_secret: [0; 32], admins: vec![ALICE] };
        let members = vec![member(A, ALICE), member(B1, BOB), member(B2, BOB), member(C, CAROL)];
        let voucher = match by {
            Actor::Member(leaf) => leaf_key(leaf),
            _ => user_key(BOB, 0).public_key,
        };
        let takes = vec![true; waiting.len()];
        let commit = Commit { by, vouchers: vec![voucher], changes: changes.to_vec(), takes };
        let removed = commit.removes(waiting);
        let mut next_members: Vec<_> =
            members.iter().filter(|member| !removed.contains(&member.leaf)).cloned().collect();
        let mut free = FREE..;
        for change in changes {
            if let Change::Add(pseudonym) = change {
                next_members.push(member(free.next().unwrap(), *pseudonym));
            }
        }
        if let Actor::Joiner(leaf) = by {
            next_members.push(member(leaf, BOB));
        }
        next_members.sort_by_key(|member| member.leaf);
        Scene {
            next_policy: policy.clone(),
            policy,
            members,
            waiting: waiting.to_vec(),
            commit,
            next_members,
        }
    }

    impl Scene {
        fn judge(&self) -> Result<Vec<Operation>, Violation> {
            let (before, after) = (Roster::new(self.members.clone()), Roster::new(self.next_members.clone()));
            let before = View { policy: &self.policy, roster: &before };
            let after = View { policy: &self.next_policy, roster: &after };
            check_commit(before, &self.waiting, &self.commit, after)
        }

        fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
            change(&mut self);
            self
        }

        /// Changes a leaf of the state after the commit.
        fn with_next(self, leaf: u32, change: impl FnOnce(&mut Member)) -> Self {
            self.with(|scene| {
                change(scene.next_members.iter_mut().find(|member| member.leaf == leaf).unwrap());
            })
        }

        fn leaving_out(self, place: usize) -> Self {
            self.with(|scene| scene.commit.takes[place] = false)
        }
    }

    const fn by(leaf: u32) -> Actor {
        Actor::Member(leaf)
    }

    const fn proposed(by: Actor, change: Change) -> Proposed {
        Proposed { by, change }
    }

    const BOB_LEAVES: Proposed = proposed(by(B2), Change::SelfRemove);
    const BOB_UPDATES: Proposed = proposed(by(B2), Change::Update);
    const CAROL_IS_TO_GO: Proposed = proposed(Actor::Server, Change::Remove(C));
    const JOINS: Actor = Actor::Joiner(FREE);

    fn cycled(scene: Scene, leaf: u32) -> Scene {
        scene.with_next(leaf, |member| member.user_key = Some(user_key(member.pseudonym, 1)))
    }

    type Case = (&'static str, Scene, Result<Vec<Operation>, Violation>);

    #[test]
    fn who_may_commit_what() {
        use Change::{Add, Context, ExternalInit, Other, Remove, SelfRemove};
        use Operation as O;
        use Violation as V;
        let cases: Vec<Case> = vec![
            ("an update", scene(by(C), &[], &[]), Ok(vec![])),
            // Users.
            ("an admin adds a user", scene(by(A), &[Add(DAVE)], &[]), Ok(vec![O::AddUser])),
            (
                "with two clients",
                scene(by(A), &[Add(DAVE), Add(DAVE)], &[]),
                Ok(vec![O::AddUser, O::AddUser]),
            ),
            ("a member adds a user", scene(by(C), &[Add(DAVE)], &[]), Err(V::AddByMember)),
            ("an admin adds another's client", scene(by(A), &[Add(BOB)], &[]), Err(V::PseudonymTaken)),
            (
                "an admin adds somebody as an admin that left",
                scene(by(A), &[Add(ERIN)], &[]).with(|scene| scene.policy.admins.push(ERIN)),
                Err(V::PseudonymTaken),
            ),
            ("an admin removes a user", scene(by(A), &[Remove(C)], &[]), Ok(vec![O::RemoveUser])),
            (
                "an admin removes a user with two clients",
                scene(by(A), &[Remove(B1), Remove(B2)], &[]),
                Ok(vec![O::RemoveUser, O::RemoveUser]),
            ),
            ("an admin removes one of the two", scene(by(A), &[Remove(B1)], &[]), Err(V::PartOfUser)),
            ("a member removes a user", scene(by(B1), &[Remove(C)], &[]), Err(V::RemoveByMember)),
            ("a member removes the admin", scene(by(C), &[Remove(A)], &[]), Err(V::RemoveByMember)),
            // Clients of one's own.
            ("a member adds a client of its own", scene(by(B1), &[Add(BOB)], &[]), Ok(vec![O::AddClient])),
            (
                "a member removes a client of its own",
                cycled(scene(by(B1), &[Remove(B2)], &[]), B1),
                Ok(vec![O::RemoveClient]),
            ),
            ("and keeps the user's key", scene(by(B1), &[Remove(B2)], &[]), Err(V::UserKeyKept)),
            (
                "a new client with another key",
                scene(by(B1), &[Add(BOB)], &[]).with_next(FREE, |new| {
                    new.user_key = Some(UserKey { generation: 0, ..user_key(DAVE, 0) });
                }),
                Err(V::UserKeyChanged),
            ),
            (
                "a new client without a key yet",
                scene(by(B1), &[Add(BOB)], &[]).with_next(FREE, |new| new.user_key = None),
                Ok(vec![O::AddClient]),
            ),
            // The user's key.
            (
                "a first commit sets the key",
                scene(by(C), &[], &[]).with(|scene| scene.members[3].user_key = None),
                Ok(vec![]),
            ),
            (
                "a first commit without a key",
                scene(by(C), &[], &[])
                    .with(|scene| scene.members[3].user_key = None)
                    .with_next(C, |carol| carol.user_key = None),
                Err(V::NoUserKey),
            ),
            (
                "a second client needs none of its own",
                scene(by(B2), &[], &[])
                    .with(|scene| scene.members[2].user_key = None)
                    .with_next(B2, |bob| bob.user_key = None),
                Ok(vec![]),
            ),
            ("a new generation", cycled(scene(by(C), &[], &[]), C), Ok(vec![])),
            (
                "another key in the same generation",
                scene(by(C), &[], &[]).with_next(C, |carol| carol.user_key = Some(user_key(DAVE, 0))),
                Err(V::UserKeyChanged),
            ),
            (
                "an older generation",
                cycled(scene(by(C), &[], &[]), C).with(|scene| {
                    std::mem::swap(&mut scene.members, &mut scene.next_members);
                }),
                Err(V::UserKeyChanged),
            ),
            (
                "the client with the newest key leaves",
                scene(by(A), &[], &[BOB_LEAVES])
                    .with(|scene| scene.members[2].user_key = Some(user_key(BOB, 1))),
                Ok(vec![]),
            ),
            (
                "no key any more",
                scene(by(C), &[], &[]).with_next(C, |carol| carol.user_key = None),
                Err(V::UserKeyChanged),
            ),
            // The context.
            ("an admin changes the context", scene(by(A), &[Context], &[]), Ok(vec![O::ChangeContext])),
            ("a member changes the context", scene(by(C), &[Context], &[]), Err(V::ContextByMember)),
            (
                "an admin changes the secret",
                scene(by(A), &[Context], &[]).with(|scene| scene.next_policy.state_secret = [9; 32]),
                Err(V::StateSecretChanged),
            ),
            (
                "an admin hands over",
                scene(by(A), &[Context], &[]).with(|scene| scene.next_policy.admins = vec![CAROL]),
                Ok(vec![O::ChangeContext]),
            ),
            (
                "an admin hands over to nobody",
                scene(by(A), &[Context], &[]).with(|scene| scene.next_policy.admins = vec![]),
                Err(V::NoAdminLeft),
            ),
            (
                "to somebody who is not in the group",
                scene(by(A), &[Context], &[]).with(|scene| scene.next_policy.admins = vec![DAVE]),
                Err(V::NoAdminLeft),
            ),
            (
                "to somebody who leaves with this commit",
                scene(by(A), &[Context], &[proposed(by(C), SelfRemove)])
                    .with(|scene| scene.next_policy.admins = vec![CAROL]),
                Err(V::NoAdminLeft),
            ),
            // Leaves.
            (
                "a leaf changes its pseudonym",
                scene(by(C), &[], &[]).with_next(C, |carol| carol.pseudonym = DAVE),
                Err(V::PseudonymChanged),
            ),
            (
                "a newcomer in the place of a removed member",
                scene(by(A), &[Remove(C), Add(DAVE)], &[]).with_next(FREE, |dave| dave.leaf = C),
                Ok(vec![O::RemoveUser, O::AddUser]),
            ),
            // Proposals that are never accepted.
            ("a pre-shared key", scene(by(A), &[Other], &[]), Err(V::ProposalType)),
            ("an ExternalInit of a member", scene(by(A), &[ExternalInit], &[]), Err(V::ProposalType)),
            ("a SelfRemove by value", scene(by(C), &[SelfRemove], &[]), Err(V::NoUserKey)),
            // Proposals that wait.
            ("taken along", scene(by(A), &[], &[BOB_LEAVES, BOB_UPDATES]), Ok(vec![])),
            (
                "by a member, as it is not the member's doing",
                scene(by(B1), &[], &[CAROL_IS_TO_GO]),
                Ok(vec![]),
            ),
            ("an update left out", scene(by(A), &[], &[BOB_UPDATES]).leaving_out(0), Err(V::ProposalOmitted)),
            (
                "a leaver left out",
                scene(by(A), &[], &[BOB_UPDATES, proposed(by(C), SelfRemove)]).leaving_out(1),
                Err(V::ProposalOmitted),
            ),
            (
                "a proposed removal left out",
                scene(by(A), &[], &[CAROL_IS_TO_GO]).leaving_out(0),
                Err(V::ProposalOmitted),
            ),
            (
                "a proposed removal done by value",
                scene(by(A), &[Remove(C)], &[CAROL_IS_TO_GO]).leaving_out(0),
                Ok(vec![O::RemoveUser]),
            ),
            (
                "an update of a removed member",
                scene(by(A), &[Remove(B1), Remove(B2)], &[BOB_UPDATES]).leaving_out(0),
                Ok(vec![O::RemoveUser, O::RemoveUser]),
            ),
            ("the committer's own update", scene(by(B2), &[], &[BOB_UPDATES]).leaving_out(0), Ok(vec![])),
            ("a leaver commits", scene(by(B2), &[], &[BOB_LEAVES]).leaving_out(0), Err(V::CommitterLeaves)),
            (
                "a member whose removal is proposed commits",
                scene(by(C), &[], &[CAROL_IS_TO_GO]).leaving_out(0),
                Err(V::CommitterLeaves),
            ),
            // External commits.
            ("a client of Bob's joins", scene(JOINS, &[ExternalInit], &[]), Ok(vec![O::Join])),
            (
                "signed by another user's key",
                scene(JOINS, &[ExternalInit], &[])
                    .with(|scene| scene.commit.vouchers = vec![user_key(CAROL, 0).public_key]),
                Err(V::UnknownJoiner),
            ),
            (
                "signed by a leaf of Bob's that stays",
                scene(JOINS, &[ExternalInit], &[]).with(|scene| scene.commit.vouchers = vec![leaf_key(B1)]),
                Err(V::UnknownJoiner),
            ),
            (
                "a new user joins by itself",
                scene(JOINS, &[ExternalInit], &[]).with_next(FREE, |new| new.pseudonym = DAVE),
                Err(V::UnknownJoiner),
            ),
            (
                "with a user key of its own",
                scene(JOINS, &[ExternalInit], &[])
                    .with_next(FREE, |new| new.user_key = Some(user_key(DAVE, 0))),
                Err(V::UserKeyChanged),
            ),
            (
                "a client of Bob's comes back",
                scene(Actor::Joiner(B1), &[ExternalInit, Remove(B1)], &[])
                    .with(|scene| scene.commit.vouchers = vec![leaf_key(B1)]),
                Ok(vec![O::Join, O::Resync]),
            ),
            (
                "or another one in its place, by the user's key",
                scene(Actor::Joiner(B1), &[ExternalInit, Remove(B1)], &[]),
                Ok(vec![O::Join, O::Resync]),
            ),
            (
                "in somebody else's place",
                scene(Actor::Joiner(C), &[ExternalInit, Remove(C)], &[])
                    .with(|scene| scene.commit.vouchers = vec![leaf_key(C)]),
                Err(V::ResyncOfAnother),
            ),
            ("a joiner adds others", scene(JOINS, &[ExternalInit, Add(DAVE)], &[]), Err(V::ProposalType)),
            (
                "a joiner takes a leaver along",
                scene(JOINS, &[ExternalInit], &[BOB_LEAVES]),
                Ok(vec![O::Join]),
            ),
            (
                "a joiner lets all that waits lapse",
                scene(JOINS, &[ExternalInit], &[BOB_LEAVES, BOB_UPDATES, CAROL_IS_TO_GO])
                    .leaving_out(0)
                    .leaving_out(1)
                    .leaving_out(2),
                Ok(vec![O::Join]),
            ),
            (
                "a client whose removal waits comes back",
                scene(Actor::Joiner(B2), &[ExternalInit, Remove(B2)], &[BOB_LEAVES]).leaving_out(0),
                Ok(vec![O::Join, O::Resync]),
            ),
            // Addresses.
            (
                "a leaf that takes another's address",
                scene(by(C), &[], &[]).with_next(C, |carol| carol.address = Address::new([0; 32])),
                Err(V::AddressShared),
            ),
            (
                "a newcomer with another's address",
                scene(by(A), &[Add(DAVE)], &[]).with_next(FREE, |dave| dave.address = Address::new([2; 32])),
                Err(V::AddressShared),
            ),
            (
                "with that of a member that goes",
                scene(by(A), &[Remove(C), Add(DAVE)], &[])
                    .with_next(FREE, |dave| dave.address = Address::new([3; 32])),
                Ok(vec![O::RemoveUser, O::AddUser]),
            ),
            (
                "a joiner with another's address",
                scene(JOINS, &[ExternalInit], &[]).with_next(FREE, |new| new.address = Address::new([1; 32])),
                Err(V::AddressShared),
            ),
            ("the server commits", scene(Actor::Server, &[Remove(C)], &[]), Err(V::ProposalType)),
        ];
        for (what, scene, expected) in cases {
            assert_eq!(scene.judge(), expected, "{what}");
        }
    }

    #[test]
    fn a_group_ends_when_only_an_admins_clients_are_left() {
        let policy = GroupPolicy { state_secret: [0; 32], admins: vec![ALICE] };
        for (members, by, expected) in [
            (vec![member(A, ALICE)], A, Ok(Operation::Delete)),
            (vec![member(A, ALICE), member(B1, ALICE)], B1, Ok(Operation::Delete)),
            (vec![member(A, ALICE), member(C, CAROL)], A, Err(Violation::NotAlone)),
            (vec![member(C, CAROL)], C, Err(Violation::NotAlone)),
            (vec![member(A, ALICE)], C, Err(Violation::NotAlone)),
        ] {
            let roster = Roster::new(members);
            assert_eq!(check_deletion(View { policy: &policy, roster: &roster }, by), expected);
        }
    }

    #[test]
    fn what_may_be_proposed() {
        use Change::{Add, Context, ExternalInit, Other, Remove, SelfRemove, Update};
        use Operation as O;
        use Violation as V;
        let cases: Vec<(&str, Actor, Change, &[Proposed], Result<Operation, Violation>)> = vec![
            ("a member leaves", by(C), SelfRemove, &[], Ok(O::Leave)),
            ("a member leaves by a Remove", by(C), Remove(C), &[], Err(V::LeavesByRemove)),
            ("a member updates", by(C), Update, &[], Ok(O::Update)),
            ("the server proposes a removal", Actor::Server, Remove(C), &[], Ok(O::ProposeRemoval)),
            (
                "a member leaves when another's proposals wait",
                by(C),
                SelfRemove,
                &[BOB_LEAVES, BOB_UPDATES],
                Ok(O::Leave),
            ),
            ("a member that proposed an update leaves", by(B2), SelfRemove, &[BOB_UPDATES], Ok(O::Leave)),
            ("a leaver updates", by(B2), Update, &[BOB_LEAVES], Err(V::AlreadyProposed)),
            ("a second update", by(B2), Update, &[BOB_UPDATES], Err(V::AlreadyProposed)),
            (
                "the removal of a leaver is proposed",
                Actor::Server,
                Remove(B2),
                &[BOB_LEAVES],
                Err(V::AlreadyProposed),
            ),
            (
                "a member whose removal is proposed leaves",
                by(C),
                SelfRemove,
                &[CAROL_IS_TO_GO],
                Err(V::AlreadyProposed),
            ),
            ("a leaver leaves again", by(B2), SelfRemove, &[BOB_LEAVES], Err(V::AlreadyProposed)),
            ("an admin proposes to add", by(A), Add(DAVE), &[], Err(V::OnlyCommitted)),
            ("a member proposes to add", by(C), Add(DAVE), &[], Err(V::AddByMember)),
            ("an admin proposes to remove", by(A), Remove(C), &[], Err(V::OnlyCommitted)),
            ("a member proposes to remove", by(C), Remove(B1), &[], Err(V::RemoveByMember)),
            ("a member proposes to remove its other client", by(B1), Remove(B2), &[], Err(V::OnlyCommitted)),
            ("an admin proposes another context", by(A), Context, &[], Err(V::OnlyCommitted)),
            ("a member proposes another context", by(C), Context, &[], Err(V::ContextByMember)),
            ("the server adds", Actor::Server, Add(DAVE), &[], Err(V::ProposalType)),
            ("a stranger proposes", Actor::Joiner(FREE), Remove(C), &[], Err(V::OnlyCommitted)),
            ("a pre-shared key", by(A), Other, &[], Err(V::ProposalType)),
            ("an ExternalInit", by(A), ExternalInit, &[], Err(V::ProposalType)),
            ("somebody who is no member", by(FREE), SelfRemove, &[], Err(V::ProposalType)),
        ];
        let scene = scene(by(A), &[], &[]);
        let roster = Roster::new(scene.members.clone());
        let group = View { policy: &scene.policy, roster: &roster };
        for (what, by, change, waiting, expected) in cases {
            assert_eq!(check_proposal(group, waiting, proposed(by, change)), expected, "{what}");
        }
    }

    #[test]
    fn the_next_commit_takes_along_what_waits_and_is_made_by_a_member_that_stays() {
        let policy = GroupPolicy { state_secret: [0; 32], admins: vec![ALICE] };
        let roster = Roster::new(vec![member(A, ALICE), member(B2, BOB), member(C, CAROL)]);
        let group = View { policy: &policy, roster: &roster };
        let next = |waiting: &[Proposed]| next_commit(group, waiting).map(|commit| (commit.by, commit.takes));
        let updates = |leaf| proposed(by(leaf), Change::Update);
        assert_eq!(next(&[]), Some((by(A), vec![])));
        assert_eq!(next(&[BOB_LEAVES, updates(C)]), Some((by(A), vec![true, true])));
        assert_eq!(next(&[updates(A), CAROL_IS_TO_GO]), Some((by(B2), vec![true, true])));
        assert_eq!(next(&[updates(C), CAROL_IS_TO_GO]), Some((by(A), vec![false, true])), "a removed leaf's");
        let all = [updates(A), updates(C), BOB_LEAVES];
        assert_eq!(next(&all), Some((by(A), vec![false, true, true])), "its own");
        let leave = |leaf| proposed(by(leaf), Change::SelfRemove);
        assert_eq!(next(&[leave(A), leave(B2), leave(C)]), None);
    }
}
