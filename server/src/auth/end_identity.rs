//! `POST /as/account/end` (AS-8): ends the identity of a user who lost all clients, so that no client of it, stolen or
//! lost, changes anything between this and the beginning of the next. The answer is what the next one is chained to.

use http::StatusCode;
use postern_protocol::{
    account::{EndIdentity, IdentityEnded},
    problem::{Problem, ProblemType},
    second_proof::Operation,
    signature::{MAX_AGE, MAX_CLOCK_SKEW},
};

use super::{As, identity, lost_account::LostAccount};
use crate::{
    clock::now,
    database::{SqlOutcome, outcome},
    http::{Failure, Outcome, Period, RateLimit, Request},
};

outcome! {
    pub EndIdentityOutcome: "auth.end_identity_outcome" {
        Ended = "ended",
        WrongProof = "wrong_proof",
        ClientKnown = "client_known",
        TooManyResets = "too_many_resets",
    }
}

pub async fn end_identity(auth: As, request: Request) -> Outcome {
    let body: EndIdentity = request.body()?;
    auth.home.expect_local(body.name.domain())?;
    let account = LostAccount::find(&auth, &request, &body.name).await?;
    let signer = request.signer()?;
    let operation = Operation::EndIdentity { client: signer, time: body.time };
    let proof = account.prove(&auth, &body.proof, &operation, signer).await?;
    let (oldest, newest) = (now() - MAX_AGE.as_secs(), now() + MAX_CLOCK_SKEW.as_secs());
    if !(oldest..=newest).contains(&body.time) {
        return Err(Problem::with_detail(ProblemType::WrongProof, "it is too old, or from the future").into());
    }
    let row = auth
        .home
        .database
        .query_one(
            "SELECT outcome, incarnation, transcript, allowance, resets_in
             FROM auth.end_identity($1, ROW($2, $3, $4, $5)::auth.verified_proof, $6)",
            &[
                &body.name.local(),
                &proof.recovery_key,
                &proof.login,
                &proof.id_token,
                &proof.id_token_hour,
                &signer.as_bytes().as_slice(),
            ],
        )
        .await?;
    match EndIdentityOutcome::of(&row)? {
        EndIdentityOutcome::Ended => {
            let incarnation = u32::try_from(row.get::<_, i32>("incarnation")).map_err(Failure::fault)?;
            let transcript = identity::transcript(&row, "transcript")?;
            request.answer(StatusCode::OK, &IdentityEnded { incarnation, transcript })
        }
        EndIdentityOutcome::WrongProof => Err(ProblemType::WrongProof.into()),
        EndIdentityOutcome::ClientKnown => Err(ProblemType::NotAllowed.into()),
        EndIdentityOutcome::TooManyResets => {
            let (allowance, resets_in) = (row.get("allowance"), row.get("resets_in"));
            let limit = RateLimit { period: Period::Month, allowance, remaining: 0, resets_in };
            Err(Failure::Limited(ProblemType::TooManyChanges.into(), limit))
        }
    }
}
