//! The evolving identity of a user as others refer to it (AS-3, AS-10): a digest of all that happened to it, the
//! statement of a client about it, and the ticket by which the AS says that it is the latest.
//!
//! All numbers are big-endian. The database computes transcripts in the same way.

use serde::{Deserialize, Serialize};

use crate::{
    GroupInfo, PublicKey, RatchetTree, Signature, Transcript, TreeHash,
    hash::sha256,
    key::{BadSignature, SigningKey},
    label::Label,
    name::{UserName, prefixed},
};

impl Transcript {
    /// The transcript of an incarnation's epoch 0: `SHA-256("Postern EID founding" || 0 || the end of the incarnation
    /// before, or 32 zero bytes || len(group_info) as u32 || group_info || ratchet_tree)`.
    ///
    /// # Panics
    /// If the GroupInfo has more than 4 GiB.
    pub fn founded(previous_end: Option<&Self>, group_info: &GroupInfo, ratchet_tree: &RatchetTree) -> Self {
        let previous_end = previous_end.map_or([0; 32], |end| *end.as_bytes());
        let length = u32::try_from(group_info.as_bytes().len()).expect("a GroupInfo has less than 4 GiB");
        Self::new(sha256(&[
            Label::EID_FOUNDING.as_bytes(),
            &previous_end,
            &length.to_be_bytes(),
            group_info.as_bytes(),
            ratchet_tree.as_bytes(),
        ]))
    }

    /// The transcript after a commit, an `MLSMessage`: `SHA-256("Postern EID commit" || 0 || transcript || commit)`.
    #[must_use]
    pub fn followed_by(&self, commit: &[u8]) -> Self {
        Self::new(sha256(&[Label::EID_COMMIT.as_bytes(), self.as_bytes(), commit]))
    }
}

/// A point in the life of an identity. Two readers with the same one saw the same history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EidState {
    /// Number of resets before it.
    pub incarnation: u32,
    /// Epoch of the incarnation's MLS group.
    pub epoch: u64,
    pub transcript: Transcript,
}

impl EidState {
    /// The state of epoch 0.
    pub const fn founded(incarnation: u32, founding: Transcript) -> Self {
        Self { incarnation, epoch: 0, transcript: founding }
    }

    /// The state after a commit, an `MLSMessage`.
    #[must_use]
    pub fn followed_by(&self, commit: &[u8]) -> Self {
        Self { epoch: self.epoch + 1, transcript: self.transcript.followed_by(commit), ..*self }
    }

    /// `incarnation as u32 || epoch as u64 || transcript`
    pub fn to_bytes(&self) -> [u8; 44] {
        let mut bytes = [0; 44];
        bytes[..4].copy_from_slice(&self.incarnation.to_be_bytes());
        bytes[4..12].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[12..].copy_from_slice(self.transcript.as_bytes());
        bytes
    }
}

/// The beginning of an incarnation, which stays the same through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founding {
    /// Key of the client in epoch 0.
    pub founder: PublicKey,
    /// Transcript of epoch 0.
    pub transcript: Transcript,
}

/// The state of an identity, signed by the client that began its epoch: the committer, or the founder of epoch 0. So a
/// reader needs one signature of a device to believe a transcript, and no history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedState {
    pub eid: EidState,
    /// By the client's key, over [`SignedState::to_be_signed`].
    pub signature: Signature,
}

impl SignedState {
    /// Signs the state with the key of the client that began its epoch. `group_info` is that epoch's.
    pub fn sign(
        user: &UserName,
        founding: &Founding,
        eid: EidState,
        group_info: &GroupInfo,
        client: &SigningKey,
    ) -> Self {
        Self { eid, signature: client.sign(&Self::to_be_signed(user, founding, &eid, group_info)) }
    }

    /// Verifies that `client` signed the state, for this user, beginning and GroupInfo.
    ///
    /// # Errors
    /// [`BadSignature`].
    pub fn verify(
        &self,
        user: &UserName,
        founding: &Founding,
        group_info: &GroupInfo,
        client: PublicKey,
    ) -> Result<(), BadSignature> {
        client.verify(&Self::to_be_signed(user, founding, &self.eid, group_info), &self.signature)
    }

    /// `"Postern EID state" || 0 || len(name) as u16 || name || founder || founding transcript || state || group_info`
    pub fn to_be_signed(
        user: &UserName,
        founding: &Founding,
        eid: &EidState,
        group_info: &GroupInfo,
    ) -> Vec<u8> {
        let (length, name) = prefixed(user);
        Label::EID_STATE.followed_by(&[
            &length,
            name.as_bytes(),
            founding.founder.as_bytes(),
            founding.transcript.as_bytes(),
            &eid.to_bytes(),
            group_info.as_bytes(),
        ])
    }
}

/// The word of the AS that a state is a user's latest (AS-10). A reader that is shown two for one epoch that differ has
/// a proof against the AS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreshnessTicket {
    pub user: UserName,
    pub eid: EidState,
    pub tree_hash: TreeHash,
    /// When it was the latest: seconds since 1970, a full minute.
    pub time: u64,
    /// A key of the AS ([`crate::auth::AuthenticationKeys`]).
    pub issuer_key: PublicKey,
    /// By the issuer's key, over [`FreshnessTicket::to_be_signed`].
    pub signature: Signature,
}

impl FreshnessTicket {
    const MINUTE: u64 = 60;

