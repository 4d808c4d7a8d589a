//! Coming into a group by external commit (DS-7): back into one that this device cannot follow, or for
//! the first time as another device of its user.

use std::collections::{BTreeSet, HashMap, HashSet};

use openmls::prelude::{
    Extensions, LeafNode, LeafNodeIndex, LeafNodeParameters, MlsGroup, MlsMessageBodyIn, RatchetTreeIn,
    Sender,
};
use openmls_traits::OpenMlsProvider as _;
use postern_protocol::{
    GroupInfo, MlsMessage, PublicKey, Signature, StateKey,
    ds::{CurrentGroup, GroupId, SubmitMessage},
    encoding::Encoding,
    key::SigningKey,
    mls::{DeliveryAddress, Pseudonym, USER_KEY, UserKey, to_join},
    name::UserName,
    problem::ProblemType,
};
use tls_codec::{Deserialize as _, Serialize as _, VLBytes};

use super::{
    commit,
    handover::{self, PendingEntry},
    members,
    onlooker::{self, Onlooker},
    outstanding::{self, Kind, Outstanding},
    past::MOST_PAST_EPOCHS,
    places::{self, UsersLeaf},
    record,
    roster::Roster,
    rules,
    state::GroupState,
};
use crate::{
    error::{Error, Result},
    event::{Event, Member},
    key_packages, leaf, mailbox,
    mls::{self, LeafSigner},
    store::Tx,
};

const UNEXPECTED: &str = "the group info or tree is malformed";
const BEFORE_TOLD: &str = "the server shows it as it was before this device was told of it";
const BEFORE_KNOWN: &str = "the server shows it as it was before this device knew it last";
const ANOTHER: &str = "the server shows another group than the one that this device is in";

/// Whether a device does not come into a group since the DS has it as it was before another device told of it, or may have: it
/// shows an earlier epoch, or refuses the user's key (`not-allowed`) or the state key (`not-found`), which may have come in the
/// time that it lost (QS-12).
pub(crate) fn is_before_told(error: &Error) -> bool {
    let is_refused = error
        .refusal()
        .is_some_and(|problem| matches!(problem.kind, ProblemType::NotAllowed | ProblemType::NotFound));
    is_refused || matches!(error, Error::Mls { reason, .. } if reason == BEFORE_TOLD)
}

/// Whether a device does not go to another place of a group since the DS does not have the group that it is in: the DS was
/// restored, or shows what is not so.
pub(crate) fn is_elsewhere(error: &Error) -> bool {
    matches!(error, Error::Mls { reason, .. } if [BEFORE_KNOWN, ANOTHER].contains(&reason.as_str()))
}

/// How a group differs at the server from what this device knew of it.
#[derive(Debug, Clone, Default)]
pub struct Differences {
    /// Devices that nobody who was known let in as far as this device can tell: a member, or the server,
    /// may have made them up.
    pub strangers: Vec<Member>,
    /// Devices that are admins' now and were not.
    pub admins: Vec<Member>,
    /// Further devices of members that were known, and of this user: the AS confirmed whose they are, or a device that was
    /// known let them into its user's place by a commit that it signed. Devices of users whom an admin added by such a commit
    /// are among them.
    pub added: Vec<Member>,
    /// Devices that are no members any more.
    pub removed: Vec<Member>,
    /// Users that may add and remove others now and could not before.
    promoted: BTreeSet<Pseudonym>,
    /// The users that strangers in known users' places say they are, in the order of the tree, as far as no lookup confirmed it:
    /// another one may.
    unconfirmed: Vec<UserName>,
}

impl Differences {
    /// The users of whom a lookup may show that a stranger is a further device of theirs.
    pub(crate) fn users_to_ask_about(&self) -> &[UserName] {
        &self.unconfirmed
    }

    /// Whether nothing of it needs a person's consent.
    fn is_harmless(&self) -> bool {
        self.strangers.is_empty() && self.promoted.is_empty()
    }

    /// Whether a person who consented to the other consented to all of this.
    fn is_within(&self, accepted: &Self) -> bool {
        let knows = |member: &Member| accepted.strangers.iter().any(|it| it.leaf_key == member.leaf_key);
        self.strangers.iter().all(knows) && self.promoted.is_subset(&accepted.promoted)
    }
}

