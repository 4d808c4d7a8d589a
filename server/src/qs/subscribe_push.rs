//! `PUT /qs/queues/{queue_id}/push-subscription` (QS-10): where the queue's pushes go. What
//! the owner sealed, nobody reads before the first message that is to be pushed.

use http::StatusCode;
use postern_protocol::{QueueId, problem::ProblemType, qs::SubscribePush};

use crate::{
    app::App,
    road::{Answer, Failure, Outcome, Payment, Request},
};

pub async fn subscribe_push(app: App, request: Request, payment: Payment) -> Outcome {
    let queue_id = request.segment(|segment| QueueId::from_base64url(segment).ok())?;
    let (signer, body) = request.signed_body::<SubscribePush>()?;
    if app.pusher.is_none() && body.subscription.is_some() {
        return Err(ProblemType::NoPush.into());
    }
    let row = payment
        .call(
            &app.database,
            "SELECT outcome FROM qs.subscribe_push($1, $2, $3, $4, $5)",
            &[
                &queue_id.as_bytes().as_slice(),
                &signer.as_bytes().as_slice(),
                &body.subscription.as_ref().map(|sealed| sealed.as_bytes().as_slice()),
            ],
        )
        .await?;
    match row.get("outcome") {
        "subscribed" => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        "unknown_queue" => Err(ProblemType::NotFound.into()),
        other => Err(Failure::unexpected(other)),
    }
}
