//! `DELETE /as/account` (AS-9): erases an account with all that the AS and the AAS have of it.

use http::StatusCode;
use postern_protocol::{account::DeleteAccount, problem::ProblemType, second_proof::Operation};

use super::{As, owner::Owner};
use crate::{
    database::outcome,
    http::{Answer, Outcome, Payment, Request},
};

outcome! {
    pub DeleteAccountOutcome: "auth.delete_account_outcome", paid {
        Deleted = "deleted",
        UnknownClient = "unknown_client",
        WrongProof = "wrong_proof",
    }
}

pub async fn delete_account(auth: As, request: Request, payment: Payment) -> Outcome {
    let (signer, body) = request.signed_body::<DeleteAccount>()?;
    let owner = Owner::of_client(&auth, signer).await?;
    owner.prove(&auth, &body.proof, &Operation::DeleteAccount { client: signer }).await?;
    let (outcome, _) = payment
        .call(
            &auth.home.database,
            "SELECT outcome FROM auth.delete_account($1, $2, $3, $4)",
            &[&signer.as_bytes().as_slice(), &owner.verifier()],
        )
        .await?;
    match outcome {
        DeleteAccountOutcome::Deleted => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        DeleteAccountOutcome::UnknownClient => Err(ProblemType::NotAllowed.into()),
        DeleteAccountOutcome::WrongProof => Err(ProblemType::WrongProof.into()),
    }
}
