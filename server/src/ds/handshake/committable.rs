//! The next commit: whether members can make one of what waits (DS-13), and the judgement of any commit by the group that
//! it leads to.

use std::collections::BTreeSet;

use openmls::prelude::{LeafNodeIndex, QueuedProposal};
use postern_protocol::{leaves::check_generations, name::Domain};

use super::{content::proposed, view};
use crate::{
    ds::{
        group::{DeliveryService, Group},
        policy::{self, Actor, Change, Commit, Proposed, View, Violation},
        roster::{LeafRecord, Roster},
        rules::{Rules, Size},
    },
    http::Failure,
};

/// Checks that members can commit what waits, the last proposal included. The next commit has to include all of it, so
/// each proposal is judged, when it comes, by what judges the commits to come (DS-13): with everything that waits, and
/// by itself, since its neighbours may lapse.
pub(super) fn check_committable(
    group: &Group,
    rules: &Rules,
    ds: DeliveryService<'_>,
) -> Result<(), Failure> {
    let waiting = group.mls.proposals().map_err(Failure::fault)?;
    try_next_commit(group, &waiting, rules, ds)?;
    match waiting.as_slice() {
        [_, .., last] => try_next_commit(group, std::slice::from_ref(last), rules, ds),
        _ => Ok(()),
    }
}

/// Checks the domains of a group's members once all that waits is committed, if the last of it moves its sender to one of
/// `domains`. Nothing else would: the next commit takes it along.
pub(super) fn check_moves(
    group: &Group,
    domains: &BTreeSet<Domain>,
    rules: &Rules,
    ds: DeliveryService<'_>,
) -> Result<(), Failure> {
    if domains.is_empty() {
        return Ok(());
    }
    let waiting = group.mls.proposals().map_err(Failure::fault)?;
    let leaves = group.mls.leaves_after(&waiting)?;
    let after = Roster::of(leaves.into_iter(), ds.home, |_, _| LeafRecord::new(None, ds.today, 0))?;
    Ok(rules.check_domains(&group.roster, domains, &after)?)
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
pub(super) fn check_path(
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
    if check(rules.longest_path(group.mls.suite(), recipients)).is_ok() {
        return Ok(());
    }
    let paths = group.mls.paths(waiting).map_err(Failure::fault)?;
    Ok(check(paths.into_values().min().unwrap_or_default())?)
}

/// Judges a commit by the group that it leads to: one that came, or one that a member could make.
pub(super) fn judge(
    before: &Group,
    waiting: &[Proposed],
    commit: &Commit,
    after: View<'_>,
    rules: &Rules,
) -> Result<(), Failure> {
    rules.check_members(before.mls.suite(), Size::of(&before.roster), Size::of(after.roster))?;
    rules.check_clients(&before.roster, after.roster)?;
    policy::check_commit(view(before), waiting, commit, after)?;
    // A commit that came was merged by then, so that the epoch is the one that it begins; a proposal is judged by the
    // epoch that it comes in.
    let epoch = before.mls.epoch();
    check_generations(&before.roster.user_keys(), &after.roster.user_keys(), epoch)
        .map_err(Violation::from)?;
    Ok(())
}
