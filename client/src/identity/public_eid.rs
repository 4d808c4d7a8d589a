//! An evolving identity as a reader follows it (AS-3): the public state of its MLS group, checked as a
//! member would check it, and which of its leaves count as the user's clients (AS-4).

use openmls::{
    prelude::{
        GroupId, KeyPackageVerifyError, LeafNode, LeafNodeIndex, MlsMessageBodyIn, ProcessedMessageContent,
        ProposalStore, PublicGroup, PublicProcessMessageError, RatchetTreeIn, Sender, ValidationError,
        Verifiable as _, group_info::VerifiableGroupInfo,
    },
    treesync::LeafNodeSource,
};
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::OpenMlsProvider as _;
use postern_protocol::{
    GroupInfo, MlsMessage, Payload, PublicKey, RatchetTree, TreeHash, encoding::Encoding, name::UserName,
};
use tls_codec::Deserialize as _;

use crate::{
    error::IdentityError,
    mls::{self, CIPHERSUITE},
};

pub(super) struct PublicEid {
    /// Keeps the group in memory.
    provider: OpenMlsRustCrypto,
    group: PublicGroup,
}

/// A leaf of an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaf {
    pub index: LeafNodeIndex,
    pub client_key: PublicKey,
    /// The name that the user had when the leaf's client made it.
    pub name: UserName,
    /// Whether it is as another client added it: its own client has not said yet that it is the user's
    /// (AS-4).
    pub pending: bool,
}

impl Leaf {
    /// Whether its client says that it is a client of a user with one of these names. The leaf of anybody can be put into
    /// anybody's tree, but only its own client gives it a name.
    pub(super) fn counts(&self, names: &[UserName]) -> bool {
        !self.pending && names.contains(&self.name)
    }

    /// The clients of those of these leaves that count for a user with one of these names.
    pub(super) fn clients(leaves: &[Self], names: &[UserName]) -> Vec<PublicKey> {
        leaves.iter().filter(|leaf| leaf.counts(names)).map(|leaf| leaf.client_key).collect()
    }
}

impl PublicEid {
    /// Verifies a GroupInfo and the tree of its group, of whatever epoch, as a joiner does (RFC 9420
    /// §12.4.3.1).
    ///
    /// # Errors
    /// [`IdentityError::History`].
    pub(super) fn open(group_info: &GroupInfo, ratchet_tree: &RatchetTree) -> Result<Self, IdentityError> {
        let provider = OpenMlsRustCrypto::default();
        let group_info = parse_group_info(group_info)?;
        let tree = RatchetTreeIn::tls_deserialize_exact(ratchet_tree.as_bytes())
            .map_err(|_| IdentityError::History("it has no ratchet tree"))?;
        let (group, _) = PublicGroup::from_external(
            provider.crypto(),
            provider.storage(),
            tree,
            group_info,
            ProposalStore::new(),
        )
        .map_err(|error| {
            tracing::debug!(%error, "an identity does not verify");
            IdentityError::History("its tree does not verify")
        })?;
        if group.ciphersuite() != CIPHERSUITE {
            return Err(IdentityError::History("it is of another ciphersuite"));
        }
        Ok(Self { provider, group })
    }

