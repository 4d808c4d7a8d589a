//! `POST /qs/queues/{queue_id}/addresses/revoke` (QS-7): blocks whoever uses these addresses,
//! which is one group each.

use http::StatusCode;
use postern_protocol::{
    QueueId,
    problem::{Problem, ProblemType},
    qs::RevokeAddresses,
};

use super::add_addresses::{address_bytes, check_number};
use crate::{
    app::App,
    road::{Answer, Failure, Outcome, Payment, Request},
};

pub async fn revoke_addresses(app: App, request: Request, payment: Payment) -> Outcome {
    let queue_id = request.segment(|segment| QueueId::from_base64url(segment).ok())?;
    let (signer, body) = request.signed_body::<RevokeAddresses>()?;
    check_number(body.addresses.len())?;
    let row = payment
        .call(
            &app.database,
            "SELECT outcome FROM qs.revoke_addresses($1, $2, $3, $4, $5)",
            &[
                &queue_id.as_bytes().as_slice(),
                &signer.as_bytes().as_slice(),
                &address_bytes(&body.addresses),
            ],
        )
        .await?;
    match row.get("outcome") {
        "revoked" => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        "unknown_queue" => Err(ProblemType::NotFound.into()),
        "unknown_address" => {
            let detail = "an address is not this queue's, or was revoked before: none was revoked now";
            Err(Problem::with_detail(ProblemType::NotFound, detail).into())
        }
        other => Err(Failure::unexpected(other)),
    }
}
