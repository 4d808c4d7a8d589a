//! Commits of a member: made, then merged or given up.

use openmls::prelude::*;
use postern_protocol::{
    GroupInfo as GroupInfoBytes, MlsMessage, PublicKey, Welcome as WelcomeBytes, key::SigningKey,
};

use super::{Ed25519, Party, credential, message};

/// The changes of a commit.
#[derive(Clone, Default)]
pub struct Commit {
    pub add: Vec<KeyPackage>,
    /// The leaves' keys.
    pub remove: Vec<PublicKey>,
    pub update: bool,
    pub context: Option<Extensions<GroupContext>>,
    pub identity: Option<Vec<u8>>,
    pub leaf: Option<Extensions<LeafNode>>,
    /// Whether the proposals that wait are left out.
    pub alone: bool,
    /// Whether the GroupInfo holds the tree, which the DS does not want there.
    pub tree_in_group_info: bool,
    pub info_extensions: Vec<Extension>,
}

/// A commit that was made and not merged.
#[derive(Clone)]
pub struct Made {
    pub commit: MlsMessage,
    /// GroupInfo of the epoch it begins, without the tree.
    pub group_info: Option<GroupInfoBytes>,
    pub welcome: Option<WelcomeBytes>,
}

impl Party {
    /// Makes a commit; [`Party::merge`] or [`Party::forget`] it.
    pub fn commit(&mut self, commit: Commit) -> Made {
        let (remove, parameters) = (self.leaves(&commit.remove), self.parameters(&commit));
        let (group, provider, signer) = self.parts();
        let mut builder = group
            .commit_builder()
            .consume_proposal_store(!commit.alone)
            .propose_adds(commit.add)
            .propose_removals(remove)
            .force_self_update(commit.update);
        if let Some(context) = commit.context {
            builder =
                builder.propose_group_context_extensions(context).expect("the extensions are a context's");
        }
        if let Some(parameters) = parameters {
            builder = builder.leaf_node_parameters(parameters);
        }
        let bundle = builder
            .load_psks(provider.storage())
            .expect("there are none")
            .create_group_info_with_extensions(commit.info_extensions)
            .expect("neither the tree nor external_pub is among them")
            .use_ratchet_tree_extension(commit.tree_in_group_info)
            .build(provider.rand(), provider.crypto(), &signer, |_| true)
            .expect("the commit can be made")
            .stage_commit(provider)
            .expect("the commit can be kept");
        Made::of(bundle)
    }

    /// Makes a commit by which the own leaf takes another key, which may be somebody's.
    pub fn commit_to_key(&mut self, new: &SigningKey) -> Made {
        let credential_with_key = credential(self.identity.clone(), new.public_key());
        let (group, provider, signer) = self.parts();
        let new = NewSignerBundle { signer: &Ed25519(new), credential_with_key };
        let bundle = group
            .commit_builder()
            .load_psks(provider.storage())
            .expect("there are none")
            .create_group_info(true)
            .use_ratchet_tree_extension(false)
            .build_with_new_signer(provider.rand(), provider.crypto(), &signer, new, |_| true)
            .expect("the commit can be made")
            .stage_commit(provider)
            .expect("the commit can be kept");
        Made::of(bundle)
    }

    /// Takes the commit as accepted.
    pub fn merge(&mut self) {
        if let Some(entered) = self.entered.take() {
            self.group = Some(entered);
            return;
        }
        let Self { group, provider, .. } = self;
        group.as_mut().expect("a member has a group").merge_pending_commit(provider).expect("there is one");
    }

    /// Takes the commit or proposal as refused, and drops all that waits.
    pub fn forget(&mut self) {
        let (group, provider, _) = self.parts();
        group.clear_pending_commit(provider.storage()).expect("it is in memory");
        group.clear_pending_proposals(provider.storage()).expect("it is in memory");
    }

    /// Takes the commit as refused; proposals of others still wait.
    pub fn drop_commit(&mut self) {
        let (group, provider, _) = self.parts();
        group.clear_pending_commit(provider.storage()).expect("it is in memory");
    }

    fn parameters(&self, commit: &Commit) -> Option<LeafNodeParameters> {
        let mut builder = LeafNodeParameters::builder();
        if let Some(identity) = &commit.identity {
            builder = builder.with_credential_with_key(self.credential(identity.clone()));
        }
        if let Some(leaf) = &commit.leaf {
            builder = builder.with_extensions(leaf.clone());
        }
        (commit.identity.is_some() || commit.leaf.is_some()).then(|| builder.build())
    }
}

impl Made {
    pub(super) fn of(bundle: CommitMessageBundle) -> Self {
        let (commit, welcome, group_info) = bundle.into_messages();
        let bytes = |part: Option<MlsMessageOut>| part.map(|part| message(&part).into_bytes());
        let commit = message(&commit);
        let (welcome, group_info) =
            (bytes(welcome).map(WelcomeBytes::new), bytes(group_info).map(GroupInfoBytes::new));
        Self { commit, group_info, welcome }
    }
}
