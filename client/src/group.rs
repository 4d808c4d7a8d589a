//! Groups (DS-1 to DS-7): what this client knows of each, the messages it makes for them,
//! and the effect of those that arrive. All of it happens inside a transaction; talking to
//! the DS is the business of [`crate::submit`].

use openmls::prelude::{
    BasicCredential, CredentialWithKey, Extension, Extensions, ExternalSender, GroupContext,
    GroupId as MlsGroupId, KeyPackage, KeyPackageRef, LeafNode, LeafNodeIndex, LeafNodeParameters,
    MIXED_PLAINTEXT_WIRE_FORMAT_POLICY, MlsGroup, MlsMessageBodyIn, MlsMessageOut, ProcessMessageError,
    ProcessedMessageContent, ProcessedWelcome, Proposal, ProposalType, ProtocolMessage, QueuedProposal,
    RatchetTreeIn, RequiredCapabilitiesExtension, Sender, StagedCommit, StagedWelcome, UnknownExtension,
    ValidationError, WelcomeError,
};
use openmls_traits::OpenMlsProvider as _;
use postern_protocol::{
    Address, Attributes, GroupInfo, MlsMessage, PublicKey, RatchetTree, StateKey, Welcome,
    credential::ClientCredential,
    ds::{
        CreateGroup, CurrentGroup, FetchGroupInfo, FetchWelcomeTree, GroupId, GroupIdReserved,
        LeafAttributes, MAX_PAST_EPOCHS, SubmitMessage,
    },
    encoding::Encoding,
    key::SigningKey,
    mls::{
        DELIVERY_ADDRESS, DeliveryAddress, GROUP_POLICY, GroupPolicy, Pseudonym, USER_KEY, UserKey, to_join,
    },
    qs::StockedKeyPackage,
};
use rusqlite::{OptionalExtension as _, params};
use tls_codec::{Deserialize as _, Serialize as _};

use crate::{
    account::Account,
    error::{Error, Result},
    event::{self, Event, Member},
    friendship::{self, Friend},
    identity::IdentityLink,
    message::{ApplicationMessage, Content, RosterEntry},
    mls::{self, CIPHERSUITE, LeafSigner, REQUIRED},
    sealed, stock,
    store::{Options, Tx, decode, encode, fixed, integer},
    wallet::now,
};

/// Why something that came in has no effect.
#[derive(Debug)]
pub(crate) enum Rejection {
    /// It is invalid: the reason is for the user's log.
    Invalid(String),
    /// We failed: it has to be processed again.
    Fault(Error),
}

impl<E: Into<Error>> From<E> for Rejection {
    fn from(error: E) -> Self {
        Self::Fault(error.into())
    }
}

fn invalid(reason: &'static str) -> Rejection {
    Rejection::Invalid(reason.to_owned())
}

/// What a commit does.
#[derive(Clone)]
pub enum Change {
    /// Adds the owners of KeyPackages at hand, by leaf key.
    Add(Vec<PublicKey>),
    /// Removes members, by leaf key.
    Remove(Vec<PublicKey>),
    /// Renews our own keys.
    Update,
    /// The same, and replaces what is kept beside our leaf.
    SetAttributes(Vec<u8>),
}

/// A message that was handed to the DS, or is about to be, with its answer outstanding.
pub(crate) struct Outstanding {
    pub epoch: u64,
    /// A serialised [`SubmitMessage`].
    pub body: Vec<u8>,
    /// What an application message says; absent for a commit.
    pub content: Option<ApplicationMessage>,
}

/// A group this client is a member of.
pub(crate) struct Group {
    pub id: GroupId,
    pub leaf: SigningKey,
    mls: MlsGroup,
}

impl Group {
    /// Makes a group with this client as its one member and admin.
    pub(crate) fn create(
        tx: &Tx<'_>,
        reserved: &GroupIdReserved,
        title: &str,
        delivery: &DeliveryAddress,
    ) -> Result<(Self, CreateGroup)> {
        let what = "cannot create the group";
        let id = reserved.group_id.clone();
        let server = mls::credential(id.domain().as_str().as_bytes().to_vec(), reserved.server_key);
        let leaf = SigningKey::generate();
        let pseudonym = Pseudonym::random();
        let policy = GroupPolicy::new(pseudonym);
        let context = Extensions::<GroupContext>::from_vec(vec![
            Extension::RequiredCapabilities(RequiredCapabilitiesExtension::new(
                &REQUIRED,
                &[ProposalType::SelfRemove],
                &[],
            )),
            Extension::Unknown(GROUP_POLICY, UnknownExtension(policy.to_bytes())),
            Extension::ExternalSenders(vec![ExternalSender::new(server.signature_key, server.credential)]),
        ])
        .map_err(Error::mls(what))?;
        let signer = LeafSigner(&leaf);
        let group = MlsGroup::builder()
            .with_group_id(MlsGroupId::from_slice(&id.to_mls()))
            .ciphersuite(CIPHERSUITE)
            .with_wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
            .padding_size(mls::join_config().padding_size())
            .max_past_epochs(MAX_PAST_EPOCHS)
            .with_capabilities(mls::capabilities())
            .lifetime(mls::lifetime())
            .with_group_context_extensions(context)
            .with_leaf_node_extensions(leaf_extensions(tx, delivery)?)
            .map_err(Error::mls(what))?
            .build(tx, &signer, mls::credential(pseudonym.0.to_vec(), leaf.public_key()))
            .map_err(Error::mls(what))?;
        let group_info = group.export_group_info(tx.crypto(), &signer, false).map_err(Error::mls(what))?;
        let create = CreateGroup {
            group_id: id.clone(),
            state_key: policy.state_key(),
            group_info: GroupInfo::new(mls::message_bytes(&group_info)?),
            ratchet_tree: RatchetTree::new(
                group.export_ratchet_tree().tls_serialize_detached().map_err(Error::mls(what))?,
            ),
            attributes: Vec::new(),
        };
        keep_leaf_key(tx, &leaf)?;
        insert(tx, &id, title, &leaf.public_key())?;
        keep_attributes_key(tx, &id, &rand::random())?;
        Ok((Self { id, leaf, mls: group }, create))
    }

    /// # Errors
    /// [`Error::UnknownGroup`], [`Error::NotMember`].
    pub(crate) fn load(tx: &Tx<'_>, id: &GroupId) -> Result<Self> {
        Self::find(tx, id)?.ok_or_else(|| Error::UnknownGroup(id.to_base64url()))
    }

