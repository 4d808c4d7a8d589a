//! A user's friendship (QS-6): lets contacts add all of the user's devices to groups. The QS hands
//! KeyPackages out to holders of the friendship token. It cannot read which device is behind each:
//! that is attached, sealed under the friendship's link key, which no server ever sees.
//!
//! Another friendship takes the place of the old one when a user is blocked (another token) or a device is
//! removed (other keys, too). Each has an [`Edition`], so that everybody who hears of two knows which is the later
//! one, however late and in whatever order. Owns the table `friendship`.
//!
//! An attachment is `nonce (12) || AES-256-GCM(len (u16, big endian) || IdentityLink in CBOR ||
//! zeros up to a multiple of 512 bytes)`, aad = the leaf key of its KeyPackage. The padding is
//! there because a name's length is known by the length of a credential.

use std::fmt;

use postern_protocol::{
    FriendshipToken, Payload, PublicKey, StockId, eid::EidState, encoding::Encoding, key::SigningKey,
    name::UserName, profile::ProfileKey,
};
use rusqlite::OptionalExtension as _;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{block::Blocks, numbers::MAX_AHEAD};
use crate::{
    error::{Error, Result},
    identity::IdentityLink,
    profile::SharedProfileKey,
    sealed,
    store::{Tx, decode, encode},
};

/// Place of something that a user's devices agree on among what they agreed on before: of a friendship, or of a decision
/// about another user. The point in the life of the user's identity comes first: what a removed device made up, however
/// high its number, is of an earlier one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Edition {
    /// Incarnation and epoch of the user's identity when it was made.
    pub incarnation: u32,
    pub epoch: u64,
    /// Greater than that of the one before of the same point. Of a decision: seconds since 1970 when it was made, or more.
    pub number: u64,
}

/// The part of a user's friendship that contacts hold.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Friend {
    #[zeroize(skip)]
    pub edition: Edition,
    /// Fetches one KeyPackage of each of the user's devices (32 bytes).
    pub friendship_token: FriendshipToken,
    /// Opens the attachments of the KeyPackages (AES-256).
    pub link_key: [u8; 32],
    /// Opens the user's profile for contacts. A new one comes with each edition, so that nobody keeps it that is blocked
    /// or removed (AS-6).
    pub profile_key: ProfileKey,
}

/// The part of a user's friendship that only the user's devices hold.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct FriendshipSecrets {
    pub(crate) friend: Friend,
    /// Seed of the key that signs publications and rotates the token (Ed25519).
    owner_seed: [u8; 32],
    /// Users that are not to have it.
    #[zeroize(skip)]
    pub(super) blocks: Blocks,
}

/// The user's friendship, and this device's place in it.
#[derive(Clone, Serialize, Deserialize, ZeroizeOnDrop)]
pub(crate) struct Friendship {
    pub secrets: FriendshipSecrets,
    #[zeroize(skip)]
    pub stock_id: StockId,
}

impl Edition {
    /// The edition after this one, made at a point in the life of the user's identity.
    fn next(self, eid: &EidState) -> Self {
        let before = (self.incarnation, self.epoch);
        let made = (eid.incarnation, eid.epoch).max(before);
        let number = if made == before { self.number.saturating_add(1) } else { 0 };
        Self { incarnation: made.0, epoch: made.1, number }
    }

    /// The edition of a decision that is made now (seconds since 1970), after one of this edition. What a wrong clock made
    /// of the future is not gone on from: other devices do not take it.
    pub(super) fn decided(self, eid: &EidState, now: u64) -> Self {
        let before = if self.is_timely(now) { self } else { Self { number: now, ..self } };
        let next = before.next(eid);
        Self { number: next.number.max(now), ..next }
    }

    /// Whether it was made by this point in the life of its user's identity.
    pub(crate) fn is_by(&self, eid: &EidState) -> bool {
        (self.incarnation, self.epoch) <= (eid.incarnation, eid.epoch)
    }

    /// Whether a decision of this edition can be known at a time (seconds since 1970).
    pub(super) fn is_timely(&self, time: u64) -> bool {
        self.number <= time.saturating_add(MAX_AHEAD)
    }
}

impl FriendshipSecrets {
    pub(crate) fn generate() -> Result<Self> {
        Self::of(Edition::default(), Blocks::default())
    }

    fn of(edition: Edition, blocks: Blocks) -> Result<Self> {
        Ok(Self {
            friend: Friend {
                edition,
                friendship_token: fresh_token()?,
                link_key: rand::random(),
                profile_key: ProfileKey::generate(),
            },
            owner_seed: *SigningKey::generate().seed(),
            blocks,
        })
    }

    pub(crate) fn owner(&self) -> SigningKey {
        SigningKey::from_seed(self.owner_seed)
    }

    /// The same friendship under another token, with another profile key. The link key stays, as the attachments in stock
    /// are sealed under it: with the old token alone there is nothing to open.
    pub(super) fn with_another_token(&self, eid: &EidState) -> Result<Self> {
        let mut renewed = self.clone();
        renewed.friend.friendship_token = fresh_token()?;
        renewed.friend.profile_key = ProfileKey::generate();
        renewed.friend.edition = self.friend.edition.next(eid);
        Ok(renewed)
    }

