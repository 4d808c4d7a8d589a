//! `POST /qs/queues/{queue_id}/addresses/push` (QS-10): what is pushed of what comes to an
//! address, and so from a group.

use http::StatusCode;
use postern_protocol::{
    QueueId,
    problem::{Problem, ProblemType},
    qs::SetPushPolicy,
};

use super::add_addresses::{address_bytes, check_number};
use crate::{
    app::App,
    road::{Answer, Failure, Outcome, Payment, Request},
};

pub async fn set_push_policy(app: App, request: Request, payment: Payment) -> Outcome {
    let queue_id = request.segment(|segment| QueueId::from_base64url(segment).ok())?;
    let (signer, body) = request.signed_body::<SetPushPolicy>()?;
    check_number(body.addresses.len())?;
    let (addresses, pushes): (Vec<_>, Vec<_>) =
        body.addresses.iter().map(|policy| (policy.address, policy.push)).unzip();
    let pushes: Vec<Option<&[u8]>> =
        pushes.iter().map(|push| push.as_ref().map(|sealed| sealed.as_bytes().as_slice())).collect();
    let row = payment
        .call(
            &app.database,
            "SELECT outcome FROM qs.set_push_policy($1, $2, $3, $4, $5, $6)",
            &[
                &queue_id.as_bytes().as_slice(),
                &signer.as_bytes().as_slice(),
                &address_bytes(&addresses),
                &pushes,
            ],
        )
        .await?;
    match row.get("outcome") {
        "set" => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        "unknown_queue" => Err(ProblemType::NotFound.into()),
        "unknown_address" => {
            let detail = "an address is not this queue's: nothing was changed";
            Err(Problem::with_detail(ProblemType::NotFound, detail).into())
        }
        other => Err(Failure::unexpected(other)),
    }
}
