//! `GET /qs/keys`: answers with the keys that sign batches of KeyPackages (QS-6), and the key that
//! push subscriptions are made for (QS-10).

use http::StatusCode;
use postern_protocol::qs::QueuingKeys;

use super::Qs;
use crate::http::{Outcome, Request};

pub async fn published_keys(qs: Qs, request: Request) -> Outcome {
    let keys = QueuingKeys {
        domain: qs.home.domain.clone(),
        keys: qs.batch_signer.published(),
        application_server_key: qs.pusher.public_key(),
    };
    Ok(request.answer(StatusCode::OK, &keys)?.public())
}
