//! A commit that openmls refuses for the time alone at which it is read: a KeyPackage that it adds has ended since, or begins
//! later as this device's clock has it. Nobody follows it any more, neither a member nor an onlooker. Whom its maker wanted to
//! add the maker's signature proves all the same. openmls shows nothing of what it refused: so what is signed is read here.

use openmls::prelude::{
    KeyPackageIn, KeyPackageVerifyError, LeafNodeIndex, ProposalIn, ProposalOrRefIn, PublicGroup,
    PublicProcessMessageError, ValidationError,
};
use postern_protocol::{MlsMessage, Signature};
use tls_codec::{Deserialize as _, Serialize as _, VLBytes};

use super::{
    places::UsersLeaf,
    rules::{self, Leaf},
};
use crate::mls;

/// Numbers of RFC 9420 §6 and §17.
const MLS10: u16 = 1;
const PUBLIC_MESSAGE: u16 = 1;
const MEMBER: u8 = 1;
const COMMIT: u8 = 3;
/// Bytes of a member's commit after its signed content, in the ciphersuite of all groups: a signature of 64, and the tags of
/// confirmation and of membership of 32 each, with their lengths.
const AUTHENTICATION: usize = (2 + 64) + 2 * (1 + 32);

/// Whether openmls refused a message for the time alone. It verifies the message's signature and all else of the KeyPackage
/// before.
pub(super) fn is_late(refusal: &PublicProcessMessageError) -> bool {
    matches!(
        refusal,
        PublicProcessMessageError::ValidationError(ValidationError::KeyPackageVerifyError(
            KeyPackageVerifyError::LifetimeError(_)
        ))
    )
}

/// The places of the leaves that a member adds by a commit in the present epoch of a group, each with the member's leaf. `None`
/// for anything but what a member of this epoch signed.
pub(super) fn added(group: &PublicGroup, commit: &MlsMessage) -> Option<Vec<(LeafNodeIndex, UsersLeaf)>> {
    let bytes = commit.as_bytes();
    let (content, mut rest) = bytes.split_at_checked(bytes.len().checked_sub(AUTHENTICATION)?)?;
    let signature = VLBytes::tls_deserialize(&mut rest).ok()?;

    // The FramedContent (RFC 9420 §6), and the beginning of the Commit (§12.4): its proposals.
    let mut fields = content;
    let fields = &mut fields;
    let kind = (u16::tls_deserialize(fields).ok()?, u16::tls_deserialize(fields).ok()?);
    let (id, epoch) = (VLBytes::tls_deserialize(fields).ok()?, u64::tls_deserialize(fields).ok()?);
    let (sender, by) = (u8::tls_deserialize(fields).ok()?, u32::tls_deserialize(fields).ok()?);
    let _authenticated_data = VLBytes::tls_deserialize(fields).ok()?;
    let content_type = u8::tls_deserialize(fields).ok()?;
    let context = group.group_context();
    let is_of_this_epoch =
        id.as_slice() == context.group_id().as_slice() && epoch == context.epoch().as_u64();
    if kind != (MLS10, PUBLIC_MESSAGE) || !is_of_this_epoch || (sender, content_type) != (MEMBER, COMMIT) {
        return None;
    }
    let proposals = Vec::<ProposalOrRefIn>::tls_deserialize(fields).ok()?;

    // FramedContentTBS (§6.1) in SignContent (§5.1.2).
    let by = LeafNodeIndex::new(by);
    let signer = Leaf::of(group.leaf(by)?)?.leaf_key;
    let signed = [content, &context.tls_serialize_detached().ok()?].concat();
    let opaque = |bytes: Vec<u8>| VLBytes::new(bytes).tls_serialize_detached().ok();
    let signed = [opaque(b"MLS 1.0 FramedContentTBS".to_vec())?, opaque(signed)?].concat();
    signer.verify(&signed, &Signature::new(signature.as_slice().to_vec())).ok()?;

    Some(proposals.iter().filter_map(|proposal| Some((by, place(proposal)?))).collect())
}

/// The place of the leaf that a proposal adds. Its KeyPackage is not verified here: a tree has no leaf that its own key did not
/// sign.
fn place(proposal: &ProposalOrRefIn) -> Option<UsersLeaf> {
    // No Add waits for a commit: members and servers let none pass (`rules.rs`).
    let ProposalOrRefIn::Proposal(proposal) = proposal else { return None };
    let ProposalIn::Add(add) = proposal.as_ref() else { return None };
    let key_package = KeyPackageIn::tls_deserialize_exact(add.tls_serialize_detached().ok()?).ok()?;
    let leaf = key_package.unverified_credential();
    Some((mls::public_key(leaf.signature_key.as_slice())?, rules::pseudonym(&leaf.credential)?))
}
