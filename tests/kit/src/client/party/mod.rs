//! One side of an MLS group: a leaf with its key, in an EID or in a group of the DS. It makes what a client would make,
//! and what only a broken or hostile one would.

mod commit;
mod enter;
mod propose;
mod talk;

use openmls::prelude::*;
use openmls_traits::signatures::{Signer, SignerError};
use postern_protocol::{
    GroupInfo as GroupInfoBytes, MlsMessage, PublicKey, RatchetTree as RatchetTreeBytes,
    key::SigningKey,
    mls::{DELIVERY_ADDRESS, GROUP_POLICY, USER_KEY, UserKey},
};
use tls_codec::{Deserialize as _, Serialize as _};

pub use self::{
    commit::{Commit, Made},
    talk::{Received, mistagged, public_application},
};
use super::provider::{Provider, Spoil};

pub const SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;
const DAYS: u64 = 24 * 60 * 60;

/// A member of a group, or one that is to become it, whose messages are made by hand.
pub struct Party {
    pub key: SigningKey,
    /// The key by which it acts for its user, in this generation.
    pub user: SigningKey,
    pub generation: u32,
    pub identity: Vec<u8>,
    pub suite: Ciphersuite,
    pub lifetime: Lifetime,
    pub leaf: Extensions<LeafNode>,
    /// The leaf's capabilities.
    pub extensions: Vec<ExtensionType>,
    pub proposals: Vec<ProposalType>,
    group: Option<MlsGroup>,
    /// The group as [`Party::join_externally`] enters it.
    entered: Option<MlsGroup>,
    /// The number of proposals of the server's that came in.
    pub evictions: usize,
    provider: Provider,
}

/// The signer that OpenMLS asks for.
struct Ed25519<'a>(&'a SigningKey);

impl Signer for Ed25519<'_> {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignerError> {
        Ok(self.0.sign(payload).into_bytes())
    }
    fn signature_scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

impl Party {
    pub fn new(identity: impl Into<Vec<u8>>) -> Self {
        Self {
            key: SigningKey::generate(),
            user: SigningKey::generate(),
            generation: 0,
            identity: identity.into(),
            suite: SUITE,
            lifetime: Lifetime::new(60 * DAYS),
            leaf: Extensions::empty(),
            extensions: vec![
                ExtensionType::Unknown(GROUP_POLICY),
                ExtensionType::Unknown(DELIVERY_ADDRESS),
                ExtensionType::Unknown(USER_KEY),
                ExtensionType::LastResort,
            ],
            proposals: vec![ProposalType::SelfRemove],
            group: None,
            entered: None,
            evictions: 0,
            provider: Provider::default(),
        }
    }

    /// Takes this ciphersuite, and the cryptography of a library that has it.
    pub fn set_suite(&mut self, suite: Ciphersuite, crypto: Box<dyn OpenMlsCrypto>) {
        self.suite = suite;
        self.provider = Provider::of(crypto);
    }

    /// Spoils one of the public keys that encryption is to: that with this number, counted from now on.
    pub fn lie(&self, place: usize, spoil: Spoil) {
        self.provider.lie(place, spoil);
    }

    /// Spoils one of the public keys that encryption is to, into one that can be encrypted to.
    pub fn lie_usably(&self, place: usize, spoil: Spoil) {
        self.provider.lie_usably(place, spoil);
    }

    /// Spoils the confirmation tag of the next commit, in its GroupInfo, too. The membership tag is right.
    pub fn lie_about_the_tag(&self) {
        self.provider.lie_about_a_code();
    }

    /// Spoils what is encrypted to the key of a leaf: of the path of a commit, if no node between the leaf and the path has a
    /// key.
    pub fn lie_to(&self, leaf: &PublicKey) {
        let mut members = self.group().members();
        let member = members.find(|member| member.signature_key == leaf.as_bytes()).expect("it is a member");
        self.provider.lie_to(member.encryption_key);
    }

    /// Says that this is one of the public keys that encryption is to: that with this number, counted from now on.
    pub fn claim(&self, place: usize, key: &[u8]) {
        self.provider.claim(place, key.to_vec());
    }

