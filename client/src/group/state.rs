//! A group this client is a member of, loaded for one transaction.

use std::collections::{BTreeSet, HashSet};

use openmls::prelude::{GroupId as MlsGroupId, MlsGroup, Proposal, Sender};
use openmls_traits::OpenMlsProvider as _;
use postern_protocol::{
    Address, MlsMessage, PublicKey, RatchetTree, StateKey,
    ds::{FetchGroupInfo, GroupId, SubmitMessage},
    key::SigningKey,
    mls::{DELIVERY_ADDRESS, DeliveryAddress, Pseudonym, UserKey},
};
use tls_codec::Serialize as _;

use super::{record, rules};
use crate::{
    error::{Error, Result},
    leaf, mls,
    store::Tx,
};

/// A group this client is a member of.
pub(crate) struct GroupState {
    pub id: GroupId,
    /// The key of this device's leaf.
    pub leaf: SigningKey,
    pub(super) mls: MlsGroup,
}

impl GroupState {
    /// # Errors
    /// [`Error::UnknownGroup`], [`Error::NotMember`].
    pub(crate) fn load(tx: &Tx<'_>, id: &GroupId) -> Result<Self> {
        Self::find(tx, id)?.ok_or_else(|| Error::UnknownGroup(id.to_base64url()))
    }

    /// # Errors
    /// [`Error::NotMember`].
    pub(super) fn find(tx: &Tx<'_>, id: &GroupId) -> Result<Option<Self>> {
        let Some((leaf_key, active)) = record::find(tx, id)? else {
            return Ok(None);
        };
        if !active {
            return Err(Error::NotMember);
        }
        let mls = MlsGroup::load(tx.storage(), &MlsGroupId::from_slice(&id.to_mls()))?
            .ok_or(Error::Damaged("the MLS state of a group"))?;
        let leaf = leaf::key(tx, &leaf_key)?.ok_or(Error::Damaged("the key of a group"))?;
        Ok(Some(Self { id: id.clone(), leaf, mls }))
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.mls.epoch().as_u64()
    }

    pub(crate) fn leaf_keys(&self) -> impl Iterator<Item = PublicKey> {
        self.mls.members().filter_map(|member| mls::public_key(&member.signature_key))
    }

    pub(crate) fn is_admin(&self, leaf_key: &PublicKey) -> bool {
        let Some(member) = self.member(leaf_key) else { return false };
        rules::policy(&self.mls).is_ok_and(|policy| rules::is_admin(&policy, &member.credential))
    }

    /// Whether members proposed something that the next commit has to contain. Until then
    /// nothing else may be said (RFC 9420 §12.4).
    pub(crate) fn has_pending_proposals(&self) -> bool {
        self.mls.has_pending_proposals()
    }

    /// How many proposals wait for a commit.
    pub(crate) fn pending_proposals(&self) -> usize {
        self.mls.pending_proposals().count()
    }

    /// This device's leaf.
    pub(super) fn own_leaf(&self) -> Result<rules::Leaf> {
        self.mls.own_leaf_node().and_then(rules::Leaf::of).ok_or(Error::Damaged("the own leaf"))
    }

    /// The key by which this device's user acts in the group.
    pub(super) fn user_key(&self) -> Option<UserKey> {
        let own = self.own_leaf().ok()?;
        rules::user_key(rules::leaves(&self.mls).values(), own.pseudonym)
    }

    /// The leaf keys of all devices of the users that these are devices of.
    pub(crate) fn of_same_users(&self, leaf_keys: &[PublicKey]) -> Vec<PublicKey> {
        let leaves = rules::leaves(&self.mls);
        let of = |leaf: &&rules::Leaf| leaf_keys.contains(&leaf.leaf_key);
        let users: HashSet<_> = leaves.values().filter(of).map(|leaf| leaf.pseudonym).collect();
        let all = self.leaf_keys().filter(|leaf_key| {
            leaves.values().any(|leaf| leaf.leaf_key == *leaf_key && users.contains(&leaf.pseudonym))
        });
        all.collect()
    }