    /// Reads what [`Self::encode`] wrote; `None` for anything else.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (id, entries): (Payload, Vec<(Payload, Payload)>) = Encoding::Cbor.decode(bytes).ok()?;
        let provider = OpenMlsRustCrypto::default();
        let entries = entries.into_iter().map(|(key, value)| (key.into_bytes(), value.into_bytes()));
        *provider.storage().values.write().ok()? = entries.collect();
        let group = PublicGroup::load(provider.storage(), &GroupId::from_slice(id.as_bytes())).ok()??;
        Some(Self { provider, group })
    }

    /// The group's id, and what openmls keeps of it: CBOR.
    pub(super) fn encode(&self) -> Vec<u8> {
        let values = self.provider.storage().values.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let entry =
            |(key, value): (&Vec<u8>, &Vec<u8>)| (Payload::new(key.clone()), Payload::new(value.clone()));
        let mut entries: Vec<_> = values.iter().map(entry).collect();
        // The same bytes for the same group.
        entries.sort_unstable_by(|(one, _), (other, _)| one.as_bytes().cmp(other.as_bytes()));
        let id = Payload::new(self.group.group_id().as_slice().to_vec());
        Encoding::Cbor.encode(&(id, entries))
    }

    pub(super) fn epoch(&self) -> u64 {
        self.group.group_context().epoch().as_u64()
    }

    /// The tree hash of the identity (RFC 9420 §7.8).
    ///
    /// # Errors
    /// [`IdentityError::History`] unless it has 32 bytes.
    pub(super) fn tree_hash(&self) -> Result<TreeHash, IdentityError> {
        TreeHash::try_from(self.group.group_context().tree_hash())
            .map_err(|_| IdentityError::History("its tree hash has another length"))
    }

    /// Whether both are in one epoch, with one tree, and came there by the same commits (the GroupContext, RFC 9420 §8.1).
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        self.group.group_context() == other.group.group_context()
    }

    /// Lets a commit take effect that a client of the user made (RFC 9420 §12.4.2). Returns the name that the client gives the
    /// user by it, if its leaf had another one: it is the one that the user had then (AS-9).
    ///
    /// # Errors
    /// [`IdentityError::History`] for one that does not verify, and for one that no client of the user may
    /// make: the group is unusable then.
    pub(super) fn follow(
        &mut self,
        name: &UserName,
        commit: &MlsMessage,
    ) -> Result<Option<UserName>, IdentityError> {
        let Some(MlsMessageBodyIn::PublicMessage(commit)) = mls::parse(commit.as_bytes()) else {
            return Err(IdentityError::History("a commit is no public message"));
        };
        // Anybody can make an external commit, and openmls takes it from anybody.
        let Sender::Member(committer) = *commit.sender() else {
            return Err(IdentityError::History("a commit is from nobody in it"));
        };
        let before = self.leaves(name)?.into_iter().find(|leaf| leaf.index == committer);
        let pending = before.as_ref().is_some_and(|leaf| leaf.pending);
        let message = self.group.process_message(self.provider.crypto(), commit).map_err(|error| {
            tracing::debug!(%error, "a commit of an identity does not verify");
            refusal_of(&error)
        })?;
        let ProcessedMessageContent::StagedCommitMessage(staged) = message.into_content() else {
            return Err(IdentityError::History("a message is no commit"));
        };
        if staged.update_path_leaf_node().is_none() {
            return Err(IdentityError::History("a commit does not update its device"));
        }
        if pending && staged.queued_proposals().next().is_some() {
            return Err(IdentityError::History("a device that is no client yet changes others"));
        }
        self.group
            .merge_commit(self.provider.storage(), *staged)
            .map_err(|_| IdentityError::History("a commit does not apply"))?;
        let after = self.leaves(name)?.into_iter().find(|leaf| leaf.index == committer);
        let is_new = |leaf: &Leaf| before.is_some_and(|before| before.name != leaf.name);
        Ok(after.filter(is_new).map(|leaf| leaf.name))
    }

    /// The leaves. A leaf has the name that the user had when its client updated it last, which may be another by now
    /// (AS-9). In epoch 0 nobody is pending: there is the founder alone ([`Self::founder`]).
    ///
    /// # Errors
    /// [`IdentityError::History`] if a leaf is of another domain, or two have one key.
    pub(super) fn leaves(&self, name: &UserName) -> Result<Vec<Leaf>, IdentityError> {
        let mut leaves: Vec<Leaf> = Vec::new();
        for member in self.group.members() {
            let leaf_name = mls::identity(&member.credential)
                .and_then(|found| String::from_utf8(found).ok()?.parse::<UserName>().ok())
                .filter(|found| found.domain() == name.domain())
                .ok_or(IdentityError::History("a device is of another domain"))?;
            let client_key = mls::public_key(&member.signature_key)
                .ok_or(IdentityError::History("a device has another kind of key"))?;
            if leaves.iter().any(|leaf| leaf.client_key == client_key) {
                return Err(IdentityError::History("two devices have one key"));
            }
            let pending = self.epoch() > 0 && self.group.leaf(member.index).is_some_and(is_as_added);
            leaves.push(Leaf { index: member.index, client_key, name: leaf_name, pending });
        }
        Ok(leaves)
    }

    /// The one client of epoch 0.
    ///
    /// # Errors
    /// [`IdentityError::History`] for another epoch, and for other than one client of this user.
    pub(super) fn founder(&self, name: &UserName) -> Result<PublicKey, IdentityError> {
        let not_begun = IdentityError::History("it does not begin with one device in epoch 0");
        let mut members = self.group.members();
        let (Some(first), None, 0) = (members.next(), members.next(), self.epoch()) else {
            return Err(not_begun);
        };
        let founder = mls::public_key(&first.signature_key).ok_or(not_begun)?;
        self.leaves(name).map(|_| founder)
    }

    /// Verifies that a GroupInfo is of this epoch of the group, and that the client behind a leaf signed
    /// it.
    ///
    /// # Errors
    /// [`IdentityError::State`].
    pub(super) fn verify_group_info(&self, group_info: &GroupInfo, by: &Leaf) -> Result<(), IdentityError> {
        let shown = parse_group_info(group_info)?;
        let expected = VerifiableGroupInfo::new(
            self.group.group_context().clone(),
            shown.extensions().clone(),
            self.group.confirmation_tag().clone(),
            by.index,
            shown.signature().clone(),
        );
        let leaf = self.group.leaf(by.index).ok_or(IdentityError::State)?;
        let scheme = CIPHERSUITE.signature_algorithm();
        let key = leaf.signature_key().clone().into_signature_public_key_enriched(scheme);
        if expected != shown || shown.verify_no_out(self.provider.crypto(), &key).is_err() {
            return Err(IdentityError::State);
        }
        Ok(())
    }
}

/// Whether a leaf came with a KeyPackage and was not updated since.
pub(super) fn is_as_added(leaf: &LeafNode) -> bool {
    matches!(leaf.leaf_node_source(), LeafNodeSource::KeyPackage(_))
}

/// The refusal of a commit that openmls does not take. It compares KeyPackages with today's time, also in an old commit.
fn refusal_of(error: &PublicProcessMessageError) -> IdentityError {
    match error {
        PublicProcessMessageError::ValidationError(ValidationError::KeyPackageVerifyError(
            KeyPackageVerifyError::LifetimeError(_),
        )) => IdentityError::History("a KeyPackage in a commit is not valid now"),
        _ => IdentityError::History("a commit does not verify"),
    }
}

fn parse_group_info(group_info: &GroupInfo) -> Result<VerifiableGroupInfo, IdentityError> {
    match mls::parse(group_info.as_bytes()) {
        Some(MlsMessageBodyIn::GroupInfo(group_info)) => Ok(group_info),
        _ => Err(IdentityError::History("it has no GroupInfo")),
    }
}
