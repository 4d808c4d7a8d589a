//! `POST /ds/groups/{group_id}/messages` (DS-2): the main road. One read (the sealed state
//! that this kind of message needs), validation as a receiving member would, one write that
//! spends the token, moves the group and enqueues for every member (DS-5).

use std::collections::HashSet;

use aws_lc_rs::digest::{SHA256, digest};
use http::StatusCode;
use openmls::prelude::{ContentType, MlsMessageBodyIn, PrivateMessageIn, PublicMessageIn, Sender};
use postern_protocol::{
    Address, PublicKey,
    ds::{GroupId, MessageAccepted, SubmitMessage},
    encoding::Encoding,
    problem::{Problem, ProblemType},
    push::Urgency,
    qs::QueuePayload,
};
use tokio_postgres::Row;

use super::{
    evict,
    group::{Ds, Group},
    handshake::{self, Submission, invalid, violation},
    policy::Violation,
    roster::Roster,
    rules::Rules,
    state::{self, Kind, Opened, Place, WrongKey},
};
use crate::{
    app::App,
    date::{day, today},
    mls::{self, InvalidMls},
    road::{Failure, Outcome, Payment, Request},
};

/// Two proposals at once, a proposal and a commit, or an application message and a commit may
/// find that the other was first; the later one is validated again on the new state. More
/// often than this in a row it is told so.
const ATTEMPTS: usize = 5;
/// From this size on (bytes), a tree's validation leaves the thread pool's workers alone.
const LARGE_TREE: usize = 64 * 1024;

pub async fn submit_message(app: App, request: Request, payment: Payment) -> Outcome {
    let group_id = request.segment(|segment| GroupId::from_base64url(segment).ok())?;
    let (signer, body) = request.signed_body::<SubmitMessage>()?;
    if *group_id.domain() != app.domain {
        return Err(ProblemType::ForeignDomain.into());
    }
    let message = Submitted::parse(&group_id, body)?;
    let mut current = message.epoch;
    for _ in 0..ATTEMPTS {
        let stored = Stored::load(&app, &group_id, message.needs()).await?;
        current = stored.epoch;
        if stored.accepted_before(&message) {
            let accepted = MessageAccepted { epoch: stored.epoch, undelivered: 0 };
            return request.answer(StatusCode::OK, &accepted);
        }
        let step = validate(&app, &group_id, &message, &stored, signer)?;
        match write(&app, &payment, &group_id, &message, &stored, &step).await? {
            Written::Accepted(accepted, gone) => {
                // Whoever commits shows that somebody is there to commit removals.
                let active_since = day(today()).saturating_sub(stored.rules.inactive_days);
                let committed_before = step.roster.is_some().then_some(active_since);
                let due = evict::due(&step.members, &gone, committed_before);
                if !due.is_empty() {
                    evict::propose(&app, &group_id, &message.body.state_key, due);
                }
                return request.answer(StatusCode::OK, &accepted);
            }
            Written::WrongEpoch(current) => return Err(Problem::wrong_epoch(current).into()),
            Written::Stale => {}
        }
    }
    Err(Problem::wrong_epoch(current).into())
}

/// A request whose parts fit together; nothing of it is validated yet.
struct Submitted {
    body: SubmitMessage,
    content: Content,
    digest: Vec<u8>,
    epoch: u64,
}

enum Content {
    Application(PrivateMessageIn),
    Handshake(PublicMessageIn),
}

impl Submitted {
    fn parse(group_id: &GroupId, body: SubmitMessage) -> Result<Self, Problem> {
        let content = match mls::parse(body.message.as_bytes(), "MLSMessage").map_err(invalid)? {
            MlsMessageBodyIn::PrivateMessage(message)
                if message.content_type() == ContentType::Application =>
            {
                Content::Application(message)
            }
            MlsMessageBodyIn::PublicMessage(message) => Content::Handshake(message),
            _ => {
                let reason = "application messages are private, commits and proposals public";
                return Err(invalid(InvalidMls::Refused(reason)));
            }
        };
        let (mls_group, epoch) = match &content {
            Content::Application(message) => (message.group_id(), message.epoch()),
            Content::Handshake(message) => (message.group_id(), message.epoch()),
        };
        if mls_group.as_slice() != group_id.to_mls() {
            return Err(invalid(InvalidMls::Refused("the message is of another group")));
        }
        let epoch = epoch.as_u64();
        let digest = digest(&SHA256, body.message.as_bytes()).as_ref().to_vec();
        Ok(Self { body, content, digest, epoch })
    }