/// The members that this device knew of when it could follow a group last, with what was proved to it since, or what another
/// device of its user told.
#[derive(Default)]
struct Before {
    leaves: HashMap<u32, rules::Leaf>,
    admins: Vec<Pseudonym>,
    /// Devices that were known in their users' places, those that they let in there, and those of users whom admins added.
    let_in: HashSet<UsersLeaf>,
}

impl Before {
    /// The members of a group as this device took it.
    fn of(group: &GroupState) -> Result<Self> {
        Ok(Self { leaves: rules::leaves(&group.mls), admins: group.admins()?, let_in: HashSet::new() })
    }

    /// Adds what another device of this user told: the leaves and admins of which it knew, as far as they are there now.
    fn add_told(
        &mut self,
        roster: &Roster,
        group: &GroupState,
        after: &HashMap<u32, rules::Leaf>,
    ) -> Result<()> {
        self.leaves.extend(roster.devices_among(after));
        self.admins.extend(roster.admins_among(&group.admins()?));
        Ok(())
    }

    /// Whether a device is in its user's place by the will of a device of that user, or of an admin who added the user.
    fn let_in(&self, leaf: &rules::Leaf) -> bool {
        self.let_in.contains(&(leaf.leaf_key, leaf.pseudonym))
    }
}

/// An external commit, and what it starts from.
struct Entry<'a> {
    state_key: StateKey,
    leaf: &'a SigningKey,
    pseudonym: Pseudonym,
    extensions: Extensions<LeafNode>,
    user_key: Option<SigningKey>,
    /// A leaf whose `SelfRemove` waits, which the commit takes along.
    leaving: Option<LeafNodeIndex>,
}

impl GroupState {
    /// Makes the external commit by which this client comes back in its own place, and keeps it until
    /// the DS's answer is known. What this client knew of the group is replaced. A commit that was
    /// outstanding never happened. Proposals that wait are left out, and lapse: whether members could
    /// verify them does not show here (DS-13). What was said stays in the outbox under its number, and a
    /// wish to leave stays, too. Messages go to `delivery` from then on, and the address of before leads nowhere. `known` is
    /// the [`latest_known`](Self::latest_known) epoch before the DS showed the group.
    ///
    /// # Errors
    /// [`Error::Strangers`] where the group differs by more than a person accepted.
    pub(crate) fn rejoin(
        self,
        tx: &Tx<'_>,
        known: u64,
        current: &CurrentGroup,
        accepted: &Differences,
        delivery: &DeliveryAddress,
    ) -> Result<()> {
        let own = self.own_leaf()?;
        if let Some(old) = own.delivery.filter(|old| old != delivery)
            && !key_packages::holds(tx, &self.leaf.public_key())?
        {
            mailbox::revoke_later(tx, &old.address)?;
        }
        let user_key = self.user_key_to_bring(tx, current)?;
        let entry = Entry {
            state_key: self.state_key()?,
            leaf: &self.leaf,
            pseudonym: own.pseudonym,
            extensions: leaf::extensions(delivery, &user_key)?,
            user_key: leaf::key(tx, &user_key.public_key)?,
            leaving: None,
        };
        // The commit leaves nothing of the group as this device knows it.
        let seen = Onlooker::of(tx, &self.id)?;
        let (mls, submission, epoch) = entry.commit(tx, &self.id, current)?;
        let (before, before_policy) = (rules::leaves(&self.mls), rules::policy(&self.mls)?);
        let group = Self { mls, id: self.id.clone(), leaf: self.leaf.clone() };
        group.learn(tx, &current.attributes)?;
        let after = rules::leaves(&group.mls);
        places::catch_up(tx, &group, &places::leaves(&before))?;
        let is_entering = record::is_entering(tx, &group.id)?;
        let let_in = seen.as_ref().map(|seen| seen.trusted().clone()).unwrap_or_default();
        let mut before = Before { leaves: before, admins: before_policy.admins, let_in };
        if is_entering && let Some(roster) = handover::roster(tx, &group.id)? {
            before.add_told(&roster, &group, &after)?;
        }
        let differences = group.compare(tx, &before, &after)?;
        if !differences.is_harmless() && !differences.is_within(accepted) {
            return Err(Error::Strangers(Box::new(differences)));
        }
        if !is_entering {
            if !(differences.added.is_empty()
                && differences.removed.is_empty()
                && differences.strangers.is_empty())
            {
                let added = [differences.added, differences.strangers].concat();
                let (id, removed) = (group.id.clone(), differences.removed);
                Event::Changed { group: id, epoch, added, removed }.record(tx)?;
            }
            if !differences.promoted.is_empty() {
                let admins = differences.admins;
                Event::AdminsFound { group: group.id.clone(), epoch, admins }.record(tx)?;
            }
            // A DS that was restored (QS-12) goes another way: the one that this device saw leads nowhere.
            let was_restored = known > Self::epoch_of(current)?;
            onlooker::start_from(tx, &group.id, current, seen.filter(|_| !was_restored), &after)?;
        }
        // A commit whose answer was lost may have added them.
        for leaf_key in group.leaf_keys() {
            commit::welcome_member(tx, &group.id, &leaf_key)?;
        }
        group.keep_entry(tx, submission, epoch)
    }

