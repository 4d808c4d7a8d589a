//! Commits of this device: the one whose answer is outstanding, and those that took effect. Following the commits of the
//! user's other devices. The tables `identity_commits` and `made_commits`.

use openmls::prelude::{MlsGroup, MlsMessageBodyIn, ProcessedMessageContent};
use openmls_traits::OpenMlsProvider as _;
use postern_protocol::{
    MlsMessage, PublicKey, account::RenameUser, auth::CommitIdentity, name::UserName, problem::ProblemType,
    second_proof::SecondProof,
};
use rusqlite::{OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

use super::{grants::withdraw_grants, key_of, load};
use crate::{
    account::{self, Account},
    contact,
    error::{Error, Result},
    group,
    identity::{
        known::{self, Kept, Which},
        lookup,
    },
    mls,
    server::Api,
    store::{Store, Tx, decode, encode, integer},
};

/// Seconds for which commits that took effect are kept, for an AS that is restored to an earlier state: no older backup is.
const KEPT_FOR: u64 = 90 * 24 * 60 * 60;

/// The commit whose answer is outstanding.
#[derive(Serialize, Deserialize)]
pub(crate) struct Outstanding {
    pub commit: CommitIdentity,
    /// The name that the user takes with it, and the owner's proof.
    pub rename: Option<(UserName, SecondProof)>,
}

/// Sends the outstanding commit, the same bytes each time, until its fate is known.
pub(crate) async fn settle(api: &Api, store: &Store, account: &Account) -> Result<()> {
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

pub(crate) fn outstanding(tx: &Tx<'_>) -> Result<Option<Outstanding>> {
    let body: Option<Vec<u8>> =
        tx.sql().query_row("SELECT body FROM identity_commits", [], |row| row.get(0)).optional()?;
    body.map(|body| decode(&body, "a commit")).transpose()
}

/// Keeps a commit until its answer is known.
pub(super) fn keep(tx: &Tx<'_>, commit: &Outstanding) -> Result<()> {
    tx.sql().execute("INSERT INTO identity_commits (one, body) VALUES (1, ?1)", [encode(commit)])?;
    Ok(())
}

fn forget_commit(tx: &Tx<'_>) -> Result<()> {
    tx.sql().execute("DELETE FROM identity_commits", [])?;
    Ok(())
}

/// Lets the outstanding commit take effect, which the AS accepted.
pub(crate) fn accepted(tx: &Tx<'_>, account: &Account, commit: &CommitIdentity) -> Result<()> {
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
    // A rename counts in its month, and has a proof that may be over.
    if let Some(Outstanding { commit, rename: None }) = outstanding(tx)? {
        keep_made(tx, group.epoch().as_u64(), &commit)?;
    }
    group.merge_pending_commit(tx).map_err(Error::mls("cannot apply our own commit"))?;
    forget_commit(tx)?;
    for device in &removed {
        known::forget_client(tx, device)?;
        group::remove_own_device(tx, device)?;
        group::was_removed(tx, &Account::load(tx)?.user, device)?;
    }
    if !removed.is_empty() {
        contact::rotate_after_removal(tx)?;
        // Where the device is a user of its own, others have to remove it: they look, now that they hear of a newer state.
        group::tell_groups(tx)?;
    }
    Ok(())
}

fn keep_made(tx: &Tx<'_>, epoch: u64, commit: &CommitIdentity) -> Result<()> {
    tx.sql()
        .execute("DELETE FROM made_commits WHERE made < ?1", [integer(tx.now().saturating_sub(KEPT_FOR))])?;
    tx.sql().execute(
        "INSERT OR REPLACE INTO made_commits (epoch, body, made) VALUES (?1, ?2, ?3)",
        params![integer(epoch), encode(commit), integer(tx.now())],
    )?;
    Ok(())
}

/// Has an AS that was restored to an earlier state (QS-12) take commits of this device again, as far as their turn is: the
/// same bytes lead to the same state, so nobody sees another history. Those between are the user's other devices' to bring.
/// Returns whether it took any.
pub(crate) async fn make_again(api: &Api, store: &Store, account: &Account) -> Result<bool> {
    let made: Vec<(u64, Vec<u8>)> = store.read(|tx| {
        let mut statement = tx.sql().prepare("SELECT epoch, body FROM made_commits ORDER BY epoch")?;
        Ok(statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?)
    })?;
    let (client, mut taken, mut current) = (account.client_key(), false, 0);
    for (epoch, body) in made {
        if epoch < current {
            continue;
        }
        let commit: CommitIdentity = decode(&body, "a commit")?;
        match api.commit_identity(&commit, &client).await {
            Ok(_) => taken = true,
            Err(error) => match error.refusal().and_then(|problem| problem.epoch) {
                Some(found) if found > epoch => current = found,
                Some(_) => break,
                None => return Err(error),
            },
        }
    }
    Ok(taken)
}

/// Follows commits that the AS has of this user's identity, in order, from the epoch in which this device
/// is. A commit of this device whose answer was lost is among them.
pub(crate) fn follow(tx: &Tx<'_>, account: &Account, commits: &[MlsMessage]) -> Result<()> {
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
