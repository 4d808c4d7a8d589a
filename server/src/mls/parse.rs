//! Reading MLS objects that clients send, before anything is known of their group.

use openmls::prelude::{
    CredentialType, ExtensionType, KeyPackage, MlsMessageBodyIn, MlsMessageIn, OpenMlsCrypto as _,
    ProposalType, ProtocolVersion, PublicMessageIn, RatchetTreeIn, Sender,
};
use postern_protocol::{
    MlsMessage, RatchetTree, Welcome,
    mls::{DELIVERY_ADDRESS, GROUP_POLICY},
};
use tls_codec::{Deserialize as _, VLBytes};

use super::{InvalidMls, crypto::PublicCrypto, encryption_key};

/// Parses an `MLSMessage`, all of it.
///
/// # Errors
/// [`InvalidMls::Malformed`] with `what`, the name of the expected object.
pub fn parse(bytes: &[u8], what: &'static str) -> Result<MlsMessageBodyIn, InvalidMls> {
    MlsMessageIn::tls_deserialize_exact(bytes)
        .map(MlsMessageIn::extract)
        .map_err(|_| InvalidMls::Malformed(what))
}

/// Parses a ratchet tree, which is not verified yet.
///
/// # Errors
/// [`InvalidMls::Malformed`].
pub fn parse_tree(ratchet_tree: &RatchetTree) -> Result<RatchetTreeIn, InvalidMls> {
    RatchetTreeIn::tls_deserialize_exact(ratchet_tree.as_bytes())
        .map_err(|_| InvalidMls::Malformed("ratchet tree"))
}

/// Parses a commit or a proposal, which is not verified yet.
///
/// # Errors
/// [`InvalidMls`] unless it is a handshake message in public framing (DS-3).
pub fn parse_handshake(message: &MlsMessage) -> Result<PublicMessageIn, InvalidMls> {
    match parse(message.as_bytes(), "MLSMessage")? {
        MlsMessageBodyIn::PublicMessage(message) => Ok(message),
        _ => Err(InvalidMls::Refused("a commit or proposal must be a PublicMessage")),
    }
}

/// Validates a KeyPackage as a member that adds it to a group here would (RFC 9420 §10.1), and
/// checks that its client supports what groups here require.
///
/// # Errors
/// [`InvalidMls`], also for some things that openmls accepts.
pub fn parse_key_package(message: &MlsMessage) -> Result<KeyPackage, InvalidMls> {
    let MlsMessageBodyIn::KeyPackage(unverified) = parse(message.as_bytes(), "KeyPackage")? else {
        return Err(InvalidMls::Malformed("KeyPackage"));
    };
    let key_package = unverified
        .validate(&PublicCrypto::VERIFYING, ProtocolVersion::Mls10)
        .map_err(|error| InvalidMls::Message(error.to_string()))?;
    if PublicCrypto::VERIFYING.supports(key_package.ciphersuite()).is_err() {
        return Err(InvalidMls::Refused("this server does not support the ciphersuite"));
    }
    if !key_package.life_time().has_acceptable_range() {
        return Err(InvalidMls::Refused("the KeyPackage's lifetime is too long"));
    }
    encryption_key::check_key_package(&key_package)?;
    let capabilities = key_package.leaf_node().capabilities();
    let able = [GROUP_POLICY, DELIVERY_ADDRESS]
        .iter()
        .all(|extension| capabilities.extensions().contains(&ExtensionType::Unknown(*extension)))
        && capabilities.versions().contains(&ProtocolVersion::Mls10)
        && capabilities.ciphersuites().contains(&key_package.ciphersuite().into())
        && capabilities.credentials().contains(&CredentialType::Basic)
        && capabilities.proposals().contains(&ProposalType::SelfRemove);
    if !able {
        return Err(InvalidMls::Refused(
            "the leaf's capabilities must include MLS 1.0, its ciphersuite, basic credentials, extensions 0xf0a1 and 0xf0a2, and proposal self_remove",
        ));
    }
    Ok(key_package)
}

/// The length in bytes of a message's authenticated data, which every recipient stores and nobody encrypts
/// (RFC 9420 §6.1, §6.3).
///
/// # Errors
/// [`InvalidMls`] unless it is a public or private message.
pub fn authenticated_data_len(message: &MlsMessage) -> Result<usize, InvalidMls> {
    fn read(mut bytes: &[u8]) -> Result<usize, tls_codec::Error> {
        const PUBLIC_MESSAGE: u16 = 1;
        let bytes = &mut bytes;
        let _version = u16::tls_deserialize(bytes)?;
        let wire_format = u16::tls_deserialize(bytes)?;
        let _group_id = VLBytes::tls_deserialize(bytes)?;
        let _epoch = u64::tls_deserialize(bytes)?;
        if wire_format == PUBLIC_MESSAGE {
            let _sender = Sender::tls_deserialize(bytes)?;
        } else {
            let _content_type = u8::tls_deserialize(bytes)?;
        }
        Ok(VLBytes::tls_deserialize(bytes)?.as_slice().len())
    }
    read(message.as_bytes()).map_err(|_| InvalidMls::Malformed("MLSMessage"))
}

/// The number of new members that a Welcome is for.
///
/// # Errors
/// [`InvalidMls`] unless it is a Welcome of this ciphersuite.
pub fn welcomed_members(welcome: &Welcome, ciphersuite: u16) -> Result<usize, InvalidMls> {
    match parse(welcome.as_bytes(), "Welcome")? {
        MlsMessageBodyIn::Welcome(welcome) if u16::from(welcome.ciphersuite()) == ciphersuite => {
            Ok(welcome.secrets().len())
        }
        _ => Err(InvalidMls::Malformed("Welcome")),
    }
}