    /// The latest epoch of the group that this device knows of, also by messages that it could not follow.
    pub(crate) fn latest_known(&self, tx: &Tx<'_>) -> Result<u64> {
        let seen = Onlooker::of(tx, &self.id)?.map(|seen| seen.epoch());
        Ok(seen.unwrap_or_default().max(self.epoch()))
    }

    /// Makes the external commit by which this device comes into a group that another of its user's
    /// handed over, and keeps it until the DS's answer is known. If it is in the group already, as a user
    /// of its own, the commit takes its `SelfRemove` along: it is in one place only. What is said there until the DS has
    /// the commit can be read ([`super::left_place`]).
    ///
    /// It knows the members that it saw in its own place, those that its last attempt took, and those of which the other device
    /// told.
    ///
    /// # Errors
    /// [`Error::Strangers`] where others are there than a person accepted; [`Error::Mls`] where the DS shows an epoch before that
    /// of which the other device told, or that of this device's own place: who was removed since would read on; or another group
    /// of that epoch.
    pub(crate) fn enter(
        tx: &Tx<'_>,
        entry: &PendingEntry,
        current: &CurrentGroup,
        accepted: &Differences,
    ) -> Result<()> {
        let PendingEntry { handover, delivery } = entry;
        let id = handover.id.clone();
        let old = match Self::find(tx, &id) {
            Err(Error::NotMember) => None,
            found => found?,
        };
        // A place of its own that it leaves, and not an attempt that came too late.
        let moves = old.is_some() && (!record::is_entering(tx, &id)? || record::is_moving(tx, &id)?);
        let leaving = match &old {
            Some(old) if !record::is_entering(tx, &id)? => Some(old.mls.own_leaf_index()),
            _ => None,
        };
        let own_epoch = old.as_ref().filter(|_| leaving.is_some()).map_or(0, Self::epoch);
        let shown_at = Self::epoch_of(current)?;
        for (known, reason) in [(handover.epoch, BEFORE_TOLD), (own_epoch, BEFORE_KNOWN)] {
            if shown_at < known {
                return Err(Error::mls("cannot come into the group")(reason));
            }
        }
        if let Some(old) = old.as_ref().filter(|_| leaving.is_some())
            && old.epoch() == shown_at
            && !old.has_tree(&current.ratchet_tree)?
        {
            return Err(Error::mls("cannot come into the group")(ANOTHER));
        }
        let content = if moves { record::attributes(tx, &id)? } else { Vec::new() };
        let before = old.as_ref().map(Before::of).transpose()?.unwrap_or_default();
        let (leaf, user) = (SigningKey::generate(), handover.user_key());
        leaf::keep_key(tx, &leaf)?;
        leaf::keep_key(tx, &user)?;
        let entry = Entry {
            state_key: handover.state_key,
            leaf: &leaf,
            pseudonym: handover.pseudonym,
            extensions: leaf::extensions(delivery, &handover.public_user_key())?,
            user_key: Some(user),
            leaving,
        };
        record::insert(tx, &id, "", &leaf.public_key())?;
        record::set_entering(tx, &id, moves)?;
        match old {
            Some(old) if leaving.is_some() => {
                old.keep_place(tx)?;
                old.forget_place(tx)?;
            }
            Some(old) => leaf::forget_key(tx, &old.leaf.public_key())?,
            None => {}
        }
        record::retitle(tx, &id, &handover.title, handover.titled, shown_at)?;
        record::set_attributes(tx, &id, &content)?;
        if let Some(key) = handover.attributes_key {
            record::keep_attributes_key(tx, &id, &key)?;
        }
        let (mls, submission, epoch) = entry.commit(tx, &id, current)?;
        let group = Self { mls, id, leaf };
        places::catch_up(tx, &group, &places::leaves(&before.leaves))?;
        group.learn(tx, &current.attributes)?;
        let differences = group.compare_with_told(tx, &handover.roster, before)?;
        if !differences.is_harmless() && !differences.is_within(accepted) {
            return Err(Error::Strangers(Box::new(differences)));
        }
        group.keep_entry(tx, submission, epoch)
    }

