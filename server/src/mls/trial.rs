//! The trial commit: a `PublicMessage` in a member's name, with proposals by reference, and without a path and a valid
//! signature. It never leaves the server, which learns from it whether members could commit what waits (DS-13).

use postern_protocol::MlsMessage;
use tls_codec::{Serialize as _, TlsSerialize, TlsSize, VLBytes};

/// `MLSMessage` (RFC 9420 §6) with the fields of a commit by a member.
#[derive(TlsSize, TlsSerialize)]
struct TrialCommit {
    version: u16,
    wire_format: u16,
    group_id: VLBytes,
    epoch: u64,
    sender_type: u8,
    leaf: u32,
    authenticated_data: VLBytes,
    content_type: u8,
    proposals: Vec<Reference>,
    has_path: u8,
    signature: VLBytes,
    confirmation_tag: VLBytes,
    membership_tag: VLBytes,
}

/// `ProposalOrRef` (RFC 9420 §12.4).
#[derive(Debug, TlsSize, TlsSerialize)]
struct Reference {
    kind: u8,
    reference: VLBytes,
}

pub fn commit<'a>(
    group_id: &[u8],
    epoch: u64,
    leaf: u32,
    references: impl Iterator<Item = &'a [u8]>,
) -> MlsMessage {
    const MLS10: u16 = 1;
    const PUBLIC_MESSAGE: u16 = 1;
    const MEMBER: u8 = 1;
    const COMMIT: u8 = 3;
    const BY_REFERENCE: u8 = 2;
    let reference = |reference: &[u8]| Reference { kind: BY_REFERENCE, reference: reference.to_vec().into() };
    let commit = TrialCommit {
        version: MLS10,
        wire_format: PUBLIC_MESSAGE,
        group_id: group_id.to_vec().into(),
        epoch,
        sender_type: MEMBER,
        leaf,
        authenticated_data: Vec::new().into(),
        content_type: COMMIT,
        proposals: references.map(reference).collect(),
        has_path: 0,
        signature: vec![0; 64].into(),
        confirmation_tag: vec![0; 32].into(),
        membership_tag: vec![0; 32].into(),
    };
    MlsMessage::new(commit.tls_serialize_detached().expect("it serialises into memory"))
}
