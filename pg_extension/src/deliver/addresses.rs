//! The addresses of a delivery: found by their hashes, bound to the group that uses them first, renewed by use, and
//! dropped with their queue.

use std::{
    collections::{BTreeMap, HashSet},
    thread::LocalKey,
};

use pgrx::prelude::*;
use postern_protocol::{
    Address, SealedPush,
    address::{AddressKey, Lookup},
    push::AddressPush,
};

use super::{DeliverError, Delivery, Fate, Sender, bytes};
use crate::{
    bytea::{Bytea, ByteaArray},
    plan::Plan,
    queues,
    table::{Access, KeyType, Snapshot, Table, table},
};

table! { AddressColumn = c"qs", c"addresses" {
    SealedQueueId = c"sealed_queue_id" BYTEAOID,
    Binding = c"binding" BYTEAOID,
    LastResort = c"last_resort" BOOLOID,
    Season = c"season" INT4OID,
    SealedPush = c"sealed_push" BYTEAOID,
} }

// Statements that few deliveries need.
thread_local! {
    /// Binds addresses to a group. The condition is checked here because another group may have bound
    /// the address since it was found.
    static BIND_ADDRESSES: Plan = const { Plan::new(
        "UPDATE qs.addresses a
            SET binding = n.binding
           FROM unnest($1::bytea[], $2::bytea[]) AS n (lookup, binding)
          WHERE a.lookup = n.lookup
            AND (a.binding IS NULL OR a.binding = n.binding)
      RETURNING a.lookup",
    ) };

    /// Frees addresses that nothing was delivered to.
    static UNBIND_ADDRESSES: Plan = const { Plan::new(
        "UPDATE qs.addresses a SET binding = NULL WHERE a.lookup = ANY ($1)",
    ) };

    /// Renews addresses that are used for the first time in a season: without it, nothing tells them from those of
    /// queues that are gone. An address that somebody else has locked is renewed with its next message.
    static RENEW_ADDRESSES: Plan = const { Plan::new(
        "UPDATE qs.addresses a
            SET season = DEFAULT
           FROM (SELECT d.lookup
                   FROM qs.addresses d
                  WHERE d.lookup = ANY ($1)
                    FOR NO KEY UPDATE SKIP LOCKED) AS used
          WHERE a.lookup = used.lookup",
    ) };

    /// Deletes addresses that outlived their queue, because its owner did not know them when deleting
    /// it. An address that another delivery is dropping is left to that one: no wait, no deadlock.
    static DROP_ADDRESSES: Plan = const { Plan::new(
        "DELETE FROM qs.addresses a
          USING (SELECT d.lookup
                   FROM qs.addresses d
                  WHERE d.lookup = ANY ($1)
                    FOR UPDATE SKIP LOCKED) AS gone
          WHERE a.lookup = gone.lookup",
    ) };
}

