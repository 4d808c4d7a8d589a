//! Events that a client tells its user. Each is kept in the store from the transaction that caused
//! it until it was told, so that a crash or a closed pipe loses none.

use std::fmt;

use postern_protocol::{
    PublicKey,
    ds::GroupId,
    name::{Domain, UserName},
    qs::QueueKind,
};
use rusqlite::OptionalExtension as _;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    history,
    store::{Tx, integer},
};

/// One member's device in a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The key it signs with in this group (Ed25519); a KeyPackage of last resort has the same in
    /// several.
    pub leaf_key: PublicKey,
    /// The device's key at the AS; absent until the member introduced itself.
    pub client_key: Option<PublicKey>,
    /// The user that it says it belongs to; absent until it introduced itself.
    pub user: Option<UserName>,
    /// Whether the AS confirmed that.
    pub verified: bool,
}

/// Something that happened. `epoch` is the group's, in which the message was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A member said something.
    Message { group: GroupId, epoch: u64, sender: Member, text: String },
    /// This device was added to a group.
    Joined { group: GroupId },
    /// The group's title became known.
    Titled { group: GroupId, title: String },
    /// A member added others.
    Added { group: GroupId, epoch: u64, by: Member, members: Vec<Member> },
    /// A member removed others, or committed that they left.
    Removed { group: GroupId, epoch: u64, by: Member, members: Vec<Member> },
    /// A member renewed its keys.
    Updated { group: GroupId, epoch: u64, by: Member },
    /// This device was removed and reads nothing from now on.
    Left { group: GroupId, epoch: u64, by: Member },
    /// A member that is no admin calls the group something else. The title stays as it is.
    TitleProposed { group: GroupId, epoch: u64, by: Member, title: String },
    /// A member changed who the admins are: now these.
    AdminsChanged { group: GroupId, epoch: u64, by: Member, admins: Vec<Member> },
    /// A message of this device was refused by the server, or its group is over. It is not kept any
    /// more.
    Unsent { group: GroupId, text: String, reason: String },
    /// The server refused to make a group.
    Unfounded { group: GroupId, title: String, reason: String },
    /// The server refused to let this device leave a group.
    StillIn { group: GroupId, reason: String },
    /// This device cannot shut devices out of a group that are its user's no more: the server refuses it, or others' commits
    /// come first again and again. Those devices may read on, or come in again. This device goes on trying, more and more
    /// seldom.
    NotShutOut { group: GroupId, reason: String },
    /// A message or change of this device was accepted, but did not reach so many of the members'
    /// devices: their mailboxes are full or gone.
    Undelivered { group: GroupId, members: u32 },
    /// This device cannot follow a group any more: it missed a change, or cannot accept one. It comes
    /// back by itself, unless `by_hand`: then the server let something happen that the group's rules
    /// forbid, and the user decides.
    CannotFollow { group: GroupId, by_hand: bool, reason: String },
    /// This device came back into a group. What was said meanwhile cannot be read.
    Returned { group: GroupId, epoch: u64 },
    /// Members that came and went while this device could not follow the group. One that came and is unknown is a member's
    /// further device, unless the user accepted it as a stranger.
    Changed { group: GroupId, epoch: u64, added: Vec<Member>, removed: Vec<Member> },
    /// While this device could not follow the group, these came in, or became admins, and it cannot tell
    /// by whose will: a member and the server together may have made them up. This device does not come
    /// back until its user takes the group as the server has it. Nor does it come into a group that another device of its user's
    /// handed over (`coming_in`), until that one tells of them, or its user takes them; a user who does not blocks the group.
    Strangers {
        group: GroupId,
        strangers: Vec<Member>,
        admins: Vec<Member>,
        removed: Vec<Member>,
        coming_in: bool,
    },
    /// These were in the group when this device joined, or were admins there, and another device of its user, which told of the
    /// group as it was before, did not know so. They came meanwhile, or became admins; or a server and a member made up the group
    /// that this device is in. It stays there, and this is told once.
    Untold { group: GroupId, strangers: Vec<Member>, admins: Vec<Member> },
    /// Another device of this user, as it told last, and this one are not in one group: the one knows this epoch otherwise, or the
    /// server shows this one none so late. The server was restored to an earlier state, from where one of the two did not go on
    /// when that was told; or it shows one of them, with a member perhaps, a group that is made up. This device stays where it is,
    /// and this is told once, until the two are in one group again, or this device comes back.
    Divided { group: GroupId, epoch: u64 },
    /// Users that are admins and were not when this device last knew, which its user accepted.
    AdminsFound { group: GroupId, epoch: u64, admins: Vec<Member> },
    /// A member's user began its identity anew, as the AS shows (AS-8). It counts as unknown until a person
    /// accepts it. `name` is as in [`Self::IdentityReset`].
    MemberReset { group: GroupId, user: UserName, name: Option<UserName> },
    /// A member's user has another name now, as the AS confirms.
    MemberRenamed { group: GroupId, user: UserName, name: UserName },
    /// A member's user shows another name to members, as the AS confirms; empty: none any more. Its user name is the
    /// same.
    MemberDisplayName { group: GroupId, user: UserName, display_name: String },
    /// A member's user ended its account: a device of it said so, and the AS knows nobody of that name.
    MemberGone { group: GroupId, user: UserName },
    /// The AS has shown nobody of a member's name for a month, and no device of the user said why: the account was ended by
    /// the operator or was silent for too long, or has another name of which this device was not told, or hides.
    MemberMissing { group: GroupId, user: UserName },
    /// This device could not come back into a group. It goes on trying, more and more seldom.
    Broken { group: GroupId, reason: String },
    /// The server has a mailbox of this device no more, with whatever waited in it: nobody fetched it for long, or the
    /// server was restored to an earlier state. Another one takes its place, and this device comes back into its
    /// groups.
    MailboxReplaced { kind: QueueKind },
    /// The server was restored to an earlier state: what came to this mailbox in the lost time is gone, and what this
    /// device did in it. This device tells the server again, and comes back into groups that it is ahead of.
    Restored { kind: QueueKind },
    /// The server had no room for messages to this device: of this group, or of any if none is named.
    Lost { group: Option<GroupId> },
    /// A user asks to be allowed to add this one to groups (AS-12), and waits for a decision unless the request was
    /// `accepted` as this client was told to. One that is not `verified` may be from anybody, and cannot be accepted.
    ContactRequested { user: UserName, verified: bool, accepted: bool },
    /// A user allows this one to add all of their devices to groups.
    ContactAnswered { user: UserName },
    /// A user does not allow this one to add them to groups.
    ContactDeclined { user: UserName },
    /// A contact deleted their account (AS-11): a device of theirs said so, and the AS knows nobody of that name.
    ContactDeleted { user: UserName },
    /// The AS knows nobody of a contact's name any more: the account was deleted, or has another name of which this device
    /// was not told, or the contact hides from this user.
    ContactMissing { user: UserName },
    /// The contact queue of a user's device is gone or full.
    ContactUnreachable { user: UserName },
    /// A user's identity was begun anew. The user counts as unknown until a person accepts it (AS-8). Those that began it anew
    /// call it something else by now, if there is a `name`: nobody that is known says so, and the user is kept by the old one
    /// until a person accepts that, too. Then [`Self::Renamed`] follows. It is told again with each other such name.
    IdentityReset { user: UserName, name: Option<UserName> },
    /// The AS shows another history of a user's devices than it showed before, or than it shows others.
    IdentitySplit { user: UserName },
    /// An AS hides a known user: for a day it has shown nothing of the user that holds, though it is there, but an older state than
    /// before, say, or a refusal. The user may be this device's own. What was seen before goes on to count, so a device that was
    /// removed since may, too. Or the AS was restored to an earlier state, or this machine's clock is wrong.
    IdentityHidden { user: UserName },
    /// A user, who may be this device's own, has another name; the user is the same (AS-9): devices say so that are known as
    /// the user's.
    Renamed { from: UserName, to: UserName },
    /// A user shows another name, to everybody or to those that have the profile key; empty: none any more. The user name
    /// is the same (AS-11).
    DisplayName { user: UserName, display_name: String },
    /// A user has another device.
    DeviceAdded { user: UserName, device: PublicKey },
    /// A device is a user's no more.
    DeviceRemoved { user: UserName, device: PublicKey },
    /// The server deleted messages before this device fetched them: they had waited for too long.
    /// A group whose commits were among them cannot be followed any more.
    Expired { messages: u64 },
    /// The server shows this device other keys than it shows to strangers, and could tell its user by them
    /// (AAS-7). `keys` says which. Nothing is done with them.
    KeysDiffer { keys: String },
    /// The server has kept its keys from being compared with those that it shows others for a day, though it is there for
    /// everything else: it could tell its user by them (AAS-7). Or this machine's clock is wrong, by which nothing that it
    /// shows is valid now. `keys` says which.
    KeysHidden { keys: String },
    /// The server shows keys again of which [`Self::KeysHidden`] told, and they are good.
    KeysShown { keys: String },
    /// The root of a domain is another one than before, or gone. No credential of it counts until a
    /// person accepts that.
    RootChanged { domain: Domain },
    /// The homeserver of another domain shows keys that none of those before vouches for: it lost them, or somebody, as
    /// the own homeserver, passes for it. Nothing is sent there until a person accepts them (FED-1).
    HomeserverKeysDiffer { domain: Domain },
    /// Something that came in was invalid and had no effect.
    Ignored { reason: String },
}

