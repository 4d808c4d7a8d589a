//! Letters on their way to contact queues. Owns the table `deposits`.

use postern_protocol::{Payload, auth::SignedContact, name::UserName};
use rusqlite::params;

use super::{
    letter::{self, LetterBody},
    numbers,
};
use crate::{
    account::Account,
    error::{Error, Result},
    event::Event,
    group::GroupHandover,
    profile,
    server::Api,
    store::{Store, Tx, encode, fixed},
};

/// Seals a letter and keeps it until it was deposited.
pub(super) fn write_letter(
    tx: &Tx<'_>,
    account: &Account,
    user: &UserName,
    contact: &SignedContact,
    body: &LetterBody,
) -> Result<()> {
    let stamp = numbers::next(tx)?;
    // Somebody who is declined learns nothing by it.
    let lookup = match body {
        LetterBody::Decline(_) => None,
        _ => profile::own_lookup_secret(tx)?,
    };
    let payload = letter::seal(contact, &account.client_key(), account.credential()?, stamp, lookup, body)?;
    tx.sql().execute(
        "INSERT INTO deposits (user, address, payload) VALUES (?1, ?2, ?3)",
        params![user.to_string(), contact.address.as_bytes(), payload.as_bytes()],
    )?;
    Ok(())
}

/// Writes to another device of this user what it needs to come into a group.
pub(crate) fn write_group(tx: &Tx<'_>, contact: &SignedContact, handover: &GroupHandover) -> Result<()> {
    let account = Account::load(tx)?;
    let body = LetterBody::Group { group_id: handover.id.clone(), handover: Payload::new(encode(handover)) };
    write_letter(tx, &account, &account.user, contact, &body)
}

/// Sends the letters on their way, one after the other.
pub(crate) async fn deliver_deposits(store: &Store, api: &Api) -> Result<()> {
    type Row = (i64, String, Vec<u8>, Vec<u8>);
    let rows = store.read(|tx| {
        let mut statement =
            tx.sql().prepare_cached("SELECT id, user, address, payload FROM deposits ORDER BY id")?;
        Ok(statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
            .collect::<Result<Vec<Row>, _>>()?)
    })?;
    for (id, user, address, payload) in rows {
        let sent = api.deposit(fixed(&address, "an address")?, Payload::new(payload)).await;
        // A letter that is refused is not in the way of the others.
        if sent.as_ref().is_err_and(|error| error.refusal().is_none()) {
            return sent;
        }
        store.write(|tx| {
            tx.sql().execute("DELETE FROM deposits WHERE id = ?1", [id])?;
            if sent.is_err() {
                let user = user.parse().map_err(|_| Error::Damaged("a user name"))?;
                Event::ContactUnreachable { user }.record(tx)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}
