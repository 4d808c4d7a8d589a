//! `POST /as/users` (AS-1): a name and its first client. The one endpoint of the services
//! that asks no token, since tokens are for registered clients.

use http::StatusCode;
use postern_protocol::{
    auth::{CredentialIssued, RegisterUser},
    mls::CIPHERSUITE,
    problem::ProblemType,
};

use super::identity;
use crate::{
    app::App,
    mls::{InvalidMls, TrackedGroup},
    road::{Failure, Outcome, Request},
};

pub async fn register_user(app: App, request: Request) -> Outcome {
    let (signer, body) = request.signed_body::<RegisterUser>()?;
    if *body.name.domain() != app.domain {
        return Err(ProblemType::ForeignDomain.into());
    }
    // The signature over the request proves possession of the client's key.
    let eid = TrackedGroup::create(&body.group_info, &body.ratchet_tree).map_err(identity::invalid)?;
    if eid.ciphersuite() != CIPHERSUITE {
        return Err(identity::invalid(InvalidMls::Refused("an identity's ciphersuite is 0x0001")).into());
    }
    if identity::client_keys(&eid, &body.name)? != [signer] {
        return Err(ProblemType::NotAllowed.into());
    }
    let credential = app.signer.issue(body.name.clone(), signer);
    let row = app
        .database
        .query_one(
            "SELECT outcome FROM auth.register_user($1, $2, $3, $4, $5, $6)",
            &[
                &body.name.local(),
                &signer.as_bytes().as_slice(),
                &body.group_info.as_bytes(),
                &body.ratchet_tree.as_bytes(),
                &eid.encode(),
                &credential.as_bytes(),
            ],
        )
        .await?;
    match row.get("outcome") {
        "registered" => request.answer(StatusCode::CREATED, &CredentialIssued { credential }),
        "name_taken" => Err(ProblemType::NameTaken.into()),
        "client_known" => Err(ProblemType::NotAllowed.into()),
        other => Err(Failure::unexpected(other)),
    }
}
