//! The second proof, as the account's owner shows it to this device (AS-8, AS-9).

use postern_protocol::{
    admission::IdToken,
    name::UserName,
    second_proof::{Operation, RecoveryKey, SecondProof},
};

/// The proof that an account's owner shows for what cannot be undone: the recovery key, or, where the server's policy
/// is a login at its identity provider, an ID token with the nonce of what is to be done.
#[derive(Debug, Clone, Copy)]
pub enum OwnerProof<'a> {
    RecoveryKey(&'a RecoveryKey),
    IdToken(&'a IdToken),
}

impl OwnerProof<'_> {
    /// The proof for an operation on the account of `user`.
    pub(crate) fn of(self, user: &UserName, operation: &Operation<'_>) -> SecondProof {
        match self {
            Self::RecoveryKey(key) => SecondProof::recovery(key, user, operation),
            Self::IdToken(token) => SecondProof::IdToken(token.clone()),
        }
    }
}

impl<'a> From<&'a RecoveryKey> for OwnerProof<'a> {
    fn from(key: &'a RecoveryKey) -> Self {
        Self::RecoveryKey(key)
    }
}

impl<'a> From<&'a IdToken> for OwnerProof<'a> {
    fn from(token: &'a IdToken) -> Self {
        Self::IdToken(token)
    }
}
