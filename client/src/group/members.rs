//! Members of a group, as far as they are known.

use std::collections::HashSet;

use postern_protocol::{PublicKey, credential::ClientCredential, ds::GroupId, name::UserName};

use super::{links, record, state::GroupState};
use crate::{
    account::Account,
    error::{Error, Result},
    event::{self, Event, EventId, HistoryEntry, Member},
    history::{self, Kept},
    identity,
    store::Tx,
};

/// Every member as far as it is known.
pub(crate) fn members(tx: &Tx<'_>, group: &GroupState) -> Result<Vec<Member>> {
    group.leaf_keys().map(|leaf_key| resolve(tx, &group.id, leaf_key)).collect()
}

/// All devices of a user that the AS confirmed to be the user's, and with them whatever else is in the
/// same place: users are removed whole. This device is not among them, and of its own user only what was
/// confirmed.
pub(crate) fn devices_of(tx: &Tx<'_>, group: &GroupState, user: &UserName) -> Result<Vec<Member>> {
    let own = group.leaf.public_key();
    let mut members = members(tx, group)?;
    let is_theirs =
        |member: &Member| member.verified && member.user.as_ref() == Some(user) && member.leaf_key != own;
    let named: Vec<_> = members.iter().filter(|it| is_theirs(it)).map(|it| it.leaf_key).collect();
    let ours = group.of_same_users(&[own]);
    let others: Vec<_> = named.iter().filter(|leaf_key| !ours.contains(leaf_key)).copied().collect();
    let whole = group.of_same_users(&others);
    members.retain(|member| named.contains(&member.leaf_key) || whole.contains(&member.leaf_key));
    Ok(members)
}

/// The members that introduced themselves: their leaf keys, and the clients they are.
pub(crate) fn claims(tx: &Tx<'_>, group: &GroupState) -> Result<Vec<(PublicKey, ClientCredential)>> {
    let mut claims = Vec::new();
    for leaf_key in group.leaf_keys() {
        claims.extend(claim(tx, &group.id, &leaf_key)?.map(|claim| (leaf_key, claim)));
    }
    Ok(claims)
}

impl GroupState {
    /// How many devices of this user are in the group as users of their own.
    pub(crate) fn devices_apart(&self, tx: &Tx<'_>) -> Result<usize> {
        self.apart_of(tx, &identity::own_devices(tx)?)
    }

    /// How many of this user's `devices` are in places apart from this one's. They may have let others' devices in there,
    /// which are none of them.
    pub(super) fn apart_of(&self, tx: &Tx<'_>, devices: &[PublicKey]) -> Result<usize> {
        let own = self.of_same_users(&[self.leaf.public_key()]);
        let mut apart = HashSet::new();
        for (leaf_key, claim) in claims(tx, self)? {
            if !own.contains(&leaf_key) && devices.contains(&claim.client_key) {
                apart.insert(claim.client_key);
            }
        }
        Ok(apart.len())
    }
}

/// The events that were not told yet, oldest first, with the members in them as far as they are known by now.
pub(crate) fn pending_events(tx: &Tx<'_>) -> Result<Vec<(EventId, Event)>> {
    let mut pending = event::pending(tx)?;
    for (_, event) in &mut pending {
        name_members(tx, event)?;
    }
    Ok(pending)
}

/// The last messages and events that are kept of a group, oldest first, with the members in them as far as they are known
/// by now.
pub(crate) fn history(tx: &Tx<'_>, id: &GroupId, number: u64) -> Result<Vec<HistoryEntry>> {
    let kept = history::last(tx, id, number)?;
    let entry = |Kept { time, local_time, event }| {
        let mut event = Event::from_json(&event)?;
        name_members(tx, &mut event)?;
        Ok(HistoryEntry { time, local_time, event })
    };
    kept.into_iter().map(entry).collect()
}

/// Names the members in an event. A device that this one did not come in with is as it was when the event was recorded: the
/// link that it showed was not kept.
fn name_members(tx: &Tx<'_>, event: &mut Event) -> Result<()> {
    let Some(group) = event.group().cloned() else { return Ok(()) };
    for member in event.members_mut() {
        let known = resolve(tx, &group, member.leaf_key)?;
        let Some(client_key) = member.client_key.filter(|_| known.client_key.is_none()) else {
            *member = known;
            continue;
        };
        let confirmed = identity::confirmed(tx, &client_key)?;
        member.verified = confirmed.is_some();
        member.user = confirmed.or_else(|| member.user.take());
    }
    Ok(())
}

/// The device behind a leaf, as far as it is known. What the AS confirmed counts before what the
/// device says: its user may be called something else by now.
pub(super) fn resolve(tx: &Tx<'_>, group: &GroupId, leaf_key: PublicKey) -> Result<Member> {
    let Some(claim) = claim(tx, group, &leaf_key)? else {
        return Ok(Member::unknown(leaf_key));
    };
    let is_own = record::is_own(tx, group, &leaf_key)?;
    let confirmed = identity::confirmed(tx, &claim.client_key)?;
    Ok(Member {
        leaf_key,
        client_key: Some(claim.client_key),
        verified: is_own || confirmed.is_some(),
        user: Some(confirmed.unwrap_or(claim.user)),
    })
}

/// The client that the member behind a leaf is; that both keys signed it was checked.
fn claim(tx: &Tx<'_>, group: &GroupId, leaf_key: &PublicKey) -> Result<Option<ClientCredential>> {
    let credential = if record::is_own(tx, group, leaf_key)? {
        Account::load(tx)?.credential()?
    } else {
        match links::link(tx, group, leaf_key)? {
            Some(link) => link.credential,
            None => return Ok(None),
        }
    };
    ClientCredential::parse(&credential).map(Some).map_err(|_| Error::Damaged("a credential"))
}
