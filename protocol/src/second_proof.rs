//! The second proof, which an account's owner shows for what cannot be undone (AS-8, AS-9): the recovery key that was
//! made at registration. The AS has the public half only, so neither a dump nor a stolen device replaces the owner.
//!
//! A proof is for one operation with all that it changes. None is good a second time: a new identity, a new epoch, a new
//! key or the time is in it, or its account is gone.

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{
    PublicKey, Signature, Transcript,
    eid::EidState,
    hash::{hmac_key, hmac_sha256},
    key::{BadSignature, SigningKey},
    label::Label,
    name::{UserName, prefixed},
    random::random,
};

/// The secret that its owner writes down: 32 random bytes, erased when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct RecoveryKey([u8; 32]);

impl RecoveryKey {
    /// # Panics
    /// If the operating system has no randomness.
    pub fn generate() -> Self {
        Self(random().expect("the operating system provides randomness"))
    }

    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The secret bytes, for the owner's eyes and sealed storage.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key by which the AS knows the owner.
    pub fn verifier(&self) -> PublicKey {
        self.signing_key().public_key()
    }

    /// The Ed25519 key whose seed is `HMAC-SHA256(recovery key, "Postern recovery key" || 0)`.
    fn signing_key(&self) -> SigningKey {
        SigningKey::from_seed(hmac_sha256(&hmac_key(&self.0), &[Label::RECOVERY_KEY.as_bytes()]))
    }
}

/// An operation that asks for a second proof, with everything that it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Ends the identity, whose clients are lost; `client` is the one that begins the next. `time` is in seconds since
    /// 1970: what is ended is not known to that client, so the proof is good for some minutes only.
    EndIdentity { client: PublicKey, time: u64 },
    /// Begins the identity after one that ended.
    ResetAccount { founding: Transcript },
    /// Takes another name with the commit that leads to this state.
    RenameUser { to: &'a UserName, eid: EidState },
    /// Erases the account; `client` asks for it.
    DeleteAccount { client: PublicKey },
    /// Replaces the recovery key.
    ReplaceRecoveryKey { recovery_key: PublicKey },
}

/// The proof that a request comes from the account's owner, and not from anybody who has a device of theirs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecondProof {
    /// By the key of [`RecoveryKey::verifier`], over [`Operation::to_be_signed`].
    Recovery(Signature),
}

impl SecondProof {
    /// The proof of a recovery key for an operation on the account of `user`.
    pub fn recovery(key: &RecoveryKey, user: &UserName, operation: &Operation<'_>) -> Self {
        Self::Recovery(key.signing_key().sign(&operation.to_be_signed(user)))
    }

    /// Verifies the proof of the recovery key with this verifier.
    ///
    /// # Errors
    /// [`BadSignature`].
    pub fn verify(
        &self,
        verifier: PublicKey,
        user: &UserName,
        operation: &Operation<'_>,
    ) -> Result<(), BadSignature> {
        let Self::Recovery(signature) = self;
        verifier.verify(&operation.to_be_signed(user), signature)
    }
}

impl Operation<'_> {
    /// `"Postern second proof" || 0 || len(name) as u16 || name || operation as u8 || content`. The content is, of
    ///
    /// - operation 1, the end of an identity: the client key, and the time as u64;
    /// - 2, a reset: the founding transcript;
    /// - 3, a change of name: the state (44 bytes), and the new name in UTF-8;
    /// - 4, deletion: the client key;
    /// - 5, another recovery key: its verifier.
    pub fn to_be_signed(&self, user: &UserName) -> Vec<u8> {
        let (length, name) = prefixed(user);
        let (number, content) = match self {
            Self::EndIdentity { client, time } => {
                (1, [client.as_bytes().as_slice(), &time.to_be_bytes()].concat())
            }
            Self::ResetAccount { founding } => (2, founding.as_bytes().to_vec()),
            Self::RenameUser { to, eid } => {
                (3, [eid.to_bytes().as_slice(), to.to_string().as_bytes()].concat())
            }
            Self::DeleteAccount { client } => (4, client.as_bytes().to_vec()),
            Self::ReplaceRecoveryKey { recovery_key } => (5, recovery_key.as_bytes().to_vec()),
        };
        Label::SECOND_PROOF.followed_by(&[&length, name.as_bytes(), &[number], &content])
    }
}

/// Shows nothing of the key.
impl std::fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RecoveryKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> UserName {
        text.parse().unwrap()
    }

    #[test]
    fn a_proof_holds_for_its_key_user_and_operation_only() {
        let (key, other) = (RecoveryKey::generate(), RecoveryKey::generate());
        let (alice, bob) = (name("alice@example.org"), name("bob@example.org"));
        let (client, transcript) = (PublicKey::new([1; 32]), Transcript::new([1; 32]));
        let eid = EidState { incarnation: 0, epoch: 1, transcript };
        // The contents are alike: only their kind tells them apart.
        let operations = [
            Operation::EndIdentity { client, time: 0 },
            Operation::ResetAccount { founding: transcript },
            Operation::RenameUser { to: &bob, eid },
            Operation::DeleteAccount { client },
            Operation::ReplaceRecoveryKey { recovery_key: client },
        ];
        for operation in &operations {
            let proof = SecondProof::recovery(&key, &alice, operation);
            assert_eq!(proof.verify(key.verifier(), &alice, operation), Ok(()));
            assert!(proof.verify(other.verifier(), &alice, operation).is_err());
            assert!(proof.verify(key.verifier(), &bob, operation).is_err());
            let others = operations.iter().filter(|other| *other != operation);
            assert!(others.clone().count() == 4);
            for other in others {
                assert!(proof.verify(key.verifier(), &alice, other).is_err(), "{operation:?} {other:?}");
            }
        }
        let renaming = SecondProof::recovery(&key, &alice, &operations[2]);
        let carol = name("carol@example.org");
        for other in [
            Operation::RenameUser { to: &carol, eid },
            Operation::RenameUser { to: &bob, eid: EidState { epoch: 2, ..eid } },
        ] {
            assert!(renaming.verify(key.verifier(), &alice, &other).is_err());
        }
    }

    #[test]
    fn a_recovery_key_is_told_by_its_bytes_and_shows_none_of_them() {
        let key = RecoveryKey::from_bytes([7; 32]);
        assert_eq!(RecoveryKey::from_bytes(*key.as_bytes()).verifier(), key.verifier());
        assert_ne!(key.verifier(), SigningKey::from_seed([7; 32]).public_key(), "it is derived for its use");
        assert_eq!(format!("{key:?}"), "RecoveryKey(…)");
    }
}
