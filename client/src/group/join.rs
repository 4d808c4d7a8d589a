//! Welcomes that arrive in the group queue: this client becomes a member. Owns the tables `welcomes` and `early_messages`.

use openmls::prelude::{MlsMessageBodyIn, ProcessedWelcome, RatchetTreeIn, StagedWelcome, WelcomeError};
use postern_protocol::{
    MlsMessage, PublicKey, Welcome,
    ds::{FetchWelcomeTree, GroupId, WelcomeTree},
    key::SigningKey,
    mls::{GROUP_POLICY, GroupPolicy},
};
use rusqlite::{OptionalExtension as _, params};
use tls_codec::Deserialize as _;

use super::{
    attributes, handover, past::MOST_PAST_EPOCHS, places, record, rules, state::GroupState, strayed,
};
use crate::{
    error::{Error, Rejection, Result},
    event::Event,
    key_packages, leaf, mls,
    store::{Tx, integer},
};

/// The most Welcomes that wait for their trees. With one more, the family of domains that has most of them loses its oldest:
/// none pushes out those of a family that has fewer, by however many names below its own.
const MOST_LATE: u64 = 100;
/// Messages, and bytes of them, that may wait for the Welcomes which wait: the families of the groups' domains share this room
/// evenly, and the groups of a family its share, so that none takes that of others. No group has less than one among
/// [`MOST_LATE`].
const MOST_EARLY: u64 = 4000;
const MOST_EARLY_BYTES: u64 = 8 * 1024 * 1024;
/// Seconds before a Welcome is tried again, the first time, and at most.
const FIRST_PAUSE: u64 = 10;
const LONGEST_PAUSE: u64 = 60 * 60;

/// Keeps a Welcome to a group for later: its tree cannot be fetched now, or this device was not told yet of all that are there.
/// Others do not wait for it. It waits until its KeyPackage ends, at the longest: then nothing opens it.
pub(crate) fn join_later(tx: &Tx<'_>, id: &GroupId, welcome: &Welcome) -> Result<()> {
    let sql = "SELECT attempts FROM welcomes WHERE welcome = ?1";
    let attempts: Option<u32> = tx.sql().query_row(sql, [welcome.as_bytes()], |row| row.get(0)).optional()?;
    let attempts = attempts.unwrap_or_default();
    let pause = FIRST_PAUSE.saturating_mul(2u64.saturating_pow(attempts)).min(LONGEST_PAUSE);
    // One that is kept already stays in its place.
    tx.sql().execute(
        "INSERT INTO welcomes (welcome, group_id, family, attempts, due) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (welcome) DO UPDATE SET attempts = excluded.attempts, due = excluded.due",
        params![
            welcome.as_bytes(),
            id.to_mls(),
            id.domain().family(),
            attempts.saturating_add(1),
            integer(tx.now().saturating_add(pause))
        ],
    )?;
    let sql = "DELETE FROM welcomes
                WHERE (SELECT count(*) FROM welcomes) > ?1
                  AND rowid = (SELECT min(rowid) FROM welcomes
                                GROUP BY family ORDER BY count(*) DESC, min(rowid) LIMIT 1)";
    tx.sql().execute(sql, [integer(MOST_LATE)])?;
    Ok(())
}

/// The Welcomes that it is time to try again.
pub(crate) fn late_welcomes(tx: &Tx<'_>) -> Result<Vec<Welcome>> {
    let sql = "SELECT welcome FROM welcomes WHERE due NOT BETWEEN ?1 AND ?2 ORDER BY rowid";
    let mut statement = tx.sql().prepare_cached(sql)?;
    let welcomes = statement.query_map(tx.to_come(LONGEST_PAUSE), |row| row.get(0).map(Welcome::new))?;
    Ok(welcomes.collect::<Result<_, _>>()?)
}

