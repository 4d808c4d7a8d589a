//! `POST /ds/groups/{group_id}/messages` (DS-2): delivers a message to a group. One read loads the
//! sealed state that this kind of message needs, the message is validated as a receiving member
//! would, and one write spends the token, changes the group and enqueues for every member (DS-5): in the
//! queues that are here, and in the outbox for members of other homeservers.

use std::collections::BTreeSet;

use aws_lc_rs::digest::{SHA256, digest};
use http::StatusCode;
use openmls::prelude::{ContentType, MlsMessageBodyIn, PrivateMessageIn, PublicMessageIn, Sender};
use postern_protocol::{
    PublicKey, StateKey,
    ds::{GroupId, MessageAccepted, SubmitMessage},
    name::Domain,
    problem::{Problem, ProblemType},
    push::Urgency,
    qs::QueuePayload,
};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Ds,
    delivery::{Delivery, Outgoing},
    group::{self, DeliveryService, Group},
    handshake::{self, Effect, Submission},
    homeserver_blocked,
    policy::Violation,
    propose_removal::{self, Unreachable},
    roster::{Member, Roster},
    rules::Rules,
    sealed::{Kind, joiner_tag},
    stored::{self, LoadedGroup, NextState},
};
use crate::{
    clock::{day, today},
    database::outcome,
    federation::outbox,
    http::{Failure, Outcome, Payment, Request},
    mls::{self, InvalidMls},
    qs::delivery_figures::Origin,
};

/// Attempts at one message. When two proposals, or a commit and another kind of message, arrive at
/// once, the later one is validated again on the new state; after this many times it is refused.
const ATTEMPTS: usize = 5;

outcome! {
    pub SubmitMessageOutcome: "ds.submit_message_outcome", paid {
        Accepted = "accepted",
        WrongEpoch = "wrong_epoch",
        Stale = "stale",
        UnknownGroup = "unknown_group",
        TooLarge = "too_large",
        TooManyAwaited = "too_many_awaited",
        HomeserverBlocked = "homeserver_blocked",
    }
}

pub async fn submit_message(ds: Ds, mut request: Request, payment: Payment) -> Outcome {
    let (group_id, signer, body) = request.home_group::<SubmitMessage>(&ds.home)?;
    let message = Submitted::parse(&group_id, body)?;
    let mut current = message.epoch;
    for _ in 0..ATTEMPTS {
        let loaded = LoadedGroup::load(&ds.home, &payment, &group_id, message.needs()).await?;
        let loaded = loaded.ok_or(ProblemType::NotFound)?;
        current = loaded.stored.epoch();
        if message.began(&loaded) {
            return request.answer(StatusCode::OK, &MessageAccepted::in_epoch(current));
        }
        let validated = validate(&ds, &payment, &group_id, &message, &loaded, signer);
        let Some(step) = request.while_waiting(validated).await? else {
            return request.answer(StatusCode::OK, &MessageAccepted::in_epoch(current));
        };
        match write(&ds, &payment, &group_id, &message, &loaded, &step).await? {
            Written::Accepted(accepted, unreachable) => {
                // A commit shows that a member is active, who can commit removals.
                let active_since = day(today()).saturating_sub(loaded.rules.inactive_days);
                let committed_before = step.is_commit.then_some(active_since);
                let due = propose_removal::due(
                    &step.members,
                    unreachable,
                    |domain, address| outbox::address_digest(&ds.home, domain, address),
                    committed_before,
                );
                propose_removal::propose(&ds, &group_id, accepted.epoch, &message.body.state_key, due);
                return request.answer(StatusCode::OK, &accepted);
            }
            Written::WrongEpoch(current) => return Err(Problem::wrong_epoch(current).into()),
            Written::Stale => {}
        }
    }
    Err(Problem::wrong_epoch(current).into())
}

/// A request whose parts fit together, not validated yet.
struct Submitted {
    body: SubmitMessage,
    content: Content,
    /// SHA-256 of the message, by which a commit that came before is known again.
    digest: Vec<u8>,
    /// The epoch that it was made in.
    epoch: u64,
}

enum Content {
    Application(PrivateMessageIn),
    Handshake(PublicMessageIn),
}

