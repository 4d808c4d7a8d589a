//! `POST /qs/queues/{queue_id}/delete` (QS-7): the queue, whatever waits in it, and the
//! addresses that its owner names are gone. POST, because a DELETE has no body (RFC 9110
//! §9.3.5), and addresses do not belong into URLs.

use http::StatusCode;
use postern_protocol::{QueueId, problem::ProblemType, qs::DeleteQueue};

use super::add_addresses::address_bytes;
use crate::{
    app::App,
    road::{Answer, Failure, Outcome, Payment, Request},
};

pub async fn delete_queue(app: App, request: Request, payment: Payment) -> Outcome {
    let queue_id = request.segment(|segment| QueueId::from_base64url(segment).ok())?;
    let (signer, body) = request.signed_body::<DeleteQueue>()?;
    let row = payment
        .call(
            &app.database,
            "SELECT outcome FROM qs.delete_queue($1, $2, $3, $4, $5)",
            &[
                &queue_id.as_bytes().as_slice(),
                &signer.as_bytes().as_slice(),
                &address_bytes(&body.addresses),
            ],
        )
        .await?;
    match row.get("outcome") {
        "deleted" => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        "unknown_queue" => Err(ProblemType::NotFound.into()),
        other => Err(Failure::unexpected(other)),
    }
}
