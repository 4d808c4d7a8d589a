//! `POST /ds/groups/{group_id}/group-info` (DS-7, DS-8): what an external commit starts
//! from: GroupInfo and tree of the current epoch, and the proposals that wait.

use http::StatusCode;
use postern_protocol::{
    ds::{CurrentGroup, FetchGroupInfo, GroupId},
    problem::ProblemType,
};

use super::{
    group::{Ds, Group},
    state::{self, Kind, Place, WrongKey},
};
use crate::{
    app::App,
    road::{Failure, Outcome, Payment, Request},
};

pub async fn fetch_group_info(app: App, request: Request, payment: Payment) -> Outcome {
    let group_id = request.segment(|segment| GroupId::from_base64url(segment).ok())?;
    let (signer, body) = request.signed_body::<FetchGroupInfo>()?;
    if *group_id.domain() != app.domain {
        return Err(ProblemType::ForeignDomain.into());
    }
    let row = payment
        .call(
            &app.database,
            "SELECT outcome, epoch, revision, tree FROM ds.fetch_group_info($1, $2, $3)",
            &[&group_id.id().as_slice()],
        )
        .await?;
    match row.get("outcome") {
        "found" => {}
        "unknown_group" => return Err(ProblemType::NotFound.into()),
        other => return Err(Failure::unexpected(other)),
    }
    let place = Place {
        group_id: group_id.id(),
        epoch: u64::try_from(row.get::<_, i64>("epoch")).map_err(Failure::fault)?,
        revision: row.get("revision"),
        kind: Kind::Tree,
    };
    // Whoever lacks the key is no member, and learns nothing of the group.
    let group =
        state::open(&body.state_key, place, row.get("tree")).map_err(|WrongKey| ProblemType::NotFound)?;
    let ds = Ds::now(&app);
    let group = Group::decode(&group, ds).map_err(Failure::fault)?;
    // A removed member still knows the state key.
    if !group.roster.knows(signer) {
        return Err(ProblemType::NotAllowed.into());
    }
    let current = CurrentGroup {
        ratchet_tree: group.mls.ratchet_tree(),
        attributes: group.leaf_attributes(),
        group_info: group.group_info,
        proposals: group.proposals,
    };
    request.answer(StatusCode::OK, &current)
}
