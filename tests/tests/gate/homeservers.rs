//! Homeservers of other domains have tokens by their keys (AAS-2), which the operator pins.

use futures_util::future::join_all;
use postern_protocol::{key::SigningKey, token::TokenType};
use postern_tests_kit::{Ask, HOME, World};
use reqwest::StatusCode;
use tokio_postgres::Client as Connection;

const ELSEWHERE: &str = "elsewhere.example";

/// The operator trusts or distrusts a key (`what`).
async fn judge(operator: &Connection, what: &str, domain: &str, key: &SigningKey) -> Result<(), String> {
    let sql = format!("SELECT operator.{what}_homeserver_key($1, $2)");
    let key = key.public_key();
    let done = operator.execute(&sql, &[&domain, &key.as_bytes().as_slice()]).await;
    done.map(drop).map_err(|error| error.as_db_error().expect("PostgreSQL answers").message().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_homeserver_takes_from_its_domains_allowance_and_its_tokens_pay() {
    let gate = World::builder().servers(2).start().await;
    let operator = gate.cluster.connect_as("postern_operator").await;
    let (key, of_batch) = (gate.issuer_key(TokenType::PrivateRistretto255).await, Ask::batch);
    // Keys rotate, so a domain has several; the allowance is the domain's.
    let (old, new, other) = (SigningKey::generate(), SigningKey::generate(), SigningKey::generate());
    judge(&operator, "trust", ELSEWHERE, &old).await.unwrap();
    judge(&operator, "trust", ELSEWHERE, &new).await.unwrap();
    judge(&operator, "trust", "third.example", &other).await.unwrap();
    operator.execute("SELECT operator.set_homeserver_allowance(200)", &[]).await.unwrap();
    operator.execute("SELECT operator.set_allowance(1)", &[]).await.unwrap();

    let asks: Vec<Ask> = (0..30).map(|_| of_batch(&key, 10)).collect();
    let replies = join_all(asks.iter().enumerate().map(|(index, ask)| {
        gate.ask(index % 2, if index % 3 == 0 { &old } else { &new }, ask.media_type, &ask.body)
    }))
    .await;
    let granted = replies.iter().filter(|reply| reply.status == StatusCode::OK).count();
    let used_up = replies.iter().filter(|reply| reply.is_problem("allowance-used-up")).count();
    assert_eq!(
        (granted, used_up),
        (20, 10),
        "never more than the allowance, even at once and at several servers"
    );
    assert!(replies.iter().all(|reply| reply.header("ratelimit-policy") == r#""daily";q=200;w=86400"#));
    let refused = replies.iter().find(|reply| reply.status == StatusCode::TOO_MANY_REQUESTS).unwrap();
    assert!((1..=86_400).contains(&refused.header("retry-after").parse::<u32>().unwrap()));

    let (ask, reply) = asks.iter().zip(&replies).find(|(_, reply)| reply.status == StatusCode::OK).unwrap();
    let tokens = ask.open(&reply.body);
    assert_eq!(gate.spend(0, &tokens[0]).await.status, StatusCode::CREATED);
    assert_eq!(gate.spend(1, &tokens[0]).await.slug(), "token-spent");
    // A repeat, by either key, gives the same tokens for nothing.
    let again = gate.ask(1, &new, ask.media_type, &ask.body).await;
    assert_eq!(ask.open(&again.body), tokens);

    // Another domain has its own, and may be given another one.
    assert_eq!(gate.tokens(0, &other, &of_batch(&key, 100)).await.len(), 100);
    let set = "SELECT operator.set_allowance(210, domain => 'elsewhere.example')";
    operator.execute(set, &[]).await.unwrap();
    assert_eq!(gate.tokens(1, &old, &of_batch(&key, 10)).await.len(), 10);
    let ask = of_batch(&key, 1);
    assert!(gate.ask(1, &old, ask.media_type, &ask.body).await.is_problem("allowance-used-up"));
    assert_eq!(gate.issued().await, 310);
}

#[tokio::test]
async fn an_unknown_and_a_distrusted_homeserver_are_not_allowed_at_once_on_every_process() {
    let gate = World::builder().servers(2).start().await;
    let operator = gate.cluster.connect_as("postern_operator").await;
    let key = gate.issuer_key(TokenType::PrivateRistretto255).await;
    let homeserver = SigningKey::generate();
    let allowed = async || {
        let mut answers = Vec::new();
        for server in [0, 1] {
            let ask = Ask::batch(&key, 1);
            let reply = gate.ask(server, &homeserver, ask.media_type, &ask.body).await;
            assert!(reply.status == StatusCode::OK || reply.is_problem("not-allowed"), "{}", reply.text());
            answers.push(reply.status == StatusCode::OK);
        }
        answers
    };
    assert_eq!(allowed().await, [false, false], "unknown");
    judge(&operator, "distrust", ELSEWHERE, &homeserver).await.unwrap();
    assert_eq!(allowed().await, [false, false], "distrusted before it was known");
    judge(&operator, "trust", ELSEWHERE, &homeserver).await.unwrap();
    assert_eq!(allowed().await, [true, true]);
    judge(&operator, "distrust", ELSEWHERE, &homeserver).await.unwrap();
    assert_eq!(allowed().await, [false, false], "distrusted");
    assert_eq!(gate.issued().await, 2);

    let monitor = gate.cluster.connect_as("postern_monitor").await;
    let row = monitor.query_one("SELECT * FROM operator.homeserver_keys()", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>("domain"), ELSEWHERE);
    assert_eq!(row.get::<_, &[u8]>("public_key"), homeserver.public_key().as_bytes());
    let distrusted = "SELECT distrusted = pinned FROM operator.homeserver_keys()";
    assert!(gate.value::<bool>(distrusted).await, "on the day on which it was pinned");
}

#[tokio::test]
async fn a_homeserver_key_is_of_one_domain_which_is_not_the_home_domain() {
    let gate = World::builder().servers(0).start().await;
    let operator = gate.cluster.connect_as("postern_operator").await;
    let key = SigningKey::generate();
    let none_yet = judge(&operator, "trust", ELSEWHERE, &key).await.unwrap_err();
    assert!(none_yet.contains("home domain, once that is set"), "{none_yet}");
    gate.admin.execute("SELECT operator.claim_home_domain($1)", &[&HOME]).await.unwrap();
    judge(&operator, "trust", ELSEWHERE, &key).await.unwrap();
    for what in ["trust", "distrust"] {
        let home = judge(&operator, what, HOME, &SigningKey::generate()).await.unwrap_err();
        assert!(home.contains("other domains than the home domain"), "{home}");
        let another = judge(&operator, what, "third.example", &key).await.unwrap_err();
        assert!(another.contains("pinned to another domain"), "{another}");
        assert!(judge(&operator, what, "Elsewhere.example", &key).await.is_err(), "no domain name");
        let sql = format!("SELECT operator.{what}_homeserver_key('elsewhere.example', '\\x00')");
        assert!(operator.execute(&sql, &[]).await.is_err(), "no Ed25519 key");
    }
    // The table itself refuses, for every role.
    for sql in [
        format!("UPDATE federation.homeserver_keys SET domain = '{HOME}'"),
        "UPDATE federation.homeserver_keys SET domain = 'third.example'".to_owned(),
        "UPDATE federation.homeserver_keys SET public_key = sha256('')".to_owned(),
        format!("INSERT INTO federation.homeserver_keys VALUES (sha256(''), '{HOME}', current_date)"),
    ] {
        assert!(gate.admin.execute(&sql, &[]).await.is_err(), "{sql}");
    }
}
