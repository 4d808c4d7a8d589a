//! KeyPackages of others, fetched and not used yet. Owns the table `key_packages`.

use openmls::prelude::KeyPackage;
use openmls_traits::OpenMlsProvider as _;
use postern_protocol::{
    MlsMessage, PublicKey,
    credential::ClientCredential,
    ds::GroupId,
    mls::{DELIVERY_ADDRESS, DeliveryAddress, USER_KEY, UserKey},
    qs::StockedKeyPackage,
};
use rusqlite::{OptionalExtension as _, params};

use crate::{
    contact::Friend,
    error::{Error, Result},
    identity::IdentityLink,
    invitations, mls,
    store::{Tx, decode, encode, fixed},
};

/// Seconds for which a KeyPackage has to be good yet to be used. A member that is away reads of it up to 30 days later
/// (`operator.settings.message_days`), and one day more with a message's chain; where it is at another homeserver, the message
/// may have waited for that for 14 days before (`operator.settings.outbox_days`). And a day counts whole. A QS hands out none that
/// ends sooner. A DS that keeps messages longer refuses more (DS-3): then another one is fetched, once.
const GOOD_FOR: u64 = 46 * 24 * 60 * 60;

/// A KeyPackage of a friend's device: well-formed, and linked to the client that it claims.
pub(crate) struct FriendsKeyPackage {
    /// The client that the AS has to vouch for.
    pub client: ClientCredential,
    leaf_key: PublicKey,
    key_package: MlsMessage,
    link: IdentityLink,
}

/// Opens what a friend's device published; `None` if it is unusable.
pub(crate) fn open_key_package(
    tx: &Tx<'_>,
    friend: &Friend,
    stocked: &StockedKeyPackage,
) -> Option<FriendsKeyPackage> {
    let key_package = parse_good(tx, stocked.key_package.as_bytes())?;
    let leaf = key_package.leaf_node();
    let leaf_key = mls::public_key(leaf.signature_key().as_slice())?;
    let delivery = leaf.extensions().unknown(DELIVERY_ADDRESS)?;
    let delivery = DeliveryAddress::from_bytes(&delivery.0).ok()?;
    let link = friend.open_link(&leaf_key, &stocked.attachment)?;
    let client = link.claim_for(None, &leaf_key)?;
    let user_key = leaf.extensions().unknown(USER_KEY).and_then(|it| UserKey::from_bytes(&it.0).ok());
    // No group takes one that is ahead of its epochs, and a commit that adds it would be for nothing.
    let is_ahead = user_key.is_some_and(|key| key.generation > UserKey::latest_generation(0));
    if is_ahead || delivery.domain != *client.user.domain() {
        return None;
    }
    Some(FriendsKeyPackage { client, leaf_key, key_package: stocked.key_package.clone(), link })
}

/// Keeps a friend's KeyPackage, whose client was confirmed, for the next groups. One of last
/// resort that was here before stays reserved as it is.
pub(crate) fn keep_key_package(tx: &Tx<'_>, package: &FriendsKeyPackage) -> Result<()> {
    tx.sql().execute(
        "INSERT OR IGNORE INTO key_packages (leaf_key, client_key, user, key_package, link)
         VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            package.leaf_key.as_bytes(),
            package.client.client_key.as_bytes(),
            package.client.user.to_string(),
            package.key_package.as_bytes(),
            encode(&package.link)
        ],
    )?;
    Ok(())
}

/// The leaf key of a usable KeyPackage of a client, if one is at hand.
pub(crate) fn key_package_of(tx: &Tx<'_>, client_key: &PublicKey) -> Result<Option<PublicKey>> {
    Ok(key_packages_of(tx, client_key)?.into_iter().next().map(|(leaf_key, _)| leaf_key))
}

