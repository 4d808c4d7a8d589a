//! `POST /as/account/reset` (AS-8): begins the next identity of a user who lost all clients, after `POST /as/account/end`.
//! The new EID is validated as that of a registration, and chained to the end of the one before.

use http::StatusCode;
use postern_protocol::{
    IssuedCredential, account::ResetAccount, auth::CredentialIssued, problem::ProblemType,
    second_proof::Operation,
};

use super::{
    As,
    identity::{Founded, NewIdentity},
    lost_account::LostAccount,
};
use crate::{
    database::{SqlOutcome, outcome},
    http::{Outcome, Request},
};

outcome! {
    pub ResetAccountOutcome: "auth.reset_account_outcome" {
        Reset = "reset",
        WrongProof = "wrong_proof",
        NotEnded = "not_ended",
        ClientKnown = "client_known",
        Suspended = "suspended",
    }
}

pub async fn reset_account(auth: As, request: Request) -> Outcome {
    let body: ResetAccount = request.body()?;
    auth.home.expect_local(body.name.domain())?;
    let account = LostAccount::find(&auth, &request, &body.name).await?;
    let signer = request.signer()?;
    let founding = NewIdentity {
        user: &body.name,
        group_info: &body.group_info,
        ratchet_tree: &body.ratchet_tree,
        state: &body.state,
        previous: account.ended,
    };
    let operation = Operation::ResetAccount { founding: founding.transcript() };
    let proof = account.prove(&auth, &body.proof, &operation, signer).await?;
    let Some((_, previous_end)) = account.ended else {
        return Err(ProblemType::NotAllowed.into());
    };
    let max_leaf_bytes = account.max_leaf_bytes;
    // A repeat was valid when it began the identity, whatever limit was lowered, and whatever lifetime ended since: the database
    // knows it.
    let (founded, refusal) = match auth.home.compute(|| founding.validate(signer, max_leaf_bytes)).await? {
        Ok(founded) => (Some(founded), None),
        Err(refusal) => (None, Some(refusal)),
    };
    let credential = auth.signer.issue(body.name.clone(), signer)?;
    let row = auth
        .home
        .database
        .query_one(
            "SELECT outcome, credential
             FROM auth.reset_account(
                 $1, ROW($2, $3, $4, $5)::auth.verified_proof, $6, $7, $8, $9, $10, $11, $12, $13)",
            &[
                &body.name.local(),
                &proof.recovery_key,
                &proof.login,
                &proof.id_token,
                &proof.id_token_hour,
                &signer.as_bytes().as_slice(),
                &previous_end.as_bytes().as_slice(),
                &body.group_info.as_bytes(),
                &body.ratchet_tree.as_bytes(),
                &founded.as_ref().map(Founded::eid),
                &founded.as_ref().map(Founded::tree_hash),
                &body.state.signature.as_bytes(),
                &credential.as_bytes(),
            ],
        )
        .await?;
    match (ResetAccountOutcome::of(&row)?, refusal) {
        (ResetAccountOutcome::Reset, _) => {
            let credential = IssuedCredential::new(row.get("credential"));
            request.answer(StatusCode::CREATED, &CredentialIssued { credential })
        }
        (_, Some(refusal)) => Err(refusal.into()),
        (ResetAccountOutcome::WrongProof, None) => Err(ProblemType::WrongProof.into()),
        (ResetAccountOutcome::Suspended, None) => Err(ProblemType::AccountSuspended.into()),
        (ResetAccountOutcome::NotEnded | ResetAccountOutcome::ClientKnown, None) => {
            Err(ProblemType::NotAllowed.into())
        }
    }
}
