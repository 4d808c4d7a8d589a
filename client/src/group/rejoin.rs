//! Coming back into a group (DS-7).

use openmls::prelude::{CredentialWithKey, LeafNodeParameters, MlsGroup, MlsMessageBodyIn, RatchetTreeIn};
use openmls_traits::OpenMlsProvider as _;
use postern_protocol::{
    GroupInfo, MlsMessage, PublicKey,
    ds::{CurrentGroup, SubmitMessage},
    encoding::Encoding,
};
use tls_codec::Deserialize as _;

use super::{
    commit,
    outstanding::{self, Kind, Outstanding},
    rules,
    state::GroupState,
};
use crate::{
    error::{Error, Result},
    event::{Event, Member},
    mls::{self, LeafSigner},
    store::Tx,
};

impl GroupState {
    /// Makes the external commit by which this client comes back in its own place, and keeps it until
    /// the DS's answer is known. What this client knew of the group is replaced. A commit that was
    /// outstanding never happened. Proposals that wait are left out, and lapse: whether members could
    /// verify them does not show here (DS-13). What was said stays in the outbox under its number, and a wish to
    /// leave stays, too.
    pub(crate) fn rejoin(self, tx: &Tx<'_>, current: &CurrentGroup) -> Result<()> {
        let what = "cannot come back";
        let unexpected = || Error::unexpected("the group info or tree is malformed");
        let Some(MlsMessageBodyIn::GroupInfo(info)) = mls::parse(current.group_info.as_bytes()) else {
            return Err(unexpected());
        };
        let epoch = info.epoch().as_u64();
        let tree = RatchetTreeIn::tls_deserialize_exact(current.ratchet_tree.as_bytes());
        let before: Vec<_> = self.leaf_keys().collect();
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
        let group = Self { mls, ..self };
        let after: Vec<_> = group.leaf_keys().collect();
        // A commit whose answer was lost may have added them.
        for leaf_key in &after {
            commit::welcome_member(tx, &group.id, leaf_key)?;
        }
        outstanding::forget_all(tx, &group.id)?;
        let body = Encoding::Cbor.encode(&submission);
        outstanding::keep(tx, &group.id, &Outstanding { kind: Kind::Rejoin, epoch, body })?;
        let missing = |of: &[PublicKey], others: &[PublicKey]| -> Vec<Member> {
            let missing = of.iter().filter(|leaf_key| !others.contains(leaf_key));
            missing.copied().map(Member::unknown).collect()
        };
        let (added, removed) = (missing(&after, &before), missing(&before, &after));
        if added.is_empty() && removed.is_empty() {
            return Ok(());
        }
        Event::Changed { group: group.id, epoch, added, removed }.record(tx)
    }

    /// The epoch that the group has at the DS.
    ///
    /// # Errors
    /// An unexpected answer, when there is no GroupInfo in it.
    pub(crate) fn epoch_of(current: &CurrentGroup) -> Result<u64> {
        match mls::parse(current.group_info.as_bytes()) {
            Some(MlsMessageBodyIn::GroupInfo(info)) => Ok(info.epoch().as_u64()),
            _ => Err(Error::unexpected("the group info is malformed")),
        }
    }
}
