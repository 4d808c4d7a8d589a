//! The rules of DS-3, DS-6 and DS-7 as a member checks them: a DS that lets others in, or lets
//! members do what the policy forbids, is noticed. Proposals are judged before they are stored and
//! before they are committed, a commit by the group that it leads to. Pure functions; `policy.rs` of
//! the server has the same rules, or stricter ones: what it lets pass and this client refuses puts this
//! client out of the group. Tests judge by these what the server let pass (`judge_message`).

use std::collections::{HashMap, HashSet};

use openmls::prelude::{
    Credential, Extensions, GroupContext, LeafNode, LeafNodeIndex, MlsGroup, Proposal, PublicGroup,
    QueuedProposal, Sender, StagedCommit,
};
#[cfg(feature = "lab")]
use openmls::prelude::{ProcessedMessage, ProcessedMessageContent};
use postern_protocol::{
    PublicKey, Signature,
    leaves::{BrokenRule, GroupLeaf, check_generations, check_leaves},
    mls::{DELIVERY_ADDRESS, DeliveryAddress, GROUP_POLICY, GroupPolicy, Pseudonym, USER_KEY, UserKey},
};
#[cfg(feature = "lab")]
use postern_protocol::{ds::GroupId, mls::to_join};

pub(super) use crate::mls::pseudonym;
use crate::{
    error::{Error, Result},
    mls,
};

const NO_POLICY: &str = "the group has no policy";
const UNREAD: &str = "a device has a leaf that the clients of Postern cannot read";

/// The sender of a commit.
pub(super) enum Committer<'a> {
    Member(LeafNodeIndex),
    /// A client from outside, and the voucher of its user's key over `signed`.
    Joiner {
        signed: &'a [u8],
        voucher: Vec<u8>,
    },
}

/// A member as far as rules depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaf {
    pub leaf_key: PublicKey,
    pub pseudonym: Pseudonym,
    pub delivery: Option<DeliveryAddress>,
    pub user_key: Option<UserKey>,
}

impl Leaf {
    /// `None` for a leaf that no member of a group of Postern has.
    pub(super) fn of(node: &LeafNode) -> Option<Self> {
        let extension = |kind| node.extensions().unknown(kind);
        Some(Self {
            leaf_key: mls::public_key(node.signature_key().as_slice())?,
            pseudonym: pseudonym(node.credential())?,
            delivery: extension(DELIVERY_ADDRESS).and_then(|it| DeliveryAddress::from_bytes(&it.0).ok()),
            user_key: extension(USER_KEY).and_then(|it| UserKey::from_bytes(&it.0).ok()),
        })
    }

    /// The leaf of a member, or of a device that is to become one.
    ///
    /// # Errors
    /// The server's fault, if it lets this pass: no comparison and no rule knows such a leaf, and whoever has it would be in the
    /// group unseen.
    pub(super) fn of_member(node: &LeafNode) -> Result<Self, &'static str> {
        let user_key = node.extensions().unknown(USER_KEY);
        let is_read = user_key.is_none_or(|it| UserKey::from_bytes(&it.0).is_ok());
        Self::of(node).filter(|leaf| is_read && leaf.in_group().is_some()).ok_or(UNREAD)
    }

    /// The leaf, as far as the rules depend on it that the server checks, too; `None` without an address.
    fn in_group(&self) -> Option<GroupLeaf> {
        let Self { leaf_key, pseudonym, user_key, .. } = *self;
        Some(GroupLeaf { leaf_key, pseudonym, address: self.delivery.as_ref()?.address, user_key })
    }
}

pub(super) fn policy(group: &MlsGroup) -> Result<GroupPolicy> {
    policy_in(group.extensions()).ok_or(Error::Damaged("the policy of a group"))
}

pub(super) fn policy_in(extensions: &Extensions<GroupContext>) -> Option<GroupPolicy> {
    GroupPolicy::from_bytes(&extensions.unknown(GROUP_POLICY)?.0).ok()
}

pub(super) fn is_admin(policy: &GroupPolicy, credential: &Credential) -> bool {
    pseudonym(credential).is_some_and(|pseudonym| policy.admins.contains(&pseudonym))
}

/// Checks that this client reads the leaf of every member. It takes no other group, in whatever way it comes to it, and makes no
/// commit in one.
///
/// # Errors
/// The server's fault, if it shows such a group.
pub(super) fn check_members(group: &PublicGroup) -> Result<(), &'static str> {
    for member in group.members() {
        Leaf::of_member(group.leaf(member.index).ok_or(UNREAD)?)?;
    }
    Ok(())
}

/// All leaves of a group, by their indexes: those of all members, in a group that [`check_members`] lets pass.
pub(super) fn leaves(group: &MlsGroup) -> HashMap<u32, Leaf> {
    leaves_of(group.public_group())
}

