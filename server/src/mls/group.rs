//! The public state of one group, and the messages that change it.

use std::collections::BTreeMap;

use openmls::{
    ciphersuite::hash_ref::ProposalRef,
    group::{ProposalValidationError, PublicProcessMessageError, StageCommitError},
    prelude::{
        Ciphersuite, ExtensionType, Extensions, GroupContext, LeafNode, LeafNodeIndex, Lifetime,
        MlsMessageBodyIn, ProcessedMessage, ProcessedMessageContent, Proposal, ProposalStore, PublicGroup,
        PublicMessageIn, QueuedProposal, RatchetTreeIn, Sender, StagedCommit, Verifiable as _,
        group_info::VerifiableGroupInfo,
    },
};
use postern_protocol::{GroupInfo, PublicKey, RatchetTree, TreeHash};
use tls_codec::Serialize as _;

use super::{
    InvalidMls,
    crypto::PublicCrypto,
    encryption_key,
    parse::{parse, parse_handshake, parse_tree},
    path::Tree,
    storage::GroupStorage,
    trial,
};

/// The stored state of a group does not decode: a fault of ours, not of the client's.
#[derive(Debug, thiserror::Error)]
#[error("the stored group state does not decode")]
pub struct CorruptGroup;

/// One group's public state: context, tree, and proposals waiting for a commit.
pub struct TrackedGroup {
    group: PublicGroup,
    storage: GroupStorage,
}

/// A handshake message that was validated but has not changed the group yet.
pub enum Handshake {
    /// A commit, with its authenticated data.
    Commit(Box<StagedCommit>, Vec<u8>),
    Proposal(Box<QueuedProposal>),
}

impl TrackedGroup {
    /// Begins to track a group, from its creator's GroupInfo and tree.
    ///
    /// # Errors
    /// [`InvalidMls`] unless the group is in epoch 0, of a supported ciphersuite, and its
    /// creator the only member.
    pub fn create(group_info: &GroupInfo, ratchet_tree: &RatchetTree) -> Result<Self, InvalidMls> {
        let ratchet_tree = parse_tree(ratchet_tree)?;
        let refused =
            InvalidMls::Refused("a new group must be in epoch 0, with its creator as the only member");
        // Counted before anything is verified. A node above the leaf is refused, too: its key would be nobody's, or one
        // that nobody can encrypt to.
        if ratchet_tree.nodes().count() != 1 {
            return Err(refused);
        }
        let tracked = Self::open(group_info, ratchet_tree)?;
        if tracked.epoch() != 0 || tracked.group.members().count() != 1 {
            return Err(refused);
        }
        for (_, leaf) in tracked.leaves() {
            encryption_key::check_leaf(tracked.group.ciphersuite(), leaf)?;
        }
        Ok(tracked)
    }

    /// Validates a GroupInfo and the tree of its group, of whatever size and epoch, as a joiner does (RFC 9420
    /// §12.4.3.1).
    ///
    /// # Errors
    /// [`InvalidMls`].
    pub fn open(group_info: &GroupInfo, ratchet_tree: RatchetTreeIn) -> Result<Self, InvalidMls> {
        let MlsMessageBodyIn::GroupInfo(group_info) = parse(group_info.as_bytes(), "GroupInfo")? else {
            return Err(InvalidMls::Malformed("GroupInfo"));
        };
        let storage = GroupStorage::default();
        let (group, _) = PublicGroup::from_external(
            &PublicCrypto::VERIFYING,
            &storage,
            ratchet_tree,
            group_info,
            ProposalStore::new(),
        )
        .map_err(|error| InvalidMls::Group(error.to_string()))?;
        Ok(Self { group, storage })
    }

