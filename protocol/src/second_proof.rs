//! The second proof, which an account's owner shows for what cannot be undone (AS-8, AS-9): the recovery key that was
//! made at registration, or, where the operator lets those in who have a login at an identity provider, that login. The AS
//! has the public half of the key only, so a dump or a stolen device cannot replace the owner.
//!
//! A proof by the recovery key is for one operation with all that it changes. None is good a second time: a new identity, a
//! new epoch, a new key or the time is in it, or its account is gone. An ID token is for one operation by one client, whose
//! signature covers the rest of the request; it is recent, and the AS remembers it for as long as it would be good.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{
    PublicKey, Signature, Transcript,
    admission::IdToken,
    eid::EidState,
    hash::{hmac_key, hmac_sha256, sha256},
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
    /// By a recent login with which the account was registered, whose `nonce` is [`Operation::nonce`].
    IdToken(IdToken),
}

impl SecondProof {
    /// The proof of a recovery key for an operation on the account of `user`.
    pub fn recovery(key: &RecoveryKey, user: &UserName, operation: &Operation<'_>) -> Self {
        Self::Recovery(key.signing_key().sign(&operation.to_be_signed(user)))
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
        let content = match self {
            Self::EndIdentity { client, time } => {
                [client.as_bytes().as_slice(), &time.to_be_bytes()].concat()
            }
            Self::ResetAccount { founding } => founding.as_bytes().to_vec(),
            Self::RenameUser { to, eid } => [eid.to_bytes().as_slice(), to.to_string().as_bytes()].concat(),
            Self::DeleteAccount { client } => client.as_bytes().to_vec(),
            Self::ReplaceRecoveryKey { recovery_key } => recovery_key.as_bytes().to_vec(),
        };
        Label::SECOND_PROOF.followed_by(&[&length, name.as_bytes(), &[self.number()], &content])
    }

    /// Verifies the proof of the recovery key with this verifier.
    ///
    /// # Errors
    /// [`BadSignature`].
    pub fn verify_recovery(
        &self,
        verifier: PublicKey,
        user: &UserName,
        signature: &Signature,
    ) -> Result<(), BadSignature> {
        verifier.verify(&self.to_be_signed(user), signature)
    }

    /// The `nonce` of an ID token that proves the operation to the AS, in a request that `client` signs: the SHA-256 of
    /// `"Postern second proof nonce" || 0 || len(name) as u16 || name || client key || operation as u8 || content`, in
    /// unpadded base64url. The content is that of a change of name, the new one, and of another recovery key, its verifier.
    /// The two requests of a reset have one nonce, that of operation 1: nobody logs in twice for them.
    pub fn nonce(&self, user: &UserName, client: &PublicKey) -> String {
        let (length, name) = prefixed(user);
        let (number, content) = match self {
            Self::EndIdentity { .. } | Self::ResetAccount { .. } => (1, Vec::new()),
            Self::RenameUser { to, .. } => (self.number(), to.to_string().into_bytes()),
            Self::DeleteAccount { .. } => (self.number(), Vec::new()),
            Self::ReplaceRecoveryKey { recovery_key } => (self.number(), recovery_key.as_bytes().to_vec()),
        };
        let label = Label::SECOND_PROOF_NONCE.as_bytes();
        let parts: [&[u8]; 6] = [label, &length, name.as_bytes(), client.as_bytes(), &[number], &content];
        URL_SAFE_NO_PAD.encode(sha256(&parts))
    }

    /// The digest by which the AS remembers that an ID token proved the operation:
    /// `SHA-256("Postern used ID token" || 0 || operation as u8 || signed part of the token)`.
    pub fn use_of(&self, token: &IdToken) -> [u8; 32] {
        sha256(&[Label::USED_ID_TOKEN.as_bytes(), &[self.number()], token.signed_part().as_bytes()])
    }

