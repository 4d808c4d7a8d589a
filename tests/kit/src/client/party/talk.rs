//! Messages that a member sends and takes in.

use openmls::prelude::*;
use postern_client::judge_message;
use postern_protocol::{MlsMessage, mls::GROUP_POLICY};
use tls_codec::{Serialize as _, VLBytes};

use super::{Party, message, parse};

/// A message that a party took in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// The text of an application message.
    Text(Vec<u8>),
    Proposal,
    /// The number of proposals that it took along.
    Commit {
        proposals: usize,
    },
}

impl Party {
    /// Makes an application message.
    pub fn say(&mut self, text: &[u8]) -> MlsMessage {
        let (group, provider, signer) = self.parts();
        message(&group.create_message(provider, &signer, text).expect("a member can speak"))
    }

    /// Lets the next message bring along this authenticated data, which everybody can read.
    pub fn attach(&mut self, authenticated_data: &[u8]) {
        self.parts().0.set_aad(authenticated_data.to_vec());
    }

    /// Lets commits and proposals be private from now on, as most MLS clients send them.
    pub fn whisper(&mut self) {
        let config =
            MlsGroupJoinConfig::builder().wire_format_policy(PURE_CIPHERTEXT_WIRE_FORMAT_POLICY).build();
        let (group, provider, _) = self.parts();
        group.set_configuration(provider.storage(), &config).expect("it is in memory");
    }

    /// Takes in what came through the queue; returns what an application message says.
    pub fn receive(&mut self, received: &MlsMessage) -> Option<Vec<u8>> {
        match self.take_in(received) {
            Received::Text(text) => Some(text),
            Received::Commit { .. } | Received::Proposal => None,
        }
    }

    /// Takes in what came through the queue. In a group of the DS the client's rules judge it first.
    pub fn take_in(&mut self, received: &MlsMessage) -> Received {
        self.take(received, assert_followed)
    }

    /// Takes in what a member sent in a group without a server, where everybody has the rights to everything.
    pub fn hear(&mut self, received: &MlsMessage) {
        self.take(received, |_, _| ());
    }

    fn take(&mut self, received: &MlsMessage, judge: impl FnOnce(&MlsGroup, &ProcessedMessage)) -> Received {
        let received: ProtocolMessage = match parse(received) {
            MlsMessageBodyIn::PublicMessage(message) => message.into(),
            MlsMessageBodyIn::PrivateMessage(message) => message.into(),
            _ => panic!("it is no message of a group"),
        };
        let group = self.group.as_mut().expect("a member has a group");
        let provider = &self.provider;
        let processed = group.process_message(provider, received).expect("what the server accepts is valid");
        judge(group, &processed);
        match processed.into_content() {
            ProcessedMessageContent::ApplicationMessage(message) => Received::Text(message.into_bytes()),
            ProcessedMessageContent::StagedCommitMessage(commit) => {
                let proposals = commit.queued_proposals().count();
                group.merge_staged_commit(provider, *commit).expect("it can be merged");
                Received::Commit { proposals }
            }
            ProcessedMessageContent::ProposalMessage(proposal) => {
                self.evictions += usize::from(matches!(proposal.sender(), Sender::External(_)));
                group.store_pending_proposal(provider.storage(), *proposal).expect("it is in memory");
                Received::Proposal
            }
            _ => panic!("it is nothing that a member sends"),
        }
    }
}

/// Asserts that the clients of a group's members accept what the server accepted.
fn assert_followed(group: &MlsGroup, message: &ProcessedMessage) {
    // There are EIDs, too, which have other rules.
    if group.extensions().unknown(GROUP_POLICY).is_some() {
        let judged = judge_message(group.public_group(), group.pending_proposals(), message);
        assert_eq!(judged, Ok(()), "members' clients accept what the server accepts");
    }
}

/// The same commit or proposal with a membership tag that no member takes for its sender's: the server cannot check it.
pub fn mistagged(message: &MlsMessage) -> MlsMessage {
    let mut bytes = message.as_bytes().to_vec();
    *bytes.last_mut().expect("it ends with the tag") ^= 1;
    MlsMessage::new(bytes)
}

impl Party {
    /// Makes a proposal of these bytes (RFC 9420 §12.1), which need not be one that any library makes. It is signed as
    /// every one is; the membership tag is none.
    pub fn propose_bytes(&self, proposal: &[u8]) -> MlsMessage {
        const MEMBER: u8 = 1;
        const PROPOSAL: u8 = 2;
        let group = self.group();
        let mut content = vec![0, 1, 0, 1];
        content.extend(opaque(group.group_id().as_slice()));
        content.extend(group.epoch().as_u64().to_be_bytes());
        content.push(MEMBER);
        content.extend(group.own_leaf_index().u32().to_be_bytes());
        content.extend(opaque(b""));
        content.push(PROPOSAL);
        content.extend_from_slice(proposal);
        let to_sign = [content.clone(), self.context()].concat();
        let labelled = [opaque(b"MLS 1.0 FramedContentTBS"), opaque(&to_sign)].concat();
        content.extend(opaque(&self.key.sign(&labelled).into_bytes()));
        content.extend(opaque(&[7; 32]));
        MlsMessage::new(content)
    }

    /// Asserts that a commit which takes along what waits would be followed by this member, without its effect.
    pub fn assert_follows(&mut self, commit: &MlsMessage) {
        let MlsMessageBodyIn::PublicMessage(commit) = parse(commit) else { panic!("commits are public") };
        let group = self.group.as_mut().expect("a member has a group");
        let processed = group.process_message(&self.provider, commit).expect("a member's commit is valid");
        assert_followed(group, &processed);
    }
}

/// The bytes as `opaque x<V>` (RFC 9420 §2.1.2).
fn opaque(bytes: &[u8]) -> Vec<u8> {
    VLBytes::from(bytes.to_vec()).tls_serialize_detached().expect("it serialises into memory")
}

/// An application message in public framing, which no library makes, since RFC 9420 §6.2 forbids it.
pub fn public_application(group_id: &[u8], epoch: u64, leaf: u32) -> MlsMessage {
    let mut bytes = vec![0, 1, 0, 1];
    bytes.push(u8::try_from(group_id.len()).expect("it is short"));
    bytes.extend_from_slice(group_id);
    bytes.extend_from_slice(&epoch.to_be_bytes());
    bytes.push(1);
    bytes.extend_from_slice(&leaf.to_be_bytes());
    // No authenticated data; application data; signature; membership tag.
    bytes.extend_from_slice(&[0, 1, 5]);
    bytes.extend_from_slice(b"hello");
    bytes.extend_from_slice(&[0x40, 64]);
    bytes.extend_from_slice(&[7; 64]);
    bytes.push(32);
    bytes.extend_from_slice(&[7; 32]);
    MlsMessage::new(bytes)
}
