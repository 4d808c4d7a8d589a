//! `PUT /qs/queues/{queue_id}/push-subscription` (QS-10): sets the subscription that the queue's pushes go to. The
//! owner sealed it, and the server cannot open it before the first message that is to be pushed.

use http::StatusCode;
use postern_protocol::{QueueId, problem::ProblemType, qs::SubscribePush};

use super::Qs;
use crate::{
    database::outcome,
    http::{Answer, Outcome, Payment, Request},
};

outcome! {
    pub SubscribePushOutcome: "qs.subscribe_push_outcome", paid {
        Subscribed = "subscribed",
        UnknownQueue = "unknown_queue",
    }
}

pub async fn subscribe_push(qs: Qs, request: Request, payment: Payment) -> Outcome {
    let queue_id = request.segment(|segment| QueueId::from_base64url(segment).ok())?;
    let (signer, body) = request.signed_body::<SubscribePush>()?;
    if !qs.pusher.is_on() && body.subscription.is_some() {
        return Err(ProblemType::NoPush.into());
    }
    let (outcome, _) = payment
        .call(
            &qs.home.database,
            "SELECT outcome FROM qs.subscribe_push($1, $2, $3, $4, $5)",
            &[
                &queue_id.as_bytes().as_slice(),
                &signer.as_bytes().as_slice(),
                &body.subscription.as_ref().map(|sealed| sealed.as_bytes().as_slice()),
            ],
        )
        .await?;
    match outcome {
        SubscribePushOutcome::Subscribed => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        SubscribePushOutcome::UnknownQueue => Err(ProblemType::NotFound.into()),
    }
}
