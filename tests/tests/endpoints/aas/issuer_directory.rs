//! `GET /.well-known/private-token-issuer-directory` (AAS-3)

use postern_protocol::{
    aas::IssuerDirectory,
    token::{DIRECTORY_MEDIA_TYPE, DIRECTORY_PATH, TOKEN_TYPES},
};
use postern_tests_kit::{Call, World};
use reqwest::StatusCode;

use crate::every_route::Valid;

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
    let types: Vec<u16> = directory.token_keys.iter().map(|key| key.token_type).collect();
    assert_eq!(types, TOKEN_TYPES.map(|kind| kind as u16));
    assert_eq!(directory.token_keys[0].token_key.len(), 44);
    world.close();
}
