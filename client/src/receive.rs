//! Receiving: takes what the queues hold and lets it take effect, each message's effect, the
//! queue's position and its chain in one transaction.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use postern_protocol::{
    Address, Welcome,
    ds::{GroupId, WelcomeTree},
    name::Domain,
    qs::{Dequeue, Dequeued, Lost, QueueKind, QueuePayload},
};

use crate::{
    account, contact, elsewhere,
    error::{Error, Rejection, Result, goes_on},
    event::Event,
    group::{
        self, GroupState,
        strayed::{self, State},
    },
    identity, key_packages,
    mailbox::{self, KINDS, Queue},
    missed,
    options::Options,
    push,
    server::Api,
    session::Session,
    store::{Step, Store, Tx},
};

/// This device's user reads this where a Welcome comes too late.
const IN_ALREADY: &str = "a Welcome is for a group this client is in already";

impl Session {
    /// Asks a queue for what comes after the last processed message. Not a step: others
    /// may go on meanwhile.
    pub(crate) async fn poll(&self, kind: QueueKind, wait: Duration) -> Result<Dequeued> {
        let queue = self.store.read(|tx| Queue::load(tx, kind))?;
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let dequeue = Dequeue {
            after: queue.position,
            max_messages: None,
            wait: u16::try_from(seconds).unwrap_or(u16::MAX),
        };
        let dequeued = self.api.dequeue(&queue.id, &dequeue, &queue.owner).await?;
        missed::server_answered(&self.store)?;
        Ok(dequeued)
    }

    /// Processes all that a queue holds now. A queue that is gone is replaced, once; a server that repeats what came before
    /// holds nothing.
    pub(crate) async fn drain(&self, step: &Step<'_>, kind: QueueKind) -> Result<()> {
        let position = || self.store.read(|tx| Ok(Queue::load(tx, kind)?.position));
        let mut gone = false;
        loop {
            let before = position()?;
            let dequeued = match self.poll(kind, Duration::ZERO).await {
                Err(error) if mailbox::is_gone(&error) && !gone => {
                    gone = true;
                    if !mailbox::is_under_new_keys(&self.store, &self.api, kind).await? {
                        self.replace_mailbox(step, kind).await?;
                    }
                    continue;
                }
                dequeued => dequeued?,
            };
            if dequeued.is_empty() {
                return Ok(());
            }
            self.process(step, kind, &dequeued).await?;
            if position()? == before {
                return Ok(());
            }
        }
    }

    /// Lets a batch take effect.
    ///
    /// # Errors
    /// [`QueueError`](crate::QueueError) when the server broke the queue's promise; what came
    /// before that place took effect.
    pub(crate) async fn process(&self, _: &Step<'_>, kind: QueueKind, dequeued: &Dequeued) -> Result<()> {
        let trees = match kind {
            QueueKind::Group => self.fetch_welcome_trees(dequeued).await?,
            QueueKind::Contact => {
                self.meet_issuers(dequeued).await?;
                HashMap::new()
            }
        };
        self.store
            .write(|tx| {
                let mut queue = Queue::load(tx, kind)?;
                let mut broken = None;
                let skipped = match queue.skip(dequeued) {
                    Ok(skipped) => skipped,
                    Err(error) => return Ok(Some(error)),
                };
                if skipped.restored {
                    restored(tx, kind)?;
                }
                if skipped.expired > 0 {
                    Event::Expired { messages: skipped.expired }.record(tx)?;
                    match kind {
                        QueueKind::Group => {
                            group::active(tx)?.iter().try_for_each(|id| strayed::lost(tx, id))?;
                        }
                        QueueKind::Contact => contact::missed_letters(tx)?,
                    }
                }
                for message in &dequeued.messages {
                    let payload = match queue.open(message) {
                        Ok(Some(payload)) => payload,
                        Ok(None) => continue,
                        // All that came before it is good and stays.
                        Err(error) => {
                            broken = Some(error);
                            break;
                        }
                    };
                    #[cfg(feature = "lab")]
                    if self.options.record_deliveries {
                        mailbox::deliveries::record(tx, &queue, &payload)?;
                    }
                    let tree = trees.get(&message.seq);
                    let effect = tx.attempt(|| take_effect(tx, &self.options, kind, &payload, tree));
                    if let (Err(_), QueuePayload::Message(message)) = (&effect, &payload) {
                        group::keep_unfollowed(tx, message)?;
                    }
                    note_effect(tx, &self.options, effect)?;
                }
                queue.save(tx)?;
                Ok(broken)
            })?
            .map_or(Ok(()), |error| Err(error.into()))
    }

