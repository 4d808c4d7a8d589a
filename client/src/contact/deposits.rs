//! Letters on their way to contact queues. Owns the table `deposits`.

use std::collections::BTreeMap;

use postern_protocol::{Payload, auth::SignedContact, name::UserName};
use rusqlite::params;

use super::{
    letter::{self, LetterBody},
    numbers,
};
use crate::{
    account::Account,
    elsewhere,
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
    let home = account.user.domain();
    let home_key = if user.domain() == home { None } else { elsewhere::own_key(tx)? };
    let (client, credential) = (account.client_key(), account.credential()?);
    let payload = letter::seal(contact, &client, credential, stamp, lookup, home_key, body)?;
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
    let mut out_of_reach = BTreeMap::new();
    for (id, user, address, payload) in rows {
        let user: UserName = user.parse().map_err(|_| Error::Damaged("a user name"))?;
        if out_of_reach.contains_key(user.domain()) {
            continue;
        }
        let address = fixed(&address, "an address")?;
        let sent = async {
            let qs = elsewhere::api_for(api, user.domain())?;
            elsewhere::noted(&qs, qs.deposit(address, Payload::new(payload)).await)
        };
        let sent = sent.await;
        // A letter that is refused is not in the way of the others, a homeserver that is away not of those for others.
        if let Err(error) = &sent
            && error.refusal().is_none()
        {
            if error.server_is_away() {
                return sent;
            }
            out_of_reach.insert(user.domain().clone(), sent);
            continue;
        }
        store.write(|tx| {
            tx.sql().execute("DELETE FROM deposits WHERE id = ?1", [id])?;
            if sent.is_err() {
                Event::ContactUnreachable { user }.record(tx)?;
            }
            Ok(())
        })?;
    }
    out_of_reach.into_values().next().unwrap_or(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::tests::Home;

    #[tokio::test]
    async fn a_letter_to_where_nobody_can_be_is_not_in_the_way_of_others() {
        let home = Home::of_nonsense();
        let insert = |user: &str| {
            let sql = "INSERT INTO deposits (user, address, payload) VALUES (?1, zeroblob(32), x'00')";
            home.store.write(|tx| Ok(tx.sql().execute(sql, [user])?)).unwrap();
        };
        insert("eve@xn--a.example");
        deliver_deposits(&home.store, &home.api).await.unwrap_err();
        assert_eq!(home.asked(), 0, "no URL leads there");
        insert("bob@home.example");
        deliver_deposits(&home.store, &home.api).await.unwrap_err();
        assert!(home.asked() > 0, "the other one is tried");
    }
}
