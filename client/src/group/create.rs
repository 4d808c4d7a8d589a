//! Making a group.

use openmls::prelude::{
    Extension, Extensions, ExternalSender, GroupContext, GroupId as MlsGroupId,
    MIXED_PLAINTEXT_WIRE_FORMAT_POLICY, MlsGroup, ProposalType, RequiredCapabilitiesExtension,
    UnknownExtension,
};
use openmls_traits::OpenMlsProvider as _;
use postern_protocol::{
    GroupInfo, PublicKey, RatchetTree,
    ds::{CreateGroup, GroupId, GroupIdReserved},
    encoding::Encoding,
    key::SigningKey,
    mls::{DeliveryAddress, GROUP_POLICY, GroupPolicy, Pseudonym},
    problem::Problem,
};
use tls_codec::Serialize as _;

use super::{
    outstanding::{self, Kind, Outstanding},
    past::MOST_PAST_EPOCHS,
    record,
    state::GroupState,
};
use crate::{
    error::{Error, Result},
    event::Event,
    leaf,
    mls::{self, CIPHERSUITE, LeafSigner, REQUIRED},
    store::Tx,
};

/// The server as the group's external sender: with it, the server proposes removals (DS-10).
pub(super) fn external_sender(id: &GroupId, server_key: PublicKey) -> ExternalSender {
    let server = mls::credential(id.domain().as_str().as_bytes().to_vec(), server_key);
    ExternalSender::new(server.signature_key, server.credential)
}

impl GroupState {
    /// Makes a group with this client as its one member and admin, and keeps its founding until the
    /// DS's answer is known.
    pub(crate) fn create(
        tx: &Tx<'_>,
        reserved: &GroupIdReserved,
        title: &str,
        delivery: &DeliveryAddress,
    ) -> Result<Self> {
        let what = "cannot create the group";
        let id = reserved.group_id.clone();
        let key = SigningKey::generate();
        let pseudonym = Pseudonym::random();
        let policy = GroupPolicy::new(pseudonym);
        let context = Extensions::<GroupContext>::from_vec(vec![
            Extension::RequiredCapabilities(RequiredCapabilitiesExtension::new(
                &REQUIRED,
                &[ProposalType::SelfRemove],
                &[],
            )),
            Extension::Unknown(GROUP_POLICY, UnknownExtension(policy.to_bytes())),
            Extension::ExternalSenders(vec![external_sender(&id, reserved.server_key)]),
        ])
        .map_err(Error::mls(what))?;
        let signer = LeafSigner(&key);
        let group = MlsGroup::builder()
            .with_group_id(MlsGroupId::from_slice(&id.to_mls()))
            .ciphersuite(CIPHERSUITE)
            .with_wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
            .padding_size(mls::join_config(MOST_PAST_EPOCHS).padding_size())
            .max_past_epochs(MOST_PAST_EPOCHS)
            .sender_ratchet_configuration(mls::late_messages())
            .with_capabilities(mls::capabilities())
            .lifetime(mls::lifetime())
            .with_group_context_extensions(context)
            .with_leaf_node_extensions(leaf::extensions(delivery, &leaf::new_user_key(tx, 0)?)?)
            .map_err(Error::mls(what))?
            .build(tx, &signer, mls::credential(pseudonym.0.to_vec(), key.public_key()))
            .map_err(Error::mls(what))?;
        let group_info = group.export_group_info(tx.crypto(), &signer, false).map_err(Error::mls(what))?;
        leaf::keep_key(tx, &key)?;
        record::insert(tx, &id, "", &key.public_key())?;
        record::retitle(tx, &id, title, 1, 0)?;
        record::keep_attributes_key(tx, &id, &rand::random())?;
        let founded = Self { id: id.clone(), leaf: key, mls: group };
        let create = CreateGroup {
            group_id: id.clone(),
            state_key: policy.state_key(),
            group_info: GroupInfo::new(mls::message_bytes(&group_info)?),
            ratchet_tree: RatchetTree::new(
                founded.mls.export_ratchet_tree().tls_serialize_detached().map_err(Error::mls(what))?,
            ),
            attributes: founded.cards_for_commit(tx, &[])?,
        };
        let body = Encoding::Cbor.encode(&create);
        outstanding::keep(tx, &id, &Outstanding { kind: Kind::Creation, epoch: 0, body })?;
        Ok(founded)
    }

    /// Forgets a group that the DS refused to make.
    pub(super) fn forget(&mut self, tx: &Tx<'_>, reason: &Problem) -> Result<()> {
        let (title, reason) = (record::title(tx, &self.id)?, reason.to_string());
        Event::Unfounded { group: self.id.clone(), title, reason }.record(tx)?;
        self.end(tx)?;
        record::delete(tx, &self.id)
    }
}
