//! Changes of the identity that this device makes: each is a commit, decided anew where another device was faster.

use openmls::prelude::LeafNodeParameters;
use openmls_traits::OpenMlsProvider as _;
use postern_protocol::{
    GroupInfo, MlsMessage, PublicKey, Welcome, auth::CommitIdentity, eid::SignedState, name::UserName,
    second_proof::Operation,
};

use super::{
    EidWelcome, NewDevice,
    grants::{self, granted},
    index_of, load,
    outstanding::{self, Outstanding, settle},
    tree_bytes,
};
use crate::{
    account::{Account, OwnerProof},
    error::{Error, Result},
    identity::{known, lookup, public_eid::is_as_added},
    mls::{self, LeafSigner},
    server::Api,
    store::{Store, Tx},
};

/// How often a commit is tried again after another device was faster.
const ATTEMPTS: u32 = 5;

/// The effect that a commit is to have.
pub(crate) enum Change<'a> {
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

/// The step that a device sees to be necessary in the identity as it is now.
enum Next<'a, T> {
    Commit(Change<'a>),
    Done(T),
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
pub(crate) fn is_pending(tx: &Tx<'_>, account: &Account) -> Result<bool> {
    let group = load(tx, account)?;
    Ok(group.epoch().as_u64() > 0 && group.own_leaf_node().is_some_and(is_as_added))
}

/// Gives this device's leaf the user's present name, if it has another one yet (AS-9): who sees the user for the first
/// time does not count the leaf before.
pub(crate) async fn take_name(api: &Api, store: &Store, account: &Account) -> Result<()> {
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

/// Makes commits until none is necessary. Where another device was faster, this one follows and looks
/// again.
async fn commit<'a, T>(
    api: &Api,
    store: &Store,
    account: &Account,
    next: impl Fn(&Tx<'_>) -> Result<Next<'a, T>>,
) -> Result<T> {
    settle(api, store, account).await?;
    // Another name, if what was outstanding was a rename whose answer had been lost.
    let user = store.read(Account::load)?.user.clone();
    lookup::look_up(api, store, &user).await?;
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

/// Makes a commit, and keeps it until its answer is known.
pub(crate) fn stage(tx: &Tx<'_>, account: &Account, change: &Change<'_>) -> Result<()> {
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
        grants::keep(tx, &device.client_key, &welcome)?;
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
    outstanding::keep(tx, &commit)
}
