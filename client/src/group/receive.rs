//! Messages of a group that arrive in the group queue.

use std::collections::HashSet;

use openmls::prelude::{
    ContentType, LeafNodeIndex, MlsMessageBodyIn, ProcessMessageError, ProcessedMessageContent,
    ProtocolMessage, Sender, StagedCommit, ValidationError,
};
use openmls_traits::OpenMlsProvider as _;
use postern_protocol::{
    MlsMessage, PublicKey, ds::GroupId, encoding::Encoding, mls::to_join, name::UserName,
};

use super::{
    accounts, attributes,
    changes::commit_events,
    join,
    left_place::{self, Said},
    links::{self, Place},
    message::{ApplicationMessage, Content},
    onlooker,
    outstanding::{self, Kind},
    places, record, removed,
    rules::{self, Committer},
    state::GroupState,
    strayed,
};
use crate::{
    error::{Error, Rejection},
    event::{Event, Member},
    identity, mls,
    options::Options,
    profile::{self, SharedProfileKey, Source},
    store::Tx,
};

/// Lets a message take effect.
pub(crate) fn receive(tx: &Tx<'_>, queued: &MlsMessage, options: &Options) -> Result<(), Rejection> {
    let message: ProtocolMessage = match mls::parse(queued.as_bytes()) {
        Some(MlsMessageBodyIn::PublicMessage(message)) => message.into(),
        Some(MlsMessageBodyIn::PrivateMessage(message)) => message.into(),
        _ => return Err(Rejection::invalid("a queued message is no message of a group")),
    };
    let id = GroupId::from_mls(message.group_id().as_slice())
        .map_err(|_| Rejection::invalid("a message is for a group that is not Postern's"))?;
    let group = match GroupState::find(tx, &id) {
        Ok(Some(group)) => group,
        Ok(None) | Err(Error::NotMember) => {
            if join::keep_early(tx, &id, queued)? {
                return Ok(());
            }
            return Err(Rejection::invalid("a message is for a group this client is not in"));
        }
        Err(error) => return Err(error.into()),
    };
    let strayed = matches!(strayed::state(tx, &id)?, strayed::State::Strayed | strayed::State::ByHand);
    let is_handshake = message.is_handshake_message();
    let received = receive_in(tx, group, message, options);
    if received.is_ok() && is_handshake && outstanding::holds(tx, &id, Kind::Rejoin)? {
        // It may have come before this device's coming back, which is too late then.
        onlooker::keep(tx, queued)?;
    }
    match received {
        // The user was told that the group cannot be followed.
        Err(Rejection::Invalid(_) | Rejection::Unfit { .. }) if strayed => Err(Rejection::Unread),
        received => received,
    }
}