impl Submitted {
    fn parse(group_id: &GroupId, body: SubmitMessage) -> Result<Self, Problem> {
        let content = match mls::parse(body.message.as_bytes(), "MLSMessage")? {
            MlsMessageBodyIn::PrivateMessage(message)
                if message.content_type() == ContentType::Application =>
            {
                Content::Application(message)
            }
            MlsMessageBodyIn::PublicMessage(message) => Content::Handshake(message),
            _ => {
                let reason =
                    "an application message must be a PrivateMessage, a commit or proposal a PublicMessage";
                return Err(InvalidMls::Refused(reason).into());
            }
        };
        let (mls_group, epoch) = match &content {
            Content::Application(message) => (message.group_id(), message.epoch()),
            Content::Handshake(message) => (message.group_id(), message.epoch()),
        };
        if mls_group.as_slice() != group_id.to_mls() {
            return Err(
                InvalidMls::Refused("the message belongs to another group than the one in the path").into()
            );
        }
        let epoch = epoch.as_u64();
        let digest = digest(&SHA256, body.message.as_bytes()).as_ref().to_vec();
        Ok(Self { body, content, digest, epoch })
    }

    fn is_commit(&self) -> bool {
        matches!(&self.content, Content::Handshake(message) if message.content_type() == ContentType::Commit)
    }

    /// Checks the sizes of the message, its Welcome and its authenticated data.
    ///
    /// # Errors
    /// A problem if one is larger than the operator's limit.
    fn check_size(&self, rules: &Rules) -> Result<(), Problem> {
        let (is_commit, body) = (self.is_commit(), &self.body);
        let welcome = body.welcome.as_ref().map_or(0, |welcome| welcome.as_bytes().len());
        rules.check_size(is_commit, body.message.as_bytes().len().max(welcome))?;
        rules.check_authenticated_data(mls::authenticated_data_len(&body.message)?)
    }

    /// Whether this is a proposal that the group keeps, byte by byte, sent by its member again: it gets its answer again,
    /// as commits do.
    fn is_kept(&self, group: &Group, signer: PublicKey) -> bool {
        let Content::Handshake(message) = &self.content else { return false };
        let Sender::Member(sender) = message.sender() else { return false };
        let is_own = group.roster.member(sender.u32()).is_some_and(|member| member.signature_key == signer);
        is_own && group.proposals.contains(&self.body.message)
    }

    /// Whether this is the commit that began the group's epoch, byte by byte: such a repeat gets its answer again
    /// (DS-4).
    fn began(&self, group: &LoadedGroup) -> bool {
        self.epoch.checked_add(1) == Some(group.stored.epoch()) && group.last_commit == self.digest
    }

    fn payload(&self) -> QueuePayload {
        QueuePayload::Message(self.body.message.clone())
    }

    /// The part of the group's state by which it is validated.
    fn needs(&self) -> Kind {
        match self.content {
            Content::Application(_) => Kind::Roster,
            Content::Handshake(_) => Kind::Tree,
        }
    }
}

/// A validated message: the state to store, and the payloads with their recipients.
#[derive(Default)]
struct Step {
    is_commit: bool,
    /// The sealed roster and tree of the next epoch for a commit, those of the next revision for a proposal by which a
    /// leaf goes, the tree alone for another one, neither for an application message.
    roster: Option<Vec<u8>>,
    tree: Option<Vec<u8>>,
    delivery: Delivery,
    outgoing: Outgoing,
    /// Room in memory for what is sealed.
    _memory: Option<OwnedSemaphorePermit>,
    /// Domains of other homeservers to which the message brings a leaf.
    domains: BTreeSet<Domain>,
    /// For joiners: the sealed tree, their tags, and the day (since 1970) until which the tree is kept.
    welcome_tree: Option<Vec<u8>>,
    joiners: Vec<Vec<u8>>,
    expires: i32,
    /// Tags of joiners that have caught up, or are gone.
    caught_up: Vec<Vec<u8>>,
    /// Tags of joiners that are clients of the sender's user, as [`users_joiners`] returns them.
    users_joiners: Option<Vec<Vec<u8>>>,
    /// The members after the message.
    members: Roster,
    /// The key that the group is to have as external sender after a commit, if it has an older one.
    server_key: Option<PublicKey>,
}

