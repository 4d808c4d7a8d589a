//! Making a commit, and its fate.

use std::collections::HashSet;

use openmls::prelude::{
    Extension, Extensions, GroupContext, LeafNodeIndex, LeafNodeParameters, MlsMessageOut, QueuedProposal,
    Sender, UnknownExtension,
};
use openmls_traits::OpenMlsProvider as _;
use postern_protocol::{
    GroupInfo, MlsMessage, PublicKey, Welcome,
    ds::{GroupId, SubmitMessage},
    encoding::Encoding,
    mls::{DeliveryAddress, GROUP_POLICY, GroupPolicy, Pseudonym, UserKey},
};

use super::{
    changes::{added_leaf_keys, commit_events, removed_members},
    create::external_sender,
    evict, links, onlooker,
    outstanding::{self, Kind, Outstanding},
    places, record, removed, rules,
    state::GroupState,
    strayed,
};
use crate::{
    error::{Error, Result},
    event::Member,
    identity, invitations, key_packages, leaf, mailbox,
    mls::{self, LeafSigner},
    store::Tx,
};

/// The effect that a commit is to have.
#[derive(Debug, Clone)]
pub enum Change {
    /// Adds the owners of KeyPackages at hand, by leaf key.
    Add(Vec<PublicKey>),
    /// Removes members, by leaf key. With a device of our own user goes the key that it knows: the
    /// commit brings another.
    Remove(Vec<PublicKey>),
    /// Renews our own keys, and puts the server's present key in place of the group's external sender if that is for
    /// us to do.
    Update,
    /// Renews our own keys, and the one by which our user acts in the group.
    UserKey,
    /// Renews our own keys, and replaces the attributes of our leaf.
    SetAttributes(Vec<u8>),
    /// Makes these users the admins.
    Admins(Vec<Pseudonym>),
    /// Has messages to us go to another address.
    Address(DeliveryAddress),
}

impl GroupState {
    /// Makes a commit, and keeps it until the DS's answer is known.
    ///
    /// # Errors
    /// [`Error::Mls`], also where somebody is in the group, or is to come in, whose leaf the members do not read.
    pub(crate) fn stage_commit(&mut self, tx: &Tx<'_>, change: &Change) -> Result<()> {
        let what = "cannot make the commit";
        rules::check_members(self.mls.public_group()).map_err(Error::mls(what))?;
        let epoch = self.epoch();
        let state_key = self.state_key()?;
        let signer = LeafSigner(&self.leaf);
        let removed = self.removed_by(change)?;
        if let Change::SetAttributes(content) = change {
            self.set_attributes(tx, content)?;
        }
        let added: &[PublicKey] = if let Change::Add(leaf_keys) = change { leaf_keys } else { &[] };
        let attributes = self.cards_for_commit(tx, added)?;
        let leaf_node = self.leaf_node_for(tx, change, &removed)?;
        let context = match change {
            Change::Admins(admins) => Some(self.context_with(admins)?),
            Change::Update => self.context_with_server_key(tx)?,
            _ => None,
        };
        let allowed: Vec<_> = self
            .mls
            .pending_proposals()
            .filter(|queued| rules::check_proposal(&self.mls, queued).is_ok())
            .map(|queued| queued.proposal_reference_ref().clone())
            .collect();
        let own = Sender::Member(self.mls.own_leaf_index());
        let is_own = |queued: &QueuedProposal| *queued.sender() == own;
        let mut builder = self.mls.commit_builder();
        if let Some(leaf_node) = leaf_node {
            builder = builder.leaf_node_parameters(leaf_node);
        }
        builder = builder.force_self_update(!matches!(change, Change::Add(_)));
        match change {
            Change::Add(leaf_keys) => {
                let key_packages = leaf_keys
                    .iter()
                    .map(|leaf_key| key_packages::reserve_key_package(tx, &self.id, leaf_key))
                    .collect::<Result<Vec<_>>>()?;
                for key_package in &key_packages {
                    rules::Leaf::of_member(key_package.leaf_node()).map_err(Error::mls(what))?;
                }
                builder = builder.propose_adds(key_packages);
            }
            Change::Remove(_) => builder = builder.propose_removals(removed),
            Change::Admins(_)
            | Change::Update
            | Change::UserKey
            | Change::SetAttributes(_)
            | Change::Address(_) => {}
        }
        if let Some(context) = context {
            builder = builder.propose_group_context_extensions(context).map_err(Error::mls(what))?;
        }
        // Joiners get the tree from the DS, which keeps it anyway.
        let (commit, welcome, group_info) = builder
            .load_psks(tx.storage())
            .map_err(Error::mls(what))?
            .create_group_info(true)
            .use_ratchet_tree_extension(false)
            .build(tx.rand(), tx.crypto(), &signer, |queued| {
                is_own(queued) || allowed.contains(queued.proposal_reference_ref())
            })
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
        let body = Encoding::Cbor.encode(&submission);
        outstanding::keep(tx, &self.id, &Outstanding { kind: Kind::Commit, epoch, body })
    }

