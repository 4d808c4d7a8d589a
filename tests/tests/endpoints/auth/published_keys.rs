//! `GET /as/keys` (AS-2)

use postern_protocol::{PublicKey, auth::AuthenticationKeys, key::SigningKey};
use postern_tests_kit::{Call, World, home, now};
use reqwest::StatusCode;

use crate::every_route::Valid;

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
    let holds_seed_of = |kept: &[u8], public_key: PublicKey| {
        let of = |seed: &[u8]| SigningKey::from_seed(seed.try_into().expect("a window has 32 bytes"));
        kept.windows(32).any(|seed| of(seed).public_key() == public_key)
    };
    let leaked = SigningKey::generate();
    let leak = [&[7; 5], leaked.seed().as_slice(), &[7; 16]].concat();
    assert!(holds_seed_of(&leak, leaked.public_key()), "this is how a leak would look");
    assert!(kept.len() >= published.keys.len());
    for key in published.keys {
        assert!(kept.iter().all(|kept| kept.len() > 32 && !holds_seed_of(kept, key.public_key)));
    }
    world.close();
}
