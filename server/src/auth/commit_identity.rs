//! `POST /as/eid/commits` (AS-3): a client adds, updates or removes clients of its user by
//! a commit to the EID group. The AS accepts exactly one per epoch and logs it for ever.

use http::StatusCode;
use postern_protocol::{
    PublicKey,
    auth::{CommitIdentity, IdentityCommitted},
    problem::{Problem, ProblemType},
};

use super::identity;
use crate::{
    app::App,
    mls::{self, Handshake, InvalidMls, TrackedGroup},
    road::{Failure, Outcome, Payment, Request},
};

pub async fn commit_identity(app: App, request: Request, payment: Payment) -> Outcome {
    let (signer, body) = request.signed_body::<CommitIdentity>()?;
    let key = signer.as_bytes().as_slice();
    let client = app
        .database
        .query_opt("SELECT name, epoch, eid FROM auth.load_client($1)", &[&key])
        .await?
        .ok_or(ProblemType::NotAllowed)?;
    let name = identity::user_name(&client, &app.domain)?;

    let commit = mls::parse_handshake(&body.commit).map_err(identity::invalid)?;
    let mut eid = TrackedGroup::decode(client.get("eid")).map_err(Failure::fault)?;
    if commit.epoch().as_u64() != eid.epoch() {
        return Err(Problem::wrong_epoch(eid.epoch()).into());
    }
    let epoch = eid.epoch();
    let before = identity::client_keys(&eid, &name)?;
    match eid.validate_of_member(commit, signer).map_err(identity::invalid)? {
        (_, Handshake::Commit(commit, _)) => eid.merge(*commit).map_err(identity::invalid)?,
        (_, Handshake::Proposal(_)) => {
            let reason = "an EID changes by commits only";
            return Err(identity::invalid(InvalidMls::Refused(reason)).into());
        }
    }
    let after = identity::client_keys(&eid, &name)?;

    let row = payment
        .call(
            &app.database,
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
    match row.get("outcome") {
        "committed" => request.answer(StatusCode::OK, &IdentityCommitted { epoch: eid.epoch() }),
        "wrong_epoch" => Err(Problem::wrong_epoch(row.get::<_, i64>("current_epoch") as u64).into()),
        "client_known" | "unknown_client" => Err(ProblemType::NotAllowed.into()),
        other => Err(Failure::unexpected(other)),
    }
}

/// The keys of `these` that are not among `those`.
fn difference<'a>(these: &'a [PublicKey], those: &[PublicKey]) -> Vec<&'a [u8]> {
    these.iter().filter(|key| !those.contains(key)).map(|key| key.as_bytes().as_slice()).collect()
}
