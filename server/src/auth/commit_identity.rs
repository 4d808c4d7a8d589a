//! `POST /as/eid/commits` (AS-3): a client adds, updates or removes clients of its user by a commit to the EID group.
//! The AS accepts exactly one commit per epoch and keeps it in the EID's history for ever.

use http::StatusCode;
use postern_protocol::{
    PublicKey,
    auth::{CommitIdentity, IdentityCommitted},
    problem::{Problem, ProblemType},
};

use super::{As, identity};
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
    }
}

pub async fn commit_identity(auth: As, request: Request, payment: Payment) -> Outcome {
    let (signer, body) = request.signed_body::<CommitIdentity>()?;
    let key = signer.as_bytes().as_slice();
    let client = auth
        .home
        .database
        .query_opt("SELECT name, epoch, eid FROM auth.load_client($1)", &[&key])
        .await?
        .ok_or(ProblemType::NotAllowed)?;
    let name = identity::user_name(&client, &auth.home.domain)?;

    let commit = mls::parse_handshake(&body.commit)?;
    let mut eid = TrackedGroup::decode(client.get("eid")).map_err(Failure::fault)?;
    if commit.epoch().as_u64() != eid.epoch() {
        return Err(Problem::wrong_epoch(eid.epoch()).into());
    }
    let epoch = eid.epoch();
    let before = identity::client_keys(&eid, &name)?;
    match eid.validate_of_member(commit, signer)? {
        (_, Handshake::Commit(commit, _)) => eid.merge(*commit)?,
        (_, Handshake::Proposal(_)) => {
            let reason = "an EID can be changed only by a commit";
            return Err(InvalidMls::Refused(reason).into());
        }
    }
    let after = identity::client_keys(&eid, &name)?;

    let (outcome, row) = payment
        .call(
            &auth.home.database,
            "SELECT outcome, current_epoch FROM auth.commit_identity($1, $2, $3, $4, $5, $6, $7, $8)",
            &[
                &key,
                &i64::try_from(epoch).map_err(Failure::fault)?,
                &body.commit.as_bytes(),
                &eid.encode(),
                &difference(&after, &before),
                &difference(&before, &after),
            ],
        )
        .await?;
    match outcome {
        CommitIdentityOutcome::Committed => {
            request.answer(StatusCode::OK, &IdentityCommitted { epoch: eid.epoch() })
        }
        CommitIdentityOutcome::WrongEpoch => {
            Err(Problem::wrong_epoch(row.get::<_, i64>("current_epoch") as u64).into())
        }
        CommitIdentityOutcome::ClientKnown | CommitIdentityOutcome::UnknownClient => {
            Err(ProblemType::NotAllowed.into())
        }
    }
}

/// The keys of `these` that are not among `those`.
fn difference<'a>(these: &'a [PublicKey], those: &[PublicKey]) -> Vec<&'a [u8]> {
    these.iter().filter(|key| !those.contains(key)).map(|key| key.as_bytes().as_slice()).collect()
}
