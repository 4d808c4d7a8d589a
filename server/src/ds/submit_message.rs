//! `POST /ds/groups/{group_id}/messages` (DS-2): the main road. One read (the sealed state
//! that this kind of message needs), validation as a receiving member would, one write that
//! spends the token, moves the group and enqueues for every member (DS-5).

use std::collections::HashSet;

use aws_lc_rs::digest::{SHA256, digest};
use http::StatusCode;
use openmls::prelude::{ContentType, MlsMessageBodyIn, PrivateMessageIn, PublicMessageIn, StagedCommit};
use postern_protocol::{
    Address, PublicKey,
    ds::{GroupId, MessageAccepted, SubmitMessage},
    encoding::Encoding,
    problem::{Problem, ProblemType},
    qs::QueuePayload,
};
use tokio_postgres::Row;
use zeroize::Zeroizing;

use super::{
    policy::{self, Violation},
    roster::{self, Roster},
    state::{self, Kind, Place, WrongKey},
};
use crate::{
    app::App,
    mls::{self, Handshake, InvalidMls, TrackedGroup},
    road::{Failure, Outcome, Payment, Request},
};

/// Two proposals at once, or a proposal and a commit, may find that the other was first;
/// the later one is validated again on the new state. More often than this in a row it is
/// told so.
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
    for _ in 0..ATTEMPTS {
        let stored = Stored::load(&app, &group_id, message.needs()).await?;
        if stored.accepted_before(&message) {
            let accepted = MessageAccepted { epoch: stored.epoch, undelivered: 0 };
            return request.answer(StatusCode::OK, &accepted);
        }
        let step = validate(&app, &group_id, &message, &stored, signer)?;
        match write(&app, &payment, &group_id, &message, &stored, step).await? {
            Written::Accepted(accepted) => return request.answer(StatusCode::OK, &accepted),
            Written::WrongEpoch(current) => return Err(Problem::wrong_epoch(current).into()),
            Written::Stale => {}
        }
    }
    Err(Problem::wrong_epoch(message.epoch).into())
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
}

impl Stored {
    async fn load(app: &App, group_id: &GroupId, needs: Kind) -> Result<Self, Failure> {
        let row: Row = app
            .database
            .query_opt(
                "SELECT epoch, revision, last_commit, state FROM ds.load_group($1, $2)",
                &[&group_id.id().as_slice(), &(needs == Kind::Tree)],
            )
            .await?
            .ok_or(ProblemType::NotFound)?;
        Ok(Self {
            epoch: u64::try_from(row.get::<_, i64>("epoch")).map_err(Failure::fault)?,
            revision: row.get("revision"),
            last_commit: row.get("last_commit"),
            blob: row.get("state"),
        })
    }

    /// A byte-identical repeat of the commit that began this epoch gets its answer again (DS-4).
    fn accepted_before(&self, message: &Submitted) -> bool {
        message.epoch.checked_add(1) == Some(self.epoch)
            && self.last_commit.as_deref() == Some(&message.digest)
    }