/// A message or event of a group that was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HistoryEntry {
    /// When this device got it, in seconds since 1970.
    pub time: u64,
    /// The same in this computer's time zone: `2026-11-29 18:04`.
    pub local_time: String,
    /// A message, of this device's own, too ([`Event::Message`]), or another event.
    pub event: Event,
}

/// The place of an event in the order of telling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventId(u64);

impl Member {
    /// A member of which nothing but its key is known.
    pub(crate) const fn unknown(leaf_key: PublicKey) -> Self {
        Self { leaf_key, client_key: None, user: None, verified: false }
    }
}

impl Event {
    /// The group it is about.
    pub fn group(&self) -> Option<&GroupId> {
        match self {
            Self::Message { group, .. }
            | Self::Joined { group }
            | Self::Titled { group, .. }
            | Self::Added { group, .. }
            | Self::Removed { group, .. }
            | Self::Updated { group, .. }
            | Self::Left { group, .. }
            | Self::TitleProposed { group, .. }
            | Self::AdminsChanged { group, .. }
            | Self::Unsent { group, .. }
            | Self::Unfounded { group, .. }
            | Self::StillIn { group, .. }
            | Self::NotShutOut { group, .. }
            | Self::Undelivered { group, .. }
            | Self::CannotFollow { group, .. }
            | Self::Returned { group, .. }
            | Self::Changed { group, .. }
            | Self::Strangers { group, .. }
            | Self::Untold { group, .. }
            | Self::Divided { group, .. }
            | Self::AdminsFound { group, .. }
            | Self::MemberReset { group, .. }
            | Self::MemberRenamed { group, .. }
            | Self::MemberDisplayName { group, .. }
            | Self::MemberGone { group, .. }
            | Self::MemberMissing { group, .. }
            | Self::Broken { group, .. }
            | Self::Lost { group: Some(group) } => Some(group),
            Self::ContactRequested { .. }
            | Self::ContactAnswered { .. }
            | Self::ContactDeclined { .. }
            | Self::ContactDeleted { .. }
            | Self::ContactMissing { .. }
            | Self::ContactUnreachable { .. }
            | Self::IdentityReset { .. }
            | Self::IdentitySplit { .. }
            | Self::IdentityHidden { .. }
            | Self::Renamed { .. }
            | Self::DisplayName { .. }
            | Self::DeviceAdded { .. }
            | Self::DeviceRemoved { .. }
            | Self::Expired { .. }
            | Self::MailboxReplaced { .. }
            | Self::Restored { .. }
            | Self::Lost { group: None }
            | Self::KeysDiffer { .. }
            | Self::KeysHidden { .. }
            | Self::KeysShown { .. }
            | Self::RootChanged { .. }
            | Self::HomeserverKeysDiffer { .. }
            | Self::Ignored { .. } => None,
        }
    }