    /// Makes another queue in place of one that is gone, and has everything made anew that led there: this device comes
    /// back into its groups, publishes KeyPackages and its contact, and asks its user's others what it missed.
    async fn replace_mailbox(&self, _: &Step<'_>, kind: QueueKind) -> Result<()> {
        let options = &self.options;
        mailbox::replace_queue(&self.store, &self.api, kind, |tx, before| {
            Event::MailboxReplaced { kind }.record(tx)?;
            push::queue_replaced(tx, before)?;
            if kind == QueueKind::Contact {
                account::renew_contact_addresses(tx)?;
                // With the next look the new contact is published, and letters that did not come are asked for.
                return identity::look_after_devices(tx);
            }
            key_packages::publish_again(tx)?;
            group::forget_entry_addresses(tx)?;
            for id in group::active(tx)? {
                let state = (State::Strayed, GroupState::load(tx, &id)?.size());
                strayed::note(tx, &id, state, "the mailbox that its messages came to is gone", options)?;
            }
            Ok(())
        })
        .await
    }

    /// Replaces the keys of mailboxes as far as new ones are made. Everything that was sealed to
    /// the keys before the old ones is read by then.
    pub(crate) async fn rotate_mailbox_keys(&self, step: &Step<'_>) -> Result<()> {
        for kind in KINDS {
            let prepared = self.store.read(|tx| mailbox::prepared_rotation(tx, kind))?;
            let Some((owner, hpke)) = prepared else { continue };
            mailbox::finish_rotation(&self.store, &self.api, kind, owner, hpke).await?;
            self.drain(step, kind).await?;
        }
        Ok(())
    }

    /// Makes new keys for both mailboxes, after reading all messages that are sealed to the old ones.
    pub(crate) async fn renew_mailbox_keys(&self, step: &Step<'_>) -> Result<()> {
        self.rotate_mailbox_keys(step).await?;
        for kind in KINDS {
            self.drain(step, kind).await?;
            self.store.write(|tx| mailbox::prepare_rotation(tx, kind))?;
        }
        self.rotate_mailbox_keys(step).await
    }

    /// Asks for the AS's keys if a letter of a batch has a credential by one that was not seen: letters are judged by
    /// them.
    async fn meet_issuers(&self, dequeued: &Dequeued) -> Result<()> {
        let new = self.store.write(|tx| {
            let payloads = open_all(tx, QueueKind::Contact, dequeued)?;
            let deposits = payloads.iter().filter_map(|(_, payload)| match payload {
                QueuePayload::Deposit(deposit) => Some(deposit),
                _ => None,
            });
            contact::with_new_issuers(tx, deposits)
        })?;
        fetch_issuer_keys(&self.store, &self.api, new).await
    }

    /// The trees that belong to the Welcomes of a batch, as far as they are there, by sequence number.
    async fn fetch_welcome_trees(&self, dequeued: &Dequeued) -> Result<HashMap<u64, Tree>> {
        let payloads = self.store.read(|tx| open_all(tx, QueueKind::Group, dequeued))?;
        let mut trees = HashMap::new();
        for (seq, payload) in payloads {
            let QueuePayload::Welcome(welcome) = payload else { continue };
            trees.insert(seq, self.fetch_welcome_tree(&welcome).await?);
        }
        Ok(trees)
    }

    /// Asks a group's DS for the tree that belongs to a Welcome.
    async fn fetch_welcome_tree(&self, welcome: &Welcome) -> Result<Tree> {
        let needed = self.store.trial(|tx| Ok(group::tree_of_welcome(tx, welcome)))?;
        let Some((id, fetch, leaf)) = needed else { return Ok(Tree::Missing) };
        let asked = async {
            let ds = self.ds(&id)?;
            elsewhere::noted(&ds, ds.fetch_welcome_tree(&id, &fetch, &leaf).await)
        };
        let error = match asked.await {
            Ok(tree) => return Ok(Tree::Fetched(tree)),
            Err(error) => error,
        };
        if error.refusal().is_some() {
            tracing::warn!(%error, "the server does not have the tree of a Welcome");
            return Ok(Tree::Missing);
        }
        let is_elsewhere = *id.domain() != self.api.origin;
        if is_elsewhere && !error.server_is_away() && !matches!(error, Error::Database(_)) {
            tracing::warn!(%error, "the tree of a Welcome is out of reach");
            return Ok(Tree::OutOfReach(id));
        }
        Err(error)
    }

