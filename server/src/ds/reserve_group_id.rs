//! `POST /ds/group-ids` (DS-1): reserves a fresh group id in the database until a group is created under it.

use http::StatusCode;
use postern_protocol::{
    ds::{GroupId, GroupIdReserved},
    problem::ProblemType,
};

use super::Ds;
use crate::{
    database::outcome,
    http::{Failure, Outcome, Payment, Request},
};

outcome! {
    pub ReserveGroupIdOutcome: "ds.reserve_group_id_outcome", paid {
        Reserved = "reserved",
        Full = "full",
    }
}

pub async fn reserve_group_id(ds: Ds, request: Request, payment: Payment) -> Outcome {
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id).map_err(Failure::fault)?;
    let (outcome, _) = payment
        .call(&ds.home.database, "SELECT outcome FROM ds.reserve_group_id($1, $2, $3)", &[&id.as_slice()])
        .await?;
    match outcome {
        ReserveGroupIdOutcome::Reserved => {
            let group_id = GroupId::new(id, ds.home.domain.clone());
            request.answer(
                StatusCode::CREATED,
                &GroupIdReserved { group_id, server_key: ds.external_sender_keys.now().current() },
            )
        }
        ReserveGroupIdOutcome::Full => Err(ProblemType::TooManyReservations.into()),
    }
}
