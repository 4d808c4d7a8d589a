//! DS-induced removals (DS-10): the DS proposes, as external sender, that members go whose
//! queue is gone or who have not committed for long; the next committer has to take that
//! along. It happens after the request that showed it was answered, with that request's
//! state key, and is left to the next request if it fails.

use std::collections::HashSet;

use postern_protocol::{Address, StateKey, ds::GroupId, encoding::Encoding, qs::QueuePayload};

use super::{
    group::{Ds, Group},
    handshake,
    roster::Roster,
    state::{self, Kind, Place},
};
use crate::app::App;

/// So that a long silence does not make one request pay for everyone's removal.
const AT_ONCE: usize = 8;
/// Others may change the group meanwhile.
const ATTEMPTS: usize = 5;

/// Whom to propose to remove after a message.
pub fn due(roster: &Roster, gone: &HashSet<Address>, committed_before: Option<u32>) -> Vec<u32> {
    let members = roster.members().iter().filter(|member| !member.mark.evicted);
    members
        .filter(|member| {
            let silent = committed_before.is_some_and(|day| member.mark.active < day);
            silent || gone.contains(&member.address)
        })
        .map(|member| member.leaf)
        .take(AT_ONCE)
        .collect()
}

/// Goes on by itself. What cannot be proposed (a last admin's removal, what was proposed
/// already) is left.
pub fn propose(app: &App, group_id: &GroupId, key: &StateKey, leaves: Vec<u32>) {
    let (app, group_id, key) = (app.clone(), group_id.clone(), *key);
    tokio::spawn(async move {
        for leaf in leaves {
            if let Err(error) = propose_one(&app, &group_id, &key, leaf).await {
                tracing::warn!("a removal could not be proposed: {error:#}");
            }
        }
    });
}

async fn propose_one(app: &App, group_id: &GroupId, key: &StateKey, leaf: u32) -> anyhow::Result<()> {
    let id = group_id.id().as_slice();
    for _ in 0..ATTEMPTS {
        let Some(row) = app
            .database
            .query_opt("SELECT epoch, revision, state FROM ds.load_group($1, true)", &[&id])
            .await?
        else {
            return Ok(());
        };
        let place = Place {
            group_id: group_id.id(),
            epoch: u64::try_from(row.get::<_, i64>("epoch"))?,
            revision: row.get("revision"),
            kind: Kind::Tree,
        };
        // Only if the group was replaced by another one.
        let Ok(state) = state::open(key, place, row.get("state")) else { return Ok(()) };
        let ds = Ds::now(app);
        let group = Group::decode(&state, ds)?;
        let Some((group, proposal)) = handshake::evict(group, leaf, &app.senders)? else { return Ok(()) };
        let recipients: Vec<&[u8]> =
            group.roster.members().iter().map(|member| member.address.as_bytes().as_slice()).collect();
        let payload = Encoding::Cbor.encode(&QueuePayload::Message(proposal));
        let roster = Place { revision: 0, kind: Kind::Roster, ..place };
        let tree = Place { revision: place.revision + 1, ..place };
        let row = app
            .database
            .query_one(
                "SELECT outcome FROM ds.propose_removal($1, $2, $3, $4, $5, $6, $7, $8)",
                &[
                    &app.domain.as_str(),
                    &id,
                    &i64::try_from(place.epoch)?,
                    &place.revision,
                    &state::seal(key, roster, &group.roster.encode()),
                    &state::seal(key, tree, &group.encode()),
                    &recipients,
                    &payload,
                ],
            )
            .await?;
        if row.get::<_, &str>("outcome") == "proposed" {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use postern_protocol::{PublicKey, mls::Pseudonym};

    use super::super::roster::{Mark, Member};
    use super::*;

    fn member(leaf: u8, active: u32) -> Member {
        Member {
            leaf: leaf.into(),
            pseudonym: Pseudonym([leaf; 16]),
            signature_key: PublicKey::new([leaf; 32]),
            address: Address::new([leaf; 32]),
            user_key: None,
            mark: Mark::new(None, active, 0),
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
        roster.mark_evicted(3);
        assert_eq!(due(&roster, &gone, Some(101)), [0]);
        let roster = Roster::new((0..50).map(|leaf| member(leaf, 0)).collect());
        assert_eq!(due(&roster, &nobody, Some(1)).len(), AT_ONCE);
    }
}