    fn is_commit(&self) -> bool {
        matches!(&self.content, Content::Handshake(message) if message.content_type() == ContentType::Commit)
    }

    /// # Errors
    /// A problem if it is larger than the operator wants.
    fn check_size(&self, rules: &Rules) -> Result<(), Problem> {
        let (is_commit, body) = (self.is_commit(), &self.body);
        let welcome = body.welcome.as_ref().map_or(0, |welcome| welcome.as_bytes().len());
        rules.check_size(is_commit, body.message.as_bytes().len().max(welcome))
    }

    fn payload(&self) -> QueuePayload {
        QueuePayload::Message(self.body.message.clone())
    }

    fn needs(&self) -> Kind {
        match self.content {
            Content::Application(_) => Kind::Roster,
            Content::Handshake(_) => Kind::Tree,
        }
    }
}

/// The group's row as it was read.
struct Stored {
    epoch: u64,
    revision: i32,
    last_commit: Option<Vec<u8>>,
    blob: Vec<u8>,
    rules: Rules,
}

impl Stored {
    async fn load(app: &App, group_id: &GroupId, needs: Kind) -> Result<Self, Failure> {
        let row: Row = app
            .database
            .query_opt(
                "SELECT epoch, revision, last_commit, state, inactive_days, max_members, max_message_bytes,
                        max_commit_bytes, past_epochs, ciphersuites
                 FROM ds.load_group($1, $2)",
                &[&group_id.id().as_slice(), &(needs == Kind::Tree)],
            )
            .await?
            .ok_or(ProblemType::NotFound)?;
        Ok(Self {
            epoch: u64::try_from(row.get::<_, i64>("epoch")).map_err(Failure::fault)?,
            revision: row.get("revision"),
            last_commit: row.get("last_commit"),
            blob: row.get("state"),
            rules: Rules::of(&row)?,
        })
    }

    /// A byte-identical repeat of the commit that began this epoch gets its answer again (DS-4).
    fn accepted_before(&self, message: &Submitted) -> bool {
        message.epoch.checked_add(1) == Some(self.epoch)
            && self.last_commit.as_deref() == Some(&message.digest)
    }

    /// Whoever lacks the key is no member, and learns nothing of the group.
    fn open(&self, message: &Submitted, group_id: &GroupId, kind: Kind) -> Result<Opened, Problem> {
        state::open(&message.body.state_key, self.place(group_id, kind), &self.blob)
            .map_err(|WrongKey| ProblemType::NotFound.into())
    }

    fn expect_epoch(&self, message: &Submitted) -> Result<(), Problem> {
        if message.epoch == self.epoch { Ok(()) } else { Err(Problem::wrong_epoch(self.epoch)) }
    }

    /// Proposals change the tree only, so the roster's place ignores their count.
    fn place<'a>(&self, group_id: &'a GroupId, kind: Kind) -> Place<'a> {
        let revision = if kind == Kind::Tree { self.revision } else { 0 };
        Place { group_id: group_id.id(), epoch: self.epoch, revision, kind }
    }
}