impl Step {
    fn replace(&mut self, next: NextState) {
        self.roster = next.roster;
        self.tree = Some(next.tree);
    }

    /// Bytes that the message makes the database write: the state, each payload once for each recipient here, and the
    /// sealed deliveries to other homeservers.
    fn bytes(&self) -> u64 {
        let state = [&self.roster, &self.tree, &self.welcome_tree].into_iter().flatten().map(Vec::len);
        (state.sum::<usize>() + self.delivery.bytes() + self.outgoing.bytes()) as u64
    }

    /// Seals what goes to other homeservers.
    fn seal(mut self, ds: &Ds, group_id: &GroupId) -> Self {
        self.outgoing = self.delivery.seal(&ds.home, group_id);
        self
    }
}

/// Validates a message; `None` for a proposal that waits already.
async fn validate(
    ds: &Ds,
    payment: &Payment,
    group_id: &GroupId,
    message: &Submitted,
    group: &LoadedGroup,
    signer: PublicKey,
) -> Result<Option<Step>, Failure> {
    let step = match &message.content {
        Content::Application(_) => {
            message.check_size(&group.rules)?;
            let step = validate_application(message, group, signer)?;
            group.rules.check_delivery(step.delivery.padded_parts())?;
            step.delivery.check_elsewhere()?;
            Some(step)
        }
        // Trees of large groups keep a core busy for milliseconds.
        Content::Handshake(handshake) => {
            let validate = || {
                let step = validate_handshake(ds.now(), group_id, message, handshake, group, signer)?;
                // Without the padding: a member can commit in any group that is as large as it may be (DS-13).
                step.iter().try_for_each(|step| {
                    group.rules.check_delivery(step.delivery.parts())?;
                    step.delivery.check_elsewhere()
                })?;
                Ok(step)
            };
            match payment.compute(&ds.home, validate).await? {
                // The group may get a key that another process made.
                Err(Failure::Refused(problem))
                    if group::is_other_sender(&problem)
                        && ds.external_sender_keys.look_again(&ds.home).await? =>
                {
                    payment.compute(&ds.home, validate).await?
                }
                validated => validated,
            }?
        }
    };
    match step {
        Some(step) if !step.delivery.is_here() => {
            let memory = ds.sealing.take(step.delivery.padded_bytes()).await?;
            let seal = || Step { _memory: memory, ..step.seal(ds, group_id) };
            Ok(Some(payment.compute(&ds.home, seal).await?))
        }
        step => Ok(step),
    }
}

/// Validates an application message, which the DS cannot read: it recognises the sender by the key
/// that signed the request (DS-3).
fn validate_application(
    message: &Submitted,
    group: &LoadedGroup,
    signer: PublicKey,
) -> Result<Step, Failure> {
    let roster = group.stored.open_roster(&message.body.state_key)?;
    let sender = roster.by_key(signer).ok_or(ProblemType::NotAllowed)?;
    let current = group.stored.epoch();
    group.rules.check_epoch(message.epoch, current, roster.readable_since())?;
    let could_read = |since: u64| since <= message.epoch;
    if !could_read(sender.record.since) {
        return Err(Problem::outside_epochs(current, group.rules.past_epochs).into());
    }
    if !message.body.attributes.is_empty() {
        return Err(Violation::AttributesOfAnother.into());
    }
    if message.body.welcome.is_some() || message.body.group_info.is_some() {
        let reason = "a Welcome or a GroupInfo can be sent only with a commit";
        return Err(InvalidMls::Refused(reason).into());
    }
    let mut step = Step::default();
    let recipients = roster
        .members()
        .iter()
        .filter(|member| member.leaf != sender.leaf && could_read(member.record.since));
    let urgency = message.body.urgency.unwrap_or(Urgency::Normal);
    step.delivery.add(&message.payload(), urgency, recipients.map(Member::recipient));
    let joined = sender.record.joined;
    step.caught_up.extend(joined.map(|epoch| joiner_tag(&message.body.state_key, epoch, &signer)));
    step.members = roster;
    Ok(step)
}

