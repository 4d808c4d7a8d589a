//! Commits and proposals of a group that this device could not follow, and what their signatures prove all the same: by
//! whose will a device came in. Whoever comes back sees the tree that the server shows, in which a leaf does not say who
//! let it in; the commit that brought it does. An onlooker checks that without a secret of the group, as the DS does. Owns
//! the tables `unfollowed` and `shown_groups`.

use std::collections::HashSet;

use openmls::prelude::{
    GroupId as MlsGroupId, LeafNodeIndex, MlsMessageBodyIn, ProcessedMessageContent, Proposal, ProposalStore,
    ProtocolMessage, PublicGroup, RatchetTreeIn, Sender, StagedCommit,
};
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::OpenMlsProvider as _;
use postern_protocol::{
    MlsMessage, PublicKey, Signature,
    ds::{CurrentGroup, GroupId},
    mls::{Pseudonym, to_join},
};
use rusqlite::{OptionalExtension as _, params};
use tls_codec::Deserialize as _;

use super::{
    record,
    rules::{self, Leaf},
};
use crate::{error::Result, mls, store::Tx};

/// The most messages of a group, and bytes of them, that are kept. Later ones prove nothing: a person decides.
const MOST: u64 = 1000;
const MOST_BYTES: u64 = 16 * 1024 * 1024;

/// A device in its user's place.
pub(super) type Place = (PublicKey, Pseudonym);

/// The public state of a group, and whom this device trusts there.
struct Onlooker {
    id: GroupId,
    /// Keeps in memory what the group becomes.
    provider: OpenMlsRustCrypto,
    group: PublicGroup,
    /// The devices that were there when this one knew the group last, and those that they let into their users' places.
    trusted: HashSet<Place>,
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
    if messages >= MOST || bytes >= MOST_BYTES { Ok(()) } else { insert(tx, &id, message) }
}

/// Notes the group as the DS showed it and this device took it, which is about to come back. If it comes too late, what
/// changed meanwhile goes on from there.
pub(super) fn start_from(tx: &Tx<'_>, id: &GroupId, current: &CurrentGroup) -> Result<()> {
    forget(tx, id)?;
    tx.sql().execute(
        "INSERT INTO shown_groups (group_id, group_info, ratchet_tree) VALUES (?1, ?2, ?3)",
        params![id.to_mls(), current.group_info.as_bytes(), current.ratchet_tree.as_bytes()],
    )?;
    current.proposals.iter().try_for_each(|proposal| insert(tx, id, proposal))
}

/// Forgets what was kept of a group: this device follows it again, or is out.
pub(super) fn forget(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    tx.sql().prepare_cached("DELETE FROM unfollowed WHERE group_id = ?1")?.execute([id.to_mls()])?;
    tx.sql().prepare_cached("DELETE FROM shown_groups WHERE group_id = ?1")?.execute([id.to_mls()])?;
    Ok(())
}

/// The devices that users whom this device knows in the group let into their own places since it could not follow, as far
/// as the messages prove it that came. A message that does not go on from the one before it proves nothing.
pub(super) fn let_in(tx: &Tx<'_>, id: &GroupId) -> Result<HashSet<Place>> {
    let messages = kept(tx, id)?;
    if messages.is_empty() {
        return Ok(HashSet::new());
    }
    let provider = OpenMlsRustCrypto::default();
    let Some(group) = start(tx, id, &provider)? else { return Ok(HashSet::new()) };
    let trusted = leaves(&group).iter().map(place).collect();
    let mut onlooker = Onlooker { id: id.clone(), provider, group, trusted };
    for message in &messages {
        if onlooker.follow(message).is_none() {
            tracing::debug!("a message of a group does not go on from the one before it");
        }
    }
    Ok(onlooker.trusted)
}

