//! Receiving, and what follows from it: takes what the queues hold, lets it take effect,
//! and runs the errands that are due, such as answering a contact request or fetching the
//! KeyPackages of those who are to be added. Every errand is a row in the store until it is done.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    pin::Pin,
    time::{Duration, Instant},
};

use postern_api as api;
use postern_protocol::{
    Address, Payload, PublicKey, RatchetTree,
    auth::SignedContact,
    chain::HpkePrivateKey,
    credential::ClientCredential,
    ds::GroupId,
    key::SigningKey,
    mls::CIPHERSUITE,
    name::UserName,
    problem::ProblemType,
    qs::{AddAddresses, Dequeue, Dequeued, NewOwner, QueueKind, QueuePayload, RotateKeys},
};
use rusqlite::{OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

use crate::{
    account::Account,
    client::{Client, Inner},
    contact::{self, ContactAnswer, ContactRequest, LetterBody, RequestId},
    error::{Error, Result, or_repeated},
    event::{self, Event},
    friendship,
    group::{self, Change, FriendsKeyPackage, Group, Rejection},
    identity::{self, VerifiedUser},
    push,
    queue::Queue,
    server::Api,
    setup, stock,
    store::{Step, Tx, decode, encode, fixed, integer},
    submit::{group_ids, is_unanswered},
    wallet::now,
};

/// The longest wait to ask a server for: proxies cut connections that are silent for long.
const LONGEST_POLL: Duration = Duration::from_secs(50);

/// How many seconds before its end a credential is renewed.
const RENEW_BEFORE: u64 = 30 * 24 * 60 * 60;

/// Seconds by which the clocks of a QS and of ours may differ.
const BATCH_TOLERANCE: u64 = 300;

const KINDS: [QueueKind; 2] = [QueueKind::Contact, QueueKind::Group];

type Poll = Pin<Box<dyn Future<Output = Result<Dequeued>> + Send>>;

/// Waits on both queues at once, for as long as its owner likes. A poll that is waiting
/// stays waiting while the other queue's messages are processed.
pub struct Follower {
    client: Client,
    polls: [Option<Poll>; 2],
}

impl Follower {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, polls: [None, None] }
    }

    /// Waits for up to `wait` until something came in on either queue, and processes it.
    /// True when something came in.
    ///
    /// # Errors
    /// Passing ones ([`Error::is_passing`]) lose nothing: call again.
    pub async fn next(&mut self, wait: Duration) -> Result<bool> {
        let inner = &self.client.inner;
        inner.errands(&inner.store.step().await?).await?;
        let wait = wait.min(LONGEST_POLL);
        for (poll, kind) in self.polls.iter_mut().zip(KINDS) {
            if poll.is_none() {
                let client = self.client.clone();
                *poll = Some(Box::pin(async move { client.inner.poll(kind, wait).await }));
            }
        }
        let [Some(contact), Some(group)] = &mut self.polls else { return Ok(false) };
        let (index, answer) = tokio::select! {
            answer = contact => (0, answer),
            answer = group => (1, answer),
        };
        self.polls[index] = None;
        let dequeued = answer?;
        if is_empty(&dequeued) {
            return Ok(false);
        }
        let step = inner.store.step().await?;
        inner.process(&step, KINDS[index], &dequeued).await?;
        inner.errands(&step).await?;
        Ok(true)
    }
}