/// Lets a Welcome take effect that waited. What the group did meanwhile is in [`take_early`], as far as there was room:
/// whether this client can follow shows when the DS is asked.
pub(crate) fn join_at_last(
    tx: &Tx<'_>,
    welcome: &Welcome,
    tree: Option<&WelcomeTree>,
) -> Result<GroupId, Rejection> {
    let joined = tx.attempt(|| join(tx, welcome, tree));
    if let Err(Rejection::Strangers(id)) = &joined {
        join_later(tx, id, welcome)?;
    } else {
        tx.sql().execute("DELETE FROM welcomes WHERE welcome = ?1", [welcome.as_bytes()])?;
    }
    if let Err(Rejection::InAlready) = &joined {
        give_leaf_up(tx, welcome)?;
    }
    let id = joined?;
    strayed::doubt(tx, &id)?;
    Ok(id)
}

/// Has the Welcomes to a group that wait be tried again at once: this device was told anew who is there.
pub(super) fn try_again(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    due_within(tx, id, 0)
}

/// Has the Welcomes to a group that wait be tried again in so many seconds, if they are not before.
fn due_within(tx: &Tx<'_>, id: &GroupId, seconds: u64) -> Result<()> {
    let sql = "UPDATE welcomes SET due = min(due, ?2) WHERE group_id = ?1";
    let due = tx.now().saturating_add(seconds);
    tx.sql().execute(sql, params![id.to_mls(), integer(due)])?;
    Ok(())
}

/// Drops the Welcomes to a group that wait: this device is to stay out.
pub(super) fn drop_late(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    if give_leaves_up(tx, id)? { forget_early(tx) } else { Ok(()) }
}

/// Forgets the Welcomes to a group that wait, with the messages that came meanwhile, and tells of neither: this device came in by
/// itself.
pub(super) fn forget_late(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    give_leaves_up(tx, id)?;
    tx.sql().execute("DELETE FROM early_messages WHERE group_id = ?1", [id.to_mls()])?;
    Ok(())
}

/// Deletes the Welcomes to a group that wait, and gives up the leaves that they brought into it. Returns whether there were any.
fn give_leaves_up(tx: &Tx<'_>, id: &GroupId) -> Result<bool> {
    let sql = "DELETE FROM welcomes WHERE group_id = ?1 RETURNING welcome";
    let mut statement = tx.sql().prepare_cached(sql)?;
    let welcomes = statement
        .query_map([id.to_mls()], |row| row.get(0).map(Welcome::new))?
        .collect::<Result<Vec<_>, _>>()?;
    welcomes.iter().try_for_each(|welcome| give_leaf_up(tx, welcome))?;
    Ok(!welcomes.is_empty())
}

/// Gives up the leaf that a Welcome brought into a group where this device is not by it. Nobody would remove that: it is under a
/// pseudonym of its own, and has a user's key, and all that is said there would come by it, too.
pub(crate) fn give_leaf_up(tx: &Tx<'_>, welcome: &Welcome) -> Result<()> {
    match open(tx, welcome) {
        Some((_, leaf_key)) => key_packages::used_in_vain(tx, &leaf_key),
        None => Ok(()),
    }
}

