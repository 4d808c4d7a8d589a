//! DS-induced removals (DS-10): the DS proposes, as external sender, to remove members whose queue is gone or that have
//! not committed for long; the next commit must include the proposals. The DS proposes after it answered the request
//! that revealed such members, with that request's state key; if it fails, the next request is the next chance. Nobody
//! pays for it, so it reads a group's tree once for all of them, and not again in an epoch for those that it could not
//! remove.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use postern_protocol::{Address, StateKey, ds::GroupId, encoding::Encoding, qs::QueuePayload};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    Ds, handshake,
    roster::Roster,
    stored::{LoadedGroup, OpenError},
};
use crate::{
    database::{SqlOutcome, outcome},
    http::Failure,
    recent::Recent,
};

outcome! {
    pub ProposeRemovalOutcome: "ds.propose_removal_outcome" {
        Proposed = "proposed",
        Stale = "stale",
    }
}

/// Removals proposed after one request, at most, so that a long silence does not make it pay for everyone's.
const AT_ONCE: usize = 8;
/// Attempts at the proposals of one request: others may change the group meanwhile.
const ATTEMPTS: usize = 5;
/// Groups in which removals are proposed at a time: each one's tree is in memory meanwhile.
const GROUPS: usize = 4;
/// Removals that are remembered as impossible.
const REMEMBERED: usize = 20_000;

type Id = [u8; 16];

/// The removals of this process. They wait for nothing: what is not proposed now, the next message asks for again.
pub struct Removals {
    /// The groups in which it is about to propose.
    under_way: Mutex<HashSet<Id>>,
    permits: Arc<Semaphore>,
    /// Group, epoch and leaf.
    impossible: Mutex<Recent<(Id, u64, u32)>>,
}

impl Default for Removals {
    fn default() -> Self {
        Self {
            under_way: Mutex::default(),
            permits: Arc::new(Semaphore::new(GROUPS)),
            impossible: Mutex::new(Recent::new(REMEMBERED)),
        }
    }
}

impl Removals {
    /// The leaves, as many as may be removed after one request, but for those that cannot be removed in this epoch.
    fn possible(&self, group_id: &GroupId, epoch: u64, leaves: &[u32]) -> Vec<u32> {
        let impossible = lock(&self.impossible);
        let is_possible = |leaf: &u32| !impossible.contains(&(*group_id.id(), epoch, *leaf));
        leaves.iter().copied().filter(is_possible).take(AT_ONCE).collect()
    }

    fn remember(&self, group_id: &GroupId, epoch: u64, impossible: Vec<u32>) {
        let mut memory = lock(&self.impossible);
        impossible.into_iter().for_each(|leaf| memory.insert((*group_id.id(), epoch, leaf)));
    }

    /// The turn of a group; none if it has one already, or too many others have.
    fn turn(self: &Arc<Self>, group_id: &GroupId) -> Option<Turn> {
        let permit = self.permits.clone().try_acquire_owned().ok()?;
        let is_new = lock(&self.under_way).insert(*group_id.id());
        is_new.then(|| Turn { removals: self.clone(), group_id: *group_id.id(), _permit: permit })
    }
}

