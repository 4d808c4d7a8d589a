//! `GET /qs/keys` (QS-6): the keys that batches of KeyPackages are signed with.

use http::StatusCode;
use postern_protocol::qs::QueuingKeys;

use crate::{
    app::App,
    road::{Outcome, Request},
};

pub async fn published_keys(app: App, request: Request) -> Outcome {
    let keys = QueuingKeys {
        domain: app.domain.clone(),
        keys: app.batch_signer.published().to_vec(),
        application_server_key: None,
    };
    Ok(request.answer(StatusCode::OK, &keys)?.public())
}