fn leaves_of(group: &PublicGroup) -> HashMap<u32, Leaf> {
    let leaf = |index: LeafNodeIndex| Some((index.u32(), Leaf::of(group.leaf(index)?)?));
    group.members().filter_map(|member| leaf(member.index)).collect()
}

/// The key by which a user's clients act for the user: that of the highest generation.
pub(super) fn user_key<'a>(
    leaves: impl IntoIterator<Item = &'a Leaf>,
    pseudonym: Pseudonym,
) -> Option<UserKey> {
    let of_user = leaves.into_iter().filter(|leaf| leaf.pseudonym == pseudonym);
    of_user.filter_map(|leaf| leaf.user_key).max_by_key(|key| key.generation)
}

/// Whether a proposal may wait for a commit: members send Updates and `SelfRemove`s, the server asks
/// that somebody be removed, and an admin stays.
///
/// # Errors
/// The server's fault, if it lets this pass.
pub(super) fn check_proposal(group: &MlsGroup, queued: &QueuedProposal) -> Result<(), &'static str> {
    check_waiting(group.public_group(), group.pending_proposals(), queued)
}

/// The same of a proposal that comes when others wait.
fn check_waiting<'a>(
    group: &PublicGroup,
    waiting: impl Iterator<Item = &'a QueuedProposal>,
    queued: &'a QueuedProposal,
) -> Result<(), &'static str> {
    match (queued.sender(), queued.proposal()) {
        (Sender::Member(leaf), Proposal::Update(update)) => {
            check_new_leaf(group, *leaf, update.leaf_node())?;
            let new = Leaf::of_member(update.leaf_node())?;
            let (old, new) = (user_keys(leaves_of(group).values()), user_keys([&new]));
            check_generations(&old, &new, group.group_context().epoch().as_u64()).map_err(broken)?;
        }
        (Sender::Member(_), Proposal::SelfRemove) | (Sender::External(_), Proposal::Remove(_)) => {}
        (Sender::External(_), _) => return Err("the server proposes what it may not"),
        _ => return Err("the server let a member propose what only a commit may contain"),
    }
    let mut staying = leaves_of(group);
    for leaf in waiting.chain([queued]).filter_map(removed_leaf) {
        staying.remove(&leaf);
    }
    let policy = policy_in(group.group_context().extensions()).ok_or(NO_POLICY)?;
    if staying.values().any(|leaf| policy.admins.contains(&leaf.pseudonym)) {
        return Ok(());
    }
    Err("what the server let pass would leave the group without an admin")
}

/// The leaf that goes with a proposal.
pub(super) fn removed_leaf(queued: &QueuedProposal) -> Option<u32> {
    match (queued.sender(), queued.proposal()) {
        (Sender::Member(leaf), Proposal::SelfRemove) => Some(leaf.u32()),
        (_, Proposal::Remove(remove)) => Some(remove.removed().u32()),
        _ => None,
    }
}

/// Checks a commit by the rights of those that made its parts, and by the group that it leads to.
///
/// # Errors
/// The server's fault, if it lets this pass.
pub(super) fn check_commit(
    group: &PublicGroup,
    commit: &StagedCommit,
    by: &Committer<'_>,
) -> Result<(), &'static str> {
    let before_policy = policy_in(group.group_context().extensions()).ok_or(NO_POLICY)?;
    let after_policy = policy_in(commit.group_context().extensions())
        .ok_or("the server let a member take the group's policy away")?;
    check_members(group)?;
    let before = leaves_of(group);
    let mut after = before.clone();
    for queued in commit.queued_proposals() {
        check_right(&before_policy, &before, queued)?;
        if let (Sender::Member(leaf), Proposal::Update(update)) = (queued.sender(), queued.proposal()) {
            check_new_leaf(group, *leaf, update.leaf_node())?;
            after.insert(leaf.u32(), Leaf::of_member(update.leaf_node())?);
        }
    }
    check_newcomers(&before, commit)?;
    // Updates come first, whatever the order of the proposals (RFC 9420 §12.3): a leaf that goes is gone.
    let removed: HashSet<u32> = commit.queued_proposals().filter_map(removed_leaf).collect();
    after.retain(|leaf, _| !removed.contains(leaf));
    let added =
        commit.add_proposals().map(|add| Leaf::of_member(add.add_proposal().key_package().leaf_node()));
    let added = added.collect::<Result<Vec<_>, _>>()?;
    let mut after_all: Vec<Leaf> = Vec::new();
    let path = commit.update_path_leaf_node();
    let own = match by {
        Committer::Member(leaf) => {
            if let Some(path) = path {
                check_new_leaf(group, *leaf, path)?;
                after.insert(leaf.u32(), Leaf::of_member(path)?);
            }
            before.get(&leaf.u32()).ok_or("the server let a stranger commit")?.pseudonym
        }
        Committer::Joiner { signed, voucher } => {
            let leaf = Leaf::of_member(path.ok_or("the server let somebody in that has no leaf")?)?;
            check_joiner(&before, commit, &leaf, signed, voucher)?;
            let pseudonym = leaf.pseudonym;
            after_all.push(leaf);
            pseudonym
        }
    };
    after_all.extend(after.into_values().chain(added));
    check_after(&before_policy, &before, &removed, &after_policy, &after_all)?;
    let (old_keys, new_keys) = (user_keys(before.values()), user_keys(&after_all));
    check_generations(&old_keys, &new_keys, commit.epoch().as_u64()).map_err(broken)?;
    check_whole_users(&before, commit, own, &after_all)?;

    let removes_own_client = matches!(by, Committer::Member(_))
        && commit.remove_proposals().any(|remove| {
            let removed = before.get(&remove.remove_proposal().removed().u32());
            matches!(remove.sender(), Sender::Member(_))
                && removed.is_some_and(|removed| removed.pseudonym == own)
        });
    let generation = |key: Option<UserKey>| key.map(|key| key.generation);
    let (old, new) = (user_key(before.values(), own), user_key(&after_all, own));
    if removes_own_client && generation(new) <= generation(old) {
        return Err("the server let somebody remove an own device and keep the key that it knows");
    }
    Ok(())
}

