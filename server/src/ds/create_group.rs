//! `POST /ds/groups` (DS-1): a group begins, under an id reserved before, with its creator
//! as only member and admin.

use http::StatusCode;
use postern_protocol::{
    ds::CreateGroup,
    problem::{Problem, ProblemType},
};

use super::{
    group::{Ds, Group},
    state::{self, Kind, Place},
};
use crate::{
    app::App,
    mls::InvalidMls,
    road::{Answer, Failure, Outcome, Payment, Request},
};

pub async fn create_group(app: App, request: Request, payment: Payment) -> Outcome {
    let (signer, body) = request.signed_body::<CreateGroup>()?;
    if *body.group_id.domain() != app.domain {
        return Err(ProblemType::ForeignDomain.into());
    }
    let mut group =
        validate(&app, &body).map_err(|error| Problem::with_detail(ProblemType::InvalidMls, error))?;
    if group.roster.by_key(signer).is_none() {
        return Err(ProblemType::NotAllowed.into());
    }
    group.attach(&body.attributes, |_| true)?;
    let place = |kind| Place { group_id: body.group_id.id(), epoch: 0, revision: 0, kind };
    let row = payment
        .call(
            &app.database,
            "SELECT outcome FROM ds.create_group($1, $2, $3, $4, $5, $6)",
            &[
                &body.group_id.id().as_slice(),
                &state::seal(&body.state_key, place(Kind::Roster), &group.roster.encode()),
                &state::seal(&body.state_key, place(Kind::Tree), &group.encode()),
                &i32::from(group.mls.ciphersuite()),
            ],
        )
        .await?;
    match row.get("outcome") {
        "created" => Ok(Answer::empty(StatusCode::CREATED)),
        "ciphersuite_forbidden" => Err(ProblemType::CiphersuiteForbidden.into()),
        "not_reserved" => Err(ProblemType::GroupExists.into()),
        other => Err(Failure::unexpected(other)),
    }
}

fn validate(app: &App, body: &CreateGroup) -> Result<Group, InvalidMls> {
    let ds = Ds::now(app);
    let group = Group::create(&body.group_info, &body.ratchet_tree, ds)?;
    if group.mls.group_id() != body.group_id.to_mls() {
        return Err(InvalidMls::Refused("the group has another id than the request"));
    }
    let creator = group.roster.members().first().map(|member| member.pseudonym);
    if group.policy.admins != Vec::from_iter(creator) {
        return Err(InvalidMls::Refused("a new group's one admin is its creator"));
    }
    if group.policy.state_key() != body.state_key {
        return Err(InvalidMls::Refused("the state key is not the one of the group's policy"));
    }
    Ok(group)
}
