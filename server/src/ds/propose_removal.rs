//! DS-induced removals (DS-10): the DS proposes, as external sender, to remove members whose queue is gone, here or at
//! another homeserver, whose homeserver the operator blocked, or that have not committed for long; the next commit must
//! include the proposals. The DS proposes after it answered the request that revealed such members, with that request's
//! state key; if it fails, the next request is the next chance. Nobody pays for it, so it reads a group's tree once for
//! all of them, and not again in an epoch for those that it could not remove.
//!
//! That a queue elsewhere is gone shows when its homeserver answers, without a state key: the address waits as a digest
//! for the group's next request.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use postern_protocol::{
    Address, StateKey, ds::GroupId, federation::Deliveries, name::Domain, push::Urgency, qs::QueuePayload,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::Row;

use super::{
    Ds,
    delivery::Delivery,
    handshake,
    roster::{Member, Roster},
    stored::{LoadedGroup, OpenError},
};
use crate::{
    database::{SqlOutcome, outcome},
    federation::outbox,
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
type Digest = [u8; 32];

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

/// Members that deliveries do not reach any more, as a message showed.
#[derive(Default)]
pub struct Unreachable {
    /// Addresses here that accept nothing any more.
    addresses: HashSet<Address>,
    /// Domains that the operator does not let this server deal with.
    domains: HashSet<Domain>,
    /// Digests of addresses elsewhere that accepted nothing any more when a delivery came there.
    digests: HashSet<Digest>,
}

impl Unreachable {
    /// Reads it from a row of `ds.submit_message`.
    ///
    /// # Errors
    /// A fault: the database returned something of another length.
    pub fn of(row: &Row, domains: HashSet<Domain>) -> Result<Self, Failure> {
        let gone = row.get::<_, Vec<&[u8]>>("gone").into_iter();
        let elsewhere = row.get::<_, Vec<&[u8]>>("gone_elsewhere").into_iter();
        Ok(Self {
            addresses: gone.map(Address::try_from).collect::<Result<_, _>>().map_err(Failure::fault)?,
            domains,
            digests: elsewhere.map(Digest::try_from).collect::<Result<_, _>>().map_err(Failure::fault)?,
        })
    }
}

/// The removals that a message makes due.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Due {
    leaves: Vec<u32>,
    /// Digests of addresses elsewhere that no member has any more, or only one whose removal is proposed already.
    outdated: Vec<Digest>,
}

/// The removals that the DS would like after a message; `digest` is that of an address at another domain.
pub fn due(
    roster: &Roster,
    mut unreachable: Unreachable,
    digest: impl Fn(&Domain, &Address) -> Digest,
    committed_before: Option<u32>,
) -> Due {
    let members = roster.members().iter().filter(|member| !member.record.removal_proposed);
    let leaves = members.filter(|member| {
        let silent = committed_before.is_some_and(|day| member.record.active < day);
        let is_unreachable = match &member.domain {
            None => unreachable.addresses.contains(&member.address),
            Some(domain) => {
                // Each digest takes some microseconds.
                let is_filed = !unreachable.digests.is_empty()
                    && unreachable.digests.remove(&digest(domain, &member.address));
                is_filed || unreachable.domains.contains(domain)
            }
        };
        silent || is_unreachable
    });
    let leaves = leaves.map(|member| member.leaf).collect();
    Due { leaves, outdated: unreachable.digests.into_iter().collect() }
}

/// Proposes removals in the background, in the epoch that the group has now. A removal that cannot be proposed (the last
/// admin's, say) is skipped.
pub fn propose(ds: &Ds, group_id: &GroupId, epoch: u64, key: &StateKey, due: Due) {
    let Due { leaves, outdated } = due;
    let leaves = ds.removals.possible(group_id, epoch, &leaves);
    if leaves.is_empty() && outdated.is_empty() {
        return;
    }
    let Some(turn) = ds.removals.turn(group_id) else { return };
    let (ds, group_id, key) = (ds.clone(), group_id.clone(), *key);
    tokio::spawn(async move {
        let _turn = turn;
        if let Err(failure) = forget(&ds, &group_id, &outdated).await {
            tracing::warn!("could not forget addresses that are gone: {failure}");
        }
        if !leaves.is_empty()
            && let Err(failure) = propose_all(&ds, &group_id, &key, &leaves).await
        {
            tracing::warn!("could not propose the removal of members: {failure}");
        }
    });
}

