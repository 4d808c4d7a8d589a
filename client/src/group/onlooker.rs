//! Commits and proposals of a group that this device could not follow, and what their signatures prove all the same: by
//! whose will a device came in. Whoever comes back sees the tree that the server shows, in which a leaf does not say who
//! let it in; the commit that brought it does. An onlooker checks that without a secret of the group, as the DS does. Owns
//! the tables `unfollowed` and `onlookers`.
//!
//! The rules of `rules.rs` are not checked here, on purpose: the DS enforces rights, and who is an admin is compared when this
//! device comes back. A leaf becomes trusted in two ways alone. Its pseudonym is that of a trusted device, and that device, or
//! the user's key as trusted devices have it, signed for the leaf. Or nobody had its pseudonym, and a trusted device of a user
//! signed for it who was an admin when this device knew the group last, and in each epoch since. So a commit that breaks the
//! rules brings no ghost in, neither into anybody's place nor by making its maker an admin: a device of the same user has to sign
//! for that, or one whose user may bring anybody in.
//!
//! The messages that are kept are bounded, for each group and for all together. The devices that are trusted in a group are not
//! bounded until this device is back there: only members of a group add to them, and pay for each message.

use std::{
    collections::{HashMap, HashSet},
    sync::PoisonError,
};

use openmls::prelude::{
    GroupId as MlsGroupId, LeafNodeIndex, MlsMessageBodyIn, ProcessedMessageContent, Proposal, ProposalStore,
    ProtocolMessage, PublicGroup, RatchetTreeIn, Sender, StagedCommit,
};
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::{
    OpenMlsProvider as _,
    storage::{CURRENT_VERSION, Entity, StorageProvider, traits},
};
use postern_protocol::{
    MlsMessage, Payload, Signature,
    ds::{CurrentGroup, GroupId, SubmitMessage},
    encoding::Encoding,
    mls::{Pseudonym, to_join},
};
use rusqlite::{OptionalExtension as _, params};
use serde::{Deserialize, Serialize};
use tls_codec::Deserialize as _;

use super::{
    late_commit,
    outstanding::{self, Kind},
    places::UsersLeaf,
    record,
    rules::{self, Leaf},
    state::GroupState,
};
use crate::{
    error::{Error, Result},
    mls,
    store::{Tx, decode, encode},
};

/// The most messages of a group, and bytes of them, that are kept as they came. With one more, what they prove is kept in
/// their place: a member cannot send so many that nothing is proved any more.
const MOST: u64 = 1000;
const MOST_BYTES: u64 = 8 * 1024 * 1024;
/// The same of all groups together.
const MOST_OF_ALL: u64 = 4 * MOST;
const MOST_BYTES_OF_ALL: u64 = 4 * MOST_BYTES;

/// The public state of a group, and whom this device trusts there.
pub(super) struct Onlooker {
    id: GroupId,
    /// Keeps in memory what the group becomes.
    provider: OpenMlsRustCrypto,
    group: PublicGroup,
    /// The devices that were there when this one knew the group last, and those that they let in, without those that went.
    trusted: HashSet<UsersLeaf>,
    /// The users who were admins when this device knew the group last, and are since: another one may have made itself an admin.
    admins: HashSet<Pseudonym>,
}

