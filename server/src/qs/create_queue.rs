//! `POST /qs/queues` (QS-1): creates a mailbox, owned by the key that signed the request.

use http::StatusCode;
use postern_protocol::{
    HpkePublicKey, QueueId,
    problem::{Problem, ProblemType},
    qs::{CreateQueue, QueueCreated},
};

use super::Qs;
use crate::{
    database::outcome,
    http::{Failure, Outcome, Payment, Request},
};

outcome! {
    pub CreateQueueOutcome: "qs.create_queue_outcome", paid {
        Created = "created",
        QueueExists = "queue_exists",
    }
}

pub async fn create_queue(qs: Qs, request: Request, payment: Payment) -> Outcome {
    let (owner, body) = request.signed_body::<CreateQueue>()?;
    check_hpke_key(&body.hpke_key)?;
    let mut id = [0; QueueId::LEN];
    aws_lc_rs::rand::fill(&mut id).map_err(Failure::fault)?;
    let queue_id = QueueId::new(id);
    let (outcome, _) = payment
        .call(
            &qs.home.database,
            "SELECT outcome FROM qs.create_queue($1, $2, $3, $4, $5, $6)",
            &[
                &queue_id.as_bytes().as_slice(),
                &body.kind.as_str(),
                &owner.as_bytes().as_slice(),
                &body.hpke_key.as_bytes().as_slice(),
            ],
        )
        .await?;
    match outcome {
        CreateQueueOutcome::Created => request.answer(StatusCode::CREATED, &QueueCreated { queue_id }),
        CreateQueueOutcome::QueueExists => Err(ProblemType::QueueExists.into()),
    }
}

/// Checks the key of a queue's owner.
///
/// # Errors
/// `malformed-body` for a key that chains cannot be sealed to.
pub fn check_hpke_key(key: &HpkePublicKey) -> Result<(), Problem> {
    if key.is_usable() {
        return Ok(());
    }
    let detail = "the HPKE key is not usable: nothing can be sealed to it";
    Err(Problem::with_detail(ProblemType::MalformedBody, detail))
}
