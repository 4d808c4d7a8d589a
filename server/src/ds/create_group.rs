//! `POST /ds/groups` (DS-1): a group begins, under an id reserved before, with its creator
//! as only member and admin.

use http::StatusCode;
use postern_protocol::{
    ds::CreateGroup,
    mls::{GroupPolicy, Pseudonym},
    problem::{Problem, ProblemType},
};

use super::{
    roster::{self, Roster},
    state::{self, Kind, Place},
};
use crate::{
    app::App,
    mls::{InvalidMls, TrackedGroup},
    road::{Answer, Failure, Outcome, Payment, Request},
};

pub async fn create_group(app: App, request: Request, payment: Payment) -> Outcome {
    let (signer, body) = request.signed_body::<CreateGroup>()?;
    if *body.group_id.domain() != app.domain {
        return Err(ProblemType::ForeignDomain.into());
    }
    let (roster, tree) =
        validate(&app, &body).map_err(|error| Problem::with_detail(ProblemType::InvalidMls, error))?;
    if roster.by_key(signer).is_none() {
        return Err(ProblemType::NotAllowed.into());
    }
    let place = |kind| Place { group_id: body.group_id.id(), epoch: 0, revision: 0, kind };
    let row = payment
        .call(
            &app.database,
            "SELECT outcome FROM ds.create_group($1, $2, $3, $4, $5)",
            &[
                &body.group_id.id().as_slice(),
                &state::seal(&body.state_key, place(Kind::Roster), &roster.encode()),
                &state::seal(&body.state_key, place(Kind::Tree), &tree),
            ],
        )
        .await?;
    match row.get("outcome") {
        "created" => Ok(Answer::empty(StatusCode::CREATED)),
        "not_reserved" => Err(ProblemType::GroupExists.into()),
        other => Err(Failure::unexpected(other)),
    }
}

fn validate(app: &App, body: &CreateGroup) -> Result<(Roster, Vec<u8>), InvalidMls> {
    let group = TrackedGroup::create(&body.group_info, &body.ratchet_tree)?;
    if group.group_id() != body.group_id.to_mls() {
        return Err(InvalidMls::Refused("the group has another id than the request"));
    }
    let roster = Roster::of(&group, &app.domain)?;
    let policy: GroupPolicy = roster::policy(&group)?;
    let creator = roster.members().first().map(|member| Pseudonym(member.pseudonym));
    if policy.admins != Vec::from_iter(creator) {
        return Err(InvalidMls::Refused("a new group's one admin is its creator"));
    }
    if policy.state_key() != body.state_key {
        return Err(InvalidMls::Refused("the state key is not the one of the group's policy"));
    }
    Ok((roster, group.encode()))
}
