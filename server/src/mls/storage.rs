//! The storage in which openmls keeps a public group: five pieces, which the caller stores as one
//! blob. A storage holds one group, so it ignores the keys that openmls gives.

use std::cell::RefCell;

use openmls::{group::GroupId, prelude::PublicGroup};
use openmls_traits::{
    public_storage::PublicStorageProvider,
    storage::{CURRENT_VERSION as VERSION, Entity, Key, traits},
};
use serde::{Deserialize, Serialize};

#[derive(Default)]
pub struct GroupStorage(RefCell<Pieces>);

/// Each piece is itself postcard: openmls hands over and takes back typed values.
#[derive(Default, Serialize, Deserialize)]
struct Pieces {
    tree: Option<Vec<u8>>,
    context: Option<Vec<u8>>,
    interim_transcript_hash: Option<Vec<u8>>,
    confirmation_tag: Option<Vec<u8>>,
    /// Reference and proposal, in order of arrival.
    proposals: Vec<(Vec<u8>, Vec<u8>)>,
}

impl GroupStorage {
    pub fn decode(bytes: &[u8]) -> Result<Self, postcard::Error> {
        postcard::from_bytes(bytes).map(|pieces| Self(RefCell::new(pieces)))
    }

    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(&*self.0.borrow()).expect("bytes serialise into memory")
    }

    pub fn load(&self) -> Option<PublicGroup> {
        PublicGroup::load(self, &GroupId::from_slice(&[])).ok().flatten()
    }

    fn write<T: Serialize>(
        &self,
        piece: impl FnOnce(&mut Pieces) -> &mut Option<Vec<u8>>,
        value: &T,
    ) -> Result<(), postcard::Error> {
        *piece(&mut self.0.borrow_mut()) = Some(postcard::to_stdvec(value)?);
        Ok(())
    }

    fn read<T: Entity<VERSION>>(
        &self,
        piece: impl FnOnce(&Pieces) -> &Option<Vec<u8>>,
    ) -> Result<Option<T>, postcard::Error> {
        piece(&self.0.borrow()).as_deref().map(postcard::from_bytes).transpose()
    }
}

type Stored<T> = Result<T, postcard::Error>;

impl PublicStorageProvider<VERSION> for GroupStorage {
    type PublicError = postcard::Error;

    fn write_tree<Id: traits::GroupId<VERSION>, T: traits::TreeSync<VERSION>>(
        &self,
        _: &Id,
        tree: &T,
    ) -> Stored<()> {
        self.write(|pieces| &mut pieces.tree, tree)
    }

    fn write_interim_transcript_hash<
        Id: traits::GroupId<VERSION>,
        T: traits::InterimTranscriptHash<VERSION>,
    >(
        &self,
        _: &Id,
        hash: &T,
    ) -> Stored<()> {
        self.write(|pieces| &mut pieces.interim_transcript_hash, hash)
    }

    fn write_context<Id: traits::GroupId<VERSION>, T: traits::GroupContext<VERSION>>(
        &self,
        _: &Id,
        context: &T,
    ) -> Stored<()> {
        self.write(|pieces| &mut pieces.context, context)
    }

    fn write_confirmation_tag<Id: traits::GroupId<VERSION>, T: traits::ConfirmationTag<VERSION>>(
        &self,
        _: &Id,
        tag: &T,
    ) -> Stored<()> {
        self.write(|pieces| &mut pieces.confirmation_tag, tag)
    }

    fn queue_proposal<
        Id: traits::GroupId<VERSION>,
        R: traits::ProposalRef<VERSION>,
        P: traits::QueuedProposal<VERSION>,
    >(
        &self,
        _: &Id,
        reference: &R,
        proposal: &P,
    ) -> Stored<()> {
        let entry = (encode_key(reference)?, postcard::to_stdvec(proposal)?);
        self.0.borrow_mut().proposals.push(entry);
        Ok(())
    }

    fn queued_proposals<
        Id: traits::GroupId<VERSION>,
        R: traits::ProposalRef<VERSION>,
        P: traits::QueuedProposal<VERSION>,
    >(
        &self,
        _: &Id,
    ) -> Stored<Vec<(R, P)>> {
        self.0
            .borrow()
            .proposals
            .iter()
            .map(|(reference, proposal)| {
                Ok((postcard::from_bytes(reference)?, postcard::from_bytes(proposal)?))
            })
            .collect()
    }

    fn tree<Id: traits::GroupId<VERSION>, T: traits::TreeSync<VERSION>>(&self, _: &Id) -> Stored<Option<T>> {
        self.read(|pieces| &pieces.tree)
    }

    fn group_context<Id: traits::GroupId<VERSION>, T: traits::GroupContext<VERSION>>(
        &self,
        _: &Id,
    ) -> Stored<Option<T>> {
        self.read(|pieces| &pieces.context)
    }

    fn interim_transcript_hash<Id: traits::GroupId<VERSION>, T: traits::InterimTranscriptHash<VERSION>>(
        &self,
        _: &Id,
    ) -> Stored<Option<T>> {
        self.read(|pieces| &pieces.interim_transcript_hash)
    }

    fn confirmation_tag<Id: traits::GroupId<VERSION>, T: traits::ConfirmationTag<VERSION>>(
        &self,
        _: &Id,
    ) -> Stored<Option<T>> {
        self.read(|pieces| &pieces.confirmation_tag)
    }

    fn delete_tree<Id: traits::GroupId<VERSION>>(&self, _: &Id) -> Stored<()> {
        self.0.borrow_mut().tree = None;
        Ok(())
    }

    fn delete_confirmation_tag<Id: traits::GroupId<VERSION>>(&self, _: &Id) -> Stored<()> {
        self.0.borrow_mut().confirmation_tag = None;
        Ok(())
    }

    fn delete_context<Id: traits::GroupId<VERSION>>(&self, _: &Id) -> Stored<()> {
        self.0.borrow_mut().context = None;
        Ok(())
    }

    fn delete_interim_transcript_hash<Id: traits::GroupId<VERSION>>(&self, _: &Id) -> Stored<()> {
        self.0.borrow_mut().interim_transcript_hash = None;
        Ok(())
    }

    fn remove_proposal<Id: traits::GroupId<VERSION>, R: traits::ProposalRef<VERSION>>(
        &self,
        _: &Id,
        reference: &R,
    ) -> Stored<()> {
        let reference = encode_key(reference)?;
        self.0.borrow_mut().proposals.retain(|(kept, _)| *kept != reference);
        Ok(())
    }

    fn clear_proposal_queue<Id: traits::GroupId<VERSION>, R: traits::ProposalRef<VERSION>>(
        &self,
        _: &Id,
    ) -> Stored<()> {
        self.0.borrow_mut().proposals.clear();
        Ok(())
    }
}

fn encode_key<K: Key<VERSION>>(key: &K) -> Stored<Vec<u8>> {
    postcard::to_stdvec(key)
}