    const fn number(&self) -> u8 {
        match self {
            Self::EndIdentity { .. } => 1,
            Self::ResetAccount { .. } => 2,
            Self::RenameUser { .. } => 3,
            Self::DeleteAccount { .. } => 4,
            Self::ReplaceRecoveryKey { .. } => 5,
        }
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

    fn signature(key: &RecoveryKey, user: &UserName, operation: &Operation<'_>) -> Signature {
        match SecondProof::recovery(key, user, operation) {
            SecondProof::Recovery(signature) => signature,
            SecondProof::IdToken(_) => unreachable!("it is a signature"),
        }
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
            let proof = signature(&key, &alice, operation);
            assert_eq!(operation.verify_recovery(key.verifier(), &alice, &proof), Ok(()));
            assert!(operation.verify_recovery(other.verifier(), &alice, &proof).is_err());
            assert!(operation.verify_recovery(key.verifier(), &bob, &proof).is_err());
            let others = operations.iter().filter(|other| *other != operation);
            assert!(others.clone().count() == 4);
            for other in others {
                let verified = other.verify_recovery(key.verifier(), &alice, &proof);
                assert!(verified.is_err(), "{operation:?} {other:?}");
            }
        }
        let renaming = signature(&key, &alice, &operations[2]);
        let carol = name("carol@example.org");
        for other in [
            Operation::RenameUser { to: &carol, eid },
            Operation::RenameUser { to: &bob, eid: EidState { epoch: 2, ..eid } },
        ] {
            assert!(other.verify_recovery(key.verifier(), &alice, &renaming).is_err());
        }
    }

    #[test]
    fn a_nonce_is_of_one_operation_by_one_client_of_one_user() {
        let (alice, bob) = (name("alice@example.org"), name("bob@example.org"));
        let (client, other) = (PublicKey::new([1; 32]), PublicKey::new([2; 32]));
        let transcript = Transcript::new([1; 32]);
        let eid = EidState { incarnation: 0, epoch: 1, transcript };
        let reset = [
            Operation::EndIdentity { client, time: 0 },
            Operation::EndIdentity { client, time: 1 },
            Operation::ResetAccount { founding: transcript },
        ];
        assert!(
            reset.iter().all(|operation| operation.nonce(&alice, &client) == reset[0].nonce(&alice, &client))
        );
        let operations = [
            reset[0],
            Operation::RenameUser { to: &bob, eid },
            Operation::RenameUser { to: &alice, eid },
            Operation::DeleteAccount { client },
            Operation::ReplaceRecoveryKey { recovery_key: client },
            Operation::ReplaceRecoveryKey { recovery_key: other },
        ];
        let nonces = operations.iter().flat_map(|operation| {
            [(&alice, &client), (&alice, &other), (&bob, &client)].map(|(user, by)| operation.nonce(user, by))
        });
        let distinct: std::collections::BTreeSet<_> = nonces.collect();
        assert_eq!(distinct.len(), 3 * operations.len());
        // Another epoch changes nothing: who logged in need not do it again when another device was faster.
        let later = Operation::RenameUser { to: &bob, eid: EidState { epoch: 2, ..eid } };
        assert_eq!(later.nonce(&alice, &client), operations[1].nonce(&alice, &client));
    }

    #[test]
    fn a_token_is_remembered_by_what_is_signed_of_it_and_by_its_operation() {
        let [token, resigned, other]: [IdToken; 3] =
            ["e30.e30.c2ln", "e30.e30.bmFn", "e30.e31.c2ln"].map(|token| token.parse().unwrap());
        let end = Operation::EndIdentity { client: PublicKey::new([1; 32]), time: 0 };
        let reset = Operation::ResetAccount { founding: Transcript::new([1; 32]) };
        // There is more than one ECDSA signature that says the same.
        assert_eq!(end.use_of(&token), end.use_of(&resigned));
        assert_ne!(end.use_of(&token), end.use_of(&other));
        assert_ne!(end.use_of(&token), reset.use_of(&token));
    }

    #[test]
    fn a_recovery_key_is_told_by_its_bytes_and_shows_none_of_them() {
        let key = RecoveryKey::from_bytes([7; 32]);
        assert_eq!(RecoveryKey::from_bytes(*key.as_bytes()).verifier(), key.verifier());
        assert_ne!(key.verifier(), SigningKey::from_seed([7; 32]).public_key(), "it is derived for its use");
        assert_eq!(format!("{key:?}"), "RecoveryKey(…)");
    }
}