/// A validated message: what to store and what to deliver to whom.
#[derive(Default)]
struct Step {
    /// The sealed roster and tree of the next epoch for a commit, the tree alone for a
    /// proposal, neither for an application message.
    roster: Option<Vec<u8>>,
    tree: Option<Vec<u8>>,
    addresses: Vec<Address>,
    /// For each address, which payload it gets, from 1.
    parts: Vec<i16>,
    payloads: Vec<Vec<u8>>,
    /// Of each payload.
    urgencies: Vec<i16>,
    /// For who joins: the sealed tree, by whom it may be asked for, and until which day.
    welcome_tree: Option<Vec<u8>>,
    joiners: Vec<Vec<u8>>,
    expires: i32,
    /// Joiners who are known to have joined, or have gone.
    settled: Vec<Vec<u8>>,
    /// Who is in the group afterwards.
    members: Roster,
}

impl Step {
    fn deliver(&mut self, payload: &QueuePayload, urgency: Urgency, to: impl IntoIterator<Item = Address>) {
        self.payloads.push(Encoding::Cbor.encode(payload));
        self.urgencies.push(urgency as i16);
        let part = i16::try_from(self.payloads.len()).expect("a message has two payloads at most");
        self.addresses.extend(to);
        self.parts.resize(self.addresses.len(), part);
    }
}

fn validate(
    app: &App,
    group_id: &GroupId,
    message: &Submitted,
    stored: &Stored,
    signer: PublicKey,
) -> Result<Step, Failure> {
    message.check_size(&stored.rules)?;
    match &message.content {
        Content::Application(_) => validate_application(group_id, message, stored, signer),
        // Trees of large groups keep a core busy for milliseconds.
        Content::Handshake(handshake) => {
            let validate = || validate_handshake(app, group_id, message, handshake, stored, signer);
            if stored.blob.len() > LARGE_TREE { tokio::task::block_in_place(validate) } else { validate() }
        }
    }
}

/// DS-3: the DS cannot read an application message; it knows its sender by the key that
/// signed the request.
fn validate_application(
    group_id: &GroupId,
    message: &Submitted,
    stored: &Stored,
    signer: PublicKey,
) -> Result<Step, Failure> {
    let roster = stored.open(message, group_id, Kind::Roster)?;
    let roster = Roster::decode(&roster).map_err(Failure::fault)?;
    let sender = roster.by_key(signer).ok_or(ProblemType::NotAllowed)?;
    stored.rules.check_epoch(message.epoch, stored.epoch)?;
    let could_read = |since: u64| since <= message.epoch;
    if !could_read(sender.mark.since) {
        return Err(Problem::outside_epochs(stored.epoch, stored.rules.past_epochs).into());
    }
    if !message.body.attributes.is_empty() {
        return Err(violation(Violation::AttributesOfAnother).into());
    }
    if message.body.welcome.is_some() || message.body.group_info.is_some() {
        let reason = "a Welcome and a GroupInfo come with commits";
        return Err(invalid(InvalidMls::Refused(reason)).into());
    }
    let mut step = Step::default();
    let recipients =
        roster.members().iter().filter(|member| member.leaf != sender.leaf && could_read(member.mark.since));
    let urgency = message.body.urgency.unwrap_or(Urgency::Normal);
    step.deliver(&message.payload(), urgency, recipients.map(|member| member.address));
    let joined = sender.mark.joined;
    step.settled.extend(joined.map(|epoch| state::joiner_tag(&message.body.state_key, epoch, &signer)));
    step.members = roster;
    Ok(step)
}