    /// Lets the outstanding commit take effect, which the DS accepted.
    pub(super) fn confirm_commit(&mut self, tx: &Tx<'_>) -> Result<()> {
        if let Some(commit) = self.mls.pending_commit() {
            let by = Member::unknown(self.leaf.public_key());
            for event in commit_events(&self.id, &self.mls, by, commit) {
                event.record(tx)?;
            }
            for leaf_key in added_leaf_keys(commit) {
                welcome_member(tx, &self.id, &leaf_key)?;
            }
            removed::note(tx, &self.id, self.epoch(), &removed_members(&self.mls, commit), true)?;
            let (taken, outline) = (places::taken_by(&self.mls, commit), self.outline()?);
            let (address, user_key) = (self.delivery_address(), self.own_leaf()?.user_key);
            self.note_user_key(tx)?;
            self.mls.merge_pending_commit(tx).map_err(Error::mls("cannot apply our own commit"))?;
            self.own_commit_passed(tx)?;
            if !taken.is_empty() {
                places::follow(tx, self, &taken)?;
            }
            // Messages kept of a group that cannot be followed go on from this commit, and stay.
            if !matches!(strayed::state(tx, &self.id)?, strayed::State::Strayed | strayed::State::ByHand) {
                onlooker::forget(tx, &self.id)?;
            }
            record::committed(tx, &self.id)?;
            self.follow_user_key(tx)?;
            if user_key != self.own_leaf()?.user_key {
                self.retell_user_key(tx)?;
            }
            self.retell_what_changed(tx, &outline)?;
            self.hear_what_waited(tx)?;
            if address != self.delivery_address()
                && let Some(address) = address
                && !key_packages::holds(tx, &self.leaf.public_key())?
            {
                mailbox::revoke_later(tx, &address)?;
            }
        }
        outstanding::forget(tx, &self.id, Kind::Commit)
    }

    /// Drops the outstanding commit: it never happened.
    pub(super) fn drop_commit(&mut self, tx: &Tx<'_>) -> Result<()> {
        self.mls.clear_pending_commit(tx.storage()).map_err(Error::mls("cannot drop our own commit"))?;
        outstanding::forget(tx, &self.id, Kind::Commit)
    }

    /// The changes of our own leaf that a commit brings besides new keys.
    fn leaf_node_for(
        &self,
        tx: &Tx<'_>,
        change: &Change,
        removed: &[LeafNodeIndex],
    ) -> Result<Option<LeafNodeParameters>> {
        let own = self.own_leaf()?;
        let is_ours = |index: &LeafNodeIndex| {
            let member = self.mls.member_at(*index);
            member.is_some_and(|member| rules::pseudonym(&member.credential) == Some(own.pseudonym))
        };
        let needs_another = match change {
            Change::Remove(_) => removed.iter().any(is_ours),
            Change::UserKey => true,
            _ => self.is_user_key_gone(tx)?,
        };
        let next = if needs_another { self.next_user_key(tx)? } else { self.user_key_here(tx)? };
        let delivery = match change {
            Change::Address(delivery) => delivery.clone(),
            _ if own.user_key == Some(next) => return Ok(None),
            _ => own.delivery.ok_or(Error::Damaged("the own address"))?,
        };
        let extensions = leaf::extensions(&delivery, &next)?;
        Ok(Some(LeafNodeParameters::builder().with_extensions(extensions).build()))
    }

    /// Another key of our user, of a higher generation than any that it had here, which the next epoch always has room
    /// for. After the group's rules forbade an eviction it is the highest that there can be: a device that came in or back
    /// later than another of its user's went does not know what generation that one had.
    fn next_user_key(&self, tx: &Tx<'_>) -> Result<UserKey> {
        let newest = self.user_key().map(|key| key.generation).max(record::user_generation(tx, &self.id)?);
        let next = newest.map_or(0, |generation| generation.saturating_add(1));
        let latest = UserKey::latest_generation(self.epoch().saturating_add(1));
        let generation = if evict::was_refused(tx, &self.id)? { latest } else { next.min(latest) };
        leaf::new_user_key(tx, generation)
    }

