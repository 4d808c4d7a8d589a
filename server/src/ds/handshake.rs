//! Handshake messages: a commit or proposal is validated as a member would, checked against the
//! policy, and turned into the group's next state and the deliveries. No I/O: the same request on
//! the same state has the same outcome.

use std::collections::HashSet;

use openmls::prelude::{
    ExternalSender, KeyPackage, LeafNodeIndex, Proposal, PublicMessageIn, QueuedProposal, Sender,
    StagedCommit,
};
use postern_protocol::{
    Address, GroupInfo, MlsMessage, PublicKey, Signature, Welcome,
    ds::{GroupId, LeafAttributes},
};

use super::{
    external_sender_keys::ExternalSenderKeys,
    group::{self, DeliveryService, Group},
    policy::{self, Actor, Change, Commit, Proposed, View, Violation},
    roster::{self, LeafRecord, Roster},
    rules::Rules,
};
use crate::{
    clock::DAY,
    http::Failure,
    mls::{
        self, Handshake, InvalidMls,
        leaf::{pseudonym, signature_key},
        path,
    },
};

/// A handshake message and the other parts of its request.
#[derive(Clone, Copy)]
pub struct Submission<'a> {
    pub group_id: &'a GroupId,
    pub rules: &'a Rules,
    /// The message's bytes.
    pub message: &'a MlsMessage,
    pub group_info: Option<&'a GroupInfo>,
    pub welcome: Option<&'a Welcome>,
    pub attributes: &'a [LeafAttributes],
    /// The key that signed the request.
    pub signer: PublicKey,
}

/// The result of a handshake message: the group's next state and the recipients.
pub struct Next {
    pub group: Group,
    pub effect: Effect,
    /// Addresses for the message: every member before it but the sender.
    pub recipients: Vec<Address>,
    /// Recipients of the Welcome.
    pub joiners: Vec<Joiner>,
    /// Joiners that no longer need the tree of their Welcome, with the epoch that added them.
    pub caught_up: Vec<(u64, PublicKey)>,
}

/// The effect of a handshake message on the group's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// An epoch begins.
    Commit,
    /// One more proposal waits.
    Proposal,
    /// One more proposal waits, which removes its sender: the roster knows of it, too.
    Leave,
}

pub struct Joiner {
    pub address: Address,
    pub leaf_key: PublicKey,
    /// Day (since 1970) on which the KeyPackage expires.
    pub expires: u32,
}

/// # Errors
/// A problem if the message is invalid, or its sender may not do what it does.
pub fn handle(
    mut group: Group,
    message: PublicMessageIn,
    submission: Submission<'_>,
    ds: DeliveryService<'_>,
) -> Result<Next, Failure> {
    let signer = submission.signer;
    let waiting = group.mls.proposals().map_err(Failure::fault)?;
    if *message.sender() == Sender::NewMemberCommit {
        let Handshake::Commit(commit, voucher) = group.mls.validate(message, mls::LONGEST_LIFETIME)? else {
            return Err(InvalidMls::Refused("a client that joins by itself must send a commit").into());
        };
        let leaf_key = commit.update_path_leaf_node().map(|leaf| leaf.signature_key().as_slice());
        if leaf_key != Some(signer.as_bytes().as_slice()) {
            return Err(
                InvalidMls::Refused("the request must be signed with the same key as its message").into()
            );
        }
        let leaf = group.mls.joining_leaf(&commit)?;
        return apply(group, *commit, Actor::Joiner(leaf.u32()), &voucher, &waiting, submission, ds);
    }
    let (sender, handshake) = group.mls.validate_of_member(message, signer, mls::LONGEST_LIFETIME)?;
    let sender = Actor::Member(sender.u32());
    match handshake {
        Handshake::Commit(commit, _) => apply(group, *commit, sender, &[], &waiting, submission, ds),
        Handshake::Proposal(proposal) => {
            let proposed = proposed(&proposal)?;
            let waiting =
                waiting.iter().map(self::proposed).collect::<Result<Vec<_>, _>>().map_err(Failure::fault)?;
            policy::check_proposal(view(&group), &waiting, proposed)?;
            if submission.welcome.is_some() || submission.group_info.is_some() {
                return Err(
                    InvalidMls::Refused("a Welcome or a GroupInfo can be sent only with a commit").into()
                );
            }
            group.attach(submission.attributes, |_| false)?;
            group.mls.keep_proposal(*proposal)?;
            check_committable(&group, submission.rules, ds)?;
            group.proposals.push(submission.message.clone());
            let effect = match proposed.removes() {
                Some(leaf) => {
                    group.roster.note_proposed_removal(leaf);
                    Effect::Leave
                }
                None => Effect::Proposal,
            };
            let recipients = others(&group.roster, sender, &HashSet::new());
            Ok(Next { group, effect, recipients, joiners: Vec::new(), caught_up: Vec::new() })
        }
    }
}