/// The time in which removals are proposed in a group.
struct Turn {
    removals: Arc<Removals>,
    group_id: Id,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Turn {
    fn drop(&mut self) {
        lock(&self.removals.under_way).remove(&self.group_id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The leaves that the DS would like to be removed after a message.
pub fn due(roster: &Roster, gone: &HashSet<Address>, committed_before: Option<u32>) -> Vec<u32> {
    let members = roster.members().iter().filter(|member| !member.record.removal_proposed);
    members
        .filter(|member| {
            let silent = committed_before.is_some_and(|day| member.record.active < day);
            silent || gone.contains(&member.address)
        })
        .map(|member| member.leaf)
        .collect()
}

/// Proposes removals in the background, in the epoch that the group has now. A removal that cannot be proposed (the last
/// admin's, say) is skipped.
pub fn propose(ds: &Ds, group_id: &GroupId, epoch: u64, key: &StateKey, due: &[u32]) {
    let leaves = ds.removals.possible(group_id, epoch, due);
    if leaves.is_empty() {
        return;
    }
    let Some(turn) = ds.removals.turn(group_id) else { return };
    let (ds, group_id, key) = (ds.clone(), group_id.clone(), *key);
    tokio::spawn(async move {
        let _turn = turn;
        if let Err(failure) = propose_all(&ds, &group_id, &key, &leaves).await {
            tracing::warn!("could not propose the removal of members: {failure}");
        }
    });
}

async fn propose_all(ds: &Ds, group_id: &GroupId, key: &StateKey, leaves: &[u32]) -> Result<(), Failure> {
    for _ in 0..ATTEMPTS {
        let Some(LoadedGroup { stored, rules, .. }) = LoadedGroup::load_unpaid(&ds.home, group_id).await?
        else {
            return Ok(());
        };
        let removals = || match stored.open_group(key, ds.now()) {
            Ok(mut group) => {
                let keys = &ds.external_sender_keys;
                let (proposals, impossible) =
                    handshake::propose_removals(&mut group, leaves, &rules, keys, ds.now())
                        .map_err(Failure::fault)?;
                let next = (!proposals.is_empty()).then(|| stored.seal_removal(key, &group));
                Ok(Some((group, proposals, impossible, next)))
            }
            // The group was replaced by another one.
            Err(OpenError::WrongKey) => Ok(None),
            Err(error) => Err(Failure::from(error)),
        };
        let Ok(proposed) = ds.home.compute_if_idle(removals) else { return Ok(()) };
        let Some((group, proposals, impossible, next)) = proposed? else { return Ok(()) };
        ds.removals.remember(group_id, stored.epoch(), impossible);
        let Some(next) = next else { return Ok(()) };
        let recipients: Vec<&[u8]> =
            group.roster.members().iter().map(|member| member.address.as_bytes().as_slice()).collect();
        let payloads =
            proposals.into_iter().map(|proposal| Encoding::Cbor.encode(&QueuePayload::Message(proposal)));
        let payloads: Vec<Vec<u8>> = payloads.collect();
        let delivered = payloads.iter().map(Vec::len).sum::<usize>() * recipients.len();
        let bytes = delivered + next.tree.len() + next.roster.as_ref().map_or(0, Vec::len);
        let row = ds
            .home
            .database
            .for_bytes(bytes as u64)
            .query_one(
                "SELECT outcome FROM ds.propose_removal($1, $2, $3, $4, $5, $6, $7, $8)",
                &[
                    &ds.home.domain.as_str(),
                    &group_id.id().as_slice(),
                    &stored.sql_epoch(),
                    &stored.revision(),
                    &next.roster,
                    &next.tree,
                    &recipients,
                    &payloads,
                ],
            )
            .await?;
        if ProposeRemovalOutcome::of(&row)? == ProposeRemovalOutcome::Proposed {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use postern_protocol::{PublicKey, mls::Pseudonym};

    use super::super::roster::{LeafRecord, Member};
    use super::*;

    fn member(leaf: u8, active: u32) -> Member {
        Member {
            leaf: leaf.into(),
            pseudonym: Pseudonym([leaf; 16]),
            signature_key: PublicKey::new([leaf; 32]),
            address: Address::new([leaf; 32]),
            user_key: None,
            record: LeafRecord::new(None, active, 0),
        }
    }

    #[test]
    fn who_is_silent_or_gone_is_due_once() {
        let mut roster = Roster::new((0..4).map(|leaf| member(leaf, 100 + u32::from(leaf))).collect());
        let nobody = HashSet::new();
        assert!(due(&roster, &nobody, None).is_empty(), "an application message shows nobody's silence");
        assert!(due(&roster, &nobody, Some(100)).is_empty());
        assert_eq!(due(&roster, &nobody, Some(102)), [0, 1]);
        let gone = HashSet::from([Address::new([3; 32]), Address::new([9; 32])]);
        assert_eq!(due(&roster, &gone, None), [3]);
        assert_eq!(due(&roster, &gone, Some(101)), [0, 3]);
        roster.note_proposed_removal(3);
        assert_eq!(due(&roster, &gone, Some(101)), [0]);
    }

    #[test]
    fn what_is_impossible_in_an_epoch_stands_in_nobodys_way() {
        let (removals, all) = (Removals::default(), (0..50).collect::<Vec<_>>());
        let [one, other] = [[1; 16], [2; 16]].map(|id| GroupId::new(id, "example.org".parse().unwrap()));
        assert_eq!(removals.possible(&one, 7, &all), (0..8).collect::<Vec<_>>());
        removals.remember(&one, 7, (0..8).collect());
        assert_eq!(removals.possible(&one, 7, &all), (8..16).collect::<Vec<_>>());
        for (group, epoch) in [(&one, 8), (&other, 7)] {
            assert_eq!(removals.possible(group, epoch, &all), (0..8).collect::<Vec<_>>());
        }
    }

    #[test]
    fn removals_are_proposed_in_a_few_groups_at_a_time_and_in_each_once() {
        let removals = Arc::new(Removals::default());
        let group = |number| GroupId::new([number; 16], "example.org".parse().unwrap());
        let turns: Vec<_> = (0..5).map(|number| removals.turn(&group(number))).collect();
        assert_eq!(turns.iter().flatten().count(), GROUPS);
        drop(turns);
        let first = removals.turn(&group(0));
        assert!(first.is_some() && removals.turn(&group(0)).is_none());
        assert!(removals.turn(&group(1)).is_some());
        drop(first);
        assert!(removals.turn(&group(0)).is_some());
    }
}
