//! How this client sets openmls up: the one ciphersuite, the codec of what openmls keeps
//! in SQLite, keys of ours as openmls signers, and the parsing of MLS objects. What groups
//! and identities do with it is theirs.

use openmls::prelude::{
    BasicCredential, Capabilities, Ciphersuite, Credential, CredentialType, CredentialWithKey, ExtensionType,
    KeyPackage, KeyPackageIn, Lifetime, MIXED_PLAINTEXT_WIRE_FORMAT_POLICY, MlsGroupJoinConfig,
    MlsMessageBodyIn, MlsMessageIn, MlsMessageOut, OpenMlsCrypto, ProposalType, ProtocolVersion,
    SenderRatchetConfiguration, SignatureScheme,
};
use openmls_sqlite_storage::Codec;
use openmls_traits::signatures::{Signer, SignerError};
use postern_protocol::{
    PublicKey,
    key::SigningKey,
    mls::{DELIVERY_ADDRESS, GROUP_POLICY, Pseudonym, USER_KEY},
};
use serde::{Serialize, de::DeserializeOwned};
use tls_codec::{Deserialize as _, Serialize as _, VLBytes};

use crate::error::{Error, Result};

pub(crate) const CIPHERSUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;
const _: () = assert!(CIPHERSUITE as u16 == postern_protocol::mls::CIPHERSUITE);

/// Extensions that every member of a group has to know.
pub(crate) const REQUIRED: [ExtensionType; 2] =
    [ExtensionType::Unknown(GROUP_POLICY), ExtensionType::Unknown(DELIVERY_ADDRESS)];
const EXTENSIONS: [ExtensionType; 4] = [
    ExtensionType::Unknown(GROUP_POLICY),
    ExtensionType::Unknown(DELIVERY_ADDRESS),
    ExtensionType::Unknown(USER_KEY),
    ExtensionType::LastResort,
];

/// The longest that openmls finds acceptable (84 days).
const KEY_PACKAGE_LIFETIME: u64 = 84 * 24 * 60 * 60;

/// Application messages are padded to multiples of this many bytes.
const PADDING: usize = 256;

/// CBOR, because openmls's join configuration needs a format that describes itself.
#[derive(Default)]
pub(crate) struct Cbor;

#[derive(Debug, thiserror::Error)]
#[error("the value is not the expected CBOR")]
pub(crate) struct CborError;

impl Codec for Cbor {
    type Error = CborError;

    fn to_vec<T: Serialize>(value: &T) -> Result<Vec<u8>, CborError> {
        let mut bytes = Vec::new();
        ciborium::into_writer(value, &mut bytes).map_err(|_| CborError)?;
        Ok(bytes)
    }

    fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CborError> {
        ciborium::from_reader(bytes).map_err(|_| CborError)
    }
}

/// A key of ours as an openmls signer.
pub(crate) struct LeafSigner<'a>(pub &'a SigningKey);

impl Signer for LeafSigner<'_> {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignerError> {
        Ok(self.0.sign(payload).into_bytes())
    }
    fn signature_scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

pub(crate) fn credential(identity: Vec<u8>, key: PublicKey) -> CredentialWithKey {
    CredentialWithKey {
        credential: Credential::from(BasicCredential::new(identity)),
        signature_key: key.as_bytes().as_slice().into(),
    }
}

pub(crate) fn capabilities() -> Capabilities {
    Capabilities::new(
        Some(&[ProtocolVersion::Mls10]),
        Some(&[CIPHERSUITE]),
        Some(&EXTENSIONS),
        Some(&[ProposalType::SelfRemove]),
        Some(&[CredentialType::Basic]),
    )
}

pub(crate) fn lifetime() -> Lifetime {
    Lifetime::new(KEY_PACKAGE_LIFETIME)
}

/// Messages of a sender in an epoch that may come after later ones, and still be opened and shown: what waited for another
/// homeserver may come late.
pub(crate) const LATE_MESSAGES: u32 = 63;
/// Messages of a sender in an epoch that may be missing before the next one that is opened, as openmls has it.
const LOST_MESSAGES: u32 = 1000;

