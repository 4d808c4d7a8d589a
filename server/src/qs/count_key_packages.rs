//! `POST /qs/key-packages/count` (QS-6): answers with the number of KeyPackages that a client's
//! stock still has. It is a request of its own: told in the answer to a dequeue, the number would
//! join friendship and queue.

use http::StatusCode;
use postern_protocol::{
    problem::ProblemType,
    qs::{CountKeyPackages, KeyPackageStock},
};

use super::Qs;
use crate::{
    database::outcome,
    http::{Failure, Outcome, Payment, Request},
};

outcome! {
    pub CountKeyPackagesOutcome: "qs.count_key_packages_outcome", paid {
        Counted = "counted",
        UnknownFriendship = "unknown_friendship",
    }
}

pub async fn count_key_packages(qs: Qs, request: Request, payment: Payment) -> Outcome {
    let (signer, body) = request.signed_body::<CountKeyPackages>()?;
    let (outcome, row) = payment
        .call(
            &qs.home.database,
            "SELECT outcome, remaining FROM qs.count_key_packages($1, $2, $3, $4, $5)",
            &[
                &body.friendship_token.lookup().as_slice(),
                &signer.as_bytes().as_slice(),
                &body.stock_id.as_bytes().as_slice(),
            ],
        )
        .await?;
    match outcome {
        CountKeyPackagesOutcome::Counted => {
            let remaining = u32::try_from(row.get::<_, i32>("remaining")).map_err(Failure::fault)?;
            request.answer(StatusCode::OK, &KeyPackageStock { remaining })
        }
        CountKeyPackagesOutcome::UnknownFriendship => Err(ProblemType::NotFound.into()),
    }
}
