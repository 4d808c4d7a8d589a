//! The client as its user's program sees it. Start here.
//!
//! ```no_run
//! # async fn example() -> postern_client::Result<()> {
//! # use std::{path::Path, time::Duration};
//! use postern_client::{Client, Event};
//!
//! let alice = Client::register(Path::new("alice"), "http://127.0.0.1:8008", "alice").await?;
//! let group = alice.create_group("climbing").await?;
//! alice.invite(&group, &"bob@example.localhost".parse().unwrap()).await?;
//! // One of Bob's devices answers when it is online; receiving adds them all then.
//! alice.sync_until(Duration::from_secs(60), |event| matches!(event, Event::Added { .. })).await?;
//! alice.send(&group, "hello").await?;
//! # Ok(())
//! # }
//! ```
//!
//! A [`Client`] is a handle: clone it freely, use it from several tasks, and from several
//! processes on one directory. What it tells ([`Event`]) waits in the store until somebody
//! takes it.

use std::{
    collections::HashSet,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use postern_api::Http;
use postern_protocol::{
    P256PublicKey, PublicKey,
    ds::{GroupId, MessageAccepted},
    mls::DeliveryAddress,
    name::UserName,
    problem::{Problem, ProblemType},
    push::{PushSubscription, Urgency},
    qs::{QueueKind, QueuePayload, RemoveKeyPackages},
};
use rusqlite::params;

use crate::{
    account::Account,
    contact, eid,
    error::{Error, Result, or_repeated},
    event::{self, Event, EventId, Member},
    friendship::{self, Friendship},
    group::{self, Change, Group},
    identity::{self, VerifiedUser},
    link::{LinkGrant, LinkRequest},
    message::Content,
    push,
    server::Api,
    setup, stock,
    store::{Options, Store, decode},
    submit::{Submission, group_ids},
    sync::{self, Follower, load_queue},
    wallet::Wallet,
};

#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Arc<Store>,
    pub(crate) api: Api,
    pub(crate) options: Options,
    account: Account,
    doubted: Mutex<HashSet<PublicKey>>,
}

/// A group this client is or was in.
#[derive(Debug, Clone)]
pub struct GroupSummary {
    pub id: GroupId,
    /// Empty until the one who added us told it.
    pub title: String,
    /// Whether this client is still in it.
    pub active: bool,
}

/// What an invitation has led to so far, in devices of the invited user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invited {
    /// Those in the group now.
    pub members: usize,
    /// Those that were asked and have not answered yet.
    pub waiting: usize,
}

impl Client {
    /// Registers a new user, or takes up a registration that was interrupted. `name` may
    /// leave out the server's domain.
    ///
    /// # Errors
    /// [`Error::ClientExists`], `name-taken`, [`Error::Unreachable`].
    pub async fn register(directory: &Path, server: &str, name: &str) -> Result<Self> {
        Self::register_with(directory, server, name, Options::default()).await
    }

    /// As [`Self::register`], with options.
    ///
    /// # Errors
    /// As [`Self::register`].
    pub async fn register_with(directory: &Path, server: &str, name: &str, options: Options) -> Result<Self> {
        let store = setup::register(directory, server, name, &options).await?;
        Self::new(store, options)
    }

    /// Opens the client of a directory.
    ///
    /// # Errors
    /// [`Error::NoClient`], [`Error::NotReady`].
    pub fn open(directory: &Path) -> Result<Self> {
        Self::open_with(directory, Options::default())
    }