    pub(crate) fn ignored(reason: impl Into<String>) -> Self {
        Self::Ignored { reason: reason.into() }
    }

    /// Keeps the event to be told, and one of a group in the group's history.
    pub(crate) fn record(&self, tx: &Tx<'_>) -> Result<()> {
        let event = self.to_json()?;
        if let Some(group) = self.group() {
            history::keep(tx, group, &event)?;
        }
        tx.sql().prepare_cached("INSERT INTO events (event) VALUES (?1)")?.execute([event])?;
        Ok(())
    }

    /// Keeps the event of a group in the group's history.
    pub(crate) fn remember(&self, tx: &Tx<'_>) -> Result<()> {
        match self.group() {
            Some(group) => history::keep(tx, group, &self.to_json()?),
            None => Ok(()),
        }
    }

    /// JSON, because CBOR's byte strings do not survive an internally tagged enum.
    fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|_| Error::Damaged("an event"))
    }

    pub(crate) fn from_json(event: &str) -> Result<Self> {
        serde_json::from_str(event).map_err(|_| Error::Damaged("an event"))
    }

    pub(crate) fn members_mut(&mut self) -> Vec<&mut Member> {
        match self {
            Self::Message { sender: by, .. }
            | Self::Updated { by, .. }
            | Self::Left { by, .. }
            | Self::TitleProposed { by, .. } => vec![by],
            Self::Added { by, members, .. }
            | Self::Removed { by, members, .. }
            | Self::AdminsChanged { by, admins: members, .. } => members.iter_mut().chain([by]).collect(),
            Self::Changed { added, removed, .. } => added.iter_mut().chain(removed).collect(),
            Self::Strangers { strangers, admins, removed, .. } => {
                strangers.iter_mut().chain(admins).chain(removed).collect()
            }
            Self::Untold { strangers, admins, .. } => strangers.iter_mut().chain(admins).collect(),
            Self::AdminsFound { admins, .. } => admins.iter_mut().collect(),
            _ => Vec::new(),
        }
    }
}

/// Events that were not told yet, oldest first. Members are as they were known when it was recorded.
pub(crate) fn pending(tx: &Tx<'_>) -> Result<Vec<(EventId, Event)>> {
    let mut statement = tx.sql().prepare_cached("SELECT id, event FROM events ORDER BY id")?;
    let rows = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<Vec<(u64, String)>, _>>()?;
    rows.into_iter().map(|(id, event)| Ok((EventId(id), Event::from_json(&event)?))).collect()
}

/// Forgets events that were told.
pub(crate) fn forget(tx: &Tx<'_>, up_to: EventId) -> Result<()> {
    tx.sql().execute("DELETE FROM events WHERE id <= ?1", [integer(up_to.0)])?;
    Ok(())
}

/// The newest event that was not told yet.
pub(crate) fn last(tx: &Tx<'_>) -> Result<Option<EventId>> {
    Ok(tx
        .sql()
        .query_row("SELECT max(id) FROM events", [], |row| row.get::<_, Option<u64>>(0))
        .optional()?
        .flatten()
        .map(EventId))
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.user {
            Some(user) if self.verified => write!(f, "{user}"),
            Some(user) => write!(f, "{user} (not verified)"),
            None => f.write_str("somebody (not introduced)"),
        }
    }
}
