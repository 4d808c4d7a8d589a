//! Delivery Service: groups, each member under a pseudonym. It validates as a member would, accepts only actions that
//! the group's policy allows, and hands state and messages to the database in one call, which orders them.

pub mod create_group;
pub mod delete_group;
mod delivery;
pub mod external_sender_keys;
pub mod fetch_group_info;
pub mod fetch_welcome_tree;
pub mod group;
pub mod handshake;
mod policy;
mod propose_removal;
pub mod reserve_group_id;
pub mod roster;
pub mod rules;
pub mod sealed;
mod stored;
pub mod submit_message;
pub mod upkeep;

use std::sync::Arc;

use postern_protocol::problem::{Problem, ProblemType};

use crate::{
    clock::{day, today},
    federation::outbox::OutboxBell,
    home::Home,
    http::Failure,
    qs::{delivery_figures::DeliveryFigures, push::Pusher},
};
use external_sender_keys::ExternalSenderKeys;
use group::DeliveryService;
use policy::Violation;

/// The state of the DS.
#[derive(Clone)]
pub struct Ds {
    home: Home,
    /// Proposes removals in groups (DS-10).
    external_sender_keys: Arc<ExternalSenderKeys>,
    /// The removals that this process is about to propose, and those that it could not.
    removals: Arc<propose_removal::Removals>,
    /// Wakes sleeping devices that a message was delivered to (QS-10).
    pusher: Pusher,
    /// Tells the outbox of deliveries to other homeservers (FED-4).
    outbox: OutboxBell,
    /// For deliveries to other homeservers, until they are in the outbox.
    sealing: delivery::Memory,
    deliveries: DeliveryFigures,
}

impl Ds {
    /// Loads the external sender keys, after making one if it is due.
    ///
    /// # Errors
    /// A database that does not answer, keys that do not open under the master key.
    pub async fn load(
        home: &Home,
        pusher: Pusher,
        outbox: OutboxBell,
        deliveries: DeliveryFigures,
    ) -> anyhow::Result<Self> {
        let external_sender_keys = Arc::new(ExternalSenderKeys::load(home).await?);
        let (removals, sealing) = Default::default();
        Ok(Self { home: home.clone(), external_sender_keys, removals, pusher, outbox, sealing, deliveries })
    }

    /// Makes an external sender key if one is due, and loads those in the database.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub async fn renew_external_sender_keys(&self) -> anyhow::Result<()> {
        self.external_sender_keys.renew(&self.home).await
    }

    /// The facts on which the validity of a group depends, as of today.
    fn now(&self) -> DeliveryService<'_> {
        DeliveryService {
            home: &self.home.domain,
            external_sender_keys: &self.external_sender_keys,
            today: day(today()),
        }
    }
}

/// The problem of a message that brings a leaf to a homeserver that the operator blocked.
fn homeserver_blocked() -> Problem {
    let detail =
        "the operator of the group's server does not let it deal with the domain of a delivery address";
    Problem::with_detail(ProblemType::HomeserverBlocked, detail)
}

impl From<Violation> for Problem {
    fn from(violation: Violation) -> Self {
        Self::with_detail(ProblemType::PolicyViolation, violation)
    }
}

impl From<Violation> for Failure {
    fn from(violation: Violation) -> Self {
        Self::Refused(violation.into())
    }
}

#[cfg(test)]
pub fn outcomes() -> Vec<crate::database::outcome::Declared> {
    use crate::database::outcome::declared;
    vec![
        declared::<create_group::CreateGroupOutcome>(),
        declared::<delete_group::DeleteGroupOutcome>(),
        declared::<external_sender_keys::AddSenderKeyOutcome>(),
        declared::<propose_removal::ProposeRemovalOutcome>(),
        declared::<reserve_group_id::ReserveGroupIdOutcome>(),
        declared::<submit_message::SubmitMessageOutcome>(),
    ]
}
