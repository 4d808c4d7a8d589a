//! Making a KeyPackage of this device's.

use openmls::prelude::{KeyPackage, KeyPackageRef, MlsMessageOut};
use openmls_traits::OpenMlsProvider as _;
use postern_protocol::{
    MlsMessage, PublicKey,
    key::SigningKey,
    mls::{DeliveryAddress, Pseudonym},
    qs::StockedKeyPackage,
};

use crate::{
    account::Account,
    contact::Friend,
    error::{Error, Result},
    identity::IdentityLink,
    leaf,
    mls::{self, CIPHERSUITE, LeafSigner},
    store::Tx,
};

/// A KeyPackage of this device's, for friends.
pub(crate) struct OwnKeyPackage {
    pub package: StockedKeyPackage,
    pub leaf_key: PublicKey,
    /// The name under which openmls keeps its private keys.
    pub reference: KeyPackageRef,
    /// Seconds since 1970.
    pub expires: u64,
}

/// Makes a KeyPackage for friends who want to add this client to a group, as the user of this pseudonym.
pub(crate) fn make_key_package(
    tx: &Tx<'_>,
    account: &Account,
    friend: &Friend,
    delivery: &DeliveryAddress,
    pseudonym: Pseudonym,
    last_resort: bool,
) -> Result<OwnKeyPackage> {
    let what = "cannot make a KeyPackage";
    let key = SigningKey::generate();
    let leaf_key = key.public_key();
    let mut builder = KeyPackage::builder()
        .key_package_lifetime(mls::lifetime())
        .leaf_node_capabilities(mls::capabilities())
        .leaf_node_extensions(leaf::extensions(delivery, &leaf::new_user_key(tx, 0)?)?);
    if last_resort {
        builder = builder.mark_as_last_resort();
    }
    let bundle = builder
        .build(CIPHERSUITE, tx, &LeafSigner(&key), mls::credential(pseudonym.0.to_vec(), leaf_key))
        .map_err(Error::mls(what))?;
    leaf::keep_key(tx, &key)?;
    let key_package = bundle.key_package();
    let message = MlsMessageOut::from(key_package.clone());
    let link = IdentityLink::sign(&account.client_key(), account.credential()?, None, &key);
    Ok(OwnKeyPackage {
        package: StockedKeyPackage {
            key_package: MlsMessage::new(mls::message_bytes(&message)?),
            attachment: friend.seal_link(&leaf_key, &link)?,
        },
        leaf_key,
        reference: key_package.hash_ref(tx.crypto()).map_err(Error::mls(what))?,
        expires: key_package.life_time().not_after(),
    })
}
