//! Proposals of a member, and those that wait for a commit.

use openmls::{ciphersuite::hash_ref::ProposalRef, prelude::*};
use postern_protocol::{MlsMessage, PublicKey, key::SigningKey};

use super::{Ed25519, Party, credential, message};

impl Party {
    pub fn propose_add(&mut self, key_package: &KeyPackage) -> MlsMessage {
        let (group, provider, signer) = self.parts();
        message(&group.propose_add_member(provider, &signer, key_package).expect("it can be proposed").0)
    }

    pub fn propose_removal(&mut self, of: PublicKey) -> MlsMessage {
        let leaf = self.leaves(&[of])[0];
        let (group, provider, signer) = self.parts();
        message(&group.propose_remove_member(provider, &signer, leaf).expect("it can be proposed").0)
    }

    pub fn propose_update(&mut self) -> MlsMessage {
        let (group, provider, signer) = self.parts();
        let parameters = LeafNodeParameters::default();
        message(&group.propose_self_update(provider, &signer, parameters).expect("it can be proposed").0)
    }

    /// Proposes another leaf of its own: with these extensions, this identity or these capabilities.
    pub fn propose_leaf(
        &mut self,
        leaf: Option<Extensions<LeafNode>>,
        identity: Option<Vec<u8>>,
        capabilities: Option<Capabilities>,
    ) -> MlsMessage {
        let mut parameters = LeafNodeParameters::builder();
        if let Some(leaf) = leaf {
            parameters = parameters.with_extensions(leaf);
        }
        if let Some(identity) = identity {
            parameters = parameters.with_credential_with_key(self.credential(identity));
        }
        if let Some(capabilities) = capabilities {
            parameters = parameters.with_capabilities(capabilities);
        }
        let (group, provider, signer) = self.parts();
        let proposed = group.propose_self_update(provider, &signer, parameters.build());
        message(&proposed.expect("it can be proposed").0)
    }

    /// Proposes that the own leaf takes another key, which may be somebody's.
    pub fn propose_update_to_key(&mut self, new: &SigningKey) -> MlsMessage {
        let credential_with_key = credential(self.identity.clone(), new.public_key());
        let (group, provider, signer) = self.parts();
        let new = NewSignerBundle { signer: &Ed25519(new), credential_with_key };
        let parameters = LeafNodeParameters::default();
        message(
            &group
                .propose_self_update_with_new_signer(provider, &signer, new, parameters)
                .expect("it can be proposed")
                .0,
        )
    }

    /// Leaves in the way of an extension to MLS (draft-ietf-mls-extensions).
    pub fn self_remove(&mut self) -> MlsMessage {
        let (group, provider, signer) = self.parts();
        message(&group.leave_group_via_self_remove(provider, &signer).expect("it can be proposed"))
    }

    /// The proposals that wait.
    pub fn waiting(&self) -> Vec<ProposalRef> {
        self.group().pending_proposals().map(|proposal| proposal.proposal_reference_ref().clone()).collect()
    }

    /// Drops the proposals that are not among `then`, as refused.
    pub fn withdraw(&mut self, then: &[ProposalRef]) {
        let refused: Vec<_> =
            self.waiting().into_iter().filter(|proposal| !then.contains(proposal)).collect();
        let (group, provider, _) = self.parts();
        for proposal in refused {
            group.remove_pending_proposal(provider.storage(), &proposal).expect("it is in memory");
        }
    }
}
