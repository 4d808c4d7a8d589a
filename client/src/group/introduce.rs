//! Telling newcomers the group's title and its members.

use postern_protocol::ds::GroupId;

use super::{
    links,
    message::{Content, RosterEntry},
    outbox, record,
    state::GroupState,
};
use crate::{error::Result, store::Tx};

/// Says the introduction that newcomers wait for, if one is due. From then on they do not wait.
pub(crate) fn introduce(tx: &Tx<'_>, group: &GroupState) -> Result<()> {
    let Some(title) = record::introduced(tx, &group.id)? else { return Ok(()) };
    let mut roster = Vec::new();
    for leaf_key in group.leaf_keys() {
        if let Some(link) = links::link(tx, &group.id, &leaf_key)? {
            roster.push(RosterEntry { leaf_key, link });
        }
    }
    let attributes_key = record::attributes_key(tx, &group.id)?;
    outbox::push(tx, &group.id, &Content::Introduction { title, roster, attributes_key }).map(drop)
}

/// The groups whose newcomers wait for an introduction by this device.
pub(crate) fn waiting_groups(tx: &Tx<'_>) -> Result<Vec<GroupId>> {
    record::unintroduced(tx)
}
