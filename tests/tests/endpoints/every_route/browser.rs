//! Clients in browsers (CORS), and HEAD: what an answer shows to whom, and what costs no token.

use postern_protocol::problem::ProblemType;
use postern_server::routes;
use postern_tests_kit::{Call, Reply, Wire, World};
use reqwest::{Method, StatusCode};

use super::{every_request, methods};

const PAGE: &str = "https://chat.example.org";

fn preflight(target: &str, origin: &str) -> Wire {
    let mut wire = Call::new(Method::OPTIONS, target).wire();
    wire.set("origin", origin);
    wire.set("access-control-request-method", "POST");
    wire.set(
        "access-control-request-headers",
        "authorization,content-digest,content-type,lookup-secret,signature,signature-input",
    );
    wire
}

fn list(reply: &Reply, name: &str) -> Vec<String> {
    reply.header(name).split(", ").filter(|text| !text.is_empty()).map(str::to_ascii_lowercase).collect()
}

#[tokio::test]
async fn every_endpoint_may_be_called_by_a_page_of_any_origin_and_preflights_cost_nothing() {
    let world = World::start().await;
    for entry in every_request(&world).await {
        let reply = world.send(&preflight(&entry.valid.call.target, PAGE)).await;
        assert_eq!(reply.status, StatusCode::NO_CONTENT, "{}: {reply:?}", entry.name);
        assert_eq!(reply.header("access-control-allow-origin"), "*", "{}", entry.name);
        let allowed = list(&reply, "access-control-allow-methods");
        assert!(allowed.contains(&entry.valid.call.method.as_str().to_ascii_lowercase()), "{allowed:?}");
        let headers = list(&reply, "access-control-allow-headers");
        for name in [
            "authorization",
            "content-type",
            "content-digest",
            "lookup-secret",
            "signature",
            "signature-input",
        ] {
            assert!(headers.iter().any(|found| found == name), "{name} in {headers:?}");
        }

        let mut wire = entry.paid(&world).wire();
        wire.set("origin", PAGE);
        let reply = world.send(&wire).await;
        assert_eq!(reply.status, entry.valid.status, "{}: {reply:?}", entry.name);
        assert_eq!(reply.header("access-control-allow-origin"), "*", "{}", entry.name);
        assert_eq!(reply.header("access-control-allow-credentials"), "", "no cookies are used");
        let shown = list(&reply, "access-control-expose-headers");
        for name in ["www-authenticate", "ratelimit", "ratelimit-policy", "retry-after", "allow"] {
            assert!(shown.iter().any(|found| found == name), "{name} in {shown:?}");
        }
    }
    world.close();
}

#[tokio::test]
async fn a_page_may_read_why_it_is_refused() {
    let world = World::start().await;
    for (method, target, expected) in [
        (Method::POST, "/ds/group-ids", ProblemType::TokenRequired),
        (Method::PATCH, "/ds/group-ids", ProblemType::MethodNotAllowed),
        (Method::GET, "/nothing", ProblemType::NotFound),
        (Method::OPTIONS, "/nothing", ProblemType::NotFound),
        // No browser sends this.
        (Method::OPTIONS, "/ds/group-ids", ProblemType::MethodNotAllowed),
    ] {
        let mut wire = Call::new(method, target).wire();
        wire.set("origin", PAGE);
        let reply = world.send(&wire).await;
        reply.assert_problem(target, expected);
        assert_eq!(reply.header("access-control-allow-origin"), "*", "{target}");
    }
    let reply = world.send(&Call::post("/ds/group-ids").wire()).await;
    assert_eq!(reply.header("access-control-allow-origin"), "", "who is no page is told nothing");
    assert_eq!(reply.header("vary"), "origin", "caches keep the two apart");
    world.close();
}

#[tokio::test]
async fn the_operator_may_name_the_origins() {
    let other = "capacitor://localhost";
    let setting = format!("{PAGE},{other}");
    let world = World::builder().setting("POSTERN_ALLOWED_ORIGINS", &setting).start().await;
    for (origin, allowed) in [
        (PAGE, true),
        (other, true),
        ("https://elsewhere.example", false),
        ("https://chat.example.org:8443", false),
    ] {
        let mut wire = Call::get("/qs/keys").wire();
        wire.set("origin", origin);
        for (wire, status) in
            [(wire, StatusCode::OK), (preflight("/qs/keys", origin), StatusCode::NO_CONTENT)]
        {
            let reply = world.send(&wire).await;
            assert_eq!(reply.status, status, "{origin}: {reply:?}");
            let named = if allowed { origin } else { "" };
            assert_eq!(reply.header("access-control-allow-origin"), named, "{origin}");
            assert_eq!(
                reply.header("access-control-allow-methods").is_empty(),
                !allowed || status == StatusCode::OK
            );
        }
    }
    world.close();
}

/// RFC 9110 §9.3.2, over HTTP/1 and HTTP/2.
#[tokio::test]
async fn head_is_answered_as_get_is_without_the_body() {
    let world = World::start().await;
    let second = reqwest::Client::builder().http2_prior_knowledge().build().expect("a client can be made");
    let mut tried = 0;
    for entry in every_request(&world).await {
        if entry.valid.call.method != Method::GET {
            continue;
        }
        tried += 1;
        let got = world.send(&entry.paid(&world).wire()).await;
        for version in [1, 2] {
            let call = Call { method: Method::HEAD, ..entry.paid(&world) };
            let wire = call.wire();
            let head = if version == 1 {
                world.send(&wire).await
            } else {
                let url = format!("{}{}", world.server().url(), wire.target);
                let request = second.request(Method::HEAD, url).headers(wire.headers.clone());
                Reply::read(request.send().await.expect("there is an answer")).await.expect("a whole one")
            };
            assert_eq!(head.status, entry.valid.status, "{}: {head:?}", entry.name);
            assert!(head.body.is_empty(), "{}: {head:?}", entry.name);
            let (mut expected, mut found) = (got.headers.clone(), head.headers.clone());
            for headers in [&mut expected, &mut found] {
                headers.remove("date");
            }
            assert_eq!(found, expected, "{} by HTTP/{version}", entry.name);
            if let Some(nonce) = &wire.nonce {
                assert!(world.is_spent(nonce).await, "{}: it pays as GET does", entry.name);
                let unpaid = Call { token: None, ..call }.wire();
                assert_eq!(world.send(&unpaid).await.status, StatusCode::UNAUTHORIZED, "{}", entry.name);
            }
        }
    }
    assert!(tried >= 6, "{tried}");
    let gets = routes::all().into_iter().filter(|route| route.method == Method::GET);
    assert!(gets.map(|route| methods(route.path)).all(|methods| methods.contains(&Method::HEAD)));
    world.close();
}