/// The keys of a sender's messages that are kept: of those only that did not come.
pub(crate) fn late_messages() -> SenderRatchetConfiguration {
    SenderRatchetConfiguration::new(LATE_MESSAGES, LOST_MESSAGES)
}

/// The configuration of a group: handshakes have public framing, so that servers can check them, and application messages are
/// private and may be `past_epochs` epochs late. A Welcome is without the ratchet tree, which the server has.
pub(crate) fn join_config(past_epochs: usize) -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
        .padding_size(PADDING)
        .max_past_epochs(past_epochs)
        .sender_ratchet_configuration(late_messages())
        .build()
}

pub(crate) fn message_bytes(message: &MlsMessageOut) -> Result<Vec<u8>> {
    message.to_bytes().map_err(Error::mls("cannot encode the MLS message"))
}

/// The body of a serialised `MLSMessage`; `None` if it is none.
pub(crate) fn parse(bytes: &[u8]) -> Option<MlsMessageBodyIn> {
    MlsMessageIn::tls_deserialize_exact(bytes).ok().map(MlsMessageIn::extract)
}

/// A KeyPackage of our ciphersuite that is valid now. For how long one may be valid, which openmls never
/// checks, is its caller's matter.
pub(crate) fn parse_key_package(bytes: &[u8], crypto: &impl OpenMlsCrypto) -> Option<KeyPackage> {
    let MlsMessageBodyIn::KeyPackage(unverified) = parse(bytes)? else {
        return None;
    };
    let key_package = KeyPackageIn::validate(unverified, crypto, ProtocolVersion::Mls10).ok()?;
    let is_current = key_package.life_time().validate().is_ok();
    (key_package.ciphersuite() == CIPHERSUITE && is_current).then_some(key_package)
}

/// Whether groups take a KeyPackage: its leaf has a pseudonym, its client supports what groups require, and others can encrypt
/// to its keys. openmls finds a KeyPackage valid without that. Then it cannot make the commit that adds it, or, if the leaf's key
/// is unusable, any commit after that one.
pub(crate) fn is_for_groups(key_package: &KeyPackage, crypto: &impl OpenMlsCrypto) -> bool {
    let leaf = key_package.leaf_node();
    let capabilities = leaf.capabilities();
    let is_able = REQUIRED.iter().all(|extension| capabilities.extensions().contains(extension))
        && capabilities.versions().contains(&ProtocolVersion::Mls10)
        && capabilities.ciphersuites().contains(&CIPHERSUITE.into())
        && capabilities.credentials().contains(&CredentialType::Basic)
        && capabilities.proposals().contains(&ProposalType::SelfRemove);
    // openmls shows the bytes of a leaf's key in no other way.
    let leaf_key = leaf.encryption_key().tls_serialize_detached();
    let leaf_key = leaf_key.and_then(|key| VLBytes::tls_deserialize_exact(key.as_slice()));
    let encrypts = |key: &[u8]| crypto.hpke_seal(CIPHERSUITE.hpke_config(), key, &[], &[], &[]).is_ok();
    is_able
        && pseudonym(leaf.credential()).is_some()
        && encrypts(key_package.hpke_init_key().as_slice())
        && leaf_key.is_ok_and(|key| encrypts(key.as_slice()))
}

/// The pseudonym that a leaf's credential has; `None` for a credential of another kind or length.
pub(crate) fn pseudonym(credential: &Credential) -> Option<Pseudonym> {
    identity(credential)?.try_into().ok().map(Pseudonym)
}

/// The identity of a basic credential; `None` for another kind.
pub(crate) fn identity(credential: &Credential) -> Option<Vec<u8>> {
    let basic = BasicCredential::try_from(credential.clone()).ok()?;
    Some(basic.identity().to_vec())
}

/// An MLS signature key as ours; `None` unless it has 32 bytes.
pub(crate) fn public_key(bytes: &[u8]) -> Option<PublicKey> {
    PublicKey::try_from(bytes).ok()
}
