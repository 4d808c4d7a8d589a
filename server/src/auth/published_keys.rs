//! `GET /as/keys` (AS-2): the keys that client credentials are signed with.

use http::StatusCode;
use postern_protocol::auth::AuthenticationKeys;

use crate::{
    app::App,
    road::{Outcome, Request},
};

pub async fn published_keys(app: App, request: Request) -> Outcome {
    let keys = AuthenticationKeys { domain: app.domain.clone(), keys: app.signer.published().to_vec() };
    Ok(request.answer(StatusCode::OK, &keys)?.public())
}
