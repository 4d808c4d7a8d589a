//! `POST /ds/groups/{group_id}/welcome-tree` (DS-7): the ratchet tree of the epoch that
//! added a joiner, for that joiner until it has shown up in the group.

use http::StatusCode;
use postern_protocol::{
    ds::{FetchWelcomeTree, GroupId},
    problem::ProblemType,
};

use super::{
    group,
    state::{self, Kind, Place, WrongKey},
};
use crate::{
    app::App,
    road::{Failure, Outcome, Payment, Request},
};

pub async fn fetch_welcome_tree(app: App, request: Request, payment: Payment) -> Outcome {
    let group_id = request.segment(|segment| GroupId::from_base64url(segment).ok())?;
    let (signer, body) = request.signed_body::<FetchWelcomeTree>()?;
    if *group_id.domain() != app.domain {
        return Err(ProblemType::ForeignDomain.into());
    }
    // No group gets that far; the database counts with a sign.
    let epoch = i64::try_from(body.epoch).map_err(|_| ProblemType::NotFound)?;
    let row = payment
        .call(
            &app.database,
            "SELECT outcome, tree FROM ds.fetch_welcome_tree($1, $2, $3, $4, $5)",
            &[&group_id.id().as_slice(), &epoch, &state::joiner_tag(&body.state_key, body.epoch, &signer)],
        )
        .await?;
    match row.get("outcome") {
        "found" => {}
        "unknown_joiner" => return Err(ProblemType::NotFound.into()),
        other => return Err(Failure::unexpected(other)),
    }
    let place = Place { group_id: group_id.id(), epoch: body.epoch, revision: 0, kind: Kind::WelcomeTree };
    let tree =
        state::open(&body.state_key, place, row.get("tree")).map_err(|WrongKey| ProblemType::NotFound)?;
    request.answer(StatusCode::OK, &group::decode_welcome_tree(&tree).map_err(Failure::fault)?)
}
