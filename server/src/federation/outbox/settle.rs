//! The end of an attempt that was answered: what was taken leaves the outbox, and numberings are compared.

use std::collections::HashMap;

use postern_protocol::{
    federation::{DeliveriesReceived, DeliveryState},
    problem::LastDelivery,
};

use super::{
    address_digest,
    attempt::AttemptError,
    claim::{Claim, Content},
    reception::gone_addresses,
    sealed::digest_of_group,
};
use crate::{
    database::{SqlOutcome, outcome},
    federation::Federation,
};

outcome! {
    pub SettleLaneOutcome: "federation.settle_lane_outcome" {
        Settled = "settled",
        Outdated = "outdated",
    }
}

outcome! {
    pub CompareLaneOutcome: "federation.compare_lane_outcome" {
        Settled = "settled",
        Same = "same",
        Renewed = "renewed",
        Outdated = "outdated",
    }
}

impl Federation {
    /// Takes the deliveries that the other homeserver answered for out of the outbox.
    pub(super) async fn settle(
        &self,
        claim: &Claim,
        contents: &[Content],
        received: &DeliveriesReceived,
        is_slow: bool,
    ) -> Result<(), AttemptError> {
        let place = contents.len() - 1;
        let last = claim.sql_first() + i64::try_from(place).expect("it is less than 64");
        let last_id = contents[place].id(&claim.ids[place]);
        let (mut refused, mut reasons) = (Vec::new(), Vec::new());
        let (mut groups, mut addresses, mut taken_groups) = (Vec::new(), Vec::new(), Vec::new());
        for ((content, outcome), id) in contents.iter().zip(&received.outcomes).zip(&claim.ids) {
            let is_malformed = outcome.state == DeliveryState::Malformed;
            let reason = content.refused.as_deref().or(is_malformed.then_some("malformed"));
            // A repeat, too: an empty one has an id of its own, so it is that which the other homeserver has.
            if let Some(reason) = reason {
                refused.push(id.as_bytes().as_slice());
                reasons.push(reason);
            }
            if outcome.state != DeliveryState::Delivered {
                continue;
            }
            let group = digest_of_group(&self.home, &content.delivery.group_id);
            let gone = gone_addresses(&content.delivery, outcome).ok_or(AttemptError::Answer)?;
            if gone.len() < content.delivery.addresses.len() {
                taken_groups.push(group);
            }
            groups.extend(gone.iter().map(|_| group));
            addresses.extend(gone.iter().map(|address| address_digest(&self.home, &claim.domain, address)));
        }
        let is_taken = received.outcomes.iter().any(|outcome| outcome.state != DeliveryState::Malformed);
        let groups: Vec<&[u8]> = groups.iter().map(<[u8; 32]>::as_slice).collect();
        let addresses: Vec<&[u8]> = addresses.iter().map(<[u8; 32]>::as_slice).collect();
        let taken_groups: Vec<&[u8]> = taken_groups.iter().map(<[u8; 32]>::as_slice).collect();
        let row = self
            .home
            .database
            .query_one(
                "SELECT outcome, reported
                   FROM federation.settle_lane($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
                &[
                    &claim.domain.as_str(),
                    &claim.lane,
                    &claim.holder.as_slice(),
                    &claim.instance.as_bytes().as_slice(),
                    &last,
                    &last_id.as_bytes().as_slice(),
                    &refused,
                    &reasons,
                    &groups,
                    &addresses,
                    &taken_groups,
                    &is_taken,
                    &is_slow,
                ],
            )
            .await?;
        if !refused.is_empty() {
            tracing::warn!(
                "deliveries to another homeserver were set aside: operator.set_aside() lists them"
            );
        }
        match SettleLaneOutcome::of(&row)? {
            SettleLaneOutcome::Settled => {
                tracing::debug!("deliveries were taken");
                let reported = row.get::<_, Vec<&[u8]>>("reported");
                self.note_taken(claim, contents, received, &reported).await
            }
            SettleLaneOutcome::Outdated => Ok(()),
        }
    }

    /// Forgets that addresses were gone, where they took a delivery now: in groups of which some were.
    async fn note_taken(
        &self,
        claim: &Claim,
        contents: &[Content],
        received: &DeliveriesReceived,
        reported: &[&[u8]],
    ) -> Result<(), AttemptError> {
        // The last delivery to an address counts.
        let mut is_gone = HashMap::new();
        let delivered = contents.iter().zip(&received.outcomes);
        for (Content { delivery, .. }, outcome) in
            delivered.filter(|(_, outcome)| outcome.state == DeliveryState::Delivered)
        {
            let group = digest_of_group(&self.home, &delivery.group_id);
            if reported.contains(&group.as_slice()) {
                let gone = |place| outcome.gone.binary_search(&place).is_ok();
                is_gone.extend(
                    (0..).zip(&delivery.addresses).map(|(place, address)| ((group, address), gone(place))),
                );
            }
        }
        let (groups, addresses): (Vec<_>, Vec<_>) = is_gone
            .into_iter()
            .filter(|(_, is_gone)| !is_gone)
            .map(|((group, address), _)| (group, address_digest(&self.home, &claim.domain, address)))
            .unzip();
        if groups.is_empty() {
            return Ok(());
        }
        let groups: Vec<&[u8]> = groups.iter().map(<[u8; 32]>::as_slice).collect();
        let addresses: Vec<&[u8]> = addresses.iter().map(<[u8; 32]>::as_slice).collect();
        let sql = "SELECT federation.note_taken($1, $2)";
        self.home.database.query_one(sql, &[&groups, &addresses]).await?;
        Ok(())
    }

    /// Compares the lane with the last delivery that the other homeserver took.
    pub(super) async fn compare(&self, claim: &Claim, last: LastDelivery) -> Result<(), AttemptError> {
        let id = last.id.as_ref().map(|id| id.as_bytes().as_slice());
        // Numbers are added up in the database.
        let number = i64::try_from(last.number).ok().filter(|number| *number < i64::MAX / 4);
        let number = number.ok_or(AttemptError::Answer)?;
        let row = self
            .home
            .database
            .query_one(
                "SELECT outcome FROM federation.compare_lane($1, $2, $3, $4, $5, $6, $7)",
                &[
                    &claim.domain.as_str(),
                    &claim.lane,
                    &claim.holder.as_slice(),
                    &claim.instance.as_bytes().as_slice(),
                    &claim.sql_first(),
                    &number,
                    &id,
                ],
            )
            .await?;
        match CompareLaneOutcome::of(&row)? {
            CompareLaneOutcome::Settled | CompareLaneOutcome::Outdated => Ok(()),
            // One that says so again and again is tried as seldom as one that fails.
            CompareLaneOutcome::Same => Err(AttemptError::Numbering),
            CompareLaneOutcome::Renewed => {
                tracing::warn!(
                    "the numbering of deliveries to another homeserver begins anew, as after a restore of either \
                     database: what waits may come twice (operator.neighbours())"
                );
                Err(AttemptError::Numbering)
            }
        }
    }
}
