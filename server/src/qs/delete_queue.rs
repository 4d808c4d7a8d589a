//! `POST /qs/queues/{queue_id}/delete` (QS-7): deletes a queue with all messages in it, and the
//! addresses that its owner names. It is a POST because a DELETE has no body (RFC 9110 §9.3.5), and
//! addresses do not belong in URLs.

use http::StatusCode;
use postern_protocol::{QueueId, problem::ProblemType, qs::DeleteQueue};

use super::{Qs, add_addresses::address_bytes};
use crate::{
    database::outcome,
    http::{Answer, Outcome, Payment, Request},
};

outcome! {
    pub DeleteQueueOutcome: "qs.delete_queue_outcome", paid {
        Deleted = "deleted",
        UnknownQueue = "unknown_queue",
    }
}

pub async fn delete_queue(qs: Qs, request: Request, payment: Payment) -> Outcome {
    let queue_id = request.segment(|segment| QueueId::from_base64url(segment).ok())?;
    let (signer, body) = request.signed_body::<DeleteQueue>()?;
    let (outcome, _) = payment
        .call(
            &qs.home.database,
            "SELECT outcome FROM qs.delete_queue($1, $2, $3, $4, $5)",
            &[
                &queue_id.as_bytes().as_slice(),
                &signer.as_bytes().as_slice(),
                &address_bytes(&body.addresses),
            ],
        )
        .await?;
    match outcome {
        DeleteQueueOutcome::Deleted => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        DeleteQueueOutcome::UnknownQueue => Err(ProblemType::NotFound.into()),
    }
}
