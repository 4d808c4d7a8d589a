//! `POST /qs/queues/{queue_id}/addresses` (QS-3): addresses that the owner will give away,
//! one for each use. The database keeps hashes and sealed queue ids only.

use http::StatusCode;
use postern_protocol::{
    Address, QueueId,
    problem::{Problem, ProblemType},
    qs::AddAddresses,
};

use crate::{
    app::App,
    road::{Answer, Failure, Outcome, Payment, Request},
};

/// How many addresses one request may name.
const MAX_AT_ONCE: usize = 1000;

pub async fn add_addresses(app: App, request: Request, payment: Payment) -> Outcome {
    let queue_id = request.segment(|segment| QueueId::from_base64url(segment).ok())?;
    let (signer, body) = request.signed_body::<AddAddresses>()?;
    check_number(body.addresses.len() + body.last_resort.len())?;
    let row = payment
        .call(
            &app.database,
            "SELECT outcome FROM qs.add_addresses($1, $2, $3, $4, $5, $6)",
            &[
                &queue_id.as_bytes().as_slice(),
                &signer.as_bytes().as_slice(),
                &address_bytes(&body.addresses),
                &address_bytes(&body.last_resort),
            ],
        )
        .await?;
    match row.get("outcome") {
        "added" => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        "unknown_queue" => Err(ProblemType::NotFound.into()),
        "too_many_addresses" => Err(ProblemType::TooManyAddresses.into()),
        "address_exists" => Err(ProblemType::AddressExists.into()),
        other => Err(Failure::unexpected(other)),
    }
}

/// # Errors
/// `too-many-addresses` for more than one request may name.
pub fn check_number(addresses: usize) -> Result<(), Problem> {
    if addresses <= MAX_AT_ONCE {
        return Ok(());
    }
    let detail = format_args!("at most {MAX_AT_ONCE} in one request");
    Err(Problem::with_detail(ProblemType::TooManyAddresses, detail))
}

/// As the API functions take them.
pub fn address_bytes(addresses: &[Address]) -> Vec<&[u8]> {
    addresses.iter().map(|address| address.as_bytes().as_slice()).collect()
}