    /// Another friendship, of which nothing can be told from the old one's keys. The users that are blocked stay so.
    pub(super) fn replaced(&self, eid: &EidState) -> Result<Self> {
        Self::of(self.friend.edition.next(eid), self.blocks.clone())
    }

    pub(crate) fn is_blocked(&self, user: &UserName) -> bool {
        self.blocks.contains(user)
    }

    /// Whether all of it was made by this point in the life of its user's identity.
    pub(super) fn is_by(&self, eid: &EidState) -> bool {
        self.friend.edition.is_by(eid) && self.blocks.are_by(eid)
    }

    /// Whether both have the same owner and link key: then what is in stock for one is good for the other.
    pub(super) fn shares_stock_with(&self, other: &Self) -> bool {
        self.owner_seed == other.owner_seed && self.friend.link_key == other.friend.link_key
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

    pub(crate) fn find(tx: &Tx<'_>) -> Result<Option<Self>> {
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
    /// Whether this is to take the other one's place. Of two of one edition, which devices made that did not know of
    /// each other, everybody picks the same, whether it has the whole or the profile key only.
    pub(super) fn replaces(&self, other: &Self) -> bool {
        self.shared_profile_key().replaces(&other.shared_profile_key())
    }

    /// The profile key, as members of groups get it, too.
    pub(crate) fn shared_profile_key(&self) -> SharedProfileKey {
        SharedProfileKey { edition: self.edition, key: self.profile_key.clone() }
    }

    pub(crate) fn seal_link(&self, leaf_key: &PublicKey, link: &IdentityLink) -> Result<Payload> {
        sealed::seal(&self.link_key, leaf_key, &Encoding::Cbor.encode(link)).map(Payload::new)
    }

    /// `None` for anything but what [`Self::seal_link`] made for this leaf key.
    pub(crate) fn open_link(&self, leaf_key: &PublicKey, attachment: &Payload) -> Option<IdentityLink> {
        let link = sealed::open(&self.link_key, leaf_key, attachment.as_bytes())?;
        Encoding::Cbor.decode(&link).ok()
    }
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
    use postern_protocol::{IssuedCredential, Signature, Transcript};

    #[test]
    fn friends_read_who_is_behind_a_key_package_and_a_names_length_does_not_show() {
        let (friend, other) =
            (FriendshipSecrets::generate().unwrap().friend.clone(), FriendshipSecrets::generate().unwrap());
        let (leaf_key, another) = (PublicKey::new([4; 32]), PublicKey::new([5; 32]));
        let link = |length| IdentityLink {
            credential: IssuedCredential::new(vec![7; length]),
            signature: Signature::new(vec![8; 64]),
            leaf_signature: Signature::new(vec![9; 64]),
        };
        let sealed = friend.seal_link(&leaf_key, &link(200)).unwrap();
        assert_eq!(friend.open_link(&leaf_key, &sealed), Some(link(200)));
        assert_eq!(friend.open_link(&another, &sealed), None);
        assert_eq!(other.friend.open_link(&leaf_key, &sealed), None);
        let longer = friend.seal_link(&leaf_key, &link(260)).unwrap();
        assert_eq!(sealed.as_bytes().len(), longer.as_bytes().len());
    }

    fn at(epoch: u64) -> EidState {
        EidState { incarnation: 0, epoch, transcript: Transcript::new([1; 32]) }
    }

    #[test]
    fn a_later_friendship_replaces_an_earlier_one_and_no_number_makes_up_for_an_earlier_epoch() {
        let first = FriendshipSecrets::generate().unwrap();
        let second = first.with_another_token(&at(3)).unwrap();
        assert!(second.friend.replaces(&first.friend) && !first.friend.replaces(&second.friend));
        assert!(second.shares_stock_with(&first));
        let mut made_up = second.friend.clone();
        made_up.edition.number = u64::MAX;
        let after_removal = second.replaced(&at(4)).unwrap();
        assert!(after_removal.friend.replaces(&made_up));
        assert_eq!(made_up.edition.next(&at(4)).number, 0, "no number of before goes on");
        assert!(!after_removal.shares_stock_with(&second));
        assert_ne!(after_removal.friend.link_key, second.friend.link_key);
        let keys = [&first, &second, &after_removal].map(|secrets| secrets.friend.profile_key.clone());
        assert!(keys[0] != keys[1] && keys[1] != keys[2], "nobody keeps the key to the profile");
        assert_ne!(after_removal.owner().public_key(), second.owner().public_key());
        assert!(after_removal.friend.edition.is_by(&at(4)) && !after_removal.friend.edition.is_by(&at(3)));
    }

    #[test]
    fn of_two_friendships_made_at_once_everybody_takes_the_same() {
        let before = FriendshipSecrets::generate().unwrap();
        let [one, two] = [at(1), at(1)].map(|eid| before.with_another_token(&eid).unwrap());
        assert_ne!(one.friend.replaces(&two.friend), two.friend.replaces(&one.friend));
        assert!(!one.friend.replaces(&one.friend));
    }
}
