//! `GET /as/keys` (AS-2): answers with the keys that sign client credentials.

use http::StatusCode;
use postern_protocol::auth::AuthenticationKeys;

use super::As;
use crate::http::{Outcome, Request};

pub async fn published_keys(auth: As, request: Request) -> Outcome {
    let keys = AuthenticationKeys { domain: auth.home.domain.clone(), keys: auth.signer.published() };
    Ok(request.answer(StatusCode::OK, &keys)?.public())
}
