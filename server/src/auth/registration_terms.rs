//! `GET /as/registration` (AS-1): tells strangers what a registration needs.

use http::StatusCode;
use postern_protocol::admission::{RegistrationPolicy, RegistrationTerms};

use super::As;
use crate::http::{Failure, Outcome, Request};

pub async fn registration_terms(auth: As, request: Request) -> Outcome {
    let row = auth.home.database.query_one("SELECT auth.registration_terms()", &[]).await?;
    let terms = RegistrationTerms {
        policy: policy(row.get(0))?,
        identity_provider: auth.oidc.as_deref().map(super::Oidc::provider),
    };
    request.answer(StatusCode::OK, &terms)
}

/// A policy, as `auth.settings` has it.
///
/// # Errors
/// A fault: a policy that this program does not know.
pub fn policy(text: &str) -> Result<RegistrationPolicy, Failure> {
    match text {
        "open" => Ok(RegistrationPolicy::Open),
        "invite" => Ok(RegistrationPolicy::Invite),
        "oidc" => Ok(RegistrationPolicy::Oidc),
        _ => Err(Failure::fault(anyhow::anyhow!("the policy of registration is one of another version"))),
    }
}
