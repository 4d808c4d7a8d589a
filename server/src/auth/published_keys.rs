//! `GET /as/keys` (AS-2): answers with the keys that sign client credentials, those that are revoked, and the root.

use http::StatusCode;

use super::As;
use crate::http::{Outcome, Request};

pub async fn published_keys(auth: As, request: Request) -> Outcome {
    Ok(request.answer(StatusCode::OK, &auth.signer.published())?.public())
}
