//! The messages and groups that no client of ours makes. A member and a server make a group up together, with a device in it
//! that nobody let in; a hostile member wants the others' addresses, or acts in the place of a member whose device it took, or
//! uses up the numbers of titles; a device commits that wants to be known no more. For programs that test clients and servers.

use openmls::prelude::{KeyPackage, NewSignerBundle};
use openmls_traits::OpenMlsProvider as _;
use postern_protocol::{
    Address, GroupInfo, RatchetTree,
    ds::{CurrentGroup, SubmitMessage},
    key::SigningKey,
    mls::{DeliveryAddress, GroupPolicy, Pseudonym, UserKey},
};
use tls_codec::Serialize as _;

use super::{message::Content, outbox, record, rules, state::GroupState};
use crate::{
    error::{Error, Result},
    leaf,
    mls::{self, CIPHERSUITE, LeafSigner},
    store::Tx,
};

/// A member's place in a group: all that is needed to come back there, and to do then what no client does.
pub struct StolenPlace {
    /// The private key of the leaf.
    pub leaf: SigningKey,
    /// The private key of the member's user in the group.
    pub user: SigningKey,
    pub user_key: UserKey,
    pub pseudonym: Pseudonym,
    pub policy: GroupPolicy,
}

impl GroupState {
    /// This device's place.
    ///
    /// # Errors
    /// [`Error::NotReady`] if this device does not have its user's key.
    pub(crate) fn stolen_place(&self, tx: &Tx<'_>) -> Result<StolenPlace> {
        Ok(StolenPlace {
            leaf: self.leaf.clone(),
            user: self.private_user_key(tx)?.ok_or(Error::NotReady)?,
            user_key: self.user_key().ok_or(Error::NotReady)?,
            pseudonym: self.own_leaf()?.pseudonym,
            policy: rules::policy(&self.mls)?,
        })
    }

    /// The addresses of the other members.
    pub(crate) fn addresses_of_others(&self) -> Vec<DeliveryAddress> {
        let own = self.leaf.public_key();
        let others = rules::leaves(&self.mls).into_values().filter(|leaf| leaf.leaf_key != own);
        others.filter_map(|leaf| leaf.delivery).collect()
    }

    /// Gives the group a title under the last number that one can have in this epoch. Returns the number of the message that
    /// says so.
    pub(crate) fn take_last_title(&self, tx: &Tx<'_>, title: &str) -> Result<u64> {
        let titled = record::latest_title(self.epoch());
        record::retitle(tx, &self.id, title, titled, self.epoch())?;
        outbox::push(tx, &self.id, &Content::Title { title: title.to_owned(), titled })
    }

    /// The group as a server would show it with a commit of this member that adds a ghost, whose credential has this identity:
    /// a pseudonym, or what no client reads. For a trial only: this device goes on as if it had been accepted.
    pub(crate) fn with_ghost(mut self, tx: &Tx<'_>, identity: Vec<u8>) -> Result<CurrentGroup> {
        let what = "cannot make up a group";
        let key = SigningKey::generate();
        let address = Address::generate().map_err(Error::mls(what))?;
        let delivery = DeliveryAddress { domain: self.id.domain().clone(), address };
        let ghost = KeyPackage::builder()
            .key_package_lifetime(mls::lifetime())
            .leaf_node_capabilities(mls::capabilities())
            .leaf_node_extensions(leaf::extensions(&delivery, &leaf::new_user_key(tx, 0)?)?)
            .build(CIPHERSUITE, tx, &LeafSigner(&key), mls::credential(identity, key.public_key()))
            .map_err(Error::mls(what))?;
        let signer = LeafSigner(&self.leaf);
        self.mls
            .add_members(tx, &signer, std::slice::from_ref(ghost.key_package()))
            .map_err(Error::mls(what))?;
        self.mls.merge_pending_commit(tx).map_err(Error::mls(what))?;
        let info = self.mls.export_group_info(tx.crypto(), &signer, false).map_err(Error::mls(what))?;
        let tree = self.mls.export_ratchet_tree().tls_serialize_detached().map_err(Error::mls(what))?;
        Ok(CurrentGroup {
            group_info: GroupInfo::new(mls::message_bytes(&info)?),
            ratchet_tree: RatchetTree::new(tree),
            proposals: Vec::new(),
            attributes: Vec::new(),
        })
    }

    /// The commit by which this device's leaf would take another signature key, under which nobody knows whose it is. For a
    /// trial only.
    pub(crate) fn with_another_key(mut self, tx: &Tx<'_>) -> Result<SubmitMessage> {
        let what = "cannot make up a commit";
        let (key, own) = (SigningKey::generate(), self.own_leaf()?);
        let credential_with_key = mls::credential(own.pseudonym.0.to_vec(), key.public_key());
        let new = NewSignerBundle { signer: &LeafSigner(&key), credential_with_key };
        let (commit, _, group_info) = self
            .mls
            .commit_builder()
            .load_psks(tx.storage())
            .map_err(Error::mls(what))?
            .create_group_info(true)
            .use_ratchet_tree_extension(false)
            .build_with_new_signer(tx.rand(), tx.crypto(), &LeafSigner(&self.leaf), new, |_| true)
            .map_err(Error::mls(what))?
            .stage_commit(tx)
            .map_err(Error::mls(what))?
            .into_messages();
        let group_info = group_info.as_ref().map(mls::message_bytes).transpose()?.map(GroupInfo::new);
        Ok(SubmitMessage { group_info, ..self.submission(mls::message_bytes(&commit)?)? })
    }
}