    /// Notes the generation of the user's key, before a commit that may take it away.
    pub(super) fn note_user_key(&self, tx: &Tx<'_>) -> Result<()> {
        self.user_key().map_or(Ok(()), |key| record::note_user_generation(tx, &self.id, key.generation))
    }

    /// Whether the user's newest key went with the leaf that had it. The DS lets nobody in by an older one, which a
    /// removed device may know: it is time for another.
    fn is_user_key_gone(&self, tx: &Tx<'_>) -> Result<bool> {
        Ok(record::user_generation(tx, &self.id)? > self.user_key().map(|key| key.generation))
    }

    /// The user's newest key of which this device has the private half: another device may have made one that this one
    /// was not told yet.
    pub(super) fn user_key_here(&self, tx: &Tx<'_>) -> Result<UserKey> {
        if let Some(newest) = self.user_key()
            && leaf::key(tx, &newest.public_key)?.is_some()
        {
            return Ok(newest);
        }
        self.own_leaf()?.user_key.ok_or(Error::Damaged("the own user key"))
    }

    /// Has this device's leaf take the user's newest key soon, once this device knows it, or another one where that went
    /// with the leaves that had it.
    pub(super) fn follow_user_key(&self, tx: &Tx<'_>) -> Result<()> {
        let is_behind = Some(self.user_key_here(tx)?) != self.own_leaf()?.user_key;
        if is_behind || self.is_user_key_gone(tx)? { record::proposed(tx, &self.id) } else { Ok(()) }
    }

    /// The group context with other admins.
    pub(super) fn context_with(&self, admins: &[Pseudonym]) -> Result<Extensions<GroupContext>> {
        let policy = GroupPolicy { admins: admins.to_vec(), ..rules::policy(&self.mls)? };
        let mut context = self.mls.extensions().clone();
        context
            .add_or_replace(Extension::Unknown(GROUP_POLICY, UnknownExtension(policy.to_bytes())))
            .map_err(Error::mls("cannot change the group's policy"))?;
        Ok(context)
    }

    /// The group context with the server's present key as external sender; `None` if it is there, is not known to be
    /// another one, or another member has to put it there.
    fn context_with_server_key(&self, tx: &Tx<'_>) -> Result<Option<Extensions<GroupContext>>> {
        let Some(server_key) = self.due_server_key(tx)? else { return Ok(None) };
        let mut context = self.mls.extensions().clone();
        context
            .add_or_replace(Extension::ExternalSenders(vec![external_sender(&self.id, server_key)]))
            .map_err(Error::mls("cannot change the group's external sender"))?;
        Ok(Some(context))
    }

    /// The server's present key, which is for this device to put in place of the group's external sender.
    fn due_server_key(&self, tx: &Tx<'_>) -> Result<Option<PublicKey>> {
        let wanted = record::server_key(tx, &self.id)?;
        let carried = self.mls.extensions().external_senders();
        let is_new = |key: &PublicKey| {
            let wanted = external_sender(&self.id, *key);
            carried.is_none_or(|senders| !senders.contains(&wanted))
        };
        Ok(wanted.filter(|key| is_new(key) && self.is_admin(&self.leaf.public_key())))
    }

    /// Notes which key the server wants the group to have as external sender. If it has another one and this device is
    /// an admin's, its turn to commit comes soon.
    pub(super) fn want_server_key(&self, tx: &Tx<'_>, server_key: Option<&PublicKey>) -> Result<()> {
        record::set_server_key(tx, &self.id, server_key)?;
        if self.due_server_key(tx)?.is_some() { record::proposed(tx, &self.id) } else { Ok(()) }
    }

    fn removed_by(&self, change: &Change) -> Result<Vec<LeafNodeIndex>> {
        let Change::Remove(leaf_keys) = change else { return Ok(Vec::new()) };
        let index_of = |leaf_key| self.member(leaf_key).map(|member| member.index);
        leaf_keys
            .iter()
            .map(|leaf_key| index_of(leaf_key).ok_or_else(|| Error::NoSuchMember("the device".to_owned())))
            .collect()
    }
}

