//! The operator acts and looks with SQL (AAS-2, AAS-5).

use postern_protocol::token::TokenType;
use postern_tests_kit::{Ask, HOME, World, eventually, postern};
use reqwest::StatusCode;

#[tokio::test]
async fn at_price_0_an_endpoint_asks_for_a_token_and_leaves_it_unspent() {
    let gate = World::builder().start().await;
    let client = gate.client("alice").await;
    let key = gate.issuer_key(TokenType::PrivateRistretto255).await;
    let token = gate.tokens(0, &client, &Ask::batch(&key, 1)).await.remove(0);
    let operator = gate.cluster.connect_as("postern_operator").await;
    operator.execute("SELECT operator.set_price('ds.reserve_group_id', 0)", &[]).await.unwrap();
    for _ in 0..2 {
        assert_eq!(gate.spend(0, &token).await.status, StatusCode::CREATED);
    }
    assert_eq!(gate.spend(0, &[]).await.slug(), "token-required");
    operator.execute("SELECT operator.set_price('ds.reserve_group_id', 1)", &[]).await.unwrap();
    assert_eq!(gate.spend(0, &token).await.status, StatusCode::CREATED);
    assert_eq!(gate.spend(0, &token).await.slug(), "token-spent");
    for bad in
        ["'ds.reserve_group', 0", "'aas.settle_token', 0", "'qs.deposit', NULL", "'qs.deposit', 2", "NULL, 1"]
    {
        assert!(operator.execute(&format!("SELECT operator.set_price({bad})"), &[]).await.is_err(), "{bad}");
    }
}

#[tokio::test]
async fn use_is_shown_by_endpoint_and_price_class_and_names_nobody() {
    let mut gate = World::builder().start().await;
    let client = gate.client("alice").await;
    let key = gate.issuer_key(TokenType::PrivateRistretto255).await;
    let tokens = gate.tokens(0, &client, &Ask::batch(&key, 10)).await;
    for token in &tokens[..3] {
        gate.spend(0, token).await;
    }
    assert_eq!(gate.spend(0, &tokens[0]).await.slug(), "token-spent");
    // A server records its counts before it ends.
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
    for (days, left) in [(700, 1), (100, 0)] {
        let pass = format!(
            "UPDATE aas.issued_in_all SET day = day - {days}; UPDATE aas.token_use SET day = day - {days};
             SELECT aas.clean_up()"
        );
        gate.admin.batch_execute(&pass).await.unwrap();
        for table in ["aas.issued_in_all", "aas.token_use"] {
            assert_eq!(gate.count(table).await, left, "{table} after {days} days more");
        }
    }
    let keys =
        monitor.query("SELECT token_type, spent_bytes FROM operator.issuer_keys()", &[]).await.unwrap();
    assert_eq!(keys.len(), 3);
    assert!(keys.iter().all(|row| row.get::<_, i64>(1) > 0));
}

#[tokio::test]
async fn migrating_again_leaves_prices_as_the_operator_set_them_and_mends_the_list() {
    let gate = World::builder().servers(0).start().await;
    let operator = gate.cluster.connect_as("postern_operator").await;
    operator.execute("SELECT operator.set_price('qs.dequeue', 0)", &[]).await.unwrap();
    // As an older version left it: an endpoint that is gone, and none of one that is new.
    gate.admin
        .batch_execute(
            "INSERT INTO aas.prices VALUES ('qs.withdraw', 0);
             DELETE FROM aas.prices WHERE endpoint = 'qs.deposit';
             UPDATE operator.schema_state SET functions_hash = sha256('')",
        )
        .await
        .unwrap();
    let migrated = postern()
        .args(["migrate", "--domain", HOME, "--database-admin-url", &gate.cluster.admin_url()])
        .status()
        .await;
    assert!(migrated.expect("postern runs").success());
    let price = "SELECT array_agg(price ORDER BY endpoint) FROM operator.prices()
                  WHERE endpoint IN ('qs.dequeue', 'qs.withdraw', 'qs.deposit')";
    assert_eq!(gate.value::<Vec<i16>>(price).await, [1, 0], "qs.deposit, qs.dequeue");
}

