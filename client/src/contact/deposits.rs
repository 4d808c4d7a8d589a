//! Letters on their way to contact queues: first to the address that the receiver gave this device, if it gave one, and where
//! nothing is taken there any more to the one that is published. Owns the table `deposits`.

use std::collections::BTreeMap;

use postern_protocol::{
    Address, Payload, PublicKey, auth::SignedContact, name::UserName, problem::ProblemType,
};
use rusqlite::params;

use super::{
    given_addresses,
    letter::{self, LetterBody, Stamp, Told},
    numbers,
};
use crate::{
    account::Account,
    elsewhere,
    error::{Error, Result},
    event::Event,
    group::GroupHandover,
    identity::{self, VerifiedClient, VerifiedUser},
    profile,
    server::Api,
    store::{Store, Tx, decode, encode, fixed},
};

/// A letter on its way.
struct Deposit {
    id: i64,
    user: UserName,
    client_key: PublicKey,
    address: Address,
    payload: Payload,
    /// Stamp and content, while it may be sealed for another address.
    unsealed: Option<(Stamp, LetterBody)>,
}

/// Users as lookups showed them while letters were sent; `None`: none did.
type Asked = BTreeMap<UserName, Option<VerifiedUser>>;

/// Seals a letter to a client of a user, with the contact that it published, and keeps it until it was deposited.
pub(super) fn write_letter(
    tx: &Tx<'_>,
    account: &Account,
    user: &UserName,
    client_key: &PublicKey,
    contact: &SignedContact,
    body: &LetterBody,
) -> Result<()> {
    let stamp = numbers::next(tx)?;
    let address = given_addresses::of(tx, client_key)?.unwrap_or(contact.address);
    let payload = sealed(tx, account, user, &SignedContact { address, ..contact.clone() }, (stamp, body))?;
    tx.sql().execute(
        "INSERT INTO deposits (user, client_key, address, payload, unsealed) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            user.to_string(),
            client_key.as_bytes(),
            address.as_bytes(),
            payload.as_bytes(),
            encode(&(stamp, body))
        ],
    )?;
    Ok(())
}

/// Seals a letter to a user's client for the address of this contact.
fn sealed(
    tx: &Tx<'_>,
    account: &Account,
    user: &UserName,
    to: &SignedContact,
    (stamp, body): (Stamp, &LetterBody),
) -> Result<Payload> {
    // Somebody who is declined learns nothing by it.
    let is_declined = matches!(body, LetterBody::Decline(_));
    let takes_letters = !is_declined && !matches!(body, LetterBody::Leaving);
    let lookup = if is_declined { None } else { profile::own_lookup_secret(tx)? };
    let home_key = if user.domain() == account.user.domain() { None } else { elsewhere::own_key(tx)? };
    let address = takes_letters.then(|| account.address_for(user));
    let told = Told { lookup, home_key, address };
    letter::seal(to, &account.client_key(), account.credential()?, stamp, told, body)
}

/// Writes to another device of this user what it needs to come into a group.
pub(crate) fn write_group(
    tx: &Tx<'_>,
    device: &PublicKey,
    contact: &SignedContact,
    handover: &GroupHandover,
) -> Result<()> {
    let account = Account::load(tx)?;
    let body = LetterBody::Group { group_id: handover.id.clone(), handover: Payload::new(encode(handover)) };
    write_letter(tx, &account, &account.user, device, contact, &body)
}

/// Sends the letters on their way, one after the other.
pub(crate) async fn deliver_deposits(store: &Store, api: &Api) -> Result<()> {
    let mut out_of_reach = BTreeMap::new();
    let mut asked = Asked::new();
    for deposit in store.read(waiting)? {
        if out_of_reach.contains_key(deposit.user.domain()) {
            continue;
        }
        match send(store, api, &deposit, &mut asked).await {
            Ok(_) => {}
            Err(error) if error.server_is_away() || matches!(error, Error::Database(_)) => return Err(error),
            // A homeserver that is away is not in the way of letters for others.
            Err(error) => {
                out_of_reach.insert(deposit.user.domain().clone(), error);
            }
        }
    }
    out_of_reach.into_values().next().map_or(Ok(()), Err)
}

