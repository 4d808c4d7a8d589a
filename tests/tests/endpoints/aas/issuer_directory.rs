//! `GET /.well-known/private-token-issuer-directory` (AAS-3)

use postern_protocol::{
    aas::IssuerDirectory,
    token::{DIRECTORY_MEDIA_TYPE, DIRECTORY_PATH, TOKEN_TYPE},
};
use reqwest::StatusCode;

use crate::{
    road::Valid,
    world::{Call, World},
};

pub fn valid() -> Valid {
    Valid::new(Call::get(DIRECTORY_PATH), StatusCode::OK)
}

#[tokio::test]
async fn the_directory_is_where_and_what_the_standard_says() {
    let world = World::start().await;
    let reply = world.send(&valid().call.wire()).await;
    assert_eq!(reply.content_type(), DIRECTORY_MEDIA_TYPE);
    assert!(reply.headers["cache-control"].to_str().unwrap().starts_with("public, max-age="));
    let directory: IssuerDirectory = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(directory.issuer_request_uri, "/aas/token-request");
    assert!(directory.token_keys.iter().all(|key| key.token_type == TOKEN_TYPE && key.token_key.len() == 44));
    world.close();
}
