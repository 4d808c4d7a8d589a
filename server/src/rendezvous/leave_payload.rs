//! `POST /rendezvous/{number}/payloads` (AS-7): leaves a payload for the other side.

use http::StatusCode;
use postern_protocol::{
    problem::{Problem, ProblemType},
    rendezvous::LeavePayload,
    signature::Verified,
};

use super::{Rendezvous, column, number};
use crate::{
    database::{SqlOutcome, outcome},
    http::{Answer, Outcome, Request},
};

outcome! {
    pub LeavePayloadOutcome: "rendezvous.leave_payload_outcome" {
        Left = "left",
        SignatureUsed = "signature_used",
        Unknown = "unknown",
        TooLarge = "too_large",
        Closed = "closed",
    }
}

pub async fn leave_payload(rendezvous: Rendezvous, request: Request) -> Outcome {
    let number = number(&request)?;
    let Verified { key, digest } = request.verify()?;
    let LeavePayload { place, payload } = request.body()?;
    let row = rendezvous
        .home
        .database
        .query_one(
            "SELECT outcome, max_bytes FROM rendezvous.leave_payload($1, $2, $3, $4, $5, $6)",
            &[
                &column(number),
                &key.as_bytes().as_slice(),
                &i32::from(place),
                &payload.as_bytes(),
                &digest.as_slice(),
                &rendezvous.wake(number),
            ],
        )
        .await?;
    match LeavePayloadOutcome::of(&row)? {
        LeavePayloadOutcome::Left => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        LeavePayloadOutcome::SignatureUsed => Err(ProblemType::SignatureUsed.into()),
        LeavePayloadOutcome::Unknown => Err(ProblemType::NotFound.into()),
        LeavePayloadOutcome::TooLarge => {
            let max_bytes: i32 = row.get("max_bytes");
            let detail = format_args!("a payload can have at most {max_bytes} bytes");
            Err(Problem::with_detail(ProblemType::BodyTooLarge, detail).into())
        }
        LeavePayloadOutcome::Closed => Err(ProblemType::RendezvousClosed.into()),
    }
}
