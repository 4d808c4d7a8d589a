//! `GET /as/registration` (AS-1)

use postern_protocol::admission::{IdentityProvider, RegistrationPolicy, RegistrationTerms};
use postern_tests_kit::{Call, World};
use reqwest::StatusCode;

use crate::every_route::Valid;

pub fn valid() -> Valid {
    Valid::new(Call::get("/as/registration"), StatusCode::OK)
}

async fn terms(world: &World) -> RegistrationTerms {
    world.send(&Call::get("/as/registration").wire()).await.decode()
}

#[tokio::test]
async fn a_stranger_is_told_what_a_registration_needs() {
    let world = World::builder().start().await;
    let operator = world.cluster.connect_as("postern_operator").await;
    let open = RegistrationTerms { policy: RegistrationPolicy::Open, identity_provider: None };
    assert_eq!(terms(&world).await, open);
    for (policy, expected) in [
        ("invite", RegistrationPolicy::Invite),
        ("oidc", RegistrationPolicy::Oidc),
        ("open", RegistrationPolicy::Open),
    ] {
        operator.execute("SELECT operator.set_registration_policy($1)", &[&policy]).await.unwrap();
        assert_eq!(terms(&world).await.policy, expected);
        let shown = operator.query_one("SELECT operator.registration_policy()", &[]).await.unwrap();
        assert_eq!(shown.get::<_, &str>(0), policy);
    }
    for bad in ["'closed'", "''", "NULL"] {
        let set = format!("SELECT operator.set_registration_policy({bad})");
        assert!(operator.execute(&set, &[]).await.is_err(), "{bad}");
    }

    // The provider is told as it is configured; nobody has asked it for anything yet.
    let world = World::builder()
        .setting("POSTERN_OIDC_ISSUER", "https://login.example.org/realm")
        .setting("POSTERN_OIDC_CLIENT_ID", "postern")
        .start()
        .await;
    let provider = IdentityProvider {
        issuer: "https://login.example.org/realm".to_owned(),
        client_id: "postern".to_owned(),
    };
    assert_eq!(terms(&world).await.identity_provider, Some(provider));
    world.close();
}
