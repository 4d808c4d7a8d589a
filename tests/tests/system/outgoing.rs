//! The connections on which a server calls other homeservers (FED-1, OPS-8): what they are not made by.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use postern_protocol::key::SigningKey;
use postern_tests_kit::{Authority, FalseHomeserver, World};
use reqwest::StatusCode;
use tokio::net::TcpListener;

use crate::federation::{OTHER, described, refusal, shown};

/// The world of one homeserver that finds another one, and has these settings.
async fn world(authority: &Authority, homeserver: &FalseHomeserver, settings: &[(&str, &str)]) -> World {
    let builder = World::builder()
        .setting("POSTERN_FEDERATION_HOSTS", &format!("{OTHER}={}", homeserver.address()))
        .setting("POSTERN_FEDERATION_TRUSTED_ROOTS", &authority.file().display().to_string())
        .tokens(20);
    let builder = settings.iter().fold(builder, |builder, (name, value)| builder.setting(name, value));
    builder.start().await
}

/// The answer of the other homeserver.
fn description() -> Vec<u8> {
    FalseHomeserver::json(&described(&SigningKey::generate(), |_| ()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_homeserver_that_speaks_tls_1_2_and_no_later_version_is_not_called() {
    let authority = Authority::new();
    let homeserver = FalseHomeserver::start_with_tls_1_2(&authority.certify(&[OTHER]), description()).await;
    let address = homeserver.address();
    let root = reqwest::Certificate::from_pem(authority.pem().as_bytes()).expect("it is a certificate");
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([root]).resolve(OTHER, address);
    let reply = client.build().unwrap().get(format!("https://{OTHER}:{}/", address.port())).send().await;
    assert_eq!(reply.expect("it answers others").status(), StatusCode::OK);
    let asked = homeserver.asked();
    let world = world(&authority, &homeserver, &[]).await;
    let why = refusal(&world).await;
    assert!(why.contains("does not answer over TLS"), "{why}");
    assert_eq!(homeserver.asked(), asked, "it is asked nothing");
    world.close();
}

/// A proxy would resolve the names itself, and reach hosts that are not public.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_in_the_environment_is_not_used_for_calls_of_other_homeservers() {
    let authority = Authority::new();
    let homeserver = FalseHomeserver::start(&authority.certify(&[OTHER]), description()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let proxy = format!("http://{}", listener.local_addr().expect("it has an address"));
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    let accepting = tokio::spawn(async move {
        // Each ends at once.
        while listener.accept().await.is_ok() {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    let names = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    let settings = names.map(|name| (name, proxy.as_str()));
    let world = world(&authority, &homeserver, &settings).await;
    assert_eq!(shown(&world).await.domain.as_str(), OTHER);
    assert_eq!(homeserver.asked(), 1, "it is called directly");
    assert_eq!(connections.load(Ordering::SeqCst), 0, "the proxy is not");
    accepting.abort();
    world.close();
}