/// Checks that a member had the right to a part of a commit.
fn check_right(
    policy: &GroupPolicy,
    before: &HashMap<u32, Leaf>,
    queued: &QueuedProposal,
) -> Result<(), &'static str> {
    const NO_ADMIN: &str = "the server let a member that is no admin change the group";
    let by = match queued.sender() {
        Sender::Member(leaf) => before.get(&leaf.u32()).ok_or("the server let a stranger propose")?,
        Sender::External(_) if matches!(queued.proposal(), Proposal::Remove(_)) => return Ok(()),
        Sender::External(_) => return Err("the server proposes what it may not"),
        // Parts of an external commit are for `check_joiner`.
        _ => return Ok(()),
    };
    let is_admin = policy.admins.contains(&by.pseudonym);
    match queued.proposal() {
        Proposal::Add(add) => {
            let added = pseudonym(add.key_package().leaf_node().credential())
                .ok_or("the server let a member add somebody without a pseudonym")?;
            let is_taken =
                policy.admins.contains(&added) || before.values().any(|leaf| leaf.pseudonym == added);
            match (added == by.pseudonym, is_admin, is_taken) {
                (true, ..) | (false, true, false) => Ok(()),
                (false, true, true) => Err("the server let an admin add somebody as another member"),
                (false, false, _) => Err(NO_ADMIN),
            }
        }
        Proposal::Remove(remove) => {
            let removed = before.get(&remove.removed().u32());
            let is_own = removed.is_some_and(|removed| removed.pseudonym == by.pseudonym);
            if is_own || is_admin { Ok(()) } else { Err(NO_ADMIN) }
        }
        Proposal::GroupContextExtensions(_) if !is_admin => Err(NO_ADMIN),
        Proposal::GroupContextExtensions(_) | Proposal::Update(_) | Proposal::SelfRemove => Ok(()),
        _ => Err("the server let a member propose what is not done here"),
    }
}

/// Checks that each user that is not here yet is added by one client: the others' leaves may be somebody else's, who has seen
/// its KeyPackage.
fn check_newcomers(before: &HashMap<u32, Leaf>, commit: &StagedCommit) -> Result<(), &'static str> {
    let here: HashSet<_> = before.values().map(|leaf| leaf.pseudonym).collect();
    let added = commit
        .add_proposals()
        .filter_map(|add| pseudonym(add.add_proposal().key_package().leaf_node().credential()));
    let mut newcomers = HashSet::new();
    for user in added {
        if !here.contains(&user) && !newcomers.insert(user) {
            return Err("the server let somebody be added as another one who was added");
        }
    }
    Ok(())
}

/// Checks that a leaf comes in as one of its user's: a key of the user vouched for it, or it takes its
/// own old place with the same key.
fn check_joiner(
    before: &HashMap<u32, Leaf>,
    commit: &StagedCommit,
    leaf: &Leaf,
    signed: &[u8],
    voucher: &[u8],
) -> Result<(), &'static str> {
    for remove in commit.remove_proposals() {
        let removed = before.get(&remove.remove_proposal().removed().u32());
        if removed.is_none_or(|removed| removed.pseudonym != leaf.pseudonym) {
            return Err("the server let somebody in that removes another member");
        }
    }
    let comes_back =
        before.values().any(|old| old.pseudonym == leaf.pseudonym && old.leaf_key == leaf.leaf_key);
    let vouched = user_key(before.values(), leaf.pseudonym)
        .is_some_and(|key| key.public_key.verify(signed, &Signature::new(voucher.to_vec())).is_ok());
    if comes_back || vouched { Ok(()) } else { Err("the server let somebody in whom nobody vouched for") }
}

