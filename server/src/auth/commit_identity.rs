//! `POST /as/eid/commits` (AS-3): a client adds, updates or removes clients of its user by a commit to the EID group.
//! The AS accepts exactly one commit per epoch and keeps it in the EID's history for ever. Readers replay all of it, so
//! a commit has nothing in it that they do not need.

use http::StatusCode;
use postern_protocol::{
    MlsMessage, PublicKey,
    auth::{CommitIdentity, IdentityCommitted},
    name::UserName,
    problem::{Problem, ProblemType},
};

use super::{
    As,
    identity::{self, Limits},
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

pub async fn commit_identity(auth: As, request: Request, payment: Payment) -> Outcome {
    let (signer, body) = request.signed_body::<CommitIdentity>()?;
    let key = signer.as_bytes().as_slice();
    let client = auth
        .home
        .database
        .query_opt(
            "SELECT name, epoch, eid, max_clients, max_commits, max_commit_bytes, max_leaf_bytes
             FROM auth.load_client($1)",
            &[&key],
        )
        .await?
        .ok_or(ProblemType::NotAllowed)?;
    let name = identity::user_name(&client, &auth.home.domain)?;
    let limits = Limits::read(&client)?;
    let epoch: i64 = client.get("epoch");

    if body.commit.as_bytes().len() > limits.max_commit_bytes {
        return Err(limits.commit_too_large().into());
    }
    let eid: &[u8] = client.get("eid");
    let validate = || validate(&body.commit, signer, &name, epoch, eid, &limits);
    let next = auth.home.compute(validate).await??;

    let (outcome, row) = payment
        .call(
            &auth.home.database,
            "SELECT outcome, current_epoch FROM auth.commit_identity($1, $2, $3, $4, $5, $6, $7, $8)",
            &[
                &key,
                &epoch,
                &body.commit.as_bytes(),
                &next.eid,
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

/// An EID after a commit.
struct Next {
    /// Its state.
    eid: Vec<u8>,
    /// The client keys before and after.
    before: Vec<PublicKey>,
    after: Vec<PublicKey>,
}

/// Validates a commit of `signer` to the EID of `user`, which is in this epoch.
fn validate(
    commit: &MlsMessage,
    signer: PublicKey,
    user: &UserName,
    epoch: i64,
    eid: &[u8],
    limits: &Limits,
) -> Result<Next, Failure> {
    let commit = mls::parse_handshake(commit)?;
    let epoch = u64::try_from(epoch).map_err(Failure::fault)?;
    if commit.epoch().as_u64() != epoch {
        return Err(Problem::wrong_epoch(epoch).into());
    }
    let mut eid = TrackedGroup::decode(eid).map_err(Failure::fault)?;
    let before = identity::client_keys(&eid, user)?;
    match eid.validate_of_member(commit, signer, identity::LONGEST_LIFETIME)? {
        (_, Handshake::Commit(commit, authenticated_data)) => {
            identity::check_commit(&commit, &authenticated_data, limits.max_leaf_bytes)?;
            eid.merge(*commit)?;
        }
        (_, Handshake::Proposal(_)) => {
            let reason = "an EID can be changed only by a commit";
            return Err(InvalidMls::Refused(reason).into());
        }
    }
    let after = identity::client_keys(&eid, user)?;
    Ok(Next { eid: eid.encode(), before, after })
}

/// The keys of `these` that are not among `those`.
fn difference<'a>(these: &'a [PublicKey], those: &[PublicKey]) -> Vec<&'a [u8]> {
    these.iter().filter(|key| !those.contains(key)).map(|key| key.as_bytes().as_slice()).collect()
}
