//! Messages that a member sends and takes in.

use openmls::prelude::*;
use postern_protocol::MlsMessage;

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

    /// Takes in what came through the queue.
    pub fn take_in(&mut self, received: &MlsMessage) -> Received {
        let received: ProtocolMessage = match parse(received) {
            MlsMessageBodyIn::PublicMessage(message) => message.into(),
            MlsMessageBodyIn::PrivateMessage(message) => message.into(),
            _ => panic!("it is no message of a group"),
        };
        let group = self.group.as_mut().expect("a member has a group");
        let provider = &self.provider;
        match group
            .process_message(provider, received)
            .expect("what the server accepts is valid")
            .into_content()
        {
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

/// The same commit or proposal with a membership tag that no member takes for its sender's: the server cannot check it.
pub fn mistagged(message: &MlsMessage) -> MlsMessage {
    let mut bytes = message.as_bytes().to_vec();
    *bytes.last_mut().expect("it ends with the tag") ^= 1;
    MlsMessage::new(bytes)
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