    /// Joins by the Welcomes that had to wait.
    pub(crate) async fn join_late(&self) -> Result<()> {
        for welcome in self.store.read(group::late_welcomes)? {
            let tree = self.fetch_welcome_tree(&welcome).await?;
            self.store.write(|tx| {
                if let Tree::OutOfReach(id) = &tree {
                    group::join_later(tx, id, &welcome)?;
                } else {
                    match group::join_at_last(tx, &welcome, tree.fetched()) {
                        Ok(id) => read_early(tx, &self.options, &id)?,
                        Err(rejection) => note_effect(tx, &self.options, Err(rejection))?,
                    }
                }
                group::forget_early(tx)
            })?;
        }
        Ok(())
    }
}

/// Asks the ASs of some domains for their keys. One that is out of reach keeps no other from being asked.
async fn fetch_issuer_keys(store: &Store, api: &Api, domains: BTreeSet<Domain>) -> Result<()> {
    for domain in domains {
        let asked = async {
            let api = elsewhere::api_for(api, &domain)?;
            identity::authentication_keys(store, &api).await
        };
        goes_on(asked.await)?;
    }
    Ok(())
}

/// The tree that belongs to a Welcome, as far as it is there.
pub(crate) enum Tree {
    Fetched(WelcomeTree),
    /// The DS has none, or the Welcome is not for us: it is refused.
    Missing,
    /// The DS of this group is at another homeserver, which cannot be asked now. What came besides does not wait for it.
    OutOfReach(GroupId),
}

impl Tree {
    fn fetched(&self) -> Option<&WelcomeTree> {
        match self {
            Self::Fetched(tree) => Some(tree),
            Self::Missing | Self::OutOfReach(_) => None,
        }
    }
}

/// The payloads of a batch by their sequence numbers, up to the place where the server broke the queue's promise.
/// Nothing of the queue changes by it.
fn open_all(tx: &Tx<'_>, kind: QueueKind, dequeued: &Dequeued) -> Result<Vec<(u64, QueuePayload)>> {
    let mut queue = Queue::load(tx, kind)?;
    if queue.skip(dequeued).is_err() {
        return Ok(Vec::new());
    }
    let mut payloads = Vec::new();
    for message in &dequeued.messages {
        match queue.open(message) {
            Ok(Some(payload)) => payloads.push((message.seq, payload)),
            Ok(None) => {}
            Err(_) => break,
        }
    }
    Ok(payloads)
}

/// The server was restored to an earlier state (QS-12): what came to a queue since is lost, and what this device told the
/// server since, too. It is told again.
fn restored(tx: &Tx<'_>, kind: QueueKind) -> Result<()> {
    Event::Restored { kind }.record(tx)?;
    mailbox::forget_renewals(tx)?;
    push::tell_again(tx, kind)?;
    mailbox::revoke_again(tx, kind)?;
    if kind == QueueKind::Contact {
        contact::missed_letters(tx)?;
        // With the next look the contact is published where the AS has another one.
        return identity::look_after_devices(tx);
    }
    // KeyPackages that were handed out are in stock once more.
    key_packages::publish_again(tx)?;
    group::active(tx)?.iter().try_for_each(|id| strayed::lost(tx, id))
}

/// Messages to an address of a queue, or to any of them, were not put in, or did not stay (QS-8,
/// QS-11). Whether a group can be followed without them shows when the DS is asked.
fn lost(tx: &Tx<'_>, kind: QueueKind, address: Option<&Address>) -> Result<()> {
    let mut groups = Vec::new();
    if kind == QueueKind::Contact {
        contact::missed_letters(tx)?;
        address.map_or(Ok(()), |address| open_another(tx, address))?;
    }
    if kind == QueueKind::Group {
        for id in group::active(tx)? {
            if address.is_none() || GroupState::load(tx, &id)?.delivery_address().as_ref() == address {
                groups.push(id);
            }
        }
    }
    groups.iter().try_for_each(|id| strayed::lost(tx, id))?;
    if address.is_none() || groups.is_empty() {
        return Event::Lost { group: None }.record(tx);
    }
    groups.into_iter().try_for_each(|id| Event::Lost { group: Some(id) }.record(tx))
}

