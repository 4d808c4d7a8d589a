//! This device among its user's: adding another, waking it, renewing its keys, its end.

use postern_protocol::{
    P256PublicKey, PublicKey,
    admission::{InviteCode, MakeInvite},
    problem::{Problem, ProblemType},
    push::PushSubscription,
    qs::{QueueKind, RemoveKeyPackages},
};

use super::handle::Client;
use crate::{
    account::{self, Account, LinkGrant, LinkRequest},
    contact::{self, Friendship},
    error::{Error, Result, goes_on, or_repeated},
    group::{self, GroupState},
    identity::{self, Device, eid},
    key_packages,
    link::{self, LinkOffer},
    mailbox::Queue,
    push,
    session::Session,
    store::Step,
};

/// The way in which a device that logged out goes from its user's devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Farewell {
    /// So many other devices were told: the first one to read it removes this one.
    Told { devices: usize },
    /// The user has no other device in use that could remove it.
    Last,
    /// It had been removed before.
    Removed,
    /// No other device could be told. This one stays among the user's until another removes it ([`Client::remove_device`]).
    Untold { reason: String },
}

impl Client {
    /// Approves a new device of this user (AS-3), where the two cannot meet at the server: the second of three steps,
    /// between [`ClientBuilder::request_link`](crate::ClientBuilder::request_link) and
    /// [`ClientBuilder::complete_link`](crate::ClientBuilder::complete_link) on the new device. Asking again for the
    /// same request adds nothing and grants the same.
    ///
    /// # Errors
    /// [`Error::BadBlob`] for a request that is damaged or another user's.
    pub async fn approve_link(&self, request: &LinkRequest) -> Result<LinkGrant> {
        let session = &self.session;
        let account = &session.account;
        if request.user != account.user {
            return Err(Error::BadBlob("link request"));
        }
        let device = link::parse_device(session, request.key_package.as_bytes())?;
        let handover = link::hand_over(session, &device, link::EXPECTED).await?;
        let handover = handover.seal(&request.hpke_key, &device.client_key)?;
        Ok(LinkGrant { user: account.user.clone(), handover })
    }

    /// Offers to add a new device over a rendezvous at the server (AS-7), for which a person types the offer's code there
    /// ([`ClientBuilder::link`](crate::ClientBuilder::link)); or goes on with an offer that was interrupted.
    ///
    /// # Errors
    /// `too-many-rendezvous`.
    pub async fn offer_link(&self) -> Result<LinkOffer> {
        link::offer(&self.session).await
    }

    /// Makes an invite for one registration at this user's server (AS-1), and returns its code and its end,
    /// in seconds since 1970. The server does not learn the code before somebody registers by it.
    ///
    /// # Errors
    /// `too-many-invites`, `account-suspended`, and passing ones: call again. It may be made by then, and the call returns it.
    pub async fn make_invite(&self) -> Result<(InviteCode, u64)> {
        let Session { store, api, .. } = &*self.session;
        let _step = store.step().await?;
        let (code, client) = store.write(|tx| {
            let mut account = Account::load(tx)?;
            let code = account.invite.get_or_insert_with(InviteCode::generate).clone();
            account.save(tx)?;
            Ok((code, account.client_key()))
        })?;
        let made = api.make_invite(&MakeInvite { digest: code.digest() }, &client).await?;
        store.write(|tx| {
            let mut account = Account::load(tx)?;
            account.invite = None;
            account.save(tx)
        })?;
        Ok((code, made.not_after))
    }

    /// The user's devices, as the AS shows them.
    ///
    /// # Errors
    /// As [`Self::look_up`].
    pub async fn devices(&self) -> Result<Vec<Device>> {
        let session = &self.session;
        identity::devices(&session.api, &session.store, &session.account).await
    }

    /// One of the user's devices, by its name, its key or the beginning of its key (unpadded base64url).
    ///
    /// # Errors
    /// [`Error::UnknownDevice`], [`Error::AmbiguousDevice`], and as [`Self::devices`].
    pub async fn device(&self, name: &str) -> Result<Device> {
        identity::device_named(&self.devices().await?, name).cloned()
    }

