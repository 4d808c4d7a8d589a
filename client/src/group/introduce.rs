//! Telling newcomers the group's title, and the others who came.

use postern_protocol::ds::GroupId;

use super::{links, message::Content, outbox, record, state::GroupState};
use crate::{error::Result, store::Tx};

/// The most members that one message introduces: each takes up to a kilobyte, and a message has 64.
const AT_ONCE: usize = 40;

/// Says the introduction that newcomers wait for, if one is due. From then on they do not wait.
pub(crate) fn introduce(tx: &Tx<'_>, group: &GroupState) -> Result<()> {
    if !record::introduced(tx, &group.id)? {
        return Ok(());
    }
    let (title, titled) = record::numbered_title(tx, &group.id)?;
    let attributes_key = record::attributes_key(tx, &group.id)?;
    let mut newcomers = links::take_newcomers(tx, &group.id)?;
    let members: Vec<_> = group.leaf_keys().collect();
    newcomers.retain(|entry| members.contains(&entry.leaf_key));
    loop {
        let rest = newcomers.split_off(newcomers.len().min(AT_ONCE));
        let title = title.clone();
        let introduction = Content::Introduction { title, titled, roster: newcomers, attributes_key };
        outbox::push(tx, &group.id, &introduction)?;
        if rest.is_empty() {
            return Ok(());
        }
        newcomers = rest;
    }
}

/// The groups whose newcomers wait for an introduction by this device.
pub(crate) fn waiting_groups(tx: &Tx<'_>) -> Result<Vec<GroupId>> {
    record::unintroduced(tx)
}
