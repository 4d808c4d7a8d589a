//! `GET /.well-known/postern` (FED-1)

use postern_protocol::{
    aas::IssuerDirectory,
    federation::{Description, KnownKeys, VERSION},
    token::DIRECTORY_PATH,
};
use postern_tests_kit::{Call, World, home, now};
use reqwest::StatusCode;

use crate::every_route::Valid;

pub fn valid() -> Valid {
    Valid::new(Call::get("/.well-known/postern"), StatusCode::OK)
}

#[tokio::test]
async fn a_homeserver_describes_itself_with_signed_keys_a_gateway_key_and_its_issuer() {
    let world = World::builder().setting("POSTERN_BASE_URL", "https://chat.home.example/").start().await;
    let reply = world.send(&valid().call.wire()).await;
    assert!(reply.headers["cache-control"].to_str().unwrap().starts_with("public, max-age="));
    let description = Description::from_json(&reply.body).unwrap();
    let keys = description.verify(&home(), &KnownKeys::default(), now()).expect("it verifies");
    assert_eq!(keys.len(), 1);
    assert_eq!(description.versions, [VERSION]);
    assert_eq!(description.base_url, "https://chat.home.example");
    assert!(description.expires > now() && description.issued <= now());

    let directory = world.send(&Call::get(DIRECTORY_PATH).wire()).await;
    let directory: IssuerDirectory = serde_json::from_slice(&directory.body).unwrap();
    assert_eq!(description.issuer, directory);

    // One key configuration: length, number, X25519 with HKDF-SHA256, key, and two suites (RFC 9458 §3.1).
    let gateway = description.gateway_keys.as_bytes();
    assert_eq!(gateway.len(), 2 + 1 + 2 + 32 + 2 + 2 * 4);
    assert_eq!(gateway[3..5], [0, 0x20]);
    let kept: Vec<u8> = world.value("SELECT public_key FROM federation.gateway_keys").await;
    assert_eq!(gateway[5..37], kept);
    world.close();
}

#[tokio::test]
async fn a_homeserver_without_a_base_url_is_at_its_domain() {
    let world = World::builder().start().await;
    let description = Description::from_json(&world.send(&valid().call.wire()).await.body).unwrap();
    assert_eq!(description.base_url, "https://home.example");
    world.close();
}
