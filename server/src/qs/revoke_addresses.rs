//! `POST /qs/queues/{queue_id}/addresses/revoke` (QS-7): revokes addresses, and so blocks the
//! groups that use them, one each.

use http::StatusCode;
use postern_protocol::{
    QueueId,
    problem::{Problem, ProblemType},
    qs::RevokeAddresses,
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
    pub RevokeAddressesOutcome: "qs.revoke_addresses_outcome", paid {
        Revoked = "revoked",
        UnknownQueue = "unknown_queue",
        UnknownAddress = "unknown_address",
    }
}

pub async fn revoke_addresses(qs: Qs, request: Request, payment: Payment) -> Outcome {
    let queue_id = request.segment(|segment| QueueId::from_base64url(segment).ok())?;
    let (signer, body) = request.signed_body::<RevokeAddresses>()?;
    check_number(body.addresses.len(), MAX_NAMED)?;
    let (outcome, _) = payment
        .call(
            &qs.home.database,
            "SELECT outcome FROM qs.revoke_addresses($1, $2, $3, $4, $5)",
            &[
                &queue_id.as_bytes().as_slice(),
                &signer.as_bytes().as_slice(),
                &address_bytes(&body.addresses),
            ],
        )
        .await?;
    match outcome {
        RevokeAddressesOutcome::Revoked => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        RevokeAddressesOutcome::UnknownQueue => Err(ProblemType::NotFound.into()),
        RevokeAddressesOutcome::UnknownAddress => {
            let detail =
                "an address does not belong to this queue or was revoked before: no address was revoked";
            Err(Problem::with_detail(ProblemType::NotFound, detail).into())
        }
    }
}
