//! Our own KeyPackages (QS-6): keeps some at the QS for friends to fetch, each with a leaf key
//! and a delivery address of its own, and one of last resort; publishes again before they run
//! out or run old; and gives up, with their addresses, those that nobody used in time.

use openmls::prelude::KeyPackageRef;
use openmls_traits::{OpenMlsProvider as _, storage::StorageProvider as _};
use postern_protocol::{
    Address, PublicKey,
    mls::DeliveryAddress,
    problem::ProblemType,
    qs::{CountKeyPackages, PublishKeyPackages, QueueKind, StockedKeyPackage},
};
use rusqlite::{OptionalExtension as _, params};

use crate::{
    account::Account,
    error::{Error, Result},
    friendship::{Friendship, FriendshipSecrets},
    group,
    server::Api,
    store::{Store, Tx, decode, encode, fixed, integer},
    sync::{add_addresses, fresh_address, load_queue},
    wallet::now,
};

/// How many are published at a time, and how few may be left.
pub(crate) const STOCK: usize = 20;
const LOW: u32 = 5;
const DAY: u64 = 24 * 60 * 60;
/// Seconds after which all are replaced: half of their lifetime, so that a friend who fetched
/// one has the other half to use it.
const RENEW_AFTER: u64 = 42 * DAY;

/// What is on its way to the QS: first the addresses, then the packages they are in.
#[derive(serde::Serialize, serde::Deserialize)]
struct Publication {
    addresses: Vec<Address>,
    last_resort_address: Address,
    key_packages: Vec<StockedKeyPackage>,
    last_resort: StockedKeyPackage,
}

/// Publishes if it is time to.
pub(crate) async fn keep(store: &Store, api: &Api) -> Result<()> {
    let (mut account, outstanding, last) = store.read(|tx| {
        let account = Account::load(tx)?.ok_or(Error::NotReady)?;
        Ok((account, outstanding(tx)?, last_publication(tx)?))
    })?;
    if account.friendship.is_none() {
        // Made by a client of before there were friendships.
        account.friendship = Some(Friendship::join(FriendshipSecrets::generate()?));
        store.write(|tx| account.save(tx))?;
    }
    let friendship = account.friendship.as_ref().ok_or(Error::NotReady)?;
    if outstanding.is_none() && !is_due(store, api, friendship, last).await? {
        return Ok(());
    }
    let Publication { addresses, last_resort_address, key_packages, last_resort } = match outstanding {
        Some(publication) => publication,
        None => store.write(|tx| prepare(tx, &account, friendship))?,
    };
    let queue = store.read(|tx| load_queue(tx, QueueKind::Group))?;
    add_addresses(api, &queue, addresses, vec![last_resort_address]).await?;
    let body = PublishKeyPackages {
        friendship_token: friendship.token(),
        stock_id: friendship.stock_id,
        key_packages,
        last_resort: Some(last_resort),
        // Later, a token that is unknown was replaced by another device, or nobody of us was
        // here for long.
        create: last.is_none(),
    };
    match api.publish_key_packages(&body, &friendship.secrets.owner()).await {
        // Begun anew by the next run. The other device's letter is read by then, if there is one.
        Err(error) if error.problem() == Some(ProblemType::NotFound) && last.is_some() => {
            return store.write(|tx| {
                tx.sql().execute("DELETE FROM stock_state", [])?;
                Ok(())
            });
        }
        answer => answer?,
    };
    store.write(|tx| {
        tx.sql().execute("DELETE FROM publications", [])?;
        tx.sql().execute(
            "INSERT OR REPLACE INTO stock_state (one, published, counted) VALUES (1, ?1, ?1)",
            [integer(now())],
        )?;
        Ok(())
    })
}

