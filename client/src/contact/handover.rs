//! Contacts for a new device of this user (AS-7).

use serde::{Deserialize, Serialize};

use super::contacts::{self, SharedContact};
use crate::{
    error::Result,
    identity::{self, KnownIdentity},
    store::Tx,
};

/// What this device knows of the user's contacts. Whom the user blocks is with the secrets of the friendship.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContactsHandover {
    contacts: Vec<SharedContact>,
}
