//! Contacts for a new device of this user (AS-7).

use serde::{Deserialize, Serialize};

use super::contacts::{self, SharedContact};
use crate::{
    error::Result,
    group,
    identity::{self, Pin},
    store::Tx,
};

/// Knowledge of other users that this device has: agreements with contacts, and the identities that lookups showed of contacts, of
/// users that a person verified, and of members of groups. The users that are blocked go with the secrets of the friendship.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContactsHandover {
    pins: Vec<Pin>,
    contacts: Vec<SharedContact>,
}

/// The contacts, and what is known of their identities and of those of members, for another device of this user.
pub(crate) fn handover(tx: &Tx<'_>) -> Result<ContactsHandover> {
    let pins = identity::pins(tx, contacts::users(tx)?, &group::users_of_members(tx)?)?;
    Ok(ContactsHandover { pins, contacts: contacts::all(tx)? })
}

/// Takes over what another device of this user knows.
pub(crate) fn take_over(tx: &Tx<'_>, handover: ContactsHandover) -> Result<()> {
    identity::take_over_pins(tx, handover.pins)?;
    for contact in &handover.contacts {
        contacts::merge(tx, contact, tx.now())?;
    }
    Ok(())
}