/// Forgets addresses elsewhere that are gone.
async fn forget(ds: &Ds, group_id: &GroupId, digests: &[Digest]) -> Result<(), Failure> {
    if digests.is_empty() {
        return Ok(());
    }
    let group = outbox::group_digest(&ds.home, group_id);
    let digests: Vec<&[u8]> = digests.iter().map(Digest::as_slice).collect();
    let sql = "SELECT ds.forget_gone($1, $2)";
    ds.home.database.for_chores().query_one(sql, &[&group.as_slice(), &digests]).await?;
    Ok(())
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
                // All of them are one delivery to each homeserver.
                let most = (Deliveries::MOST_ADDRESSES / group.roster.members().len().max(1)).max(1);
                let leaves = &leaves[..leaves.len().min(most)];
                let (proposals, impossible) =
                    handshake::propose_removals(&mut group, leaves, &rules, keys, ds.now())
                        .map_err(Failure::fault)?;
                let next = (!proposals.is_empty()).then(|| stored.seal_removal(key, &group));
                let mut delivery = Delivery::default();
                for proposal in proposals {
                    let to = group.roster.members().iter().map(Member::recipient);
                    delivery.add(&QueuePayload::Message(proposal), Urgency::VeryLow, to);
                }
                let outgoing = delivery.seal(&ds.home, group_id);
                Ok(Some((group.roster, delivery, outgoing, impossible, next)))
            }
            // The group was replaced by another one.
            Err(OpenError::WrongKey) => Ok(None),
            Err(error) => Err(Failure::from(error)),
        };
        let Ok(proposed) = ds.home.compute_if_idle(removals) else { return Ok(()) };
        let Some((roster, delivery, outgoing, impossible, next)) = proposed? else { return Ok(()) };
        ds.removals.remember(group_id, stored.epoch(), impossible);
        let Some(next) = next else { return Ok(()) };
        let (addresses, parts, payloads, urgencies) = delivery.here();
        let (lanes, outbox_domains, ids, sealed) = outgoing.columns();
        let group_digest = outbox::group_digest(&ds.home, group_id);
        let elsewhere = leaves.iter().filter_map(|leaf| roster.member(*leaf));
        let elsewhere = elsewhere.filter(|member| member.record.removal_proposed);
        let digest = |member: &Member| {
            Some(outbox::address_digest(&ds.home, member.domain.as_ref()?, &member.address))
        };
        let gone: Vec<_> = elsewhere.filter_map(digest).collect();
        let gone: Vec<&[u8]> = gone.iter().map(Digest::as_slice).collect();
        let state = next.tree.len() + next.roster.as_ref().map_or(0, Vec::len);
        let bytes = state + delivery.bytes() + outgoing.bytes();
        let row = ds
            .home
            .database
            .for_bytes(bytes as u64)
            .query_one(
                "SELECT outcome FROM ds.propose_removal($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14,
                                                        $15, $16)",
                &[
                    &ds.home.domain.as_str(),
                    &group_id.id().as_slice(),
                    &stored.sql_epoch(),
                    &stored.revision(),
                    &next.roster,
                    &next.tree,
                    &addresses,
                    &parts,
                    &payloads,
                    &urgencies,
                    &lanes,
                    &outbox_domains,
                    &ids,
                    &sealed,
                    &group_digest.as_slice(),
                    &gone,
                ],
            )
            .await?;
        if ProposeRemovalOutcome::of(&row)? == ProposeRemovalOutcome::Proposed {
            if !outgoing.is_empty() {
                ds.outbox.ring();
            }
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
            domain: None,
            user_key: None,
            record: LeafRecord::new(None, active, 0),
        }
    }

    fn domain() -> Domain {
        "b.example".parse().unwrap()
    }

    /// The digest of an address, as far as this is about it.
    fn digest(domain: &Domain, address: &Address) -> Digest {
        let of_domain = domain.as_str().as_bytes()[0];
        address.as_bytes().map(|byte| byte ^ of_domain)
    }

    #[test]
    fn who_is_silent_or_gone_is_due_once() {
        let mut roster = Roster::new((0..4).map(|leaf| member(leaf, 100 + u32::from(leaf))).collect());
        let due = |roster: &Roster, gone: &[u8], committed_before| {
            let addresses = gone.iter().map(|number| Address::new([*number; 32])).collect();
            let unreachable = Unreachable { addresses, ..Unreachable::default() };
            due(roster, unreachable, digest, committed_before).leaves
        };
        let nobody = &[];
        assert!(due(&roster, nobody, None).is_empty(), "an application message shows nobody's silence");
        assert!(due(&roster, nobody, Some(100)).is_empty());
        assert_eq!(due(&roster, nobody, Some(102)), [0, 1]);
        let gone = &[3, 9];
        assert_eq!(due(&roster, gone, None), [3]);
        assert_eq!(due(&roster, gone, Some(101)), [0, 3]);
        roster.note_proposed_removal(3);
        assert_eq!(due(&roster, gone, Some(101)), [0]);
    }

    #[test]
    fn who_is_gone_elsewhere_or_blocked_is_due_once_and_what_nobody_has_is_forgotten() {
        let elsewhere = |leaf| Member { domain: Some(domain()), ..member(leaf, 100) };
        let other = Member { domain: Some("c.example".parse().unwrap()), ..member(4, 100) };
        let mut roster = Roster::new(vec![member(0, 100), elsewhere(1), elsewhere(2), elsewhere(3), other]);
        roster.note_proposed_removal(3);
        let filed = [0, 1, 3, 4, 9].map(|number| digest(&domain(), &Address::new([number; 32])));
        let unreachable = || Unreachable { digests: filed.into(), ..Unreachable::default() };
        let mut found = due(&roster, unreachable(), digest, None);
        found.outdated.sort_unstable();
        let mut outdated = vec![filed[0], filed[2], filed[3], filed[4]];
        outdated.sort_unstable();
        // An address here is not elsewhere, one elsewhere is another domain's, and what is proposed is not filed again.
        assert_eq!(found, Due { leaves: vec![1], outdated });

        let blocked = Unreachable { domains: [domain()].into(), ..Unreachable::default() };
        assert_eq!(due(&roster, blocked, digest, None), Due { leaves: vec![1, 2], outdated: Vec::new() });
        let addresses = [0, 1, 4].map(|number| Address::new([number; 32])).into();
        let here = Unreachable { addresses, ..Unreachable::default() };
        assert_eq!(due(&roster, here, digest, None).leaves, [0], "those elsewhere have other ones");
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
