//! `PUT /as/account/name` (AS-9): gives a user another name. The request is a commit to the EID, whose state the client
//! signs under the new name: so readers have a client's word for it, and not only the AS's. All clients get credentials
//! under the new name; their leaves keep the old one until they update them.

use http::StatusCode;
use postern_protocol::{
    IssuedCredential, PublicKey,
    account::RenameUser,
    auth::IdentityCommitted,
    problem::{Problem, ProblemType},
    second_proof::Operation,
};

use super::{
    As,
    commit_identity::{self, Purpose},
    identity::{Limits, Standing},
    owner::Owner,
};
use crate::{
    database::outcome,
    http::{Failure, Outcome, Payment, Period, RateLimit, Request},
};

outcome! {
    pub RenameUserOutcome: "auth.rename_user_outcome", paid {
        Renamed = "renamed",
        UnknownClient = "unknown_client",
        WrongProof = "wrong_proof",
        NameTaken = "name_taken",
        TooManyRenames = "too_many_renames",
        WrongEpoch = "wrong_epoch",
        TooManyCommits = "too_many_commits",
        TooLarge = "too_large",
        Suspended = "suspended",
    }
}

pub async fn rename_user(auth: As, mut request: Request, payment: Payment) -> Outcome {
    let (signer, body) = request.signed_body::<RenameUser>()?;
    auth.home.expect_local(body.name.domain())?;
    let owner = Owner::of_client(&auth, signer).await?;
    let operation = Operation::RenameUser { to: &body.name, eid: body.commit.state.eid };
    let proof = owner.prove(&auth, &body.proof, &operation, signer).await?;
    let key = signer.as_bytes().as_slice();
    let client = commit_identity::load(&auth, signer).await?;
    let limits = Limits::read(&client)?;
    let standing = Standing { user: body.name.clone(), ..Standing::read(&client, &auth.home.domain)? };
    if body.commit.commit.as_bytes().len() > limits.max_commit_bytes {
        return Err(limits.commit_too_large().into());
    }
    let eid: &[u8] = client.get("eid");
    let validate =
        || commit_identity::validate(&body.commit, Purpose::Rename, signer, &standing, eid, &limits);
    let next = request.while_waiting(payment.compute(&auth.home, validate)).await??;

    // The database keeps those of confirmed clients.
    let issue = |client: &PublicKey| auth.signer.issue(body.name.clone(), *client);
    let credentials: Vec<IssuedCredential> = next.after.iter().map(issue).collect::<Result<_, _>>()?;
    let (outcome, row) = payment
        .call(
            &auth.home.database,
            "SELECT outcome, current_epoch, allowance, resets_in
             FROM auth.rename_user($1, $2, $3, ROW($4, $5, $6, $7)::auth.verified_proof, $8, $9, $10, $11, $12, $13,
                                   $14, $15, $16, $17, $18)",
            &[
                &key,
                &proof.recovery_key,
                &proof.login,
                &proof.id_token,
                &proof.id_token_hour,
                &body.name.local(),
                &client.get::<_, i64>("epoch"),
                &body.commit.commit.as_bytes(),
                &body.commit.state.eid.transcript.as_bytes().as_slice(),
                &body.commit.group_info.as_bytes(),
                &next.ratchet_tree.as_bytes(),
                &next.eid,
                &next.tree_hash.as_bytes().as_slice(),
                &body.commit.state.signature.as_bytes(),
                &next.after.iter().map(|key| key.as_bytes().as_slice()).collect::<Vec<_>>(),
                &credentials.iter().map(IssuedCredential::as_bytes).collect::<Vec<_>>(),
            ],
        )
        .await?;
    match outcome {
        RenameUserOutcome::Renamed => {
            let epoch = row.get::<_, i64>("current_epoch") as u64;
            request.answer(StatusCode::OK, &IdentityCommitted { epoch })
        }
        RenameUserOutcome::UnknownClient => Err(ProblemType::NotAllowed.into()),
        RenameUserOutcome::WrongProof => Err(ProblemType::WrongProof.into()),
        RenameUserOutcome::Suspended => Err(ProblemType::AccountSuspended.into()),
        RenameUserOutcome::NameTaken => Err(ProblemType::NameTaken.into()),
        RenameUserOutcome::TooManyRenames => {
            let (allowance, resets_in) = (row.get("allowance"), row.get("resets_in"));
            let limit = RateLimit { period: Period::Month, allowance, remaining: 0, resets_in };
            Err(Failure::Limited(ProblemType::TooManyChanges.into(), limit))
        }
        RenameUserOutcome::WrongEpoch => {
            Err(Problem::wrong_epoch(row.get::<_, i64>("current_epoch") as u64).into())
        }
        RenameUserOutcome::TooManyCommits => Err(limits.too_many_commits().into()),
        RenameUserOutcome::TooLarge => Err(limits.commit_too_large().into()),
    }
}
