//! Receiving, and what follows from it: takes what the queues hold, lets it take effect,
//! and runs the errands that are due, such as answering a contact request or adding a
//! client whose KeyPackages came. Every errand is a row in the store until it is done.

use std::{
    collections::HashSet,
    future::Future,
    pin::Pin,
    time::{Duration, Instant},
};

use postern_protocol::{
    Address, Payload, PublicKey,
    credential::ClientCredential,
    ds::GroupId,
    mls::DeliveryAddress,
    name::UserName,
    problem::ProblemType,
    qs::{Dequeue, Dequeued, QueueKind, QueuePayload},
};
use rusqlite::params;
use serde::{Deserialize, Serialize};

use crate::{
    account::Account,
    client::{Client, Inner},
    contact::{self, ContactAnswer, ContactRequest, KEY_PACKAGES, LetterBody},
    error::{Error, Result},
    event::{self, Event},
    group::{self, Change, Group, Rejection},
    identity,
    queue::Queue,
    setup,
    store::{Step, Tx, decode, encode, fixed, integer},
    submit::{group_ids, is_unanswered},
    wallet::now,
};

/// The longest wait to ask a server for: proxies cut connections that are silent for long.
const LONGEST_POLL: Duration = Duration::from_secs(50);

/// How many seconds before its end a credential is renewed.
const RENEW_BEFORE: u64 = 30 * 24 * 60 * 60;

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
        inner.process(&step, KINDS[index], &dequeued)?;
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
            self.process(step, kind, &dequeued)?;
        }
    }

    /// Lets a batch take effect: for each message its effect, the queue's position and its
    /// chain in one transaction.
    fn process(&self, _step: &Step<'_>, kind: QueueKind, dequeued: &Dequeued) -> Result<()> {
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
                    match tx.attempt(|| self.take_effect(tx, kind, &payload)) {
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

    fn take_effect(&self, tx: &Tx<'_>, kind: QueueKind, payload: &QueuePayload) -> Result<(), Rejection> {
        match (kind, payload) {
            (QueueKind::Group, QueuePayload::Message(message)) => group::receive(tx, message),
            (QueueKind::Group, QueuePayload::Welcome(welcome)) => group::join(tx, welcome),
            (QueueKind::Contact, QueuePayload::Deposit(deposit)) => receive_letter(tx, deposit),
            _ => Err(Rejection::Invalid("a message came in by the wrong queue".to_owned())),
        }
    }

    /// Does what is due. One errand that is refused does not keep the others from being run.
    pub(crate) async fn errands(&self, step: &Step<'_>) -> Result<()> {
        goes_on(self.renew_credential().await)?;
        for group in self.unsettled()? {
            goes_on(self.settle(step, &group).await)?;
        }
        goes_on(self.answer_requests().await)?;
        goes_on(self.deliver_deposits().await)?;
        let waiting = "SELECT DISTINCT group_id FROM invitations";
        for group in self.store.read(|tx| group_ids(tx, waiting))? {
            let added = self.commit(step, &group, add_invited).await;
            if let Err(Error::Refused(problem)) = &added
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

    /// Answers contact requests with KeyPackages made for the one who asks.
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
            let accepted = self.options.accept_contacts;
            Event::ContactRequested { user: sender.user.clone(), accepted }.record(tx)?;
            if !accepted {
                return Ok(());
            }
            let account = Account::load(tx)?.ok_or(Error::NotReady)?;
            let mut addresses = Vec::with_capacity(KEY_PACKAGES);
            let mut key_packages = Vec::with_capacity(KEY_PACKAGES);
            for _ in 0..KEY_PACKAGES {
                let address = fresh_address()?;
                let delivery = DeliveryAddress { domain: account.user.domain().clone(), address };
                key_packages.push(group::offer_key_package(tx, &account, &delivery)?);
                addresses.push(address);
            }
            let answer = ContactAnswer { request_id: request.request_id, key_packages };
            let payload = contact::seal(
                &request.contact,
                &account.client_key(),
                account.credential()?,
                &LetterBody::Answer(answer),
            )?;
            keep_deposit(tx, &sender.user, &request.contact.address, &payload, Some(&addresses))
        })
    }

    /// Sends the deposits on their way, each after the addresses it speaks of exist.
    pub(crate) async fn deliver_deposits(&self) -> Result<()> {
        type Row = (i64, String, Vec<u8>, Vec<u8>, Option<Vec<u8>>);
        let rows = self.store.read(|tx| {
            let mut statement = tx.sql().prepare_cached(
                "SELECT id, user, address, payload, own_addresses FROM deposits ORDER BY id",
            )?;
            Ok(statement
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))?
                .collect::<Result<Vec<Row>, _>>()?)
        })?;
        for (id, user, address, payload, own_addresses) in rows {
            if let Some(addresses) = own_addresses {
                let addresses: Vec<Address> = decode(&addresses, "addresses")?;
                let queue = self.store.read(|tx| load_queue(tx, QueueKind::Group))?;
                self.api.add_addresses(&queue.id, addresses, &queue.owner).await?;
            }
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
            for offered in &answer.key_packages {
                if !group::keep_key_package(tx, &client_key, &user, offered)? {
                    let reason = "a contact offered an unusable KeyPackage".to_owned();
                    Event::Ignored { reason }.record(tx)?;
                }
            }
            Event::ContactAnswered { user }.record(tx)?;
        }
    }
    Ok(())
}

/// Keeps a deposit until it was made; `own_addresses` have to exist before.
pub(crate) fn keep_deposit(
    tx: &Tx<'_>,
    user: &UserName,
    address: &Address,
    payload: &Payload,
    own_addresses: Option<&Vec<Address>>,
) -> Result<()> {
    tx.sql().execute(
        "INSERT INTO deposits (user, address, payload, own_addresses) VALUES (?1, ?2, ?3, ?4)",
        params![user.to_string(), address.as_bytes(), payload.as_bytes(), own_addresses.map(encode)],
    )?;
    Ok(())
}

pub(crate) fn fresh_address() -> Result<Address> {
    Address::generate().map_err(Error::mls("cannot make an address"))
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