/// Proposes the removal of leaves on the DS's behalf, and returns the proposals, which wait in the group now, and the
/// leaves that cannot be removed in this epoch: those that are not there, are to go anyway, or whose removal no member
/// could commit, because the group would lose its last admin, say.
pub fn propose_removals(
    group: &mut Group,
    leaves: &[u32],
    rules: &Rules,
    keys: &ExternalSenderKeys,
    ds: DeliveryService<'_>,
) -> anyhow::Result<(Vec<MlsMessage>, Vec<u32>)> {
    let (mut proposals, mut impossible) = (Vec::new(), Vec::new());
    for leaf in leaves {
        match propose_removal(group, *leaf, rules, keys, ds)? {
            Some(proposal) => proposals.push(proposal),
            None => impossible.push(*leaf),
        }
    }
    Ok((proposals, impossible))
}

fn propose_removal(
    group: &mut Group,
    leaf: u32,
    rules: &Rules,
    keys: &ExternalSenderKeys,
    ds: DeliveryService<'_>,
) -> anyhow::Result<Option<MlsMessage>> {
    let waiting = group.mls.proposals()?;
    let waiting = waiting.iter().map(proposed).collect::<Result<Vec<_>, _>>()?;
    let removal = Proposed { by: Actor::Server, change: Change::Remove(leaf) };
    let exists = group.roster.member(leaf).is_some();
    if !exists || policy::check_proposal(view(group), &waiting, removal).is_err() {
        return Ok(None);
    }
    let carried = group.mls.extensions().external_senders().and_then(|senders| senders.first());
    let message = carried.and_then(|carried| {
        keys.now().propose_removal(carried, group.mls.group_id(), group.mls.epoch(), leaf)
    });
    let Some(message) = message else { return Ok(None) };
    let parsed = mls::parse_handshake(&message)?;
    let Handshake::Proposal(proposal) = group.mls.validate(parsed, mls::LONGEST_LIFETIME)? else {
        return Ok(None);
    };
    let reference = proposal.proposal_reference_ref().clone();
    group.mls.keep_proposal(*proposal)?;
    if check_committable(group, rules, ds).is_err() {
        group.mls.drop_proposal(&reference)?;
        return Ok(None);
    }
    group.proposals.push(message.clone());
    group.roster.note_proposed_removal(leaf);
    Ok(Some(message))
}

/// Checks that members can commit what waits, the last proposal included. The next commit has to include all of it, so
/// each proposal is judged, when it comes, by what judges the commits to come (DS-13): with everything that waits, and
/// by itself, since its neighbours may lapse.
fn check_committable(group: &Group, rules: &Rules, ds: DeliveryService<'_>) -> Result<(), Failure> {
    let waiting = group.mls.proposals().map_err(Failure::fault)?;
    try_next_commit(group, &waiting, rules, ds)?;
    match waiting.as_slice() {
        [_, .., last] => try_next_commit(group, std::slice::from_ref(last), rules, ds),
        _ => Ok(()),
    }
}

/// Tries the commit that some member could make next if this were all that waits.
fn try_next_commit(
    group: &Group,
    waiting: &[QueuedProposal],
    rules: &Rules,
    ds: DeliveryService<'_>,
) -> Result<(), Failure> {
    let known = waiting.iter().map(proposed).collect::<Result<Vec<_>, _>>().map_err(Failure::fault)?;
    let commit = policy::next_commit(view(group), &known).ok_or(Violation::NoAdminLeft)?;
    let Actor::Member(by) = commit.by else { return Ok(()) };
    // The committer's own Update is judged along, as if its path brought the same.
    let own = Proposed { by: commit.by, change: Change::Update };
    let taken: Vec<_> = waiting
        .iter()
        .zip(known.iter().zip(&commit.takes))
        .filter(|(_, (proposed, taken))| **taken || **proposed == own)
        .map(|(proposal, _)| proposal)
        .collect();
    let bytes = group.mls.try_commit(LeafNodeIndex::new(by), &taken)?;
    check_path(group, group.roster.members().len(), bytes, waiting, rules)?;

    let leaves = group.mls.leaves_after(waiting)?;
    let record = |leaf, _| {
        let member = group.roster.member(leaf);
        member.map_or(LeafRecord::new(None, ds.today, 0), |member| member.record)
    };
    let mut roster = Roster::of(leaves.into_iter(), ds.home, record)?;
    roster.suppose_user_key(by);
    let after = View { policy: &group.policy, roster: &roster };
    judge(group, &known, &commit, after, rules)
}

