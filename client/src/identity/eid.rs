//! The client's own evolving identity (EID, AS-3): an MLS group whose members are the user's devices.
//! Creates it, joins it, changes it by commits, and keeps up with what the user's other devices do.
//! Owns the tables `grants` and `identity_commits`.

use openmls::prelude::{
    Capabilities, CredentialType, GroupId as MlsGroupId, KeyPackage, LeafNodeIndex, LeafNodeParameters,
    Lifetime, MIXED_PLAINTEXT_WIRE_FORMAT_POLICY, MlsGroup, MlsMessageBodyIn, MlsMessageOut,
    ProcessedMessageContent, ProtocolVersion, RatchetTreeIn, StagedWelcome,
};
use openmls_traits::OpenMlsProvider as _;
use postern_protocol::{
    GroupInfo, MlsMessage, PublicKey, RatchetTree, Transcript, Welcome,
    account::{IdentityEnded, RenameUser},
    auth::CommitIdentity,
    eid::{EidState, Founding, SignedState},
    key::SigningKey,
    name::UserName,
    problem::ProblemType,
    second_proof::{Operation, SecondProof},
};
use rusqlite::{OptionalExtension as _, params};
use serde::{Deserialize, Serialize};
use tls_codec::{Deserialize as _, Serialize as _};

use super::{
    known::{self, Kept, Which},
    lookup,
    public_eid::{PublicEid, is_as_added},
};
use crate::{
    account::{self, Account, OwnerProof},
    contact,
    error::{Error, Result},
    group,
    mls::{self, CIPHERSUITE, LeafSigner},
    server::Api,
    store::{Store, Tx, decode, encode},
};

/// How often a commit is tried again after another device was faster.
const ATTEMPTS: u32 = 5;

/// A leaf is in the identity until its device makes a commit, and OpenMLS refuses a leaf or KeyPackage outside
/// of its lifetime (AS-3). Seconds: 20 years.
const LEAF_LIFETIME: u64 = 20 * 365 * 24 * 60 * 60;

/// Seconds by which a reader's clock may be behind when a leaf is new: 180 days.
const LEAF_LIFETIME_BEGUN: u64 = 180 * 24 * 60 * 60;

/// A device to be added, as it describes itself.
pub(crate) struct NewDevice {
    pub client_key: PublicKey,
    pub key_package: KeyPackage,
}

/// A new identity, to be registered.
pub(crate) struct NewIdentity {
    pub group_id: Vec<u8>,
    pub group_info: GroupInfo,
    pub ratchet_tree: RatchetTree,
    pub state: SignedState,
}

/// The entry of a new device into its user's identity.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EidWelcome {
    pub welcome: Welcome,
    /// The tree of the epoch that the device is added in.
    pub ratchet_tree: RatchetTree,
    /// The key of the client that began the identity (Ed25519).
    pub founder: PublicKey,
    /// The transcript of its epoch 0.
    pub founding: Transcript,
    /// The state that the device is added in.
    pub eid: EidState,
}

