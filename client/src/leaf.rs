//! Leaves of this device: their private keys, the keys of its user in groups, and the extensions that
//! each leaf has. Owns the table `leaf_keys`.

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

/// The extensions of a leaf: where messages go, and the key by which the user acts in the group, which
/// all of the user's devices have.
pub(crate) fn extensions(delivery: &DeliveryAddress, user_key: &UserKey) -> Result<Extensions<LeafNode>> {
    Extensions::from_vec(vec![
        Extension::Unknown(DELIVERY_ADDRESS, UnknownExtension(delivery.to_bytes())),
        Extension::Unknown(USER_KEY, UnknownExtension(user_key.to_bytes())),
    ])
    .map_err(Error::mls("cannot make a leaf"))
}

/// Makes a key of the user for one group, and keeps its private half.
pub(crate) fn new_user_key(tx: &Tx<'_>, generation: u32) -> Result<UserKey> {
    let key = SigningKey::generate();
    keep_key(tx, &key)?;
    Ok(UserKey { generation, public_key: key.public_key() })
}

/// Keeps a private key; one that is here already stays.
pub(crate) fn keep_key(tx: &Tx<'_>, key: &SigningKey) -> Result<()> {
    tx.sql().execute(
        "INSERT OR IGNORE INTO leaf_keys (public_key, seed) VALUES (?1, ?2)",
        params![key.public_key().as_bytes(), key.seed()],
    )?;
    Ok(())
}

pub(crate) fn forget_key(tx: &Tx<'_>, public_key: &PublicKey) -> Result<()> {
    tx.sql().execute("DELETE FROM leaf_keys WHERE public_key = ?1", [public_key.as_bytes()])?;
    Ok(())
}

/// The private key of a leaf, or of the user in a group; `None` for one that is not here.
pub(crate) fn key(tx: &Tx<'_>, public_key: &PublicKey) -> Result<Option<SigningKey>> {
    Ok(tx
        .sql()
        .prepare_cached("SELECT seed FROM leaf_keys WHERE public_key = ?1")?
        .query_row([public_key.as_bytes()], |row| row.get(0).map(SigningKey::from_seed))
        .optional()?)
}
