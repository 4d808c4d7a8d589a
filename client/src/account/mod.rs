//! The account: server, user, client key, credential, and how far its setting up has come, so
//! that a crash in the middle of it is taken up where it happened. Owns the table `account`.

mod link;
mod proof;
mod recovery;
mod rename;
mod reset;

use postern_protocol::{
    Address, IssuedCredential,
    account::ResetAccount,
    admission::InviteCode,
    auth::{RegisterUser, SignedContact},
    chain::HpkePrivateKey,
    key::SigningKey,
    mls::DeliveryAddress,
    name::UserName,
    second_proof::RecoveryKey,
};
use rusqlite::OptionalExtension as _;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, ZeroizeOnDrop};

pub use self::{
    link::{LinkGrant, LinkRequest},
    proof::OwnerProof,
    recovery::{recovery_key_of, recovery_words},
};
pub(crate) use self::{
    rename::{follow as follow_rename, take_name, was_renamed},
    reset::{nonce as reset_nonce, reset},
};
use crate::{
    error::{Error, Result},
    mailbox::fresh_address,
    store::{Tx, decode, encode},
};

/// Addresses that are remembered after others took their place. Letters to them wait no longer than until the queue is read.
const FORMER_ADDRESSES: usize = 4;

#[derive(Clone, Serialize, Deserialize, ZeroizeOnDrop)]
pub(crate) struct Account {
    #[zeroize(skip)]
    pub server: String,
    #[zeroize(skip)]
    pub user: UserName,
    client_seed: [u8; 32],
    /// The HPKE key that contacts seal letters to.
    contact_seed: [u8; 32],
    /// The address of the contact queue that is published.
    #[zeroize(skip)]
    pub contact_address: Address,
    /// The one that only contacts know, and users that were asked: each address takes so many letters a day, so strangers, who
    /// can close the published one, close neither this nor the next.
    #[zeroize(skip)]
    contacts_address: Address,
    /// The one that only this user's other devices know.
    #[zeroize(skip)]
    devices_address: Address,
    /// The last ones that others took the place of: letters to them may wait in the queue.
    #[zeroize(skip)]
    former_addresses: Vec<Address>,
    /// Absent until this device is in its user's identity.
    #[zeroize(skip)]
    pub eid_group_id: Option<Vec<u8>>,
    #[zeroize(skip)]
    pub credential: Option<IssuedCredential>,
    /// The registration of the user, until it was accepted.
    #[zeroize(skip)]
    pub registration: Option<RegisterUser>,
    /// Whether this client begins its user's identity anew (AS-8).
    pub resets: bool,
    /// The request by which it does, until it was accepted.
    #[zeroize(skip)]
    pub reset: Option<ResetAccount>,
    /// The recovery key that was made here, until its owner has seen it.
    recovery_key: Option<[u8; 32]>,
    /// The one that is to take its place, until the AS has its verifier.
    next_recovery_key: Option<[u8; 32]>,
    /// The code of the invite that is being made, until the AS said that it is.
    #[zeroize(skip)]
    pub invite: Option<InviteCode>,
    /// Whether groups are to be given the key to the profile, since the change that asks for that was sent: its answer may be
    /// lost.
    #[zeroize(skip)]
    pub gives_profile_key: bool,
    /// Whether queues and contact are made: nothing is left to do.
    #[zeroize(skip)]
    pub ready: bool,
}

impl Account {
    pub(crate) fn new(server: String, user: UserName) -> Result<Self> {
        let contact = HpkePrivateKey::generate().map_err(Error::mls("cannot make a key"))?;
        Ok(Self {
            server,
            user,
            client_seed: *SigningKey::generate().seed(),
            contact_seed: *contact.as_bytes(),
            contact_address: fresh_address()?,
            contacts_address: fresh_address()?,
            devices_address: fresh_address()?,
            former_addresses: Vec::new(),
            eid_group_id: None,
            credential: None,
            registration: None,
            resets: false,
            reset: None,
            recovery_key: None,
            next_recovery_key: None,
            invite: None,
            gives_profile_key: false,
            ready: false,
        })
    }

    pub(crate) fn client_key(&self) -> SigningKey {
        SigningKey::from_seed(self.client_seed)
    }

    pub(crate) fn contact_key(&self) -> HpkePrivateKey {
        HpkePrivateKey::from_bytes(self.contact_seed)
    }