    /// Whether others are in this group, or are admins, than another device of this user told of: they are known besides whom the
    /// last `attempt` of this device to come in took.
    pub(super) fn has_untold(&self, tx: &Tx<'_>, roster: &Roster, attempt: Option<&Self>) -> Result<bool> {
        let before = attempt.map(Before::of).transpose()?.unwrap_or_default();
        Ok(!self.compare_with_told(tx, roster, before)?.is_harmless())
    }

    /// The devices that were there when this device joined, and of which another one of this user did not know before, and the
    /// admins of whom it did not: whom it met then, and who is here yet.
    pub(super) fn untold(
        &self,
        tx: &Tx<'_>,
        roster: &Roster,
        met: &Roster,
    ) -> Result<(Vec<Member>, Vec<Member>)> {
        let mut since = Before::of(self)?;
        let (leaves, admins) = (met.devices_among(&since.leaves), met.admins_among(&since.admins));
        since.leaves.retain(|index, _| !leaves.contains_key(index));
        since.admins.retain(|user| !admins.contains(user));
        let differences = self.compare_with_told(tx, roster, since)?;
        Ok((differences.strangers, differences.admins))
    }

    /// Compares the group, into which this device comes, with what another device of its user told, and with what it knew itself.
    fn compare_with_told(&self, tx: &Tx<'_>, roster: &Roster, mut before: Before) -> Result<Differences> {
        let (mut shown, own) = (rules::leaves(&self.mls), self.leaf.public_key());
        shown.retain(|_, leaf| leaf.leaf_key != own);
        before.add_told(roster, self, &shown)?;
        self.compare(tx, &before, &shown)
    }

    /// The user's key that this device brings along when it comes back. The DS and the members let no leaf come back with an
    /// older key than it has at the DS, with another key of a generation of which the user has one there, or with one that is
    /// ahead of the epoch. The leaf may have another key at the DS than this device knows of: the answer to the commit that
    /// brought it was lost, or this device's state was restored from an earlier one. And the key that this device knows may
    /// be of epochs that a restored server lost (QS-12), or another device of the user's may have brought one of its
    /// generation meanwhile. Then this device makes another key, so that no device of the user's keeps it out.
    ///
    /// The generation that this device noted may be ahead of all that an epoch has room for, after such a restore. Then the
    /// user's newest key counts as gone, and this device brings another with each commit, until the epochs have caught up.
    fn user_key_to_bring(&self, tx: &Tx<'_>, current: &CurrentGroup) -> Result<UserKey> {
        let known = self.user_key_here(tx)?;
        let shown = shown_user_keys(current, self.own_leaf()?.pseudonym);
        let shown = shown.ok_or_else(|| Error::unexpected(UNEXPECTED))?;
        let latest = UserKey::latest_generation(Self::epoch_of(current)?.saturating_add(1));
        let leaf_key = self.leaf.public_key();
        let own = shown.iter().find(|(of, _)| *of == leaf_key).map(|(_, key)| *key);
        let of_its_generation = shown.iter().find(|(_, key)| key.generation == known.generation);
        let fits = match of_its_generation {
            Some((_, key)) => *key == known,
            None => known.generation <= latest,
        };
        match own.filter(|own| *own != known && own.generation >= known.generation) {
            Some(own) if leaf::key(tx, &own.public_key)?.is_some() => return Ok(own),
            None if fits => return Ok(known),
            _ => {}
        }
        let newest = shown.iter().map(|(_, key)| key.generation).max();
        let newest = newest.max(record::user_generation(tx, &self.id)?);
        let next = newest.map_or(0, |generation| generation.saturating_add(1));
        leaf::new_user_key(tx, next.min(latest))
    }

