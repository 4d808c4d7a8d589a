//! Handshake messages: a commit or proposal is validated as a member would, checked against the
//! policy, and turned into the group's next state and the deliveries. No I/O: the same request on
//! the same state has the same outcome.

mod commit;
mod committable;
mod content;

use std::collections::{BTreeSet, HashSet};

use openmls::prelude::{LeafNode, Proposal, PublicMessageIn, QueuedProposal, Sender};
use postern_protocol::{
    GroupInfo, MlsMessage, PublicKey, Welcome,
    ds::{GroupId, LeafAttributes},
    name::Domain,
    problem::Problem,
};
use tls_codec::Size as _;

use self::{
    commit::apply,
    committable::{check_committable, check_moves},
    content::proposed,
};
use super::{
    external_sender_keys::ExternalSenderKeys,
    group::{DeliveryService, Group},
    policy::{self, Actor, Change, Proposed, View},
    roster::{self, Recipient, Roster},
    rules::Rules,
};
use crate::{
    http::Failure,
    mls::{self, Handshake, InvalidMls, leaf::Leaf},
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
    /// Recipients of the message: every member before it but the sender.
    pub recipients: Vec<Recipient>,
    /// Recipients of the Welcome.
    pub joiners: Vec<Joiner>,
    /// Domains of other homeservers to which the message brings a leaf: one that comes in, or moves there. The next
    /// commit takes an Update along that came before, so that its domain is judged when it comes, and not again.
    pub domains: BTreeSet<Domain>,
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

/// A member that a commit adds.
pub struct Joiner {
    pub recipient: Recipient,
    pub leaf_key: PublicKey,
    /// Day (since 1970) on which the KeyPackage expires.
    pub expires: u32,
}

/// Validates a handshake message, and makes the group's next state of it.
///
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
        let handshake = group.mls.validate(message, mls::LONGEST_LIFETIME)?;
        check_leaf_sizes(&handshake, &waiting, submission.rules)?;
        let Handshake::Commit(commit, voucher) = handshake else {
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
    check_leaf_key(&handshake, signer)?;
    check_leaf_sizes(&handshake, &waiting, submission.rules)?;
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
            let domains = moves_to(&group, &proposal, ds.home)?.into_iter().collect();
            group.mls.keep_proposal(*proposal)?;
            check_committable(&group, submission.rules, ds)?;
            check_moves(&group, &domains, submission.rules, ds)?;
            group.proposals.push(submission.message.clone());
            let effect = match proposed.removes() {
                Some(leaf) => {
                    group.roster.note_proposed_removal(leaf);
                    Effect::Leave
                }
                None => Effect::Proposal,
            };
            let recipients = others(&group.roster, sender, &HashSet::new());
            Ok(Next { group, effect, recipients, joiners: Vec::new(), domains, caught_up: Vec::new() })
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

fn view(group: &Group) -> View<'_> {
    View { policy: &group.policy, roster: &group.roster }
}

/// All members but the sender. Members that a commit removes get it, too, and learn of it.
fn others(roster: &Roster, sender: Actor, except: &HashSet<u32>) -> Vec<Recipient> {
    let is_sender = |leaf| sender == Actor::Member(leaf) || except.contains(&leaf);
    let others = roster.members().iter().filter(|member| !is_sender(member.leaf));
    others.map(roster::Member::recipient).collect()
}

/// Checks that a member's leaf keeps its signature key, with which the member signed the request. By that key members know
/// whose client it is: with another one a client that its user removed would have no name, and nobody would remove it
/// (AS-13).
fn check_leaf_key(handshake: &Handshake, signer: PublicKey) -> Result<(), InvalidMls> {
    let leaf = match handshake {
        Handshake::Commit(commit, _) => commit.update_path_leaf_node(),
        Handshake::Proposal(proposal) => match proposal.proposal() {
            Proposal::Update(update) => Some(update.leaf_node()),
            _ => None,
        },
    };
    if leaf.is_some_and(|leaf| leaf.signature_key().as_slice() != signer.as_bytes()) {
        return Err(InvalidMls::Refused("a leaf keeps its signature key for as long as it is in the group"));
    }
    Ok(())
}

/// Checks the sizes of the leaves that a message brings. Those of proposals that wait were checked when they came, and a limit
/// that was lowered since keeps no commit from taking them along (DS-13).
fn check_leaf_sizes(handshake: &Handshake, waiting: &[QueuedProposal], rules: &Rules) -> Result<(), Problem> {
    let waits = |proposal: &QueuedProposal| {
        let reference = proposal.proposal_reference_ref();
        waiting.iter().any(|other| other.proposal_reference_ref() == reference)
    };
    let check =
        |leaf: Option<&LeafNode>| leaf.map_or(Ok(()), |leaf| rules.check_leaf(leaf.tls_serialized_len()));
    match handshake {
        Handshake::Commit(commit, _) => {
            check(commit.update_path_leaf_node())?;
            let mut brought = commit.queued_proposals().filter(|proposal| !waits(proposal));
            brought.try_for_each(|proposal| check(leaf_of(proposal.proposal())))
        }
        Handshake::Proposal(proposal) => check(leaf_of(proposal.proposal())),
    }
}

/// The leaf that a proposal brings.
fn leaf_of(proposal: &Proposal) -> Option<&LeafNode> {
    match proposal {
        Proposal::Add(add) => Some(add.key_package().leaf_node()),
        Proposal::Update(update) => Some(update.leaf_node()),
        _ => None,
    }
}

/// The domain of another homeserver to which an Update moves its sender's leaf.
fn moves_to(group: &Group, proposal: &QueuedProposal, home: &Domain) -> Result<Option<Domain>, InvalidMls> {
    let (Proposal::Update(update), Sender::Member(leaf)) = (proposal.proposal(), proposal.sender()) else {
        return Ok(None);
    };
    let domain = roster::elsewhere(Leaf::read(update.leaf_node())?.delivery.domain, home);
    let stays = group.roster.member(leaf.u32()).is_some_and(|member| member.domain == domain);
    Ok(domain.filter(|_| !stays))
}
