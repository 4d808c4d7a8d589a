//! `GET /.well-known/private-token-issuer-directory` (RFC 9578 §4).

use postern_protocol::{aas::IssuerDirectory, encoding::Encoding, token::DIRECTORY_MEDIA_TYPE};

use crate::{
    app::App,
    road::{Answer, Outcome, Request},
};

pub async fn issuer_directory(app: App, _: Request) -> Outcome {
    let directory = IssuerDirectory {
        issuer_request_uri: "/aas/token-request".to_owned(),
        token_keys: app.issuer.ring().directory(),
    };
    Ok(Answer::bytes(DIRECTORY_MEDIA_TYPE, Encoding::Json.encode(&directory)).public())
}