    /// Whoever lacks the key is no member, and learns nothing of the group.
    fn open(
        &self,
        message: &Submitted,
        group_id: &GroupId,
        kind: Kind,
    ) -> Result<Zeroizing<Vec<u8>>, Problem> {
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
}

impl Step {
    fn deliver(&mut self, payload: &QueuePayload, to: impl Iterator<Item = Address>) {
        self.payloads.push(Encoding::Cbor.encode(payload));
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
    stored.expect_epoch(message)?;
    no_welcome(message)?;
    let mut step = Step::default();
    step.deliver(&message.payload(), recipients(&roster, sender.leaf));
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
    let tree = stored.open(message, group_id, Kind::Tree)?;
    let mut group = TrackedGroup::decode(&tree).map_err(Failure::fault)?;
    let roster = Roster::of(&group, &app.domain).map_err(Failure::fault)?;
    let policy = roster::policy(&group).map_err(Failure::fault)?;
    roster.by_key(signer).ok_or(ProblemType::NotAllowed)?;
    stored.expect_epoch(message)?;

    let key = &message.body.state_key;
    let (sender, handshake) = group.validate(handshake.clone(), signer).map_err(invalid)?;
    let mut step = Step::default();
    step.deliver(&message.payload(), recipients(&roster, sender.u32()));
    match handshake {
        Handshake::Proposal(proposal) => {
            policy::check_proposal(&policy, &roster, proposal.proposal(), proposal.sender())
                .map_err(violation)?;
            no_welcome(message)?;
            group.keep_proposal(*proposal).map_err(invalid)?;
            let place = Place { revision: stored.revision + 1, ..stored.place(group_id, Kind::Tree) };
            step.tree = Some(state::seal(key, place, &group.encode()));
        }
        Handshake::Commit(commit) => {
            for proposal in commit.queued_proposals() {
                policy::check_proposal(&policy, &roster, proposal.proposal(), proposal.sender())
                    .map_err(violation)?;
            }
            let added = added_keys(&commit);
            group.merge(*commit).map_err(invalid)?;
            let next = Roster::of(&group, &app.domain).map_err(invalid)?;
            let next_policy = roster::policy(&group).map_err(invalid)?;
            let joiners = || next.members().iter().filter(|member| added.contains(&member.signature_key));
            policy::check_result((&policy, &roster), (&next_policy, &next), &added).map_err(violation)?;
            match (added.len(), &message.body.welcome) {
                (0, _) => no_welcome(message)?,
                (joining, Some(welcome)) if mls::welcomed_members(welcome).map_err(invalid)? == joining => {
                    let payload = QueuePayload::Welcome(welcome.clone());
                    step.deliver(&payload, joiners().map(|member| member.address));
                }
                _ => {
                    let reason = "members are added with a Welcome for each of them";
                    return Err(invalid(InvalidMls::Refused(reason)).into());
                }
            }
            let place = |kind| Place { group_id: group_id.id(), epoch: group.epoch(), revision: 0, kind };
            step.roster = Some(state::seal(key, place(Kind::Roster), &next.encode()));
            step.tree = Some(state::seal(key, place(Kind::Tree), &group.encode()));
        }
    }
    Ok(step)
}

/// Everyone but the sender; also who a commit removes, so that they learn of it.
fn recipients(roster: &Roster, sender: u32) -> impl Iterator<Item = Address> {
    roster.members().iter().filter(move |member| member.leaf != sender).map(|member| member.address)
}

fn added_keys(commit: &StagedCommit) -> HashSet<PublicKey> {
    commit
        .add_proposals()
        .filter_map(|add| {
            let leaf = add.add_proposal().key_package().leaf_node();
            PublicKey::try_from(leaf.signature_key().as_slice()).ok()
        })
        .collect()
}

fn no_welcome(message: &Submitted) -> Result<(), Problem> {
    match message.body.welcome {
        None => Ok(()),
        Some(_) => Err(invalid(InvalidMls::Refused("a Welcome without added members"))),
    }
}

enum Written {
    Accepted(MessageAccepted),
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
    step: Step,
) -> Result<Written, Failure> {
    let addresses: Vec<&[u8]> = step.addresses.iter().map(|address| address.as_bytes().as_slice()).collect();
    let payloads: Vec<&[u8]> = step.payloads.iter().map(Vec::as_slice).collect();
    let commit = step.roster.is_some().then_some(message.digest.as_slice());
    let row = payment
        .call(
            &app.database,
            "SELECT outcome, current_epoch, undelivered
             FROM ds.submit_message($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
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
            ],
        )
        .await?;
    let epoch = || u64::try_from(row.get::<_, i64>("current_epoch")).map_err(Failure::fault);
    match row.get("outcome") {
        "accepted" => {
            let undelivered = u32::try_from(row.get::<_, i32>("undelivered")).map_err(Failure::fault)?;
            Ok(Written::Accepted(MessageAccepted { epoch: epoch()?, undelivered }))
        }
        "wrong_epoch" => Ok(Written::WrongEpoch(epoch()?)),
        "stale" => Ok(Written::Stale),
        "unknown_group" => Err(ProblemType::NotFound.into()),
        other => Err(Failure::unexpected(other)),
    }
}

fn invalid(error: InvalidMls) -> Problem {
    Problem::with_detail(ProblemType::InvalidMls, error)
}

fn violation(violation: Violation) -> Problem {
    Problem::with_detail(ProblemType::PolicyViolation, violation)
}
