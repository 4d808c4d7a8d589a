//! The account as a whole: its recovery key, another name, and its end (AS-8, AS-9).

use std::sync::Arc;

use postern_protocol::{
    account::DeleteAccount,
    ds::GroupId,
    name::UserName,
    problem::ProblemType,
    second_proof::{Operation, RecoveryKey},
};

use super::handle::Client;
use crate::{
    account::{Account, OwnerProof},
    contact::{self, Friendship},
    error::{Error, Result, goes_on, or_repeated},
    group,
    identity::{self, eid},
    profile::{self, ProfileChange, UserProfile},
    session::Session,
};

/// A group that a user whose account ended is not wholly out of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StillIn {
    pub group: GroupId,
    /// Empty if this device was never told.
    pub title: String,
    pub reason: String,
}

impl Client {
    /// The recovery key that was made here, as long as nobody said that its owner has seen it
    /// ([`Self::forget_recovery_key`]). With it the owner resets the account after losing all devices, renames it and
    /// deletes it. No server has it.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn recovery_key(&self) -> Result<Option<RecoveryKey>> {
        Ok(self.session.store.read(Account::load)?.recovery_key())
    }

    /// Forgets the recovery key, which its owner has seen and written down: it cannot be shown again.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn forget_recovery_key(&self) -> Result<()> {
        self.session.store.write(|tx| {
            let mut account = Account::load(tx)?;
            account.set_recovery_key(None);
            account.save(tx)
        })
    }

    /// Makes another recovery key in place of the old one, which is worth nothing then. The new one is kept until its
    /// owner has seen it ([`Self::forget_recovery_key`]).
    ///
    /// # Errors
    /// `wrong-proof`, and passing ones: call again, with the same old key.
    pub async fn replace_recovery_key(&self, proof: impl Into<OwnerProof<'_>>) -> Result<RecoveryKey> {
        let proof = proof.into();
        let store = &self.session.store;
        let _step = store.step().await?;
        // Where an answer was lost, the new key of that time is the AS's, or becomes it.
        let old = match proof {
            OwnerProof::RecoveryKey(old) => Some(old),
            OwnerProof::IdToken(_) => None,
        };
        let new = self.next_recovery_key(old)?;
        let replaced = self.put_recovery_key(proof, &new).await;
        let is_wrong = |error: &Error| old.is_some() && error.problem() == Some(ProblemType::WrongProof);
        if replaced.as_ref().is_err_and(is_wrong) {
            // It is the AS's already if it proves itself.
            self.put_recovery_key((&new).into(), &new).await?;
        } else {
            replaced?;
        }
        store.write(|tx| {
            let mut account = Account::load(tx)?;
            account.set_next_recovery_key(None);
            account.set_recovery_key(Some(&new));
            account.save(tx)
        })?;
        Ok(new)
    }

    /// The nonce that the ID token has to have by which [`Self::replace_recovery_key`] makes another key.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn recovery_key_nonce(&self) -> Result<String> {
        let recovery_key = self.next_recovery_key(None)?.verifier();
        self.nonce(&Operation::ReplaceRecoveryKey { recovery_key })
    }

    /// The key that is to be the next one, which is made if there is none. One that is kept here, and that nobody has seen,
    /// is it if the proof is by another.
    fn next_recovery_key(&self, old: Option<&RecoveryKey>) -> Result<RecoveryKey> {
        self.session.store.write(|tx| {
            let mut account = Account::load(tx)?;
            let unseen = || account.recovery_key().filter(|kept| old.is_some_and(|old| kept != old));
            let new = account.next_recovery_key().or_else(unseen).unwrap_or_else(RecoveryKey::generate);
            account.set_next_recovery_key(Some(&new));
            account.save(tx)?;
            Ok(new)
        })
    }

    async fn put_recovery_key(&self, proof: OwnerProof<'_>, new: &RecoveryKey) -> Result<()> {
        let account = self.session.store.read(Account::load)?;
        let operation = Operation::ReplaceRecoveryKey { recovery_key: new.verifier() };
        let proof = proof.of(&account.user, &operation);
        self.session.api.replace_recovery_key(new.verifier(), proof, &account.client_key()).await
    }

    /// The nonce of an ID token that proves the operation for this device.
    fn nonce(&self, operation: &Operation<'_>) -> Result<String> {
        let account = self.session.store.read(Account::load)?;
        Ok(operation.nonce(&account.user, &account.client_key().public_key()))
    }

    /// The profile of a user as far as it is known: of this client's own user, or of one that was looked up (AS-6).
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn profile(&self, user: &UserName) -> Result<UserProfile> {
        self.session.store.read(|tx| profile::profile(tx, user))
    }

    /// Changes this user's profile, and tells contacts. What the change leaves out stays.
    ///
    /// # Errors
    /// [`Error::BadPicture`], [`Error::TooLong`], `body-too-large`, `invalid-profile`, and passing ones.
    pub async fn change_profile(&self, change: &ProfileChange) -> Result<()> {
        let step = self.session.store.step().await?;
        profile::change(&self.session.api, &self.session.store, change).await?;
        self.session.errands(&step).await
    }

    /// The picture of a user's profile as it is known; `None` if it has none.
    ///
    /// # Errors
    /// [`Error::BadPicture`] if the server shows another one, `not-found`.
    pub async fn picture(&self, user: &UserName) -> Result<Option<Vec<u8>>> {
        profile::picture(&self.session.api, &self.session.store, user).await
    }

    /// Gives the user another name of the same domain, which may be left out. It is the same user to all that knew
    /// it: they are told. Returns the client under its new name; the old one is of no more use.
    ///
    /// # Errors
    /// [`Error::BadName`], `name-taken`, `wrong-proof`, `too-many-changes`, and passing ones: call again.
    pub async fn rename(&self, name: &str, proof: impl Into<OwnerProof<'_>>) -> Result<Self> {
        let Session { store, api, options, .. } = &*self.session;
        {
            let _step = store.step().await?;
            let account = store.read(Account::load)?;
            let name = new_name(&account, name)?;
            eid::rename(api, store, &account, &name, proof.into()).await?;
            // Under the new name.
            identity::renew_credential(store, api).await?;
        }
        Ok(Self { session: Arc::new(Session::open(store.clone(), options.clone())?) })
    }

    /// The nonce that the ID token has to have by which [`Self::rename`] gives the user this name.
    ///
    /// # Errors
    /// [`Error::BadName`].
    pub fn rename_nonce(&self, name: &str) -> Result<String> {
        let account = self.session.store.read(Account::load)?;
        let eid = self.session.store.read(identity::own_state)?;
        self.nonce(&Operation::RenameUser { to: &new_name(&account, name)?, eid })
    }

    /// Deletes the user's account: leaves all groups with all devices, gives up this device's mailboxes and KeyPackages,
    /// and has the AS erase all that it has of the user. A group in which nobody else is left is deleted, and a last
    /// admin makes another user one: of those whose identity is confirmed the one that is there the longest. The user's
    /// other devices are nobody's then; what they have at the server expires. This is no client any more; its directory
    /// may be deleted. Returns the groups that the user is not wholly out of.
    ///
    /// # Errors
    /// `wrong-proof`, and `not-allowed` for a device that was removed from its user, before anything is changed; passing
    /// ones: call again.
    pub async fn delete_account(&self, proof: impl Into<OwnerProof<'_>>) -> Result<Vec<StillIn>> {
        let session = &self.session;
        let proof = proof.into();
        // Whether the proof is right has to be known first.
        match self.ask_for_deletion(proof, true).await {
            Err(error) if error.problem() == Some(ProblemType::NotAllowed) => {
                // An earlier attempt, whose answer was lost, erased the account, and everybody was told. Otherwise this
                // device is nobody's, and tells nobody anything.
                let found = identity::look_up(&session.api, &session.store, self.user()).await;
                return match found {
                    Err(found) if found.is_of_nobody() => {
                        self.forget_account()?;
                        Ok(Vec::new())
                    }
                    Err(found) if found.is_passing() => Err(found),
                    _ => Err(error),
                };
            }
            proven => proven?,
        }
        let step = session.store.step().await?;
        session.store.write(group::tell_groups_of_end)?;
        let mut still_in = Vec::new();
        for group in session.store.read(group::active)? {
            let title = session.store.read(|tx| group::title(tx, &group))?;
            let reason = match session.leave_for_good(&step, &group).await {
                Ok(0) | Err(Error::NotMember) => continue,
                Ok(devices) => format!(
                    "other devices of yours are users of their own there and stay until the server removes them: {devices}"
                ),
                Err(error) => {
                    let reason = format!("this device could not leave: {error}");
                    goes_on::<()>(Err(error))?;
                    reason
                }
            };
            still_in.push(StillIn { group, title, reason });
        }
        let (store, api) = (&*session.store, &session.api);
        store.write(contact::tell_contacts_of_end)?;
        goes_on(contact::write_news(store, api).await)?;
        goes_on(contact::deliver_deposits(store, api).await)?;
        self.give_up_mailboxes(&step).await?;
        // No client any more: an earlier attempt, whose answer was lost, erased the account.
        or_repeated(self.ask_for_deletion(proof, false).await, ProblemType::NotAllowed)?;
        self.forget_account()?;
        Ok(still_in)
    }

    /// Makes this no client any more.
    pub(super) fn forget_account(&self) -> Result<()> {
        self.session.store.write(|tx| {
            Account::delete(tx)?;
            Friendship::delete(tx)
        })
    }

    /// The nonce that the ID token has to have by which [`Self::delete_account`] ends the account.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn deletion_nonce(&self) -> Result<String> {
        let client = self.session.store.read(Account::load)?.client_key().public_key();
        self.nonce(&Operation::DeleteAccount { client })
    }

    async fn ask_for_deletion(&self, proof: OwnerProof<'_>, rehearsal: bool) -> Result<()> {
        let account = self.session.store.read(Account::load)?;
        let client = account.client_key();
        let operation = Operation::DeleteAccount { client: client.public_key() };
        let delete = DeleteAccount { proof: proof.of(&account.user, &operation), rehearsal };
        self.session.api.delete_account(&delete, &client).await
    }
}

/// The name that an account's user is to have, which may leave out the domain.
fn new_name(account: &Account, name: &str) -> Result<UserName> {
    let name = match name.contains('@') {
        true => name.to_owned(),
        false => format!("{name}@{}", account.user.domain()),
    };
    name.parse().map_err(Error::BadName)
}