/// Keeps a commit or proposal of a group that this device is in, which had no effect here.
pub(crate) fn keep(tx: &Tx<'_>, message: &MlsMessage) -> Result<()> {
    let Some(MlsMessageBodyIn::PublicMessage(public)) = mls::parse(message.as_bytes()) else { return Ok(()) };
    let public: ProtocolMessage = public.into();
    let Ok(id) = GroupId::from_mls(public.group_id().as_slice()) else { return Ok(()) };
    if !matches!(record::find(tx, &id)?, Some((_, true))) {
        return Ok(());
    }
    let sql = "SELECT count(*), coalesce(sum(length(message)), 0) FROM unfollowed WHERE group_id = ?1";
    let (messages, bytes): (u64, u64) =
        tx.sql().query_row(sql, [id.to_mls()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if messages >= MOST || bytes >= MOST_BYTES {
        fold(tx, &id)?;
    }
    while let Some(largest) = largest_of_too_many(tx)? {
        fold(tx, &largest)?;
    }
    if let Some(own) = own_commit_before(tx, &id, public.epoch().as_u64())? {
        insert(tx, &id, &own)?;
    }
    insert(tx, &id, message)
}

/// The group of which the most is kept, if too much is kept of all together.
fn largest_of_too_many(tx: &Tx<'_>) -> Result<Option<GroupId>> {
    let sql = "SELECT count(*), coalesce(sum(length(message)), 0) FROM unfollowed";
    let (messages, bytes): (u64, u64) =
        tx.sql().prepare_cached(sql)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if messages < MOST_OF_ALL && bytes < MOST_BYTES_OF_ALL {
        return Ok(None);
    }
    let sql = "SELECT group_id FROM unfollowed GROUP BY group_id ORDER BY sum(length(message)) DESC LIMIT 1";
    let id: Option<Vec<u8>> = tx.sql().query_row(sql, [], |row| row.get(0)).optional()?;
    id.map(|id| GroupId::from_mls(&id).map_err(|_| Error::Damaged("a group id"))).transpose()
}

/// The commit of this device that began an epoch, if the DS took it: its answer is outstanding, and a message came that is of
/// the next epoch. `None` for one that is kept already.
fn own_commit_before(tx: &Tx<'_>, id: &GroupId, epoch: u64) -> Result<Option<MlsMessage>> {
    let made_in = epoch.checked_sub(1);
    let request = outstanding::find(tx, id)?;
    let request = request.filter(|it| it.kind == Kind::Commit && Some(it.epoch) == made_in);
    let Some(request) = request else { return Ok(None) };
    let SubmitMessage { message, .. } =
        Encoding::Cbor.decode(&request.body).map_err(|_| Error::Damaged("a request"))?;
    let sql = "SELECT EXISTS (SELECT 1 FROM unfollowed WHERE group_id = ?1 AND message = ?2)";
    let is_kept: bool = tx
        .sql()
        .prepare_cached(sql)?
        .query_row(params![id.to_mls(), message.as_bytes()], |row| row.get(0))?;
    Ok((!is_kept).then_some(message))
}

/// Keeps what the messages of a group prove, and no longer these.
pub(super) fn fold(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    let onlooker = Onlooker::of(tx, id)?;
    tx.sql().execute("DELETE FROM unfollowed WHERE group_id = ?1", [id.to_mls()])?;
    onlooker.map_or(Ok(()), |onlooker| onlooker.save(tx))
}

/// Notes the group as the DS showed it and this device took it, which is about to come back, with the leaves that it took. If
/// it comes too late, what changed meanwhile goes on from there: also what came already while it looked names up. Where the
/// onlooker who saw all that came is further than the DS was, or the group cannot be looked at as the DS showed it, that
/// onlooker stays.
pub(super) fn start_from(
    tx: &Tx<'_>,
    id: &GroupId,
    current: &CurrentGroup,
    seen: Option<Onlooker>,
    taken: &HashMap<u32, Leaf>,
) -> Result<()> {
    let shown_at = GroupState::epoch_of(current)?;
    let came = kept(tx, id)?;
    forget(tx, id)?;
    let is_further = seen.as_ref().is_some_and(|seen| seen.epoch() > shown_at);
    if let Some(shown) = Onlooker::shown(id, current).filter(|_| !is_further) {
        shown.save(tx)?;
        let goes_on = |message: &&MlsMessage| {
            epoch(message).is_some_and(|epoch| epoch >= shown_at) && !current.proposals.contains(message)
        };
        let mut messages = current.proposals.iter().chain(came.iter().filter(goes_on));
        return messages.try_for_each(|message| insert(tx, id, message));
    }
    let Some(mut seen) = seen else { return Ok(()) };
    seen.trusted.extend(taken.values().map(place));
    seen.save(tx)
}

/// Forgets what was kept of a group: this device follows it again, or is out.
pub(super) fn forget(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    tx.sql().prepare_cached("DELETE FROM unfollowed WHERE group_id = ?1")?.execute([id.to_mls()])?;
    tx.sql().prepare_cached("DELETE FROM onlookers WHERE group_id = ?1")?.execute([id.to_mls()])?;
    Ok(())
}

impl Onlooker {
    /// The onlooker of a group, who saw all that is kept of it. `None` where nothing is known to start from. A message that
    /// does not go on from the one before it proves nothing.
    pub(super) fn of(tx: &Tx<'_>, id: &GroupId) -> Result<Option<Self>> {
        let Some(mut onlooker) = Self::start(tx, id)? else { return Ok(None) };
        for message in kept(tx, id)? {
            if onlooker.follow(&message).is_none() {
                tracing::debug!("a message of a group does not go on from the one before it");
            }
        }
        Ok(Some(onlooker))
    }

    /// The devices that users whom this device knows in the group have in their own places, with those that they let in since
    /// it could not follow, and those of users whom admins added, as far as the messages prove it that came.
    pub(super) fn trusted(&self) -> &HashSet<UsersLeaf> {
        &self.trusted
    }

    pub(super) fn epoch(&self) -> u64 {
        self.group.group_context().epoch().as_u64()
    }

    /// The group as this device took it last: as it was kept, or as this device could follow it.
    fn start(tx: &Tx<'_>, id: &GroupId) -> Result<Option<Self>> {
        let provider = OpenMlsRustCrypto::default();
        let mls_id = MlsGroupId::from_slice(&id.to_mls());
        let saved: Option<Vec<u8>> = tx
            .sql()
            .query_row("SELECT state FROM onlookers WHERE group_id = ?1", [id.to_mls()], |row| row.get(0))
            .optional()?;
        let Some(saved) = saved else {
            let Some(group) = PublicGroup::load(tx.storage(), &mls_id)? else { return Ok(None) };
            copy(tx, &group, provider.storage())?;
            let trusted = leaves(&group).iter().map(place).collect();
            let admins = admins(&group);
            return Ok(Some(Self { id: id.clone(), provider, group, trusted, admins }));
        };
        let (entries, trusted, admins): (Vec<(Payload, Payload)>, Vec<UsersLeaf>, Vec<Pseudonym>) =
            decode(&saved, "what is known of a group that cannot be followed")?;
        let entries = entries.into_iter().map(|(key, value)| (key.into_bytes(), value.into_bytes()));
        *provider.storage().values.write().unwrap_or_else(PoisonError::into_inner) = entries.collect();
        let group = PublicGroup::load(provider.storage(), &mls_id).ok().flatten();
        let (trusted, admins) = (trusted.into_iter().collect(), admins.into_iter().collect());
        Ok(group.map(|group| Self { id: id.clone(), provider, group, trusted, admins }))
    }

    /// The group as the DS showed it. `None` for one that does not verify: openmls refuses here, too, what a commit by which
    /// this device comes back may have, a leaf whose KeyPackage has ended, as this device's clock has it. Nor is one looked at in
    /// which a member's leaf cannot be read.
    fn shown(id: &GroupId, current: &CurrentGroup) -> Option<Self> {
        let provider = OpenMlsRustCrypto::default();
        let MlsMessageBodyIn::GroupInfo(info) = mls::parse(current.group_info.as_bytes())? else {
            return None;
        };
        let tree = RatchetTreeIn::tls_deserialize_exact(current.ratchet_tree.as_bytes()).ok()?;
        let (crypto, storage) = (provider.crypto(), provider.storage());
        let (group, _) =
            PublicGroup::from_external(crypto, storage, tree, info, ProposalStore::new()).ok()?;
        rules::check_members(&group).ok()?;
        let trusted = leaves(&group).iter().map(place).collect();
        Some(Self { id: id.clone(), provider, trusted, admins: admins(&group), group })
    }

    /// Keeps what the onlooker knows in place of the messages that it saw.
    fn save(&self, tx: &Tx<'_>) -> Result<()> {
        let storage = self.provider.storage();
        let entry =
            |(key, value): (&Vec<u8>, &Vec<u8>)| (Payload::new(key.clone()), Payload::new(value.clone()));
        let values = storage.values.read().unwrap_or_else(PoisonError::into_inner);
        let entries: Vec<_> = values.iter().map(entry).collect();
        let trusted: Vec<_> = self.trusted.iter().copied().collect();
        let admins: Vec<_> = self.admins.iter().copied().collect();
        tx.sql().execute(
            "INSERT OR REPLACE INTO onlookers (group_id, state) VALUES (?1, ?2)",
            params![self.id.to_mls(), encode(&(entries, trusted, admins))],
        )?;
        Ok(())
    }

    /// Follows a message as the DS does. `None` for one that does not go on from here.
    fn follow(&mut self, queued: &MlsMessage) -> Option<()> {
        let MlsMessageBodyIn::PublicMessage(message) = mls::parse(queued.as_bytes())? else { return None };
        let message: ProtocolMessage = message.into();
        if message.epoch() != self.group.group_context().epoch() {
            return None;
        }
        let processed = match self.group.process_message(self.provider.crypto(), message) {
            Ok(processed) => processed,
            // It is read too late to be followed, and proves whom its maker added.
            Err(refusal) if late_commit::is_late(&refusal) => {
                let came = self.let_in(&late_commit::added(&self.group, queued)?);
                self.trusted.extend(came);
                return None;
            }
            Err(_) => return None,
        };
        let (sender, voucher) = (processed.sender().clone(), processed.aad().to_vec());
        match processed.into_content() {
            ProcessedMessageContent::ProposalMessage(proposal) => {
                self.group.add_proposal(self.provider.storage(), *proposal).ok()
            }
            ProcessedMessageContent::StagedCommitMessage(commit) => {
                let came = self.let_in_by(&sender, voucher, &commit);
                self.group.merge_commit(self.provider.storage(), *commit).ok()?;
                self.trusted.extend(came);
                let here: HashSet<_> = leaves(&self.group).iter().map(place).collect();
                self.trusted.retain(|place| here.contains(place));
                let admins = admins(&self.group);
                self.admins.retain(|admin| admins.contains(admin));
                Some(())
            }
            _ => None,
        }
    }

    /// The leaves that a commit brings by the will of trusted devices.
    fn let_in_by(&self, sender: &Sender, voucher: Vec<u8>, commit: &StagedCommit) -> Vec<UsersLeaf> {
        let (mut came, mut added) = (Vec::new(), Vec::new());
        for queued in commit.queued_proposals() {
            let Sender::Member(by) = queued.sender() else { continue };
            match queued.proposal() {
                Proposal::Add(add) => {
                    added.extend(Leaf::of(add.key_package().leaf_node()).map(|new| (*by, place(&new))));
                }
                Proposal::Update(update) => {
                    let new = Leaf::of(update.leaf_node()).filter(|new| self.is_of(*by, new.pseudonym));
                    came.extend(new.as_ref().map(place));
                }
                _ => {}
            }
        }
        came.extend(self.let_in(&added));
        let Some(new) = commit.update_path_leaf_node().and_then(Leaf::of) else { return came };
        let is_theirs = match sender {
            Sender::Member(by) => self.is_of(*by, new.pseudonym),
            Sender::NewMemberCommit => self.is_vouched(&new, voucher),
            _ => false,
        };
        if is_theirs {
            came.push(place(&new));
        }
        came
    }

    /// The leaves that come in by the will of a trusted device, of those that members add by one commit: into its own user's
    /// place, or as another user if its own is an admin. As the rules have it, nobody comes in so under a pseudonym that is
    /// taken, nor two under one.
    fn let_in(&self, added: &[(LeafNodeIndex, UsersLeaf)]) -> Vec<UsersLeaf> {
        let policy = rules::policy_in(self.group.group_context().extensions());
        let mut taken: HashSet<_> = leaves(&self.group).into_iter().map(|leaf| leaf.pseudonym).collect();
        taken.extend(policy.into_iter().flat_map(|policy| policy.admins));
        taken.extend(self.trusted.iter().map(|(_, user)| *user));
        let is_newcomer = |user: Pseudonym| {
            !taken.contains(&user) && added.iter().filter(|(_, (_, other))| *other == user).count() == 1
        };
        let is_let_in = |by: LeafNodeIndex, user: Pseudonym| {
            let by = self.trusted_leaf(by).map(|by| by.pseudonym);
            by.is_some_and(|by| by == user || self.admins.contains(&by) && is_newcomer(user))
        };
        let came = added.iter().filter(|(by, (_, user))| is_let_in(*by, *user));
        came.map(|(_, new)| *new).collect()
    }

    /// Whether a leaf under a pseudonym is in the place of the user of a trusted device.
    fn is_of(&self, by: LeafNodeIndex, user: Pseudonym) -> bool {
        self.trusted_leaf(by).is_some_and(|by| by.pseudonym == user)
    }

    /// The leaf of a trusted device.
    fn trusted_leaf(&self, index: LeafNodeIndex) -> Option<Leaf> {
        self.group.leaf(index).and_then(Leaf::of).filter(|leaf| self.trusted.contains(&place(leaf)))
    }

    /// Whether the key of the user in whose place a leaf is, as a trusted device has it, vouched for the leaf.
    fn is_vouched(&self, new: &Leaf, voucher: Vec<u8>) -> bool {
        let mut leaves = leaves(&self.group);
        leaves.retain(|leaf| self.trusted.contains(&place(leaf)));
        let Some(key) = rules::user_key(&leaves, new.pseudonym) else { return false };
        let signed = to_join(&self.id, self.epoch(), &new.leaf_key);
        key.public_key.verify(&signed, &Signature::new(voucher)).is_ok()
    }
}

/// A hash that openmls keeps with a group, of a type of its own.
#[derive(Serialize, Deserialize)]
struct InterimTranscriptHash(Vec<u8>);

impl Entity<CURRENT_VERSION> for InterimTranscriptHash {}
impl traits::InterimTranscriptHash<CURRENT_VERSION> for InterimTranscriptHash {}

/// Writes a group as this device has it, with the proposals that wait, into the memory of an onlooker.
fn copy<M: StorageProvider<CURRENT_VERSION>>(tx: &Tx<'_>, group: &PublicGroup, memory: &M) -> Result<()> {
    let id = group.group_id();
    let hash: Option<InterimTranscriptHash> = tx.storage().interim_transcript_hash(id)?;
    let hash = hash.ok_or(Error::Damaged("the MLS state of a group"))?;
    let proposals = group.queued_proposals(tx.storage())?;
    memory
        .write_tree(id, group.treesync())
        .and_then(|()| memory.write_context(id, group.group_context()))
        .and_then(|()| memory.write_confirmation_tag(id, group.confirmation_tag()))
        .and_then(|()| memory.write_interim_transcript_hash(id, &hash))
        .and_then(|()| {
            let mut proposals = proposals.iter();
            proposals.try_for_each(|(reference, proposal)| memory.queue_proposal(id, reference, proposal))
        })
        .map_err(Error::mls("cannot look at a group"))
}

/// The epoch of a message of a group in public framing.
fn epoch(message: &MlsMessage) -> Option<u64> {
    match mls::parse(message.as_bytes())? {
        MlsMessageBodyIn::PublicMessage(message) => Some(ProtocolMessage::from(message).epoch().as_u64()),
        _ => None,
    }
}

fn leaves(group: &PublicGroup) -> Vec<Leaf> {
    group.members().filter_map(|member| Leaf::of(group.leaf(member.index)?)).collect()
}

fn admins(group: &PublicGroup) -> HashSet<Pseudonym> {
    let policy = rules::policy_in(group.group_context().extensions());
    policy.into_iter().flat_map(|policy| policy.admins).collect()
}

fn place(leaf: &Leaf) -> UsersLeaf {
    (leaf.leaf_key, leaf.pseudonym)
}

fn insert(tx: &Tx<'_>, id: &GroupId, message: &MlsMessage) -> Result<()> {
    tx.sql()
        .prepare_cached("INSERT INTO unfollowed (group_id, message) VALUES (?1, ?2)")?
        .execute(params![id.to_mls(), message.as_bytes()])?;
    Ok(())
}

/// The messages of a group that are kept, in the order in which they came.
fn kept(tx: &Tx<'_>, id: &GroupId) -> Result<Vec<MlsMessage>> {
    let sql = "SELECT message FROM unfollowed WHERE group_id = ?1 ORDER BY number";
    let mut statement = tx.sql().prepare_cached(sql)?;
    let messages = statement.query_map([id.to_mls()], |row| row.get(0).map(MlsMessage::new))?;
    Ok(messages.collect::<Result<_, _>>()?)
}
