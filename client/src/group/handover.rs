//! Groups that this user's devices hand over to each other: with what a device needs to come in by
//! itself, as the same user. Owns the tables `entries` and
//! `told_devices`.

use std::{cmp::Reverse, collections::HashSet, time::Duration};

use postern_protocol::{
    Payload, PublicKey, StateKey,
    ds::{FetchGroupInfo, GroupId},
    encoding::Encoding,
    key::SigningKey,
    mls::{DeliveryAddress, GroupPolicy, Pseudonym, UserKey},
};
use rusqlite::{OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

use super::{
    join, links,
    places::{self, UsersLeaf},
    record::{self, GroupSummary},
    roster::Roster,
    rules,
    state::GroupState,
};
use crate::{
    account::Account,
    error::{Error, Result},
    identity, leaf, mailbox,
    store::{Tx, decode, encode, fixed, integer},
};

/// Seconds before a device that could not be told is looked for again, the first time.
const TELL_AGAIN: u64 = 10 * 60;
/// The longest pause between two attempts, in seconds.
const LONGEST_PAUSE: u64 = 24 * 60 * 60;
/// Letters about changes that a device on its way is written at once. After these there is a pause between two, which begins
/// with [`TELL_AGAIN`] and doubles: a member that comes and goes without end does not fill the device's mailbox.
const RETOLD_AT_ONCE: u32 = 3;
/// The most handovers of a group that are kept, one of each device that tells of it.
const MOST_TOLD: usize = 8;
const HANDOVERS: &str = "handovers of a group";
/// The attempt to come in whose strangers the user is told of. It comes some 23 minutes after the first one: another device that
/// is in use tells of members that came meanwhile after [`TELL_AGAIN`] at the latest, unless they come and go without end.
const TOLD_OF_STRANGERS: u32 = 7;

/// The secrets with which a further device of this user comes into a group by external commit (DS-7).
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct GroupHandover {
    pub id: GroupId,
    /// The device that tells this: its client key.
    pub(super) by: PublicKey,
    /// The epoch of which this is.
    pub(super) epoch: u64,
    /// The tag of the commit by which the epoch began.
    pub(super) beginning: Payload,
    pub state_key: StateKey,
    pub title: String,
    /// The title's number.
    pub titled: u64,
    /// The user's in this group.
    pub pseudonym: Pseudonym,
    /// The generation of the user's key.
    generation: u32,
    user_seed: [u8; 32],
    /// Key that opens the attributes of leaves (AES-256), if it is known.
    pub attributes_key: Option<[u8; 32]>,
    /// The devices in the group and its admins, as far as the device knows that hands it over.
    pub(super) roster: Roster,
}

/// The leaves and the policy of a group: a device on its way compares those that the server shows with what it was told.
pub(super) struct Outline {
    leaves: HashSet<UsersLeaf>,
    policy: GroupPolicy,
}

/// A group that this device is to come into.
pub(crate) struct PendingEntry {
    pub handover: GroupHandover,
    pub delivery: DeliveryAddress,
}

impl GroupHandover {
    /// Reads what a letter of a device brought; `None` for anything else.
    pub(crate) fn decode(handover: &Payload, by: &PublicKey) -> Option<Self> {
        Encoding::Cbor.decode(handover.as_bytes()).ok().filter(|handover: &Self| handover.by == *by)
    }

    /// The request for the group as the DS has it, and the key that signs it.
    pub(crate) fn fetch_info(&self) -> (FetchGroupInfo, SigningKey) {
        (FetchGroupInfo { state_key: self.state_key }, self.user_key())
    }

    pub(super) fn user_key(&self) -> SigningKey {
        SigningKey::from_seed(self.user_seed)
    }

    pub(super) fn public_user_key(&self) -> UserKey {
        UserKey { generation: self.generation, public_key: self.user_key().public_key() }
    }
}

impl GroupState {
    /// The private half of the user's key in the group, if this device has it.
    pub(crate) fn private_user_key(&self, tx: &Tx<'_>) -> Result<Option<SigningKey>> {
        match self.user_key() {
            Some(key) => leaf::key(tx, &key.public_key),
            None => Ok(None),
        }
    }

    /// The clients of this device's user that are in the group, as far as they showed themselves.
    pub(super) fn own_clients(&self, tx: &Tx<'_>) -> Result<Vec<PublicKey>> {
        let mut clients = Vec::new();
        for leaf_key in self.of_same_users(&[self.leaf.public_key()]) {
            let link = links::link(tx, &self.id, &leaf_key)?;
            clients.extend(link.and_then(|it| it.claim(&self.id, &leaf_key)).map(|claim| claim.client_key));
        }
        Ok(clients)
    }

    /// Whether this device, which was added to the group as a user of its own, is to be in the place of
    /// the one that handed the group over: of an admin's, or of that with the smallest pseudonym, so that
    /// all of the user's devices come together in one.
    pub(super) fn belongs_beside(&self, tx: &Tx<'_>, handover: &GroupHandover) -> Result<bool> {
        let own = self.own_leaf()?;
        if own.pseudonym == handover.pseudonym {
            return Ok(false);
        }
        let (admins, devices) = (self.admins()?, identity::own_devices(tx)?);
        let rank = |pseudonym: Pseudonym| (!admins.contains(&pseudonym), pseudonym);
        let mut best = rank(own.pseudonym).min(rank(handover.pseudonym));
        let leaves = rules::leaves(&self.mls);
        for leaf in leaves.values() {
            let link = links::link(tx, &self.id, &leaf.leaf_key)?;
            let claim = link.and_then(|link| link.claim(&self.id, &leaf.leaf_key));
            if claim.is_some_and(|claim| devices.contains(&claim.client_key)) {
                best = best.min(rank(leaf.pseudonym));
            }
        }
        let has_key =
            rules::user_key(leaves.values(), handover.pseudonym) == Some(handover.public_user_key());
        Ok(best.1 == handover.pseudonym
            && has_key
            && !self.is_leaving()
            && !record::is_leaving(tx, &self.id)?)
    }

    /// Notes that this user's other devices have to be told of the user's key: those that are in the group, or on their way.
    /// Others are to stay out.
    pub(super) fn retell_user_key(&self, tx: &Tx<'_>) -> Result<()> {
        let mut devices = self.own_clients(tx)?;
        devices.extend(on_their_way(tx, &self.id)?);
        retell(tx, &self.id, &devices)
    }

    /// Notes that this user's other devices which are on their way have to be told of the user's key.
    pub(super) fn retell_those_on_their_way(&self, tx: &Tx<'_>) -> Result<()> {
        retell(tx, &self.id, &on_their_way(tx, &self.id)?)
    }

    /// The leaves and the policy as they are now. Leaves of this device's own user are among them: a device may be unable to read
    /// the cards that say whose they are, or is shown none.
    pub(super) fn outline(&self) -> Result<Outline> {
        let leaves = places::leaves(&rules::leaves(&self.mls)).into_iter().collect();
        Ok(Outline { leaves, policy: rules::policy(&self.mls)? })
    }

    /// Notes, after a commit, that this user's other devices which are on their way have to be told of the group again, if others
    /// came, members went or the policy changed: they take nobody for a member of whom they were not told, and those that went
    /// are none any more.
    pub(super) fn retell_what_changed(&self, tx: &Tx<'_>, before: &Outline) -> Result<()> {
        let now = self.outline()?;
        if now.policy == before.policy && now.leaves == before.leaves {
            return Ok(());
        }
        on_their_way(tx, &self.id)?.iter().try_for_each(|device| retell_change(tx, &self.id, device))
    }

    /// Whether this device's leaf has a later user key than one of another device of the user's, which may not know it then.
    pub(super) fn is_ahead_by_user_key(&self) -> Result<bool> {
        let own = self.own_leaf()?;
        let generation = |leaf: &rules::Leaf| leaf.user_key.map(|key| key.generation);
        let leaves = rules::leaves(&self.mls);
        let mut of_user = leaves.values().filter(|leaf| leaf.pseudonym == own.pseudonym);
        Ok(of_user.any(|leaf| generation(leaf) < generation(&own)))
    }

    /// The secrets with which another device of this user comes in. `None` while this device does not have the
    /// user's key: another one made it; or while the DS may not have taken the commit by which this device comes back.
    fn handover(&self, tx: &Tx<'_>) -> Result<Option<GroupHandover>> {
        if !self.is_taken(tx)? {
            return Ok(None);
        }
        let Some(user_key) = self.user_key() else { return Ok(None) };
        let Some(key) = leaf::key(tx, &user_key.public_key)? else { return Ok(None) };
        let (title, titled) = record::numbered_title(tx, &self.id)?;
        Ok(Some(GroupHandover {
            id: self.id.clone(),
            by: Account::load(tx)?.client_key().public_key(),
            epoch: self.epoch(),
            beginning: self.beginning()?,
            state_key: self.state_key()?,
            title,
            titled,
            pseudonym: self.own_leaf()?.pseudonym,
            generation: user_key.generation,
            user_seed: *key.seed(),
            attributes_key: record::attributes_key(tx, &self.id)?,
            roster: Roster::of(self)?,
        }))
    }
}

/// The secrets with which a further device of this user comes into its groups.
pub(crate) fn handover(tx: &Tx<'_>) -> Result<Vec<GroupHandover>> {
    let mut groups = Vec::new();
    for id in record::active(tx)? {
        if !record::is_leaving(tx, &id)? {
            groups.extend(GroupState::load(tx, &id)?.handover(tx)?);
        }
    }
    Ok(groups)
}

/// Takes over what another device of this user has: comes into groups that are new to this one, one
/// after the other, and keeps the user's key of the others. Where both are in a group it shows whether that is one
/// ([`GroupState::hear`]). A group that this device left by its user's will stays left.
pub(crate) fn take_over(tx: &Tx<'_>, groups: &[GroupHandover]) -> Result<()> {
    for handover in groups {
        match GroupState::find(tx, &handover.id) {
            Ok(Some(_)) if record::is_entering(tx, &handover.id)? => renew_entry(tx, handover)?,
            Ok(Some(group)) => {
                if group.own_leaf()?.pseudonym == handover.pseudonym {
                    leaf::keep_key(tx, &handover.user_key())?;
                    if let Some(key) = handover.attributes_key {
                        record::keep_attributes_key(tx, &handover.id, &key)?;
                    }
                    group.follow_user_key(tx)?;
                }
                group.hear(tx, handover)?;
            }
            Ok(None) | Err(Error::NotMember) if record::is_blocked(tx, &handover.id)? => {}
            Ok(None) | Err(Error::NotMember) => renew_entry(tx, handover)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether this device is, or is to come, where the one is that handed a group over. Otherwise that one is to come here,
/// and has to be told.
pub(crate) fn follows(tx: &Tx<'_>, handover: &GroupHandover) -> Result<bool> {
    Ok(match GroupState::find(tx, &handover.id) {
        Ok(Some(group)) => {
            group.own_leaf()?.pseudonym == handover.pseudonym
                || record::is_entering(tx, &handover.id)?
                || is_due_to_enter(tx, &handover.id)?
        }
        _ => true,
    })
}

/// Whether this device is to come into a group: from outside, or from a place of its own there.
pub(crate) fn is_due_to_enter(tx: &Tx<'_>, id: &GroupId) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM entries WHERE group_id = ?1)";
    Ok(tx.sql().prepare_cached(sql)?.query_row([id.to_mls()], |row| row.get(0))?)
}

/// The groups that this device is to come into, and in which it met strangers.
pub(crate) fn left_to_person(tx: &Tx<'_>) -> Result<Vec<GroupSummary>> {
    let sql = "SELECT handovers FROM entries WHERE strangers > 0 ORDER BY rowid";
    let mut statement = tx.sql().prepare_cached(sql)?;
    let told = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<Vec<u8>>, _>>()?;
    let mut groups = Vec::new();
    for handovers in told {
        let handovers: Vec<GroupHandover> = decode(&handovers, HANDOVERS)?;
        let first = handovers.into_iter().next();
        groups.extend(first.map(|it| GroupSummary { id: it.id, title: it.title, active: false }));
    }
    Ok(groups)
}

/// The handover by which this device is to come into a group.
pub(super) fn kept_handover(tx: &Tx<'_>, id: &GroupId) -> Result<Option<GroupHandover>> {
    Ok(handovers(tx, id)?.into_iter().next())
}

/// The roster of a group that this device is to come into.
pub(super) fn roster(tx: &Tx<'_>, id: &GroupId) -> Result<Option<Roster>> {
    Ok(kept_handover(tx, id)?.map(|handover| handover.roster))
}

/// Has this device stay out of a group that it is to come into, by its user's will: none of the user's other devices brings it
/// in. False if it is in the group, or is not to come in.
pub(crate) fn stay_out(tx: &Tx<'_>, id: &GroupId) -> Result<bool> {
    match GroupState::find(tx, id) {
        Ok(Some(_)) => return Ok(false),
        Ok(None) | Err(Error::NotMember) => {}
        Err(error) => return Err(error),
    }
    let Some(handover) = kept_handover(tx, id)? else { return Ok(false) };
    give_up_entry(tx, id)?;
    if record::find(tx, id)?.is_none() {
        // It never had a leaf: this is nobody's key.
        record::insert(tx, id, &handover.title, &SigningKey::generate().public_key())?;
        record::deactivate(tx, id)?;
    }
    record::block(tx, id)?;
    Ok(true)
}

/// Notes that an attempt to come in met strangers. Returns whether the user is to be told.
pub(crate) fn met_strangers(tx: &Tx<'_>, id: &GroupId) -> Result<bool> {
    let sql = "UPDATE entries SET strangers = strangers + 1 WHERE group_id = ?1 RETURNING strangers";
    let attempts: Option<u32> = tx.sql().query_row(sql, [id.to_mls()], |row| row.get(0)).optional()?;
    Ok(attempts == Some(TOLD_OF_STRANGERS))
}

/// Has this device come into a group, by what the other devices told of it. The word of the latest epoch goes first; once an
/// attempt failed, the one that came last: the DS may have refused the others.
pub(super) fn renew_entry(tx: &Tx<'_>, handover: &GroupHandover) -> Result<()> {
    let mut told = handovers(tx, &handover.id)?;
    keep_word(tx, &mut told, handover)?;
    let sql = "SELECT EXISTS (SELECT 1 FROM entries WHERE group_id = ?1 AND attempts > 0)";
    let has_failed: bool = tx.sql().query_row(sql, [handover.id.to_mls()], |row| row.get(0))?;
    if !has_failed {
        sort(&mut told);
    }
    tx.sql().execute(
        "INSERT INTO entries (group_id, handovers, attempts, due) VALUES (?1, ?2, 0, ?3)
         ON CONFLICT (group_id) DO UPDATE
         SET handovers = excluded.handovers, due = excluded.due, strangers = 0",
        params![handover.id.to_mls(), encode(&told), integer(tx.now())],
    )?;
    join::try_again(tx, &handover.id)
}

/// Keeps a device's word before those of others, as its last one: that counts, whatever epoch it is of, since a DS that was
/// restored (QS-12) goes on from an earlier one. Words of devices that are this user's no more do not count.
pub(super) fn keep_word(tx: &Tx<'_>, words: &mut Vec<GroupHandover>, told: &GroupHandover) -> Result<()> {
    let devices = identity::own_devices(tx)?;
    // None are known before this device is one of them.
    words.retain(|word| word.by != told.by && (devices.is_empty() || devices.contains(&word.by)));
    words.insert(0, told.clone());
    words.truncate(MOST_TOLD);
    Ok(())
}

/// Has the word of a device that is in another group lead this one nowhere.
pub(super) fn drop_word(tx: &Tx<'_>, id: &GroupId, by: &PublicKey) -> Result<()> {
    let mut told = handovers(tx, id)?;
    let all = told.len();
    told.retain(|word| word.by != *by);
    if told.len() == all {
        Ok(())
    } else if told.is_empty() {
        give_up_entry(tx, id)
    } else {
        set_handovers(tx, id, &told)
    }
}

/// The last words of other devices about a group that this device is to come into; it goes by the first one.
fn handovers(tx: &Tx<'_>, id: &GroupId) -> Result<Vec<GroupHandover>> {
    let sql = "SELECT handovers FROM entries WHERE group_id = ?1";
    let told: Option<Vec<u8>> = tx.sql().query_row(sql, [id.to_mls()], |row| row.get(0)).optional()?;
    told.map_or(Ok(Vec::new()), |bytes| decode(&bytes, HANDOVERS))
}

/// The handover of the latest epoch goes first; of two of one epoch that which is first already.
fn sort(handovers: &mut [GroupHandover]) {
    handovers.sort_by_key(|handover| Reverse(handover.epoch));
}

/// Has another device's word count where the DS shows the group as it was before the present one, or refuses it: the DS may have
/// been restored (QS-12), as that device tells which came back there. Each has its turn.
pub(crate) fn go_by_next(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    reorder(tx, id, |handovers| handovers.rotate_left(1))
}

/// Has the latest word count again: no earlier one knows more of those that are there.
pub(crate) fn go_by_latest(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    reorder(tx, id, sort)
}

fn reorder(tx: &Tx<'_>, id: &GroupId, order: impl FnOnce(&mut [GroupHandover])) -> Result<()> {
    let mut told = handovers(tx, id)?;
    if told.len() < 2 {
        return Ok(());
    }
    order(&mut told);
    set_handovers(tx, id, &told)?;
    join::try_again(tx, id)
}

fn set_handovers(tx: &Tx<'_>, id: &GroupId, told: &[GroupHandover]) -> Result<()> {
    let sql = "UPDATE entries SET handovers = ?2 WHERE group_id = ?1";
    tx.sql().execute(sql, params![id.to_mls(), encode(&told)])?;
    Ok(())
}

/// The groups that it is time to come into.
pub(crate) fn entries_due(tx: &Tx<'_>) -> Result<Vec<GroupId>> {
    let sql = "SELECT group_id FROM entries WHERE due NOT BETWEEN ?1 AND ?2 ORDER BY rowid";
    let mut statement = tx.sql().prepare_cached(sql)?;
    let ids = statement.query_map(tx.to_come(LONGEST_PAUSE), |row| row.get(0))?;
    let ids = ids.collect::<Result<Vec<Vec<u8>>, _>>()?;
    ids.iter().map(|id| GroupId::from_mls(id).map_err(|_| Error::Damaged("a group id"))).collect()
}

/// How long it is until the next time comes, of those that did not come before a time (seconds since 1970).
pub(crate) fn next_entry(tx: &Tx<'_>, since: u64) -> Result<Option<Duration>> {
    let sql = "SELECT min(due) FROM entries WHERE due >= ?1";
    let due: Option<u64> = tx.sql().query_row(sql, [integer(since)], |row| row.get(0))?;
    Ok(due.map(|due| Duration::from_secs(due.saturating_sub(tx.now()))))
}

/// A group that this device is to come into, with the address that its messages are to go to, which is
/// made here. `None` if it is in by now.
pub(crate) fn entry(tx: &Tx<'_>, id: &GroupId) -> Result<Option<PendingEntry>> {
    let Some(handover) = kept_handover(tx, id)? else { return Ok(None) };
    let sql = "SELECT address FROM entries WHERE group_id = ?1";
    let address: Option<Vec<u8>> = tx.sql().query_row(sql, [id.to_mls()], |row| row.get(0))?;
    let address = match address {
        Some(address) => fixed(&address, "an address")?,
        None => {
            let address = mailbox::fresh_address()?;
            let sql = "UPDATE entries SET address = ?2 WHERE group_id = ?1";
            tx.sql().execute(sql, params![id.to_mls(), address.as_bytes()])?;
            address
        }
    };
    let delivery = Account::load(tx)?.delivery_at(address);
    Ok(Some(PendingEntry { handover, delivery }))
}

/// Ends the way into a group. Returns what other devices told of it.
pub(super) fn drop_entry(tx: &Tx<'_>, id: &GroupId) -> Result<Vec<GroupHandover>> {
    let told = handovers(tx, id)?;
    tx.sql().execute("DELETE FROM entries WHERE group_id = ?1", [id.to_mls()])?;
    Ok(told)
}

/// The queue that addresses were made for is gone: the groups that this device is to come into get others.
pub(crate) fn forget_entry_addresses(tx: &Tx<'_>) -> Result<()> {
    tx.sql().execute("UPDATE entries SET address = NULL", [])?;
    Ok(())
}

/// This device is not to come in any more.
pub(crate) fn give_up_entry(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    revoke_entry_address(tx, id)?;
    drop_entry(tx, id)?;
    join::drop_late(tx, id)
}

/// An attempt failed for good; another one, with another address, comes later.
pub(crate) fn entry_failed(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    revoke_entry_address(tx, id)?;
    put_off_entry(tx, id)
}

/// Has the address lead nowhere that was made for an attempt to come in.
fn revoke_entry_address(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    let sql = "SELECT address FROM entries WHERE group_id = ?1 AND address IS NOT NULL";
    let address: Option<Vec<u8>> = tx.sql().query_row(sql, [id.to_mls()], |row| row.get(0)).optional()?;
    if let Some(address) = address {
        mailbox::revoke_later(tx, &fixed(&address, "an address")?)?;
        tx.sql().execute("UPDATE entries SET address = NULL WHERE group_id = ?1", [id.to_mls()])?;
    }
    Ok(())
}

/// The next attempt comes later, and each further one after a longer pause.
pub(crate) fn put_off_entry(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    let sql = "SELECT attempts FROM entries WHERE group_id = ?1";
    let attempts: Option<u32> = tx.sql().query_row(sql, [id.to_mls()], |row| row.get(0)).optional()?;
    let Some(attempts) = attempts else { return Ok(()) };
    let pause = 4u64.saturating_pow(attempts).min(LONGEST_PAUSE);
    tx.sql().execute(
        "UPDATE entries SET attempts = attempts + 1, due = ?2 WHERE group_id = ?1",
        params![id.to_mls(), integer(tx.now().saturating_add(pause))],
    )?;
    Ok(())
}

/// The next attempt comes in so many seconds: this was none.
pub(crate) fn postpone_entry(tx: &Tx<'_>, id: &GroupId, pause: u64) -> Result<()> {
    let due = integer(tx.now().saturating_add(pause));
    tx.sql().execute("UPDATE entries SET due = ?2 WHERE group_id = ?1", params![id.to_mls(), due])?;
    Ok(())
}

/// The groups that devices of this user have to be told of. A device that is in one has it already,
/// until the user's key there becomes another.
pub(crate) fn to_tell(tx: &Tx<'_>) -> Result<Vec<(PublicKey, GroupHandover)>> {
    let mut found = Vec::new();
    let own_key = Account::load(tx)?.client_key().public_key();
    let mut devices = identity::own_devices(tx)?;
    devices.retain(|client_key| *client_key != own_key);
    if devices.is_empty() {
        return Ok(found);
    }
    for id in record::active(tx)? {
        if record::is_leaving(tx, &id)? {
            continue;
        }
        let mut group = None;
        for client_key in &devices {
            let Some(need) = need(tx, &id, client_key)? else { continue };
            if group.is_none() {
                let loaded = GroupState::load(tx, &id)?;
                group = Some((loaded.own_clients(tx)?, loaded.handover(tx)?));
            }
            let Some((present, Some(handover))) = &group else { break };
            if need == Need::KeyAgain || !present.contains(client_key) {
                found.push((*client_key, handover.clone()));
            }
        }
    }
    Ok(found)
}

/// The news of a group that a device has to be told.
#[derive(PartialEq, Eq)]
enum Need {
    Group,
    /// The user's key, which became another.
    KeyAgain,
}

fn need(tx: &Tx<'_>, id: &GroupId, client_key: &PublicKey) -> Result<Option<Need>> {
    let sql = "SELECT told, due FROM told_devices WHERE group_id = ?1 AND client_key = ?2";
    let row: Option<(u8, u64)> = tx
        .sql()
        .prepare_cached(sql)?
        .query_row(params![id.to_mls(), client_key.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(match row {
        None => Some(Need::Group),
        Some((0, due)) if tx.has_come(due, LONGEST_PAUSE) => Some(Need::Group),
        Some((2, due)) if tx.has_come(due, LONGEST_PAUSE) => Some(Need::KeyAgain),
        Some(_) => None,
    })
}

/// Notes that devices of this user have to be told of a group again: the user's key in it became
/// another, say.
pub(crate) fn retell(tx: &Tx<'_>, id: &GroupId, devices: &[PublicKey]) -> Result<()> {
    for client_key in devices {
        tx.sql().execute(
            "INSERT INTO told_devices (group_id, client_key, told, tries, due) VALUES (?1, ?2, 2, 0, 0)
             ON CONFLICT (group_id, client_key) DO UPDATE SET told = 2, tries = 0, due = 0",
            params![id.to_mls(), client_key.as_bytes()],
        )?;
    }
    Ok(())
}

/// Notes that a device that was told of a group has to be told of a change: at once, or after the pause since it was told last.
/// Changes until then come with the same letter, and one that is in by then needs to be told of nothing.
fn retell_change(tx: &Tx<'_>, id: &GroupId, client_key: &PublicKey) -> Result<()> {
    let sql = "UPDATE told_devices SET told = 0, tries = 0, retold = retold + 1
                WHERE group_id = ?1 AND client_key = ?2 AND told = 1 RETURNING retold, due";
    let row: Option<(u32, u64)> = tx
        .sql()
        .query_row(sql, params![id.to_mls(), client_key.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((retold, told)) = row else { return Ok(()) };
    let pause = match retold.checked_sub(RETOLD_AT_ONCE + 1) {
        None => 0,
        Some(further) => TELL_AGAIN.saturating_mul(2u64.saturating_pow(further)).min(LONGEST_PAUSE),
    };
    tx.sql().execute(
        "UPDATE told_devices SET due = ?3 WHERE group_id = ?1 AND client_key = ?2",
        params![id.to_mls(), client_key.as_bytes(), integer(told.saturating_add(pause))],
    )?;
    Ok(())
}

/// The devices of this user that were told of a group, if not of what changed since, and did not show themselves in it yet.
fn on_their_way(tx: &Tx<'_>, id: &GroupId) -> Result<Vec<PublicKey>> {
    let mut statement = tx.sql().prepare_cached(
        "SELECT t.client_key FROM told_devices t
          WHERE t.group_id = ?1 AND (t.told = 1 OR t.told = 0 AND t.retold > 0) AND NOT EXISTS
             (SELECT 1 FROM links l WHERE l.group_id = t.group_id AND l.client_key = t.client_key)",
    )?;
    let keys = statement.query_map([id.to_mls()], |row| row.get(0))?.collect::<Result<Vec<Vec<u8>>, _>>()?;
    keys.iter().map(|key| fixed(key, "a key")).collect()
}

/// Notes that a device of this user, which missed letters, has to be told of every group again.
pub(crate) fn retell_all(tx: &Tx<'_>, device: &PublicKey) -> Result<()> {
    record::active(tx)?.iter().try_for_each(|id| retell(tx, id, &[*device]))
}

/// Notes that a device was told of a group.
pub(crate) fn told(tx: &Tx<'_>, id: &GroupId, client_key: &PublicKey) -> Result<()> {
    tx.sql().execute(
        "INSERT INTO told_devices (group_id, client_key, told, tries, due) VALUES (?1, ?2, 1, 0, ?3)
         ON CONFLICT (group_id, client_key) DO UPDATE SET told = 1, tries = 0, due = excluded.due",
        params![id.to_mls(), client_key.as_bytes(), integer(tx.now())],
    )?;
    Ok(())
}

/// Notes that a device could not be told of a group: it is not set up yet. It is tried again, more and
/// more seldom.
pub(crate) fn not_told(tx: &Tx<'_>, id: &GroupId, client_key: &PublicKey) -> Result<()> {
    let key = params![id.to_mls(), client_key.as_bytes()];
    let sql = "INSERT INTO told_devices (group_id, client_key, told, tries, due) VALUES (?1, ?2, 0, 1, 0)
               ON CONFLICT (group_id, client_key) DO UPDATE SET tries = tries + 1 RETURNING tries";
    let tries: u32 = tx.sql().query_row(sql, key, |row| row.get(0))?;
    let pause = TELL_AGAIN.saturating_mul(2u64.saturating_pow(tries - 1)).min(LONGEST_PAUSE);
    tx.sql().execute(
        "UPDATE told_devices SET due = ?3 WHERE group_id = ?1 AND client_key = ?2",
        params![id.to_mls(), client_key.as_bytes(), integer(tx.now().saturating_add(pause))],
    )?;
    Ok(())
}

/// The leaves of this user's devices that are to go: the one that was removed, and those of which nobody
/// knows whose they are.
pub(super) fn own_leaves_to_go(
    tx: &Tx<'_>,
    group: &GroupState,
    removed: &[PublicKey],
) -> Result<Vec<PublicKey>> {
    let own = group.leaf.public_key();
    let devices = identity::own_devices(tx)?;
    let mut leaves = Vec::new();
    for leaf_key in group.of_same_users(&[own]) {
        if leaf_key == own {
            continue;
        }
        let client = match links::link(tx, &group.id, &leaf_key)? {
            Some(link) => link.claim(&group.id, &leaf_key).map(|claim| claim.client_key),
            None => None,
        };
        if client.is_none_or(|client| removed.contains(&client) || !devices.contains(&client)) {
            leaves.push(leaf_key);
        }
    }
    Ok(leaves)
}
