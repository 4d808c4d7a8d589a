//! Methods and paths: what no route takes, and routes to things that are not there.

use postern_protocol::problem::ProblemType;
use postern_server::routes;
use postern_tests_kit::{Call, World};
use reqwest::Method;

use super::{every_request, methods};

#[tokio::test]
async fn another_method_is_refused_with_the_one_that_is_allowed() {
    let world = World::start().await;
    let entries = every_request(&world).await;
    let mut names = entries.iter();
    for route in routes::all() {
        let name = format!("{} {} (0)", route.method, route.path);
        let entry = names.find(|entry| entry.name == name).expect("entries are in the order of routes");
        let allowed = methods(route.path);
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS]
        {
            if allowed.contains(&method) {
                continue;
            }
            let what = format!("{method} {}", route.path);
            let wire = Call { method, ..entry.valid.call.clone() }.wire();
            world.assert_refused(&what, &wire, ProblemType::MethodNotAllowed).await;
            let allow = world.send(&wire).await.headers.get("allow").cloned();
            let allow = allow.unwrap_or_else(|| panic!("{what} is answered with Allow (RFC 9110 §15.5.6)"));
            let allow =
                allow.to_str().expect("it is text").split(", ").map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(allow, allowed.iter().map(Method::to_string).collect::<Vec<_>>(), "{what}");
        }
        entry.assert_accepted(&world).await;
    }
    world.close();
}

#[tokio::test]
async fn what_is_not_there_or_malformed_is_refused_and_costs_its_token() {
    let world = World::start().await;
    let mut tried = 0;
    for entry in every_request(&world).await {
        for (target, expected) in &entry.valid.targets {
            tried += 1;
            let wire = entry.paid(&world).to(target.as_str()).wire();
            world.assert_refused(&format!("{} at {target}", entry.name), &wire, *expected).await;
        }
        entry.assert_accepted(&world).await;
    }
    assert!(tried > 20, "{tried}");
    world.close();
}

#[tokio::test]
async fn paths_without_an_endpoint_are_not_found_and_cost_nothing() {
    let world = World::start().await;
    for route in routes::all() {
        for target in [format!("{}/no/more", route.path), format!("/v2{}", route.path)] {
            let wire = Call::new(route.method.clone(), target.replace(['{', '}'], "")).wire();
            world.assert_refused(&target, &wire, ProblemType::NotFound).await;
        }
    }
    for target in ["/", "/qs", "/QS/queues", "/..%2fqs/queues", "/qs%2fqueues", "/qs//queues", "/%00", "/*"] {
        let call = Call::post(target).paid_with(world.token());
        world.send(&call.wire()).await.assert_problem(target, ProblemType::NotFound);
        assert!(!world.is_spent(&call.wire().nonce.expect("it was paid")).await, "{target}");
    }
    world.close();
}

/// Percent-encodes every unreserved character, with small hexadecimal digits in every second one.
fn encoded(text: &str) -> String {
    let encode = |(place, character): (usize, char)| match character {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '.' | '_' | '~' if place % 2 == 0 => {
            format!("%{:02x}", u32::from(character))
        }
        'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '.' | '_' | '~' => format!("%{:02X}", u32::from(character)),
        other => other.to_string(),
    };
    text.chars().enumerate().map(encode).collect()
}

/// RFC 3986 §6.2.2, RFC 9421 §2.2.6: the signature is over the normal form.
#[tokio::test]
async fn equivalent_percent_encodings_lead_to_the_same_endpoint() {
    let world = World::start().await;
    for entry in every_request(&world).await {
        let target = format!("{}?page=one~two", entry.valid.call.target);
        let mut wire = entry.paid(&world).to(target.as_str()).wire();
        wire.target = encoded(&target);
        let reply = world.send(&wire).await;
        assert_eq!(reply.status, entry.valid.status, "{} as {}: {reply:?}", entry.name, wire.target);
    }
    // A slash that is encoded is none.
    for target in ["/qs%2Fkeys", "/%2Fqs/keys", "/qs/keys%2f", "/qs/%6beys/"] {
        let wire = Call::get(target).wire();
        world.assert_refused(target, &wire, ProblemType::NotFound).await;
    }
    world.close();
}

/// RFC 3986 §6.2.2.2: the parameters that the server knows, too.
#[tokio::test]
async fn a_parameter_of_a_query_is_the_same_in_every_encoding() {
    let world = World::start().await;
    let alice = world.person("alice").await;
    let path = format!("/as/users/{}", alice.user().path_segment());
    for (query, expected) in [
        ("after=0", true),
        ("%61fter=0", true),
        ("aft%65r=%30", true),
        ("%61fter=x", false),
        ("Xafter=0", true),
    ] {
        let reply = world.pay(&Call::get(format!("{path}?{query}"))).await;
        assert_eq!(reply.status.is_success(), expected, "{query}: {reply:?}");
    }
    let asked = async |query: &str| world.pay(&Call::get(format!("{path}?{query}"))).await.body.len();
    assert!(asked("%61fter=0").await > asked("Xafter=0").await, "it has the history");
    world.close();
}

#[tokio::test]
async fn a_query_is_signed_and_otherwise_ignored() {
    let world = World::start().await;
    for entry in every_request(&world).await {
        let target = format!("{}?a=b&c", entry.valid.call.target);
        let reply = world.send(&entry.paid(&world).to(target).wire()).await;
        assert_eq!(reply.status, entry.valid.status, "{}: {reply:?}", entry.name);
    }
    world.close();
}
