//! `POST /qs/queues/{queue_id}/addresses` (QS-3): adds addresses to a queue, which its owner will
//! give away, one for each use. The database keeps only their hashes and sealed queue ids.

use http::StatusCode;
use postern_protocol::{
    Address, QueueId,
    problem::{Problem, ProblemType},
    qs::AddAddresses,
};

use super::Qs;
use crate::{
    database::outcome,
    http::{Answer, Outcome, Payment, Request},
};

/// The most addresses that one request may add: in the database they are as large as a long message (AAS-8).
const MAX_ADDED: usize = 256;
/// The most addresses that other requests may name.
pub const MAX_NAMED: usize = 1000;

outcome! {
    pub AddAddressesOutcome: "qs.add_addresses_outcome", paid {
        Added = "added",
        UnknownQueue = "unknown_queue",
        TooManyAddresses = "too_many_addresses",
        AddressExists = "address_exists",
    }
}

pub async fn add_addresses(qs: Qs, request: Request, payment: Payment) -> Outcome {
    let queue_id = request.segment(|segment| QueueId::from_base64url(segment).ok())?;
    let (signer, body) = request.signed_body::<AddAddresses>()?;
    check_number(body.addresses.len() + body.last_resort.len(), MAX_ADDED)?;
    let (outcome, _) = payment
        .call(
            &qs.home.database,
            "SELECT outcome FROM qs.add_addresses($1, $2, $3, $4, $5, $6)",
            &[
                &queue_id.as_bytes().as_slice(),
                &signer.as_bytes().as_slice(),
                &address_bytes(&body.addresses),
                &address_bytes(&body.last_resort),
            ],
        )
        .await?;
    match outcome {
        AddAddressesOutcome::Added => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        AddAddressesOutcome::UnknownQueue => Err(ProblemType::NotFound.into()),
        AddAddressesOutcome::TooManyAddresses => Err(ProblemType::TooManyAddresses.into()),
        AddAddressesOutcome::AddressExists => Err(ProblemType::AddressExists.into()),
    }
}

/// Checks the number of addresses in a request.
///
/// # Errors
/// `too-many-addresses` if there are more than `most`.
pub fn check_number(addresses: usize, most: usize) -> Result<(), Problem> {
    if addresses <= most {
        return Ok(());
    }
    let detail = format_args!("a request can name at most {most} addresses");
    Err(Problem::with_detail(ProblemType::TooManyAddresses, detail))
}

/// Addresses in the form that the API functions take.
pub fn address_bytes(addresses: &[Address]) -> Vec<&[u8]> {
    addresses.iter().map(|address| address.as_bytes().as_slice()).collect()
}
