//! The content of a handover: everything that a user's devices share. It travels sealed, whichever way a device is added.

use postern_protocol::{
    HpkePublicKey, Payload, PublicKey, chain::HpkePrivateKey, encoding::Encoding, label::Label,
};
use serde::{Deserialize, Serialize};

use crate::{
    account::Account,
    contact::{self, ContactsHandover, Friendship, FriendshipSecrets},
    error::{Error, Result},
    group::{self, GroupHandover},
    identity::{EidWelcome, eid},
    profile::{self, ProfileKeys},
    store::Tx,
};

/// From a device of the user to a new one that it added to the user's identity.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Handover {
    /// The entry into the user's identity.
    welcome: EidWelcome,
    friendship: FriendshipSecrets,
    contacts: ContactsHandover,
    groups: Vec<GroupHandover>,
    profiles: ProfileKeys,
}

impl Handover {
    /// The handover of this device.
    pub(crate) fn new(tx: &Tx<'_>, welcome: EidWelcome) -> Result<Self> {
        let friendship = Friendship::load(tx)?.secrets.clone();
        Ok(Self {
            welcome,
            friendship,
            contacts: contact::handover(tx)?,
            groups: group::handover(tx)?,
            profiles: profile::handover(tx)?,
        })
    }

    /// Seals it for the new device, whose client key this is, where no channel does that.
    pub(crate) fn seal(&self, to: &HpkePublicKey, client_key: &PublicKey) -> Result<Payload> {
        to.seal(Label::LINK_SEAL.as_bytes(), client_key.as_bytes(), &Encoding::Cbor.encode(self))
            .map(Payload::new)
            .map_err(|_| Error::BadBlob("link request"))
    }

    /// Opens what [`Self::seal`] made.
    ///
    /// # Errors
    /// [`Error::BadBlob`].
    pub(crate) fn open(sealed: &Payload, client_key: &PublicKey, private: &HpkePrivateKey) -> Result<Self> {
        private
            .open(Label::LINK_SEAL.as_bytes(), client_key.as_bytes(), sealed.as_bytes())
            .ok()
            .and_then(|handover| Encoding::Cbor.decode(&handover).ok())
            .ok_or(Error::BadBlob("link grant"))
    }

    /// Makes this a device of the user.
    ///
    /// # Errors
    /// [`Error::BadBlob`](crate::Error::BadBlob) for the handover to another device.
    pub(crate) fn take_over(self, tx: &Tx<'_>, account: &mut Account) -> Result<()> {
        account.eid_group_id = Some(eid::join(tx, &account.user, &account.client_key(), &self.welcome)?);
        account.save(tx)?;
        Friendship::join(self.friendship).save(tx)?;
        contact::take_over(tx, self.contacts)?;
        group::take_over(tx, &self.groups)?;
        profile::take_over(tx, &self.profiles)
    }
}
