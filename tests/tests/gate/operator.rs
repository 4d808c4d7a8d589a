//! What the operator does and sees with SQL (AAS-2, AAS-5).

use std::collections::BTreeSet;

use postern_protocol::token::TokenType;
use postern_server::{road::Handler, routes};
use reqwest::StatusCode;

use crate::world::{Ask, Gate};

#[tokio::test]
async fn every_paid_route_has_a_price_by_its_name_and_nothing_else_has() {
    let gate = Gate::start(0).await;
    let routes: BTreeSet<String> = routes::all()
        .iter()
        .filter_map(|route| match route.handler {
            Handler::Paid(endpoint, _) => Some(endpoint.to_owned()),
            Handler::Open(_) => None,
        })
        .collect();
    let rows = gate.admin.query("SELECT endpoint FROM operator.prices()", &[]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get(0)).collect::<BTreeSet<String>>(), routes);
}

#[tokio::test]
async fn at_price_0_an_endpoint_asks_for_a_token_and_leaves_it_unspent() {
    let gate = Gate::start(1).await;
    let client = gate.client("alice").await;
    let key = gate.key(TokenType::PrivateRistretto255).await;
    let token = gate.tokens(0, &client, &Ask::batch(&key, 1)).await.remove(0);
    let operator = gate.cluster.connect_as("postern_operator").await;
    operator.execute("SELECT operator.set_price('ds.reserve_group_id', 0)", &[]).await.unwrap();
    for _ in 0..2 {
        assert_eq!(gate.spend(0, &token).await.status, StatusCode::CREATED);
    }
    assert_eq!(gate.spend(0, &[]).await.problem(), "token-required");
    operator.execute("SELECT operator.set_price('ds.reserve_group_id', 1)", &[]).await.unwrap();
    assert_eq!(gate.spend(0, &token).await.status, StatusCode::CREATED);
    assert_eq!(gate.spend(0, &token).await.problem(), "token-spent");
    for bad in ["'ds.reserve_group', 0", "'aas.settle_token', 0", "'qs.deposit', 2", "NULL, 1"] {
        assert!(operator.execute(&format!("SELECT operator.set_price({bad})"), &[]).await.is_err(), "{bad}");
    }
}

#[tokio::test]
async fn use_is_shown_by_endpoint_and_price_class_and_names_nobody() {
    let mut gate = Gate::start(1).await;
    let client = gate.client("alice").await;
    let key = gate.key(TokenType::PrivateRistretto255).await;
    let tokens = gate.tokens(0, &client, &Ask::batch(&key, 10)).await;
    for token in &tokens[..3] {
        gate.spend(0, token).await;
    }
    assert_eq!(gate.spend(0, &tokens[0]).await.problem(), "token-spent");
    // What a server counted it records before it ends.
    assert!(gate.servers.remove(0).terminate().await.success());
    let monitor = gate.cluster.connect_as("postern_monitor").await;
    let used =
        monitor.query_one("SELECT endpoint, price, requests FROM operator.token_use()", &[]).await.unwrap();
    assert_eq!((used.get(0), used.get(1), used.get(2)), ("ds.reserve_group_id", 1i16, 3i64));
    let issued =
        monitor.query_one("SELECT token_type, tokens FROM operator.tokens_issued()", &[]).await.unwrap();
    assert_eq!((issued.get(0), issued.get(1)), (5i32, 10i64));
    gate.admin.execute("UPDATE aas.issued SET day = day - 2", &[]).await.unwrap();
    gate.admin.execute("SELECT aas.clean_up()", &[]).await.unwrap();
    assert_eq!(gate.value::<i64>("SELECT count(*) FROM aas.issued").await, 0);
    assert_eq!(gate.issued().await, 10, "the sum stays");
    let keys =
        monitor.query("SELECT token_type, spent_bytes FROM operator.issuer_keys()", &[]).await.unwrap();
    assert_eq!(keys.len(), 3);
    assert!(keys.iter().all(|row| row.get::<_, i64>(1) > 0));
}
