//! `DELETE /as/account` (AS-9): erases an account with all that the AS and the AAS have of it, or verifies the proof only.

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
        Proven = "proven",
    }
}

pub async fn delete_account(auth: As, request: Request, payment: Payment) -> Outcome {
    let (signer, body) = request.signed_body::<DeleteAccount>()?;
    let owner = Owner::of_client(&auth, signer).await?;
    let operation = Operation::DeleteAccount { client: signer };
    let proof = owner.prove(&auth, &body.proof, &operation, signer).await?;
    let (outcome, _) = payment
        .call(
            &auth.home.database,
            "SELECT outcome
             FROM auth.delete_account($1, $2, $3, ROW($4, $5, $6, $7)::auth.verified_proof, $8)",
            &[
                &signer.as_bytes().as_slice(),
                &proof.recovery_key,
                &proof.login,
                &proof.id_token,
                &proof.id_token_hour,
                &body.rehearsal,
            ],
        )
        .await?;
    match outcome {
        DeleteAccountOutcome::Deleted | DeleteAccountOutcome::Proven => {
            Ok(Answer::empty(StatusCode::NO_CONTENT))
        }
        DeleteAccountOutcome::UnknownClient => Err(ProblemType::NotAllowed.into()),
        DeleteAccountOutcome::WrongProof => Err(ProblemType::WrongProof.into()),
    }
}
