//! `DELETE /ds/groups/{group_id}` (DS-11): an admin ends a group in which nobody else is left.

use http::StatusCode;
use postern_protocol::{
    ds::{DeleteGroup, GroupId},
    problem::{Problem, ProblemType},
};

use super::{
    group::{Ds, Group},
    policy::{self, View},
    state::{self, Kind, Place, WrongKey},
};
use crate::{
    app::App,
    road::{Answer, Failure, Outcome, Payment, Request},
};

pub async fn delete_group(app: App, request: Request, payment: Payment) -> Outcome {
    let group_id = request.segment(|segment| GroupId::from_base64url(segment).ok())?;
    let (signer, body) = request.signed_body::<DeleteGroup>()?;
    if *group_id.domain() != app.domain {
        return Err(ProblemType::ForeignDomain.into());
    }
    let id = group_id.id().as_slice();
    let row = app
        .database
        .query_opt("SELECT epoch, revision, state FROM ds.load_group($1, true)", &[&id])
        .await?
        .ok_or(ProblemType::NotFound)?;
    let (epoch, revision): (i64, i32) = (row.get("epoch"), row.get("revision"));
    let place = Place {
        group_id: group_id.id(),
        epoch: u64::try_from(epoch).map_err(Failure::fault)?,
        revision,
        kind: Kind::Tree,
    };
    check(&app, &body, place, row.get("state"), signer)?;
    let row = payment
        .call(&app.database, "SELECT outcome FROM ds.delete_group($1, $2, $3, $4)", &[&id, &epoch])
        .await?;
    match row.get("outcome") {
        "deleted" => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        "wrong_epoch" => Err(ProblemType::NotFound.into()),
        other => Err(Failure::unexpected(other)),
    }
}

fn check(
    app: &App,
    body: &DeleteGroup,
    place: Place<'_>,
    blob: &[u8],
    signer: postern_protocol::PublicKey,
) -> Result<(), Failure> {
    let group = state::open(&body.state_key, place, blob).map_err(|WrongKey| ProblemType::NotFound)?;
    let group = Group::decode(&group, Ds::now(app)).map_err(Failure::fault)?;
    let sender = group.roster.by_key(signer).ok_or(ProblemType::NotAllowed)?;
    let view = View { policy: &group.policy, roster: &group.roster };
    policy::check_deletion(view, sender.leaf)
        .map_err(|violation| Problem::with_detail(ProblemType::PolicyViolation, violation))?;
    Ok(())
}