/// The group in the state that this device took last: as the DS showed it, or as it is here.
fn start(tx: &Tx<'_>, id: &GroupId, provider: &OpenMlsRustCrypto) -> Result<Option<PublicGroup>> {
    let shown: Option<(Vec<u8>, Vec<u8>)> = tx
        .sql()
        .query_row(
            "SELECT group_info, ratchet_tree FROM shown_groups WHERE group_id = ?1",
            [id.to_mls()],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    let Some((info, tree)) = shown else {
        return Ok(PublicGroup::load(tx.storage(), &MlsGroupId::from_slice(&id.to_mls()))?);
    };
    let Some(MlsMessageBodyIn::GroupInfo(info)) = mls::parse(&info) else { return Ok(None) };
    let Ok(tree) = RatchetTreeIn::tls_deserialize_exact(tree.as_slice()) else { return Ok(None) };
    let (crypto, storage) = (provider.crypto(), provider.storage());
    let opened = PublicGroup::from_external(crypto, storage, tree, info, ProposalStore::new());
    Ok(opened.ok().map(|(group, _)| group))
}

impl Onlooker {
    /// Follows a message as the DS does. `None` for one that does not go on from here.
    fn follow(&mut self, message: &MlsMessage) -> Option<()> {
        let MlsMessageBodyIn::PublicMessage(message) = mls::parse(message.as_bytes())? else { return None };
        let message: ProtocolMessage = message.into();
        if message.epoch() != self.group.group_context().epoch() {
            return None;
        }
        let processed = self.group.process_message(self.provider.crypto(), message).ok()?;
        let (sender, voucher) = (processed.sender().clone(), processed.aad().to_vec());
        match processed.into_content() {
            ProcessedMessageContent::ProposalMessage(proposal) => {
                self.group.add_proposal(self.provider.storage(), *proposal).ok()
            }
            ProcessedMessageContent::StagedCommitMessage(commit) => {
                let came = self.let_in_by(&sender, voucher, &commit);
                self.group.merge_commit(self.provider.storage(), *commit).ok()?;
                self.trusted.extend(came);
                Some(())
            }
            _ => None,
        }
    }

    /// The leaves that a commit brings by the will of the trusted users in whose places they are.
    fn let_in_by(&self, sender: &Sender, voucher: Vec<u8>, commit: &StagedCommit) -> Vec<Place> {
        let mut came = Vec::new();
        for queued in commit.queued_proposals() {
            let new = match queued.proposal() {
                Proposal::Add(add) => Leaf::of(add.key_package().leaf_node()),
                Proposal::Update(update) => Leaf::of(update.leaf_node()),
                _ => None,
            };
            if let (Sender::Member(by), Some(new)) = (queued.sender(), new)
                && self.is_of(*by, &new)
            {
                came.push(place(&new));
            }
        }
        let Some(new) = commit.update_path_leaf_node().and_then(Leaf::of) else { return came };
        let is_theirs = match sender {
            Sender::Member(by) => self.is_of(*by, &new),
            Sender::NewMemberCommit => self.is_vouched(&new, voucher),
            _ => false,
        };
        if is_theirs {
            came.push(place(&new));
        }
        came
    }

    /// Whether a leaf is in the place of the user of a trusted device.
    fn is_of(&self, by: LeafNodeIndex, new: &Leaf) -> bool {
        let by = self.group.leaf(by).and_then(Leaf::of);
        by.is_some_and(|by| by.pseudonym == new.pseudonym && self.trusted.contains(&place(&by)))
    }

    /// Whether the key of the user in whose place a leaf is, as a trusted device has it, vouched for the leaf.
    fn is_vouched(&self, new: &Leaf, voucher: Vec<u8>) -> bool {
        let mut leaves = leaves(&self.group);
        leaves.retain(|leaf| self.trusted.contains(&place(leaf)));
        let Some(key) = rules::user_key(&leaves, new.pseudonym) else { return false };
        let epoch = self.group.group_context().epoch().as_u64();
        let signed = to_join(&self.id, epoch, &new.leaf_key);
        key.public_key.verify(&signed, &Signature::new(voucher)).is_ok()
    }
}

fn leaves(group: &PublicGroup) -> Vec<Leaf> {
    group.members().filter_map(|member| Leaf::of(group.leaf(member.index)?)).collect()
}

fn place(leaf: &Leaf) -> Place {
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
