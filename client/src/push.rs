//! Having this device woken while it sleeps (QS-10): where the pushes of its mailboxes go, and
//! from which urgency on each group's messages are pushed. What the server is told is compared
//! with what it should be told, so that an answer that was lost, a new KeyPackage's address and
//! a group that was joined are all the same thing: something that is still to be said. Owns the
//! tables `push_subscriptions`, `push_policies` and `pushed_addresses`.

use std::collections::HashMap;

use postern_protocol::{
    Address,
    ds::GroupId,
    problem::ProblemType,
    push::{AddressPush, PushKey, PushSubscription, Urgency},
    qs::{PushPolicy, QueueKind},
};
use rusqlite::{OptionalExtension as _, params};

use crate::{
    account::Account,
    error::{Error, Result},
    group::{self, GroupState},
    key_packages,
    mailbox::Queue,
    server::Api,
    store::{Store, Tx, fixed, integer},
};

/// How many addresses one request may name.
const AT_ONCE: usize = 1000;

/// The urgency from which on messages are pushed, unless their group has another policy.
const USUAL: Option<Urgency> = Some(Urgency::Normal);

/// Notes where a queue's pushes are to go.
pub(crate) fn subscribe(tx: &Tx<'_>, kind: QueueKind, subscription: Option<&PushSubscription>) -> Result<()> {
    let sql = "SELECT push_key FROM push_subscriptions WHERE kind = ?1";
    let key: Option<Vec<u8>> = tx.sql().query_row(sql, [kind.as_str()], |row| row.get(0)).optional()?;
    let key = match key {
        Some(key) => key_of(&key)?,
        None => PushKey::generate()?,
    };
    let queue = Queue::load(tx, kind)?;
    let sealed = subscription.map(|subscription| subscription.seal(&queue.id, &key)).transpose()?;
    tx.sql().execute(
        "INSERT OR REPLACE INTO push_subscriptions (kind, push_key, subscription, told) VALUES (?1, ?2, ?3, 0)",
        params![kind.as_str(), key.as_bytes(), sealed.map(|sealed| sealed.as_bytes().to_vec())],
    )?;
    Ok(())
}

/// Another queue took the place of this one: it gets the subscription, under a key of its own, and its addresses their
/// policies.
pub(crate) fn queue_replaced(tx: &Tx<'_>, before: &Queue) -> Result<()> {
    let kind = before.kind;
    let sql = "DELETE FROM push_subscriptions WHERE kind = ?1 RETURNING push_key, subscription";
    let columns = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let row: Option<(Vec<u8>, Option<Vec<u8>>)> =
        tx.sql().query_row(sql, [kind.as_str()], columns).optional()?;
    // The QS knows of none of them; those of the other queue are told again.
    tx.sql().execute("DELETE FROM pushed_addresses", [])?;
    let Some((key, Some(sealed))) = row else { return Ok(()) };
    let sealed = fixed(&sealed, "a push subscription")?;
    let subscription = PushSubscription::open(&before.id, &key_of(&key)?, &sealed)?;
    subscribe(tx, kind, Some(&subscription))
}

/// Has the QS told again of a queue's subscription and of all policies: it was restored to an earlier state.
pub(crate) fn tell_again(tx: &Tx<'_>, kind: QueueKind) -> Result<()> {
    tx.sql().execute("UPDATE push_subscriptions SET told = 0 WHERE kind = ?1", [kind.as_str()])?;
    tx.sql().execute("DELETE FROM pushed_addresses", [])?;
    Ok(())
}

/// Notes from which urgency on a group's messages are to be pushed; none: never.
pub(crate) fn set_policy(tx: &Tx<'_>, group: &GroupId, at_least: Option<Urgency>) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO push_policies (group_id, at_least) VALUES (?1, ?2)";
    tx.sql().execute(sql, params![group.to_mls(), at_least.map(|urgency| urgency as i16)])?;
    Ok(())
}

/// Tells the QS what it does not know yet.
pub(crate) async fn tell_server(store: &Store, api: &Api) -> Result<()> {
    for kind in [QueueKind::Group, QueueKind::Contact] {
        tell_queue(store, api, kind).await?;
    }
    Ok(())
}

