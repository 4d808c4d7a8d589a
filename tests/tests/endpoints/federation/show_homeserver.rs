//! `GET /homeservers/{domain}` (FED-1). What is fetched of others, and refused, is in `tests/tests/system/federation.rs`.

use postern_protocol::{federation::HomeserverShown, problem::ProblemType};
use postern_tests_kit::{Call, World};
use reqwest::StatusCode;

use crate::every_route::Valid;

const KNOWN: &str = "known.example";
const DESCRIPTION: &[u8] = b"{}";

/// A request for the description of a homeserver that was looked at a moment ago.
pub async fn valid(world: &World) -> Valid {
    let sql = "INSERT INTO federation.homeservers (domain, description, content, base_url, issued, expires, seen)
               VALUES ($1::text, $2::bytea, sha256($2::bytea), 'https://known.example', 1, extract(epoch FROM now())::bigint + 3600, current_date)
               ON CONFLICT DO NOTHING";
    world.admin.execute(sql, &[&KNOWN, &DESCRIPTION]).await.expect("it can be kept");
    let sql = "INSERT INTO federation.looks (domain, looked) VALUES ($1::text, now()) ON CONFLICT DO NOTHING";
    world.admin.execute(sql, &[&KNOWN]).await.expect("it can be noted");
    let malformed = ["known", "known.example.", "Known.example", "127.0.0.1", "127.0x1", "known.example%2f"];
    let mut targets: Vec<_> = malformed
        .map(|domain| (format!("/homeservers/{domain}"), ProblemType::MalformedRequest))
        .into_iter()
        .chain([
            ("/homeservers/home.example".to_owned(), ProblemType::NotFound),
            ("/homeservers/known.example?fresh=yes".to_owned(), ProblemType::MalformedRequest),
        ])
        .collect();
    targets.sort_by(|one, other| one.0.cmp(&other.0));
    Valid { targets, ..Valid::new(Call::get(format!("/homeservers/{KNOWN}")), StatusCode::OK) }
}

#[tokio::test]
async fn the_description_of_a_known_homeserver_is_shown_as_it_is_until_the_domain_is_blocked() {
    let world = World::builder().servers(2).tokens(10).start().await;
    let operator = world.cluster.connect_as("postern_operator").await;
    let call = valid(&world).await.call;
    let shown: HomeserverShown = world.pay(&call).await.decode();
    assert_eq!(shown.description.as_bytes(), DESCRIPTION);
    for (what, expected) in [
        ("operator.block_domain('known.example')", Some(ProblemType::HomeserverBlocked)),
        ("operator.allow_domain('known.example')", None),
        ("operator.set_federation_policy('allow_list')", None),
        ("operator.drop_domain_rule('known.example')", Some(ProblemType::HomeserverBlocked)),
        ("operator.set_federation_policy('open')", None),
    ] {
        operator.execute(&format!("SELECT {what}"), &[]).await.expect("the operator may");
        // At once, on every process (FED-2).
        for server in &world.servers {
            let reply = world.send_to(server, &world.paid(call.clone()).wire()).await;
            match expected {
                Some(problem) => {
                    reply.assert_problem(what, problem);
                }
                None => reply.assert_ok(what),
            }
        }
    }
    for (bad, hint) in [
        ("operator.set_federation_policy('closed')", "open and allow_list"),
        ("operator.set_federation_policy(NULL)", "open and allow_list"),
        ("operator.drop_domain_rule('known.example')", "operator.domain_rules() lists all"),
        ("operator.set_federation_limit('x', 1)", "operator.federation_limits() lists all"),
    ] {
        let refused = operator.execute(&format!("SELECT {bad}"), &[]).await.unwrap_err();
        let found = refused.as_db_error().and_then(|error| error.hint()).unwrap_or_default().to_owned();
        assert!(found.contains(hint), "{bad}: {found}");
    }
    for domain in ["home.example", "Known.example", "known", "known.example."] {
        let sql = "SELECT operator.block_domain($1)";
        assert!(operator.execute(sql, &[&domain]).await.is_err(), "{domain}");
    }
}
