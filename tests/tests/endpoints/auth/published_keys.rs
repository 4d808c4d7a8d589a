//! `GET /as/keys` (AS-2)

use postern_protocol::{auth::AuthenticationKeys, key::SigningKey};
use postern_tests_kit::{Call, World, home, now};
use reqwest::StatusCode;

use crate::road::Valid;

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
    let now = now();
    assert!(published.keys.iter().any(|key| key.not_before <= now && now <= key.not_after));
    // The database keeps them sealed: no 32 bytes there are the seed of a published key.
    let kept: Vec<Vec<u8>> = world.value("SELECT array_agg(sealed_seed) FROM auth.signing_keys").await;
    let is_published = |seed: &[u8]| {
        let seed = <[u8; 32]>::try_from(seed).expect("a window has 32 bytes");
        published.keys.iter().any(|key| key.public_key == SigningKey::from_seed(seed).public_key())
    };
    assert!(kept.len() >= published.keys.len());
    assert!(kept.iter().all(|kept| kept.len() > 32 && !kept.windows(32).any(is_published)));
    world.close();
}
