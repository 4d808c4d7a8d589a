//! `POST /qs/key-packages/remove` (QS-6): removes the KeyPackages of a client that goes, or of all
//! clients of a user that takes another friendship.

use http::StatusCode;
use postern_protocol::{problem::ProblemType, qs::RemoveKeyPackages};

use super::Qs;
use crate::{
    database::outcome,
    http::{Answer, Outcome, Payment, Request},
};

outcome! {
    pub RemoveKeyPackagesOutcome: "qs.remove_key_packages_outcome", paid {
        Removed = "removed",
        UnknownFriendship = "unknown_friendship",
    }
}

pub async fn remove_key_packages(qs: Qs, request: Request, payment: Payment) -> Outcome {
    let (signer, body) = request.signed_body::<RemoveKeyPackages>()?;
    let (outcome, _) = payment
        .call(
            &qs.home.database,
            "SELECT outcome FROM qs.remove_key_packages($1, $2, $3, $4, $5)",
            &[
                &body.friendship_token.lookup().as_slice(),
                &signer.as_bytes().as_slice(),
                &body.stock_id.as_ref().map(|stock_id| stock_id.as_bytes().as_slice()),
            ],
        )
        .await?;
    match outcome {
        RemoveKeyPackagesOutcome::Removed => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        RemoveKeyPackagesOutcome::UnknownFriendship => Err(ProblemType::NotFound.into()),
    }
}
