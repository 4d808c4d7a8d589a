//! `POST /as/users` (AS-1): registers a user name with its first client. It is open, since tokens
//! are for registered clients, and is the only open endpoint with which anybody can change
//! something.

use http::StatusCode;
use postern_protocol::{
    auth::{CredentialIssued, RegisterUser},
    mls::CIPHERSUITE,
    problem::ProblemType,
};

use super::{As, identity};
use crate::{
    database::{SqlOutcome, outcome},
    http::{Outcome, Request},
    mls::{InvalidMls, TrackedGroup},
};

outcome! {
    pub RegisterUserOutcome: "auth.register_user_outcome" {
        Registered = "registered",
        NameTaken = "name_taken",
        ClientKnown = "client_known",
    }
}

pub async fn register_user(auth: As, request: Request) -> Outcome {
    let (signer, body) = request.signed_body::<RegisterUser>()?;
    auth.home.expect_local(body.name.domain())?;
    // The signature over the request proves possession of the client's key.
    let eid = TrackedGroup::create(&body.group_info, &body.ratchet_tree)?;
    if eid.ciphersuite() != CIPHERSUITE {
        return Err(InvalidMls::Refused("an identity must have ciphersuite 0x0001").into());
    }
    if identity::client_keys(&eid, &body.name)? != [signer] {
        return Err(ProblemType::NotAllowed.into());
    }
    let credential = auth.signer.issue(body.name.clone(), signer);
    let row = auth
        .home
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
    match RegisterUserOutcome::of(&row)? {
        RegisterUserOutcome::Registered => {
            request.answer(StatusCode::CREATED, &CredentialIssued { credential })
        }
        RegisterUserOutcome::NameTaken => Err(ProblemType::NameTaken.into()),
        RegisterUserOutcome::ClientKnown => Err(ProblemType::NotAllowed.into()),
    }
}