/// Gives up what expired: keys, and addresses that lead to no group.
pub(crate) fn drop_expired(store: &Store) -> Result<()> {
    type Row = (Vec<u8>, Vec<u8>, Vec<u8>);
    let expired = store.read(|tx| {
        let mut statement =
            tx.sql().prepare_cached("SELECT leaf_key, address, reference FROM stock WHERE expires < ?1")?;
        Ok(statement
            .query_map([integer(now())], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<Result<Vec<Row>, _>>()?)
    })?;
    if expired.is_empty() {
        return Ok(());
    }
    store.write(|tx| {
        for (leaf_key, address, reference) in &expired {
            let reference: KeyPackageRef = decode(reference, "a KeyPackage's reference")?;
            tx.storage().delete_key_package(&reference)?;
            tx.sql().execute("DELETE FROM stock WHERE leaf_key = ?1", [leaf_key])?;
            if !group::uses_leaf_key(tx, leaf_key)? {
                group::forget_leaf_key(tx, leaf_key)?;
                revoke_later(tx, &fixed(address, "an address")?)?;
            }
        }
        Ok(())
    })
}

/// A group was joined by the KeyPackage of this leaf key: it, and its address, are the group's
/// now. One of last resort may be others', too, and tells who is behind them that they have one
/// member in common: another is published, so that it does so no longer than it must.
pub(crate) fn used(tx: &Tx<'_>, leaf_key: &PublicKey) -> Result<()> {
    let key = [leaf_key.as_bytes()];
    let sql = "DELETE FROM stock WHERE leaf_key = ?1 AND last_resort = 0";
    if tx.sql().execute(sql, key)? > 0 {
        return Ok(());
    }
    let sql = "UPDATE stock_state SET published = 0
                WHERE EXISTS (SELECT 1 FROM stock WHERE leaf_key = ?1 AND current = 1)";
    tx.sql().execute(sql, key)?;
    Ok(())
}

/// Whether friends may still be handed the KeyPackage of this leaf key.
pub(crate) fn holds(tx: &Tx<'_>, leaf_key: &PublicKey) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM stock WHERE leaf_key = ?1)";
    Ok(tx.sql().prepare_cached(sql)?.query_row([leaf_key.as_bytes()], |row| row.get(0))?)
}

/// The addresses of all KeyPackages that nobody used yet.
pub(crate) fn addresses(tx: &Tx<'_>) -> Result<Vec<Address>> {
    let mut statement = tx.sql().prepare("SELECT address FROM stock")?;
    let rows = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<Vec<u8>>, _>>()?;
    rows.iter().map(|address| fixed(address, "an address")).collect()
}

pub(crate) fn forget_the_count(tx: &Tx<'_>) -> Result<()> {
    tx.sql().execute("UPDATE stock_state SET counted = 0", [])?;
    Ok(())
}

/// Notes that an address is to lead nowhere.
pub(crate) fn revoke_later(tx: &Tx<'_>, address: &Address) -> Result<()> {
    tx.sql().execute("INSERT OR IGNORE INTO revocations (address) VALUES (?1)", [address.as_bytes()])?;
    Ok(())
}

/// Revokes the addresses that are noted.
pub(crate) async fn revoke(store: &Store, api: &Api) -> Result<()> {
    let noted: Vec<Vec<u8>> = store.read(|tx| {
        let mut statement = tx.sql().prepare_cached("SELECT address FROM revocations LIMIT 1000")?;
        Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
    })?;
    if noted.is_empty() {
        return Ok(());
    }
    let addresses: Vec<Address> =
        noted.iter().map(|address| fixed(address, "an address")).collect::<Result<_>>()?;
    let queue = store.read(|tx| load_queue(tx, QueueKind::Group))?;
    match api.revoke_addresses(&queue.id, addresses.clone(), &queue.owner).await {
        // One of them is gone already, by an attempt of ours whose answer was lost.
        Err(error) if error.problem() == Some(ProblemType::NotFound) => {
            for address in addresses {
                match api.revoke_addresses(&queue.id, vec![address], &queue.owner).await {
                    Err(error) if error.problem() == Some(ProblemType::NotFound) => {}
                    answer => answer?,
                }
            }
        }
        answer => answer?,
    }
    store.write(|tx| {
        for address in &noted {
            tx.sql().execute("DELETE FROM revocations WHERE address = ?1", [address])?;
        }
        Ok(())
    })
}

async fn is_due(store: &Store, api: &Api, friendship: &Friendship, last: Option<(u64, u64)>) -> Result<bool> {
    let Some((published, counted)) = last else { return Ok(true) };
    if now() >= published + RENEW_AFTER {
        return Ok(true);
    }
    let in_stock: u64 = store.read(|tx| {
        let sql = "SELECT count(*) FROM stock WHERE last_resort = 0 AND current = 1";
        Ok(tx.sql().query_row(sql, [], |row| row.get(0))?)
    })?;
    // What friends fetched and did not use the QS alone knows: it is asked once a day.
    if in_stock > u64::from(LOW) && now() < counted + DAY {
        return Ok(false);
    }
    let count = CountKeyPackages { friendship_token: friendship.token(), stock_id: friendship.stock_id };
    let remaining = match api.count_key_packages(&count, &friendship.secrets.owner()).await {
        Err(error) if error.problem() == Some(ProblemType::NotFound) => 0,
        answer => answer?.remaining,
    };
    store.write(|tx| {
        tx.sql().execute("UPDATE stock_state SET counted = ?1", [integer(now())])?;
        Ok(())
    })?;
    Ok(remaining <= LOW)
}

/// Makes a stock. Its keys are kept before anything is sent.
fn prepare(tx: &Tx<'_>, account: &Account, friendship: &Friendship) -> Result<Publication> {
    tx.sql().execute("UPDATE stock SET current = 0", [])?;
    let make = |last_resort| {
        let address = fresh_address()?;
        let delivery = DeliveryAddress { domain: account.user.domain().clone(), address };
        let made = group::make_key_package(tx, account, &friendship.secrets.friend, &delivery, last_resort)?;
        tx.sql().execute(
            "INSERT INTO stock (leaf_key, address, reference, expires, last_resort, current)
             VALUES (?1, ?2, ?3, ?4, ?5, 1)",
            params![
                made.leaf_key.as_bytes(),
                address.as_bytes(),
                encode(&made.reference),
                integer(made.expires),
                last_resort
            ],
        )?;
        Ok::<_, Error>((address, made.package))
    };
    let (addresses, key_packages) =
        (0..STOCK).map(|_| make(false)).collect::<Result<Vec<_>>>()?.into_iter().unzip();
    let (last_resort_address, last_resort) = make(true)?;
    let publication = Publication { addresses, last_resort_address, key_packages, last_resort };
    tx.sql().execute("INSERT INTO publications (one, publication) VALUES (1, ?1)", [encode(&publication)])?;
    Ok(publication)
}

fn outstanding(tx: &Tx<'_>) -> Result<Option<Publication>> {
    let publication: Option<Vec<u8>> =
        tx.sql().query_row("SELECT publication FROM publications", [], |row| row.get(0)).optional()?;
    publication.map(|publication| decode(&publication, "a publication")).transpose()
}

/// When we published and when we counted last.
fn last_publication(tx: &Tx<'_>) -> Result<Option<(u64, u64)>> {
    let sql = "SELECT published, counted FROM stock_state";
    Ok(tx.sql().query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
}
