//! `POST /as/eid/commits` (AS-3): a client adds, updates or removes clients of its user by a commit to the EID group.
//! The AS accepts exactly one commit per epoch and keeps it in the EID's history for ever. With it come a GroupInfo of the
//! new epoch and the state that the committer signed, for readers who do not replay the history.

use http::StatusCode;
use postern_protocol::{
    PublicKey, RatchetTree, TreeHash,
    auth::{CommitIdentity, IdentityCommitted},
    problem::{Problem, ProblemType},
};
use tokio_postgres::Row;

use super::{
    As,
    identity::{self, Limits, Standing},
};
use crate::{
    database::outcome,
    http::{Failure, Outcome, Payment, Request},
    mls::{self, Handshake, InvalidMls, TrackedGroup},
};

outcome! {
    pub CommitIdentityOutcome: "auth.commit_identity_outcome", paid {
        Committed = "committed",
        WrongEpoch = "wrong_epoch",
        ClientKnown = "client_known",
        UnknownClient = "unknown_client",
        TooManyClients = "too_many_clients",
        TooManyCommits = "too_many_commits",
        TooLarge = "too_large",
    }
}

pub async fn commit_identity(auth: As, mut request: Request, payment: Payment) -> Outcome {
    let (signer, body) = request.signed_body::<CommitIdentity>()?;
    let key = signer.as_bytes().as_slice();
    let client = load(&auth, signer).await?;
    let standing = Standing::read(&client, &auth.home.domain)?;
    let limits = Limits::read(&client)?;

    if body.commit.as_bytes().len() > limits.max_commit_bytes {
        return Err(limits.commit_too_large().into());
    }
    let eid: &[u8] = client.get("eid");
    let validate = || validate(&body, Purpose::Change, signer, &standing, eid, &limits);
    let next = request.while_waiting(payment.compute(&auth.home, validate)).await??;

    let (outcome, row) = payment
        .call(
            &auth.home.database,
            "SELECT outcome, current_epoch
             FROM auth.commit_identity($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
            &[
                &key,
                &client.get::<_, i64>("epoch"),
                &body.commit.as_bytes(),
                &body.state.eid.transcript.as_bytes().as_slice(),
                &body.group_info.as_bytes(),
                &next.ratchet_tree.as_bytes(),
                &next.eid,
                &next.tree_hash.as_bytes().as_slice(),
                &body.state.signature.as_bytes(),
                &difference(&next.after, &next.before),
                &difference(&next.before, &next.after),
            ],
        )
        .await?;
    match outcome {
        CommitIdentityOutcome::Committed => {
            let epoch = row.get::<_, i64>("current_epoch") as u64;
            request.answer(StatusCode::OK, &IdentityCommitted { epoch })
        }
        CommitIdentityOutcome::WrongEpoch => {
            Err(Problem::wrong_epoch(row.get::<_, i64>("current_epoch") as u64).into())
        }
        CommitIdentityOutcome::ClientKnown | CommitIdentityOutcome::UnknownClient => {
            Err(ProblemType::NotAllowed.into())
        }
        CommitIdentityOutcome::TooManyClients => Err(limits.too_many_clients().into()),
        CommitIdentityOutcome::TooManyCommits => Err(limits.too_many_commits().into()),
        CommitIdentityOutcome::TooLarge => Err(limits.commit_too_large().into()),
    }
}

/// The purpose of a commit to an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Other clients, or other keys of the committer's leaf.
    Change,
    /// The user's new name, in the committer's leaf (AS-9).
    Rename,
}

/// The row of `auth.load_client` for a client.
///
/// # Errors
/// `not-allowed` for a key that is no client's.
pub async fn load(auth: &As, client: PublicKey) -> Result<Row, Failure> {
    let sql = "SELECT name, confirmed, incarnation, founder, founding, epoch, transcript, eid, max_clients,
                      max_commits, commits_per_day, max_commit_bytes, max_history_bytes, max_leaf_bytes
               FROM auth.load_client($1)";
    let row = auth.home.database.query_opt(sql, &[&client.as_bytes().as_slice()]).await?;
    Ok(row.ok_or(ProblemType::NotAllowed)?)
}

/// An EID after a commit.
pub struct Next {
    /// Its state.
    pub eid: Vec<u8>,
    pub ratchet_tree: RatchetTree,
    pub tree_hash: TreeHash,
    /// The client keys before and after.
    pub before: Vec<PublicKey>,
    pub after: Vec<PublicKey>,
}

/// Validates a commit of `signer` to an identity, and what comes with it for readers.
///
/// # Errors
/// `invalid-mls`, `message-too-large`, `wrong-epoch`; `not-allowed` for a pending client that does more than confirm
/// itself.
pub fn validate(
    body: &CommitIdentity,
    purpose: Purpose,
    signer: PublicKey,
    standing: &Standing,
    eid: &[u8],
    limits: &Limits,
) -> Result<Next, Failure> {
    let Standing { user, founding, eid: state, confirmed } = standing;
    let commit = mls::parse_handshake(&body.commit)?;
    if commit.epoch().as_u64() != state.epoch {
        return Err(Problem::wrong_epoch(state.epoch).into());
    }
    let mut eid = TrackedGroup::decode(eid).map_err(Failure::fault)?;
    let (before, mut names) = (identity::client_keys(&eid)?, identity::names(&eid));
    let (committer, handshake) = eid.validate_of_member(commit, signer, identity::LONGEST_LIFETIME)?;
    let Handshake::Commit(commit, authenticated_data) = handshake else {
        let reason = "an EID can be changed only by a commit";
        return Err(InvalidMls::Refused(reason).into());
    };
    identity::check_commit(&commit, &authenticated_data, limits.max_leaf_bytes)?;
    if !confirmed {
        identity::check_confirmation(&commit)?;
    }
    if purpose == Purpose::Rename {
        if commit.queued_proposals().next().is_some() {
            let reason = "a change of name must be an update of the client's own leaf, and nothing else";
            return Err(InvalidMls::Refused(reason).into());
        }
        names.retain(|(leaf, _)| *leaf != committer);
    }
    eid.merge(*commit)?;
    identity::check_names(&eid, &names, user)?;
    let after = identity::client_keys(&eid)?;
    // Contacts know a client by its key. Another key is another client, which others add and itself confirms.
    if !after.contains(&signer) {
        return Err(InvalidMls::Refused("a client of an identity keeps its signature key").into());
    }
    let state = (state.followed_by(body.commit.as_bytes()), &body.state);
    identity::check_state(&eid, (committer, signer), &body.group_info, user, founding, state)?;
    Ok(Next {
        tree_hash: eid.tree_hash()?,
        ratchet_tree: eid.ratchet_tree(),
        eid: eid.encode(),
        before,
        after,
    })
}

/// The keys of `these` that are not among `those`.
fn difference<'a>(these: &'a [PublicKey], those: &[PublicKey]) -> Vec<&'a [u8]> {
    these.iter().filter(|key| !those.contains(key)).map(|key| key.as_bytes().as_slice()).collect()
}
