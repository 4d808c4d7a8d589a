//! Delivery: one call puts the messages of one sender into all the queues behind the addresses given,
//! without an SQL statement per recipient (DS-5, QS-2, QS-3, QS-5). The caller has decided that the
//! sender may send, and decides what an undeliverable address means.

mod addresses;
mod enqueue;

use std::cell::OnceCell;

use pgrx::{datum::UnboxDatum, prelude::*};
use postern_protocol::{
    QueueId,
    address::{AddressError, Binding, Lookup},
    chain::ChainError,
    push::{PushKey, Urgency},
    qs::QueueKind,
    sealed::SealError,
};

use crate::{
    push, secret,
    table::{Snapshot, end_command},
};

/// A fault, which rolls the transaction back. What a recipient causes (a revoked address, a full
/// queue, a bad key) is the [`Fate`] of its letter instead.
#[derive(Debug, thiserror::Error)]
enum DeliverError {
    #[error(
        "each address needs a part, each part the number of a payload (from 1), each payload an urgency (0 to 3), none of them null"
    )]
    Arguments,
    #[error("a delivery for a group needs the sender's domain")]
    NoDomain,
    #[error("{0}")]
    Address(#[from] AddressError),
    #[error("{0}")]
    Chain(#[from] ChainError),
    #[error("{0}")]
    Seal(#[from] SealError),
    #[error("a row in schema qs is not what this version of the extension expects: run \"postern migrate\"")]
    Schema,
    #[error("{0}")]
    Spi(#[from] spi::Error),
}

/// Delivers to each of `addresses` the payload whose number (from 1) is in `parts`, for a group, or
/// without one as a deposit. `urgencies` has one number (0 to 3) for each payload. Returns the
/// [`Fate`] of the letter to each address; an empty array if all were delivered.
#[pg_extern]
fn deliver(
    domain: Option<&str>,
    group_id: Option<&[u8]>,
    addresses: Array<&[u8]>,
    parts: Array<i16>,
    payloads: Array<&[u8]>,
    urgencies: Array<i16>,
) -> Result<Vec<i16>, DeliverError> {
    let addresses = without_nulls(&addresses)?;
    let (sender, group_id) = match (domain, group_id) {
        (Some(domain), Some(group_id)) => (Sender::Domain(domain), group_id),
        (None, Some(_)) => return Err(DeliverError::NoDomain),
        (_, None) => (Sender::Depositor, [].as_slice()),
    };
    let groups = vec![group_id; addresses.len()];
    Delivery::new(
        sender,
        &groups,
        &addresses,
        &without_nulls(&parts)?,
        &without_nulls(&payloads)?,
        &without_nulls(&urgencies)?,
    )?
    .run()
}

/// Delivers for several groups of a domain: what goes to an address is of the group whose number (from 1) is in `groups`.
/// Anything else is as in [`deliver`].
#[pg_extern]
fn deliver_groups(
    domain: &str,
    group_ids: Array<&[u8]>,
    groups: Array<i16>,
    addresses: Array<&[u8]>,
    parts: Array<i16>,
    payloads: Array<&[u8]>,
    urgencies: Array<i16>,
) -> Result<Vec<i16>, DeliverError> {
    let group_ids: Vec<Option<&[u8]>> = group_ids.iter().collect();
    let group = |number: i16| {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        group_ids.get(index).copied().flatten()
    };
    let groups: Option<Vec<&[u8]>> = without_nulls(&groups)?.into_iter().map(group).collect();
    Delivery::new(
        Sender::Domain(domain),
        &groups.ok_or(DeliverError::Arguments)?,
        &without_nulls(&addresses)?,
        &without_nulls(&parts)?,
        &without_nulls(&payloads)?,
        &without_nulls(&urgencies)?,
    )?
    .run()
}

fn without_nulls<'a, T>(array: &'a Array<'a, T>) -> Result<Vec<T::As<'a>>, DeliverError>
where
    T: UnboxDatum,
{
    array.iter().collect::<Option<_>>().ok_or(DeliverError::Arguments)
}

#[derive(Clone, Copy)]
enum Sender<'a> {
    /// Groups of a domain, which reach group queues whose owners gave them addresses.
    Domain(&'a str),
    /// An unknown sender, which reaches contact queues.
    Depositor,
}

impl Sender<'_> {
    /// The kind of queue that takes its messages.
    fn reaches(self) -> QueueKind {
        match self {
            Self::Domain(_) => QueueKind::Group,
            Self::Depositor => QueueKind::Contact,
        }
    }
}

/// One payload for one address.
struct Letter<'a> {
    /// The group that it comes from; empty for a depositor.
    group_id: &'a [u8],
    address: &'a [u8],
    payload: &'a [u8],
    /// Index of the payload.
    part: usize,
    urgency: Urgency,
    /// The hash by which the address was found.
    lookup: Lookup,
    /// The queue that the address leads to, for as long as the letter may reach it.
    queue_id: Option<QueueId>,
    /// The binding this delivery establishes, when the address is used for the first time.
    first_use: Option<(Lookup, Binding)>,
    /// Whether the address was not used in this season before.
    is_due: bool,
    /// Key of the queue's push subscription, if its owner wants to be woken for this letter.
    push: Option<PushKey>,
    fate: Fate,
}

/// The outcome of a letter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Delivered = 0,
    /// The address does not exist for this sender: it was never made, it was revoked, its queue is
    /// gone, or it is another group's. That will not change.
    Gone = 1,
    /// The queue, or the address's share of it, is full, or its key is not usable. Its owner may mend that.
    NoRoom = 2,
}