    /// As [`Self::open`], with options.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(directory: &Path, options: Options) -> Result<Self> {
        Self::new(Arc::new(Store::open(directory, &options)?), options)
    }

    fn new(store: Arc<Store>, options: Options) -> Result<Self> {
        let account = store.read(Account::load)?.filter(|account| account.ready).ok_or(Error::NotReady)?;
        let http = Http::new(options.server.as_deref().unwrap_or(&account.server))?;
        let api = setup::api(&store, http, &account);
        let doubted = Mutex::default();
        Ok(Self { inner: Arc::new(Inner { store, api, options, account, doubted }) })
    }

    /// The first of three steps to a further device: on the new device, offline.
    ///
    /// # Errors
    /// [`Error::ClientExists`].
    pub fn request_link(directory: &Path, server: &str, user: &UserName) -> Result<LinkRequest> {
        setup::request_link(directory, server, user, &Options::default())
    }

    /// The second: on a device the user has. Asking again for the same request adds nothing
    /// and grants the same.
    ///
    /// # Errors
    /// [`Error::BadBlob`] for a request that is damaged or another user's.
    pub async fn approve_link(&self, request: &LinkRequest) -> Result<LinkGrant> {
        let inner = &self.inner;
        let account = &inner.account;
        if request.user != account.user {
            return Err(Error::BadBlob("link request"));
        }
        let _step = inner.store.step().await?;
        let device = inner
            .store
            .read(|tx| Ok(eid::parse_device(tx, &account.user, request.key_package.as_bytes())))?
            .ok_or(Error::BadBlob("link request"))?;
        let welcome = eid::add(&inner.api, &inner.store, account, &device).await?;
        let secrets = inner.friendship()?.secrets.clone();
        let friendship = contact::seal_secrets(&request.hpke_key, &device.client_key, &secrets)?;
        Ok(LinkGrant { user: account.user.clone(), welcome, friendship })
    }

    /// The third: on the new device again.
    ///
    /// # Errors
    /// [`Error::BadBlob`] for a grant that is damaged or another device's.
    pub async fn complete_link(directory: &Path, grant: &LinkGrant) -> Result<Self> {
        let options = Options::default();
        let store = setup::complete_link(directory, grant, &options).await?;
        Self::new(store, options)
    }

    pub fn user(&self) -> &UserName {
        &self.inner.account.user
    }

    /// The key this device is known by at the AS.
    pub fn client_key(&self) -> PublicKey {
        self.inner.client_key()
    }

    pub fn server(&self) -> &str {
        self.inner.api.http.server()
    }

    pub fn directory(&self) -> &Path {
        self.inner.store.directory()
    }

    // Groups

    /// Creates a group with this device as its one member and admin. The title is known to
    /// members only.
    ///
    /// # Errors
    /// What the server refuses.
    pub async fn create_group(&self, title: &str) -> Result<GroupId> {
        let inner = &self.inner;
        let address = sync::fresh_address()?;
        let queue = inner.store.read(|tx| load_queue(tx, QueueKind::Group))?;
        sync::add_addresses(&inner.api, &queue, vec![address], Vec::new()).await?;
        let reserved = inner.api.reserve_group_id().await?;
        let id = reserved.group_id.clone();
        let _step = inner.store.step().await?;
        let delivery = DeliveryAddress { domain: self.user().domain().clone(), address };
        // Kept before it is sent: a crash in between must not lose the keys. If the answer
        // is lost, so is the group, which nobody else knows of.
        let (leaf, create) = inner.store.write(|tx| {
            let (group, create) = Group::create(tx, &reserved, title, &delivery)?;
            Ok((group.leaf, create))
        })?;
        if let Err(error) = inner.api.create_group(&create, &leaf).await {
            inner.store.write(|tx| Group::load(tx, &id)?.forget(tx))?;
            return Err(error);
        }
        Ok(id)
    }

    /// # Errors
    /// [`Error::Database`].
    pub fn groups(&self) -> Result<Vec<GroupSummary>> {
        self.inner.store.read(|tx| {
            let mut statement =
                tx.sql().prepare("SELECT group_id, title, active FROM groups ORDER BY active DESC, rowid")?;
            let rows = statement
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect::<Result<Vec<(Vec<u8>, String, bool)>, _>>()?;
            rows.into_iter()
                .map(|(id, title, active)| {
                    let id = GroupId::from_mls(&id).map_err(|_| Error::Damaged("a group id"))?;
                    Ok(GroupSummary { id, title, active })
                })
                .collect()
        })
    }

    /// The group with this title, id, or beginning of an id.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], [`Error::AmbiguousGroup`].
    pub fn find_group(&self, text: &str) -> Result<GroupSummary> {
        let groups = self.groups()?;
        let find = |wanted: &dyn Fn(&GroupSummary) -> bool| -> Vec<_> {
            groups.iter().filter(|group| wanted(group)).collect()
        };
        // A group that was left counts only when no other is meant.
        let by_title = find(&|group| group.active && group.title == text);
        let by_id = find(&|group| !text.is_empty() && group.id.to_base64url().starts_with(text));
        let left = find(&|group| group.title == text);
        match [by_title, by_id, left].into_iter().find(|found| !found.is_empty()).as_deref() {
            Some([group]) => Ok((*group).clone()),
            Some(_) => Err(Error::AmbiguousGroup(text.to_owned())),
            None => Err(Error::UnknownGroup(text.to_owned())),
        }
    }

    /// Every device in the group.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], [`Error::NotMember`].
    pub fn members(&self, group: &GroupId) -> Result<Vec<Member>> {
        self.inner.store.read(|tx| group::members(tx, &Group::load(tx, group)?))
    }

    /// Whether a device may add and remove others.
    ///
    /// # Errors
    /// As [`Self::members`].
    pub fn is_admin(&self, group: &GroupId, leaf_key: &PublicKey) -> Result<bool> {
        self.inner.store.read(|tx| Ok(Group::load(tx, group)?.is_admin(leaf_key)))
    }

    /// The group's epoch as this client knows it.
    ///
    /// # Errors
    /// As [`Self::members`].
    pub fn epoch(&self, group: &GroupId) -> Result<u64> {
        self.inner.store.read(|tx| Ok(Group::load(tx, group)?.epoch()))
    }

    /// Invites all devices of a user, our own other devices when it is our own name. They are
    /// added at once if the user allowed it before; else the user is asked, and they are
    /// added when the answer of one of them is received.
    ///
    /// # Errors
    /// [`Error::NotAdmin`], [`Error::NoContact`], `not-found` for an unknown user, [`Error::Identity`] when the
    /// AS's answer does not verify.
    pub async fn invite(&self, group: &GroupId, user: &UserName) -> Result<Invited> {
        let inner = &self.inner;
        let found = self.look_up(user).await?;
        let step = inner.store.step().await?;
        let devices: Vec<_> = found
            .clients
            .iter()
            .filter(|client| client.client_key != self.client_key())
            .filter_map(|client| Some((client.client_key, client.contact.as_ref()?)))
            .collect();
        if devices.is_empty() {
            return Err(Error::NoContact);
        }
        inner.store.write(|tx| {
            let loaded = Group::load(tx, group)?;
            if !loaded.is_admin(&loaded.leaf.public_key()) {
                return Err(Error::NotAdmin);
            }
            let members = client_keys(&group::members_claims(tx, &loaded)?);
            let mut missing = Vec::new();
            for (client_key, contact) in &devices {
                if members.contains(client_key) {
                    continue;
                }
                tx.sql().execute(
                    "INSERT OR IGNORE INTO invitations (group_id, client_key, user) VALUES (?1, ?2, ?3)",
                    params![group.to_mls(), client_key.as_bytes(), user.to_string()],
                )?;
                if group::key_package_of(tx, client_key)?.is_none() {
                    missing.push((*client_key, *contact));
                }
            }
            if missing.is_empty() {
                return Ok(());
            }
            if *user == inner.account.user || friendship::friend(tx, user)?.is_some() {
                return friendship::want_key_packages(tx, user);
            }
            sync::ask(tx, user, &missing)
        })?;
        inner.errands(&step).await?;
        self.inner.store.read(|tx| {
            let members = client_keys(&group::members_claims(tx, &Group::load(tx, group)?)?);
            let members = devices.iter().filter(|(key, _)| members.contains(key)).count();
            Ok(Invited { members, waiting: devices.len() - members })
        })
    }

    /// Removes all devices of a user from the group.
    ///
    /// # Errors
    /// [`Error::NoSuchMember`], `policy-violation` unless this device is an admin.
    pub async fn remove(&self, group: &GroupId, user: &UserName) -> Result<()> {
        let found = std::sync::atomic::AtomicBool::new(false);
        let inner = &self.inner;
        let step = inner.store.step().await?;
        inner
            .commit(&step, group, |tx, group| {
                let own = group.leaf.public_key();
                let leaf_keys: Vec<_> = group::members_claims(tx, group)?
                    .into_iter()
                    .filter(|(leaf_key, claim)| *leaf_key != own && claim.user == *user)
                    .map(|(leaf_key, _)| leaf_key)
                    .collect();
                found.fetch_or(!leaf_keys.is_empty(), std::sync::atomic::Ordering::Relaxed);
                Ok((!leaf_keys.is_empty()).then_some(Change::Remove(leaf_keys)))
            })
            .await?;
        if found.into_inner() { Ok(()) } else { Err(Error::NoSuchMember(user.to_string())) }
    }

    /// Removes one device from the group, by its leaf key.
    ///
    /// # Errors
    /// As [`Self::remove`].
    pub async fn remove_device(&self, group: &GroupId, leaf_key: PublicKey) -> Result<()> {
        let inner = &self.inner;
        let step = inner.store.step().await?;
        inner
            .commit(&step, group, |_, group| {
                let is_member = group.leaf_keys().any(|key| key == leaf_key);
                Ok(is_member.then(|| Change::Remove(vec![leaf_key])))
            })
            .await
    }

    /// Leaves a group without asking it: its messages reach this device no more, and who is in
    /// it learns no more than that.
    ///
    /// # Errors
    /// [`Error::NotMember`], [`Error::UnknownGroup`]. After [`Error::Unreachable`] the next step
    /// goes on with it.
    pub async fn block_group(&self, group: &GroupId) -> Result<()> {
        let inner = &self.inner;
        let step = inner.store.step().await?;
        inner.store.write(|tx| Group::load(tx, group)?.leave(tx))?;
        inner.errands(&step).await
    }

    /// Keeps a user from adding this one's devices to further groups. All other contacts, and
    /// the user's own devices, are told another friendship token.
    ///
    /// # Errors
    /// As [`Self::look_up`], for the user's own name. After [`Error::Unreachable`] the next step
    /// goes on with it.
    pub async fn block_user(&self, user: &UserName) -> Result<()> {
        let inner = &self.inner;
        let own = self.look_up(self.user()).await?;
        let step = inner.store.step().await?;
        // One after the other: an earlier rotation is at the QS before the next begins.
        inner.errands(&step).await?;
        let devices: Vec<_> = own
            .clients
            .iter()
            .filter_map(|client| Some((client.client_key, client.contact.as_ref()?)))
            .collect();
        inner.store.write(|tx| friendship::block(tx, user, &devices))?;
        inner.errands(&step).await
    }

    /// Takes new keys for this device's mailboxes (post-compromise security): whoever got hold of
    /// the old ones reads nothing that comes from now on.
    ///
    /// # Errors
    /// After [`Error::Unreachable`] the next step goes on with it.
    pub async fn renew_mailbox_keys(&self) -> Result<()> {
        let inner = &self.inner;
        let step = inner.store.step().await?;
        inner.renew_mailbox_keys(&step).await?;
        inner.errands(&step).await
    }

    /// What push subscriptions for this device's server are made for (RFC 8292); none if it sends
    /// no pushes.
    ///
    /// # Errors
    /// [`Error::Unreachable`].
    pub async fn application_server_key(&self) -> Result<Option<P256PublicKey>> {
        Ok(self.inner.api.http.queuing_keys().await?.application_server_key)
    }

    /// Has this device woken for what comes into one of its mailboxes, by Web Push (RFC 8030): to
    /// this subscription, or no longer. Take one subscription for each mailbox: nobody is to know
    /// that they are one device's.
    ///
    /// # Errors
    /// [`Error::Refused`] if the server sends no pushes. After [`Error::Unreachable`] the next step
    /// goes on with it.
    pub async fn wake_by_push(&self, kind: QueueKind, subscription: Option<PushSubscription>) -> Result<()> {
        let inner = &self.inner;
        if subscription.is_some() && self.application_server_key().await?.is_none() {
            return Err(Problem::from(ProblemType::NoPush).into());
        }
        let step = inner.store.step().await?;
        inner.store.write(|tx| push::subscribe(tx, kind, subscription.as_ref()))?;
        inner.errands(&step).await
    }

    /// From which urgency on this device is woken for a group's messages: normal, unless this
    /// says something else; none: never.
    ///
    /// # Errors
    /// [`Error::NotMember`], [`Error::UnknownGroup`]. After [`Error::Unreachable`] the next step
    /// goes on with it.
    pub async fn set_group_push(&self, group: &GroupId, at_least: Option<Urgency>) -> Result<()> {
        let inner = &self.inner;
        let step = inner.store.step().await?;
        inner.store.write(|tx| {
            Group::load(tx, group)?;
            push::set_policy(tx, group, at_least)
        })?;
        inner.errands(&step).await
    }

    /// Gives up everything that this device has at the server: its KeyPackages, its mailboxes
    /// with whatever waits in them, and their addresses. Then it is no client any more; its
    /// directory may be deleted. The user's other devices see it in the user's identity until
    /// they remove it there.
    ///
    /// # Errors
    /// Passing ones: call again.
    pub async fn log_out(&self) -> Result<()> {
        let inner = &self.inner;
        let _step = inner.store.step().await?;
        let friendship = inner.friendship()?;
        let stock = RemoveKeyPackages { friendship_token: friendship.token(), stock_id: friendship.stock_id };
        let removed = inner.api.remove_key_packages(&stock, &friendship.secrets.owner()).await;
        or_repeated(removed, ProblemType::NotFound)?;
        let (group, contact, addresses) = inner.store.read(|tx| {
            let mut addresses = stock::addresses(tx)?;
            for group in group_ids(tx, "SELECT group_id FROM groups WHERE active = 1")? {
                addresses.extend(Group::load(tx, &group)?.delivery_address());
            }
            Ok((load_queue(tx, QueueKind::Group)?, load_queue(tx, QueueKind::Contact)?, addresses))
        })?;
        let deleted = inner.api.delete_queue(&group.id, addresses, &group.owner).await;
        or_repeated(deleted, ProblemType::NotFound)?;
        let address = vec![inner.account.contact_address];
        let deleted = inner.api.delete_queue(&contact.id, address, &contact.owner).await;
        or_repeated(deleted, ProblemType::NotFound)?;
        inner.store.write(|tx| {
            tx.sql().execute("DELETE FROM account", [])?;
            Ok(())
        })
    }

    /// Renews this device's keys in the group (post-compromise security).
    ///
    /// # Errors
    /// [`Error::NotMember`], [`Error::Contended`].
    pub async fn update(&self, group: &GroupId) -> Result<()> {
        let step = self.inner.store.step().await?;
        self.inner.commit(&step, group, |_, _| Ok(Some(Change::Update))).await
    }

    /// Keeps something beside this device's leaf, where the group's members find it and nobody
    /// else can read it (DS-12): 1,534 bytes at most. Nothing is said of it in the group.
    ///
    /// # Errors
    /// [`Error::NoAttributesKey`] until a newcomer was told how, `message-too-large`, those of
    /// [`Self::update`].
    pub async fn set_attributes(&self, group: &GroupId, content: &[u8]) -> Result<()> {
        let step = self.inner.store.step().await?;
        self.inner.commit(&step, group, |_, _| Ok(Some(Change::SetAttributes(content.to_vec())))).await
    }

    /// What the members keep beside their leaves now, by leaf key, as far as it opens.
    ///
    /// # Errors
    /// [`Error::NoAttributesKey`], [`Error::NotMember`], what the server refuses.
    pub async fn attributes(&self, group: &GroupId) -> Result<Vec<(PublicKey, Vec<u8>)>> {
        let inner = &self.inner;
        let (leaf, fetch) = inner.store.read(|tx| {
            let group = Group::load(tx, group)?;
            let fetch = group.fetch_info()?;
            Ok((group.leaf, fetch))
        })?;
        let current = inner.api.fetch_group_info(group, &fetch, &leaf).await?;
        inner.store.read(|tx| Group::load(tx, group)?.open_attributes(tx, &current.attributes))
    }

    /// Leaves a group: with the next commit of another member, which has to come before
    /// anybody says anything. The last admin cannot.
    ///
    /// # Errors
    /// [`Error::NotMember`], [`Error::Contended`], what the server refuses.
    pub async fn leave(&self, group: &GroupId) -> Result<()> {
        let step = self.inner.store.step().await?;
        self.inner.leave(&step, group).await
    }

    /// Comes back into a group that this device is in but can follow no more. What was said
    /// since cannot be read.
    ///
    /// # Errors
    /// [`Error::NotMember`], [`Error::Contended`].
    pub async fn rejoin(&self, group: &GroupId) -> Result<()> {
        let step = self.inner.store.step().await?;
        self.inner.rejoin(&step, group).await
    }

    /// Says something in a group. When this returns, it will reach every member. After a
    /// passing error it is kept and sent with the next step.
    ///
    /// # Errors
    /// [`Error::NotMember`], [`Error::UnknownGroup`], [`Error::Unreachable`].
    pub async fn send(&self, group: &GroupId, text: &str) -> Result<()> {
        let step = self.inner.store.step().await?;
        self.inner.send(&step, group, Content::Text(text.to_owned())).await
    }

    // Receiving

    /// Receives what is there, waits up to `wait` if there is nothing to tell, and takes
    /// what there is to tell.
    ///
    /// # Errors
    /// Passing ones lose nothing: call again. [`Error::Queue`] when the server cheats.
    pub async fn sync(&self, wait: Duration) -> Result<Vec<Event>> {
        self.receive(wait).await?;
        let pending = self.pending_events()?;
        if let Some((last, _)) = pending.last() {
            self.forget_events(*last)?;
        }
        Ok(pending.into_iter().map(|(_, event)| event).collect())
    }

    /// Syncs until an event is `wanted` or `timeout` is over; returns all events on the way.
    ///
    /// # Errors
    /// As [`Self::sync`].
    pub async fn sync_until(
        &self,
        timeout: Duration,
        mut wanted: impl FnMut(&Event) -> bool,
    ) -> Result<Vec<Event>> {
        let deadline = Instant::now() + timeout;
        let mut events = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let new = self.sync(left).await?;
            let found = new.iter().any(&mut wanted);
            events.extend(new);
            if found || left.is_zero() {
                return Ok(events);
            }
        }
    }

    /// As [`Self::sync`], but leaves what there is to tell in the store: see
    /// [`Self::pending_events`].
    ///
    /// # Errors
    /// As [`Self::sync`].
    pub async fn receive(&self, wait: Duration) -> Result<()> {
        Inner::receive(self, wait).await
    }

    /// Waits on both queues for as long as it lives, with few tokens.
    pub fn follower(&self) -> Follower {
        Follower::new(self.clone())
    }

    /// What was not told yet, oldest first.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn pending_events(&self) -> Result<Vec<(EventId, Event)>> {
        self.inner.store.read(event::pending)
    }

    /// Call when everything up to here was told.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn forget_events(&self, up_to: EventId) -> Result<()> {
        self.inner.store.write(|tx| event::forget(tx, up_to))
    }

    /// Whether something is on its way that a later step has to finish: unanswered
    /// messages, unsent deposits, unanswered contact requests, KeyPackages to fetch or publish,
    /// introductions.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn has_errands(&self) -> Result<bool> {
        self.inner.store.read(|tx| {
            Ok(tx.sql().query_row(
                "SELECT EXISTS (SELECT 1 FROM submissions) OR EXISTS (SELECT 1 FROM deposits)
                     OR EXISTS (SELECT 1 FROM received_requests) OR EXISTS (SELECT 1 FROM fetches)
                     OR EXISTS (SELECT 1 FROM publications) OR EXISTS (SELECT 1 FROM revocations)
                     OR EXISTS (SELECT 1 FROM groups WHERE introduce = 1 AND active = 1)",
                [],
                |row| row.get(0),
            )?)
        })
    }

    // Underneath, for programs that test or measure a server

    /// Looks a user up at the AS and verifies the answer.
    ///
    /// # Errors
    /// `not-found`, [`Error::Identity`].
    pub async fn look_up(&self, user: &UserName) -> Result<VerifiedUser> {
        identity::look_up(&self.inner.api, &self.inner.store, user).await
    }

    pub fn wallet(&self) -> &Wallet {
        &self.inner.api.wallet
    }

    pub fn http(&self) -> &Http {
        &self.inner.api.http
    }

    /// Makes a commit without sending it. It stays outstanding until [`Self::settle`],
    /// [`Self::confirm`] or [`Self::abandon`].
    ///
    /// # Errors
    /// When another message of the group is outstanding.
    pub async fn prepare(&self, group: &GroupId, change: &Change) -> Result<Submission> {
        let _step = self.inner.store.step().await?;
        self.inner.store.write(|tx| Group::load(tx, group)?.stage_commit(tx, change).map(drop))?;
        self.outstanding(group)?.ok_or(Error::NotReady)
    }

    /// Makes an application message without sending it, as [`Self::prepare`] does a commit.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub async fn prepare_text(&self, group: &GroupId, text: &str) -> Result<Submission> {
        let _step = self.inner.store.step().await?;
        let content = Content::Text(text.to_owned());
        self.inner.store.write(|tx| Group::load(tx, group)?.stage_content(tx, content).map(drop))?;
        self.outstanding(group)?.ok_or(Error::NotReady)
    }

    /// The message of a group whose answer is outstanding: the bytes to send again.
    ///
    /// # Errors
    /// [`Error::NotMember`].
    pub fn outstanding(&self, group: &GroupId) -> Result<Option<Submission>> {
        self.inner.outstanding(group)
    }

    /// As if a day had passed since this device asked how many KeyPackages it has in stock.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn forget_the_count(&self) -> Result<()> {
        self.inner.store.write(stock::forget_the_count)
    }

    /// Sends the bytes with a fresh token and changes nothing here.
    ///
    /// # Errors
    /// What the DS refuses.
    pub async fn submit(&self, submission: &Submission) -> Result<MessageAccepted> {
        self.inner.api.submit_request(submission.request.clone()).await
    }

    /// The DS accepted the outstanding message. What was delivered before a commit is
    /// received first.
    ///
    /// # Errors
    /// [`Error::NotMember`], [`Error::Unreachable`].
    pub async fn confirm(&self, group: &GroupId) -> Result<()> {
        let step = self.inner.store.step().await?;
        match self.inner.outstanding(group)? {
            Some(submission) => self.inner.accepted(&step, &submission).await,
            None => Ok(()),
        }
    }

    /// The DS refused the outstanding message.
    ///
    /// # Errors
    /// [`Error::NotMember`].
    pub async fn abandon(&self, group: &GroupId) -> Result<()> {
        let _step = self.inner.store.step().await?;
        self.inner.store.write(|tx| Group::load(tx, group)?.abandon(tx))
    }

    /// Sends the outstanding message until its fate is known. True when it was accepted.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn settle(&self, group: &GroupId) -> Result<bool> {
        let step = self.inner.store.step().await?;
        let settled = self.inner.settle(&step, group).await?;
        Ok(matches!(settled, crate::submit::Settled::Accepted(_)))
    }

    /// What a queue delivered so far, in order, with [`Options::record_deliveries`].
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn deliveries(&self, kind: QueueKind) -> Result<Vec<(u64, QueuePayload)>> {
        self.inner.store.read(|tx| {
            let mut statement =
                tx.sql().prepare("SELECT seq, payload FROM deliveries WHERE kind = ?1 ORDER BY seq")?;
            let rows = statement
                .query_map([kind.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<Result<Vec<(u64, Vec<u8>)>, _>>()?;
            rows.into_iter().map(|(seq, payload)| Ok((seq, decode(&payload, "a delivery")?))).collect()
        })
    }
}

impl Inner {
    pub(crate) fn friendship(&self) -> Result<Friendship> {
        let account = self.store.read(Account::load)?.ok_or(Error::NotReady)?;
        account.friendship.clone().ok_or(Error::NotReady)
    }

    pub(crate) fn client_key(&self) -> PublicKey {
        self.account.client_key().public_key()
    }

    /// Clients that a lookup did not confirm: they are not looked up over and over.
    pub(crate) fn doubted(&self) -> MutexGuard<'_, HashSet<PublicKey>> {
        self.doubted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn client_keys(claims: &[(PublicKey, postern_protocol::credential::ClientCredential)]) -> HashSet<PublicKey> {
    claims.iter().map(|(_, claim)| claim.client_key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Many clients live in one process: what they do can be spawned.
    #[test]
    fn clients_move_between_threads() {
        fn is_send<T: Send>(_: &T) {}
        #[expect(unused, reason = "it only has to compile")]
        fn spawnable(client: &Client, group: &GroupId, user: &UserName, submission: &Submission) {
            is_send(client);
            is_send(&client.sync(Duration::ZERO));
            is_send(&client.send(group, ""));
            is_send(&client.invite(group, user));
            is_send(&client.remove(group, user));
            is_send(&client.submit(submission));
            is_send(&client.follower().next(Duration::ZERO));
            is_send(&Client::register(Path::new(""), "", ""));
        }
    }
}
