//! Commits: the group's next state, and the recipients.

use std::collections::{BTreeSet, HashSet};

use openmls::prelude::{ExternalSender, KeyPackage, LeafNodeIndex, QueuedProposal, Sender, StagedCommit};
use postern_protocol::{PublicKey, Signature, Welcome, mls::to_join, name::Domain};

use super::{
    Effect, Joiner, Next, Submission,
    committable::{check_path, judge},
    content::{content, proposed},
    others,
};
use crate::{
    clock::DAY,
    ds::{
        group::{self, DeliveryService, Group},
        policy::{Actor, Change, View},
        roster::{self, LeafRecord, Roster},
    },
    http::Failure,
    mls::{self, InvalidMls, leaf::signature_key, path},
};

/// Makes the group's next state of a commit that was validated as MLS.
pub(super) fn apply(
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
    let mut content = content(&commit, by, waiting)?;
    let added: Vec<KeyPackage> =
        commit.add_proposals().map(|add| add.add_proposal().key_package().clone()).collect();
    let updated = updated(&commit);
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
    let roster = Roster::of(group.mls.leaves(), ds.home, record)?.following(&group.roster);
    // Those before read of an Add, and those after it have their Welcome: the first member elsewhere among them.
    let is_elsewhere = [&group.roster, &roster].iter().any(|roster| !roster.domains().is_empty());
    for (_, expires) in &added {
        submission.rules.check_lifetime(*expires, ds.today, is_elsewhere)?;
    }
    // A group keeps the key that it began with, or takes one that is in use.
    let keys = ds.external_sender_keys.now();
    let accept = |sender: &ExternalSender| carried.contains(sender) || keys.accept(sender);
    let policy = group::policy(group.mls.extensions(), accept)?;
    if let Actor::Joiner(leaf) = by {
        let signed = to_join(submission.group_id, old_epoch, &submission.signer);
        content.voucher = vouching_user(&group.roster, roster.member(leaf), &signed, voucher);
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
    let caught_up = caught_up(&group.roster, &roster);
    let replaced = match by {
        Actor::Joiner(_) => content.changes.iter().filter_map(removed_leaf).collect(),
        _ => HashSet::new(),
    };
    let recipients = others(&group.roster, by, &replaced);
    let domains = brought(&group.roster, &roster, committer, epoch);
    submission.rules.check_domains(&group.roster, &domains, &roster)?;
    let mut group = Group { group_info: group_info.clone(), proposals: Vec::new(), roster, policy, ..group };
    let stays = |leaf| group.roster.member(leaf).is_some_and(|member| member.record.since < epoch);
    group.attributes.retain(|leaf, _| stays(*leaf));
    group.attach(submission.attributes, |of| of.leaf == committer || of.record.since == epoch)?;
    Ok(Next { group, effect: Effect::Commit, recipients, joiners, domains, caught_up })
}

/// The leaves with new keys by Updates that a commit takes along.
fn updated(commit: &StagedCommit) -> HashSet<u32> {
    let leaf = |sender: &Sender| match sender {
        Sender::Member(leaf) => Some(leaf.u32()),
        _ => None,
    };
    commit.update_proposals().filter_map(|update| leaf(update.sender())).collect()
}

/// The key of a joiner's user, if it vouches for the joiner.
fn vouching_user(
    before: &Roster,
    joiner: Option<&roster::Member>,
    signed: &[u8],
    voucher: &[u8],
) -> Option<PublicKey> {
    let user = before.user_key(joiner?.pseudonym)?.public_key;
    user.verify(signed, &Signature::new(voucher.to_vec())).is_ok().then_some(user)
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
                let recipient = roster.by_key(*leaf_key)?.recipient();
                Some(Joiner { recipient, leaf_key: *leaf_key, expires: *expires })
            };
            Ok(added.iter().filter_map(joiner).collect())
        }
        _ => Err(InvalidMls::Refused(
            "a commit that adds members must come with a Welcome for exactly these members",
        )),
    }
}

fn leaf_key_and_expiry(key_package: &KeyPackage) -> Result<(PublicKey, u32), InvalidMls> {
    let key = signature_key(key_package.leaf_node())?;
    let last_day = key_package.life_time().not_after() / DAY;
    Ok((key, u32::try_from(last_day).unwrap_or(u32::MAX)))
}

/// Joiners that a commit lets do without the tree of their Welcome, with the epoch that added them.
fn caught_up(before: &Roster, after: &Roster) -> Vec<(u64, PublicKey)> {
    let caught_up = |member: &roster::Member| {
        let waits = |next: &roster::Member| next.record.joined == member.record.joined;
        let joined = member.record.joined.filter(|_| !after.member(member.leaf).is_some_and(waits));
        joined.map(|epoch| (epoch, member.signature_key))
    };
    before.members().iter().filter_map(caught_up).collect()
}

/// The domains of other homeservers to which a commit, which begins an epoch, brings leaves.
fn brought(before: &Roster, after: &Roster, committer: u32, epoch: u64) -> BTreeSet<Domain> {
    let stays = |member: &&roster::Member| {
        let old = before.member(member.leaf).filter(|_| member.record.since < epoch);
        old.is_some_and(|old| member.leaf != committer || member.domain == old.domain)
    };
    let brought = after.members().iter().filter(|member| !stays(member));
    brought.filter_map(|member| member.domain.clone()).collect()
}

fn removed_leaf(change: &Change) -> Option<u32> {
    match change {
        Change::Remove(leaf) => Some(*leaf),
        _ => None,
    }
}