async fn tell_queue(store: &Store, api: &Api, kind: QueueKind) -> Result<()> {
    let sql = "SELECT push_key, subscription, told FROM push_subscriptions WHERE kind = ?1";
    let row: Option<(Vec<u8>, Option<Vec<u8>>, bool)> = store.read(|tx| {
        let columns = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        Ok(tx.sql().query_row(sql, [kind.as_str()], columns).optional()?)
    })?;
    let Some((key, subscription, told)) = row else { return Ok(()) };
    let queue = store.read(|tx| Queue::load(tx, kind))?;
    if !told {
        let subscription =
            subscription.as_deref().map(|sealed| fixed(sealed, "a push subscription")).transpose()?;
        api.subscribe_push(&queue.id, subscription, &queue.owner).await?;
        store.write(|tx| {
            tx.sql().execute("UPDATE push_subscriptions SET told = 1 WHERE kind = ?1", [kind.as_str()])?;
            Ok(())
        })?;
    }
    if subscription.is_none() {
        return Ok(());
    }
    let key = key_of(&key)?;
    let untold = store.read(|tx| untold(tx, kind))?;
    for some in untold.chunks(AT_ONCE) {
        let policies = some
            .iter()
            .map(|&(address, at_least)| {
                let push = at_least.map(|at_least| AddressPush { at_least, key: key.clone() }.seal(&address));
                Ok(PushPolicy { address, push: push.transpose()? })
            })
            .collect::<Result<Vec<_>>>()?;
        match api.set_push_policy(&queue.id, policies.clone(), &queue.owner).await {
            // One of them leads nowhere any more, or not yet.
            Err(error) if error.problem() == Some(ProblemType::NotFound) => {
                for (policy, told) in policies.into_iter().zip(some) {
                    match api.set_push_policy(&queue.id, vec![policy], &queue.owner).await {
                        Err(error) if error.problem() == Some(ProblemType::NotFound) => {}
                        answer => {
                            answer?;
                            store.write(|tx| note(tx, &[*told]))?;
                        }
                    }
                }
            }
            answer => {
                answer?;
                store.write(|tx| note(tx, some))?;
            }
        }
    }
    Ok(())
}

/// Addresses for which the QS was told something else than holds now, or nothing.
fn untold(tx: &Tx<'_>, kind: QueueKind) -> Result<Vec<(Address, Option<Urgency>)>> {
    let mut wanted: HashMap<Address, Option<Urgency>> = HashMap::new();
    match kind {
        QueueKind::Contact => {
            wanted.extend(Account::load(tx)?.contact_addresses().map(|address| (address, USUAL)));
        }
        QueueKind::Group => {
            wanted.extend(key_packages::addresses(tx)?.into_iter().map(|address| (address, USUAL)));
            for id in group::active(tx)? {
                let policy = policy(tx, &id)?;
                wanted.extend(GroupState::load(tx, &id)?.delivery_address().map(|address| (address, policy)));
            }
        }
    }
    let mut statement = tx.sql().prepare_cached("SELECT address, at_least FROM pushed_addresses")?;
    let told = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<Vec<(Vec<u8>, Option<i16>)>, _>>()?;
    for (address, at_least) in told {
        let address = fixed(&address, "an address")?;
        if wanted.get(&address) == Some(&urgency(at_least)?) {
            wanted.remove(&address);
        }
    }
    Ok(wanted.into_iter().collect())
}

fn policy(tx: &Tx<'_>, group: &GroupId) -> Result<Option<Urgency>> {
    let sql = "SELECT at_least FROM push_policies WHERE group_id = ?1";
    let set: Option<Option<i16>> =
        tx.sql().prepare_cached(sql)?.query_row([group.to_mls()], |row| row.get(0)).optional()?;
    set.map_or(Ok(USUAL), urgency)
}

fn note(tx: &Tx<'_>, told: &[(Address, Option<Urgency>)]) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO pushed_addresses (address, at_least) VALUES (?1, ?2)";
    let mut statement = tx.sql().prepare_cached(sql)?;
    for (address, at_least) in told {
        let at_least = at_least.map(|urgency| integer(urgency as u64));
        statement.execute(params![address.as_bytes(), at_least])?;
    }
    Ok(())
}

fn urgency(number: Option<i16>) -> Result<Option<Urgency>> {
    number.map(Urgency::try_from).transpose().map_err(|_| Error::Damaged("an urgency"))
}

fn key_of(bytes: &[u8]) -> Result<PushKey> {
    bytes.try_into().map(PushKey::new).map_err(|_| Error::Damaged("a push key"))
}
