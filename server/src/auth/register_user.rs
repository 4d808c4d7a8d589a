//! `POST /as/users` (AS-1): registers a user name with its first client. It is open, since tokens are for registered
//! clients, and is the only open endpoint with which anybody can change something. So what is cheap comes first: size,
//! form, and one SQL call that counts the attempt; a signature or tree is looked at only when that lets it through.
//!
//! The answers tell a stranger about names only by the attempt to register one: `name-taken` comes last, to a request
//! that would otherwise have been accepted, and a key that is a client's already gets the same answer for every name.

use http::StatusCode;
use postern_protocol::{
    IssuedCredential,
    auth::{CredentialIssued, RegisterUser},
    problem::ProblemType,
};

use super::{
    As,
    identity::{Founded, NewIdentity},
};
use crate::{
    database::{SqlOutcome, outcome},
    http::{Failure, Outcome, Period, RateLimit, Request},
};

/// The purpose for which network addresses are digested.
const SOURCE: &str = "AS registration source";

outcome! {
    pub AdmitRegistrationOutcome: "auth.admit_registration_outcome" {
        Admitted = "admitted",
        SourceLimited = "source_limited",
        ServerLimited = "server_limited",
        NameReserved = "name_reserved",
    }
}

outcome! {
    pub RegisterUserOutcome: "auth.register_user_outcome" {
        Registered = "registered",
        NameTaken = "name_taken",
        ClientKnown = "client_known",
    }
}

pub async fn register_user(auth: As, request: Request) -> Outcome {
    request.expect_at_most(RegisterUser::MAX_BYTES)?;
    let body: RegisterUser = request.body()?;
    auth.home.expect_local(body.name.domain())?;
    let max_leaf_bytes = admit(&auth, &request, &body).await?;
    // The signature over the request proves possession of the client's key.
    let signer = request.signer()?;
    let founding = NewIdentity {
        user: &body.name,
        group_info: &body.group_info,
        ratchet_tree: &body.ratchet_tree,
        state: &body.state,
        previous: None,
    };
    let Founded { eid, tree_hash } =
        auth.home.compute(|| founding.validate(signer, max_leaf_bytes)).await??;
    let credential = auth.signer.issue(body.name.clone(), signer)?;
    let row = auth
        .home
        .database
        .query_one(
            "SELECT outcome, credential FROM auth.register_user($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            &[
                &body.name.local(),
                &signer.as_bytes().as_slice(),
                &body.group_info.as_bytes(),
                &body.ratchet_tree.as_bytes(),
                &eid,
                &tree_hash.as_bytes().as_slice(),
                &body.state.signature.as_bytes(),
                &credential.as_bytes(),
                &body.recovery_key.as_bytes().as_slice(),
            ],
        )
        .await?;
    match RegisterUserOutcome::of(&row)? {
        RegisterUserOutcome::Registered => {
            let credential = IssuedCredential::new(row.get("credential"));
            request.answer(StatusCode::CREATED, &CredentialIssued { credential })
        }
        RegisterUserOutcome::NameTaken => Err(ProblemType::NameTaken.into()),
        RegisterUserOutcome::ClientKnown => Err(ProblemType::NotAllowed.into()),
    }
}

/// Counts the attempt, and returns the limit of a leaf's bytes.
///
/// # Errors
/// `too-many-registrations`; `name-taken` for a reserved name.
async fn admit(auth: &As, request: &Request, body: &RegisterUser) -> Result<usize, Failure> {
    let source = auth.home.master_key.digest(SOURCE, request.source().address().to_string().as_bytes());
    let row = auth
        .home
        .database
        .query_one(
            "SELECT outcome, allowance, resets_in, max_leaf_bytes FROM auth.admit_registration($1, $2)",
            &[&source.as_slice(), &body.name.local()],
        )
        .await?;
    match AdmitRegistrationOutcome::of(&row)? {
        AdmitRegistrationOutcome::Admitted => {
            usize::try_from(row.get::<_, i32>("max_leaf_bytes")).map_err(Failure::fault)
        }
        AdmitRegistrationOutcome::SourceLimited | AdmitRegistrationOutcome::ServerLimited => {
            let (allowance, resets_in) = (row.get("allowance"), row.get("resets_in"));
            let limit = RateLimit { period: Period::Hour, allowance, remaining: 0, resets_in };
            Err(Failure::Limited(ProblemType::TooManyRegistrations.into(), limit))
        }
        AdmitRegistrationOutcome::NameReserved => Err(ProblemType::NameTaken.into()),
    }
}
