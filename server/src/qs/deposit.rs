//! `POST /qs/deposits` (QS-2): first contact. Anyone with a token may put a payload into a
//! contact queue; who it is from, the payload says to its reader.

use http::StatusCode;
use postern_protocol::{
    encoding::Encoding,
    problem::{Problem, ProblemType},
    push::Urgency,
    qs::{Deposit, QueuePayload},
};

use crate::{
    app::App,
    road::{Answer, Failure, Outcome, Payment, Request},
};

/// Strangers may send this many bytes: a handful of KeyPackages fits, a picture does not.
const MAX_PAYLOAD: usize = 16 * 1024;

pub async fn deposit(app: App, request: Request, payment: Payment) -> Outcome {
    let body = request.body::<Deposit>()?;
    if body.payload.as_bytes().len() > MAX_PAYLOAD {
        let detail = format_args!("a deposit has at most {MAX_PAYLOAD} bytes");
        return Err(Problem::with_detail(ProblemType::BodyTooLarge, detail).into());
    }
    let address = body.address.as_bytes().as_slice();
    let payload = Encoding::Cbor.encode(&QueuePayload::Deposit(body.payload));
    let row = payment
        .call(
            &app.database,
            "SELECT outcome, pushes FROM qs.deposit($1, $2, $3, $4, $5)",
            &[&address, &payload, &(Urgency::Normal as i16)],
        )
        .await?;
    match row.get("outcome") {
        "deposited" => {
            app.push(&row);
            Ok(Answer::empty(StatusCode::ACCEPTED))
        }
        "undeliverable" => Err(ProblemType::Undeliverable.into()),
        other => Err(Failure::unexpected(other)),
    }
}