    /// The pseudonyms of members.
    pub(crate) fn pseudonyms(&self, leaf_keys: &[PublicKey]) -> BTreeSet<Pseudonym> {
        let leaves = rules::leaves(&self.mls);
        leaves.values().filter(|leaf| leaf_keys.contains(&leaf.leaf_key)).map(|leaf| leaf.pseudonym).collect()
    }

    /// The users that may add and remove others.
    pub(crate) fn admins(&self) -> Result<Vec<Pseudonym>> {
        Ok(rules::policy(&self.mls)?.admins)
    }

    /// Whether the group is at this device's own homeserver.
    pub(super) fn is_at_home(&self) -> Result<bool> {
        let delivery = self.own_leaf()?.delivery;
        Ok(delivery.is_some_and(|delivery| delivery.domain == *self.id.domain()))
    }

    /// Where this device's messages of the group go.
    pub(crate) fn delivery_address(&self) -> Option<Address> {
        let extension = self.mls.own_leaf_node()?.extensions().unknown(DELIVERY_ADDRESS)?;
        DeliveryAddress::from_bytes(&extension.0).ok().map(|delivery| delivery.address)
    }

    /// The request for the group as it is now at the DS.
    pub(crate) fn fetch_info(&self) -> Result<FetchGroupInfo> {
        Ok(FetchGroupInfo { state_key: self.state_key()? })
    }

    /// Whether this is the ratchet tree of the group.
    pub(crate) fn has_tree(&self, tree: &RatchetTree) -> Result<bool> {
        let own = self.mls.export_ratchet_tree().tls_serialize_detached();
        Ok(own.map_err(Error::mls("cannot write the tree"))? == tree.as_bytes())
    }

    /// How many devices are in the group.
    pub(crate) fn size(&self) -> usize {
        self.mls.members().count()
    }

    /// Whether the next commit of another member removes this one.
    pub(crate) fn is_leaving(&self) -> bool {
        self.has_proposed_to_leave() || self.is_to_go()
    }

    /// Whether this device's own proposal to leave waits.
    pub(super) fn has_proposed_to_leave(&self) -> bool {
        let own = Sender::Member(self.mls.own_leaf_index());
        self.mls
            .pending_proposals()
            .any(|queued| matches!(queued.proposal(), Proposal::SelfRemove) && *queued.sender() == own)
    }

    /// Whether the server proposed to remove this device, which waits for a commit.
    pub(crate) fn is_to_go(&self) -> bool {
        let own = self.mls.own_leaf_index();
        self.mls
            .pending_proposals()
            .any(|queued| matches!(queued.proposal(), Proposal::Remove(remove) if remove.removed() == own))
    }

    /// Whether what waits removes all other members, so that nobody else can commit it.
    pub(super) fn is_only_one_to_commit(&self) -> bool {
        let own = self.mls.own_leaf_index();
        let removed: HashSet<_> = self
            .mls
            .pending_proposals()
            .filter_map(|queued| match (queued.proposal(), queued.sender()) {
                (Proposal::Remove(remove), _) => Some(remove.removed()),
                (Proposal::SelfRemove, Sender::Member(leaf)) => Some(*leaf),
                _ => None,
            })
            .collect();
        !removed.contains(&own) && self.mls.members().all(|it| it.index == own || removed.contains(&it.index))
    }

    pub(super) fn state_key(&self) -> Result<StateKey> {
        rules::policy(&self.mls).map(|policy| policy.state_key())
    }

    pub(super) fn member(&self, leaf_key: &PublicKey) -> Option<openmls::prelude::Member> {
        self.mls.members().find(|member| member.signature_key == leaf_key.as_bytes().as_slice())
    }

    /// A message for the DS, with nothing but itself.
    pub(super) fn submission(&self, message: Vec<u8>) -> Result<SubmitMessage> {
        Ok(SubmitMessage {
            state_key: self.state_key()?,
            message: MlsMessage::new(message),
            group_info: None,
            welcome: None,
            urgency: None,
            attributes: Vec::new(),
        })
    }
}
