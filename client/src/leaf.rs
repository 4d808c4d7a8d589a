//! Leaves of this device: their private keys, and the extensions that each has. Owns the table
//! `leaf_keys`.

use openmls::prelude::{Extension, Extensions, LeafNode, UnknownExtension};
use postern_protocol::{
    PublicKey,
    key::SigningKey,
    mls::{DELIVERY_ADDRESS, DeliveryAddress, USER_KEY, UserKey},
};
use rusqlite::{OptionalExtension as _, params};

use crate::{
    error::{Error, Result},
    store::Tx,
};

/// The extensions of a new leaf: where messages go, and a key to act by for the user, which has
/// this one device in the group.
pub(crate) fn extensions(tx: &Tx<'_>, delivery: &DeliveryAddress) -> Result<Extensions<LeafNode>> {
    let user = SigningKey::generate();
    keep_key(tx, &user)?;
    let user_key = UserKey { generation: 0, public_key: user.public_key() };
    Extensions::from_vec(vec![
        Extension::Unknown(DELIVERY_ADDRESS, UnknownExtension(delivery.to_bytes())),
        Extension::Unknown(USER_KEY, UnknownExtension(user_key.to_bytes())),
    ])
    .map_err(Error::mls("cannot make a leaf"))
}

pub(crate) fn keep_key(tx: &Tx<'_>, key: &SigningKey) -> Result<()> {
    tx.sql().execute(
        "INSERT INTO leaf_keys (public_key, seed) VALUES (?1, ?2)",
        params![key.public_key().as_bytes(), key.seed()],
    )?;
    Ok(())
}

pub(crate) fn forget_key(tx: &Tx<'_>, public_key: &PublicKey) -> Result<()> {
    tx.sql().execute("DELETE FROM leaf_keys WHERE public_key = ?1", [public_key.as_bytes()])?;
    Ok(())
}

/// The private key of a leaf; `None` for one that is not this device's.
pub(crate) fn key(tx: &Tx<'_>, public_key: &PublicKey) -> Result<Option<SigningKey>> {
    Ok(tx
        .sql()
        .prepare_cached("SELECT seed FROM leaf_keys WHERE public_key = ?1")?
        .query_row([public_key.as_bytes()], |row| row.get(0).map(SigningKey::from_seed))
        .optional()?)
}
