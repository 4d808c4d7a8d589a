//! Friendships (QS-6): what this user gives to contacts so that they may add all of the
//! user's devices to groups, and what contacts gave us. The QS hands KeyPackages out to
//! whoever shows the friendship token; who is behind each it cannot read: that is attached,
//! sealed under the friendship's link key, which no server ever sees.
//!
//! An attachment is `nonce (12) || AES-256-GCM(len (u16, big endian) || IdentityLink in CBOR ||
//! zeros up to a multiple of 512 bytes)`, aad = the leaf key of its KeyPackage. The padding is
//! there because a name's length is known by the length of a credential.

use std::{collections::BTreeSet, fmt};

use openmls::prelude::OpenMlsCrypto;
use postern_protocol::{
    FriendshipToken, Payload, PublicKey, StockId, auth::SignedContact, encoding::Encoding, key::SigningKey,
    name::UserName, qs::RotateFriendshipToken,
};
use rusqlite::{OptionalExtension as _, params};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{
    account::Account,
    contact::LetterBody,
    error::{Error, Result},
    identity::IdentityLink,
    sealed,
    store::{Tx, decode, encode},
    sync,
};

/// What a contact holds.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Friend {
    pub friendship_token: FriendshipToken,
    /// Opens the attachments of the KeyPackages.
    pub link_key: [u8; 32],
}

/// What the devices of the user share.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct FriendshipSecrets {
    pub(crate) friend: Friend,
    /// Signs what devices publish, and rotates the token.
    owner_seed: [u8; 32],
    /// Who is not to have it.
    #[zeroize(skip)]
    blocked: BTreeSet<UserName>,
}

/// The user's friendship, and this device's place in it.
#[derive(Clone, Serialize, Deserialize, ZeroizeOnDrop)]
pub(crate) struct Friendship {
    pub secrets: FriendshipSecrets,
    #[zeroize(skip)]
    pub stock_id: StockId,
}

impl FriendshipSecrets {
    pub(crate) fn generate() -> Result<Self> {
        Ok(Self {
            friend: Friend { friendship_token: fresh_token()?, link_key: rand::random() },
            owner_seed: *SigningKey::generate().seed(),
            blocked: BTreeSet::new(),
        })
    }

    pub(crate) fn owner(&self) -> SigningKey {
        SigningKey::from_seed(self.owner_seed)
    }

    /// The same friendship under another token: whoever has only the old one gets nothing to
    /// read with the link key, which stays as the packages in stock are sealed under it.
    fn without(&self, user: &UserName) -> Result<Self> {
        let mut renewed = self.clone();
        renewed.friend.friendship_token = fresh_token()?;
        renewed.blocked.insert(user.clone());
        Ok(renewed)
    }

    pub(crate) fn is_blocked(&self, user: &UserName) -> bool {
        self.blocked.contains(user)
    }
}

impl Friendship {
    /// A place of this device's own.
    pub(crate) fn join(secrets: FriendshipSecrets) -> Self {
        Self { secrets, stock_id: StockId::new(rand::random()) }
    }

    pub(crate) fn token(&self) -> FriendshipToken {
        self.secrets.friend.friendship_token
    }
}

impl Friend {
    pub(crate) fn seal_link(
        &self,
        crypto: &impl OpenMlsCrypto,
        leaf_key: &PublicKey,
        link: &IdentityLink,
    ) -> Result<Payload> {
        sealed::seal(crypto, &self.link_key, leaf_key, &Encoding::Cbor.encode(link)).map(Payload::new)
    }

    /// `None` for anything but what [`Self::seal_link`] made for this leaf key.
    pub(crate) fn open_link(
        &self,
        crypto: &impl OpenMlsCrypto,
        leaf_key: &PublicKey,
        attachment: &Payload,
    ) -> Option<IdentityLink> {
        let link = sealed::open(crypto, &self.link_key, leaf_key, attachment.as_bytes())?;
        Encoding::Cbor.decode(&link).ok()
    }
}

/// What a user gave us.
pub(crate) fn friend(tx: &Tx<'_>, user: &UserName) -> Result<Option<Friend>> {
    let friend: Option<Vec<u8>> = tx
        .sql()
        .query_row("SELECT friend FROM friends WHERE user = ?1", [user.to_string()], |row| row.get(0))
        .optional()?;
    friend.map(|friend| decode(&friend, "a friendship")).transpose()
}

