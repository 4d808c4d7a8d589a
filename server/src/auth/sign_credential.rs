//! `POST /as/credentials` (AS-2): signs a credential for a confirmed client in its user's EID (AS-4), such as one that was
//! just added or whose credential is about to expire.

use http::StatusCode;
use postern_protocol::{
    auth::{CredentialIssued, SignCredential},
    problem::ProblemType,
};

use super::{As, identity};
use crate::{
    database::outcome,
    http::{Outcome, Payment, Request},
};

outcome! {
    pub StoreCredentialOutcome: "auth.store_credential_outcome", paid {
        Stored = "stored",
        UnknownClient = "unknown_client",
        Suspended = "suspended",
    }
}

pub async fn sign_credential(auth: As, request: Request, payment: Payment) -> Outcome {
    let (signer, SignCredential {}) = request.signed_body()?;
    let key = signer.as_bytes().as_slice();
    let client = auth
        .home
        .database
        .query_opt("SELECT name, confirmed FROM auth.load_client($1)", &[&key])
        .await?
        .ok_or(ProblemType::NotAllowed)?;
    if !client.get::<_, bool>("confirmed") {
        let detail = "a client that was added gets a credential once it has committed an update of its own";
        return Err(identity::pending(detail).into());
    }
    let name = identity::user_name(&client, &auth.home.domain)?;
    let credential = auth.signer.issue(name, signer)?;
    let (outcome, _) = payment
        .call(
            &auth.home.database,
            "SELECT outcome FROM auth.store_credential($1, $2, $3, $4)",
            &[&key, &credential.as_bytes()],
        )
        .await?;
    match outcome {
        StoreCredentialOutcome::Stored => request.answer(StatusCode::OK, &CredentialIssued { credential }),
        StoreCredentialOutcome::UnknownClient => Err(ProblemType::NotAllowed.into()),
        StoreCredentialOutcome::Suspended => Err(ProblemType::AccountSuspended.into()),
    }
}
