//! `POST /as/invites` (AS-1): a user invites somebody, as often as the operator allows. The server gets the code's digest
//! only, and the code once somebody registers by it.

use http::StatusCode;
use postern_protocol::{
    admission::{InviteMade, MakeInvite},
    problem::ProblemType,
};

use super::As;
use crate::{
    clock::DAY,
    database::outcome,
    http::{Failure, Outcome, Payment, Request},
};

outcome! {
    pub MakeInviteOutcome: "auth.make_invite_outcome", paid {
        Made = "made",
        UnknownClient = "unknown_client",
        Suspended = "suspended",
        TooManyInvites = "too_many_invites",
    }
}

pub async fn make_invite(auth: As, request: Request, payment: Payment) -> Outcome {
    let (signer, body) = request.signed_body::<MakeInvite>()?;
    let (outcome, row) = payment
        .call(
            &auth.home.database,
            "SELECT outcome, last_day FROM auth.make_invite($1, $2, $3, $4)",
            &[&signer.as_bytes().as_slice(), &body.digest.as_bytes().as_slice()],
        )
        .await?;
    match outcome {
        MakeInviteOutcome::Made => {
            let last_day = u64::try_from(row.get::<_, i32>("last_day")).map_err(Failure::fault)?;
            request.answer(StatusCode::CREATED, &InviteMade { not_after: (last_day + 1) * DAY - 1 })
        }
        MakeInviteOutcome::UnknownClient => Err(ProblemType::NotAllowed.into()),
        MakeInviteOutcome::Suspended => Err(ProblemType::AccountSuspended.into()),
        MakeInviteOutcome::TooManyInvites => Err(ProblemType::TooManyInvites.into()),
    }
}