    fn keep_entry(&self, tx: &Tx<'_>, submission: SubmitMessage, epoch: u64) -> Result<()> {
        let submission = SubmitMessage { attributes: self.cards_for_commit(tx, &[])?, ..submission };
        outstanding::forget_all(tx, &self.id)?;
        let body = Encoding::Cbor.encode(&submission);
        outstanding::keep(tx, &self.id, &Outstanding { kind: Kind::Rejoin, epoch, body })
    }

    /// Compares the group with what was known of it. A device is no stranger if it is the same that was
    /// here before, in its user's place, if another device in that place let it in, or an admin who added its user, or if the AS
    /// confirmed that it belongs to the user that another device in that place belongs to.
    fn compare(
        &self,
        tx: &Tx<'_>,
        before: &Before,
        after: &HashMap<u32, rules::Leaf>,
    ) -> Result<Differences> {
        let mut differences = Differences::default();
        let policy = rules::policy(&self.mls)?;
        differences.promoted =
            policy.admins.iter().filter(|it| !before.admins.contains(it)).copied().collect();
        let mut leaves: Vec<_> = after.iter().collect();
        leaves.sort_by_key(|(index, _)| **index);
        for (_, leaf) in leaves {
            let member = members::resolve(tx, &self.id, leaf.leaf_key)?;
            if differences.promoted.contains(&leaf.pseudonym) {
                differences.admins.push(member.clone());
            }
            let was = before.leaves.values().find(|old| old.leaf_key == leaf.leaf_key);
            if was.is_some_and(|old| old.pseudonym == leaf.pseudonym) {
                continue;
            }
            // A commit of this device whose answer was lost may have added it.
            let is_invited = key_packages::is_reserved(tx, &self.id, &leaf.leaf_key)?;
            let is_known = is_invited
                || before.let_in(leaf)
                || self.is_further_device(tx, &before.leaves, leaf, &member)?;
            if was.is_none() && is_known {
                differences.added.push(member);
                continue;
            }
            let is_in_known_place = before.leaves.values().any(|old| old.pseudonym == leaf.pseudonym);
            if was.is_none() && is_in_known_place && !member.verified {
                differences.unconfirmed.extend(member.user.clone());
            }
            differences.strangers.push(member);
        }
        let mut gone: Vec<_> = before.leaves.iter().collect();
        gone.sort_by_key(|(index, _)| **index);
        for (_, leaf) in gone {
            if !after.values().any(|new| new.leaf_key == leaf.leaf_key) {
                differences.removed.push(members::resolve(tx, &self.id, leaf.leaf_key)?);
            }
        }
        Ok(differences)
    }

