//! `POST /as/credentials` (AS-2): signs a credential for a client that is in its user's
//! EID, such as one just added, or one whose credential runs out.

use http::StatusCode;
use postern_protocol::{
    auth::{CredentialIssued, SignCredential},
    problem::ProblemType,
};

use super::identity;
use crate::{
    app::App,
    road::{Failure, Outcome, Payment, Request},
};

pub async fn sign_credential(app: App, request: Request, payment: Payment) -> Outcome {
    let (signer, SignCredential {}) = request.signed_body()?;
    let key = signer.as_bytes().as_slice();
    let client = app
        .database
        .query_opt("SELECT name FROM auth.load_client($1)", &[&key])
        .await?
        .ok_or(ProblemType::NotAllowed)?;
    let name = identity::user_name(&client, &app.domain)?;
    let credential = app.signer.issue(name, signer);
    let row = payment
        .call(
            &app.database,
            "SELECT outcome FROM auth.store_credential($1, $2, $3, $4)",
            &[&key, &credential.as_bytes()],
        )
        .await?;
    match row.get("outcome") {
        "stored" => request.answer(StatusCode::OK, &CredentialIssued { credential }),
        "unknown_client" => Err(ProblemType::NotAllowed.into()),
        other => Err(Failure::unexpected(other)),
    }
}
