//! Tokens: none, false ones, spent ones, and what becomes of a good one (AAS-1, AAS-4).

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use postern_protocol::{aas::IssuerDirectory, problem::ProblemType, token};
use postern_tests_kit::{Ask, Call, Impostor, TokenShape, Wire, World, home};
use privacypass::{TokenType, auth::authenticate::TokenChallenge};
use reqwest::header::HeaderValue;

use super::every_request;

/// `Authorization` headers that are not worth a token of ours; `good` is a token that would be.
async fn worthless(world: &World, good: &[u8]) -> Vec<(&'static str, String)> {
    let ours = || TokenShape::ours(world.token_key());
    let impostor = Impostor::new();
    let text = |bytes: &[u8]| token::authorization(bytes).to_str().expect("it is text").to_owned();
    let garbled = |place: usize| {
        let mut bytes = good.to_vec();
        bytes[place] ^= 1;
        text(&bytes)
    };
    // The issuer cannot see what challenge it signs for.
    let elsewhere = ["elsewhere.example".to_owned()];
    let challenge =
        TokenChallenge::new(TokenType::PrivateRistretto255, "elsewhere.example", None, &elsewhere);
    let client = world.user("elsewhere").await;
    let misdirected = world
        .tokens(0, &client.device.key, &Ask::batch_for(world.token_key(), 1, &challenge))
        .await
        .remove(0);
    vec![
        (
            "a token of another issuer",
            text(&impostor.token(&TokenShape { key_id: impostor.key_id(), ..ours() })),
        ),
        ("a forged token", text(&impostor.token(&ours()))),
        ("a token for another challenge", text(&misdirected)),
        ("a token of another type", text(&impostor.token(&TokenShape { token_type: 2, ..ours() }))),
        ("a garbled type", garbled(1)),
        ("a garbled nonce", garbled(2)),
        ("a garbled challenge digest", garbled(34)),
        ("a garbled key id", garbled(66)),
        ("a garbled authenticator", garbled(98)),
        ("a cut token", text(&good[..good.len() - 1])),
        ("a lengthened token", text(&[good, &[0]].concat())),
        ("an empty token", text(&[])),
        ("another scheme", text(good).replace("PrivateToken", "Bearer")),
        ("another parameter", text(good).replace("token=", "key=")),
        ("no base64url", "PrivateToken token=\"*\"".to_owned()),
        ("an empty header", String::new()),
    ]
}

/// The challenges that every refusal offers, one for each published key of a new database.
async fn offer(world: &World) -> HeaderValue {
    let directory = world.send(&Call::get(token::DIRECTORY_PATH).wire()).await;
    let directory: IssuerDirectory = serde_json::from_slice(&directory.body).expect("it is a directory");
    let keys: Vec<_> = token::TOKEN_TYPES
        .into_iter()
        .zip(&directory.token_keys)
        .map(|(kind, key)| (kind, URL_SAFE.decode(&key.token_key).expect("it is padded base64url")))
        .collect();
    let offered: Vec<_> = keys.iter().rev().map(|(kind, key)| (*kind, key.as_slice())).collect();
    token::www_authenticate(&home(), &offered)
}

#[tokio::test]
async fn no_paid_route_is_reached_without_a_token_of_ours() {
    let world = World::start().await;
    world.stock(200).await;
    let good = world.token();
    let worthless = worthless(&world, &good).await;
    let expected = offer(&world).await;
    let mut paid_routes = 0;
    for entry in every_request(&world).await.iter().filter(|entry| entry.paid) {
        paid_routes += 1;
        let without = entry.valid.call.wire();
        let what = format!("{} without a token", entry.name);
        world.assert_refused(&what, &without, ProblemType::TokenRequired).await;
        let reply = world.send(&without).await;
        assert_eq!(
            reply.headers.get("www-authenticate"),
            Some(&expected),
            "{what} gets the challenge (RFC 9577)"
        );
        for (kind, authorization) in &worthless {
            let mut wire = Wire { nonce: Some(good[2..34].to_vec()), ..entry.valid.call.unsigned() };
            wire.set("authorization", authorization);
            if let Some(key) = &entry.valid.call.signer {
                wire.sign(key, |_| {});
            }
            world
                .assert_refused(&format!("{} with {kind}", entry.name), &wire, ProblemType::TokenRequired)
                .await;
        }
        entry.assert_accepted(&world).await;
    }
    assert!(paid_routes >= 11, "{paid_routes}");
    world.close();
}