    /// Whether a new leaf is a further device of a user that was known in the same place.
    fn is_further_device(
        &self,
        tx: &Tx<'_>,
        before: &HashMap<u32, rules::Leaf>,
        leaf: &rules::Leaf,
        member: &Member,
    ) -> Result<bool> {
        let Some(user) = member.user.as_ref().filter(|_| member.verified) else { return Ok(false) };
        for old in before.values().filter(|old| old.pseudonym == leaf.pseudonym) {
            let known = members::resolve(tx, &self.id, old.leaf_key)?;
            if known.verified && known.user.as_ref() == Some(user) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The epoch that the group has at the DS.
    ///
    /// # Errors
    /// An unexpected answer, when there is no GroupInfo in it.
    pub(crate) fn epoch_of(current: &CurrentGroup) -> Result<u64> {
        match mls::parse(current.group_info.as_bytes()) {
            Some(MlsMessageBodyIn::GroupInfo(info)) => Ok(info.epoch().as_u64()),
            _ => Err(Error::unexpected(UNEXPECTED)),
        }
    }
}

/// The user keys of a user's leaves in the tree that the DS shows, by their leaf keys. `None` for a malformed tree. It is not
/// verified here: whoever comes back verifies all of it.
fn shown_user_keys(current: &CurrentGroup, user: Pseudonym) -> Option<Vec<(PublicKey, UserKey)>> {
    let tree = RatchetTreeIn::tls_deserialize_exact(current.ratchet_tree.as_bytes()).ok()?;
    let mut keys = Vec::new();
    for leaf in tree.leaves() {
        let of_user = rules::pseudonym(leaf.credential()) == Some(user);
        let Some(key) = leaf_user_key(&leaf.tls_serialize_detached().ok()?).filter(|_| of_user) else {
            continue;
        };
        keys.push((mls::public_key(leaf.signature_key().as_slice())?, key));
    }
    Some(keys)
}

/// The user key in the bytes of a `LeafNode` (RFC 9420 §7.2). openmls shows no extensions of a leaf before it verified the
/// tree.
fn leaf_user_key(leaf: &[u8]) -> Option<UserKey> {
    fn opaque(bytes: &mut &[u8]) -> Option<VLBytes> {
        VLBytes::tls_deserialize(bytes).ok()
    }
    let mut bytes = leaf;
    let bytes = &mut bytes;
    let (_encryption_key, _signature_key) = (opaque(bytes)?, opaque(bytes)?);
    let (_credential_type, _credential) = (u16::tls_deserialize(bytes).ok()?, opaque(bytes)?);
    for _capabilities in 0..5 {
        opaque(bytes)?;
    }
    match u8::tls_deserialize(bytes).ok()? {
        1 => {
            let _lifetime = (u64::tls_deserialize(bytes).ok()?, u64::tls_deserialize(bytes).ok()?);
        }
        3 => {
            let _parent_hash = opaque(bytes)?;
        }
        _ => {}
    }
    let extensions = opaque(bytes)?;
    let extensions = &mut extensions.as_slice();
    while !extensions.is_empty() {
        let (kind, content) = (u16::tls_deserialize(extensions).ok()?, opaque(extensions)?);
        if kind == USER_KEY {
            return UserKey::from_bytes(content.as_slice()).ok();
        }
    }
    None
}

impl Entry<'_> {
    /// Makes the external commit: the group as it will be, the request, and the epoch it starts from.
    fn commit(
        self,
        tx: &Tx<'_>,
        id: &GroupId,
        current: &CurrentGroup,
    ) -> Result<(MlsGroup, SubmitMessage, u64)> {
        let what = "cannot come into the group";
        let unexpected = || Error::unexpected(UNEXPECTED);
        let Some(MlsMessageBodyIn::GroupInfo(info)) = mls::parse(current.group_info.as_bytes()) else {
            return Err(unexpected());
        };
        let epoch = info.epoch().as_u64();
        let tree = RatchetTreeIn::tls_deserialize_exact(current.ratchet_tree.as_bytes());
        let leaf_key = self.leaf.public_key();
        let voucher = self.user_key.map(|key| key.sign(&to_join(id, epoch, &leaf_key)));
        let parameters = LeafNodeParameters::builder()
            .with_capabilities(mls::capabilities())
            .with_extensions(self.extensions)
            .build();
        let leaving = self.leaving.map(Sender::Member);
        let taken = current.proposals.iter().filter_map(|message| match mls::parse(message.as_bytes()) {
            Some(MlsMessageBodyIn::PublicMessage(message)) => Some(message),
            _ => None,
        });
        let taken = taken.filter(|message| leaving.as_ref() == Some(message.sender()));
        let (mls, bundle) = MlsGroup::external_commit_builder()
            .with_proposals(taken.collect())
            .with_ratchet_tree(tree.map_err(|_| unexpected())?)
            .with_config(mls::join_config(MOST_PAST_EPOCHS))
            .with_aad(voucher.map(Signature::into_bytes).unwrap_or_default())
            .skip_lifetime_validation()
            .build_group(tx, info, mls::credential(self.pseudonym.0.to_vec(), leaf_key))
            .map_err(Error::mls(what))?
            .leaf_node_parameters(parameters)
            .load_psks(tx.storage())
            .map_err(Error::mls(what))?
            .create_group_info(true)
            .use_ratchet_tree_extension(false)
            .build(tx.rand(), tx.crypto(), &LeafSigner(self.leaf), |_| true)
            .map_err(Error::mls(what))?
            .finalize(tx)
            .map_err(Error::mls(what))?;
        rules::check_members(mls.public_group()).map_err(Error::mls(what))?;
        let state_key = rules::policy(&mls)?.state_key();
        if mls.group_id().as_slice() != id.to_mls() || state_key != self.state_key {
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
        Ok((mls, submission, epoch))
    }
}