fn receive_in(
    tx: &Tx<'_>,
    mut group: GroupState,
    message: ProtocolMessage,
    options: &Options,
) -> Result<(), Rejection> {
    let (id, members) = (group.id.clone(), group.size());
    let (epoch, is_handshake) = (message.epoch().as_u64(), message.is_handshake_message());
    if epoch < group.epoch() {
        if is_handshake {
            if group.is_another_way(tx, &message)? {
                strayed::suspect(tx, &id, members, options)?;
            }
            return Ok(()); // Else it is a repeat of what was processed.
        }
        if let Some(Said { sender, content }) = left_place::open(tx, &id, &message)? {
            return receive_content(tx, &group, epoch, sender, &content);
        }
    }
    let known = group.epoch();
    let strays = |by_hand, reason: String| Rejection::Stray { group: id.clone(), by_hand, members, reason };
    let is_commit = message.content_type() == ContentType::Commit;
    if epoch.checked_sub(1) == Some(known) && group.mls.pending_commit().is_some() {
        // The epoch that our commit began, and no other commit before it: ours was accepted
        // and the answer was lost.
        group.confirm_commit(tx)?;
    }
    let processed = match group.mls.process_message(tx, message) {
        Ok(processed) => processed,
        Err(ProcessMessageError::StorageError(error)) => return Err(error.into()),
        Err(error) if !is_handshake && has_no_key(&error) => {
            if epoch >= group.opens_from(tx)? {
                return Ok(());
            }
            let title = record::title(tx, &id)?;
            return Err(Rejection::Invalid(format!(
                "a message in {title:?} came so late that this device does not have its keys"
            )));
        }
        // An epoch that no commit led to here, or a commit that the DS took and no member can.
        Err(error) if epoch > known || is_commit => {
            return Err(strays(false, error.to_string()));
        }
        Err(error) => {
            // The DS waits for a commit of what members do not know.
            let reason = error.to_string();
            return Err(if is_handshake {
                Rejection::Doubt { group: id, reason }
            } else if group.is_at_home()? || outstanding::holds(tx, &id, Kind::Rejoin)? {
                // The own homeserver tells that it was restored; and a coming back may be too late.
                Rejection::Invalid(reason)
            } else {
                Rejection::Unfit { group: id, members, reason }
            });
        }
    };
    if outstanding::holds(tx, &id, Kind::Rejoin)? {
        // A message that opens in the epoch that our coming back began, with the answer lost.
        group.came_back(tx)?;
    }
    let (epoch, voucher) = (processed.epoch().as_u64(), processed.aad().to_vec());
    group.came(tx, epoch)?;
    let key = |bytes: &[u8]| {
        mls::public_key(bytes).ok_or_else(|| Rejection::invalid("a member's key is malformed"))
    };
    let sender = match processed.sender() {
        Sender::Member(leaf) => {
            // When a message is late, another member may sit there by now, also a device of the same user, or nobody.
            let is_sender = |found: &openmls::prelude::Member| found.credential == *processed.credential();
            let leaf_key = match removed::leaf_key(tx, &id, *leaf, epoch, processed.credential())? {
                Some((leaf_key, true)) => Some(leaf_key),
                // A device that others removed speaks no more, unless it came back.
                Some((leaf_key, false)) => Some(leaf_key).filter(|it| group.member(it).is_some()),
                None => {
                    let member = group.mls.member_at(*leaf).filter(is_sender);
                    member.map(|member| key(&member.signature_key)).transpose()?
                }
            };
            let from_nobody = || Rejection::invalid("a message is from nobody in the group");
            Some((*leaf, leaf_key.ok_or_else(from_nobody)?))
        }
        _ => None,
    };
    match (processed.into_content(), sender) {
        (ProcessedMessageContent::ApplicationMessage(message), Some((_, sender))) => {
            receive_content(tx, &group, epoch, sender, &message.into_bytes())
        }
        (ProcessedMessageContent::StagedCommitMessage(commit), Some((leaf, sender))) => {
            rules::check_commit(group.mls.public_group(), &commit, &Committer::Member(leaf))
                .map_err(|reason| strays(true, reason.to_owned()))?;
            receive_commit(tx, group, sender, *commit)
        }
        (ProcessedMessageContent::StagedCommitMessage(commit), None) => {
            let leaf = commit
                .update_path_leaf_node()
                .ok_or_else(|| Rejection::invalid("who joins brings a leaf"))?;
            let leaf_key = key(leaf.signature_key().as_slice())?;
            let signed = to_join(&group.id, epoch, &leaf_key);
            let by = Committer::Joiner { signed: &signed, voucher };
            rules::check_commit(group.mls.public_group(), &commit, &by)
                .map_err(|reason| strays(true, reason.to_owned()))?;
            receive_commit(tx, group, leaf_key, *commit)
        }
        // One of the server's asks that somebody be removed; members are to commit it.
        (ProcessedMessageContent::ProposalMessage(proposal), _) => {
            rules::check_proposal(&group.mls, &proposal).map_err(Rejection::invalid)?;
            group.mls.store_pending_proposal(tx.storage(), *proposal)?;
            if group.is_to_go() {
                // This device is here: it looks, and comes back. With that, the proposal lapses.
                strayed::doubt(tx, &id)?;
            }
            if group.is_only_one_to_commit() {
                return Ok(record::urgent(tx, &id)?);
            }
            Ok(record::proposed(tx, &id)?)
        }
        (ProcessedMessageContent::OwnPendingCommit, _) => Ok(group.confirm_commit(tx)?),
        _ => Err(Rejection::invalid("a message is of a kind that has no place here")),
    }
}

fn receive_commit(
    tx: &Tx<'_>,
    mut group: GroupState,
    by: PublicKey,
    commit: StagedCommit,
) -> Result<(), Rejection> {
    let by = Member::unknown(by);
    let left = commit.self_removed();
    let own_user = group.of_same_users(&[group.leaf.public_key()]);
    let by_own_user = own_user.contains(&by.leaf_key);
    if left {
        let epoch = commit.epoch().as_u64();
        Event::Left { group: group.id.clone(), epoch, by }.record(tx)?;
    } else {
        for event in commit_events(&group.id, &group.mls, by, &commit) {
            event.record(tx)?;
        }
    }
    let (taken, outline) = (places::taken_by(&group.mls, &commit), group.outline()?);
    let leaves = commit.queued_proposals().filter_map(rules::removed_leaf);
    let gone: Vec<_> = leaves.filter_map(|leaf| group.mls.member_at(LeafNodeIndex::new(leaf))).collect();
    removed::note(tx, &group.id, group.epoch(), &gone, false)?;
    let lost_commit = group.mls.pending_commit().is_some();
    group.note_user_key(tx)?;
    group.mls.merge_staged_commit(tx, commit).map_err(Error::mls("cannot apply a commit"))?;
    group.commit_passed(tx)?;
    if !taken.is_empty() {
        places::follow(tx, &group, &taken)?;
    }
    if lost_commit {
        outstanding::forget(tx, &group.id, Kind::Commit)?;
    }
    record::settled(tx, &group.id)?;
    strayed::moved(tx, &group.id)?;
    onlooker::forget(tx, &group.id)?;
    // All that was said there came before.
    left_place::forget(tx, &group.id)?;
    if !left {
        links::forget_departed(tx, &group)?;
        group.follow_user_key(tx)?;
        group.retell_what_changed(tx, &outline)?;
        group.hear_what_waited(tx)?;
    } else if by_own_user {
        // Another device of this user wants it so: none brings this one in again.
        group.quit(tx)?;
    } else {
        group.end(tx)?;
    }
    Ok(())
}