impl Inner {
    /// Receives until there is something to tell or `wait` is over.
    pub(crate) async fn receive(client: &Client, wait: Duration) -> Result<()> {
        let inner = &client.inner;
        {
            let step = inner.store.step().await?;
            for kind in KINDS {
                inner.drain(&step, kind).await?;
            }
            inner.errands(&step).await?;
        }
        let deadline = Instant::now() + wait;
        let mut follower = Follower::new(client.clone());
        while inner.store.read(event::last)?.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            follower.next(left).await?;
        }
        Ok(())
    }

    /// Asks a queue for what comes after the last processed message. Not a step: others
    /// may go on meanwhile.
    pub(crate) async fn poll(&self, kind: QueueKind, wait: Duration) -> Result<Dequeued> {
        let queue = self.store.read(|tx| load_queue(tx, kind))?;
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let dequeue = Dequeue {
            after: queue.position,
            max_messages: None,
            wait: u16::try_from(seconds).unwrap_or(u16::MAX),
        };
        self.api.dequeue(&queue.id, &dequeue, &queue.owner).await
    }

    /// Processes all that a queue holds now.
    pub(crate) async fn drain(&self, step: &Step<'_>, kind: QueueKind) -> Result<()> {
        loop {
            let dequeued = self.poll(kind, Duration::ZERO).await?;
            if is_empty(&dequeued) {
                return Ok(());
            }
            self.process(step, kind, &dequeued).await?;
        }
    }

    /// Lets a batch take effect: for each message its effect, the queue's position and its
    /// chain in one transaction.
    async fn process(&self, _step: &Step<'_>, kind: QueueKind, dequeued: &Dequeued) -> Result<()> {
        let trees = match kind {
            QueueKind::Group => self.fetch_welcome_trees(dequeued).await?,
            QueueKind::Contact => HashMap::new(),
        };
        self.store
            .write(|tx| {
                let mut queue = load_queue(tx, kind)?;
                let mut broken = None;
                let expired = queue.skip_expired(dequeued.expired_up_to);
                if expired > 0 {
                    Event::Expired { messages: expired }.record(tx)?;
                }
                for message in &dequeued.messages {
                    let payload = match queue.open(message) {
                        Ok(Some(payload)) => payload,
                        Ok(None) => continue,
                        // What came before it is good and stays.
                        Err(error) => {
                            broken = Some(error);
                            break;
                        }
                    };
                    if self.options.record_deliveries {
                        record_delivery(tx, &queue, &payload)?;
                    }
                    match tx.attempt(|| self.take_effect(tx, kind, &payload, trees.get(&message.seq))) {
                        Ok(()) => {}
                        Err(Rejection::Invalid(reason)) => Event::Ignored { reason }.record(tx)?,
                        Err(Rejection::Fault(error)) => return Err(error),
                    }
                }
                queue.save(tx)?;
                Ok(broken)
            })?
            .map_or(Ok(()), |error| Err(error.into()))
    }

    /// The trees that belong to the Welcomes of a batch, by sequence number. A Welcome whose
    /// tree is gone is left to be refused.
    async fn fetch_welcome_trees(&self, dequeued: &Dequeued) -> Result<HashMap<u64, RatchetTree>> {
        let welcomes = self.store.read(|tx| {
            let mut queue = load_queue(tx, QueueKind::Group)?;
            let mut welcomes = Vec::new();
            for message in &dequeued.messages {
                match queue.open(message) {
                    Ok(Some(QueuePayload::Welcome(welcome))) => welcomes.push((message.seq, welcome)),
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
            Ok(welcomes)
        })?;
        let mut trees = HashMap::new();
        for (seq, welcome) in welcomes {
            let needed = self.store.trial(|tx| Ok(group::tree_of_welcome(tx, &welcome)))?;
            let Some((id, fetch, leaf)) = needed else { continue };
            match self.api.fetch_welcome_tree(&id, &fetch, &leaf).await {
                Ok(tree) => drop(trees.insert(seq, tree)),
                Err(error) if error.problem().is_none_or(is_unanswered) => return Err(error),
                Err(error) => tracing::warn!(%error, "the tree of a Welcome is not to be had"),
            }
        }
        Ok(trees)
    }

    fn take_effect(
        &self,
        tx: &Tx<'_>,
        kind: QueueKind,
        payload: &QueuePayload,
        tree: Option<&RatchetTree>,
    ) -> Result<(), Rejection> {
        match (kind, payload) {
            (QueueKind::Group, QueuePayload::Message(message)) => group::receive(tx, message),
            (QueueKind::Group, QueuePayload::Welcome(welcome)) => group::join(tx, welcome, tree),
            (QueueKind::Contact, QueuePayload::Deposit(deposit)) => receive_letter(tx, deposit),
            _ => Err(Rejection::Invalid("a message came in by the wrong queue".to_owned())),
        }
    }

    /// Does what is due. One errand that is refused does not keep the others from being run.
    pub(crate) async fn errands(&self, step: &Step<'_>) -> Result<()> {
        goes_on(self.renew_credential().await)?;
        stock::drop_expired(&self.store)?;
        goes_on(stock::revoke(&self.store, &self.api).await)?;
        goes_on(self.rotate_mailbox_keys(step).await)?;
        goes_on(self.adopt_secrets().await)?;
        goes_on(self.rotate_friendship_token().await)?;
        goes_on(stock::keep(&self.store, &self.api).await)?;
        goes_on(push::keep(&self.store, &self.api).await)?;
        for group in self.unsettled()? {
            goes_on(self.settle(step, &group).await)?;
        }
        goes_on(self.keep_groups(step).await)?;
        goes_on(self.answer_requests().await)?;
        // Before deposits: where a token was replaced, a letter asks for the new one.
        goes_on(self.fetch_key_packages().await)?;
        goes_on(self.deliver_deposits().await)?;
        let waiting = "SELECT DISTINCT group_id FROM invitations";
        for group in self.store.read(|tx| group_ids(tx, waiting))? {
            let added = self.commit(step, &group, add_invited).await;
            if let Err(Error::Server(api::Error::Refused(problem))) = &added
                && !is_unanswered(problem.kind)
            {
                let reason = format!("those invited cannot be added: {problem}");
                self.store.write(|tx| {
                    group::withdraw_invitations(tx, &group)?;
                    Event::Ignored { reason }.record(tx)
                })?;
            }
            goes_on(added)?;
        }
        let unintroduced = "SELECT group_id FROM groups WHERE introduce = 1 AND active = 1";
        for group in self.store.read(|tx| group_ids(tx, unintroduced))? {
            goes_on(self.introduce(step, &group).await)?;
        }
        goes_on(self.confirm_identities().await)
    }

    /// Has the AS sign a new credential long before the old one ends.
    async fn renew_credential(&self) -> Result<()> {
        let account = self.store.read(Account::load)?.ok_or(Error::NotReady)?;
        let credential =
            ClientCredential::parse(&account.credential()?).map_err(|_| Error::Damaged("the credential"))?;
        if credential.not_after > now() + RENEW_BEFORE {
            return Ok(());
        }
        setup::obtain_credential(&self.store, &self.api, account).await.map(drop)
    }

    /// Commits where it is this device's turn to: so that nobody who only listens is taken for
    /// gone (DS-10), and what was proposed takes effect though nobody says anything.
    async fn keep_groups(&self, step: &Step<'_>) -> Result<()> {
        for group in self.store.read(|tx| group::due(tx, &self.options))? {
            let update =
                |tx: &Tx<'_>, group: &Group| Ok(group.is_due(tx, &self.options)?.then_some(Change::Update));
            let done = self.commit(step, &group, update).await;
            if let Err(Error::Server(api::Error::Refused(problem))) = &done
                && !is_unanswered(problem.kind)
            {
                // As if it was done: not with every step.
                self.store.write(|tx| group::committed(tx, &group))?;
            }
            goes_on(done)?;
        }
        Ok(())
    }

    /// Takes over the friendship that another device of ours renewed.
    async fn adopt_secrets(&self) -> Result<()> {
        let received = self.store.read(|tx| {
            let mut statement =
                tx.sql().prepare_cached("SELECT client_key, secrets FROM received_secrets")?;
            Ok(statement
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<Result<Vec<(Vec<u8>, Vec<u8>)>, _>>()?)
        })?;
        if received.is_empty() {
            return Ok(());
        }
        let account = self.store.read(Account::load)?.ok_or(Error::NotReady)?;
        let devices = identity::look_up(&self.api, &self.store, &account.user).await?.clients;
        self.store.write(|tx| {
            for (client_key, secrets) in &received {
                if devices.iter().any(|device| device.client_key.as_bytes().as_slice() == client_key) {
                    friendship::replace(tx, decode(secrets, "a friendship")?)?;
                } else {
                    let reason = "secrets came that are not from a device of ours".to_owned();
                    Event::Ignored { reason }.record(tx)?;
                }
            }
            tx.sql().execute("DELETE FROM received_secrets", [])?;
            Ok(())
        })
    }

    /// Replaces the keys of mailboxes as far as new ones are made. Everything that was sealed to
    /// the keys before the old ones is read by then.
    async fn rotate_mailbox_keys(&self, step: &Step<'_>) -> Result<()> {
        type Row = (String, [u8; 32], [u8; 32]);
        let rotations = self.store.read(|tx| {
            let mut statement =
                tx.sql().prepare_cached("SELECT kind, owner_seed, hpke_key FROM key_rotations")?;
            Ok(statement
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect::<Result<Vec<Row>, _>>()?)
        })?;
        for (name, owner_seed, hpke_key) in rotations {
            let kind = KINDS
                .into_iter()
                .find(|kind| kind.as_str() == name)
                .ok_or(Error::Damaged("a mailbox's kind"))?;
            let (owner, hpke) = (SigningKey::from_seed(owner_seed), HpkePrivateKey::from_bytes(hpke_key));
            let queue = self.store.read(|tx| load_queue(tx, kind))?;
            let rotation = RotateKeys {
                owner: Some(NewOwner::sign(&queue.id, queue.owner.public_key(), &owner)),
                hpke_key: Some(hpke.public_key().map_err(Error::mls("cannot use a key"))?),
            };
            let rotated = self.api.rotate_keys(&queue.id, &rotation, &queue.owner).await;
            // Our key is the old one, by an attempt of ours whose answer was lost.
            or_repeated(rotated, ProblemType::NotFound)?;
            self.store.write(|tx| {
                let mut queue = load_queue(tx, kind)?;
                queue.rotate(owner, hpke);
                queue.save(tx)?;
                tx.sql().execute("DELETE FROM key_rotations WHERE kind = ?1", [name])?;
                Ok(())
            })?;
            self.drain(step, kind).await?;
        }
        Ok(())
    }

    /// Makes new keys for both mailboxes, after reading what is sealed to the old ones.
    pub(crate) async fn renew_mailbox_keys(&self, step: &Step<'_>) -> Result<()> {
        self.rotate_mailbox_keys(step).await?;
        for kind in KINDS {
            self.drain(step, kind).await?;
            let hpke = HpkePrivateKey::generate().map_err(Error::mls("cannot make a key"))?;
            self.store.write(|tx| {
                tx.sql().execute(
                    "INSERT INTO key_rotations (kind, owner_seed, hpke_key) VALUES (?1, ?2, ?3)",
                    params![kind.as_str(), SigningKey::generate().seed(), hpke.as_bytes()],
                )?;
                Ok(())
            })?;
        }
        self.rotate_mailbox_keys(step).await
    }

    /// Has the QS replace a friendship token that was renewed here. Before anybody is told.
    async fn rotate_friendship_token(&self) -> Result<()> {
        let rotation: Option<Vec<u8>> = self.store.read(|tx| {
            Ok(tx.sql().query_row("SELECT rotation FROM rotations", [], |row| row.get(0)).optional()?)
        })?;
        let Some(rotation) = rotation else { return Ok(()) };
        let rotation = decode(&rotation, "a rotation")?;
        let owner = self.friendship()?.secrets.owner();
        let rotated = self.api.rotate_friendship_token(&rotation, &owner).await;
        // Rotated by an attempt of ours whose answer was lost, or not there at all.
        or_repeated(rotated, ProblemType::NotFound)?;
        self.store.write(|tx| {
            tx.sql().execute("DELETE FROM rotations", [])?;
            Ok(())
        })
    }

    /// Answers contact requests with this user's friendship.
    async fn answer_requests(&self) -> Result<()> {
        let requests = self.store.read(|tx| {
            let mut statement = tx.sql().prepare("SELECT request FROM received_requests")?;
            let rows = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<Vec<u8>>, _>>()?;
            rows.iter()
                .map(|row| decode(row, "a contact request"))
                .collect::<Result<Vec<(ContactSender, ContactRequest)>>>()
        })?;
        for (sender, request) in requests {
            goes_on(self.answer_request(sender, request).await)?;
        }
        Ok(())
    }

    async fn answer_request(&self, sender: ContactSender, request: ContactRequest) -> Result<()> {
        let known = match identity::look_up(&self.api, &self.store, &sender.user).await {
            Ok(user) => user.clients.iter().any(|client| client.client_key == sender.client_key),
            Err(error) if error.is_passing() => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "a contact request cannot be verified");
                false
            }
        };
        self.store.write(|tx| {
            tx.sql().execute(
                "DELETE FROM received_requests WHERE request_id = ?1",
                [request.request_id.as_bytes()],
            )?;
            if !known {
                let reason = "a contact request is not from whom it says".to_owned();
                return Event::Ignored { reason }.record(tx);
            }
            let account = Account::load(tx)?.ok_or(Error::NotReady)?;
            let secrets = &account.friendship.as_ref().ok_or(Error::NotReady)?.secrets;
            let accepted = self.options.accept_contacts && !secrets.is_blocked(&sender.user);
            Event::ContactRequested { user: sender.user.clone(), accepted }.record(tx)?;
            if !accepted {
                return Ok(());
            }
            let answer = ContactAnswer { request_id: request.request_id, friend: secrets.friend.clone() };
            tx.sql().execute(
                "INSERT OR REPLACE INTO given (client_key, user, contact) VALUES (?1, ?2, ?3)",
                params![sender.client_key.as_bytes(), sender.user.to_string(), encode(&request.contact)],
            )?;
            write_letter(tx, &account, &sender.user, &request.contact, &LetterBody::Answer(answer))
        })
    }

    /// Fetches the KeyPackages of those who are invited, and keeps them for the commits to come.
    async fn fetch_key_packages(&self) -> Result<()> {
        let users = self.store.read(|tx| {
            let mut statement = tx.sql().prepare_cached("SELECT user FROM fetches")?;
            let rows = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
            rows.iter()
                .map(|user| user.parse().map_err(|_| Error::Damaged("a user name")))
                .collect::<Result<Vec<UserName>>>()
        })?;
        for user in users {
            goes_on(self.fetch_of(&user).await)?;
        }
        Ok(())
    }

    async fn fetch_of(&self, user: &UserName) -> Result<()> {
        let done = |tx: &Tx<'_>| {
            tx.sql().execute("DELETE FROM fetches WHERE user = ?1", [user.to_string()])?;
            Ok(())
        };
        let own = self.store.read(Account::load)?.filter(|account| account.user == *user);
        let friend = match own {
            Some(_) => Some(self.friendship()?.secrets.friend.clone()),
            None => self.store.read(|tx| friendship::friend(tx, user))?,
        };
        let Some(friend) = friend else {
            return self.store.write(done);
        };
        let batch = match self.api.fetch_key_packages(friend.friendship_token, CIPHERSUITE).await {
            // The user took another token, and did not tell us: we ask anew.
            Err(error) if error.problem() == Some(ProblemType::NotFound) => {
                let found = identity::look_up(&self.api, &self.store, user).await?;
                return self.store.write(|tx| {
                    friendship::forget_friend(tx, user)?;
                    ask(tx, user, &invited_devices(tx, &found)?)?;
                    done(tx)
                });
            }
            answer => answer?,
        };
        let keys = self.api.http.queuing_keys().await?;
        if keys.domain != *user.domain() || batch.verify(&keys, now(), BATCH_TOLERANCE).is_err() {
            let reason = "the server's word for a batch of KeyPackages does not hold".to_owned();
            return self.store.write(|tx| {
                Event::Ignored { reason }.record(tx)?;
                done(tx)
            });
        }
        let is_known = |tx: &Tx<'_>, package: &FriendsKeyPackage| {
            Ok::<_, Error>(identity::confirmed(tx, &package.client.client_key)?.as_ref() == Some(user))
        };
        let open = |tx: &Tx<'_>| -> Vec<Option<FriendsKeyPackage>> {
            batch.key_packages.iter().map(|package| group::open_key_package(tx, &friend, package)).collect()
        };
        let packages = self.store.read(|tx| Ok(open(tx)))?;
        let all_known = self.store.read(|tx| {
            packages.iter().flatten().try_fold(true, |known, package| Ok(known && is_known(tx, package)?))
        })?;
        if !all_known {
            // A device that is newer than our last lookup.
            identity::look_up(&self.api, &self.store, user).await?;
        }
        let own_key = self.client_key();
        self.store.write(|tx| {
            for package in &packages {
                match package {
                    Some(package) if package.client.client_key == own_key => {}
                    Some(package) if package.client.user == *user && is_known(tx, package)? => {
                        group::keep_key_package(tx, package)?;
                    }
                    _ => {
                        let reason = format!("a KeyPackage of {user} is unusable");
                        Event::Ignored { reason }.record(tx)?;
                    }
                }
            }
            done(tx)
        })
    }

    /// Sends the deposits on their way.
    pub(crate) async fn deliver_deposits(&self) -> Result<()> {
        type Row = (i64, String, Vec<u8>, Vec<u8>);
        let rows = self.store.read(|tx| {
            let mut statement =
                tx.sql().prepare_cached("SELECT id, user, address, payload FROM deposits ORDER BY id")?;
            Ok(statement
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
                .collect::<Result<Vec<Row>, _>>()?)
        })?;
        for (id, user, address, payload) in rows {
            let sent = self.api.deposit(fixed(&address, "an address")?, Payload::new(payload)).await;
            match &sent {
                Ok(()) => {}
                Err(error) if error.problem() == Some(ProblemType::Undeliverable) => {}
                Err(_) => return sent,
            }
            self.store.write(|tx| {
                tx.sql().execute("DELETE FROM deposits WHERE id = ?1", [id])?;
                if sent.is_err() {
                    let user = user.parse().map_err(|_| Error::Damaged("a user name"))?;
                    Event::ContactUnreachable { user }.record(tx)?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Tells newcomers the group's title and who is in it.
    async fn introduce(&self, step: &Step<'_>, id: &GroupId) -> Result<()> {
        self.settle(step, id).await?;
        self.store.write(|tx| {
            let mut group = Group::load(tx, id)?;
            if let Some(content) = group::introduction(tx, &group)? {
                group.stage_content(tx, content)?;
            }
            Ok(())
        })?;
        self.settle(step, id).await.map(drop)
    }

    /// Asks the AS about members that were not confirmed yet, each client once a run.
    async fn confirm_identities(&self) -> Result<()> {
        let unconfirmed: Vec<(PublicKey, UserName)> = self.store.read(|tx| {
            let mut statement = tx.sql().prepare_cached(
                "SELECT DISTINCT l.client_key, l.link FROM links l
                 WHERE l.client_key IS NOT NULL
                 AND NOT EXISTS (SELECT 1 FROM identities i WHERE i.client_key = l.client_key)",
            )?;
            let rows = statement.query_map([], |row| row.get(1))?.collect::<Result<Vec<Vec<u8>>, _>>()?;
            rows.iter()
                .map(|link| {
                    let link: identity::IdentityLink = decode(link, "an identity link")?;
                    let claim = ClientCredential::parse(&link.credential)
                        .map_err(|_| Error::Damaged("a credential"))?;
                    Ok((claim.client_key, claim.user))
                })
                .collect()
        })?;
        let mut asked = HashSet::new();
        for (client_key, user) in unconfirmed {
            let first = self.doubted().insert(client_key);
            if first && asked.insert(user.clone()) {
                goes_on(identity::look_up(&self.api, &self.store, &user).await.map(drop))?;
            }
        }
        Ok(())
    }
}

fn is_empty(dequeued: &Dequeued) -> bool {
    dequeued.messages.is_empty() && dequeued.expired_up_to.is_none()
}

/// The clients a group waits for and whose KeyPackages are at hand.
fn add_invited(tx: &Tx<'_>, group: &Group) -> Result<Option<Change>> {
    let mut statement = tx.sql().prepare_cached("SELECT client_key FROM invitations WHERE group_id = ?1")?;
    let invited =
        statement.query_map([group.id.to_mls()], |row| row.get(0))?.collect::<Result<Vec<Vec<u8>>, _>>()?;
    let mut leaf_keys = Vec::new();
    for client_key in invited {
        leaf_keys.extend(group::key_package_of(tx, &fixed(&client_key, "a key")?)?);
    }
    Ok((!leaf_keys.is_empty()).then_some(Change::Add(leaf_keys)))
}

/// Who asks for contact: named by its credential, signed by its key.
#[derive(Serialize, Deserialize)]
struct ContactSender {
    user: UserName,
    client_key: PublicKey,
}

fn receive_letter(tx: &Tx<'_>, deposit: &Payload) -> Result<(), Rejection> {
    let account = Account::load(tx)?.ok_or(Error::NotReady)?;
    let letter = contact::open(deposit, &account.contact_address, &account.contact_key())
        .ok_or_else(|| Rejection::Invalid("a deposit is no letter to us".to_owned()))?;
    match letter.body {
        LetterBody::Request(request) => {
            if request.contact.domain != *account.user.domain() {
                return Err(Rejection::Invalid("a contact request is from another domain".to_owned()));
            }
            let sender = ContactSender { user: letter.sender.user, client_key: letter.sender.client_key };
            tx.sql().execute(
                "INSERT OR IGNORE INTO received_requests (request_id, request) VALUES (?1, ?2)",
                params![request.request_id.as_bytes(), encode(&(sender, &request))],
            )?;
        }
        LetterBody::Answer(answer) => {
            let (client_key, user) = (letter.sender.client_key, letter.sender.user);
            let asked = tx.sql().execute(
                "DELETE FROM requests WHERE request_id = ?1 AND client_key = ?2 AND user = ?3",
                params![answer.request_id.as_bytes(), client_key.as_bytes(), user.to_string()],
            )?;
            if asked == 0 {
                return Err(Rejection::Invalid("an answer came that we did not ask for".to_owned()));
            }
            friendship::keep_friend(tx, &user, &answer.friend)?;
            let waiting: bool = tx.sql().query_row(
                "SELECT EXISTS (SELECT 1 FROM invitations WHERE user = ?1)",
                [user.to_string()],
                |row| row.get(0),
            )?;
            if waiting {
                friendship::want_key_packages(tx, &user)?;
            }
            Event::ContactAnswered { user }.record(tx)?;
        }
        LetterBody::Renewal(friend) => {
            let (client_key, user) = (letter.sender.client_key, letter.sender.user);
            // Only from devices that a lookup confirmed, of those who gave us theirs before.
            let known = identity::confirmed(tx, &client_key)?.as_ref() == Some(&user)
                && friendship::friend(tx, &user)?.is_some();
            if !known {
                return Err(Rejection::Invalid("a friendship came that we did not ask for".to_owned()));
            }
            friendship::keep_friend(tx, &user, &friend)?;
        }
        LetterBody::Secrets(secrets) => {
            if letter.sender.user != account.user {
                return Err(Rejection::Invalid("secrets came that are not from a device of ours".to_owned()));
            }
            // The AS has to be asked whether the device is one of ours.
            tx.sql().execute(
                "INSERT OR REPLACE INTO received_secrets (client_key, secrets) VALUES (?1, ?2)",
                params![letter.sender.client_key.as_bytes(), encode(&secrets)],
            )?;
        }
    }
    Ok(())
}

/// Asks devices of a user for the user's friendship.
pub(crate) fn ask(tx: &Tx<'_>, user: &UserName, devices: &[(PublicKey, &SignedContact)]) -> Result<()> {
    let account = Account::load(tx)?.ok_or(Error::NotReady)?;
    for (client_key, contact) in devices {
        let request_id = RequestId::new(rand::random());
        let request = ContactRequest { request_id, contact: account.contact()? };
        tx.sql().execute(
            "INSERT INTO requests (request_id, client_key, user) VALUES (?1, ?2, ?3)",
            params![request_id.as_bytes(), client_key.as_bytes(), user.to_string()],
        )?;
        write_letter(tx, &account, user, contact, &LetterBody::Request(request))?;
    }
    Ok(())
}

/// The devices of a user that groups wait for and whose KeyPackages are not at hand.
fn invited_devices<'a>(tx: &Tx<'_>, user: &'a VerifiedUser) -> Result<Vec<(PublicKey, &'a SignedContact)>> {
    let mut devices = Vec::new();
    for client in &user.clients {
        let invited: bool = tx.sql().query_row(
            "SELECT EXISTS (SELECT 1 FROM invitations WHERE client_key = ?1)",
            [client.client_key.as_bytes()],
            |row| row.get(0),
        )?;
        if let Some(contact) = &client.contact
            && invited
            && group::key_package_of(tx, &client.client_key)?.is_none()
        {
            devices.push((client.client_key, contact));
        }
    }
    Ok(devices)
}

/// Seals a letter and keeps it until it was deposited.
pub(crate) fn write_letter(
    tx: &Tx<'_>,
    account: &Account,
    user: &UserName,
    contact: &SignedContact,
    body: &LetterBody,
) -> Result<()> {
    let payload = contact::seal(contact, &account.client_key(), account.credential()?, body)?;
    tx.sql().execute(
        "INSERT INTO deposits (user, address, payload) VALUES (?1, ?2, ?3)",
        params![user.to_string(), contact.address.as_bytes(), payload.as_bytes()],
    )?;
    Ok(())
}

pub(crate) fn fresh_address() -> Result<Address> {
    Address::generate().map_err(Error::mls("cannot make an address"))
}

/// Has addresses lead to a queue. They are fresh random bytes: if they exist, an attempt of ours
/// whose answer was lost made them.
pub(crate) async fn add_addresses(
    api: &Api,
    queue: &Queue,
    addresses: Vec<Address>,
    last_resort: Vec<Address>,
) -> Result<()> {
    let answer = api.add_addresses(&queue.id, &AddAddresses { addresses, last_resort }, &queue.owner).await;
    or_repeated(answer, ProblemType::AddressExists)
}

pub(crate) fn load_queue(tx: &Tx<'_>, kind: QueueKind) -> Result<Queue> {
    Queue::load(tx, kind)?.ok_or(Error::NotReady)
}

/// What was delivered, for tests that compare the order in several queues.
fn record_delivery(tx: &Tx<'_>, queue: &Queue, payload: &QueuePayload) -> Result<()> {
    tx.sql().execute(
        "INSERT INTO deliveries (kind, seq, payload) VALUES (?1, ?2, ?3)",
        params![queue.kind.as_str(), integer(queue.position), encode(payload)],
    )?;
    Ok(())
}

/// Lets the next errand run after one that was refused; stops when the server is away.
fn goes_on<T>(result: Result<T>) -> Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(error) if error.is_passing() || matches!(error, Error::Database(_) | Error::Queue(_)) => {
            Err(error)
        }
        Err(error) => {
            tracing::warn!(%error, "an errand failed");
            Ok(())
        }
    }
}