/// Keeps a message of a group that this client is not in, if a Welcome to it waits. False if none does, or the group has no
/// more room. The Welcome is tried again soon: the group's homeserver is heard from, and the room fills.
pub(super) fn keep_early(tx: &Tx<'_>, id: &GroupId, message: &MlsMessage) -> Result<bool> {
    let sql = "SELECT count(DISTINCT family), count(DISTINCT group_id) FILTER (WHERE family = ?2),
                      count(*) FILTER (WHERE group_id = ?1)
                 FROM welcomes";
    let (families, groups, welcomes): (u64, u64, u64) =
        tx.sql().query_row(sql, params![id.to_mls(), id.domain().family()], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
    if welcomes == 0 {
        return Ok(false);
    }
    let sql = "SELECT count(*), coalesce(sum(length(message)), 0) FROM early_messages WHERE group_id = ?1";
    let (messages, bytes): (u64, u64) =
        tx.sql().query_row(sql, [id.to_mls()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let share = |all: u64| all / (families * groups).clamp(1, MOST_LATE);
    if messages >= share(MOST_EARLY) || bytes >= share(MOST_EARLY_BYTES) {
        return Ok(false);
    }
    let sql = "INSERT INTO early_messages (group_id, message) VALUES (?1, ?2)";
    tx.sql().execute(sql, params![id.to_mls(), message.as_bytes()])?;
    due_within(tx, id, FIRST_PAUSE)?;
    Ok(true)
}

/// Takes the messages of a group that came before this client had joined, in their order.
pub(crate) fn take_early(tx: &Tx<'_>, id: &GroupId) -> Result<Vec<MlsMessage>> {
    let mut statement =
        tx.sql().prepare_cached("SELECT message FROM early_messages WHERE group_id = ?1 ORDER BY number")?;
    let messages = statement.query_map([id.to_mls()], |row| row.get(0).map(MlsMessage::new))?;
    let messages = messages.collect::<Result<_, _>>()?;
    tx.sql().execute("DELETE FROM early_messages WHERE group_id = ?1", [id.to_mls()])?;
    Ok(messages)
}

/// Forgets the messages of groups to which no Welcome waits any more, and tells of them: this client did not come in.
pub(crate) fn forget_early(tx: &Tx<'_>) -> Result<()> {
    let sql = "DELETE FROM early_messages WHERE group_id NOT IN (SELECT group_id FROM welcomes)";
    let messages = tx.sql().execute(sql, [])?;
    if messages == 0 {
        return Ok(());
    }
    let reason = format!("messages are for a group that this client did not come into: {messages}");
    Event::Ignored { reason }.record(tx)
}

/// Opens a Welcome to us, and says for which leaf it is. Takes the KeyPackage's keys out of the store, unless it is one of last
/// resort.
fn open(tx: &Tx<'_>, welcome: &Welcome) -> Option<(ProcessedWelcome, PublicKey)> {
    let Some(MlsMessageBodyIn::Welcome(welcome)) = mls::parse(welcome.as_bytes()) else {
        return None;
    };
    let welcome =
        ProcessedWelcome::new_from_welcome(tx, &mls::join_config(MOST_PAST_EPOCHS), welcome).ok()?;
    let leaf_key = mls::public_key(welcome.own_key_package()?.leaf_node().signature_key().as_slice())?;
    Some((welcome, leaf_key))
}

/// The ratchet tree that a Welcome to us needs: its group, the request for it, and the key that
/// signs the request. Takes the KeyPackage's keys out of the store: for a trial only.
pub(crate) fn tree_of_welcome(
    tx: &Tx<'_>,
    welcome: &Welcome,
) -> Option<(GroupId, FetchWelcomeTree, SigningKey)> {
    let (welcome, leaf_key) = open(tx, welcome)?;
    let info = welcome.unverified_group_info();
    let policy = info.group_context().extensions().unknown(GROUP_POLICY)?;
    let policy = GroupPolicy::from_bytes(&policy.0).ok()?;
    let fetch = FetchWelcomeTree { state_key: policy.state_key(), epoch: info.epoch().as_u64() };
    let id = GroupId::from_mls(info.group_id().as_slice()).ok()?;
    Some((id, fetch, leaf::key(tx, &leaf_key).ok()??))
}

/// Lets a Welcome take effect. The tree, with the attributes of its leaves, is what the DS of the group has for it. Without that
/// answer nobody is in the group, whatever the Welcome says: any member knows the id, and could make up another group of it that
/// keeps this client out of the true one. Nor does that answer count where this client is to come into the group by itself, and
/// others are there than it was told of, or it is of an earlier epoch: the server may have made it up, with one of the
/// KeyPackages that it has. Returns the group.
///
/// # Errors
/// [`Rejection::Strangers`] for such a group: it is told of newcomers soon. [`Rejection::InAlready`] where this client is in.
pub(crate) fn join(tx: &Tx<'_>, welcome: &Welcome, tree: Option<&WelcomeTree>) -> Result<GroupId, Rejection> {
    let Some(tree) = tree else {
        return Err(Rejection::invalid("a Welcome is for a group whose server has no tree for it"));
    };
    let Some(MlsMessageBodyIn::Welcome(welcome)) = mls::parse(welcome.as_bytes()) else {
        return Err(Rejection::invalid("a Welcome is malformed"));
    };
    let refused = |error: WelcomeError<rusqlite::Error>| match error {
        WelcomeError::StorageError(error) => error.into(),
        error => Rejection::Invalid(error.to_string()),
    };
    let joining = StagedWelcome::build_from_welcome(tx, &mls::join_config(MOST_PAST_EPOCHS), welcome)
        .map_err(refused)?;
    // openmls would take it, and not the one that the DS has.
    if joining.processed_welcome().unverified_group_info().extensions().ratchet_tree().is_some() {
        return Err(Rejection::invalid("a Welcome brings a tree of its own"));
    }
    let ratchet_tree = RatchetTreeIn::tls_deserialize_exact(tree.ratchet_tree.as_bytes())
        .map_err(|_| Rejection::invalid("a Welcome's tree is malformed"))?;
    let staged = joining
        .with_ratchet_tree(ratchet_tree)
        .replace_old_group()
        // There may be members that have not committed since they were added long ago.
        .skip_lifetime_validation()
        .build()
        .map_err(refused)?;
    let id = GroupId::from_mls(staged.group_context().group_id().as_slice())
        .map_err(|_| Rejection::invalid("a Welcome is for a group that is not Postern's"))?;
    let attempt = match GroupState::find(tx, &id) {
        Ok(None) | Err(Error::NotMember) => None,
        // Another device of ours was in before, and this one was on its way.
        Ok(Some(mut group)) if record::is_entering(tx, &id)? => {
            group.end(tx)?;
            Some(group)
        }
        Ok(Some(_)) => return Err(Rejection::InAlready),
        Err(error) => return Err(error.into()),
    };
    let leaf_key = staged
        .own_leaf_node()
        .and_then(|leaf| mls::public_key(leaf.signature_key().as_slice()))
        .ok_or_else(|| Rejection::invalid("a Welcome has no leaf of ours"))?;
    let Some(leaf) = leaf::key(tx, &leaf_key)? else {
        return Err(Rejection::invalid("a Welcome is for a key we do not have"));
    };
    let mls = staged.into_group(tx).map_err(refused)?;
    rules::check_members(mls.public_group()).map_err(Rejection::invalid)?;
    rules::policy(&mls).map_err(|_| Rejection::invalid("a group has no policy"))?;
    let group = GroupState { id: id.clone(), leaf, mls };
    record::insert(tx, &id, "", &leaf_key)?;
    group.came_in(tx)?;
    group.note_met(tx)?;
    // A membership before this one may have shown who was in whose place.
    places::catch_up(tx, &group, &[])?;
    if let Some(told) = handover::kept_handover(tx, &id)? {
        if let Some(key) = told.attributes_key {
            record::keep_attributes_key(tx, &id, &key)?;
        }
        group.learn(tx, &tree.attributes)?;
        if group.epoch() < told.epoch || group.has_untold(tx, &told.roster, attempt.as_ref())? {
            return Err(Rejection::Strangers(id));
        }
    }
    let told = handover::drop_entry(tx, &id)?;
    attributes::keep(tx, &id, &tree.attributes)?;
    key_packages::used(tx, &leaf_key)?;
    Event::Joined { group: id.clone() }.record(tx)?;
    group.hear_anew(tx, told)?;
    Ok(id)
}
