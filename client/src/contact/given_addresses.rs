//! Addresses that clients of contacts, and this user's other devices, gave this one: letters to them go there first, since
//! strangers can close a published one for a day (QS-2). Owns the table `given_addresses`.

use postern_protocol::{Address, PublicKey, name::UserName};
use rusqlite::{OptionalExtension as _, params};

use crate::{
    account::Account,
    error::Result,
    store::{Tx, fixed, integer},
};

/// The address that a client gave this one.
pub(super) fn of(tx: &Tx<'_>, client_key: &PublicKey) -> Result<Option<Address>> {
    let sql = "SELECT address FROM given_addresses WHERE client_key = ?1";
    let address: Option<Vec<u8>> =
        tx.sql().prepare_cached(sql)?.query_row([client_key.as_bytes()], |row| row.get(0)).optional()?;
    address.map(|address| fixed(&address, "an address")).transpose()
}

/// Keeps an address that the letter of this number brought, from a client that the AS confirmed, unless a later one did. Those
/// of users with whom nothing is agreed or asked are forgotten: strangers could fill this device's store with them.
pub(super) fn keep(
    tx: &Tx<'_>,
    user: &UserName,
    client_key: &PublicKey,
    address: &Address,
    number: u64,
) -> Result<()> {
    tx.sql().execute(
        "INSERT INTO given_addresses (client_key, user, address, number) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (client_key)
         DO UPDATE SET user = excluded.user, address = excluded.address, number = excluded.number
         WHERE excluded.number > given_addresses.number",
        params![client_key.as_bytes(), user.to_string(), address.as_bytes(), integer(number)],
    )?;
    let own = Account::load(tx)?.user.to_string();
    tx.sql().execute(
        "DELETE FROM given_addresses
          WHERE user <> ?1
            AND user NOT IN (SELECT user FROM contacts UNION ALL SELECT user FROM requests
                             UNION ALL SELECT user FROM received_requests)",
        [own],
    )?;
    Ok(())
}

/// Forgets an address of a client at which nothing is taken any more.
pub(super) fn forget(tx: &Tx<'_>, client_key: &PublicKey, address: &Address) -> Result<()> {
    let sql = "DELETE FROM given_addresses WHERE client_key = ?1 AND address = ?2";
    tx.sql().execute(sql, params![client_key.as_bytes(), address.as_bytes()])?;
    Ok(())
}

/// A user has another name now.
pub(super) fn moved(tx: &Tx<'_>, from: &UserName, to: &UserName) -> Result<()> {
    let sql = "UPDATE given_addresses SET user = ?2 WHERE user = ?1";
    tx.sql().execute(sql, [from.to_string(), to.to_string()])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{options::Options, store::Store};

    #[test]
    fn the_address_of_the_latest_letter_counts_and_strangers_leave_none() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path(), &Options::default()).unwrap();
        let [alice, bob, eve] =
            ["alice", "bob", "eve"].map(|name| format!("{name}@example.org").parse::<UserName>().unwrap());
        let [phone, bobs, eves] = [1, 2, 3].map(|byte| PublicKey::new([byte; 32]));
        let [first, second] = [1, 2].map(|byte| Address::new([byte; 32]));
        let contact =
            format!("INSERT INTO contacts (user, founding, given) VALUES ('{bob}', zeroblob(32), 1)");
        store
            .write(|tx| {
                Account::new("http://127.0.0.1:1".to_owned(), alice.clone())?.save(tx)?;
                tx.sql().execute_batch(&contact)?;
                for (user, client) in [(&alice, &phone), (&bob, &bobs), (&eve, &eves)] {
                    keep(tx, user, client, &second, 2)?;
                    keep(tx, user, client, &first, 1)?;
                }
                Ok(())
            })
            .unwrap();
        let given = |client: &PublicKey| store.read(|tx| of(tx, client)).unwrap();
        assert_eq!(
            [&phone, &bobs].map(given),
            [Some(second); 2],
            "a letter that comes late brings nothing back"
        );
        assert_eq!(given(&eves), None);
        store.write(|tx| forget(tx, &bobs, &first)).unwrap();
        assert_eq!(given(&bobs), Some(second), "another one is in use by now");
        store.write(|tx| forget(tx, &bobs, &second)).unwrap();
        assert_eq!(given(&bobs), None);
    }
}
