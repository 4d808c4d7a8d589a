//! DS-induced removals (DS-10): the DS proposes, as external sender, to remove members whose queue is gone or that have
//! not committed for long; the next commit must include the proposal. The DS proposes after it answered the request
//! that revealed such a member, with that request's state key; if it fails, the next request is the next chance.

use std::collections::HashSet;

use postern_protocol::{Address, StateKey, ds::GroupId, encoding::Encoding, qs::QueuePayload};

use super::{
    Ds, handshake,
    roster::Roster,
    sealed::Kind,
    stored::{LoadedGroup, OpenError},
};
use crate::{
    database::{SqlOutcome, outcome},
    http::Failure,
};

outcome! {
    pub ProposeRemovalOutcome: "ds.propose_removal_outcome" {
        Proposed = "proposed",
        Stale = "stale",
    }
}

/// Removals proposed after one request, at most, so that a long silence does not make it pay for everyone's.
const AT_ONCE: usize = 8;
/// Attempts at one proposal: others may change the group meanwhile.
const ATTEMPTS: usize = 5;

/// The leaves whose removal the DS proposes after a message.
pub fn due(roster: &Roster, gone: &HashSet<Address>, committed_before: Option<u32>) -> Vec<u32> {
    let members = roster.members().iter().filter(|member| !member.record.removal_proposed);
    members
        .filter(|member| {
            let silent = committed_before.is_some_and(|day| member.record.active < day);
            silent || gone.contains(&member.address)
        })
        .map(|member| member.leaf)
        .take(AT_ONCE)
        .collect()
}

/// Proposes removals in the background. A removal that cannot be proposed (the last admin's, or one that is pending
/// already) is skipped.
pub fn propose(ds: &Ds, group_id: &GroupId, key: &StateKey, leaves: Vec<u32>) {
    let (ds, group_id, key) = (ds.clone(), group_id.clone(), *key);
    tokio::spawn(async move {
        for leaf in leaves {
            if let Err(failure) = propose_one(&ds, &group_id, &key, leaf).await {
                tracing::warn!("could not propose the removal of a member: {failure}");
            }
        }
    });
}

async fn propose_one(ds: &Ds, group_id: &GroupId, key: &StateKey, leaf: u32) -> Result<(), Failure> {
    for _ in 0..ATTEMPTS {
        let Some(LoadedGroup { stored, rules, .. }) =
            LoadedGroup::load(&ds.home, group_id, Kind::Tree).await?
        else {
            return Ok(());
        };
        let removal = || match stored.open_group(key, ds.now()) {
            Ok(group) => {
                let keys = &ds.external_sender_keys;
                handshake::propose_removal(group, leaf, &rules, keys, ds.now()).map_err(Failure::fault)
            }
            // The group was replaced by another one.
            Err(OpenError::WrongKey) => Ok(None),
            Err(error) => Err(error.into()),
        };
        // The next message of the group asks for the removal again.
        let Ok(proposed) = ds.home.compute(removal).await else { return Ok(()) };
        let Some((group, proposal)) = proposed? else { return Ok(()) };
        let recipients: Vec<&[u8]> =
            group.roster.members().iter().map(|member| member.address.as_bytes().as_slice()).collect();
        let payload = Encoding::Cbor.encode(&QueuePayload::Message(proposal));
        let next = stored.seal_removal(key, &group);
        let bytes = payload.len() as u64 * recipients.len() as u64;
        let row = ds
            .home
            .database
            .for_bytes(bytes)
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
                    &payload,
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
    fn who_is_silent_or_gone_is_due_once_and_only_some_at_a_time() {
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
        let roster = Roster::new((0..50).map(|leaf| member(leaf, 0)).collect());
        assert_eq!(due(&roster, &nobody, Some(1)).len(), AT_ONCE);
    }
}