fn validate_handshake(
    ds: DeliveryService<'_>,
    group_id: &GroupId,
    message: &Submitted,
    handshake: &PublicMessageIn,
    loaded: &LoadedGroup,
    signer: PublicKey,
) -> Result<Option<Step>, Failure> {
    let stored = &loaded.stored;
    let group = stored.open_group(&message.body.state_key, ds)?;
    if *handshake.sender() != Sender::NewMemberCommit && group.roster.by_key(signer).is_none() {
        return Err(ProblemType::NotAllowed.into());
    }
    if message.epoch != stored.epoch() {
        return Err(Problem::wrong_epoch(stored.epoch()).into());
    }
    // Before the limits, which may be others by now: a repeat gets its answer again.
    if message.is_kept(&group, signer) {
        return Ok(None);
    }
    message.check_size(&loaded.rules)?;
    let body = &message.body;
    // Before the validation, which takes the longest: all but the sender get the message, and the newcomers a Welcome.
    let welcome = body.welcome.as_ref().map(|welcome| {
        let newcomers = mls::welcomed_members(welcome, group.mls.ciphersuite())?;
        Ok::<_, InvalidMls>((welcome.as_bytes().len(), newcomers))
    });
    let others = group.roster.members().len().saturating_sub(1);
    let parts = [(body.message.as_bytes().len(), others)].into_iter().chain(welcome.transpose()?);
    loaded.rules.check_delivery(parts)?;
    let submission = Submission {
        group_id,
        rules: &loaded.rules,
        message: &body.message,
        group_info: body.group_info.as_ref(),
        welcome: body.welcome.as_ref(),
        attributes: &body.attributes,
        signer,
    };
    let key = &body.state_key;
    let users_joiners = body.welcome.as_ref().and_then(|_| users_joiners(&group, signer, key));
    let next = handshake::handle(group, handshake.clone(), submission, ds)?;

    let mut step = Step { domains: next.domains, users_joiners, ..Step::default() };
    step.delivery.add(&message.payload(), body.urgency.unwrap_or(Urgency::VeryLow), next.recipients);
    let tag = |(epoch, key_of): &(u64, PublicKey)| joiner_tag(key, *epoch, key_of);
    step.caught_up = next.caught_up.iter().map(tag).collect();
    let sealed = match next.effect {
        Effect::Commit => stored::seal_epoch(key, group_id, &next.group),
        Effect::Proposal => stored.seal_proposal(key, &next.group),
        Effect::Leave => stored.seal_removal(key, &next.group),
    };
    step.replace(sealed);
    if next.effect != Effect::Commit {
        step.members = next.group.roster;
        return Ok(Some(step));
    }
    step.is_commit = true;
    let carried = next.group.mls.extensions().external_senders().and_then(|senders| senders.first());
    step.server_key = carried.and_then(|carried| ds.external_sender_keys.now().successor_of(carried));
    if let Some(welcome) = &body.welcome {
        let epoch = next.group.mls.epoch();
        step.welcome_tree = Some(stored::seal_welcome_tree(key, group_id, &next.group));
        step.joiners = next.joiners.iter().map(|joiner| joiner_tag(key, epoch, &joiner.leaf_key)).collect();
        let last = next.joiners.iter().map(|joiner| joiner.expires).max().unwrap_or_default();
        step.expires = i32::try_from(last).map_err(Failure::fault)?;
        let payload = QueuePayload::Welcome(welcome.clone());
        let joiners = next.joiners.into_iter().map(|joiner| joiner.recipient);
        step.delivery.add(&payload, Urgency::Normal, joiners);
    }
    step.members = next.group.roster;
    Ok(Some(step))
}

/// The tags of a member's user's other clients that were added and may not have joined yet: the trees that are kept for them
/// have a bound of their own. `None` for an admin, who adds others.
fn users_joiners(group: &Group, signer: PublicKey, key: &StateKey) -> Option<Vec<Vec<u8>>> {
    let sender = group.roster.by_key(signer)?;
    if group.policy.admins.contains(&sender.pseudonym) {
        return None;
    }
    let is_others = |member: &&Member| member.pseudonym == sender.pseudonym && member.leaf != sender.leaf;
    let tag = |member: &Member| Some(joiner_tag(key, member.record.joined?, &member.signature_key));
    Some(group.roster.members().iter().filter(is_others).filter_map(tag).collect())
}

