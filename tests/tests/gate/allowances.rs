//! Allowances of tokens (AAS-2): nobody gets more, even if several ask at once, at several servers.

use futures_util::future::join_all;
use postern_protocol::token::TokenType;
use postern_tests_kit::{Ask, World};
use reqwest::StatusCode;

const RISTRETTO255: TokenType = TokenType::PrivateRistretto255;

#[tokio::test(flavor = "multi_thread")]
async fn parallel_takers_get_the_allowance_to_the_last_token_and_never_more() {
    let gate = World::builder().servers(2).patient().start().await;
    let client = gate.client("alice").await;
    gate.admin.execute("SELECT operator.set_allowance(300)", &[]).await.unwrap();
    let key = gate.issuer_key(RISTRETTO255).await;
    let asks: Vec<Ask> = (0..50).map(|_| Ask::batch(&key, 10)).collect();
    let replies = join_all(
        asks.iter().enumerate().map(|(index, ask)| gate.ask(index % 2, &client, ask.media_type, &ask.body)),
    )
    .await;
    let granted = replies.iter().filter(|reply| reply.status == StatusCode::OK).count();
    assert_eq!(granted, 30);
    assert!(
        replies.iter().all(|reply| reply.status == StatusCode::OK || reply.slug() == "allowance-used-up")
    );
    assert_eq!(gate.issued().await, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_sent_many_times_at_once_is_granted_and_counted_once() {
    let gate = World::builder().servers(2).patient().start().await;
    let client = gate.client("alice").await;
    let key = gate.issuer_key(RISTRETTO255).await;
    let ask = Ask::batch(&key, 10);
    let replies = join_all((0..8).map(|index| gate.ask(index % 2, &client, ask.media_type, &ask.body))).await;
    let mut tokens: Vec<_> = replies.iter().map(|reply| ask.open(&reply.body)).collect();
    tokens.dedup();
    assert_eq!(tokens.len(), 1, "the same tokens each time");
    assert_eq!(gate.issued().await, 10);
}

#[tokio::test]
async fn what_is_left_is_told_and_when_it_is_used_up_when_there_will_be_more() {
    let gate = World::builder().start().await;
    let client = gate.client("alice").await;
    gate.admin.execute("SELECT operator.set_allowance(15)", &[]).await.unwrap();
    let key = gate.issuer_key(RISTRETTO255).await;
    let ask = async |number| {
        let ask = Ask::batch(&key, number);
        gate.ask(0, &client, ask.media_type, &ask.body).await
    };
    let reply = ask(10).await;
    assert_eq!(reply.header("ratelimit-policy"), r#""daily";q=15;w=86400"#);
    assert!(reply.header("ratelimit").starts_with(r#""daily";r=5;t="#), "{}", reply.header("ratelimit"));
    let reply = ask(10).await;
    assert_eq!((reply.status, reply.slug()), (StatusCode::TOO_MANY_REQUESTS, "allowance-used-up"));
    assert!(reply.header("ratelimit").starts_with(r#""daily";r=5;t="#), "{}", reply.header("ratelimit"));
    let seconds: u32 = reply.header("retry-after").parse().unwrap();
    assert!((1..=86_400).contains(&seconds));
    assert_eq!(ask(1).await.status, StatusCode::OK, "nothing was taken by what was refused");
}

#[tokio::test]
async fn overrides_are_by_user_and_by_token_type_and_can_be_taken_back() {
    let gate = World::builder().start().await;
    let (alice, bob) = (gate.client("alice").await, gate.client("bob").await);
    let (ristretto255, p384) =
        (gate.issuer_key(RISTRETTO255).await, gate.issuer_key(TokenType::PrivateP384).await);
    let set = async |arguments: &str| {
        gate.admin.execute(&format!("SELECT operator.set_allowance({arguments})"), &[]).await.unwrap();
    };
    let granted = async |client, ask: Ask| {
        gate.ask(0, client, ask.media_type, &ask.body).await.status == StatusCode::OK
    };
    set("10").await;
    set("20, user_name => 'alice'").await;
    assert!(granted(&alice, Ask::batch(&ristretto255, 10)).await);
    assert!(granted(&alice, Ask::batch(&ristretto255, 10)).await);
    assert!(!granted(&alice, Ask::batch(&ristretto255, 1)).await);
    assert!(granted(&bob, Ask::batch(&ristretto255, 10)).await);
    assert!(!granted(&bob, Ask::batch(&ristretto255, 1)).await, "the default holds for others");

    set("100").await;
    set("100, user_name => 'alice'").await;
    set("1, token_type => 1").await;
    set("2, user_name => 'alice', token_type => 1").await;
    for (client, allowed) in [(&alice, 2), (&bob, 1)] {
        for _ in 0..allowed {
            assert!(granted(client, Ask::p384(&p384)).await);
        }
        assert!(!granted(client, Ask::p384(&p384)).await);
        assert!(granted(client, Ask::batch(&ristretto255, 10)).await, "other types go on");
    }
    set("NULL, user_name => 'alice', token_type => 1").await;
    assert!(!granted(&alice, Ask::p384(&p384)).await, "now everyone's limit for the type holds");
    set("NULL, token_type => 1").await;
    assert!(granted(&alice, Ask::p384(&p384)).await);
    set("5000, domain => 'elsewhere.example'").await;
    let listed: i64 = gate.value("SELECT count(*) FROM operator.allowances()").await;
    assert_eq!(listed, 6, "three defaults, a user's, a domain's, each new domain's");
    for bad in
        ["1, user_name => 'nobody'", "1, user_name => 'alice', domain => 'elsewhere.example'", "NULL", "-1"]
    {
        assert!(
            gate.admin.execute(&format!("SELECT operator.set_allowance({bad})"), &[]).await.is_err(),
            "{bad}"
        );
    }
}

#[tokio::test]
async fn a_repeat_gets_the_same_tokens_for_nothing_until_it_looks_like_an_attack() {
    let gate = World::builder().servers(2).start().await;
    let client = gate.client("alice").await;
    let (ristretto255, p384, rsa) = (
        gate.issuer_key(RISTRETTO255).await,
        gate.issuer_key(TokenType::PrivateP384).await,
        gate.issuer_key(TokenType::Public).await,
    );
    let asks = [
        (Ask::batch(&ristretto255, 10), 10),
        (Ask::p384(&p384), 1),
        (Ask::blind_rsa(&rsa), 1),
        (Ask::generic(&p384, &rsa), 10),
    ];
    for (ask, number) in &asks {
        let before = gate.issued().await;
        let first = gate.tokens(0, &client, ask).await;
        assert_eq!(first, gate.tokens(1, &client, ask).await);
        assert_eq!(gate.issued().await - before, *number);
    }
    // The day may have ended between the two.
    gate.admin.execute("UPDATE aas.requests SET day = day - 1", &[]).await.unwrap();
    gate.admin.execute("SELECT aas.clean_up()", &[]).await.unwrap();
    let before = gate.issued().await;
    for _ in 0..7 {
        gate.tokens(0, &client, &asks[0].0).await;
    }
    assert_eq!(gate.issued().await, before);
    gate.tokens(0, &client, &asks[0].0).await;
    assert_eq!(gate.issued().await - before, 10);
    // Another client's same request is another request.
    let bob = gate.client("bob").await;
    gate.tokens(0, &bob, &asks[0].0).await;
    assert_eq!(gate.issued().await - before, 20);
}

/// Many users that were registered at once have little to spend on the first day.
#[tokio::test]
async fn a_new_users_allowance_grows_with_the_days_on_which_it_took_tokens() {
    let gate = World::builder().strict().start().await;
    let (client, key) = (gate.client("alice").await, gate.issuer_key(RISTRETTO255).await);
    let ask = async |number| {
        let ask = Ask::batch(&key, number);
        gate.ask(0, &client, ask.media_type, &ask.body).await
    };
    let whole = async || {
        let reply = ask(1).await;
        assert_eq!(reply.status, StatusCode::OK);
        reply.header("ratelimit-policy").to_owned()
    };
    assert_eq!(whole().await, r#""daily";q=2000;w=86400"#);
    for _ in 0..19 {
        assert_eq!(ask(100).await.status, StatusCode::OK);
    }
    assert_eq!(ask(100).await.slug(), "allowance-used-up", "1,901 are taken");
    assert_eq!(whole().await, r#""daily";q=2000;w=86400"#);

    let next_day = async || {
        // Things of yesterday are of no use tomorrow.
        let sql = "DELETE FROM aas.issued WHERE day < (now() AT TIME ZONE 'UTC')::date;
                   UPDATE aas.issued SET day = day - 1; UPDATE aas.requests SET day = day - 1";
        gate.admin.batch_execute(sql).await.unwrap();
    };
    for expected in [4000, 6000, 8000, 10_000, 10_000, 10_000] {
        next_day().await;
        for _ in 0..2 {
            assert_eq!(whole().await, format!(r#""daily";q={expected};w=86400"#));
        }
    }
    let days: i32 = gate.value("SELECT days FROM aas.takers").await;
    assert_eq!(days, 5, "nothing is counted once it has the whole allowance");

    // The operator's word for this user counts from the first day.
    let bob = gate.client("bob").await;
    gate.admin.execute("SELECT operator.set_allowance(5000, user_name => 'bob')", &[]).await.unwrap();
    let request = Ask::batch(&key, 1);
    let reply = gate.ask(0, &bob, request.media_type, &request.body).await;
    assert_eq!(reply.header("ratelimit-policy"), r#""daily";q=5000;w=86400"#);
    for bad in ["0", "-1", "NULL"] {
        let set = format!("SELECT operator.set_new_user_allowance({bad})");
        assert!(gate.admin.execute(&set, &[]).await.is_err(), "{bad}");
    }
}
