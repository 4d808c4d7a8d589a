//! `DELETE /rendezvous/{number}` (AS-7): ends a rendezvous. Nothing of it is left (PRIV-3).

use http::StatusCode;
use postern_protocol::{problem::ProblemType, signature::Verified};

use super::{Rendezvous, column, number};
use crate::{
    database::{SqlOutcome, outcome},
    http::{Answer, Outcome, Request},
};

outcome! {
    pub EndRendezvousOutcome: "rendezvous.end_rendezvous_outcome" {
        Ended = "ended",
        SignatureUsed = "signature_used",
        Unknown = "unknown",
    }
}

pub async fn end_rendezvous(rendezvous: Rendezvous, request: Request) -> Outcome {
    let number = number(&request)?;
    let Verified { key, digest } = request.verify()?;
    let row = rendezvous
        .home
        .database
        .query_one(
            "SELECT outcome FROM rendezvous.end_rendezvous($1, $2, $3, $4)",
            &[&column(number), &key.as_bytes().as_slice(), &digest.as_slice(), &rendezvous.wake(number)],
        )
        .await?;
    match EndRendezvousOutcome::of(&row)? {
        EndRendezvousOutcome::Ended => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        EndRendezvousOutcome::SignatureUsed => Err(ProblemType::SignatureUsed.into()),
        EndRendezvousOutcome::Unknown => Err(ProblemType::NotFound.into()),
    }
}