#[tokio::test]
async fn a_token_pays_once_whether_its_request_was_refused_or_accepted() {
    let world = World::start().await;
    world.stock(100).await;
    for entry in every_request(&world).await.iter().filter(|entry| entry.paid) {
        // Another method has no endpoint, and so no door where a token is taken.
        let call = entry.paid(&world);
        if let Some(key) = &call.signer {
            let mut refused = call.wire();
            refused.sign(key, |input| input.shift(-3600));
            let what = format!("{} signed an hour ago", entry.name);
            world.assert_refused(&what, &refused, ProblemType::SignatureRequired).await;
            let what = format!("{} with the token of a refused request", entry.name);
            world.assert_refused(&what, &call.wire(), ProblemType::TokenSpent).await;
        }
        let call = entry.paid(&world);
        let reply = world.send(&call.wire()).await;
        assert_eq!(reply.status, entry.valid.status, "{}: {reply:?}", entry.name);
        let what = format!("{} with the token of an accepted request", entry.name);
        world.assert_refused(&what, &call.wire(), ProblemType::TokenSpent).await;
    }
    world.close();
}

#[tokio::test]
async fn a_spent_token_is_refused_on_every_paid_route() {
    let world = World::start().await;
    let entries = every_request(&world).await;
    let spent = world.token();
    world
        .send(&crate::ds::reserve_group_id::valid().call.paid_with(spent.clone()).wire())
        .await
        .assert_ok("spending");
    for entry in entries.iter().filter(|entry| entry.paid) {
        let wire = entry.valid.call.clone().paid_with(spent.clone()).wire();
        world
            .assert_refused(&format!("{} with a spent token", entry.name), &wire, ProblemType::TokenSpent)
            .await;
        let mut bare = wire.clone();
        bare.set(
            "authorization",
            &wire.header("authorization").replace(['"', '='], "").replacen("token", "token=", 1),
        );
        assert!(
            bare.header("authorization").starts_with("PrivateToken token="),
            "{}",
            bare.header("authorization")
        );
        if let Some(key) = &entry.valid.call.signer {
            bare.sign(key, |_| {});
        }
        let what = format!("{} with a spent token in another spelling", entry.name);
        world.assert_refused(&what, &bare, ProblemType::TokenSpent).await;
    }
    world.close();
}

/// The functions that the server may call, as PostgreSQL names them.
async fn api_functions(world: &World) -> String {
    world
        .value(
            "SELECT string_agg(p.oid::regprocedure::text, ', ')
               FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
              WHERE n.nspname IN ('auth', 'aas', 'ds', 'qs', 'rendezvous', 'federation')
                AND has_function_privilege('postern_server', p.oid, 'EXECUTE')",
        )
        .await
}