    fn find(tx: &Tx<'_>, id: &GroupId) -> Result<Option<Self>> {
        let row: Option<(Vec<u8>, bool)> = tx
            .sql()
            .prepare_cached("SELECT leaf_key, active FROM groups WHERE group_id = ?1")?
            .query_row([id.to_mls()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((leaf_key, active)) = row else {
            return Ok(None);
        };
        if !active {
            return Err(Error::NotMember);
        }
        let mls = MlsGroup::load(tx.storage(), &MlsGroupId::from_slice(&id.to_mls()))?
            .ok_or(Error::Damaged("the MLS state of a group"))?;
        let leaf = leaf_key_of(tx, &leaf_key)?.ok_or(Error::Damaged("the key of a group"))?;
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
        policy(&self.mls).is_ok_and(|policy| is_admin(&policy, &member.credential))
    }

    /// Makes a commit, and keeps it until the DS's answer is known.
    pub(crate) fn stage_commit(&mut self, tx: &Tx<'_>, change: &Change) -> Result<Outstanding> {
        let what = "cannot make the commit";
        let epoch = self.epoch();
        let state_key = self.state_key()?;
        let signer = LeafSigner(&self.leaf);
        let removed = self.removed_by(change)?;
        let attributes = self.attributes_by(tx, change)?;
        let mut builder = self.mls.commit_builder();
        match change {
            Change::Add(leaf_keys) => {
                let key_packages = leaf_keys
                    .iter()
                    .map(|leaf_key| reserve_key_package(tx, &self.id, leaf_key))
                    .collect::<Result<Vec<_>>>()?;
                builder = builder.propose_adds(key_packages);
            }
            Change::Remove(_) => builder = builder.propose_removals(removed),
            Change::Update | Change::SetAttributes(_) => builder = builder.force_self_update(true),
        }
        // Joiners get the tree from the DS, which keeps it anyway.
        let (commit, welcome, group_info) = builder
            .load_psks(tx.storage())
            .map_err(Error::mls(what))?
            .create_group_info(true)
            .use_ratchet_tree_extension(false)
            .build(tx.rand(), tx.crypto(), &signer, |_| true)
            .map_err(Error::mls(what))?
            .stage_commit(tx)
            .map_err(Error::mls(what))?
            .into_messages();
        let bytes = |message: Option<MlsMessageOut>| message.as_ref().map(mls::message_bytes).transpose();
        let submission = SubmitMessage {
            state_key,
            message: MlsMessage::new(mls::message_bytes(&commit)?),
            group_info: bytes(group_info)?.map(GroupInfo::new),
            welcome: bytes(welcome)?.map(Welcome::new),
            urgency: None,
            attributes,
        };
        self.keep(tx, epoch, &submission, None)
    }

    /// Makes an application message, and keeps it until the DS's answer is known.
    pub(crate) fn stage_content(&mut self, tx: &Tx<'_>, content: Content) -> Result<Outstanding> {
        let account = Account::load(tx)?.ok_or(Error::NotReady)?;
        let number: u64 = tx
            .sql()
            .prepare_cached(
                "UPDATE groups SET next_number = next_number + 1 WHERE group_id = ?1
                 RETURNING next_number - 1",
            )?
            .query_row([self.id.to_mls()], |row| row.get(0))?;
        let link = IdentityLink::sign(
            &account.client_key(),
            account.credential()?,
            Some(&self.id),
            &self.leaf.public_key(),
        );
        self.stage_message(tx, ApplicationMessage { number, link, content })
    }

    /// As [`Self::stage_content`], for one that was made before and is encrypted anew.
    pub(crate) fn stage_message(&mut self, tx: &Tx<'_>, content: ApplicationMessage) -> Result<Outstanding> {
        let message = self
            .mls
            .create_message(tx, &LeafSigner(&self.leaf), &Encoding::Cbor.encode(&content))
            .map_err(Error::mls("cannot encrypt the message"))?;
        let submission = SubmitMessage {
            state_key: self.state_key()?,
            message: MlsMessage::new(mls::message_bytes(&message)?),
            group_info: None,
            welcome: None,
            urgency: None,
            attributes: Vec::new(),
        };
        self.keep(tx, self.epoch(), &submission, Some(content))
    }

    fn keep(
        &self,
        tx: &Tx<'_>,
        epoch: u64,
        submission: &SubmitMessage,
        content: Option<ApplicationMessage>,
    ) -> Result<Outstanding> {
        let body = Encoding::Cbor.encode(submission);
        tx.sql()
            .prepare_cached(
                "INSERT INTO submissions (group_id, is_commit, epoch, body, content)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                self.id.to_mls(),
                content.is_none(),
                integer(epoch),
                body,
                content.as_ref().map(encode)
            ])?;
        Ok(Outstanding { epoch, body, content })
    }

    /// Makes the proposal to leave, which another member has to commit.
    pub(crate) fn stage_leaving(&mut self, tx: &Tx<'_>) -> Result<Outstanding> {
        let proposal = self
            .mls
            .leave_group_via_self_remove(tx, &LeafSigner(&self.leaf))
            .map_err(Error::mls("cannot make the proposal to leave"))?;
        let submission = SubmitMessage {
            state_key: self.state_key()?,
            message: MlsMessage::new(mls::message_bytes(&proposal)?),
            group_info: None,
            welcome: None,
            urgency: None,
            attributes: Vec::new(),
        };
        Ok(Outstanding { epoch: self.epoch(), body: Encoding::Cbor.encode(&submission), content: None })
    }

    /// The proposal to leave was refused: it never happened.
    pub(crate) fn withdraw_leaving(&mut self, tx: &Tx<'_>) -> Result<()> {
        let own = Sender::Member(self.mls.own_leaf_index());
        let is_leaving = |queued: &&QueuedProposal| {
            *queued.sender() == own && matches!(queued.proposal(), Proposal::SelfRemove)
        };
        let proposals = self.mls.pending_proposals().filter(is_leaving);
        let leaving: Vec<_> = proposals.map(|queued| queued.proposal_reference_ref().clone()).collect();
        for proposal in leaving {
            self.mls
                .remove_pending_proposal(tx.storage(), &proposal)
                .map_err(Error::mls("cannot withdraw the proposal to leave"))?;
        }
        Ok(())
    }

    /// What the DS is asked for the group as it is now.
    pub(crate) fn fetch_info(&self) -> Result<FetchGroupInfo> {
        Ok(FetchGroupInfo { state_key: self.state_key()? })
    }

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
        if policy(&mls)?.state_key() != state_key {
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
        forget_commit(tx, &self.id)?;
        forget_message(tx, &self.id)?;
        committed(tx, &self.id)?;
        Ok(Outstanding { epoch, body: Encoding::Cbor.encode(&submission), content: None })
    }

    /// The message whose answer is outstanding, if any; a commit first.
    pub(crate) fn outstanding(tx: &Tx<'_>, id: &GroupId) -> Result<Option<Outstanding>> {
        type Row = (u64, Vec<u8>, Option<Vec<u8>>);
        let row: Option<Row> = tx
            .sql()
            .prepare_cached(
                "SELECT epoch, body, content FROM submissions WHERE group_id = ?1
                 ORDER BY is_commit DESC LIMIT 1",
            )?
            .query_row([id.to_mls()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        row.map(|(epoch, body, content)| {
            let content = content.map(|content| decode(&content, "a message")).transpose()?;
            Ok(Outstanding { epoch, body, content })
        })
        .transpose()
    }

    /// The DS accepted the outstanding message: a commit takes effect.
    pub(crate) fn confirm(&mut self, tx: &Tx<'_>) -> Result<()> {
        if let Some(commit) = self.mls.pending_commit() {
            let by = Member::unknown(self.leaf.public_key());
            for event in commit_events(&self.id, &self.mls, by, commit) {
                event.record(tx)?;
            }
            let added = added_leaf_keys(commit);
            if !added.is_empty() {
                tx.sql()
                    .execute("UPDATE groups SET introduce = 1 WHERE group_id = ?1", [self.id.to_mls()])?;
            }
            for leaf_key in added {
                use_key_package(tx, &self.id, &leaf_key)?;
            }
            self.mls.merge_pending_commit(tx).map_err(Error::mls("cannot apply our own commit"))?;
            committed(tx, &self.id)?;
            return forget_commit(tx, &self.id);
        }
        forget_message(tx, &self.id)
    }

    /// The DS refused the outstanding message: it never happened.
    pub(crate) fn abandon(&mut self, tx: &Tx<'_>) -> Result<()> {
        if self.mls.pending_commit().is_none() {
            return forget_message(tx, &self.id);
        }
        self.mls.clear_pending_commit(tx.storage()).map_err(Error::mls("cannot drop our own commit"))?;
        forget_commit(tx, &self.id)
    }

    /// Whether members proposed something that the next commit has to contain. Until then
    /// nothing else may be said (RFC 9420 §12.4).
    pub(crate) fn has_pending_proposals(&self) -> bool {
        self.mls.has_pending_proposals()
    }

    /// Where this client's messages of the group go.
    pub(crate) fn delivery_address(&self) -> Option<Address> {
        let extension = self.mls.own_leaf_node()?.extensions().unknown(DELIVERY_ADDRESS)?;
        DeliveryAddress::from_bytes(&extension.0).ok().map(|delivery| delivery.address)
    }

    /// Ends this client's part in the group. Nothing of it is kept that could open its
    /// messages, and its address leads nowhere any more.
    pub(crate) fn leave(&mut self, tx: &Tx<'_>) -> Result<()> {
        let address = self.delivery_address();
        forget_commit(tx, &self.id)?;
        forget_message(tx, &self.id)?;
        self.mls.delete(tx.storage())?;
        let id = self.id.to_mls();
        tx.sql().execute("UPDATE groups SET active = 0 WHERE group_id = ?1", [&id])?;
        tx.sql().execute("DELETE FROM invitations WHERE group_id = ?1", [&id])?;
        let leaf_key = self.leaf.public_key();
        // A last-resort KeyPackage serves other groups, with its key and address.
        if !stock::holds(tx, &leaf_key)? && !uses_leaf_key(tx, leaf_key.as_bytes())? {
            forget_leaf_key(tx, leaf_key.as_bytes())?;
            if let Some(address) = address {
                stock::revoke_later(tx, &address)?;
            }
        }
        Ok(())
    }

    /// Forgets a group that the DS never made.
    pub(crate) fn forget(&mut self, tx: &Tx<'_>) -> Result<()> {
        self.mls.delete(tx.storage())?;
        tx.sql().execute("DELETE FROM groups WHERE group_id = ?1", [self.id.to_mls()])?;
        forget_leaf_key(tx, self.leaf.public_key().as_bytes())
    }

    /// Whether it is this device's turn to commit, unless it is about to leave.
    pub(crate) fn is_due(&self, tx: &Tx<'_>, options: &Options) -> Result<bool> {
        Ok(due(tx, options)?.contains(&self.id) && !self.is_leaving())
    }

    /// Whether the next commit of another's removes this client.
    fn is_leaving(&self) -> bool {
        let own = self.mls.own_leaf_index();
        self.mls.pending_proposals().any(|queued| match queued.proposal() {
            Proposal::SelfRemove => *queued.sender() == Sender::Member(own),
            Proposal::Remove(remove) => remove.removed() == own,
            _ => false,
        })
    }

    /// What is kept beside leaves, as far as it opens, by leaf key.
    pub(crate) fn open_attributes(
        &self,
        tx: &Tx<'_>,
        kept: &[LeafAttributes],
    ) -> Result<Vec<(PublicKey, Vec<u8>)>> {
        let key = attributes_key(tx, &self.id)?.ok_or(Error::NoAttributesKey)?;
        let open = |of: &LeafAttributes| {
            let content = sealed::open(tx.crypto(), &key, &of.leaf_key, of.attributes.as_bytes())?;
            Some((of.leaf_key, content))
        };
        Ok(kept.iter().filter_map(open).collect())
    }

    fn attributes_by(&self, tx: &Tx<'_>, change: &Change) -> Result<Vec<LeafAttributes>> {
        let Change::SetAttributes(content) = change else { return Ok(Vec::new()) };
        let leaf_key = self.leaf.public_key();
        let key = attributes_key(tx, &self.id)?.ok_or(Error::NoAttributesKey)?;
        let attributes = Attributes::new(sealed::seal(tx.crypto(), &key, &leaf_key, content)?);
        Ok(vec![LeafAttributes { leaf_key, attributes }])
    }

    fn removed_by(&self, change: &Change) -> Result<Vec<LeafNodeIndex>> {
        let Change::Remove(leaf_keys) = change else { return Ok(Vec::new()) };
        let index_of = |leaf_key| self.member(leaf_key).map(|member| member.index);
        leaf_keys
            .iter()
            .map(|leaf_key| index_of(leaf_key).ok_or_else(|| Error::NoSuchMember("the device".to_owned())))
            .collect()
    }

    fn state_key(&self) -> Result<StateKey> {
        policy(&self.mls).map(|policy| policy.state_key())
    }

    fn member(&self, leaf_key: &PublicKey) -> Option<openmls::prelude::Member> {
        self.mls.members().find(|member| member.signature_key == leaf_key.as_bytes().as_slice())
    }
}

/// What arrived in the group queue as a message of a group.
pub(crate) fn receive(tx: &Tx<'_>, message: &MlsMessage) -> Result<(), Rejection> {
    let message: ProtocolMessage = match mls::parse(message.as_bytes()) {
        Some(MlsMessageBodyIn::PublicMessage(message)) => message.into(),
        Some(MlsMessageBodyIn::PrivateMessage(message)) => message.into(),
        _ => return Err(invalid("a queued message is no message of a group")),
    };
    let id = GroupId::from_mls(message.group_id().as_slice())
        .map_err(|_| invalid("a message is for a group that is not Postern's"))?;
    let mut group = match Group::find(tx, &id) {
        Ok(Some(group)) => group,
        Ok(None) | Err(Error::NotMember) => {
            return Err(invalid("a message is for a group this client is not in"));
        }
        Err(error) => return Err(error.into()),
    };
    let (epoch, is_handshake) = (message.epoch().as_u64(), message.is_handshake_message());
    if epoch < group.epoch() && is_handshake {
        return Ok(()); // A repeat of what was processed.
    }
    if *group.mls.configuration() != mls::join_config() {
        // Made by an earlier version, which kept no past epoch's secrets.
        group.mls.set_configuration(tx.storage(), &mls::join_config())?;
    }
    if epoch == group.epoch() + 1 && group.mls.pending_commit().is_some() {
        // The epoch that our commit began, and no other commit before it: ours was accepted
        // and the answer was lost.
        group.confirm(tx)?;
    }
    let processed = match group.mls.process_message(tx, message) {
        Ok(processed) => processed,
        Err(ProcessMessageError::StorageError(error)) => return Err(error.into()),
        Err(error) if !is_handshake && is_repeat(&error) => return Ok(()),
        Err(error) => return Err(Rejection::Invalid(error.to_string())),
    };
    let (epoch, voucher) = (processed.epoch().as_u64(), processed.aad().to_vec());
    let sender = match processed.sender() {
        Sender::Member(leaf) => {
            // Of a late message: another may sit there by now.
            let is_sender = |found: &openmls::prelude::Member| found.credential == *processed.credential();
            let member = group.mls.member_at(*leaf).filter(is_sender);
            Some(member.ok_or_else(|| invalid("a message is from nobody in the group"))?)
        }
        _ => None,
    };
    let key = |bytes: &[u8]| mls::public_key(bytes).ok_or_else(|| invalid("a member's key is malformed"));
    match (processed.into_content(), sender) {
        (ProcessedMessageContent::ApplicationMessage(message), Some(sender)) => {
            receive_content(tx, &group, epoch, key(&sender.signature_key)?, &message.into_bytes())
        }
        (ProcessedMessageContent::StagedCommitMessage(commit), Some(sender)) => {
            let policy = policy(&group.mls)?;
            if !commit.queued_proposals().all(|queued| is_allowed(&group.mls, &policy, queued)) {
                return Err(invalid("a member that is no admin changed the group"));
            }
            receive_commit(tx, group, key(&sender.signature_key)?, *commit)
        }
        (ProcessedMessageContent::StagedCommitMessage(commit), None) => {
            let leaf = commit.update_path_leaf_node().ok_or_else(|| invalid("who joins brings a leaf"))?;
            let leaf_key = key(leaf.signature_key().as_slice())?;
            if !may_enter(&group, &commit, leaf, to_join(&group.id, epoch, &leaf_key), voucher) {
                return Err(invalid("somebody came in whom nobody vouched for"));
            }
            receive_commit(tx, group, leaf_key, *commit)
        }
        // Also of the server's, that somebody be removed; members are asked to commit it.
        (ProcessedMessageContent::ProposalMessage(proposal), _) => {
            group.mls.store_pending_proposal(tx.storage(), *proposal)?;
            tx.sql().execute(
                "UPDATE groups SET proposed = ifnull(proposed, ?2) WHERE group_id = ?1",
                params![id.to_mls(), integer(now())],
            )?;
            Ok(())
        }
        (ProcessedMessageContent::OwnPendingCommit, _) => Ok(group.confirm(tx)?),
        _ => Err(invalid("a message is of a kind that has no place here")),
    }
}

/// Whether a leaf may come in by external commit, as the DS checks, too: for a client of a user's in
/// the group its user's key has vouched, or it takes its own old place with the same key.
fn may_enter(
    group: &Group,
    commit: &StagedCommit,
    leaf: &LeafNode,
    signed: Vec<u8>,
    voucher: Vec<u8>,
) -> bool {
    let leaves = group.mls.members().filter_map(|member| group.mls.public_group().leaf(member.index));
    let of_user: Vec<_> = leaves.filter(|found| found.credential() == leaf.credential()).collect();
    let removes_others = commit.remove_proposals().any(|remove| {
        let removed = group.mls.public_group().leaf(remove.remove_proposal().removed());
        removed.is_none_or(|removed| removed.credential() != leaf.credential())
    });
    let comes_back = of_user.iter().any(|old| old.signature_key() == leaf.signature_key());
    let user_key = of_user
        .iter()
        .filter_map(|found| UserKey::from_bytes(&found.extensions().unknown(USER_KEY)?.0).ok())
        .max_by_key(|key| key.generation);
    let vouched = user_key.is_some_and(|key| {
        key.public_key.verify(&signed, &postern_protocol::Signature::new(voucher)).is_ok()
    });
    !removes_others && (comes_back || vouched)
}

fn receive_commit(
    tx: &Tx<'_>,
    mut group: Group,
    by: PublicKey,
    commit: StagedCommit,
) -> Result<(), Rejection> {
    let by = Member::unknown(by);
    let left = commit.self_removed();
    if left {
        let epoch = commit.epoch().as_u64();
        Event::Left { group: group.id.clone(), epoch, by }.record(tx)?;
    } else {
        for event in commit_events(&group.id, &group.mls, by, &commit) {
            event.record(tx)?;
        }
    }
    let lost_commit = group.mls.pending_commit().is_some();
    group.mls.merge_staged_commit(tx, commit).map_err(Error::mls("cannot apply a commit"))?;
    if lost_commit {
        forget_commit(tx, &group.id)?;
    }
    tx.sql().execute("UPDATE groups SET proposed = NULL WHERE group_id = ?1", [group.id.to_mls()])?;
    if left {
        group.leave(tx)?;
    }
    Ok(())
}

fn receive_content(
    tx: &Tx<'_>,
    group: &Group,
    epoch: u64,
    sender: PublicKey,
    content: &[u8],
) -> Result<(), Rejection> {
    let message: ApplicationMessage = Encoding::Cbor
        .decode(content)
        .map_err(|_| invalid("a message's content is not what Postern's clients send"))?;
    let last: Option<u64> = tx
        .sql()
        .prepare_cached("SELECT last_number FROM links WHERE group_id = ?1 AND leaf_key = ?2")?
        .query_row(params![group.id.to_mls(), sender.as_bytes()], |row| row.get(0))
        .optional()?;
    if message.number <= last.unwrap_or(0) {
        return Ok(());
    }
    // A false link takes the sender's name, not its message: the MLS signature is good.
    keep_link(tx, &group.id, &sender, &message.link)?;
    tx.sql()
        .prepare_cached(
            "INSERT INTO links (group_id, leaf_key, last_number) VALUES (?1, ?2, ?3)
             ON CONFLICT (group_id, leaf_key) DO UPDATE SET last_number = excluded.last_number",
        )?
        .execute(params![group.id.to_mls(), sender.as_bytes(), integer(message.number)])?;
    match message.content {
        Content::Text(text) => {
            Event::Message { group: group.id.clone(), epoch, sender: Member::unknown(sender), text }
                .record(tx)?
        }
        Content::Introduction { title, roster, attributes_key } => {
            if let Some(key) = attributes_key {
                keep_attributes_key(tx, &group.id, &key)?;
            }
            for entry in roster {
                keep_link(tx, &group.id, &entry.leaf_key, &entry.link)?;
            }
            let retitled = tx.sql().execute(
                "UPDATE groups SET title = ?2 WHERE group_id = ?1 AND title <> ?2",
                params![group.id.to_mls(), title],
            )?;
            if retitled == 1 && group.is_admin(&sender) {
                Event::Titled { group: group.id.clone(), title }.record(tx)?;
            }
        }
    }
    Ok(())
}

/// The ratchet tree that a Welcome to us needs: of which group and epoch, and the key that
/// asks for it. Takes the KeyPackage's keys out of the store: for a trial only.
pub(crate) fn tree_of_welcome(
    tx: &Tx<'_>,
    welcome: &Welcome,
) -> Option<(GroupId, FetchWelcomeTree, SigningKey)> {
    let Some(MlsMessageBodyIn::Welcome(welcome)) = mls::parse(welcome.as_bytes()) else {
        return None;
    };
    let welcome = ProcessedWelcome::new_from_welcome(tx, &mls::join_config(), welcome).ok()?;
    let info = welcome.unverified_group_info();
    let policy = info.group_context().extensions().unknown(GROUP_POLICY)?;
    let policy = GroupPolicy::from_bytes(&policy.0).ok()?;
    let leaf_key = welcome.own_key_package()?.leaf_node().signature_key().as_slice().to_vec();
    let fetch = FetchWelcomeTree { state_key: policy.state_key(), epoch: info.epoch().as_u64() };
    let id = GroupId::from_mls(info.group_id().as_slice()).ok()?;
    Some((id, fetch, leaf_key_of(tx, &leaf_key).ok()??))
}

/// What arrived in the group queue as a Welcome: this client becomes a member. The tree is
/// what the DS has for it, unless the Welcome itself carries it.
pub(crate) fn join(tx: &Tx<'_>, welcome: &Welcome, tree: Option<&RatchetTree>) -> Result<(), Rejection> {
    let Some(MlsMessageBodyIn::Welcome(welcome)) = mls::parse(welcome.as_bytes()) else {
        return Err(invalid("a Welcome is malformed"));
    };
    let refused = |error: WelcomeError<rusqlite::Error>| match error {
        WelcomeError::StorageError(error) => error.into(),
        error => Rejection::Invalid(error.to_string()),
    };
    let mut joining = StagedWelcome::build_from_welcome(tx, &mls::join_config(), welcome)
        .map_err(refused)?
        .replace_old_group()
        // Of members who have not committed since they were added long ago.
        .skip_lifetime_validation();
    if let Some(tree) = tree {
        let tree = RatchetTreeIn::tls_deserialize_exact(tree.as_bytes());
        joining = joining.with_ratchet_tree(tree.map_err(|_| invalid("a Welcome's tree is malformed"))?);
    }
    let staged = joining.build().map_err(refused)?;
    let id = GroupId::from_mls(staged.group_context().group_id().as_slice())
        .map_err(|_| invalid("a Welcome is for a group that is not Postern's"))?;
    match Group::find(tx, &id) {
        Ok(None) | Err(Error::NotMember) => {}
        Ok(Some(_)) => return Err(invalid("a Welcome is for a group this client is in already")),
        Err(error) => return Err(error.into()),
    }
    let leaf_key = staged
        .own_leaf_node()
        .and_then(|leaf| mls::public_key(leaf.signature_key().as_slice()))
        .ok_or_else(|| invalid("a Welcome has no leaf of ours"))?;
    if leaf_key_of(tx, leaf_key.as_bytes())?.is_none() {
        return Err(invalid("a Welcome is for a key we do not have"));
    }
    let group = staged.into_group(tx).map_err(refused)?;
    policy(&group).map_err(|_| invalid("a group has no policy"))?;
    insert(tx, &id, "", &leaf_key)?;
    stock::used(tx, &leaf_key)?;
    Ok(Event::Joined { group: id }.record(tx)?)
}

/// A KeyPackage of ours, for friends.
pub(crate) struct OwnKeyPackage {
    pub package: StockedKeyPackage,
    pub leaf_key: PublicKey,
    /// What openmls keeps its private keys under.
    pub reference: KeyPackageRef,
    /// Seconds since 1970.
    pub expires: u64,
}

/// Makes a KeyPackage for friends who want to add this client to a group.
pub(crate) fn make_key_package(
    tx: &Tx<'_>,
    account: &Account,
    friend: &Friend,
    delivery: &DeliveryAddress,
    last_resort: bool,
) -> Result<OwnKeyPackage> {
    let what = "cannot make a KeyPackage";
    let leaf = SigningKey::generate();
    let leaf_key = leaf.public_key();
    let pseudonym = Pseudonym::random();
    let mut builder = KeyPackage::builder()
        .key_package_lifetime(mls::lifetime())
        .leaf_node_capabilities(mls::capabilities())
        .leaf_node_extensions(leaf_extensions(tx, delivery)?);
    if last_resort {
        builder = builder.mark_as_last_resort();
    }
    let bundle = builder
        .build(CIPHERSUITE, tx, &LeafSigner(&leaf), mls::credential(pseudonym.0.to_vec(), leaf_key))
        .map_err(Error::mls(what))?;
    keep_leaf_key(tx, &leaf)?;
    let key_package = bundle.key_package();
    let message = MlsMessageOut::from(key_package.clone());
    let link = IdentityLink::sign(&account.client_key(), account.credential()?, None, &leaf_key);
    Ok(OwnKeyPackage {
        package: StockedKeyPackage {
            key_package: MlsMessage::new(mls::message_bytes(&message)?),
            attachment: friend.seal_link(tx.crypto(), &leaf_key, &link)?,
        },
        leaf_key,
        reference: key_package.hash_ref(tx.crypto()).map_err(Error::mls(what))?,
        expires: key_package.life_time().not_after(),
    })
}

/// A KeyPackage of a friend's device: well-formed, and linked to the client that it claims.
pub(crate) struct FriendsKeyPackage {
    /// Whom the AS has to vouch for.
    pub client: ClientCredential,
    leaf_key: PublicKey,
    key_package: MlsMessage,
    link: IdentityLink,
}

/// Opens what a friend's device published; `None` if it is unusable.
pub(crate) fn open_key_package(
    tx: &Tx<'_>,
    friend: &Friend,
    stocked: &StockedKeyPackage,
) -> Option<FriendsKeyPackage> {
    let key_package = mls::parse_key_package(stocked.key_package.as_bytes(), tx.crypto())?;
    let leaf = key_package.leaf_node();
    let leaf_key = mls::public_key(leaf.signature_key().as_slice())?;
    let address = leaf.extensions().unknown(DELIVERY_ADDRESS)?;
    DeliveryAddress::from_bytes(&address.0).ok()?;
    let link = friend.open_link(tx.crypto(), &leaf_key, &stocked.attachment)?;
    let client = ClientCredential::parse(&link.credential).ok()?;
    client.client_key.verify(&IdentityLink::to_be_signed(None, &leaf_key), &link.signature).ok()?;
    Some(FriendsKeyPackage { client, leaf_key, key_package: stocked.key_package.clone(), link })
}

/// Keeps a friend's KeyPackage, whose client was confirmed, for the next groups. One of last
/// resort that we had before stays reserved for what it is.
pub(crate) fn keep_key_package(tx: &Tx<'_>, package: &FriendsKeyPackage) -> Result<()> {
    tx.sql().execute(
        "INSERT OR IGNORE INTO key_packages (leaf_key, client_key, user, key_package, link)
         VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            package.leaf_key.as_bytes(),
            package.client.client_key.as_bytes(),
            package.client.user.to_string(),
            package.key_package.as_bytes(),
            encode(&package.link)
        ],
    )?;
    Ok(())
}

/// The leaf key of a usable KeyPackage of a client, if one is at hand.
pub(crate) fn key_package_of(tx: &Tx<'_>, client_key: &PublicKey) -> Result<Option<PublicKey>> {
    let mut statement = tx.sql().prepare_cached(
        "SELECT leaf_key, key_package FROM key_packages
         WHERE client_key = ?1 AND reserved_for IS NULL ORDER BY rowid",
    )?;
    let rows = statement
        .query_map([client_key.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<Vec<(Vec<u8>, Vec<u8>)>, _>>()?;
    for (leaf_key, key_package) in rows {
        if mls::parse_key_package(&key_package, tx.crypto()).is_some() {
            return Ok(Some(fixed(&leaf_key, "a key")?));
        }
        tx.sql().execute("DELETE FROM key_packages WHERE leaf_key = ?1", [leaf_key])?; // Expired.
    }
    Ok(None)
}

/// The DS will not have them: forgets the invitations of a group and the KeyPackages that
/// were to serve them.
pub(crate) fn withdraw_invitations(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    tx.sql().execute(
        "DELETE FROM key_packages WHERE client_key IN
             (SELECT client_key FROM invitations WHERE group_id = ?1)",
        [id.to_mls()],
    )?;
    tx.sql().execute("DELETE FROM invitations WHERE group_id = ?1", [id.to_mls()])?;
    Ok(())
}

/// The introduction that newcomers wait for, if one is due.
pub(crate) fn introduction(tx: &Tx<'_>, group: &Group) -> Result<Option<Content>> {
    let title: Option<String> = tx
        .sql()
        .query_row(
            "SELECT title FROM groups WHERE group_id = ?1 AND introduce = 1",
            [group.id.to_mls()],
            |row| row.get(0),
        )
        .optional()?;
    let Some(title) = title else { return Ok(None) };
    let mut roster = Vec::new();
    for leaf_key in group.leaf_keys() {
        if let Some(link) = link(tx, &group.id, &leaf_key)? {
            roster.push(RosterEntry { leaf_key, link });
        }
    }
    tx.sql().execute("UPDATE groups SET introduce = 0 WHERE group_id = ?1", [group.id.to_mls()])?;
    let attributes_key = attributes_key(tx, &group.id)?;
    Ok(Some(Content::Introduction { title, roster, attributes_key }))
}

/// Who the member behind a leaf says it is; its own signature on that was checked.
pub(crate) fn claim(tx: &Tx<'_>, group: &GroupId, leaf_key: &PublicKey) -> Result<Option<ClientCredential>> {
    let credential = if is_own(tx, group, leaf_key)? {
        Account::load(tx)?.ok_or(Error::NotReady)?.credential()?
    } else {
        match link(tx, group, leaf_key)? {
            Some(link) => link.credential,
            None => return Ok(None),
        }
    };
    ClientCredential::parse(&credential).map(Some).map_err(|_| Error::Damaged("a credential"))
}

/// Whether a leaf is this client's.
pub(crate) fn is_own(tx: &Tx<'_>, group: &GroupId, leaf_key: &PublicKey) -> Result<bool> {
    Ok(tx
        .sql()
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM groups WHERE group_id = ?1 AND leaf_key = ?2)")?
        .query_row(params![group.to_mls(), leaf_key.as_bytes()], |row| row.get(0))?)
}

/// Every member as far as it is known.
pub(crate) fn members(tx: &Tx<'_>, group: &Group) -> Result<Vec<Member>> {
    group.leaf_keys().map(|leaf_key| event::resolve(tx, &group.id, leaf_key)).collect()
}

/// The members that introduced themselves, by leaf key.
pub(crate) fn members_claims(tx: &Tx<'_>, group: &Group) -> Result<Vec<(PublicKey, ClientCredential)>> {
    let mut claims = Vec::new();
    for leaf_key in group.leaf_keys() {
        claims.extend(claim(tx, &group.id, &leaf_key)?.map(|claim| (leaf_key, claim)));
    }
    Ok(claims)
}

fn link(tx: &Tx<'_>, group: &GroupId, leaf_key: &PublicKey) -> Result<Option<IdentityLink>> {
    let link: Option<Option<Vec<u8>>> = tx
        .sql()
        .prepare_cached("SELECT link FROM links WHERE group_id = ?1 AND leaf_key = ?2")?
        .query_row(params![group.to_mls(), leaf_key.as_bytes()], |row| row.get(0))
        .optional()?;
    link.flatten().map(|link| decode(&link, "an identity link")).transpose()
}

/// Keeps a link if its client signed it for this leaf.
fn keep_link(tx: &Tx<'_>, group: &GroupId, leaf_key: &PublicKey, link: &IdentityLink) -> Result<()> {
    let Some(credential) = link.claim(group, leaf_key) else {
        return Ok(());
    };
    tx.sql()
        .prepare_cached(
            "INSERT INTO links (group_id, leaf_key, client_key, link, last_number)
             VALUES (?1, ?2, ?3, ?4, 0)
             ON CONFLICT (group_id, leaf_key)
             DO UPDATE SET client_key = excluded.client_key, link = excluded.link",
        )?
        .execute(params![
            group.to_mls(),
            leaf_key.as_bytes(),
            credential.client_key.as_bytes(),
            encode(link)
        ])?;
    Ok(())
}

fn commit_events(id: &GroupId, group: &MlsGroup, by: Member, commit: &StagedCommit) -> Vec<Event> {
    let epoch = commit.epoch().as_u64();
    let mut added: Vec<_> = added_leaf_keys(commit).into_iter().map(Member::unknown).collect();
    let comes_in =
        commit.queued_proposals().any(|queued| matches!(queued.proposal(), Proposal::ExternalInit(_)));
    if comes_in && commit.remove_proposals().next().is_none() {
        added.push(by.clone());
    }
    let removed: Vec<_> = commit
        .queued_proposals()
        .filter_map(|queued| match (queued.proposal(), queued.sender()) {
            // Who comes back removes its own old leaf.
            (Proposal::Remove(remove), _) if !comes_in => Some(remove.removed()),
            (Proposal::SelfRemove, Sender::Member(leaf)) => Some(*leaf),
            _ => None,
        })
        .filter_map(|leaf| group.member_at(leaf))
        .filter_map(|member| mls::public_key(&member.signature_key))
        .map(Member::unknown)
        .collect();
    let mut events = Vec::new();
    if added.is_empty() && removed.is_empty() {
        events.push(Event::Updated { group: id.clone(), epoch, by: by.clone() });
    }
    if !removed.is_empty() {
        events.push(Event::Removed { group: id.clone(), epoch, by: by.clone(), members: removed });
    }
    if !added.is_empty() {
        events.push(Event::Added { group: id.clone(), epoch, by, members: added });
    }
    events
}

fn added_leaf_keys(commit: &StagedCommit) -> Vec<PublicKey> {
    commit
        .add_proposals()
        .filter_map(|add| {
            mls::public_key(add.add_proposal().key_package().leaf_node().signature_key().as_slice())
        })
        .collect()
}

/// The client's own check of DS-6: a DS that lets others in is noticed.
fn is_allowed(group: &MlsGroup, policy: &GroupPolicy, queued: &QueuedProposal) -> bool {
    let by = match queued.sender() {
        Sender::Member(leaf) => group.member_at(*leaf),
        // The server asks that somebody be removed, and nothing else.
        Sender::External(_) => return matches!(queued.proposal(), Proposal::Remove(_)),
        _ => None,
    };
    let Some(by) = by else { return false };
    let is_own = |credential: &openmls::prelude::Credential| *credential == by.credential;
    match queued.proposal() {
        _ if is_admin(policy, &by.credential) => true,
        Proposal::Add(add) => is_own(add.key_package().leaf_node().credential()),
        Proposal::Remove(remove) => {
            group.member_at(remove.removed()).is_some_and(|removed| is_own(&removed.credential))
        }
        Proposal::GroupContextExtensions(_) => false,
        _ => true,
    }
}

fn is_admin(policy: &GroupPolicy, credential: &openmls::prelude::Credential) -> bool {
    BasicCredential::try_from(credential.clone())
        .is_ok_and(|basic| policy.admins.iter().any(|admin| admin.0 == basic.identity()))
}

fn policy(group: &MlsGroup) -> Result<GroupPolicy> {
    group
        .extensions()
        .unknown(GROUP_POLICY)
        .and_then(|extension| GroupPolicy::from_bytes(&extension.0).ok())
        .ok_or(Error::Damaged("the policy of a group"))
}

/// Where messages go, and a key to act by for the user, who has this one client in the group.
fn leaf_extensions(tx: &Tx<'_>, delivery: &DeliveryAddress) -> Result<Extensions<LeafNode>> {
    let user = SigningKey::generate();
    keep_leaf_key(tx, &user)?;
    let user_key = UserKey { generation: 0, public_key: user.public_key() };
    Extensions::from_vec(vec![
        Extension::Unknown(DELIVERY_ADDRESS, UnknownExtension(delivery.to_bytes())),
        Extension::Unknown(USER_KEY, UnknownExtension(user_key.to_bytes())),
    ])
    .map_err(Error::mls("cannot make a leaf"))
}

fn insert(tx: &Tx<'_>, id: &GroupId, title: &str, leaf_key: &PublicKey) -> Result<()> {
    tx.sql().execute(
        "INSERT OR REPLACE INTO groups (group_id, title, leaf_key, active, introduce, next_number, committed)
         VALUES (?1, ?2, ?3, 1, 0, 1, ?4)",
        params![id.to_mls(), title, leaf_key.as_bytes(), integer(now())],
    )?;
    Ok(())
}

/// The groups in which it is this device's turn to commit: its own keys are old, or something
/// waits that others proposed. In each, each device's turn comes at another time, by its leaf
/// key, so that not all try at once. Who loses nevertheless looks again.
pub(crate) fn due(tx: &Tx<'_>, options: &Options) -> Result<Vec<GroupId>> {
    type Row = (Vec<u8>, [u8; 32], u64, Option<u64>);
    let mut statement = tx
        .sql()
        .prepare_cached("SELECT group_id, leaf_key, committed, proposed FROM groups WHERE active = 1")?;
    let rows = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
        .collect::<Result<Vec<Row>, _>>()?;
    let now = now();
    let (update_every, commit_within) = (options.update_every.as_secs(), options.commit_within.as_secs());
    // From a 256th of a time to all of it.
    let share = |seconds: u64, byte: u8| seconds / 256 * (u64::from(byte) + 1);
    let is_due = |leaf_key: &[u8; 32], committed: u64, proposed: Option<u64>| {
        let update = update_every - share(update_every, leaf_key[0]) / 4;
        let proposal = share(commit_within, leaf_key[1]);
        committed.saturating_add(update) <= now
            || proposed.is_some_and(|proposed| proposed.saturating_add(proposal) <= now)
    };
    rows.into_iter()
        .filter(|(_, leaf_key, committed, proposed)| is_due(leaf_key, *committed, *proposed))
        .map(|(id, ..)| GroupId::from_mls(&id).map_err(|_| Error::Damaged("a group id")))
        .collect()
}

/// Nothing waits, and our own keys are new.
pub(crate) fn committed(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    let sql = "UPDATE groups SET committed = ?2, proposed = NULL WHERE group_id = ?1";
    tx.sql().prepare_cached(sql)?.execute(params![id.to_mls(), integer(now())])?;
    Ok(())
}

/// The first one that this client was told counts: a member cannot take away what it has.
fn keep_attributes_key(tx: &Tx<'_>, id: &GroupId, key: &[u8; 32]) -> Result<()> {
    tx.sql().execute(
        "UPDATE groups SET attributes_key = ifnull(attributes_key, ?2) WHERE group_id = ?1",
        params![id.to_mls(), key],
    )?;
    Ok(())
}

fn attributes_key(tx: &Tx<'_>, id: &GroupId) -> Result<Option<[u8; 32]>> {
    let sql = "SELECT attributes_key FROM groups WHERE group_id = ?1";
    Ok(tx.sql().query_row(sql, [id.to_mls()], |row| row.get(0))?)
}

fn keep_leaf_key(tx: &Tx<'_>, key: &SigningKey) -> Result<()> {
    tx.sql().execute(
        "INSERT INTO leaf_keys (public_key, seed) VALUES (?1, ?2)",
        params![key.public_key().as_bytes(), key.seed()],
    )?;
    Ok(())
}

pub(crate) fn forget_leaf_key(tx: &Tx<'_>, public_key: &[u8]) -> Result<()> {
    tx.sql().execute("DELETE FROM leaf_keys WHERE public_key = ?1", [public_key])?;
    Ok(())
}

/// Whether this client acts under a leaf key in any group.
pub(crate) fn uses_leaf_key(tx: &Tx<'_>, public_key: &[u8]) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM groups WHERE leaf_key = ?1 AND active = 1)";
    Ok(tx.sql().prepare_cached(sql)?.query_row([public_key], |row| row.get(0))?)
}

fn leaf_key_of(tx: &Tx<'_>, public_key: &[u8]) -> Result<Option<SigningKey>> {
    Ok(tx
        .sql()
        .prepare_cached("SELECT seed FROM leaf_keys WHERE public_key = ?1")?
        .query_row([public_key], |row| row.get(0).map(SigningKey::from_seed))
        .optional()?)
}

/// Takes a KeyPackage for a commit, so that no other commit takes it too.
fn reserve_key_package(tx: &Tx<'_>, group: &GroupId, leaf_key: &PublicKey) -> Result<KeyPackage> {
    let bytes: Option<Vec<u8>> = tx
        .sql()
        .query_row(
            "UPDATE key_packages SET reserved_for = ?1
             WHERE leaf_key = ?2 AND reserved_for IS NULL RETURNING key_package",
            params![group.to_mls(), leaf_key.as_bytes()],
            |row| row.get(0),
        )
        .optional()?;
    bytes.and_then(|bytes| mls::parse_key_package(&bytes, tx.crypto())).ok_or(Error::Damaged("a KeyPackage"))
}

/// The owner of a reserved KeyPackage is in the group: it is known there by its link, and
/// not invited any more. A KeyPackage is for one group: if another one waits for the same
/// client, another is fetched.
fn use_key_package(tx: &Tx<'_>, group: &GroupId, leaf_key: &PublicKey) -> Result<()> {
    let row: Option<(Vec<u8>, Vec<u8>)> = tx
        .sql()
        .query_row(
            "DELETE FROM key_packages WHERE leaf_key = ?1 RETURNING client_key, link",
            [leaf_key.as_bytes()],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    let Some((client_key, link)) = row else { return Ok(()) };
    keep_link(tx, group, leaf_key, &decode(&link, "an identity link")?)?;
    tx.sql().execute(
        "DELETE FROM invitations WHERE group_id = ?1 AND client_key = ?2",
        params![group.to_mls(), client_key],
    )?;
    let waiting: Option<String> = tx
        .sql()
        .query_row("SELECT user FROM invitations WHERE client_key = ?1 LIMIT 1", [&client_key], |row| {
            row.get(0)
        })
        .optional()?;
    if let Some(user) = waiting
        && key_package_of(tx, &fixed(&client_key, "a key")?)?.is_none()
    {
        let user = user.parse().map_err(|_| Error::Damaged("a user name"))?;
        friendship::want_key_packages(tx, &user)?;
    }
    Ok(())
}

fn forget_message(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    tx.sql()
        .prepare_cached("DELETE FROM submissions WHERE group_id = ?1 AND is_commit = 0")?
        .execute([id.to_mls()])?;
    Ok(())
}

fn forget_commit(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    tx.sql().execute("DELETE FROM submissions WHERE group_id = ?1 AND is_commit = 1", [id.to_mls()])?;
    tx.sql().execute("UPDATE key_packages SET reserved_for = NULL WHERE reserved_for = ?1", [id.to_mls()])?;
    Ok(())
}

/// openmls opens each message once: a second time its key is gone, as are those of an epoch
/// before we came in or came back. It does not export the type that says so.
fn is_repeat(error: &ProcessMessageError<rusqlite::Error>) -> bool {
    let ProcessMessageError::ValidationError(ValidationError::UnableToDecrypt(reason)) = error else {
        return false;
    };
    format!("{reason:?}").starts_with("SecretTreeError")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::friendship::FriendshipSecrets;
    use crate::store::{Options, Store};
    use postern_protocol::name::UserName;

    /// A client without a server: what one sends is handed to the other by the test.
    struct Person {
        store: Store,
        user: UserName,
        _directory: tempfile::TempDir,
    }

    fn person(name: &str, issuer: &SigningKey) -> Person {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path(), &Options::default()).unwrap();
        let user: UserName = format!("{name}@example.org").parse().unwrap();
        let mut account = Account::new("http://127.0.0.1:1".to_owned(), user.clone()).unwrap();
        let credential = ClientCredential {
            user: user.clone(),
            client_key: account.client_key().public_key(),
            not_before: 0,
            not_after: u64::MAX,
            issuer_key: issuer.public_key(),
        };
        account.credential = Some(credential.issue(issuer));
        store.write(|tx| account.save(tx)).unwrap();
        Person { store, user, _directory: directory }
    }

    fn delivery() -> DeliveryAddress {
        DeliveryAddress { domain: "example.org".parse().unwrap(), address: Address::generate().unwrap() }
    }

    impl Person {
        fn account(&self) -> Account {
            self.store.read(Account::load).unwrap().unwrap()
        }

        fn create(&self) -> GroupId {
            let id = GroupId::new(rand::random(), "example.org".parse().unwrap());
            let reserved =
                GroupIdReserved { group_id: id.clone(), server_key: SigningKey::generate().public_key() };
            self.store.write(|tx| Group::create(tx, &reserved, "climbing", &delivery()).map(drop)).unwrap();
            id
        }

        fn stage(&self, id: &GroupId, change: &Change) -> SubmitMessage {
            let staged = self.store.write(|tx| Group::load(tx, id)?.stage_commit(tx, change)).unwrap();
            Encoding::Cbor.decode(&staged.body).unwrap()
        }

        fn say(&self, id: &GroupId, text: &str) -> MlsMessage {
            let content = Content::Text(text.to_owned());
            let staged = self
                .store
                .write(|tx| {
                    let staged = Group::load(tx, id)?.stage_content(tx, content)?;
                    Group::load(tx, id)?.confirm(tx)?;
                    Ok(staged)
                })
                .unwrap();
            Encoding::Cbor.decode::<SubmitMessage>(&staged.body).unwrap().message
        }

        fn confirm(&self, id: &GroupId) {
            self.store.write(|tx| Group::load(tx, id)?.confirm(tx)).unwrap();
        }

        fn receive(&self, message: &MlsMessage) -> Result<(), String> {
            self.store.write(|tx| Ok(told(tx.attempt(|| receive(tx, message))))).unwrap()
        }

        /// With the tree, as the DS has it, that `inviter` has after the commit.
        fn join(&self, welcome: &Welcome, tree: Option<&RatchetTree>) -> Result<(), String> {
            self.store.write(|tx| Ok(told(tx.attempt(|| join(tx, welcome, tree))))).unwrap()
        }

        fn tree(&self, id: &GroupId) -> RatchetTree {
            let tree = self.store.read(|tx| Ok(Group::load(tx, id)?.mls.export_ratchet_tree())).unwrap();
            RatchetTree::new(tree.tls_serialize_detached().unwrap())
        }

        fn events(&self) -> Vec<Event> {
            self.store
                .write(|tx| {
                    let events = event::pending(tx)?;
                    if let Some((last, _)) = events.last() {
                        event::forget(tx, *last)?;
                    }
                    Ok(events.into_iter().map(|(_, event)| event).collect())
                })
                .unwrap()
        }

        fn texts(&self) -> Vec<String> {
            let text = |event| match event {
                Event::Message { text, .. } => Some(text),
                _ => None,
            };
            self.events().into_iter().filter_map(text).collect()
        }

        fn epoch(&self, id: &GroupId) -> u64 {
            self.store.read(|tx| Ok(Group::load(tx, id)?.epoch())).unwrap()
        }

        /// Offers `inviter` a KeyPackage; its leaf key.
        fn offer_to(&self, inviter: &Person) -> PublicKey {
            let account = self.account();
            let friend = FriendshipSecrets::generate().unwrap().friend.clone();
            let make = |tx: &Tx<'_>| make_key_package(tx, &account, &friend, &delivery(), false);
            let own = self.store.write(make).unwrap();
            let client_key = account.client_key().public_key();
            inviter
                .store
                .write(|tx| {
                    let opened = open_key_package(tx, &friend, &own.package).expect("it is for us");
                    assert_eq!((&opened.client.user, opened.client.client_key), (&self.user, client_key));
                    keep_key_package(tx, &opened)?;
                    key_package_of(tx, &client_key)
                })
                .unwrap()
                .unwrap()
        }

        /// Adds the others; the commit, for members that follow.
        fn add(&self, id: &GroupId, others: &[&Person]) -> MlsMessage {
            let leaf_keys = others.iter().map(|other| other.offer_to(self)).collect();
            let submission = self.stage(id, &Change::Add(leaf_keys));
            self.confirm(id);
            for other in others {
                other.join(submission.welcome.as_ref().unwrap(), Some(&self.tree(id))).unwrap();
            }
            submission.message
        }
    }

    fn told(result: Result<(), Rejection>) -> Result<(), String> {
        result.map_err(|rejection| match rejection {
            Rejection::Invalid(reason) => reason,
            Rejection::Fault(error) => panic!("{error}"),
        })
    }

    #[test]
    fn members_read_each_other_once_and_know_who_speaks() {
        let issuer = SigningKey::generate();
        let (alice, bob) = (person("alice", &issuer), person("bob", &issuer));
        let id = alice.create();
        alice.add(&id, &[&bob]);
        alice.events();
        let message = bob.say(&id, "hello");
        alice.receive(&message).unwrap();
        alice.receive(&message).unwrap();
        let events = alice.events();
        let [Event::Message { sender, text, epoch: 1, .. }] = &events[..] else {
            panic!("one message, a repeat is ignored: {events:?}")
        };
        assert_eq!((sender.user.as_ref(), text.as_str()), (Some(&bob.user), "hello"));
        assert!(!sender.verified, "the AS was not asked");
    }

    #[test]
    fn a_commit_whose_answer_was_lost_takes_effect_when_the_next_epoch_is_seen() {
        let issuer = SigningKey::generate();
        let (alice, bob) = (person("alice", &issuer), person("bob", &issuer));
        let id = alice.create();
        alice.add(&id, &[&bob]);
        let update = alice.stage(&id, &Change::Update);
        bob.receive(&update.message).unwrap();
        let message = bob.say(&id, "in the next epoch");
        assert_eq!(alice.epoch(&id), 1);
        alice.receive(&message).unwrap();
        assert_eq!(alice.epoch(&id), 2);
        assert_eq!(alice.texts(), ["in the next epoch"]);
        assert!(alice.store.read(|tx| Group::outstanding(tx, &id)).unwrap().is_none());
    }

    #[test]
    fn a_commit_that_lost_gives_its_key_packages_back() {
        let issuer = SigningKey::generate();
        let people = ["alice", "bob", "carol"].map(|name| person(name, &issuer));
        let [alice, bob, carol] = &people;
        let id = alice.create();
        alice.add(&id, &[bob]);
        let leaf_key = carol.offer_to(alice);
        alice.stage(&id, &Change::Add(vec![leaf_key]));
        let winner = bob.stage(&id, &Change::Update);
        alice.receive(&winner.message).unwrap();
        assert_eq!(alice.epoch(&id), 2);
        bob.confirm(&id);
        let again = alice.stage(&id, &Change::Add(vec![leaf_key]));
        alice.confirm(&id);
        bob.receive(&again.message).unwrap();
        carol.join(again.welcome.as_ref().unwrap(), Some(&alice.tree(&id))).unwrap();
        bob.receive(&carol.say(&id, "here")).unwrap();
        assert_eq!(bob.texts(), ["here"]);
    }

    #[test]
    fn a_removed_member_reads_and_writes_no_more() {
        let issuer = SigningKey::generate();
        let (alice, bob) = (person("alice", &issuer), person("bob", &issuer));
        let id = alice.create();
        alice.add(&id, &[&bob]);
        let bobs = alice.store.read(|tx| Ok(Group::load(tx, &id)?.leaf_keys().nth(1))).unwrap().unwrap();
        let removal = alice.stage(&id, &Change::Remove(vec![bobs]));
        alice.confirm(&id);
        let secret = alice.say(&id, "without bob");
        bob.receive(&removal.message).unwrap();
        assert!(matches!(bob.events().last(), Some(Event::Left { .. })));
        assert!(bob.receive(&secret).is_err());
        let load = bob.store.read(|tx| Group::load(tx, &id).map(drop));
        assert!(matches!(load, Err(Error::NotMember)));
        let kept: i64 = bob
            .store
            .read(|tx| {
                Ok(tx.sql().query_row("SELECT count(*) FROM openmls_group_data", [], |row| row.get(0))?)
            })
            .unwrap();
        assert_eq!(kept, 0, "no secret of the group is kept");
    }

    #[test]
    fn only_admins_change_who_is_in() {
        let issuer = SigningKey::generate();
        let people = ["alice", "bob", "carol"].map(|name| person(name, &issuer));
        let [alice, bob, carol] = &people;
        let id = alice.create();
        alice.add(&id, &[bob]);
        let leaf_key = carol.offer_to(bob);
        let addition = bob.stage(&id, &Change::Add(vec![leaf_key]));
        assert!(alice.receive(&addition.message).unwrap_err().contains("no admin"));
        assert_eq!(alice.epoch(&id), 1, "a refused commit leaves no trace");
    }

    #[test]
    fn newcomers_learn_title_and_names() {
        let issuer = SigningKey::generate();
        let people = ["alice", "bob", "carol"].map(|name| person(name, &issuer));
        let [alice, bob, carol] = &people;
        let id = alice.create();
        alice.add(&id, &[bob]);
        let addition = alice.add(&id, &[carol]);
        bob.receive(&addition).unwrap();
        let staged = alice
            .store
            .write(|tx| {
                let mut group = Group::load(tx, &id)?;
                let content = introduction(tx, &group)?.unwrap();
                group.stage_content(tx, content)
            })
            .unwrap();
        let introduction: SubmitMessage = Encoding::Cbor.decode(&staged.body).unwrap();
        for other in [bob, carol] {
            other.receive(&introduction.message).unwrap();
            let names = other
                .store
                .read(|tx| members(tx, &Group::load(tx, &id)?))
                .unwrap()
                .into_iter()
                .filter_map(|member| member.user)
                .collect::<Vec<_>>();
            assert_eq!(names, people.each_ref().map(|person| person.user.clone()));
            let titled = |event: &Event| matches!(event, Event::Titled { title, .. } if title == "climbing");
            assert!(other.events().iter().any(titled));
        }
    }

    #[test]
    fn bytes_from_nobody_have_no_effect() {
        let issuer = SigningKey::generate();
        let alice = person("alice", &issuer);
        let id = alice.create();
        for bytes in [vec![], vec![0; 64], b"\x00\x01\x00\x02garbage".to_vec()] {
            assert!(alice.receive(&MlsMessage::new(bytes.clone())).is_err());
            assert!(alice.join(&Welcome::new(bytes), None).is_err());
        }
        let stranger = person("eve", &issuer);
        let elsewhere = stranger.create();
        let foreign = stranger.say(&elsewhere, "hi");
        assert!(alice.receive(&foreign).is_err());
        assert_eq!(alice.epoch(&id), 0);
    }
}
