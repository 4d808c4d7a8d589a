//! Queuing Service: pseudonymous mailboxes, and the KeyPackages of their owners. The database keeps, seals and orders
//! the messages; this module checks requests, seals KeyPackages and waits for wake-ups.

pub mod add_addresses;
mod batch_signer;
pub mod count_key_packages;
pub mod create_queue;
pub mod delete_queue;
pub mod delivery_figures;
pub mod deposit;
pub mod dequeue;
pub mod fetch_key_packages;
pub mod publish_key_packages;
pub mod published_keys;
pub mod push;
pub mod receive_deliveries;
pub mod remove_key_packages;
pub mod revoke_addresses;
pub mod rotate_friendship_token;
pub mod rotate_keys;
pub mod set_push_policy;
pub mod subscribe_push;
pub mod upkeep;
mod wakeups;

use std::sync::Arc;

use crate::{config::FederationConfig, federation::pace::Pace, home::Home};
use batch_signer::BatchSigner;
use delivery_figures::DeliveryFigures;
use push::Pusher;
use receive_deliveries::Turns;
use wakeups::Wakeups;

/// The state of the QS.
#[derive(Clone)]
pub struct Qs {
    home: Home,
    /// Signs batches of KeyPackages (QS-6).
    batch_signer: Arc<BatchSigner>,
    /// The long-polls that wait in this process (QS-9).
    pub wakeups: Wakeups,
    /// Wakes sleeping devices (QS-10).
    pub pusher: Pusher,
    deliveries: DeliveryFigures,
    /// Deliveries of other homeservers that are under way.
    incoming: Arc<Turns>,
    /// The pace at which they are taken.
    pace: Arc<Pace>,
}

impl Qs {
    /// Loads the signing keys, after making one if it is due.
    ///
    /// # Errors
    /// A database that does not answer, keys that do not open under the master key.
    pub async fn load(
        home: &Home,
        config: &FederationConfig,
        pusher: Pusher,
        deliveries: DeliveryFigures,
    ) -> anyhow::Result<Self> {
        let batch_signer = Arc::new(BatchSigner::load(home).await?);
        Ok(Self {
            home: home.clone(),
            batch_signer,
            wakeups: Wakeups::default(),
            pusher,
            deliveries,
            incoming: Arc::new(Turns::new(home.limits.bodies_bytes)),
            pace: Arc::new(Pace::new(config.received_per_second)),
        })
    }

    /// Makes a signing key if one is due, and loads those in the database.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub async fn renew_signing_keys(&self) -> anyhow::Result<()> {
        self.batch_signer.renew(&self.home).await
    }

    /// Makes a key for push services if one is due, and loads those in the database.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub async fn renew_push_keys(&self) -> anyhow::Result<()> {
        self.pusher.renew_keys().await
    }
}

#[cfg(test)]
pub fn outcomes() -> Vec<crate::database::outcome::Declared> {
    use crate::database::outcome::declared;
    vec![
        declared::<add_addresses::AddAddressesOutcome>(),
        declared::<count_key_packages::CountKeyPackagesOutcome>(),
        declared::<create_queue::CreateQueueOutcome>(),
        declared::<delete_queue::DeleteQueueOutcome>(),
        declared::<deposit::DepositOutcome>(),
        declared::<dequeue::DequeueOutcome>(),
        declared::<fetch_key_packages::FetchKeyPackagesOutcome>(),
        declared::<publish_key_packages::PublishKeyPackagesOutcome>(),
        declared::<push::AddApplicationServerKeyOutcome>(),
        declared::<receive_deliveries::ReceiveDeliveriesOutcome>(),
        declared::<remove_key_packages::RemoveKeyPackagesOutcome>(),
        declared::<revoke_addresses::RevokeAddressesOutcome>(),
        declared::<rotate_friendship_token::RotateFriendshipTokenOutcome>(),
        declared::<rotate_keys::RotateKeysOutcome>(),
        declared::<set_push_policy::SetPushPolicyOutcome>(),
        declared::<subscribe_push::SubscribePushOutcome>(),
        declared::<upkeep::KeepUpOutcome>(),
        declared::<upkeep::StartUpkeepOutcome>(),
    ]
}