#[tokio::test]
async fn key_rotation_is_set_and_read_and_holds_for_the_next_key() {
    let gate = World::builder().start().await;
    let operator = gate.cluster.connect_as("postern_operator").await;
    let rotation = async || {
        let row = operator.query_one("SELECT * FROM operator.key_rotation()", &[]).await.unwrap();
        (row.get::<_, i32>(0), row.get::<_, i32>(1), row.get::<_, i32>(2))
    };
    assert_eq!(rotation().await, (30, 7, 60));
    operator.execute("SELECT operator.set_key_rotation(20, 5, 10)", &[]).await.unwrap();
    operator.execute("SELECT operator.set_key_rotation(overlap_days => 4)", &[]).await.unwrap();
    assert_eq!(rotation().await, (20, 4, 10));
    for bad in ["9", "366", "NULL, 2", "NULL, 10", "NULL, NULL, 0", "NULL, NULL, 366"] {
        let refused = operator.execute(&format!("SELECT operator.set_key_rotation({bad})"), &[]).await;
        let hint = refused.unwrap_err().as_db_error().and_then(|error| error.hint().map(str::to_owned));
        assert!(hint.is_some_and(|hint| hint.contains("10 to 365")), "{bad}");
    }
    assert_eq!(rotation().await, (20, 4, 10));
    operator.execute("SELECT operator.rotate_issuer_keys()", &[]).await.unwrap();
    eventually("new keys are made", async || {
        let count = "SELECT count(*) FROM operator.issuer_keys()";
        (gate.value::<i64>(count).await == 6).then_some(())
    })
    .await;
    let wrong = "SELECT count(*) FROM operator.issuer_keys()
                  WHERE not_before > (now() AT TIME ZONE 'UTC')::date
                    AND (not_after - not_before, retires - not_after) <> (20, 10)";
    assert_eq!(gate.value::<i64>(wrong).await, 0);
    let overlap = "SELECT max(not_after - (now() AT TIME ZONE 'UTC')::date) FROM operator.issuer_keys()
                    WHERE not_before <= (now() AT TIME ZONE 'UTC')::date";
    assert_eq!(gate.value::<i32>(overlap).await, 4, "the old ones go on for the overlap");
}

/// Functions that show something are called with no argument, and answer those that the list of privileges names.
#[tokio::test]
async fn everything_that_shows_something_answers_the_operator_and_the_monitor_as_far_as_they_may() {
    let world = World::builder().pushing().tokens(10).start().await;
    let showing = world
        .admin
        .query(
            "SELECT p.proname::text, has_function_privilege('postern_operator', p.oid, 'EXECUTE'),
                    has_function_privilege('postern_monitor', p.oid, 'EXECUTE')
               FROM pg_proc p
              WHERE p.pronamespace = 'operator'::regnamespace AND p.provolatile = 's'
                AND p.pronargs = p.pronargdefaults",
            &[],
        )
        .await
        .unwrap();
    let operator = world.cluster.connect_as("postern_operator").await;
    let monitor = world.cluster.connect_as("postern_monitor").await;
    let mut names = Vec::new();
    for row in &showing {
        let name: String = row.get(0);
        for (client, may) in [(&operator, row.get::<_, bool>(1)), (&monitor, row.get(2))] {
            let answer = client.query(&format!("SELECT * FROM operator.{name}()"), &[]).await;
            assert_eq!(answer.is_ok(), may, "{name}: {answer:?}");
        }
        names.push(name);
    }
    for expected in [
        "users",
        "invites",
        "registration_policy",
        "reserved_names",
        "user_limits",
        "wrong_proofs",
        "signing_keys",
        "signing_key_rotation",
        "root_key",
        "sender_keys",
        "application_server_keys",
        "issuer_keys",
        "current_master_key",
        "allowances",
        "rendezvous_limits",
    ] {
        assert!(names.iter().any(|name| name == expected), "{expected} is not among {names:?}");
    }
    // The keys of each service are shown, and the master key by its id, while nothing replaces it.
    for keys in ["signing_keys", "sender_keys", "application_server_keys", "issuer_keys"] {
        assert!(world.count(&format!("operator.{keys}()")).await > 0, "{keys}");
    }
    let shown = "SELECT key_id IS NOT NULL AND previous_id IS NULL FROM operator.current_master_key()";
    assert!(monitor.query_one(shown, &[]).await.unwrap().get::<_, bool>(0));
}