/// The usable KeyPackages of a client that are at hand, with their leaf keys, in the order in which they came. Forgets those that
/// are not usable any more, and where no other is left has another one fetched for groups that wait.
pub(crate) fn key_packages_of(tx: &Tx<'_>, client_key: &PublicKey) -> Result<Vec<(PublicKey, KeyPackage)>> {
    let mut statement = tx.sql().prepare_cached(
        "SELECT leaf_key, key_package FROM key_packages
         WHERE client_key = ?1 AND reserved_for IS NULL ORDER BY rowid",
    )?;
    let rows = statement
        .query_map([client_key.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<Vec<(Vec<u8>, Vec<u8>)>, _>>()?;
    let number = rows.len();
    let mut usable = Vec::new();
    for (leaf_key, key_package) in rows {
        if let Some(key_package) = parse_good(tx, &key_package) {
            usable.push((fixed(&leaf_key, "a key")?, key_package));
        } else {
            // It expired, or would have when the last member reads of it.
            tx.sql().execute("DELETE FROM key_packages WHERE leaf_key = ?1", [leaf_key])?;
        }
    }
    if usable.is_empty()
        && number > 0
        && let Some(user) = invitations::waits_for_client(tx, client_key)?
    {
        invitations::want_key_packages(tx, &user)?;
    }
    Ok(usable)
}

/// A KeyPackage that can be used: groups take it, and it is good for long enough, and not for longer than the DS allows.
fn parse_good(tx: &Tx<'_>, bytes: &[u8]) -> Option<KeyPackage> {
    let key_package = mls::parse_key_package(bytes, tx.crypto())?;
    let lifetime = key_package.life_time();
    let is_good = mls::is_for_groups(&key_package, tx.crypto())
        && lifetime.has_acceptable_range()
        && lifetime.not_after() >= tx.now().saturating_add(GOOD_FOR);
    is_good.then_some(key_package)
}

/// Takes a KeyPackage for a commit, so that no other commit takes it, too.
pub(crate) fn reserve_key_package(tx: &Tx<'_>, group: &GroupId, leaf_key: &PublicKey) -> Result<KeyPackage> {
    let bytes: Option<Vec<u8>> = tx
        .sql()
        .query_row(
            "UPDATE key_packages SET reserved_for = ?1
             WHERE leaf_key = ?2 AND reserved_for IS NULL RETURNING key_package",
            params![group.to_mls(), leaf_key.as_bytes()],
            |row| row.get(0),
        )
        .optional()?;
    bytes.and_then(|bytes| parse_good(tx, &bytes)).ok_or(Error::Damaged("a KeyPackage"))
}

/// Whether a group's outstanding commit uses a KeyPackage.
pub(crate) fn is_reserved(tx: &Tx<'_>, group: &GroupId, leaf_key: &PublicKey) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM key_packages WHERE leaf_key = ?1 AND reserved_for = ?2)";
    Ok(tx.sql().query_row(sql, params![leaf_key.as_bytes(), group.to_mls()], |row| row.get(0))?)
}

/// The link that came with a KeyPackage at hand.
pub(crate) fn link_of(tx: &Tx<'_>, leaf_key: &PublicKey) -> Result<Option<IdentityLink>> {
    let link: Option<Vec<u8>> = tx
        .sql()
        .query_row("SELECT link FROM key_packages WHERE leaf_key = ?1", [leaf_key.as_bytes()], |row| {
            row.get(0)
        })
        .optional()?;
    link.map(|link| decode(&link, "an identity link")).transpose()
}

/// Gives the KeyPackages back that a group's commit took.
pub(crate) fn end_reservations(tx: &Tx<'_>, group: &GroupId) -> Result<()> {
    tx.sql()
        .execute("UPDATE key_packages SET reserved_for = NULL WHERE reserved_for = ?1", [group.to_mls()])?;
    Ok(())
}

/// Takes a KeyPackage out, as its owner is in a group by it: the owner's client key and link.
pub(crate) fn use_key_package(
    tx: &Tx<'_>,
    leaf_key: &PublicKey,
) -> Result<Option<(PublicKey, IdentityLink)>> {
    let row: Option<(Vec<u8>, Vec<u8>)> = tx
        .sql()
        .query_row(
            "DELETE FROM key_packages WHERE leaf_key = ?1 RETURNING client_key, link",
            [leaf_key.as_bytes()],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    row.map(|(client_key, link)| Ok((fixed(&client_key, "a key")?, decode(&link, "an identity link")?)))
        .transpose()
}

/// Forgets the KeyPackages of a client that are at hand. Those that groups' commits took stay.
pub(crate) fn forget_key_packages_of(tx: &Tx<'_>, client_key: &PublicKey) -> Result<()> {
    let sql = "DELETE FROM key_packages WHERE client_key = ?1 AND reserved_for IS NULL";
    tx.sql().execute(sql, [client_key.as_bytes()])?;
    Ok(())
}

/// Forgets a KeyPackage at hand by which nobody comes into a group. One that another group's commit took stays: if that was
/// accepted, it tells who came in by it.
pub(crate) fn forget_key_package(tx: &Tx<'_>, leaf_key: &PublicKey) -> Result<()> {
    let sql = "DELETE FROM key_packages WHERE leaf_key = ?1 AND reserved_for IS NULL";
    tx.sql().execute(sql, [leaf_key.as_bytes()])?;
    Ok(())
}