/// Letters to an address of the contact queue were lost: it was given enough for the day, perhaps by somebody who wants it
/// closed. Another one is open. The old one leads nowhere from then on, as whoever closed it would fill the queue by both.
fn open_another(tx: &Tx<'_>, address: &Address) -> Result<()> {
    if !account::replace_contact_address(tx, address)? {
        return Ok(());
    }
    mailbox::revoke_contact_later(tx, address)?;
    mailbox::renew_soon(tx, QueueKind::Contact)?;
    // With the next look the contact is published, if it is another one.
    identity::look_after_devices(tx)
}

/// Notes what keeps something that came in from having an effect, if anything does.
fn note_effect(tx: &Tx<'_>, options: &Options, effect: Result<(), Rejection>) -> Result<()> {
    match effect {
        Ok(()) | Err(Rejection::Unread | Rejection::Strangers(_)) => Ok(()),
        Err(Rejection::Invalid(reason)) => Event::Ignored { reason }.record(tx),
        Err(Rejection::InAlready) => Event::ignored(IN_ALREADY).record(tx),
        Err(Rejection::Doubt { group, reason }) => {
            strayed::doubt(tx, &group)?;
            Event::Ignored { reason }.record(tx)
        }
        Err(Rejection::Unfit { group, members, reason }) => {
            strayed::suspect(tx, &group, members, options)?;
            Event::Ignored { reason }.record(tx)
        }
        Err(Rejection::Stray { group, by_hand, members, reason }) => {
            let state = if by_hand { State::ByHand } else { State::Strayed };
            strayed::note(tx, &group, (state, members), &reason, options)
        }
        Err(Rejection::Fault(error)) => Err(error),
    }
}

/// Lets the messages of a group take effect that came before this device was in it.
fn read_early(tx: &Tx<'_>, options: &Options, id: &GroupId) -> Result<()> {
    for message in group::take_early(tx, id)? {
        let effect = tx.attempt(|| group::receive(tx, &message, options));
        if effect.is_err() {
            group::keep_unfollowed(tx, &message)?;
        }
        note_effect(tx, options, effect)?;
    }
    Ok(())
}

pub(crate) fn take_effect(
    tx: &Tx<'_>,
    options: &Options,
    kind: QueueKind,
    payload: &QueuePayload,
    tree: Option<&Tree>,
) -> Result<(), Rejection> {
    match (kind, payload) {
        (QueueKind::Group, QueuePayload::Message(message)) => group::receive(tx, message, options),
        (QueueKind::Group, QueuePayload::Welcome(welcome)) => {
            if let Some(Tree::OutOfReach(id)) = tree {
                return Ok(group::join_later(tx, id, welcome)?);
            }
            let tree = tree.and_then(Tree::fetched);
            let id = match tx.attempt(|| group::join(tx, welcome, tree)) {
                Err(Rejection::Strangers(id)) => {
                    group::join_later(tx, &id, welcome)?;
                    let reason = "a Welcome waits: its group is older than what another device of this user \
                                  told of, or others are in it";
                    return Ok(Event::Ignored { reason: reason.to_owned() }.record(tx)?);
                }
                Err(Rejection::InAlready) => {
                    group::give_leaf_up(tx, welcome)?;
                    return Ok(Event::ignored(IN_ALREADY).record(tx)?);
                }
                joined => joined?,
            };
            // They came while another Welcome to it waited.
            Ok(read_early(tx, options, &id)?)
        }
        (QueueKind::Contact, QueuePayload::Deposit(deposit)) => contact::receive_letter(tx, deposit, options),
        (kind, QueuePayload::Lost(Lost { address })) => Ok(lost(tx, kind, address.as_ref())?),
        _ => Err(Rejection::invalid("a message came in by the wrong queue")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::tests::Home;

    #[tokio::test]
    async fn a_domain_where_nobody_can_be_keeps_no_other_as_from_being_asked() {
        let home = Home::of_nonsense();
        let domains =
            ["0.xn--a.example", "home.example", "xn--a.example"].map(|it| it.parse::<Domain>().unwrap());
        fetch_issuer_keys(&home.store, &home.api, domains.into()).await.expect("the other errands go on");
        assert!(home.asked() > 0);
    }
}
