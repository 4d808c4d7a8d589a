//! A request asks the database for little: one statement to read and one to write for each of
//! the DS (DS-5), counted by PostgreSQL itself.

use postern_client::{Change, Request};
use postern_tests_kit::{Server, World, befriend};
use tokio_postgres::Client as Connection;

/// How often each request is counted, at most. By the clock the server executes statements, too, among them one for deliveries
/// each second, but not with each request: the fewest are the request's own.
const TIMES: usize = 60;
/// The statements of a request: it reads once and writes once.
const STATEMENTS: i64 = 2;

/// How many statements the server has executed since the last call, without some of those by the clock.
async fn statements(admin: &Connection) -> i64 {
    let row = admin
        .query_one(
            "SELECT coalesce(sum(calls), 0)::bigint
               FROM pg_stat_statements s
               JOIN pg_roles r ON r.oid = s.userid
              WHERE r.rolname = 'postern_server' AND s.toplevel
                AND s.query !~ '^(NOTIFY postern_echo|SELECT operator.current_key_version|SELECT migration, functions_hash)'",
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

    let group = alice.group_with_id(&group);
    // Pays for a request, and counts.
    let sent = async |request: &Request| {
        let token = alice.wallet().take().await.unwrap();
        statements(admin).await;
        alice.http().send_once(&request.clone().paid_with(token)).await.unwrap();
        statements(admin).await
    };
    let (mut messages, mut commits, mut repeats) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TIMES {
        let message = group.prepare_text("one read, one write").await.unwrap();
        messages.push(sent(&message.request).await);
        group.confirm().await.unwrap();

        let commit = group.prepare(&Change::Update).await.unwrap();
        commits.push(sent(&commit.request).await);
        // Its repeat: the state is read, the token is spent, nothing else.
        repeats.push(sent(&commit.request).await);
        group.confirm().await.unwrap();
        if [&messages, &commits, &repeats].iter().all(|counts| counts.contains(&STATEMENTS)) {
            break;
        }
    }
    for (what, counts) in
        [("an application message", messages), ("a commit", commits), ("a repeated commit", repeats)]
    {
        assert_eq!(counts.iter().min(), Some(&STATEMENTS), "{what}: {counts:?}");
    }
}