impl Delivery<'_> {
    /// Finds the queues behind the addresses that take messages from this sender.
    pub(super) fn find(&mut self, snapshot: &Snapshot) -> Result<(), DeliverError> {
        // An address may come with several letters.
        let mut addresses: BTreeMap<Lookup, Vec<(usize, Address)>> = BTreeMap::new();
        for (index, letter) in self.letters.iter().enumerate() {
            if let Ok(address) = Address::try_from(letter.address) {
                addresses.entry(address.lookup()).or_default().push((index, address));
            }
        }
        let table = Table::open(Access::Read);
        let mut rows = table.find_by(snapshot, KeyType::Bytea);
        let mut key = Bytea::default();
        let season = queues::season();
        for (lookup, letters) in addresses {
            let Some(row) = rows.get(key.set(&lookup).datum()) else { continue };
            let (_, address) = letters.first().ok_or(DeliverError::Schema)?;
            let address = address.key();
            let last_resort = row.boolean(AddressColumn::LastResort);
            let stored = row.bytes(AddressColumn::Binding);
            let queue_id = Some(address.open(&lookup, row.value(AddressColumn::SealedQueueId))?);
            let is_due = row.integer(AddressColumn::Season) < season;
            let sealed_push = row.bytes(AddressColumn::SealedPush);
            let push = sealed_push.and_then(|sealed| open_push(&address, &lookup, sealed));
            let mut first_use = None;
            for (index, _) in letters {
                let letter = &mut self.letters[index];
                match self.sender {
                    Sender::Depositor => {}
                    // Every group may use a last-resort address (QS-6).
                    Sender::Domain(_) if last_resort => {}
                    Sender::Domain(domain) => {
                        let ours = address.binding(domain, letter.group_id)?;
                        let is_ours = match stored {
                            Some(theirs) => *theirs == ours,
                            None => *first_use.get_or_insert(ours) == ours,
                        };
                        if !is_ours {
                            continue;
                        }
                    }
                }
                letter.lookup = lookup;
                letter.queue_id = queue_id;
                letter.first_use = first_use.map(|binding| (lookup, binding));
                letter.is_due = is_due;
                let wanted = push.as_ref().filter(|push| letter.urgency >= push.at_least);
                letter.push = wanted.map(|push| push.key.clone());
            }
        }
        Ok(())
    }

    /// Binds the addresses that are used for the first time; returns whether there were any. Where
    /// another group was faster, the letter is not delivered.
    pub(super) fn bind(&mut self) -> Result<bool, DeliverError> {
        let first_uses: BTreeMap<_, _> = self.letters.iter().filter_map(|letter| letter.first_use).collect();
        if first_uses.is_empty() {
            return Ok(false);
        }
        let lookups = ByteaArray::of(first_uses.keys());
        let bindings = ByteaArray::of(first_uses.values());
        let bound: HashSet<Lookup> = Spi::connect_mut(|client| {
            BIND_ADDRESSES
                .with(|plan| plan.run(client, &[(&lookups).into(), (&bindings).into()]))?
                .map(|row| bytes(&row, 1))
                .collect::<Result<_, DeliverError>>()
        })?;
        for letter in &mut self.letters {
            if letter.first_use.is_some_and(|(lookup, _)| !bound.contains(&lookup)) {
                letter.queue_id = None;
                letter.first_use = None;
            }
        }
        Ok(true)
    }

    /// Frees the addresses that this delivery bound and that nothing was delivered to.
    pub(super) fn unbind(&mut self) -> Result<(), DeliverError> {
        let (used, unused): (Vec<_>, Vec<_>) = self
            .letters
            .iter()
            .filter_map(|letter| Some((letter.first_use?.0, letter.fate)))
            .partition(|(_, fate)| *fate == Fate::Delivered);
        let used: HashSet<Lookup> = used.into_iter().map(|(lookup, _)| lookup).collect();
        let unused = unused.into_iter().map(|(lookup, _)| lookup);
        let unused: Vec<Lookup> = unused.filter(|lookup| !used.contains(lookup)).collect();
        change(&UNBIND_ADDRESSES, &unused)
    }

    /// Renews the addresses that something was delivered to.
    pub(super) fn renew(&self) -> Result<(), DeliverError> {
        let used = self.letters.iter().filter(|letter| letter.is_due && letter.fate == Fate::Delivered);
        let used: Vec<Lookup> = used.map(|letter| letter.lookup).collect();
        change(&RENEW_ADDRESSES, &used)
    }

    /// Deletes the addresses of letters to queues that are gone.
    pub(super) fn drop_addresses(&self, dangling: &[usize]) -> Result<(), DeliverError> {
        let addresses =
            dangling.iter().filter_map(|&index| Address::try_from(self.letters[index].address).ok());
        let lookups: Vec<Lookup> = addresses.map(|address| address.lookup()).collect();
        change(&DROP_ADDRESSES, &lookups)
    }
}

/// Opens the address's push policy; none if its owner sealed anything else.
fn open_push(address: &AddressKey, lookup: &Lookup, sealed: &[u8]) -> Option<AddressPush> {
    AddressPush::open(address, lookup, &SealedPush::try_from(sealed).ok()?).ok()
}

/// Runs a statement on these addresses, if there are any.
fn change(statement: &'static LocalKey<Plan>, lookups: &[Lookup]) -> Result<(), DeliverError> {
    if lookups.is_empty() {
        return Ok(());
    }
    let lookups = ByteaArray::of(lookups.iter());
    Spi::connect_mut(|client| statement.with(|plan| plan.run(client, &[(&lookups).into()])).map(drop))?;
    Ok(())
}