    /// Calls a device something, on this device: no server and no other device learns it. An empty name
    /// takes the old one away.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn name_device(&self, device: &PublicKey, name: &str) -> Result<()> {
        self.session.store.write(|tx| identity::name_device(tx, device, name))
    }

    /// Removes a device from the user's: it is nothing to anybody from the next lookup on (AS-13), and is
    /// let into nothing that is shared among the user's devices.
    ///
    /// # Errors
    /// [`Error::OwnDevice`], and passing ones: call again.
    pub async fn remove_device(&self, device: &PublicKey) -> Result<()> {
        let session = &self.session;
        let step = session.store.step().await?;
        eid::remove(&session.api, &session.store, &session.account, device).await?;
        session.errands(&step).await
    }

    /// The key for which push subscriptions for this device's server are made (RFC 8292); `None` if
    /// the server sends no pushes.
    ///
    /// # Errors
    /// [`Error::Server`].
    pub async fn application_server_key(&self) -> Result<Option<P256PublicKey>> {
        Ok(self.session.api.http.queuing_keys().await?.application_server_key)
    }

    /// Has this device woken for what comes into one of its mailboxes, by Web Push (RFC 8030,
    /// QS-10): to this subscription, or no longer. Take one subscription for each mailbox: nobody
    /// is to know that they are one device's.
    ///
    /// # Errors
    /// `no-push` if the server sends no pushes, [`Error::Push`].
    pub async fn wake_by_push(&self, kind: QueueKind, subscription: Option<PushSubscription>) -> Result<()> {
        let session = &self.session;
        if subscription.is_some() && self.application_server_key().await?.is_none() {
            return Err(Problem::from(ProblemType::NoPush).into());
        }
        let step = session.store.step().await?;
        session.store.write(|tx| push::subscribe(tx, kind, subscription.as_ref()))?;
        session.errands(&step).await
    }

    /// Takes new keys for this device's mailboxes (post-compromise security): the old ones open
    /// nothing that comes from now on.
    ///
    /// # Errors
    /// [`Error::Server`], [`Error::Queue`].
    pub async fn renew_mailbox_keys(&self) -> Result<()> {
        let session = &self.session;
        let step = session.store.step().await?;
        session.renew_mailbox_keys(&step).await?;
        session.errands(&step).await
    }

    /// Gives up everything that this device has at the server: its KeyPackages, its mailboxes
    /// with whatever waits in them, and their addresses. Then it tells the user's other devices: the first one that reads it
    /// removes this one from the user's devices and from groups, as [`Self::remove_device`] does. Afterwards this is no client
    /// any more; its directory may be deleted.
    ///
    /// # Errors
    /// Passing ones: this is still a client. Call again.
    pub async fn log_out(&self) -> Result<Farewell> {
        let session = &self.session;
        let step = session.store.step().await?;
        // First: once another device has removed this one, it gets no more tokens to pay for that.
        self.give_up_mailboxes(&step).await?;
        let farewell = Box::pin(self.say_farewell(&step)).await?;
        self.forget_account()?;
        Ok(farewell)
    }

    /// Tells the user's other devices that this one logs out. A refusal for good does not keep it from logging out.
    async fn say_farewell(&self, step: &Step<'_>) -> Result<Farewell> {
        match self.tell_others(step).await {
            // It was removed, and gets no tokens.
            Err(error) if error.problem() == Some(ProblemType::NotAllowed) => Ok(Farewell::Removed),
            Err(error) if error.leads_nowhere() || error.is_unpaid() => {
                Ok(Farewell::Untold { reason: error.to_string() })
            }
            farewell => farewell,
        }
    }

    async fn tell_others(&self, _: &Step<'_>) -> Result<Farewell> {
        let Session { store, api, .. } = &*self.session;
        // Nobody believes a letter whose credential had ended when it was written.
        goes_on(identity::renew_credential(store, api).await)?;
        let mut account = store.read(Account::load)?;
        let mut own = identity::look_up(api, store, &account.user).await;
        // Another device may have taken another name for the user while this one was off.
        if own.as_ref().is_err_and(|error| error.problem() == Some(ProblemType::NotFound))
            && account::follow_rename(api, store).await?
        {
            goes_on(identity::renew_credential(store, api).await)?;
            account = store.read(Account::load)?;
            own = identity::look_up(api, store, &account.user).await;
        }
        let own = own?;
        let this = account.client_key().public_key();
        if store.read(|tx| identity::has_device(tx, &account.user, &this))? != Some(true) {
            return Ok(Farewell::Removed);
        }
        let others: Vec<_> = own.clients.into_iter().filter(|client| client.client_key != this).collect();
        if others.is_empty() {
            return Ok(Farewell::Last);
        }
        Ok(match contact::say_leaving(store, api, &others).await? {
            0 => Farewell::Untold { reason: "none of the user's other devices takes letters now".to_owned() },
            devices => Farewell::Told { devices },
        })
    }

    /// Gives up everything that this device has at the QS.
    pub(super) async fn give_up_mailboxes(&self, _: &Step<'_>) -> Result<()> {
        let session = &self.session;
        let friendship = session.store.read(Friendship::load)?;
        let stock =
            RemoveKeyPackages { friendship_token: friendship.token(), stock_id: Some(friendship.stock_id) };
        let removed = session.api.remove_key_packages(&stock, &friendship.secrets.owner()).await;
        or_repeated(removed, ProblemType::NotFound)?;
        let (group, contact, addresses, contact_addresses) = session.store.read(|tx| {
            let mut addresses = key_packages::addresses(tx)?;
            for id in group::active(tx)? {
                addresses.extend(GroupState::load(tx, &id)?.delivery_address());
            }
            let [group, contact] = [QueueKind::Group, QueueKind::Contact].map(|kind| Queue::load(tx, kind));
            Ok((group?, contact?, addresses, Account::load(tx)?.contact_addresses().to_vec()))
        })?;
        let deleted = session.api.delete_queue(&group.id, addresses, &group.owner).await;
        or_repeated(deleted, ProblemType::NotFound)?;
        let deleted = session.api.delete_queue(&contact.id, contact_addresses, &contact.owner).await;
        or_repeated(deleted, ProblemType::NotFound)
    }
}
