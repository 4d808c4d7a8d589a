//! Authentication Service: users under their real names, their clients, and the addresses for first
//! contact.

use serde::{Deserialize, Serialize};

use crate::{
    Address, GroupInfo, HpkePublicKey, IssuedCredential, IssuerCertificate, MlsMessage, PublicKey,
    RatchetTree, Signature, Transcript,
    admission::Admission,
    eid::{FreshnessTicket, SignedState},
    key::{BadSignature, PublishedKey, SigningKey},
    label::Label,
    name::{Domain, UserName},
    profile::SignedProfile,
};

/// `POST /as/users`, signed by the first client's key; no token (AS-1).
///
/// The EID group (AS-3) has one member: a leaf with the client's key and a basic credential whose
/// identity is the user name. The same request again, by the same key, gets the same credential.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RegisterUser {
    pub name: UserName,
    pub group_info: GroupInfo,
    pub ratchet_tree: RatchetTree,
    #[serde(default)]
    pub admission: Admission,
    /// Epoch 0 of incarnation 0, signed by the client.
    pub state: SignedState,
    /// The verifier of the account's recovery key (AS-8).
    pub recovery_key: PublicKey,
}

impl RegisterUser {
    /// The greatest body of the request, in bytes and in any encoding: room for an ID token, and for one leaf and a
    /// GroupInfo, of which ours have 700 together.
    pub const MAX_BYTES: usize = 16 * 1024;
}

/// The answer to `POST /as/users` (201) and `POST /as/credentials` (200).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CredentialIssued {
    pub credential: IssuedCredential,
}

/// `POST /as/credentials`, signed by the key of a client in the EID (AS-2).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SignCredential {}

/// `POST /as/eid/commits`, signed by the committing client (AS-3).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CommitIdentity {
    /// A commit in public framing.
    pub commit: MlsMessage,
    /// The GroupInfo of the epoch that it begins, signed by the committer's new leaf; without the tree.
    pub group_info: GroupInfo,
    /// The state that it leads to, signed by the same client.
    pub state: SignedState,
}

/// The answer to `POST /as/eid/commits` (200): the epoch that the commit began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityCommitted {
    pub epoch: u64,
}

/// `PUT /as/contact`, signed by the client's key: the address of its contact queue (AS-5). 204.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PublishContact {
    pub contact: SignedContact,
}

/// The address at which a client takes first contact, and the key to encrypt it to; signed by the
/// client, so that the AS cannot put another address in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedContact {
    pub domain: Domain,
    pub address: Address,
    pub hpke_key: HpkePublicKey,
    /// Signature by the client's key over [`SignedContact::to_be_signed`].
    pub signature: Signature,
}

/// The answer to `GET /as/users/{name}?incarnation={number}&after={epoch}` (200): the public record of a user, for
/// anyone with a token (AS-5).
///
/// A reader at its first lookup asks for neither and verifies `current` by itself. Later it asks for what came after the
/// epoch that it knows, replays the commits, and must arrive at `current` exactly. Of a user with another incarnation by
/// now, `incarnation` names the one that it knows: the commits are that one's, and lead to the end that `ended` has.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UserRecord {
    pub name: UserName,
    /// The incarnation that lives.
    pub incarnation: u32,
    pub current: CurrentIdentity,
    /// Epoch 0 of the incarnation that the request names, for audits: only if it asks for what came `after` 0.
    pub founding: Option<FoundingIdentity>,
    /// The commits of that incarnation, in order, from the one that ended the epoch `after`; none if the request does
    /// not say `after`.
    pub commits: Vec<MlsMessage>,
    /// Whether other commits follow these.
    pub more: bool,
    /// The confirmed clients that have a credential, as of the current epoch (AS-4).
    pub clients: Vec<ClientRecord>,
    /// Says that `current` is the latest (AS-10).
    pub ticket: FreshnessTicket,
    /// The first transcript of each earlier incarnation, 0 first: a reader that knows one of them knows the user, by
    /// another name perhaps (AS-9). It is a hint, and what follows from there is the proof.
    pub begun: Vec<Transcript>,
    /// The last transcript of each earlier incarnation, 0 first (AS-8).
    pub ended: Vec<Transcript>,
    /// The profile, if the user has one in this incarnation (AS-6).
    pub profile: Option<SignedProfile>,
}

/// The state of an identity in its current epoch, which a reader verifies without its history (AS-3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CurrentIdentity {
    /// The GroupInfo of the current epoch, signed by the client that began it; without the tree.
    pub group_info: GroupInfo,
    pub ratchet_tree: RatchetTree,
    /// The transcript of epoch 0 of this incarnation.
    pub founding: Transcript,
    /// The key of the client in epoch 0.
    pub founder: PublicKey,
    /// Signed by the client that signed `group_info`.
    pub state: SignedState,
}

/// Epoch 0 of an identity: the beginning of an audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundingIdentity {
    pub group_info: GroupInfo,
    pub ratchet_tree: RatchetTree,
}

/// The public record of one client of a user.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClientRecord {
    pub credential: IssuedCredential,
    pub contact: Option<SignedContact>,
}

/// The answer to `GET /as/keys` (200): the keys that sign client credentials; no token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthenticationKeys {
    pub domain: Domain,
    /// The domain's root, if it has one: then every credential comes with its certificate of the key that signed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<PublicKey>,
    pub keys: Vec<PublishedKey>,
    /// The root's certificates of these keys, as far as it certified them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<IssuerCertificate>,
    /// Keys that signed once, and whose credentials are worth nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<PublicKey>,
}

impl SignedContact {
    /// Signs a contact with the client's key.
    pub fn sign(domain: Domain, address: Address, hpke_key: HpkePublicKey, client: &SigningKey) -> Self {
        let signature = client.sign(&Self::to_be_signed(&domain, &address, &hpke_key));
        Self { domain, address, hpke_key, signature }
    }

    /// Verifies that `client` signed the contact.
    ///
    /// # Errors
    /// [`BadSignature`].
    pub fn verify(&self, client: PublicKey) -> Result<(), BadSignature> {
        let message = Self::to_be_signed(&self.domain, &self.address, &self.hpke_key);
        client.verify(&message, &self.signature)
    }

    /// `"Postern contact" || 0 || len(domain) as u8 || domain || address || hpke_key`
    ///
    /// # Panics
    /// Never: a domain has at most 253 bytes.
    pub fn to_be_signed(domain: &Domain, address: &Address, hpke_key: &HpkePublicKey) -> Vec<u8> {
        let mut bytes = Label::CONTACT.as_bytes().to_vec();
        bytes.push(u8::try_from(domain.as_str().len()).expect("a domain has at most 253 bytes"));
        bytes.extend_from_slice(domain.as_str().as_bytes());
        bytes.extend_from_slice(address.as_bytes());
        bytes.extend_from_slice(hpke_key.as_bytes());
        bytes
    }
}
