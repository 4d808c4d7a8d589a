//! `GET /qs/keys`: the keys that batches of KeyPackages are signed with (QS-6), and the one that
//! push subscriptions are made for (QS-10).

use http::StatusCode;
use postern_protocol::qs::QueuingKeys;

use super::push::Pusher;
use crate::{
    app::App,
    road::{Outcome, Request},
};

pub async fn published_keys(app: App, request: Request) -> Outcome {
    let keys = QueuingKeys {
        domain: app.domain.clone(),
        keys: app.batch_signer.published().to_vec(),
        application_server_key: app.pusher.as_ref().map(Pusher::public_key),
    };
    Ok(request.answer(StatusCode::OK, &keys)?.public())
}