    /// An address of this client's group queue, as others deliver to it.
    pub(crate) fn delivery_at(&self, address: Address) -> DeliveryAddress {
        DeliveryAddress { domain: self.user.domain().clone(), address }
    }

    /// The addresses of the contact queue.
    pub(crate) fn contact_addresses(&self) -> [Address; 3] {
        [self.contact_address, self.contacts_address, self.devices_address]
    }

    /// The addresses to one of which a letter in the contact queue was sealed.
    pub(crate) fn letter_addresses(&self) -> Vec<Address> {
        [self.contact_addresses().as_slice(), &self.former_addresses].concat()
    }

    /// The address at which clients of a user are to write to this one.
    pub(crate) fn address_for(&self, user: &UserName) -> Address {
        if *user == self.user { self.devices_address } else { self.contacts_address }
    }

    /// Where others take first contact with this client.
    pub(crate) fn contact(&self) -> Result<SignedContact> {
        let hpke_key = self.contact_key().public_key().map_err(Error::mls("cannot use a key"))?;
        let domain = self.user.domain().clone();
        Ok(SignedContact::sign(domain, self.contact_address, hpke_key, &self.client_key()))
    }

    /// The recovery key that its owner has not seen yet.
    pub(crate) fn recovery_key(&self) -> Option<RecoveryKey> {
        self.recovery_key.map(RecoveryKey::from_bytes)
    }

    /// Keeps a recovery key until its owner has seen it.
    pub(crate) fn set_recovery_key(&mut self, key: Option<&RecoveryKey>) {
        self.recovery_key.zeroize();
        self.recovery_key = key.map(|key| *key.as_bytes());
    }

    /// The recovery key that is to take the place of the account's.
    pub(crate) fn next_recovery_key(&self) -> Option<RecoveryKey> {
        self.next_recovery_key.map(RecoveryKey::from_bytes)
    }

    pub(crate) fn set_next_recovery_key(&mut self, key: Option<&RecoveryKey>) {
        self.next_recovery_key.zeroize();
        self.next_recovery_key = key.map(|key| *key.as_bytes());
    }

    pub(crate) fn credential(&self) -> Result<IssuedCredential> {
        self.credential.clone().ok_or(Error::NotReady)
    }

    /// The account, if there is one.
    pub(crate) fn find(tx: &Tx<'_>) -> Result<Option<Self>> {
        let state: Option<Vec<u8>> =
            tx.sql().query_row("SELECT state FROM account", [], |row| row.get(0)).optional()?;
        state.map(|state| decode(&state, "the account")).transpose()
    }

    /// The account.
    ///
    /// # Errors
    /// [`Error::NotReady`] when there is none.
    pub(crate) fn load(tx: &Tx<'_>) -> Result<Self> {
        Self::find(tx)?.ok_or(Error::NotReady)
    }

    pub(crate) fn save(&self, tx: &Tx<'_>) -> Result<()> {
        tx.sql().execute("INSERT OR REPLACE INTO account (one, state) VALUES (1, ?1)", [encode(self)])?;
        Ok(())
    }

    /// Forgets the account: this is not a client any more.
    pub(crate) fn delete(tx: &Tx<'_>) -> Result<()> {
        tx.sql().execute("DELETE FROM account", [])?;
        Ok(())
    }
}

/// Takes other addresses for letters: the old ones lead nowhere any more, as their queue is gone.
pub(crate) fn renew_contact_addresses(tx: &Tx<'_>) -> Result<()> {
    let mut account = Account::load(tx)?;
    account.contact_address = fresh_address()?;
    account.contacts_address = fresh_address()?;
    account.devices_address = fresh_address()?;
    account.former_addresses.clear();
    account.save(tx)
}

/// Takes another address in the place of this one, if it is one of those for letters. Returns whether it is.
pub(crate) fn replace_contact_address(tx: &Tx<'_>, old: &Address) -> Result<bool> {
    let mut account = Account::load(tx)?;
    let fresh = fresh_address()?;
    if account.contact_address == *old {
        account.contact_address = fresh;
    } else if account.contacts_address == *old {
        account.contacts_address = fresh;
    } else if account.devices_address == *old {
        account.devices_address = fresh;
    } else {
        return Ok(false);
    }
    account.former_addresses.insert(0, *old);
    account.former_addresses.truncate(FORMER_ADDRESSES);
    account.save(tx)?;
    Ok(true)
}