/// The effect that a commit is to have.
pub(super) enum Change<'a> {
    Add(&'a NewDevice),
    Remove(&'a PublicKey),
    /// Renews this device's leaf, by which it confirms that it is the user's (AS-4).
    Update,
    /// Gives this device's leaf the user's new name (AS-9).
    Rename {
        to: &'a UserName,
        proof: OwnerProof<'a>,
    },
}

/// The commit whose answer is outstanding.
#[derive(Serialize, Deserialize)]
pub(super) struct Outstanding {
    pub commit: CommitIdentity,
    /// The name that the user takes with it, and the owner's proof.
    rename: Option<(UserName, SecondProof)>,
}

/// Starts an identity of a user: the first one, or the next after one that ended.
pub(crate) fn create(
    tx: &Tx<'_>,
    name: &UserName,
    client: &SigningKey,
    previous: Option<&IdentityEnded>,
) -> Result<NewIdentity> {
    let signer = LeafSigner(client);
    let group = MlsGroup::builder()
        .ciphersuite(CIPHERSUITE)
        .with_wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
        .with_capabilities(capabilities())
        .lifetime(lifetime())
        .build(tx, &signer, mls::credential(name.to_string().into_bytes(), client.public_key()))
        .map_err(Error::mls("cannot create the identity"))?;
    let (group_info, ratchet_tree) = describe(tx, &group, client)?;
    let previous_end = previous.map(|ended| &ended.transcript);
    let transcript = Transcript::founded(previous_end, &group_info, &ratchet_tree);
    let founding = Founding { founder: client.public_key(), transcript };
    let incarnation = previous.map_or(0, |ended| ended.incarnation.saturating_add(1));
    let eid = EidState::founded(incarnation, transcript);
    let state = SignedState::sign(name, &founding, eid, &group_info, client);
    known::replace(tx, name, Which::Accepted, &kept(&founding, eid, &group_info, &ratchet_tree)?)?;
    Ok(NewIdentity { group_id: group.group_id().as_slice().to_vec(), group_info, ratchet_tree, state })
}

/// Forgets an account that was never registered: its name is somebody else's.
pub(crate) fn delete(tx: &Tx<'_>) -> Result<()> {
    if let Some(account) = Account::find(tx)? {
        load(tx, &account)?.delete(tx.storage())?;
        known::forget(tx, &account.user, Which::Accepted)?;
    }
    Account::delete(tx)
}

/// The KeyPackage by which a new device asks to be added: an `MLSMessage`.
pub(crate) fn key_package(tx: &Tx<'_>, name: &UserName, client: &SigningKey) -> Result<Vec<u8>> {
    let bundle = KeyPackage::builder()
        .key_package_lifetime(lifetime())
        .leaf_node_capabilities(capabilities())
        .build(
            CIPHERSUITE,
            tx,
            &LeafSigner(client),
            mls::credential(name.to_string().into_bytes(), client.public_key()),
        )
        .map_err(Error::mls("cannot make a KeyPackage"))?;
    mls::message_bytes(&MlsMessageOut::from(bundle.key_package().clone()))
}

/// A new device's KeyPackage, if it is one of `name`'s.
pub(crate) fn parse_device(tx: &Tx<'_>, name: &UserName, bytes: &[u8]) -> Option<NewDevice> {
    let key_package = mls::parse_key_package(bytes, tx.crypto())?;
    let leaf = key_package.leaf_node();
    let client_key = mls::public_key(leaf.signature_key().as_slice())?;
    let identity = mls::identity(leaf.credential())?;
    (identity == name.to_string().as_bytes()).then_some(NewDevice { client_key, key_package })
}

/// Joins the identity with the Welcome that another device made for this one. The device is pending until
/// [`confirm`].
pub(crate) fn join(
    tx: &Tx<'_>,
    name: &UserName,
    client: &SigningKey,
    welcome: &EidWelcome,
) -> Result<Vec<u8>> {
    let damaged = || Error::BadBlob("grant");
    let Some(MlsMessageBodyIn::Welcome(message)) = mls::parse(welcome.welcome.as_bytes()) else {
        return Err(damaged());
    };
    let tree =
        RatchetTreeIn::tls_deserialize_exact(welcome.ratchet_tree.as_bytes()).map_err(|_| damaged())?;
    let group = StagedWelcome::build_from_welcome(tx, &mls::join_config(), message)
        .map_err(|_| damaged())?
        .with_ratchet_tree(tree)
        .skip_lifetime_validation()
        .build()
        .and_then(|staged| staged.into_group(tx))
        .map_err(|_| damaged())?;
    let (group_info, ratchet_tree) = describe(tx, &group, client)?;
    let founding = Founding { founder: welcome.founder, transcript: welcome.founding };
    let kept = kept(&founding, welcome.eid, &group_info, &ratchet_tree)?;
    let public_eid = kept.public_eid()?;
    if public_eid.epoch() != welcome.eid.epoch || public_eid.leaves(name).is_err() {
        return Err(damaged());
    }
    known::replace(tx, name, Which::Accepted, &kept)?;
    Ok(group.group_id().as_slice().to_vec())
}

/// Adds a device and returns the Welcome for it. Asked again for the same device, returns the same
/// Welcome: the answer of the first time may have been lost.
pub(crate) async fn add(
    api: &Api,
    store: &Store,
    account: &Account,
    device: &NewDevice,
) -> Result<EidWelcome> {
    commit(api, store, account, |tx| match granted(tx, account, &device.client_key)? {
        Some(welcome) => Ok(Next::Done(welcome)),
        None => Ok(Next::Commit(Change::Add(device))),
    })
    .await
}

/// Removes a device of the user. Nothing is left to do if it is not in the identity.
///
/// # Errors
/// [`Error::OwnDevice`] for this device itself, and passing ones.
pub(crate) async fn remove(api: &Api, store: &Store, account: &Account, device: &PublicKey) -> Result<()> {
    if *device == account.client_key().public_key() {
        return Err(Error::OwnDevice);
    }
    commit(api, store, account, |tx| {
        let is_member = index_of(&load(tx, account)?, device).is_some();
        Ok(if is_member { Next::Commit(Change::Remove(device)) } else { Next::Done(()) })
    })
    .await
}

/// Gives the user another name (AS-9).
///
/// # Errors
/// `name-taken`, `wrong-proof`, `too-many-changes`, and passing ones.
pub(crate) async fn rename(
    api: &Api,
    store: &Store,
    account: &Account,
    to: &UserName,
    proof: OwnerProof<'_>,
) -> Result<()> {
    commit(api, store, account, |tx| {
        // The account has the new name once the AS accepted it.
        let renamed = Account::load(tx)?.user == *to;
        Ok(if renamed { Next::Done(()) } else { Next::Commit(Change::Rename { to, proof }) })
    })
    .await
}

/// Makes this device a client of its user by an update of its own (AS-4), unless it is one: a device that
/// was added asks for it, or it was added behind its back.
pub(crate) async fn confirm(api: &Api, store: &Store, account: &Account) -> Result<()> {
    commit(api, store, account, |tx| {
        let pending = is_pending(tx, account)?;
        Ok(if pending { Next::Commit(Change::Update) } else { Next::Done(()) })
    })
    .await
}

/// Whether this device was added to the identity and did not confirm that.
pub(super) fn is_pending(tx: &Tx<'_>, account: &Account) -> Result<bool> {
    let group = load(tx, account)?;
    Ok(group.epoch().as_u64() > 0 && group.own_leaf_node().is_some_and(is_as_added))
}

/// Gives this device's leaf the user's present name, if it has another one yet (AS-9): who sees the user for the first
/// time does not count the leaf before.
pub(super) async fn take_name(api: &Api, store: &Store, account: &Account) -> Result<()> {
    if !store.read(|tx| has_former_name(tx, account))? {
        return Ok(());
    }
    commit(api, store, account, |tx| {
        let update = has_former_name(tx, account)?;
        Ok(if update { Next::Commit(Change::Update) } else { Next::Done(()) })
    })
    .await
}

fn has_former_name(tx: &Tx<'_>, account: &Account) -> Result<bool> {
    let group = load(tx, account)?;
    let leaf = group.own_leaf_node().filter(|leaf| !is_as_added(leaf));
    let name = leaf.and_then(|leaf| mls::identity(leaf.credential()));
    Ok(group.is_active() && name.is_some_and(|name| name != account.user.to_string().as_bytes()))
}

/// The step that a device sees to be necessary in the identity as it is now.
enum Next<'a, T> {
    Commit(Change<'a>),
    Done(T),
}

/// Makes commits until none is necessary. Where another device was faster, this one follows and looks
/// again.
async fn commit<'a, T>(
    api: &Api,
    store: &Store,
    account: &Account,
    next: impl Fn(&Tx<'_>) -> Result<Next<'a, T>>,
) -> Result<T> {
    settle(api, store, account).await?;
    lookup::look_up(api, store, &account.user).await?;
    for _ in 0..ATTEMPTS {
        let done = store.write(|tx| {
            if !load(tx, account)?.is_active() {
                return Err(Error::RemovedDevice);
            }
            match next(tx)? {
                Next::Done(done) => Ok(Some(done)),
                Next::Commit(change) => stage(tx, account, &change).map(|()| None),
            }
        })?;
        if let Some(done) = done {
            return Ok(done);
        }
        settle(api, store, account).await?;
    }
    Err(Error::Contended(ATTEMPTS))
}

/// Sends the outstanding commit, the same bytes each time, until its fate is known.
pub(super) async fn settle(api: &Api, store: &Store, account: &Account) -> Result<()> {
    let Some(Outstanding { commit, rename }) = store.read(outstanding)? else { return Ok(()) };
    let client = account.client_key();
    let answer = match rename.clone() {
        None => api.commit_identity(&commit, &client).await,
        Some((name, proof)) => {
            api.rename_user(&RenameUser { name, commit: commit.clone(), proof }, &client).await
        }
    };
    let error = match answer {
        Ok(_) => {
            return store.write(|tx| {
                accepted(tx, account, &commit)?;
                let Some((to, _)) = rename else { return Ok(()) };
                account::take_name(tx, &account.user, &to)?;
                contact::tell_contacts_of_name(tx, &account.user)
            });
        }
        // The month's changes of name are used up, or nobody knows what became of it.
        Err(error) if error.refusal().is_none() && error.problem() != Some(ProblemType::TooManyChanges) => {
            return Err(error);
        }
        Err(error) => error,
    };
    if let Some((to, _)) = &rename
        && account::was_renamed(api, store, to).await?
    {
        // It was accepted, with the answer lost.
        return store.write(|tx| contact::tell_contacts_of_name(tx, &account.user));
    }
    // It may have been accepted, with the answer lost: then it is in the log.
    lookup::look_up(api, store, &account.user).await?;
    store.write(|tx| {
        if outstanding(tx)?.is_some() {
            let mut group = load(tx, account)?;
            withdraw_grants(tx, &group)?;
            group.clear_pending_commit(tx.storage()).map_err(Error::mls("cannot drop our own commit"))?;
            forget_commit(tx)?;
        }
        Ok(())
    })?;
    if error.problem() == Some(ProblemType::WrongEpoch) { Ok(()) } else { Err(error) }
}

pub(super) fn outstanding(tx: &Tx<'_>) -> Result<Option<Outstanding>> {
    let body: Option<Vec<u8>> =
        tx.sql().query_row("SELECT body FROM identity_commits", [], |row| row.get(0)).optional()?;
    body.map(|body| decode(&body, "a commit")).transpose()
}

fn forget_commit(tx: &Tx<'_>) -> Result<()> {
    tx.sql().execute("DELETE FROM identity_commits", [])?;
    Ok(())
}

/// Lets the outstanding commit take effect, which the AS accepted.
pub(super) fn accepted(tx: &Tx<'_>, account: &Account, commit: &CommitIdentity) -> Result<()> {
    if outstanding(tx)?.is_none() {
        // A lookup found it in the log meanwhile.
        return Ok(());
    }
    let before = known::own(tx, &account.user)?;
    let mut public_eid = before.public_eid()?;
    public_eid.follow(&account.user, &commit.commit)?;
    let eid = before.eid.followed_by(commit.commit.as_bytes());
    let kept = Kept { eid, public_group: public_eid.encode(), ..before };
    known::extend(tx, &account.user, Which::Accepted, &kept, &[(eid.epoch, eid.transcript)])?;
    apply_own(tx, &mut load(tx, account)?)
}

/// Applies this device's own commit, and what it means for the devices that it removed.
fn apply_own(tx: &Tx<'_>, group: &mut MlsGroup) -> Result<()> {
    let removed: Vec<PublicKey> = group
        .pending_commit()
        .into_iter()
        .flat_map(openmls::group::StagedCommit::remove_proposals)
        .filter_map(|remove| key_of(group, remove.remove_proposal().removed()))
        .collect();
    group.merge_pending_commit(tx).map_err(Error::mls("cannot apply our own commit"))?;
    forget_commit(tx)?;
    for device in &removed {
        known::forget_client(tx, device)?;
        group::remove_own_device(tx, device)?;
        group::was_removed(tx, device)?;
    }
    if !removed.is_empty() {
        contact::rotate_after_removal(tx)?;
        // Where the device is a user of its own, others have to remove it: they look, now that they hear of a newer state.
        group::tell_groups(tx)?;
    }
    Ok(())
}

/// Follows commits that the AS has of this user's identity, in order, from the epoch in which this device
/// is. A commit of this device whose answer was lost is among them.
pub(super) fn follow(tx: &Tx<'_>, account: &Account, commits: &[MlsMessage]) -> Result<()> {
    if account.eid_group_id.is_none() {
        return Ok(());
    }
    for commit in commits {
        let mut group = load(tx, account)?;
        if !group.is_active() {
            return Ok(());
        }
        let Some(MlsMessageBodyIn::PublicMessage(commit)) = mls::parse(commit.as_bytes()) else {
            return Err(Error::unexpected("an identity log with no commit in it"));
        };
        let content = group
            .process_message(tx, commit)
            .map_err(Error::mls("the log of our own identity does not verify"))?
            .into_content();
        match content {
            ProcessedMessageContent::StagedCommitMessage(staged) => {
                withdraw_grants(tx, &group)?;
                forget_commit(tx)?;
                let removed = staged.remove_proposals();
                let removed: Vec<_> =
                    removed.filter_map(|remove| key_of(&group, remove.remove_proposal().removed())).collect();
                group
                    .merge_staged_commit(tx, *staged)
                    .map_err(Error::mls("cannot apply a commit of another device"))?;
                let this = account.client_key().public_key();
                for device in removed.iter().filter(|device| **device != this) {
                    group::remove_own_device(tx, device)?;
                }
            }
            ProcessedMessageContent::OwnPendingCommit => apply_own(tx, &mut group)?,
            _ => return Err(Error::unexpected("an identity log with no commit in it")),
        }
    }
    Ok(())
}

/// Makes a commit, and keeps it until its answer is known.
pub(super) fn stage(tx: &Tx<'_>, account: &Account, change: &Change<'_>) -> Result<()> {
    let what = "cannot change the identity";
    let client = account.client_key();
    let own = known::own(tx, &account.user)?;
    let mut group = load(tx, account)?;
    let removed = match change {
        Change::Remove(device) => index_of(&group, device),
        Change::Add(_) | Change::Update | Change::Rename { .. } => None,
    };
    let tree = group.export_ratchet_tree();
    let mut builder = group.commit_builder().force_self_update(true).propose_removals(removed);
    if let Change::Add(device) = change {
        builder = builder.propose_adds([device.key_package.clone()]);
    }
    let user = match change {
        Change::Rename { to, .. } => *to,
        Change::Add(_) | Change::Remove(_) | Change::Update => &account.user,
    };
    // A leaf that was made before the user took another name takes it over with its next update.
    let credential = mls::credential(user.to_string().into_bytes(), client.public_key());
    let leaf = LeafNodeParameters::builder().with_credential_with_key(credential).build();
    builder = builder.leaf_node_parameters(leaf);
    // The AS keeps the tree, and a new device gets it with its Welcome.
    let (commit, welcome, group_info) = builder
        .load_psks(tx.storage())
        .map_err(Error::mls(what))?
        .create_group_info(true)
        .use_ratchet_tree_extension(false)
        .build(tx.rand(), tx.crypto(), &LeafSigner(&client), |_| true)
        .map_err(Error::mls(what))?
        .stage_commit(tx)
        .map_err(Error::mls(what))?
        .into_messages();
    let commit = MlsMessage::new(mls::message_bytes(&commit)?);
    let group_info = group_info.ok_or(Error::Damaged("a commit"))?;
    let group_info = GroupInfo::new(mls::message_bytes(&group_info)?);
    let eid = own.eid.followed_by(commit.as_bytes());
    if let (Change::Add(device), Some(welcome)) = (change, welcome) {
        let next_tree = group
            .pending_commit()
            .and_then(|staged| staged.export_ratchet_tree(tx.crypto(), tree).ok()?)
            .ok_or(Error::Damaged("a commit"))?;
        let welcome = EidWelcome {
            welcome: Welcome::new(mls::message_bytes(&welcome)?),
            ratchet_tree: tree_bytes(&next_tree)?,
            founder: own.founding.founder,
            founding: own.founding.transcript,
            eid,
        };
        tx.sql().execute(
            "INSERT OR REPLACE INTO grants (client_key, welcome) VALUES (?1, ?2)",
            params![device.client_key.as_bytes(), encode(&welcome)],
        )?;
    }
    let state = SignedState::sign(user, &own.founding, eid, &group_info, &client);
    let rename = match change {
        Change::Rename { to, proof } => {
            let operation = Operation::RenameUser { to, eid };
            Some(((*to).clone(), proof.of(&account.user, &operation)))
        }
        Change::Add(_) | Change::Remove(_) | Change::Update => None,
    };
    let commit = Outstanding { commit: CommitIdentity { commit, group_info, state }, rename };
    tx.sql().execute("INSERT INTO identity_commits (one, body) VALUES (1, ?1)", [encode(&commit)])?;
    Ok(())
}

/// Forgets the Welcomes of a commit of this device that came too late: they lead nowhere.
fn withdraw_grants(tx: &Tx<'_>, group: &MlsGroup) -> Result<()> {
    for add in group.pending_commit().into_iter().flat_map(openmls::group::StagedCommit::add_proposals) {
        let leaf = add.add_proposal().key_package().leaf_node();
        tx.sql().execute("DELETE FROM grants WHERE client_key = ?1", [leaf.signature_key().as_slice()])?;
    }
    Ok(())
}

/// The Welcome for a device that is in the identity by now.
pub(super) fn granted(tx: &Tx<'_>, account: &Account, client_key: &PublicKey) -> Result<Option<EidWelcome>> {
    if index_of(&load(tx, account)?, client_key).is_none() {
        return Ok(None);
    }
    let welcome: Option<Vec<u8>> = tx
        .sql()
        .query_row("SELECT welcome FROM grants WHERE client_key = ?1", [client_key.as_bytes()], |row| {
            row.get(0)
        })
        .optional()?;
    welcome.map(|welcome| decode(&welcome, "a grant")).transpose()
}

pub(super) fn load(tx: &Tx<'_>, account: &Account) -> Result<MlsGroup> {
    let id = account.eid_group_id.as_deref().ok_or(Error::NotReady)?;
    MlsGroup::load(tx.storage(), &MlsGroupId::from_slice(id))?.ok_or(Error::Damaged("the identity"))
}

fn index_of(group: &MlsGroup, device: &PublicKey) -> Option<LeafNodeIndex> {
    let mut members = group.members();
    members.find(|member| member.signature_key == device.as_bytes().as_slice()).map(|member| member.index)
}

fn key_of(group: &MlsGroup, index: LeafNodeIndex) -> Option<PublicKey> {
    let member = group.members().find(|member| member.index == index)?;
    mls::public_key(&member.signature_key)
}

/// The public description of a group's epoch, signed by this device.
pub(super) fn describe(
    tx: &Tx<'_>,
    group: &MlsGroup,
    client: &SigningKey,
) -> Result<(GroupInfo, RatchetTree)> {
    let group_info = group
        .export_group_info(tx.crypto(), &LeafSigner(client), false)
        .map_err(Error::mls("cannot describe the identity"))?;
    let group_info = GroupInfo::new(mls::message_bytes(&group_info)?);
    Ok((group_info, tree_bytes(&group.export_ratchet_tree())?))
}

fn tree_bytes(tree: &openmls::treesync::RatchetTree) -> Result<RatchetTree> {
    let bytes = tree.tls_serialize_detached().map_err(Error::mls("cannot encode the identity's tree"))?;
    Ok(RatchetTree::new(bytes))
}

/// This user's own identity, in a state that no server has shown.
fn kept(
    founding: &Founding,
    eid: EidState,
    group_info: &GroupInfo,
    ratchet_tree: &RatchetTree,
) -> Result<Kept> {
    let public_group = PublicEid::open(group_info, ratchet_tree)?.encode();
    Ok(Kept { founding: *founding, eid, public_group, former: Vec::new(), seen: 0, verified: true })
}

fn lifetime() -> Lifetime {
    let from_now = Lifetime::new(LEAF_LIFETIME);
    Lifetime::init(from_now.not_before().saturating_sub(LEAF_LIFETIME_BEGUN), from_now.not_after())
}

fn capabilities() -> Capabilities {
    Capabilities::new(
        Some(&[ProtocolVersion::Mls10]),
        Some(&[CIPHERSUITE]),
        None,
        None,
        Some(&[CredentialType::Basic]),
    )
}
