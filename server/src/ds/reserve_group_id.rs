//! `POST /ds/group-ids` (DS-1): a fresh group id, reserved in the database until a group
//! is created under it.

use http::StatusCode;
use postern_protocol::{
    ds::{GroupId, GroupIdReserved},
    problem::ProblemType,
};

use crate::{
    app::App,
    road::{Failure, Outcome, Payment, Request},
};

pub async fn reserve_group_id(app: App, request: Request, payment: Payment) -> Outcome {
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id).map_err(Failure::fault)?;
    let row = payment
        .call(&app.database, "SELECT outcome FROM ds.reserve_group_id($1, $2, $3)", &[&id.as_slice()])
        .await?;
    match row.get("outcome") {
        "reserved" => {
            let group_id = GroupId::new(id, app.domain.clone());
            request
                .answer(StatusCode::CREATED, &GroupIdReserved { group_id, server_key: app.senders.current() })
        }
        "full" => Err(ProblemType::TooManyReservations.into()),
        other => Err(Failure::unexpected(other)),
    }
}
