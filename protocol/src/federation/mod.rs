//! The words between homeservers: who they are ([`Description`], FED-1), and what their groups have for members
//! elsewhere ([`Deliveries`], FED-4).

mod deliveries;
mod description;
mod slow_line;

use serde::{Deserialize, Serialize};

use crate::{Payload, name::Domain};
pub use deliveries::{
    Deliveries, DeliveriesReceived, Delivery, DeliveryOutcome, DeliveryState, NumberedDelivery,
};
pub use description::{
    DESCRIPTION_PATH, Description, DescriptionError, KeySignature, KnownKeys, MAX_DESCRIPTION_BYTES,
    MAX_KEYS, ServerKey, VERSION,
};

/// The answer to `GET /homeservers/{domain}` (200): the description of another domain's homeserver, in JSON, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HomeserverShown {
    pub description: Payload,
}

/// `POST /homeservers` (204); no token, signed by a key of the domain's homeserver. The homeserver that is asked looks at
/// the other one's description, and knows its keys from then on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntroduceServer {
    /// The domain of the homeserver that asks.
    pub domain: Domain,
}
