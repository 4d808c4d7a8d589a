//! Coming back into a group (DS-7).

use openmls::prelude::{CredentialWithKey, LeafNodeParameters, MlsGroup, MlsMessageBodyIn, RatchetTreeIn};
use openmls_traits::OpenMlsProvider as _;
use postern_protocol::{
    GroupInfo, MlsMessage,
    ds::{CurrentGroup, SubmitMessage},
    encoding::Encoding,
};
use tls_codec::Deserialize as _;

use super::{
    outstanding::{self, Outstanding},
    record, rules,
    state::GroupState,
};
use crate::{
    error::{Error, Result},
    mls::{self, LeafSigner},
    store::Tx,
};

impl GroupState {
    /// Comes back in the own place by an external commit: what this client knew of the group
    /// is replaced, and what was outstanding never happened.
    pub(crate) fn rejoin(self, tx: &Tx<'_>, current: &CurrentGroup) -> Result<Outstanding> {
        let what = "cannot come back";
        let unexpected = || Error::unexpected("the group info or tree is malformed");
        let Some(MlsMessageBodyIn::GroupInfo(info)) = mls::parse(current.group_info.as_bytes()) else {
            return Err(unexpected());
        };
        let epoch = info.epoch().as_u64();
        let tree = RatchetTreeIn::tls_deserialize_exact(current.ratchet_tree.as_bytes());
        let proposals =
            current.proposals.iter().filter_map(|proposal| match mls::parse(proposal.as_bytes()) {
                Some(MlsMessageBodyIn::PublicMessage(proposal)) => Some(proposal),
                _ => None,
            });
        let leaf = self.mls.own_leaf_node().ok_or(Error::Damaged("the own leaf"))?;
        let credential = CredentialWithKey {
            credential: leaf.credential().clone(),
            signature_key: leaf.signature_key().clone(),
        };
        let parameters = LeafNodeParameters::builder()
            .with_capabilities(mls::capabilities())
            .with_extensions(leaf.extensions().clone())
            .build();
        let state_key = self.state_key()?;
        let (mls, bundle) = MlsGroup::external_commit_builder()
            .with_ratchet_tree(tree.map_err(|_| unexpected())?)
            .with_config(mls::join_config())
            .with_proposals(proposals.collect())
            .skip_lifetime_validation()
            .build_group(tx, info, credential)
            .map_err(Error::mls(what))?
            .leaf_node_parameters(parameters)
            .load_psks(tx.storage())
            .map_err(Error::mls(what))?
            .create_group_info(true)
            .use_ratchet_tree_extension(false)
            .build(tx.rand(), tx.crypto(), &LeafSigner(&self.leaf), |_| true)
            .map_err(Error::mls(what))?
            .finalize(tx)
            .map_err(Error::mls(what))?;
        if rules::policy(&mls)?.state_key() != state_key {
            return Err(unexpected());
        }
        let (commit, _, group_info) = bundle.into_messages();
        let group_info = group_info.as_ref().map(mls::message_bytes).transpose()?;
        let submission = SubmitMessage {
            state_key,
            message: MlsMessage::new(mls::message_bytes(&commit)?),
            group_info: group_info.map(GroupInfo::new),
            welcome: None,
            urgency: None,
            attributes: Vec::new(),
        };
        outstanding::forget_commit(tx, &self.id)?;
        outstanding::forget_message(tx, &self.id)?;
        record::committed(tx, &self.id)?;
        Ok(Outstanding { epoch, body: Encoding::Cbor.encode(&submission), content: None })
    }
}