    /// Signs a ticket of `now` (seconds since 1970), rounded down to the minute: the ticket goes on to other users, and
    /// says no more than they need.
    pub fn issue(user: UserName, eid: EidState, tree_hash: TreeHash, now: u64, issuer: &SigningKey) -> Self {
        let mut ticket = Self {
            user,
            eid,
            tree_hash,
            time: now - now % Self::MINUTE,
            issuer_key: issuer.public_key(),
            signature: Signature::default(),
        };
        ticket.signature = issuer.sign(&ticket.to_be_signed());
        ticket
    }

    /// Verifies that the issuer's key signed the ticket. Whether the key is the AS's, and the time recent, is another
    /// question.
    ///
    /// # Errors
    /// [`BadSignature`].
    pub fn verify(&self) -> Result<(), BadSignature> {
        self.issuer_key.verify(&self.to_be_signed(), &self.signature)
    }

    /// `"Postern freshness ticket" || 0 || len(name) as u16 || name || state || tree hash || time as u64 || issuer key`
    pub fn to_be_signed(&self) -> Vec<u8> {
        let (length, name) = prefixed(&self.user);
        Label::FRESHNESS_TICKET.followed_by(&[
            &length,
            name.as_bytes(),
            &self.eid.to_bytes(),
            self.tree_hash.as_bytes(),
            &self.time.to_be_bytes(),
            self.issuer_key.as_bytes(),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::Encoding;

    fn alice() -> UserName {
        "alice@example.org".parse().unwrap()
    }

    fn info(text: &str) -> GroupInfo {
        GroupInfo::new(text.into())
    }

    fn tree(text: &str) -> RatchetTree {
        RatchetTree::new(text.into())
    }

    /// These are the bytes that the database has to compute, too.
    #[test]
    fn transcripts_are_these() {
        let founding = Transcript::founded(None, &info("info"), &tree("tree"));
        let input = [b"Postern EID founding\0".as_slice(), &[0; 32], &[0, 0, 0, 4], b"infotree"].concat();
        assert_eq!(founding.as_bytes(), &sha256(&[&input]));
        let input = [b"Postern EID commit\0".as_slice(), founding.as_bytes(), b"commit"].concat();
        assert_eq!(founding.followed_by(b"commit").as_bytes(), &sha256(&[&input]));
    }

    #[test]
    fn a_transcript_tells_apart_every_beginning_and_every_order() {
        let first = Transcript::founded(None, &info("info"), &tree("tree"));
        assert_ne!(first, Transcript::founded(None, &info("inf"), &tree("otree")));
        assert_ne!(first, Transcript::founded(Some(&first), &info("info"), &tree("tree")));
        let (a, b) = (b"a".as_slice(), b"b".as_slice());
        assert_ne!(first.followed_by(a).followed_by(b), first.followed_by(b).followed_by(a));
        let state = EidState::founded(2, first).followed_by(a);
        assert_eq!(state, EidState { incarnation: 2, epoch: 1, transcript: first.followed_by(a) });
    }

    #[test]
    fn a_signed_state_holds_for_its_user_beginning_state_group_info_and_signer_only() {
        let (client, other) = (SigningKey::generate(), SigningKey::generate());
        let transcript = Transcript::founded(None, &info("info"), &tree("tree"));
        let founding = Founding { founder: client.public_key(), transcript };
        let eid = EidState::founded(0, transcript).followed_by(b"commit");
        let signed = SignedState::sign(&alice(), &founding, eid, &info("new"), &client);
        assert_eq!(signed.verify(&alice(), &founding, &info("new"), client.public_key()), Ok(()));

        let bob = "bob@example.org".parse().unwrap();
        assert!(signed.verify(&bob, &founding, &info("new"), client.public_key()).is_err());
        assert!(signed.verify(&alice(), &founding, &info("old"), client.public_key()).is_err());
        assert!(signed.verify(&alice(), &founding, &info("new"), other.public_key()).is_err());
        let stolen = Founding { founder: other.public_key(), ..founding };
        assert!(signed.verify(&alice(), &stolen, &info("new"), client.public_key()).is_err());
        let elsewhere = Founding { transcript: eid.transcript, ..founding };
        assert!(signed.verify(&alice(), &elsewhere, &info("new"), client.public_key()).is_err());
        for eid in
            [EidState { incarnation: 1, ..eid }, EidState { epoch: 2, ..eid }, EidState { transcript, ..eid }]
        {
            let forged = SignedState { eid, ..signed.clone() };
            assert!(forged.verify(&alice(), &founding, &info("new"), client.public_key()).is_err());
        }
    }

    #[test]
    fn a_ticket_is_of_a_full_minute_and_no_part_of_it_can_change() {
        let issuer = SigningKey::generate();
        let transcript = Transcript::founded(None, &info("info"), &tree("tree"));
        let eid = EidState::founded(0, transcript);
        let ticket = FreshnessTicket::issue(alice(), eid, TreeHash::new([1; 32]), 1_000_000_019, &issuer);
        assert_eq!((ticket.time, ticket.verify()), (1_000_000_000 - 1_000_000_000 % 60, Ok(())));
        for forged in [
            FreshnessTicket { user: "bob@example.org".parse().unwrap(), ..ticket.clone() },
            FreshnessTicket { eid: eid.followed_by(b"commit"), ..ticket.clone() },
            FreshnessTicket { tree_hash: TreeHash::new([2; 32]), ..ticket.clone() },
            FreshnessTicket { time: ticket.time + 60, ..ticket.clone() },
            FreshnessTicket { issuer_key: SigningKey::generate().public_key(), ..ticket.clone() },
        ] {
            assert!(forged.verify().is_err());
        }
        for encoding in [Encoding::Json, Encoding::Cbor] {
            let encoded = encoding.encode(&ticket);
            assert_eq!(encoding.decode::<FreshnessTicket>(&encoded).unwrap(), ticket);
        }
    }
}
