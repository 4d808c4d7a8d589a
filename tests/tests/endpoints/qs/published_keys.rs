//! `GET /qs/keys` (QS-6)

use postern_protocol::{auth::AuthenticationKeys, qs::QueuingKeys};
use postern_tests_kit::{Call, World, home, now};
use reqwest::StatusCode;

use crate::every_route::Valid;

pub fn valid() -> Valid {
    Valid::new(Call::get("/qs/keys"), StatusCode::OK)
}

#[tokio::test]
async fn the_keys_that_sign_batches_are_published_and_are_not_those_of_the_as() {
    let world = World::start().await;
    let reply = world.send(&valid().call.wire()).await;
    assert!(reply.headers["cache-control"].to_str().unwrap().starts_with("public, max-age="));
    let published: QueuingKeys = reply.decode();
    assert_eq!(published.domain, home());
    let now = now();
    assert!(published.keys.iter().any(|key| key.is_valid_at(now)));
    let of_the_as: AuthenticationKeys = world.send(&Call::get("/as/keys").wire()).await.decode();
    assert!(published.keys.iter().all(|key| !of_the_as.keys.contains(key)));
    world.close();
}