fn validate_handshake(
    app: &App,
    group_id: &GroupId,
    message: &Submitted,
    handshake: &PublicMessageIn,
    stored: &Stored,
    signer: PublicKey,
) -> Result<Step, Failure> {
    let group = stored.open(message, group_id, Kind::Tree)?;
    let ds = Ds::now(app);
    let group = Group::decode(&group, ds).map_err(Failure::fault)?;
    if *handshake.sender() != Sender::NewMemberCommit && group.roster.by_key(signer).is_none() {
        return Err(ProblemType::NotAllowed.into());
    }
    stored.expect_epoch(message)?;
    let body = &message.body;
    let submission = Submission {
        group_id,
        rules: &stored.rules,
        message: &body.message,
        group_info: body.group_info.as_ref(),
        welcome: body.welcome.as_ref(),
        attributes: &body.attributes,
        signer,
    };
    let next = handshake::handle(group, handshake.clone(), submission, ds)?;

    let key = &body.state_key;
    let mut step = Step::default();
    step.deliver(&message.payload(), body.urgency.unwrap_or(Urgency::VeryLow), next.recipients);
    step.settled =
        next.settled.iter().map(|(epoch, key_of)| state::joiner_tag(key, *epoch, key_of)).collect();
    let epoch = next.group.mls.epoch();
    if !next.is_commit {
        let place = Place { revision: stored.revision + 1, ..stored.place(group_id, Kind::Tree) };
        step.tree = Some(state::seal(key, place, &next.group.encode()));
        step.members = next.group.roster;
        return Ok(step);
    }
    let place = |kind| Place { group_id: group_id.id(), epoch, revision: 0, kind };
    step.roster = Some(state::seal(key, place(Kind::Roster), &next.group.roster.encode()));
    step.tree = Some(state::seal(key, place(Kind::Tree), &next.group.encode()));
    if let Some(welcome) = &body.welcome {
        let tree = next.group.encode_welcome_tree();
        step.welcome_tree = Some(state::seal(key, place(Kind::WelcomeTree), &tree));
        step.joiners =
            next.joiners.iter().map(|joiner| state::joiner_tag(key, epoch, &joiner.leaf_key)).collect();
        let last = next.joiners.iter().map(|joiner| joiner.expires).max().unwrap_or_default();
        step.expires = i32::try_from(last).map_err(Failure::fault)?;
        let payload = QueuePayload::Welcome(welcome.clone());
        step.deliver(&payload, Urgency::Normal, next.joiners.iter().map(|joiner| joiner.address));
    }
    step.members = next.group.roster;
    Ok(step)
}

enum Written {
    /// With the addresses that take nothing any more.
    Accepted(MessageAccepted, HashSet<Address>),
    WrongEpoch(u64),
    /// The group changed within its epoch since it was read; the token is unspent.
    Stale,
}

async fn write(
    app: &App,
    payment: &Payment,
    group_id: &GroupId,
    message: &Submitted,
    stored: &Stored,
    step: &Step,
) -> Result<Written, Failure> {
    let addresses: Vec<&[u8]> = step.addresses.iter().map(|address| address.as_bytes().as_slice()).collect();
    let payloads: Vec<&[u8]> = step.payloads.iter().map(Vec::as_slice).collect();
    let commit = step.roster.is_some().then_some(message.digest.as_slice());
    let row = payment
        .call(
            &app.database,
            "SELECT outcome, current_epoch, undelivered, gone, pushes
             FROM ds.submit_message($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
            &[
                &app.domain.as_str(),
                &group_id.id().as_slice(),
                &i64::try_from(stored.epoch).map_err(Failure::fault)?,
                &stored.revision,
                &commit,
                &step.roster,
                &step.tree,
                &addresses,
                &step.parts,
                &payloads,
                &step.urgencies,
                &step.welcome_tree,
                &step.joiners,
                &step.expires,
                &step.settled,
            ],
        )
        .await?;
    let epoch = || u64::try_from(row.get::<_, i64>("current_epoch")).map_err(Failure::fault);
    match row.get("outcome") {
        "accepted" => {
            app.push(&row);
            let undelivered = u32::try_from(row.get::<_, i32>("undelivered")).map_err(Failure::fault)?;
            let gone = row.get::<_, Vec<&[u8]>>("gone").into_iter();
            let gone = gone.map(Address::try_from).collect::<Result<_, _>>().map_err(Failure::fault)?;
            Ok(Written::Accepted(MessageAccepted { epoch: epoch()?, undelivered }, gone))
        }
        "wrong_epoch" => Ok(Written::WrongEpoch(epoch()?)),
        "stale" => Ok(Written::Stale),
        "unknown_group" => Err(ProblemType::NotFound.into()),
        other => Err(Failure::unexpected(other)),
    }
}