/// The change that adds the clients a group waits for and whose KeyPackages are at hand.
pub(crate) fn add_invited(tx: &Tx<'_>, group: &GroupState) -> Result<Option<Change>> {
    let mut users = HashSet::new();
    let mut leaf_keys = Vec::new();
    for invited in invited(tx, group)? {
        // One of two with the same pseudonym comes in.
        if invited.is_free && users.insert(invited.pseudonym) {
            leaf_keys.push(invited.leaf_key);
        }
    }
    Ok((!leaf_keys.is_empty()).then_some(Change::Add(leaf_keys)))
}

/// The change that adds one of them.
pub(crate) fn add_invited_client(
    tx: &Tx<'_>,
    group: &GroupState,
    client_key: &PublicKey,
) -> Result<Option<Change>> {
    let mut invited = invited(tx, group)?.into_iter();
    let found = invited.find(|invited| invited.is_free && invited.client_key == *client_key);
    Ok(found.map(|invited| Change::Add(vec![invited.leaf_key])))
}

/// The reason why those who are invited cannot be added, after a commit that was to add them failed: the DS refused it, or this
/// device cannot make it and could make one without them. `None` for any other error.
pub(crate) fn why_not_added(tx: &Tx<'_>, id: &GroupId, error: &Error) -> Option<String> {
    if let Some(problem) = error.refusal() {
        return Some(problem.to_string());
    }
    let makes_another = || tx.trial(|| GroupState::load(tx, id)?.stage_commit(tx, &Change::Update));
    let is_theirs = matches!(error, Error::Mls { .. }) && makes_another().is_ok();
    is_theirs.then(|| error.to_string())
}

/// Somebody who is invited, and whose KeyPackage is at hand.
pub(crate) struct Invited {
    pub client_key: PublicKey,
    /// The leaf key of that KeyPackage.
    pub(super) leaf_key: PublicKey,
    pseudonym: Pseudonym,
    /// Whether nobody in the group has the pseudonym of the KeyPackage, and no admin had it. Anybody names one there: by this
    /// device's own they would come in as one of its user's devices, with all rights.
    pub is_free: bool,
}

/// The clients that are invited and whose KeyPackages are at hand, in the order of their invitations; each with the first one whose
/// pseudonym is free, if there is one. A device may have been removed since (AS-13).
pub(crate) fn invited(tx: &Tx<'_>, group: &GroupState) -> Result<Vec<Invited>> {
    let mut taken: HashSet<_> = rules::leaves(&group.mls).into_values().map(|leaf| leaf.pseudonym).collect();
    taken.extend(rules::policy(&group.mls)?.admins);
    let mut all = Vec::new();
    for client_key in invitations::of_group(tx, &group.id)? {
        if identity::confirmed(tx, &client_key)?.is_none() {
            continue;
        }
        let mut found = Vec::new();
        for (leaf_key, key_package) in key_packages::key_packages_of(tx, &client_key)? {
            if let Some(pseudonym) = rules::pseudonym(key_package.leaf_node().credential()) {
                let is_free = !taken.contains(&pseudonym);
                found.push(Invited { client_key, leaf_key, pseudonym, is_free });
            }
        }
        let chosen = found.iter().position(|it| it.is_free).unwrap_or_default();
        all.extend(found.into_iter().nth(chosen));
    }
    Ok(all)
}

/// The owner of a reserved KeyPackage is in the group: it is known there by its link, and
/// not invited any more. A KeyPackage is for one group: if another one waits for the same
/// client, another is fetched.
pub(super) fn welcome_member(tx: &Tx<'_>, group: &GroupId, leaf_key: &PublicKey) -> Result<()> {
    let Some((client_key, link)) = key_packages::use_key_package(tx, leaf_key)? else { return Ok(()) };
    record::introduce(tx, group)?;
    links::told(tx, group, leaf_key, &link)?;
    links::newcomer(tx, group, leaf_key)?;
    end_invitation(tx, group, &client_key)
}

/// Ends the invitation of a client into a group, whose KeyPackage is used up. Where other groups wait for the client another one
/// is fetched, if none is at hand.
pub(super) fn end_invitation(tx: &Tx<'_>, group: &GroupId, client_key: &PublicKey) -> Result<()> {
    invitations::end(tx, group, client_key)?;
    if let Some(user) = invitations::waits_for_client(tx, client_key)?
        && key_packages::key_package_of(tx, client_key)?.is_none()
    {
        invitations::want_key_packages(tx, &user)?;
    }
    Ok(())
}