/// The outcome of the write.
enum Written {
    /// The answer, and the members that deliveries do not reach any more.
    Accepted(MessageAccepted, Unreachable),
    WrongEpoch(u64),
    /// The group changed within its epoch since it was read; the token is unspent.
    Stale,
}

async fn write(
    ds: &Ds,
    payment: &Payment,
    group_id: &GroupId,
    message: &Submitted,
    loaded: &LoadedGroup,
    step: &Step,
) -> Result<Written, Failure> {
    let (addresses, parts, payloads, urgencies) = step.delivery.here();
    let (lanes, outbox_domains, ids, sealed) = step.outgoing.columns();
    let group_digest = (!step.outgoing.is_empty()).then(|| outbox::group_digest(&ds.home, group_id));
    let group_digest = group_digest.as_ref().map(<[u8; 32]>::as_slice);
    let leaf_domains: Vec<&str> = step.domains.iter().map(Domain::as_str).collect();
    let commit = step.is_commit.then_some(message.digest.as_slice());
    let (outcome, row) = payment
        .call(
            &ds.home.database.for_bytes(step.bytes()),
            "SELECT outcome, current_epoch, undelivered, gone, pushes, outbox_results, gone_elsewhere
             FROM ds.submit_message($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
                                    $19, $20, $21, $22, $23, $24)",
            &[
                &ds.home.domain.as_str(),
                &group_id.id().as_slice(),
                &loaded.stored.sql_epoch(),
                &loaded.stored.revision(),
                &commit,
                &step.roster,
                &step.tree,
                &addresses,
                &parts,
                &payloads,
                &urgencies,
                &lanes,
                &outbox_domains,
                &ids,
                &sealed,
                &group_digest,
                &leaf_domains,
                &step.welcome_tree,
                &step.joiners,
                &step.expires,
                &step.caught_up,
                &step.users_joiners,
            ],
        )
        .await?;
    let epoch = || u64::try_from(row.get::<_, i64>("current_epoch")).map_err(Failure::fault);
    match outcome {
        SubmitMessageOutcome::Accepted => {
            ds.pusher.send_due(&row);
            if !step.outgoing.is_empty() {
                ds.outbox.ring();
            }
            let here = u32::try_from(row.get::<_, i32>("undelivered")).map_err(Failure::fault)?;
            let not_taken = step.outgoing.not_taken(&row.get::<_, Vec<i16>>("outbox_results"));
            let undelivered = here + not_taken.letters;
            let delivered = addresses.len().saturating_sub(here as usize);
            ds.deliveries.count(Origin::Group, delivered, here as usize);
            let taken = step.outgoing.letters().saturating_sub(not_taken.letters);
            ds.deliveries.count_outgoing(taken, not_taken.letters);
            let accepted = MessageAccepted { epoch: epoch()?, undelivered, server_key: step.server_key };
            Ok(Written::Accepted(accepted, Unreachable::of(&row, not_taken.refused)?))
        }
        SubmitMessageOutcome::WrongEpoch => Ok(Written::WrongEpoch(epoch()?)),
        SubmitMessageOutcome::Stale => Ok(Written::Stale),
        SubmitMessageOutcome::UnknownGroup => Err(ProblemType::NotFound.into()),
        SubmitMessageOutcome::TooLarge => {
            let (bytes, queues) = (step.delivery.bytes(), addresses.len());
            let detail = format_args!("{bytes} bytes in {queues} queues: the limit was lowered");
            Err(Problem::with_detail(ProblemType::DeliveryTooLarge, detail).into())
        }
        SubmitMessageOutcome::TooManyAwaited => {
            let detail =
                "too many members, or clients of one user, have not joined yet: wait until they have";
            Err(Problem::with_detail(ProblemType::TooManyMembers, detail).into())
        }
        SubmitMessageOutcome::HomeserverBlocked => Err(homeserver_blocked().into()),
    }
}
