//! Contacts as they are shown.

use std::collections::BTreeMap;

use postern_protocol::name::UserName;

use super::{contacts, friendship::Friendship, requests};
use crate::{error::Result, identity, store::Tx};

/// A user that this one has to do with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    pub user: UserName,
    /// Whether this user may add the user's devices to groups.
    pub may_be_added: bool,
    /// Whether the user may add this one's devices to groups.
    pub may_add: bool,
    /// Whether the user was asked, and has not decided.
    pub asked: bool,
    pub blocked: bool,
    /// Whether a person compared the safety number, and the identity was not replaced since.
    pub verified: bool,
    /// Whether the identity was started anew, or the AS shows another one, and no person has accepted that yet: then
    /// nothing that was agreed holds.
    pub reset: bool,
}

/// All contacts, by name: users that gave or were given a friendship, were asked for it, are blocked, or were
/// contacts before a reset.
pub(crate) fn list(tx: &Tx<'_>) -> Result<Vec<Contact>> {
    let mut found = BTreeMap::new();
    for user in contacts::users(tx)? {
        let agreed = contacts::find(tx, &user)?;
        found.insert(user, agreed);
    }
    let blocks = Friendship::load(tx)?.secrets.blocks.clone();
    let asked = requests::asked(tx)?;
    for user in asked.iter().chain(blocks.users()) {
        found.entry(user.clone()).or_default();
    }
    let mut contacts = Vec::new();
    for (user, agreed) in found {
        let known = identity::known(tx, &user)?;
        let contact = Contact {
            may_be_added: agreed.as_ref().is_some_and(|agreed| agreed.friend.is_some()),
            may_add: agreed.is_some_and(|agreed| agreed.given),
            asked: asked.contains(&user),
            blocked: blocks.contains(&user),
            verified: known.is_some_and(|known| known.verified),
            reset: known.is_some_and(|known| known.reset_pending),
            user,
        };
        if contact.may_be_added || contact.may_add || contact.asked || contact.blocked || contact.reset {
            contacts.push(contact);
        }
    }
    Ok(contacts)
}
