//! A request asks the database for little: one statement to read and one to write for each of
//! the DS (DS-5), counted by PostgreSQL itself.

use postern_client::Change;
use postern_tests_kit::{Server, World, befriend};
use tokio_postgres::Client as Connection;

/// How many statements the server has executed for requests since the last call. By the clock, it calls itself and looks
/// for changed keys.
async fn statements(admin: &Connection) -> i64 {
    let row = admin
        .query_one(
            "SELECT coalesce(sum(calls), 0)::bigint
               FROM pg_stat_statements s
               JOIN pg_roles r ON r.oid = s.userid
              WHERE r.rolname = 'postern_server' AND s.toplevel
                AND s.query !~ '^(NOTIFY postern_echo|SELECT operator.current_key_version)'",
            &[],
        )
        .await
        .unwrap();
    admin.execute("SELECT pg_stat_statements_reset()", &[]).await.unwrap();
    row.get(0)
}

#[tokio::test]
async fn a_ds_request_reads_once_and_writes_once() {
    let mut world = World::builder().servers(0).start().await;
    for setup in [
        "CREATE EXTENSION pg_stat_statements",
        "ALTER SYSTEM SET shared_preload_libraries = 'postern', 'pg_stat_statements'",
    ] {
        world.admin.execute(setup, &[]).await.unwrap();
    }
    world.cluster.kill_postgres();
    world.cluster.restart().await;
    world.reconnect().await;
    // One connection: what it has asked PostgreSQL about types and statements once, it does not ask again.
    let server = Server::builder(&world.cluster).env("POSTERN_DATABASE_POOL_SIZE", "1");
    world.servers.push(server.start().await);
    let admin = &world.admin;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let group = alice.create_group("counted").await.unwrap().id().clone();
    befriend(&alice, &bob, &group).await;

    // An application message.
    let message = alice.group_with_id(&group).prepare_text("one read, one write").await.unwrap();
    let token = alice.wallet().take().await.unwrap();
    statements(admin).await;
    alice.http().send_once(&message.request.paid_with(token)).await.unwrap();
    assert_eq!(statements(admin).await, 2, "an application message");
    alice.group_with_id(&group).confirm().await.unwrap();

    // A commit.
    let commit = alice.group_with_id(&group).prepare(&Change::Update).await.unwrap();
    let token = alice.wallet().take().await.unwrap();
    let (again, once_more) = (alice.wallet().take().await.unwrap(), alice.wallet().take().await.unwrap());
    statements(admin).await;
    alice.http().send_once(&commit.request.clone().paid_with(token)).await.unwrap();
    assert_eq!(statements(admin).await, 2, "a commit");

    // Its repeat: the state is read, the token is spent, nothing else. The second one, since the connection meets the
    // type of that function's outcome with the first.
    alice.http().send_once(&commit.request.clone().paid_with(again)).await.unwrap();
    statements(admin).await;
    alice.http().send_once(&commit.request.paid_with(once_more)).await.unwrap();
    assert_eq!(statements(admin).await, 2, "a repeated commit");
    alice.group_with_id(&group).confirm().await.unwrap();
}