/// Checks that a member can commit what waits, with a path, for so many recipients; `bytes` are those of the commit without
/// the path. The path itself is looked at only where the longest that there can be is too long: in a group that grew
/// before the operator lowered a limit.
fn check_path(
    group: &Group,
    recipients: usize,
    bytes: usize,
    waiting: &[QueuedProposal],
    rules: &Rules,
) -> Result<(), Failure> {
    let check = |path: usize| {
        rules.check_size(true, bytes + path)?;
        rules.check_delivery([(bytes + path, recipients)].into_iter())
    };
    if check(path::longest(group.mls.suite(), recipients)).is_ok() {
        return Ok(());
    }
    let paths = group.mls.paths(waiting).map_err(Failure::fault)?;
    Ok(check(paths.into_values().min().unwrap_or_default())?)
}

/// Judges a commit by the group that it leads to: one that came, or one that a member could make.
fn judge(
    before: &Group,
    waiting: &[Proposed],
    commit: &Commit,
    after: View<'_>,
    rules: &Rules,
) -> Result<(), Failure> {
    let members = (before.roster.members().len(), after.roster.members().len());
    rules.check_members(before.mls.suite(), members.0, members.1)?;
    rules.check_clients(&before.roster, after.roster)?;
    policy::check_commit(view(before), waiting, commit, after)?;
    Ok(())
}

fn apply(
    mut group: Group,
    commit: StagedCommit,
    by: Actor,
    voucher: &[u8],
    waiting: &[QueuedProposal],
    submission: Submission<'_>,
    ds: DeliveryService<'_>,
) -> Result<Next, Failure> {
    let old_epoch = group.mls.epoch();
    let known = waiting.iter().map(proposed).collect::<Result<Vec<_>, _>>().map_err(Failure::fault)?;
    let mut content = content(&commit, by, waiting, submission.signer)?;
    let added: Vec<KeyPackage> =
        commit.add_proposals().map(|add| add.add_proposal().key_package().clone()).collect();
    let updated: HashSet<u32> = commit
        .update_proposals()
        .filter_map(|update| match update.sender() {
            Sender::Member(leaf) => Some(leaf.u32()),
            _ => None,
        })
        .collect();
    let (Actor::Member(committer) | Actor::Joiner(committer)) = by else {
        return Err(Failure::fault(anyhow::anyhow!("the server does not commit")));
    };

    if !added.is_empty() {
        submission.rules.check_ciphersuite(group.mls.ciphersuite())?;
    }
    let carried = group.mls.extensions().external_senders().cloned().unwrap_or_default();
    group.mls.merge(commit)?;
    let epoch = group.mls.epoch();
    let added = added.iter().map(leaf_key_and_expiry).collect::<Result<Vec<_>, _>>()?;
    for (_, expires) in &added {
        submission.rules.check_lifetime(*expires, ds.today)?;
    }
    let record = |leaf, key| {
        if added.iter().any(|(added, _)| *added == key) {
            return LeafRecord::new(Some(epoch), ds.today, epoch);
        }
        let comes_in = by == Actor::Joiner(leaf);
        let old = group.roster.member(leaf).filter(|_| !comes_in).map(|member| member.record);
        let Some(old) = old else { return LeafRecord::of_joiner(ds.today, epoch) };
        if leaf == committer || updated.contains(&leaf) {
            return old.renewed(ds.today);
        }
        LeafRecord { removal_proposed: false, ..old }
    };
    let roster = Roster::of(group.mls.leaves(), ds.home, record)?;
    // A group keeps the key that it began with, or takes one that is in use.
    let keys = ds.external_sender_keys.now();
    let accept = |sender: &ExternalSender| carried.contains(sender) || keys.accept(sender);
    let policy = group::policy(group.mls.extensions(), accept)?;
    if let Actor::Joiner(leaf) = by {
        let user = roster.member(leaf).and_then(|joiner| group.roster.user_key(joiner.pseudonym));
        content.vouchers.extend(user.map(|user| user.public_key).filter(|user| {
            let signed = postern_protocol::mls::to_join(submission.group_id, old_epoch, &submission.signer);
            user.verify(&signed, &Signature::new(voucher.to_vec())).is_ok()
        }));
    }
    let after = View { policy: &policy, roster: &roster };
    judge(&group, &known, &content, after, submission.rules)?;
    if !added.is_empty() {
        check_path(&group, roster.members().len(), path::FRAME, &[], submission.rules)?;
    }

    let group_info = submission
        .group_info
        .ok_or(InvalidMls::Refused("a commit must come with the GroupInfo of the epoch that it begins"))?;
    group.mls.check_group_info(group_info, LeafNodeIndex::new(committer))?;
    let joiners = joiners(&added, &roster, submission.welcome, group.mls.ciphersuite())?;
    let caught_up = group
        .roster
        .members()
        .iter()
        .filter_map(|member| {
            let waits = |next: &roster::Member| next.record.joined == member.record.joined;
            let caught_up = !roster.member(member.leaf).is_some_and(waits);
            member.record.joined.filter(|_| caught_up).map(|epoch| (epoch, member.signature_key))
        })
        .collect();
    let replaced = match by {
        Actor::Joiner(_) => content.changes.iter().filter_map(removed_leaf).collect(),
        _ => HashSet::new(),
    };
    let recipients = others(&group.roster, by, &replaced);
    let mut group = Group { group_info: group_info.clone(), proposals: Vec::new(), roster, policy, ..group };
    let stays = |leaf| group.roster.member(leaf).is_some_and(|member| member.record.since < epoch);
    group.attributes.retain(|leaf, _| stays(*leaf));
    group.attach(submission.attributes, |of| of.leaf == committer || of.record.since == epoch)?;
    Ok(Next { group, effect: Effect::Commit, recipients, joiners, caught_up })
}

