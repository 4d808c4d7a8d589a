//! `POST /qs/queues/{queue_id}/keys` (QS-7): replaces a queue's owner key, its HPKE key, or both.
//! Messages that wait in the queue stay sealed to the old HPKE key.

use http::StatusCode;
use postern_protocol::{
    QueueId,
    problem::{Problem, ProblemType},
    qs::RotateKeys,
};

use super::{Qs, create_queue::check_hpke_key};
use crate::{
    database::outcome,
    http::{Answer, Outcome, Payment, Request},
};

outcome! {
    pub RotateKeysOutcome: "qs.rotate_keys_outcome", paid {
        Rotated = "rotated",
        UnknownQueue = "unknown_queue",
    }
}

pub async fn rotate_keys(qs: Qs, request: Request, payment: Payment) -> Outcome {
    let queue_id = request.segment(|segment| QueueId::from_base64url(segment).ok())?;
    let (signer, body) = request.signed_body::<RotateKeys>()?;
    if body.owner.is_none() && body.hpke_key.is_none() {
        let detail = "the request must name a new owner key, a new HPKE key, or both";
        return Err(Problem::with_detail(ProblemType::MalformedBody, detail).into());
    }
    if let Some(owner) = &body.owner {
        owner.verify(&queue_id, signer).map_err(|_| {
            let detail = "the new owner key's signature does not match this queue and its owner so far";
            Problem::with_detail(ProblemType::NotAllowed, detail)
        })?;
    }
    if let Some(key) = &body.hpke_key {
        check_hpke_key(key)?;
    }
    let (outcome, _) = payment
        .call(
            &qs.home.database,
            "SELECT outcome FROM qs.rotate_keys($1, $2, $3, $4, $5, $6)",
            &[
                &queue_id.as_bytes().as_slice(),
                &signer.as_bytes().as_slice(),
                &body.owner.as_ref().map(|owner| owner.public_key.as_bytes().as_slice()),
                &body.hpke_key.as_ref().map(|key| key.as_bytes().as_slice()),
            ],
        )
        .await?;
    match outcome {
        RotateKeysOutcome::Rotated => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        RotateKeysOutcome::UnknownQueue => Err(ProblemType::NotFound.into()),
    }
}