struct Delivery<'a> {
    sender: Sender<'a>,
    letters: Vec<Letter<'a>>,
    /// Whether each payload is a handshake, once somebody asked.
    handshakes: Vec<OnceCell<bool>>,
}

impl<'a> Delivery<'a> {
    fn new(
        sender: Sender<'a>,
        groups: &[&'a [u8]],
        addresses: &[&'a [u8]],
        parts: &[i16],
        payloads: &[&'a [u8]],
        urgencies: &[i16],
    ) -> Result<Self, DeliverError> {
        if [groups.len(), parts.len()] != [addresses.len(); 2] || payloads.len() != urgencies.len() {
            return Err(DeliverError::Arguments);
        }
        let letter = |((&group_id, &address), &part): ((&&'a [u8], &&'a [u8]), &i16)| {
            let index = usize::try_from(part).ok()?.checked_sub(1)?;
            let payload = payloads.get(index)?;
            let urgency = Urgency::try_from(urgencies[index]).ok()?;
            Some(Letter {
                group_id,
                address,
                payload,
                part: index,
                urgency,
                lookup: Lookup::default(),
                queue_id: None,
                first_use: None,
                is_due: false,
                push: None,
                fate: Fate::Gone,
            })
        };
        let letters: Option<_> = groups.iter().zip(addresses).zip(parts).map(letter).collect();
        let handshakes = vec![OnceCell::new(); payloads.len()];
        Ok(Self { sender, letters: letters.ok_or(DeliverError::Arguments)?, handshakes })
    }

    fn run(mut self) -> Result<Vec<i16>, DeliverError> {
        let snapshot = Snapshot::take();
        self.find(&snapshot)?;
        if self.bind()? {
            // Binding may have waited, so the first snapshot may be outdated.
            self.enqueue(&Snapshot::take())?;
        } else {
            self.enqueue(&snapshot)?;
        }
        secret::scrub_stack();
        end_command();
        self.unbind()?;
        self.renew()?;
        push::set(&self.pushes()?);
        Ok(self.fates())
    }

    /// The fate of each letter; empty if all were delivered.
    fn fates(&self) -> Vec<i16> {
        if self.letters.iter().all(|letter| letter.fate == Fate::Delivered) {
            return Vec::new();
        }
        self.letters.iter().map(|letter| letter.fate as i16).collect()
    }
}

type SpiRow<'conn> = spi::SpiHeapTupleData<'conn>;

/// A value of ours, made from the bytes of a `bytea` column (counted from 1).
fn bytes<T>(row: &SpiRow, column: usize) -> Result<T, DeliverError>
where
    T: for<'a> TryFrom<&'a [u8]>,
{
    let bytes = row.get::<&[u8]>(column)?.ok_or(DeliverError::Schema)?;
    T::try_from(bytes).map_err(|_| DeliverError::Schema)
}
