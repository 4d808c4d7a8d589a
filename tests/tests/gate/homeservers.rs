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
    let gate = World::builder().servers(2).patient().start().await;
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
async fn nothing_is_computed_for_a_homeserver_that_its_allowance_does_not_pay_for() {
    let gate = World::builder().start().await;
    let operator = gate.cluster.connect_as("postern_operator").await;
    let key = gate.issuer_key(TokenType::PrivateRistretto255).await;
    let homeserver = SigningKey::generate();
    judge(&operator, "trust", ELSEWHERE, &homeserver).await.unwrap();
    let allow = async |tokens: i32| {
        let set = "SELECT operator.set_allowance($1, domain => 'elsewhere.example')";
        operator.execute(set, &[&tokens]).await.unwrap();
    };
    // Its last element is none, which takes a look at all of them to tell.
    let ask = || {
        let mut ask = Ask::batch(&key, 100);
        let end = ask.body.len() - 32;
        ask.body[end..].fill(0xff);
        ask
    };
    allow(0).await;
    let ask_in_vain = ask();
    let reply = gate.ask(0, &homeserver, ask_in_vain.media_type, &ask_in_vain.body).await;
    assert!(reply.is_problem("allowance-used-up"), "the elements were looked at: {}", reply.text());
    allow(150).await;
    let ask_wrongly = ask();
    let reply = gate.ask(0, &homeserver, ask_wrongly.media_type, &ask_wrongly.body).await;
    assert!(reply.is_problem("invalid-token-request"), "{}", reply.text());
    let another = Ask::batch(&key, 100);
    let reply = gate.ask(0, &homeserver, another.media_type, &another.body).await;
    assert!(reply.is_problem("allowance-used-up"), "the wrong one took its part: {}", reply.text());
    assert_eq!(gate.tokens(0, &homeserver, &Ask::batch(&key, 10)).await.len(), 10);
}

#[tokio::test]
async fn a_domain_that_nobody_here_has_to_do_with_has_few_tokens_and_more_with_each_day() {
    let gate = World::builder().start().await;
    let operator = gate.cluster.connect_as("postern_operator").await;
    let key = gate.issuer_key(TokenType::PrivateRistretto255).await;
    let homeserver = SigningKey::generate();
    judge(&operator, "trust", ELSEWHERE, &homeserver).await.unwrap();
    operator.execute("SELECT operator.set_new_homeserver_allowance(100)", &[]).await.unwrap();
    operator.execute("SELECT operator.set_homeserver_allowance(5000)", &[]).await.unwrap();
    let allowance = async || {
        let ask = Ask::batch(&key, 1);
        let reply = gate.ask(0, &homeserver, ask.media_type, &ask.body).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        reply.header("ratelimit-policy").to_owned()
    };
    assert_eq!(allowance().await, r#""daily";q=100;w=86400"#);
    let many = Ask::batch(&key, 100);
    let reply = gate.ask(0, &homeserver, many.media_type, &many.body).await;
    assert!(reply.is_problem("allowance-used-up"), "{}", reply.text());
    let deliver = "INSERT INTO federation.neighbours (domain, first_success, last_success)
                   VALUES ($1::text, operator.today(), operator.today())";
    gate.admin.execute(deliver, &[&ELSEWHERE]).await.unwrap();
    assert_eq!(allowance().await, r#""daily";q=100;w=86400"#, "it took its first delivery today");
    let pass = "UPDATE federation.neighbours SET first_success = first_success - 1";
    gate.admin.execute(pass, &[]).await.unwrap();
    assert_eq!(allowance().await, r#""daily";q=1000;w=86400"#);
    gate.admin.execute(pass, &[]).await.unwrap();
    assert_eq!(allowance().await, r#""daily";q=5000;w=86400"#, "no more than each domain has");
    // The operator knows it.
    gate.admin.execute("DELETE FROM federation.neighbours", &[]).await.unwrap();
    assert_eq!(allowance().await, r#""daily";q=100;w=86400"#);
    operator.execute("SELECT operator.allow_domain($1)", &[&ELSEWHERE]).await.unwrap();
    assert_eq!(allowance().await, r#""daily";q=5000;w=86400"#);
    for bad in ["0", "-1", "NULL"] {
        let set = format!("SELECT operator.set_new_homeserver_allowance({bad})");
        assert!(operator.execute(&set, &[]).await.is_err(), "{bad}");
    }
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
    // One of a blocked domain is told so, as at the gateway.
    operator.execute("SELECT operator.block_domain($1)", &[&ELSEWHERE]).await.unwrap();
    for server in [0, 1] {
        let ask = Ask::batch(&key, 1);
        let reply = gate.ask(server, &homeserver, ask.media_type, &ask.body).await;
        assert!(reply.is_problem("homeserver-blocked"), "{}", reply.text());
    }
    operator.execute("SELECT operator.drop_domain_rule($1)", &[&ELSEWHERE]).await.unwrap();
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
