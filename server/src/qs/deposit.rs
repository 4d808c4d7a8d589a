//! `POST /qs/deposits` (QS-2): puts a first message into a contact queue. Anyone with a token may;
//! only the payload tells its reader who sent it.

use http::StatusCode;
use postern_protocol::{
    encoding::Encoding,
    problem::{Problem, ProblemType},
    push::Urgency,
    qs::{Deposit, QueuePayload},
};

use super::{Qs, delivery_figures::Origin};
use crate::{
    database::outcome,
    http::{Answer, Outcome, Payment, Request},
};

outcome! {
    pub DepositOutcome: "qs.deposit_outcome", paid {
        Deposited = "deposited",
        TooLarge = "too_large",
        Undeliverable = "undeliverable",
    }
}

pub async fn deposit(qs: Qs, request: Request, payment: Payment) -> Outcome {
    let body = request.body::<Deposit>()?;
    let bytes = i32::try_from(body.payload.as_bytes().len()).unwrap_or(i32::MAX);
    let address = body.address.as_bytes().as_slice();
    let payload = Encoding::Cbor.encode(&QueuePayload::Deposit(body.payload));
    let (outcome, row) = payment
        .call(
            &qs.home.database,
            "SELECT outcome, pushes, max_deposit_bytes FROM qs.deposit($1, $2, $3, $4, $5, $6)",
            &[&address, &payload, &(Urgency::Normal as i16), &bytes],
        )
        .await?;
    match outcome {
        DepositOutcome::Deposited => {
            qs.pusher.send_due(&row);
            qs.deliveries.count(Origin::Deposit, 1, 0);
            Ok(Answer::empty(StatusCode::ACCEPTED))
        }
        DepositOutcome::TooLarge => {
            let limit: i32 = row.get("max_deposit_bytes");
            let detail = format_args!("a deposit can have at most {limit} bytes");
            Err(Problem::with_detail(ProblemType::BodyTooLarge, detail).into())
        }
        DepositOutcome::Undeliverable => {
            qs.deliveries.count(Origin::Deposit, 0, 1);
            Err(ProblemType::Undeliverable.into())
        }
    }
}