    /// Ends the lie, and returns how many keys it made meanwhile.
    ///
    /// # Panics
    /// If the lie was about a tag or a secret, and was not told.
    pub fn repent(&self) -> usize {
        self.provider.repent()
    }

    pub fn public_key(&self) -> PublicKey {
        self.key.public_key()
    }

    pub fn user_key(&self) -> UserKey {
        UserKey { generation: self.generation, public_key: self.user.public_key() }
    }

    pub fn group_info(&self) -> GroupInfoBytes {
        let info = self.group().export_group_info(self.provider.crypto(), &Ed25519(&self.key), false);
        GroupInfoBytes::new(message(&info.expect("it can be exported")).into_bytes())
    }

    pub fn ratchet_tree(&self) -> RatchetTreeBytes {
        RatchetTreeBytes::new(
            self.group().export_ratchet_tree().tls_serialize_detached().expect("it serialises"),
        )
    }

    pub fn epoch(&self) -> u64 {
        self.group().epoch().as_u64()
    }

    /// The key by which its user acts in the group: that of the highest generation.
    pub fn users_key(&self) -> UserKey {
        let group = self.group();
        let own = group.own_leaf_node().expect("a member has a leaf").credential();
        let leaves = group.members().filter_map(|member| group.public_group().leaf(member.index));
        leaves
            .filter(|leaf| leaf.credential() == own)
            .filter_map(|leaf| UserKey::from_bytes(&leaf.extensions().unknown(USER_KEY)?.0).ok())
            .max_by_key(|key| key.generation)
            .expect("every user has one")
    }

    pub fn member_keys(&self) -> Vec<PublicKey> {
        let keys = self.group().members().map(|member| member.signature_key);
        keys.map(|key| PublicKey::try_from(key.as_slice()).expect("keys are Ed25519")).collect()
    }

    /// The secret that is the same for all members in one epoch of one history (RFC 9420 §8.7).
    pub fn epoch_authenticator(&self) -> Vec<u8> {
        self.group().epoch_authenticator().as_slice().to_vec()
    }

    /// The `GroupContext` (RFC 9420 §8.1).
    pub fn context(&self) -> Vec<u8> {
        self.group().public_group().group_context().tls_serialize_detached().expect("it serialises")
    }

    pub fn is_active(&self) -> bool {
        self.group().is_active()
    }

    fn group(&self) -> &MlsGroup {
        self.group.as_ref().expect("a member has a group")
    }

    /// The group of a member, with the cryptography and the signer that act in it.
    fn parts(&mut self) -> (&mut MlsGroup, &Provider, Ed25519<'_>) {
        (self.group.as_mut().expect("a member has a group"), &self.provider, Ed25519(&self.key))
    }

    fn leaves(&self, keys: &[PublicKey]) -> Vec<LeafNodeIndex> {
        let leaf = |key: &PublicKey| {
            let mut members = self.group().members();
            members.find(|member| member.signature_key == key.as_bytes()).expect("it is a member").index
        };
        keys.iter().map(leaf).collect()
    }

    fn credential(&self, identity: Vec<u8>) -> CredentialWithKey {
        credential(identity, self.public_key())
    }

    /// The capabilities of its leaves.
    pub fn capabilities(&self) -> Capabilities {
        Capabilities::new(
            Some(&[ProtocolVersion::Mls10]),
            Some(&[self.suite]),
            Some(&self.extensions),
            Some(&self.proposals),
            Some(&[CredentialType::Basic]),
        )
    }
}

fn credential(identity: Vec<u8>, key: PublicKey) -> CredentialWithKey {
    CredentialWithKey {
        credential: Credential::from(BasicCredential::new(identity)),
        signature_key: key.as_bytes().as_slice().into(),
    }
}

/// The bytes of an `MLSMessage`.
fn message(message: &MlsMessageOut) -> MlsMessage {
    MlsMessage::new(message.to_bytes().expect("it serialises"))
}

fn parse(message: &MlsMessage) -> MlsMessageBodyIn {
    MlsMessageIn::tls_deserialize_exact(message.as_bytes()).expect("it is an MLSMessage").extract()
}