pub(crate) fn keep_friend(tx: &Tx<'_>, user: &UserName, friend: &Friend) -> Result<()> {
    tx.sql().execute(
        "INSERT OR REPLACE INTO friends (user, friend) VALUES (?1, ?2)",
        params![user.to_string(), encode(friend)],
    )?;
    Ok(())
}

pub(crate) fn forget_friend(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    tx.sql().execute("DELETE FROM friends WHERE user = ?1", [user.to_string()])?;
    Ok(())
}

/// Takes over another friendship, at the place that this device had in the old one.
pub(crate) fn replace(tx: &Tx<'_>, secrets: FriendshipSecrets) -> Result<()> {
    let mut account = Account::load(tx)?.ok_or(Error::NotReady)?;
    let mut friendship = Friendship::join(secrets);
    if let Some(old) = &account.friendship {
        friendship.stock_id = old.stock_id;
    }
    account.friendship = Some(friendship);
    account.save(tx)
}

/// Takes another friendship token, and writes it to all who had the old one but `user`: to the
/// user's own `devices` with the secrets, to contacts without.
pub(crate) fn block(tx: &Tx<'_>, user: &UserName, devices: &[(PublicKey, &SignedContact)]) -> Result<()> {
    let account = Account::load(tx)?.ok_or(Error::NotReady)?;
    let old = account.friendship.as_ref().ok_or(Error::NotReady)?;
    let secrets = old.secrets.without(user)?;
    let rotation = RotateFriendshipToken {
        friendship_token: old.token(),
        new_friendship_token: secrets.friend.friendship_token,
    };
    tx.sql().execute("INSERT INTO rotations (one, rotation) VALUES (1, ?1)", [encode(&rotation)])?;
    for (client_key, contact) in devices {
        if *client_key != account.client_key().public_key() {
            let body = LetterBody::Secrets(secrets.clone());
            sync::write_letter(tx, &account, &account.user, contact, &body)?;
        }
    }
    let given = {
        tx.sql().execute("DELETE FROM given WHERE user = ?1", [user.to_string()])?;
        let mut statement = tx.sql().prepare("SELECT user, contact FROM given")?;
        statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<Vec<(String, Vec<u8>)>, _>>()?
    };
    for (user, contact) in given {
        let user = user.parse().map_err(|_| Error::Damaged("a user name"))?;
        if secrets.is_blocked(&user) {
            continue; // By another device of ours.
        }
        let contact: SignedContact = decode(&contact, "a contact")?;
        let body = LetterBody::Renewal(secrets.friend.clone());
        sync::write_letter(tx, &account, &user, &contact, &body)?;
    }
    replace(tx, secrets)
}

/// Notes that a user's KeyPackages are to be fetched.
pub(crate) fn want_key_packages(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    tx.sql().execute("INSERT OR IGNORE INTO fetches (user) VALUES (?1)", [user.to_string()])?;
    Ok(())
}

/// Neither shows its content.
impl fmt::Debug for Friend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Friend(…)")
    }
}

impl fmt::Debug for FriendshipSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FriendshipSecrets(…)")
    }
}

fn fresh_token() -> Result<FriendshipToken> {
    FriendshipToken::generate().map_err(Error::mls("cannot make a friendship token"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use openmls_rust_crypto::RustCrypto;
    use postern_protocol::{IssuedCredential, Signature};

    #[test]
    fn friends_read_who_is_behind_a_key_package_and_a_names_length_does_not_show() {
        let crypto = RustCrypto::default();
        let (friend, other) =
            (FriendshipSecrets::generate().unwrap().friend.clone(), FriendshipSecrets::generate().unwrap());
        let (leaf_key, another) = (PublicKey::new([4; 32]), PublicKey::new([5; 32]));
        let link = |length| IdentityLink {
            credential: IssuedCredential::new(vec![7; length]),
            signature: Signature::new(vec![8; 64]),
        };
        let sealed = friend.seal_link(&crypto, &leaf_key, &link(200)).unwrap();
        assert_eq!(friend.open_link(&crypto, &leaf_key, &sealed), Some(link(200)));
        assert_eq!(friend.open_link(&crypto, &another, &sealed), None);
        assert_eq!(other.friend.open_link(&crypto, &leaf_key, &sealed), None);
        let longer = friend.seal_link(&crypto, &leaf_key, &link(260)).unwrap();
        assert_eq!(sealed.as_bytes().len(), longer.as_bytes().len());
    }
}
