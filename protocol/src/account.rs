//! The life of an account at the AS beyond its clients: another recovery key, a reset after all clients were lost, another
//! name, and the end (AS-8, AS-9). Each asks for a [`SecondProof`].

use serde::{Deserialize, Serialize};

use crate::{
    GroupInfo, PublicKey, RatchetTree, Transcript, admission::MAX_ID_TOKEN_BYTES, auth::CommitIdentity,
    eid::SignedState, name::UserName, second_proof::SecondProof,
};

/// `PUT /as/account/recovery-key`, signed by a client. 204.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReplaceRecoveryKey {
    /// The verifier of the new recovery key.
    pub recovery_key: PublicKey,
    /// By the old one, or by a login.
    pub proof: SecondProof,
}

/// `DELETE /as/account`, signed by a client: erases the account. 204.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeleteAccount {
    pub proof: SecondProof,
    /// Whether the proof is only to be verified: nothing is erased, and no ID token is used up.
    pub rehearsal: bool,
}

/// `PUT /as/account/name`, signed by a client, which makes the commit. Answered as that
/// ([`crate::auth::IdentityCommitted`]).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RenameUser {
    /// The new name, of the same domain.
    pub name: UserName,
    /// An update of the client's own leaf, which gets the new name. Its state is signed under the new name.
    pub commit: CommitIdentity,
    pub proof: SecondProof,
}

/// `POST /as/account/end`, signed by the client that is going to begin the next identity; no token. The present identity
/// ends with all its clients. The same request again is answered in the same way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EndIdentity {
    pub name: UserName,
    /// Seconds since 1970; not older than a signature may be ([`crate::signature::MAX_AGE`]).
    pub time: u64,
    pub proof: SecondProof,
}

/// The answer to `POST /as/account/end` (200): what the next identity is chained to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityEnded {
    /// The number of the incarnation that ended.
    pub incarnation: u32,
    /// Its last transcript.
    pub transcript: Transcript,
}

/// `POST /as/account/reset`, signed by the first client of the next identity, after `POST /as/account/end`; no token. Its
/// EID is as that of a registration. Answered as a registration is (201), and so is the same request again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ResetAccount {
    pub name: UserName,
    pub group_info: GroupInfo,
    pub ratchet_tree: RatchetTree,
    /// Epoch 0 of the next incarnation, signed by the client.
    pub state: SignedState,
    pub proof: SecondProof,
}

impl EndIdentity {
    /// The greatest body of the request, in bytes and in any encoding.
    pub const MAX_BYTES: usize = 2048 + MAX_ID_TOKEN_BYTES;
}

impl ResetAccount {
    /// The greatest body of the request, in bytes and in any encoding: as for a registration.
    pub const MAX_BYTES: usize = 8192 + MAX_ID_TOKEN_BYTES;
}
