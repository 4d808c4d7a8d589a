//! `GET /as/keys` (AS-2)

use postern_protocol::auth::AuthenticationKeys;
use reqwest::StatusCode;

use crate::{
    road::Valid,
    world::{Call, World, home},
};

pub fn valid() -> Valid {
    Valid::new(Call::get("/as/keys"), StatusCode::OK)
}

#[tokio::test]
async fn the_keys_that_sign_credentials_are_published_with_their_validity_and_may_be_cached() {
    let world = World::start().await;
    let reply = world.send(&valid().call.wire()).await;
    assert!(reply.headers["cache-control"].to_str().unwrap().starts_with("public, max-age="));
    let published: AuthenticationKeys = reply.decode();
    assert_eq!(published.domain, home());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(published.keys.iter().any(|key| key.not_before <= now && now <= key.not_after));
    let seeds: Vec<Vec<u8>> = world.value("SELECT array_agg(sealed_seed) FROM auth.signing_keys").await;
    for key in published.keys {
        let public_key = key.public_key;
        assert!(
            seeds
                .iter()
                .all(|seed| seed.len() > 32 && !seed.windows(32).any(|part| part == public_key.as_bytes()))
        );
    }
    world.close();
}