/// Checks that a member's new leaf is the same user's, on the same key.
fn check_new_leaf(group: &PublicGroup, index: LeafNodeIndex, new: &LeafNode) -> Result<(), &'static str> {
    let old = group.leaf(index).ok_or("the server let a stranger change a leaf")?;
    if old.credential() != new.credential() {
        // Pseudonyms are what admins are named by.
        return Err("the server let a member take another pseudonym");
    }
    if old.signature_key() != new.signature_key() {
        // Links are of leaf keys: nobody would know any more whose device it is (AS-13).
        return Err("the server let a member take another leaf key");
    }
    Ok(())
}

/// The users' keys that leaves have.
fn user_keys<'a>(leaves: impl IntoIterator<Item = &'a Leaf>) -> Vec<(Pseudonym, UserKey)> {
    leaves.into_iter().filter_map(|leaf| Some((leaf.pseudonym, leaf.user_key?))).collect()
}

/// The text for a rule that the server let somebody break.
fn broken(rule: BrokenRule) -> &'static str {
    match rule {
        BrokenRule::AddressShared => "the server let two members have one address",
        BrokenRule::TwoUserKeys => "the server let a user have two keys",
        BrokenRule::UserKeyTakenBack => "the server let a member take a user's key back",
        BrokenRule::UserKeyAhead => "the server let a member use up the numbers of its user's keys",
    }
}

/// Checks that another user is removed whole: a device left behind would know the user's key, and let
/// the others in again.
fn check_whole_users(
    before: &HashMap<u32, Leaf>,
    commit: &StagedCommit,
    own: Pseudonym,
    after: &[Leaf],
) -> Result<(), &'static str> {
    for remove in commit.remove_proposals() {
        let removed = before.get(&remove.remove_proposal().removed().u32());
        let Some(user) = removed.map(|removed| removed.pseudonym) else { continue };
        let by_member = matches!(remove.sender(), Sender::Member(_));
        if by_member && user != own && after.iter().any(|leaf| leaf.pseudonym == user) {
            return Err("the server let an admin remove a part of a user");
        }
    }
    Ok(())
}

/// Checks the group that a commit leads to.
fn check_after(
    before_policy: &GroupPolicy,
    before: &HashMap<u32, Leaf>,
    removed: &HashSet<u32>,
    after_policy: &GroupPolicy,
    after: &[Leaf],
) -> Result<(), &'static str> {
    if before_policy.state_secret != after_policy.state_secret {
        return Err("the server let a member change the group's secret");
    }
    if !after.iter().any(|leaf| after_policy.admins.contains(&leaf.pseudonym)) {
        return Err("the server let the last admin go");
    }
    let old = |is_removed: bool| -> Vec<GroupLeaf> {
        let found = before.iter().filter(|(index, _)| removed.contains(*index) == is_removed);
        found.filter_map(|(_, leaf)| leaf.in_group()).collect()
    };
    let (staying, gone) = (old(false), old(true));
    let after: Option<Vec<_>> = after.iter().map(Leaf::in_group).collect();
    let after = after.ok_or("the server let a member have no address")?;
    check_leaves(&staying, &gone, &after).map_err(broken)
}

/// Judges a message of a group as every member does that receives it: a commit, or a proposal that comes when others wait.
///
/// # Errors
/// The reason why members refuse it.
#[cfg(feature = "lab")]
pub fn judge_message<'a>(
    group: &PublicGroup,
    waiting: impl Iterator<Item = &'a QueuedProposal>,
    message: &'a ProcessedMessage,
) -> Result<(), &'static str> {
    match (message.content(), message.sender()) {
        (ProcessedMessageContent::StagedCommitMessage(commit), Sender::Member(leaf)) => {
            check_commit(group, commit, &Committer::Member(*leaf))
        }
        (ProcessedMessageContent::StagedCommitMessage(commit), _) => {
            let leaf = commit.update_path_leaf_node().ok_or("who joins brings a leaf")?;
            let leaf_key =
                mls::public_key(leaf.signature_key().as_slice()).ok_or("a leaf's key is malformed")?;
            let id =
                GroupId::from_mls(group.group_id().as_slice()).map_err(|_| "the group is not Postern's")?;
            let signed = to_join(&id, message.epoch().as_u64(), &leaf_key);
            let voucher = message.aad().to_vec();
            check_commit(group, commit, &Committer::Joiner { signed: &signed, voucher })
        }
        (ProcessedMessageContent::ProposalMessage(proposal), _) => check_waiting(group, waiting, proposal),
        _ => Ok(()),
    }
}
