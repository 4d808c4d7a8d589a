//! `POST /rendezvous` (AS-7): makes a rendezvous, owned by the key that signed the request.

use http::StatusCode;
use postern_protocol::{
    problem::ProblemType,
    rendezvous::{CreateRendezvous, RendezvousCreated, RendezvousNumber},
};

use super::Rendezvous;
use crate::{
    database::outcome,
    http::{Failure, Outcome, Payment, Request},
};

/// Random numbers of which the first free one is taken: with a thousandth of them in use, four that are not free are
/// seldom enough.
const CANDIDATES: usize = 4;

outcome! {
    pub CreateRendezvousOutcome: "rendezvous.create_rendezvous_outcome", paid {
        Created = "created",
        Full = "full",
    }
}

pub async fn create_rendezvous(rendezvous: Rendezvous, request: Request, payment: Payment) -> Outcome {
    let (owner, CreateRendezvous {}) = request.signed_body()?;
    let (outcome, row) = payment
        .call(
            &rendezvous.home.database,
            "SELECT outcome, number, minutes, max_payload_bytes
             FROM rendezvous.create_rendezvous($1, $2, $3, $4)",
            &[&owner.as_bytes().as_slice(), &candidates()?],
        )
        .await?;
    match outcome {
        CreateRendezvousOutcome::Created => {
            let column = |name| u32::try_from(row.get::<_, i32>(name)).map_err(Failure::fault);
            let created = RendezvousCreated {
                number: column("number")?.try_into().map_err(Failure::fault)?,
                minutes: column("minutes")?,
                max_payload_bytes: column("max_payload_bytes")?,
            };
            request.answer(StatusCode::CREATED, &created)
        }
        CreateRendezvousOutcome::Full => Err(ProblemType::TooManyRendezvous.into()),
    }
}

fn candidates() -> Result<Vec<i32>, Failure> {
    let mut random = [[0; 8]; CANDIDATES];
    aws_lc_rs::rand::fill(random.as_flattened_mut()).map_err(Failure::fault)?;
    let numbers = u64::from(RendezvousNumber::LAST - RendezvousNumber::FIRST + 1);
    // The remainder of 2^64 is even enough.
    let number = |random| u64::from(RendezvousNumber::FIRST) + u64::from_be_bytes(random) % numbers;
    random.into_iter().map(|random| i32::try_from(number(random)).map_err(Failure::fault)).collect()
}