/// Tells these other devices of this user that this one logs out, and returns how many of them took the letter. Letters of an
/// attempt before, of whose fate nothing is known, are written anew.
pub(crate) async fn say_leaving(store: &Store, api: &Api, others: &[VerifiedClient]) -> Result<usize> {
    let letters = store.write(|tx| {
        for before in leaving(tx)? {
            forget(tx, &before)?;
        }
        let account = Account::load(tx)?;
        for other in others {
            if let Some(contact) = &other.contact {
                let (user, body) = (&account.user, LetterBody::Leaving);
                write_letter(tx, &account, user, &other.client_key, contact, &body)?;
            }
        }
        leaving(tx)
    })?;
    let (mut taken, mut asked) = (0, Asked::new());
    for letter in letters {
        taken += usize::from(send(store, api, &letter, &mut asked).await?);
    }
    Ok(taken)
}

/// The letters on their way which say that this device logs out.
fn leaving(tx: &Tx<'_>) -> Result<Vec<Deposit>> {
    let mut letters = waiting(tx)?;
    letters.retain(|letter| matches!(letter.unsealed, Some((_, LetterBody::Leaving))));
    Ok(letters)
}

/// Sends a letter, and forgets it once it was taken or refused: one that is refused is not in the way of others. Returns whether
/// it was taken.
async fn send(store: &Store, api: &Api, deposit: &Deposit, asked: &mut Asked) -> Result<bool> {
    let sent = deliver(store, api, deposit, asked).await;
    if let Err(error) = &sent
        && error.refusal().is_none()
    {
        return sent.map(|()| false);
    }
    store.write(|tx| {
        forget(tx, deposit)?;
        if sent.is_err() {
            Event::ContactUnreachable { user: deposit.user.clone() }.record(tx)?;
        }
        Ok(())
    })?;
    Ok(sent.is_ok())
}

fn forget(tx: &Tx<'_>, deposit: &Deposit) -> Result<()> {
    tx.sql().execute("DELETE FROM deposits WHERE id = ?1", [deposit.id])?;
    Ok(())
}

/// The letters on their way, in the order in which they were written.
fn waiting(tx: &Tx<'_>) -> Result<Vec<Deposit>> {
    type Row = (i64, String, Vec<u8>, Vec<u8>, Vec<u8>, Option<Vec<u8>>);
    let sql = "SELECT id, user, client_key, address, payload, unsealed FROM deposits ORDER BY id";
    let mut statement = tx.sql().prepare_cached(sql)?;
    let rows = statement
        .query_map([], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
        })?
        .collect::<Result<Vec<Row>, _>>()?;
    rows.into_iter()
        .map(|(id, user, client_key, address, payload, unsealed)| {
            Ok(Deposit {
                id,
                user: user.parse().map_err(|_| Error::Damaged("a user name"))?,
                client_key: fixed(&client_key, "a key")?,
                address: fixed(&address, "an address")?,
                payload: Payload::new(payload),
                unsealed: unsealed.map(|unsealed| decode(&unsealed, "a letter")).transpose()?,
            })
        })
        .collect()
}

/// Sends a letter. Where its address takes nothing, since it was given enough for the day or its owner has another one by now,
/// the receiver is looked up, and the letter goes to the address that is published now, if that is another one.
async fn deliver(store: &Store, api: &Api, deposit: &Deposit, asked: &mut Asked) -> Result<()> {
    let qs = elsewhere::api_for(api, deposit.user.domain())?;
    let sent = elsewhere::noted(&qs, qs.deposit(deposit.address, deposit.payload.clone()).await);
    let is_closed = sent.as_ref().is_err_and(|error| error.problem() == Some(ProblemType::Undeliverable));
    let Some(letter) = deposit.unsealed.as_ref().filter(|_| is_closed) else { return sent };
    ask(store, api, &deposit.user, asked).await?;
    let found = asked.get(&deposit.user).and_then(Option::as_ref);
    let client =
        found.and_then(|found| found.clients.iter().find(|client| client.client_key == deposit.client_key));
    let contact = client.and_then(|client| client.contact.as_ref());
    let again = store.write(|tx| {
        given_addresses::forget(tx, &deposit.client_key, &deposit.address)?;
        let Some(contact) = contact.filter(|contact| contact.address != deposit.address) else {
            return Ok(None);
        };
        let (stamp, body) = letter;
        let payload = sealed(tx, &Account::load(tx)?, &deposit.user, contact, (*stamp, body))?;
        tx.sql().execute(
            "UPDATE deposits SET address = ?2, payload = ?3, unsealed = NULL WHERE id = ?1",
            params![deposit.id, contact.address.as_bytes(), payload.as_bytes()],
        )?;
        Ok(Some((contact.address, payload)))
    })?;
    match again {
        Some((address, payload)) => elsewhere::noted(&qs, qs.deposit(address, payload).await),
        None => sent,
    }
}

