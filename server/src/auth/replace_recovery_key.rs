//! `PUT /as/account/recovery-key` (AS-8): gives an account another recovery key, by the word of the old one or a login.

use http::StatusCode;
use postern_protocol::{account::ReplaceRecoveryKey, problem::ProblemType, second_proof::Operation};

use super::{As, owner::Owner};
use crate::{
    database::outcome,
    http::{Answer, Outcome, Payment, Request},
};

outcome! {
    pub ReplaceRecoveryKeyOutcome: "auth.replace_recovery_key_outcome", paid {
        Replaced = "replaced",
        UnknownClient = "unknown_client",
        WrongProof = "wrong_proof",
    }
}

pub async fn replace_recovery_key(auth: As, request: Request, payment: Payment) -> Outcome {
    let (signer, body) = request.signed_body::<ReplaceRecoveryKey>()?;
    let owner = Owner::of_client(&auth, signer).await?;
    let operation = Operation::ReplaceRecoveryKey { recovery_key: body.recovery_key };
    let proof = owner.prove(&auth, &body.proof, &operation, signer).await?;
    let (outcome, _) = payment
        .call(
            &auth.home.database,
            "SELECT outcome
             FROM auth.replace_recovery_key($1, $2, $3, ROW($4, $5, $6, $7)::auth.verified_proof, $8)",
            &[
                &signer.as_bytes().as_slice(),
                &proof.recovery_key,
                &proof.login,
                &proof.id_token,
                &proof.id_token_hour,
                &body.recovery_key.as_bytes().as_slice(),
            ],
        )
        .await?;
    match outcome {
        ReplaceRecoveryKeyOutcome::Replaced => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        ReplaceRecoveryKeyOutcome::UnknownClient => Err(ProblemType::NotAllowed.into()),
        ReplaceRecoveryKeyOutcome::WrongProof => Err(ProblemType::WrongProof.into()),
    }
}