fn view(group: &Group) -> View<'_> {
    View { policy: &group.policy, roster: &group.roster }
}

/// The addresses of all members but the sender. Members that a commit removes get it, too, and learn of it.
fn others(roster: &Roster, sender: Actor, except: &HashSet<u32>) -> Vec<Address> {
    let is_sender = |leaf| sender == Actor::Member(leaf) || except.contains(&leaf);
    roster.members().iter().filter(|member| !is_sender(member.leaf)).map(|member| member.address).collect()
}

/// The content of a commit, as the policy sees it.
fn content(
    commit: &StagedCommit,
    by: Actor,
    waiting: &[QueuedProposal],
    signer: PublicKey,
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
    Ok(Commit { by, vouchers: vec![signer], changes, takes })
}

fn proposed(proposal: &QueuedProposal) -> Result<Proposed, InvalidMls> {
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

fn removed_leaf(change: &Change) -> Option<u32> {
    match change {
        Change::Remove(leaf) => Some(*leaf),
        _ => None,
    }
}

fn leaf_key_and_expiry(key_package: &KeyPackage) -> Result<(PublicKey, u32), InvalidMls> {
    let key = signature_key(key_package.leaf_node())?;
    let last_day = key_package.life_time().not_after() / DAY;
    Ok((key, u32::try_from(last_day).unwrap_or(u32::MAX)))
}

/// The added members, if the Welcome is for exactly as many.
fn joiners(
    added: &[(PublicKey, u32)],
    roster: &Roster,
    welcome: Option<&Welcome>,
    ciphersuite: u16,
) -> Result<Vec<Joiner>, InvalidMls> {
    match welcome {
        None if added.is_empty() => Ok(Vec::new()),
        Some(_) if added.is_empty() => {
            Err(InvalidMls::Refused("a Welcome can be sent only with a commit that adds members"))
        }
        Some(welcome) if mls::welcomed_members(welcome, ciphersuite)? == added.len() => {
            let joiner = |(leaf_key, expires): &(PublicKey, u32)| {
                let address = roster.by_key(*leaf_key).map(|member| member.address);
                address.map(|address| Joiner { address, leaf_key: *leaf_key, expires: *expires })
            };
            Ok(added.iter().filter_map(joiner).collect())
        }
        _ => Err(InvalidMls::Refused(
            "a commit that adds members must come with a Welcome for exactly these members",
        )),
    }
}
