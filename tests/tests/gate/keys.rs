//! Issuer keys come, overlap, retire and go (AAS-5).

use postern_protocol::token::{self, TOKEN_TYPES, TokenType};
use postern_tests_kit::{Ask, Call, Cluster, Server, World, bytes_of, eventually, now};
use reqwest::StatusCode;

const RISTRETTO255: TokenType = TokenType::PrivateRistretto255;

/// A server's offer to a client without a token.
async fn challenge(gate: &World, server: usize) -> String {
    let reply = gate.way(server).send(&Call::post("/ds/group-ids").wire()).await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    reply.header("www-authenticate").to_owned()
}

async fn directory_has(gate: &World, server: usize, keys: usize) {
    eventually("the directory has the keys", async || {
        (gate.issuer_keys(server, RISTRETTO255).await.len() == keys).then_some(())
    })
    .await;
}

#[tokio::test]
async fn servers_that_start_at_once_on_a_new_database_make_one_key_of_each_type() {
    let cluster = Cluster::start().await;
    let (one, two, three) =
        tokio::join!(Server::start(&cluster), Server::start(&cluster), Server::start(&cluster));
    let admin = cluster.admin().await;
    let keys: i64 = admin.query_one("SELECT count(*) FROM aas.issuer_keys", &[]).await.unwrap().get(0);
    assert_eq!(keys, TOKEN_TYPES.len() as i64);
    let mut directories = Vec::new();
    for server in [&one, &two, &three] {
        let url = format!("{}{}", server.url(), token::DIRECTORY_PATH);
        directories.push(reqwest::get(url).await.unwrap().text().await.unwrap());
    }
    directories.dedup();
    assert_eq!(directories.len(), 1);
}

#[tokio::test]
async fn a_key_is_published_before_its_use_overlaps_with_the_next_and_retires() {
    let gate = World::builder().servers(2).start().await;
    let client = gate.client("alice").await;
    let old = gate.issuer_key(RISTRETTO255).await;
    let ask = |key: &[u8]| Ask::batch(key, 10);
    let mut tokens = gate.tokens(0, &client, &ask(&old)).await;
    assert_eq!(gate.spend(1, &tokens.pop().unwrap()).await.status, StatusCode::CREATED);

    let before = now();
    gate.admin.execute("SELECT operator.rotate_issuer_keys()", &[]).await.unwrap();
    directory_has(&gate, 0, 2).await;
    directory_has(&gate, 1, 2).await;
    let rows: i64 = gate.value("SELECT count(*) FROM aas.issuer_keys").await;
    assert_eq!(rows, 6, "one new key of each type, whichever server made it");
    let new = gate.issuer_keys(0, RISTRETTO255).await.remove(0);
    assert!(new.not_before.unwrap() >= before + 60 * 60, "after every cached directory ran out");
    assert_eq!(gate.issuer_key(RISTRETTO255).await, old, "until then the old one is used");
    assert!(challenge(&gate, 0).await.contains(&gate.issuer_keys(0, RISTRETTO255).await[1].token_key));
    gate.tokens(1, &client, &ask(&old)).await;

    // In the overlap both issue, and the new one is offered.
    gate.pass_days(3).await;
    for server in [0, 1] {
        eventually("the new key is offered", async || {
            challenge(&gate, server).await.contains(&new.token_key).then_some(())
        })
        .await;
    }
    for key in [&old, &bytes_of(&new)] {
        let mut tokens = gate.tokens(1, &client, &ask(key)).await;
        assert_eq!(gate.spend(0, &tokens.pop().unwrap()).await.status, StatusCode::CREATED);
    }

    // Then the old one only redeems.
    gate.pass_days(5).await;
    directory_has(&gate, 0, 1).await;
    let stale = ask(&old);
    let reply = gate.ask(0, &client, stale.media_type, &stale.body).await;
    assert_eq!((reply.status, reply.slug()), (StatusCode::UNPROCESSABLE_ENTITY, "unknown-token-key"));
    assert_eq!(gate.spend(0, &tokens.pop().unwrap()).await.status, StatusCode::CREATED);

    // Then nothing; what was spent goes in one stroke.
    gate.pass_days(85).await;
    let last = tokens.pop().unwrap();
    eventually("the old key retired", async || {
        (gate.spend(0, &last).await.status == StatusCode::UNAUTHORIZED).then_some(())
    })
    .await;
    let drop_one = "SELECT outcome::text FROM aas.drop_retired_key()";
    eventually("nothing retired is left", async || {
        (gate.value::<String>(drop_one).await == "none").then_some(())
    })
    .await;
    assert!(!gate.value::<bool>("SELECT EXISTS (SELECT FROM aas.issuer_keys WHERE issuer_key <= 3)").await);
    assert!(!gate.value::<bool>("SELECT to_regclass('aas.spent_1') IS NOT NULL").await);
}

#[tokio::test]
async fn a_revoked_key_is_worth_nothing_at_once_and_a_new_one_is_in_use() {
    let gate = World::builder().servers(2).start().await;
    let client = gate.client("alice").await;
    let old = gate.issuer_key(RISTRETTO255).await;
    let token = gate.tokens(0, &client, &Ask::batch(&old, 1)).await.remove(0);
    gate.admin.execute("SELECT operator.rotate_issuer_keys(revoke => true)", &[]).await.unwrap();
    eventually("a new key is in use on both", async || {
        let (one, two) = (gate.issuer_keys(0, RISTRETTO255).await, gate.issuer_keys(1, RISTRETTO255).await);
        (one == two && one.len() == 1 && bytes_of(&one[0]) != old).then_some(())
    })
    .await;
    for server in [0, 1] {
        assert_eq!(gate.spend(server, &token).await.slug(), "token-required");
    }
    let new = gate.issuer_key(RISTRETTO255).await;
    let token = gate.tokens(0, &client, &Ask::batch(&new, 1)).await.remove(0);
    assert_eq!(gate.spend(1, &token).await.status, StatusCode::CREATED);
}

