//! `POST /qs/key-packages/remove` (QS-6): a client that goes takes its KeyPackages with it.

use http::StatusCode;
use postern_protocol::{problem::ProblemType, qs::RemoveKeyPackages};

use crate::{
    app::App,
    road::{Answer, Failure, Outcome, Payment, Request},
};

pub async fn remove_key_packages(app: App, request: Request, payment: Payment) -> Outcome {
    let (signer, body) = request.signed_body::<RemoveKeyPackages>()?;
    let row = payment
        .call(
            &app.database,
            "SELECT outcome FROM qs.remove_key_packages($1, $2, $3, $4, $5)",
            &[
                &body.friendship_token.lookup().as_slice(),
                &signer.as_bytes().as_slice(),
                &body.stock_id.as_bytes().as_slice(),
            ],
        )
        .await?;
    match row.get("outcome") {
        "removed" => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        "unknown_friendship" => Err(ProblemType::NotFound.into()),
        other => Err(Failure::unexpected(other)),
    }
}
