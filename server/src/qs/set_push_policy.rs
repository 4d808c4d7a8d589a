//! `POST /qs/queues/{queue_id}/addresses/push` (QS-10): sets which messages to an address, and so
//! from a group, are pushed.

use http::StatusCode;
use postern_protocol::{
    QueueId,
    problem::{Problem, ProblemType},
    qs::SetPushPolicy,
};

use super::{
    Qs,
    add_addresses::{MAX_NAMED, address_bytes, check_number},
};
use crate::{
    database::outcome,
    http::{Answer, Outcome, Payment, Request},
};

outcome! {
    pub SetPushPolicyOutcome: "qs.set_push_policy_outcome", paid {
        Set = "set",
        UnknownQueue = "unknown_queue",
        UnknownAddress = "unknown_address",
    }
}

pub async fn set_push_policy(qs: Qs, request: Request, payment: Payment) -> Outcome {
    let queue_id = request.segment(|segment| QueueId::from_base64url(segment).ok())?;
    let (signer, body) = request.signed_body::<SetPushPolicy>()?;
    check_number(body.addresses.len(), MAX_NAMED)?;
    let (addresses, pushes): (Vec<_>, Vec<_>) =
        body.addresses.iter().map(|policy| (policy.address, policy.push)).unzip();
    let pushes: Vec<Option<&[u8]>> =
        pushes.iter().map(|push| push.as_ref().map(|sealed| sealed.as_bytes().as_slice())).collect();
    let (outcome, _) = payment
        .call(
            &qs.home.database,
            "SELECT outcome FROM qs.set_push_policy($1, $2, $3, $4, $5, $6)",
            &[
                &queue_id.as_bytes().as_slice(),
                &signer.as_bytes().as_slice(),
                &address_bytes(&addresses),
                &pushes,
            ],
        )
        .await?;
    match outcome {
        SetPushPolicyOutcome::Set => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        SetPushPolicyOutcome::UnknownQueue => Err(ProblemType::NotFound.into()),
        SetPushPolicyOutcome::UnknownAddress => {
            let detail = "an address does not belong to this queue: nothing was changed";
            Err(Problem::with_detail(ProblemType::NotFound, detail).into())
        }
    }
}