/// Looks a user up, unless that was done already.
///
/// # Errors
/// What keeps the AS from being asked now.
async fn ask(store: &Store, api: &Api, user: &UserName, asked: &mut Asked) -> Result<()> {
    if asked.contains_key(user) {
        return Ok(());
    }
    let found = match identity::look_up(api, store, user).await {
        Err(error) if !error.leads_nowhere() => return Err(error),
        found => found.ok(),
    };
    asked.insert(user.clone(), found);
    Ok(())
}

#[cfg(test)]
mod tests {
    use postern_protocol::{chain::HpkePrivateKey, credential::ClientCredential, key::SigningKey};

    use super::*;
    use crate::server::tests::Home;

    #[tokio::test]
    async fn a_letter_to_where_nobody_can_be_is_not_in_the_way_of_others() {
        let home = Home::of_nonsense();
        let insert = |user: &str| {
            let sql = "INSERT INTO deposits (user, client_key, address, payload)
                       VALUES (?1, zeroblob(32), zeroblob(32), x'00')";
            home.store.write(|tx| Ok(tx.sql().execute(sql, [user])?)).unwrap();
        };
        insert("eve@xn--a.example");
        deliver_deposits(&home.store, &home.api).await.unwrap_err();
        assert_eq!(home.asked(), 0, "no URL leads there");
        insert("bob@home.example");
        deliver_deposits(&home.store, &home.api).await.unwrap_err();
        assert!(home.asked() > 0, "the other one is tried");
    }

    #[tokio::test]
    async fn a_device_that_logs_out_again_writes_to_each_other_device_anew_and_keeps_no_older_letter() {
        let home = Home::of_nonsense();
        let mut account =
            Account::new("https://home.example".to_owned(), "bob@home.example".parse().unwrap()).unwrap();
        let issuer = SigningKey::generate();
        let credential = ClientCredential {
            user: account.user.clone(),
            client_key: account.client_key().public_key(),
            not_before: 0,
            not_after: 4_000_000_000,
            issuer_key: issuer.public_key(),
        };
        account.credential = Some(credential.issue(&issuer));
        let identity =
            "INSERT INTO eids
                 (user, pending, founder, founding, incarnation, epoch, transcript, public_group, seen, verified)
             VALUES (?1, 0, zeroblob(32), zeroblob(32), 0, 1, zeroblob(32), x'', 0, 0)";
        home.store
            .write(|tx| {
                account.save(tx)?;
                tx.sql().execute(identity, [account.user.to_string()])?;
                Ok(())
            })
            .unwrap();
        let contact_of = |client: &SigningKey| {
            let hpke_key = HpkePrivateKey::generate().unwrap().public_key().unwrap();
            let domain = account.user.domain().clone();
            SignedContact::sign(domain, Address::generate().unwrap(), hpke_key, client)
        };
        let [phone, tablet, unfinished] = [true, true, false].map(|is_finished| {
            let client = SigningKey::generate();
            let contact = is_finished.then(|| contact_of(&client));
            VerifiedClient { client_key: client.public_key(), contact }
        });
        let others = [phone, tablet, unfinished];
        for _ in 0..2 {
            say_leaving(&home.store, &home.api, &others).await.unwrap_err();
            let letters = home.store.read(leaving).unwrap();
            let receivers: Vec<PublicKey> = letters.iter().map(|letter| letter.client_key).collect();
            assert_eq!(receivers, [others[0].client_key, others[1].client_key]);
        }
    }
}