/// A notification can be missed, as when the listening connection is just lost: a request that names the key makes the
/// server look for it.
#[tokio::test]
async fn a_key_that_no_notification_told_of_is_found_when_a_token_or_a_request_names_it() {
    let gate = World::builder().servers(2).start().await;
    let client = gate.client("alice").await;
    let key = gate.issuer_key(RISTRETTO255).await;
    let tokens = gate.tokens(0, &client, &Ask::batch(&key, 10)).await;
    let (spend, ask) = (|| gate.spend(0, &tokens[0]), Ask::batch(&key, 1));
    let issue = || gate.ask(1, &client, ask.media_type, &ask.body);

    // Both servers lose the key, which retires today.
    let hide = "UPDATE aas.issuer_keys SET not_before = not_before - 90, not_after = not_after - 90,
                                           retires = retires - 90 WHERE token_type = 5;
                NOTIFY postern_issuer_keys";
    gate.admin.batch_execute(hide).await.unwrap();
    for server in [0, 1] {
        eventually("the key is gone, and has a successor", async || {
            let keys = gate.issuer_keys(server, RISTRETTO255).await;
            (keys.len() == 1 && bytes_of(&keys[0]) != key).then_some(())
        })
        .await;
    }
    assert_eq!(spend().await.slug(), "token-required");
    assert_eq!(issue().await.slug(), "unknown-token-key");

    // It is there again, and nobody says so.
    let show = "UPDATE aas.issuer_keys SET not_before = not_before + 90, not_after = not_after + 90,
                                           retires = retires + 90 WHERE public_key = $1";
    assert_eq!(gate.admin.execute(show, &[&key]).await.unwrap(), 1);
    // Not more than once a second: else anyone could keep the database busy with made-up keys.
    eventually("the token is good", async || (spend().await.status == StatusCode::CREATED).then_some(()))
        .await;
    eventually("the key issues", async || (issue().await.status == StatusCode::OK).then_some(())).await;
    for server in [0, 1] {
        assert_eq!(gate.issuer_keys(server, RISTRETTO255).await.len(), 2);
    }
}

#[tokio::test]
async fn a_key_that_was_made_while_a_clock_was_ahead_is_not_shown() {
    let gate = World::start().await;
    let old = gate.issuer_key(RISTRETTO255).await;
    gate.admin.execute("SELECT operator.rotate_issuer_keys()", &[]).await.unwrap();
    directory_has(&gate, 0, 2).await;
    let far = bytes_of(&gate.issuer_keys(0, RISTRETTO255).await[0]);
    let ahead = "UPDATE aas.issuer_keys SET not_before = not_before + 400, not_after = not_after + 400,
                                            retires = retires + 400 WHERE public_key = $1";
    assert_eq!(gate.admin.execute(ahead, &[&far]).await.unwrap(), 1);
    gate.admin.batch_execute("NOTIFY postern_issuer_keys").await.unwrap();
    let shown = eventually("another one takes its place", async || {
        let keys: Vec<_> = gate.issuer_keys(0, RISTRETTO255).await.iter().map(bytes_of).collect();
        keys.iter().any(|key| *key != old && *key != far).then_some(keys)
    })
    .await;
    assert_eq!(shown.len(), 2, "clients refuse a third key of a type");
    assert!(!shown.contains(&far));
}

#[tokio::test]
async fn a_key_is_taken_when_due_and_when_its_truncated_id_is_free() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let add = async |public: &[u8]| -> String {
        let sql = "SELECT outcome::text FROM aas.add_issuer_key(5, $1, '\\x00', 3600)";
        admin.query_one(sql, &[&public]).await.unwrap().get(0)
    };
    let truncated = |public: &[u8]| token::token_key_id(public)[31];
    let first = [0u8; 2];
    let collides = (1u16..).map(u16::to_be_bytes).find(|key| truncated(key) == truncated(&first)).unwrap();
    let other = (1u16..).map(u16::to_be_bytes).find(|key| truncated(key) != truncated(&first)).unwrap();
    assert_eq!(add(&first).await, "added");
    assert_eq!(add(&other).await, "not_due");
    admin.execute("SELECT operator.rotate_issuer_keys()", &[]).await.unwrap();
    assert_eq!(add(&collides).await, "collides");
    assert_eq!(add(&other).await, "added");
    assert_eq!(add(&collides).await, "not_due");
}

#[tokio::test]
async fn dropping_a_key_gives_way_to_who_spends() {
    let cluster = Cluster::start().await;
    let (admin, mut spender) = (cluster.admin().await, cluster.admin().await);
    admin.execute("SELECT aas.add_issuer_key(5, '\\x01', '\\x00', 3600)", &[]).await.unwrap();
    admin
        .execute("UPDATE aas.issuer_keys SET not_before = '2000-01-01', not_after = '2000-01-02', retires = '2000-01-03'", &[])
        .await
        .unwrap();
    let spending = spender.transaction().await.unwrap();
    spending.execute("INSERT INTO aas.spent VALUES (1, sha256('x'))", &[]).await.unwrap();
    let outcome = async || -> String {
        admin.query_one("SELECT outcome::text FROM aas.drop_retired_key()", &[]).await.unwrap().get(0)
    };
    assert_eq!(outcome().await, "busy");
    spending.commit().await.unwrap();
    assert_eq!(outcome().await, "dropped");
    assert_eq!(outcome().await, "none");
}