#[tokio::test]
async fn a_fault_of_ours_changes_nothing_and_leaves_the_token_unspent() {
    let world = World::start().await;
    let entries = every_request(&world).await;
    let functions = api_functions(&world).await;
    let mut faults = 0;
    for entry in &entries {
        let call = entry.paid(&world);
        let wire = call.wire();
        let before = world.snapshot().await;
        let revoke = format!("REVOKE EXECUTE ON FUNCTION {functions} FROM postern_server");
        world.admin.batch_execute(&revoke).await.expect("a superuser can");
        let reply = world.send(&wire).await;
        let grant = format!("GRANT EXECUTE ON FUNCTION {functions} TO postern_server");
        world.admin.batch_execute(&grant).await.expect("a superuser can");
        if reply.status.is_success() {
            assert!(!entry.paid, "{} needs no database", entry.name);
            continue;
        }
        faults += 1;
        let problem = reply.assert_problem(&entry.name, ProblemType::Fault);
        assert_eq!(problem.detail, None, "{}: a fault is the operator's to read about", entry.name);
        reply.assert_says_nothing_of(&wire.private_texts(), &entry.name);
        world.snapshot().await.assert_same(&before, &entry.name);
        if let Some(nonce) = &wire.nonce {
            assert!(!world.is_spent(nonce).await, "{}: the token", entry.name);
        }
        let again = world.send(&call.wire()).await;
        assert_eq!(again.status, entry.valid.status, "{}, the same signed anew: {again:?}", entry.name);
    }
    assert!(faults >= 13, "{faults}");
}

#[tokio::test]
async fn every_paid_route_is_in_the_price_list_and_nothing_else_is() {
    let world = World::start().await;
    let entries = every_request(&world).await;
    let routes: BTreeSet<&str> = entries.iter().filter_map(|entry| entry.endpoint).collect();
    let listed: Vec<String> = world.value("SELECT array_agg(endpoint) FROM aas.prices").await;
    assert_eq!(listed.iter().map(String::as_str).collect::<BTreeSet<_>>(), routes);
    assert_eq!(listed.len(), routes.len());
    world.close();
}

/// Its own row, and no other: the name that the route has is the one that its API function charges under.
#[tokio::test]
async fn every_paid_route_costs_what_its_row_of_the_price_list_says() {
    let world = World::start().await;
    world.stock(100).await;
    let price = async |endpoint: &str, price: i32| {
        let sql = "SELECT operator.set_price($1, $2)";
        world.admin.execute(sql, &[&endpoint, &price]).await.expect("it is in the list");
    };
    for entry in every_request(&world).await {
        let Some(endpoint) = entry.endpoint else { continue };
        let call = entry.paid(&world);
        let wire = call.wire();
        let nonce = wire.nonce.as_ref().expect("it is paid");

        // No price is a fault of ours.
        let before = world.snapshot().await;
        world
            .admin
            .execute("DELETE FROM aas.prices WHERE endpoint = $1", &[&endpoint])
            .await
            .expect("it can");
        let reply = world.send(&wire).await;
        reply.assert_problem(&format!("{} without a price", entry.name), ProblemType::Fault);
        let insert = "INSERT INTO aas.prices (endpoint, price) VALUES ($1, 1)";
        world.admin.execute(insert, &[&endpoint]).await.expect("it can be listed again");
        world.snapshot().await.assert_same(&before, &entry.name);
        assert!(!world.is_spent(nonce).await, "{}: the token without a price", entry.name);

        // Price 0: a token is shown, and stays unspent, whatever becomes of the request.
        price(endpoint, 0).await;
        if let Some(key) = &call.signer {
            let mut refused = call.wire();
            refused.sign(key, |input| input.shift(-3600));
            let reply = world.send(&refused).await;
            reply.assert_problem(
                &format!("{} signed an hour ago", entry.name),
                ProblemType::SignatureRequired,
            );
        }
        let reply = world.send(&call.wire()).await;
        assert_eq!(reply.status, entry.valid.status, "{} for nothing: {reply:?}", entry.name);
        assert!(!world.is_spent(nonce).await, "{}: the token at price 0", entry.name);
        let what = format!("{} for nothing, without a token", entry.name);
        world.assert_refused(&what, &entry.valid.call.wire(), ProblemType::TokenRequired).await;

        // Price 1: spent, even if the same cannot be accepted twice.
        price(endpoint, 1).await;
        let wire = call.wire();
        let reply = world.send(&wire).await;
        assert!(!reply.status.is_server_error(), "{}: {reply:?}", entry.name);
        assert!(world.is_spent(nonce).await, "{}: the token at price 1", entry.name);
        world.assert_refused(&entry.name, &wire, ProblemType::TokenSpent).await;
    }
}
