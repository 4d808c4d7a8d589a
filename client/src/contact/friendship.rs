//! A user's friendship (QS-6): lets contacts add all of the user's devices to groups. The QS hands
//! KeyPackages out to holders of the friendship token. It cannot read which device is behind each:
//! that is attached, sealed under the friendship's link key, which no server ever sees. Owns the
//! table `friendship`.
//!
//! An attachment is `nonce (12) || AES-256-GCM(len (u16, big endian) || IdentityLink in CBOR ||
//! zeros up to a multiple of 512 bytes)`, aad = the leaf key of its KeyPackage. The padding is
//! there because a name's length is known by the length of a credential.

use std::{collections::BTreeSet, fmt};

use postern_protocol::{
    FriendshipToken, Payload, PublicKey, StockId, encoding::Encoding, key::SigningKey, name::UserName,
};
use rusqlite::OptionalExtension as _;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{
    error::{Error, Result},
    identity::IdentityLink,
    sealed,
    store::{Tx, decode, encode},
};

/// The part of a user's friendship that contacts hold.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Friend {
    /// Fetches one KeyPackage of each of the user's devices (32 bytes).
    pub friendship_token: FriendshipToken,
    /// Opens the attachments of the KeyPackages (AES-256).
    pub link_key: [u8; 32],
}

/// The part of a user's friendship that only the user's devices hold.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct FriendshipSecrets {
    pub(crate) friend: Friend,
    /// Seed of the key that signs publications and rotates the token (Ed25519).
    owner_seed: [u8; 32],
    /// Users that are not to have it.
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

    /// The same friendship under another token. The link key stays, as the attachments in stock are
    /// sealed under it: with the old token alone there is nothing to open.
    pub(super) fn without(&self, user: &UserName) -> Result<Self> {
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
    /// Takes a place of this device's own in it.
    pub(crate) fn join(secrets: FriendshipSecrets) -> Self {
        Self { secrets, stock_id: StockId::new(rand::random()) }
    }

    /// # Errors
    /// [`Error::NotReady`] when there is none yet.
    pub(crate) fn load(tx: &Tx<'_>) -> Result<Self> {
        Self::find(tx)?.ok_or(Error::NotReady)
    }

    fn find(tx: &Tx<'_>) -> Result<Option<Self>> {
        let friendship: Option<Vec<u8>> =
            tx.sql().query_row("SELECT friendship FROM friendship", [], |row| row.get(0)).optional()?;
        friendship.map(|friendship| decode(&friendship, "the friendship")).transpose()
    }

    pub(crate) fn save(&self, tx: &Tx<'_>) -> Result<()> {
        tx.sql()
            .execute("INSERT OR REPLACE INTO friendship (one, friendship) VALUES (1, ?1)", [encode(self)])?;
        Ok(())
    }

    pub(crate) fn delete(tx: &Tx<'_>) -> Result<()> {
        tx.sql().execute("DELETE FROM friendship", [])?;
        Ok(())
    }

    pub(crate) fn token(&self) -> FriendshipToken {
        self.secrets.friend.friendship_token
    }
}

impl Friend {
    pub(crate) fn seal_link(&self, leaf_key: &PublicKey, link: &IdentityLink) -> Result<Payload> {
        sealed::seal(&self.link_key, leaf_key, &Encoding::Cbor.encode(link)).map(Payload::new)
    }

    /// `None` for anything but what [`Self::seal_link`] made for this leaf key.
    pub(crate) fn open_link(&self, leaf_key: &PublicKey, attachment: &Payload) -> Option<IdentityLink> {
        let link = sealed::open(&self.link_key, leaf_key, attachment.as_bytes())?;
        Encoding::Cbor.decode(&link).ok()
    }
}

/// Takes over another friendship, at the place that this device had in the old one.
pub(super) fn replace(tx: &Tx<'_>, secrets: FriendshipSecrets) -> Result<()> {
    let mut friendship = Friendship::join(secrets);
    if let Some(old) = Friendship::find(tx)? {
        friendship.stock_id = old.stock_id;
    }
    friendship.save(tx)
}

/// Shows nothing of its content.
impl fmt::Debug for Friend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Friend(…)")
    }
}

/// Shows nothing of its content.
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
    use postern_protocol::{IssuedCredential, Signature};

    #[test]
    fn friends_read_who_is_behind_a_key_package_and_a_names_length_does_not_show() {
        let (friend, other) =
            (FriendshipSecrets::generate().unwrap().friend.clone(), FriendshipSecrets::generate().unwrap());
        let (leaf_key, another) = (PublicKey::new([4; 32]), PublicKey::new([5; 32]));
        let link = |length| IdentityLink {
            credential: IssuedCredential::new(vec![7; length]),
            signature: Signature::new(vec![8; 64]),
        };
        let sealed = friend.seal_link(&leaf_key, &link(200)).unwrap();
        assert_eq!(friend.open_link(&leaf_key, &sealed), Some(link(200)));
        assert_eq!(friend.open_link(&another, &sealed), None);
        assert_eq!(other.friend.open_link(&leaf_key, &sealed), None);
        let longer = friend.seal_link(&leaf_key, &link(260)).unwrap();
        assert_eq!(sealed.as_bytes().len(), longer.as_bytes().len());
    }
}