fn receive_content(
    tx: &Tx<'_>,
    group: &GroupState,
    epoch: u64,
    sender: PublicKey,
    content: &[u8],
) -> Result<(), Rejection> {
    let message: ApplicationMessage = Encoding::Cbor
        .decode(content)
        .map_err(|_| Rejection::invalid("a message's content is not what Postern's clients send"))?;
    let place = links::take_number(tx, &group.id, &sender, message.number)?;
    // A false link takes the sender's name, not its message: the MLS signature is good.
    match place {
        Place::Before => return Ok(()),
        Place::Latest => links::shown(tx, &group.id, &sender, &message.link)?,
        Place::Late => links::told(tx, &group.id, &sender, &message.link)?,
    }
    let link = links::link(tx, &group.id, &sender)?;
    let shown = link.as_ref().and_then(|link| link.claim(&group.id, &sender));
    if let Some(claim) = &shown {
        identity::told(tx, &claim.user, &claim.client_key, &message.eid)?;
    }
    // Only of a client that the AS confirmed: nobody speaks of another's profile.
    if let Some(claim) = shown
        && let Some(user) = identity::confirmed(tx, &claim.client_key)?
    {
        receive_profile(tx, &user, &claim.client_key, &message)?;
        if claim.user != user {
            accounts::hint(tx, &user, Some(&claim.user))?;
        } else if message.content == Content::Gone {
            accounts::hint(tx, &user, None)?;
        }
    } else if let Some(link) = &link {
        let profile_key = message.profile_key.as_ref();
        links::told_profile_key(tx, &group.id, &sender, link, profile_key, (&sender, true))?;
    }
    match message.content {
        Content::Text(text) => {
            Event::Message { group: group.id.clone(), epoch, sender: Member::unknown(sender), text }
                .record(tx)?;
        }
        Content::Introduction { title, titled, roster, attributes_key } => {
            // Only of members: there is no end of leaves and names that somebody can make up.
            let members: HashSet<PublicKey> = group.leaf_keys().collect();
            for entry in roster.iter().filter(|entry| members.contains(&entry.leaf_key)) {
                links::told(tx, &group.id, &entry.leaf_key, &entry.link)?;
                let (profile_key, by) = (entry.profile_key.as_ref(), (&sender, false));
                links::told_profile_key(tx, &group.id, &entry.leaf_key, &entry.link, profile_key, by)?;
            }
            // Title and key are one for all members: only admins give them. A late key may not be the present one.
            if let Some(key) = attributes_key
                && place == Place::Latest
                && group.is_admin(&sender)
            {
                record::keep_attributes_key(tx, &group.id, &key)?;
                group.learn(tx, &attributes::take(tx, &group.id)?)?;
            }
            receive_title(tx, group, epoch, sender, title, titled)?;
        }
        Content::Title { title, titled } => receive_title(tx, group, epoch, sender, title, titled)?,
        Content::Present | Content::Gone => {}
    }
    Ok(())
}

/// Takes what a device of a user says of the user's profile: the key, if it was made by the time that the device knows of,
/// and a hint that the AS has a later version.
fn receive_profile(
    tx: &Tx<'_>,
    user: &UserName,
    teller: &PublicKey,
    message: &ApplicationMessage,
) -> Result<(), Rejection> {
    let of_its_time = |key: &&SharedProfileKey| key.edition.is_by(&message.eid);
    let (incarnation, version) = (message.eid.incarnation, message.profile_version);
    let mut is_news = profile::claimed(tx, user, teller, incarnation, version)?;
    if let Some(key) = message.profile_key.as_ref().filter(of_its_time) {
        // A user that not everybody can look up may be found with it.
        is_news |= profile::keep_key(tx, user, key, Source::User)?;
    }
    if is_news {
        accounts::look_again(tx, user)?;
    }
    Ok(())
}

/// Takes a title from an admin. That of another member is shown as its own, and changes nothing.
fn receive_title(
    tx: &Tx<'_>,
    group: &GroupState,
    epoch: u64,
    sender: PublicKey,
    title: String,
    titled: u64,
) -> Result<(), Rejection> {
    let id = &group.id;
    if title.is_empty() {
        return Ok(());
    }
    if !group.is_admin(&sender) {
        if title != record::title(tx, id)? {
            let by = Member::unknown(sender);
            Event::TitleProposed { group: id.clone(), epoch, by, title }.record(tx)?;
        }
        return Ok(());
    }
    if record::retitle(tx, id, &title, titled, epoch)? {
        Event::Titled { group: id.clone(), title }.record(tx)?;
    }
    Ok(())
}

/// Whether the key of a message is gone: it was opened before, since openmls opens each once, or this device does not have the
/// secrets of its epoch. openmls does not export the type that says so.
fn has_no_key(error: &ProcessMessageError<rusqlite::Error>) -> bool {
    let ProcessMessageError::ValidationError(ValidationError::UnableToDecrypt(reason)) = error else {
        return false;
    };
    format!("{reason:?}").starts_with("SecretTreeError")
}