    /// Reads a state that [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`CorruptGroup`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CorruptGroup> {
        let storage = GroupStorage::decode(bytes).map_err(|_| CorruptGroup)?;
        let group = storage.load().ok_or(CorruptGroup)?;
        Ok(Self { group, storage })
    }

    /// The state in postcard, which is five times smaller and ten times quicker than JSON.
    pub fn encode(&self) -> Vec<u8> {
        self.storage.encode()
    }

    /// The ciphersuite's number (RFC 9420 §17.1).
    pub fn ciphersuite(&self) -> u16 {
        self.suite().into()
    }

    pub fn suite(&self) -> Ciphersuite {
        self.group.ciphersuite()
    }

    pub fn group_id(&self) -> &[u8] {
        self.group.group_id().as_slice()
    }

    pub fn epoch(&self) -> u64 {
        self.group.group_context().epoch().as_u64()
    }

    /// The tree hash (RFC 9420 §7.8).
    ///
    /// # Errors
    /// [`InvalidMls`] for a ciphersuite whose hashes are not of 32 bytes.
    pub fn tree_hash(&self) -> Result<TreeHash, InvalidMls> {
        TreeHash::try_from(self.group.group_context().tree_hash())
            .map_err(|_| InvalidMls::Refused("the ciphersuite's hashes must have 32 bytes"))
    }

    /// The group context's extensions.
    pub fn extensions(&self) -> &Extensions<GroupContext> {
        self.group.group_context().extensions()
    }

    pub fn leaves(&self) -> impl Iterator<Item = (LeafNodeIndex, &LeafNode)> {
        self.group.members().filter_map(|member| Some((member.index, self.group.leaf(member.index)?)))
    }

    pub fn leaf(&self, index: LeafNodeIndex) -> Option<&LeafNode> {
        self.group.leaf(index)
    }

    /// The tree, which joiners need in addition to a GroupInfo (RFC 9420 §12.4.3).
    pub fn ratchet_tree(&self) -> RatchetTree {
        let tree = self.group.export_ratchet_tree().tls_serialize_detached();
        RatchetTree::new(tree.expect("a tree serialises into memory"))
    }

    /// The proposals that wait for a commit, in order of arrival.
    ///
    /// # Errors
    /// [`CorruptGroup`].
    pub fn proposals(&self) -> Result<Vec<QueuedProposal>, CorruptGroup> {
        let proposals = self.group.queued_proposals(&self.storage).map_err(|_| CorruptGroup)?;
        Ok(proposals.into_iter().map(|(_, proposal)| proposal).collect())
    }

    /// Validates a message as [`Self::validate`] does, and that `signer` (of the HTTP request) sent it as a member.
    ///
    /// # Errors
    /// [`InvalidMls`].
    pub fn validate_of_member(
        &self,
        message: PublicMessageIn,
        signer: PublicKey,
        longest_lifetime: u64,
    ) -> Result<(LeafNodeIndex, Handshake), InvalidMls> {
        let Sender::Member(sender) = *message.sender() else {
            return Err(InvalidMls::Refused("the message must come from a member"));
        };
        let leaf =
            self.group.leaf(sender).ok_or(InvalidMls::Refused("the sender is not a member of the group"))?;
        if leaf.signature_key().as_slice() != signer.as_bytes() {
            return Err(InvalidMls::Refused("the request must be signed with the same key as its message"));
        }
        Ok((sender, self.validate(message, longest_lifetime)?))
    }

    /// Validates a handshake message as every member will (RFC 9420 §12); a KeyPackage in it is valid for
    /// `longest_lifetime` seconds at most.
    ///
    /// # Errors
    /// [`InvalidMls`], also for some things that openmls accepts but that would break the group.
    pub fn validate(&self, message: PublicMessageIn, longest_lifetime: u64) -> Result<Handshake, InvalidMls> {
        let mut keys = encryption_key::of_path(&message)?;
        let processed: ProcessedMessage = self
            .group
            .process_message(&PublicCrypto::VERIFYING, message)
            .map_err(|error| InvalidMls::Message(error.to_string()))?;
        let authenticated_data = processed.aad().to_vec();
        match processed.into_content() {
            ProcessedMessageContent::StagedCommitMessage(commit) => {
                if let Some(leaf) = commit.update_path_leaf_node() {
                    keys.push(encryption_key::of_leaf(leaf)?);
                }
                for key in &keys {
                    encryption_key::check(self.group.ciphersuite(), key.as_slice())?;
                }
                for proposal in commit.queued_proposals() {
                    self.check_proposal(proposal.proposal(), longest_lifetime)?;
                    keys.extend(encryption_key::of_proposal(proposal.proposal())?);
                }
                encryption_key::check_new(&self.group, &keys)?;
                Ok(Handshake::Commit(commit, authenticated_data))
            }
            ProcessedMessageContent::ProposalMessage(proposal) => {
                self.check_proposal(proposal.proposal(), longest_lifetime)?;
                // Here the keys that a proposal brings are compared with those of the nodes above the leaves. With the keys of
                // leaves, and of other proposals that wait, openmls compares them in the trial ([`Self::try_commit`]).
                keys.extend(encryption_key::of_proposal(proposal.proposal())?);
                encryption_key::check_new(&self.group, &keys)?;
                Ok(Handshake::Proposal(proposal))
            }
            _ => Err(InvalidMls::Refused("the message is not a commit or a member's proposal")),
        }
    }

    /// The leaf that an external commit takes.
    ///
    /// # Errors
    /// [`InvalidMls`] if the tree has none left.
    pub fn joining_leaf(&self, commit: &StagedCommit) -> Result<LeafNodeIndex, InvalidMls> {
        let leaf = self.group.ext_commit_sender_index(commit);
        leaf.map_err(|error| InvalidMls::Message(error.to_string()))
    }

    /// Checks a proposal where `openmls` leaves that to its caller.
    fn check_proposal(&self, proposal: &Proposal, longest_lifetime: u64) -> Result<(), InvalidMls> {
        let is_too_long = |lifetime: &Lifetime| {
            lifetime.not_after().saturating_sub(lifetime.not_before()) > longest_lifetime
        };
        match proposal {
            Proposal::Add(add) if is_too_long(add.key_package().life_time()) => {
                Err(InvalidMls::Refused("the KeyPackage's lifetime is too long"))
            }
            Proposal::Add(add) => encryption_key::check_key_package(add.key_package()),
            Proposal::Update(update) => {
                encryption_key::check_leaf(self.group.ciphersuite(), update.leaf_node())
            }
            Proposal::Remove(remove) if self.group.leaf(remove.removed()).is_none() => {
                Err(InvalidMls::Refused("the leaf to remove does not exist"))
            }
            _ => Ok(()),
        }
    }

    /// Tries the commit by which a member would take proposals along that wait, and judges them by what openmls judges
    /// commits by. The trial has no path, whose length is that of [`Self::paths`], and openmls looks at it last; before
    /// that it objects to an Update of the committer's own, which is judged with the others by then. Returns the trial's
    /// length in bytes.
    ///
    /// # Errors
    /// [`InvalidMls::Uncommittable`] with openmls's reason.
    pub fn try_commit(&self, by: LeafNodeIndex, proposals: &[&QueuedProposal]) -> Result<usize, InvalidMls> {
        let references = proposals.iter().map(|proposal| proposal.proposal_reference_ref().as_slice());
        let commit = trial::commit(self.group_id(), self.epoch(), by.u32(), references);
        match self.group.process_message(&PublicCrypto::TRIAL, parse_handshake(&commit)?) {
            Ok(_)
            | Err(PublicProcessMessageError::InvalidCommit(
                StageCommitError::RequiredPathNotFound
                | StageCommitError::ProposalValidationError(
                    ProposalValidationError::CommitterIncludedOwnUpdate,
                ),
            )) => Ok(commit.as_bytes().len()),
            Err(error) => Err(InvalidMls::Uncommittable(error.to_string())),
        }
    }

    /// The bytes of the path by which each member that stays would commit these proposals.
    ///
    /// # Errors
    /// [`CorruptGroup`].
    pub fn paths(
        &self,
        proposals: &[QueuedProposal],
    ) -> Result<BTreeMap<LeafNodeIndex, usize>, CorruptGroup> {
        let mut tree = Tree::of(&self.group)?;
        for proposal in proposals {
            if let (Proposal::Update(update), Sender::Member(leaf)) = (proposal.proposal(), proposal.sender())
            {
                tree.update(*leaf, update.leaf_node());
            }
        }
        for proposal in proposals {
            match (proposal.proposal(), proposal.sender()) {
                (Proposal::Remove(remove), _) => tree.remove(remove.removed()),
                (Proposal::SelfRemove, Sender::Member(leaf)) => tree.remove(*leaf),
                _ => {}
            }
        }
        Ok(tree.paths())
    }

    /// The leaves, by index, that a commit of these proposals leads to, before its path.
    ///
    /// # Errors
    /// [`InvalidMls`] if two would share a signature key.
    pub fn leaves_after<'a>(
        &'a self,
        proposals: &'a [QueuedProposal],
    ) -> Result<BTreeMap<LeafNodeIndex, &'a LeafNode>, InvalidMls> {
        let mut leaves: BTreeMap<_, _> = self.leaves().collect();
        for proposal in proposals {
            if let (Proposal::Update(update), Sender::Member(leaf)) = (proposal.proposal(), proposal.sender())
            {
                leaves.insert(*leaf, update.leaf_node());
            }
        }
        for proposal in proposals {
            match (proposal.proposal(), proposal.sender()) {
                (Proposal::Remove(remove), _) => leaves.remove(&remove.removed()),
                (Proposal::SelfRemove, Sender::Member(leaf)) => leaves.remove(leaf),
                _ => None,
            };
        }
        check_signature_keys(leaves.values().copied())?;
        Ok(leaves)
    }

    /// Makes the commit's epoch the group's.
    ///
    /// # Errors
    /// [`InvalidMls`] if two leaves would share a signature key, which openmls accepts when
    /// a member rotates to another's, and after which nobody could join (RFC 9420 §7.3).
    pub fn merge(&mut self, commit: StagedCommit) -> Result<(), InvalidMls> {
        self.group
            .merge_commit(&self.storage, commit)
            .map_err(|error| InvalidMls::Message(error.to_string()))?;
        check_signature_keys(self.leaves().map(|(_, leaf)| leaf))
    }

    /// Checks that a GroupInfo is the committer's over the epoch that its commit began, and
    /// lets others join by external commit (DS-8). Called after the commit was merged: the
    /// signature is by the key that the committer's leaf has then.
    ///
    /// # Errors
    /// [`InvalidMls`].
    pub fn check_group_info(
        &self,
        group_info: &GroupInfo,
        committer: LeafNodeIndex,
    ) -> Result<(), InvalidMls> {
        let MlsMessageBodyIn::GroupInfo(group_info) = parse(group_info.as_bytes(), "GroupInfo")? else {
            return Err(InvalidMls::Malformed("GroupInfo"));
        };
        if group_info.extensions().ratchet_tree().is_some() {
            return Err(InvalidMls::Refused("a GroupInfo must not contain the ratchet tree"));
        }
        // The context has its own bounds, and everything else a length that is known: so has the GroupInfo, which is
        // stored for joiners.
        if group_info.extensions().iter().any(|other| other.extension_type() != ExtensionType::ExternalPub) {
            return Err(InvalidMls::Refused("a GroupInfo can have the extension external_pub only"));
        }
        let Some(external_pub) = group_info.extensions().external_pub() else {
            return Err(InvalidMls::Refused(
                "a GroupInfo must contain external_pub, so that others can join",
            ));
        };
        encryption_key::check(self.group.ciphersuite(), external_pub.external_pub().as_slice())?;
        let expected = VerifiableGroupInfo::new(
            self.group.group_context().clone(),
            group_info.extensions().clone(),
            self.group.confirmation_tag().clone(),
            committer,
            group_info.signature().clone(),
        );
        if expected != group_info {
            return Err(InvalidMls::Refused("the GroupInfo does not match the epoch that the commit begins"));
        }
        let leaf = self.group.leaf(committer).ok_or(InvalidMls::Refused("the committer has no leaf"))?;
        let scheme = self.group.ciphersuite().signature_algorithm();
        let key = leaf.signature_key().clone().into_signature_public_key_enriched(scheme);
        group_info
            .verify_no_out(&PublicCrypto::VERIFYING, &key)
            .map_err(|_| InvalidMls::Refused("the GroupInfo is not signed by the committer"))
    }

    /// Keeps a proposal for the commit that will include it by reference.
    ///
    /// # Errors
    /// [`InvalidMls`] when it cannot be kept.
    pub fn keep_proposal(&mut self, proposal: QueuedProposal) -> Result<(), InvalidMls> {
        self.group
            .add_proposal(&self.storage, proposal)
            .map_err(|error| InvalidMls::Message(error.to_string()))
    }

    /// Drops a proposal that was kept.
    ///
    /// # Errors
    /// [`InvalidMls`] when it cannot be dropped.
    pub fn drop_proposal(&mut self, reference: &ProposalRef) -> Result<(), InvalidMls> {
        self.group
            .remove_proposal(&self.storage, reference)
            .map_err(|error| InvalidMls::Message(error.to_string()))
    }
}

fn check_signature_keys<'a>(leaves: impl Iterator<Item = &'a LeafNode>) -> Result<(), InvalidMls> {
    let mut keys: Vec<_> = leaves.map(|leaf| leaf.signature_key().as_slice()).collect();
    let members = keys.len();
    keys.sort_unstable();
    keys.dedup();
    if keys.len() == members {
        Ok(())
    } else {
        Err(InvalidMls::Refused("two members would share a signature key"))
    }
}
