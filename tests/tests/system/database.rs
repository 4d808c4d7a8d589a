//! A database that falls silent, works for too long, or has other defaults: the server answers, and comes back (OPS-9).

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use postern_protocol::{problem::ProblemType, qs::QueueKind, token::TokenType};
use postern_server::{
    config::{ConnectionString, DatabaseConfig},
    database::{Database, DatabaseError},
};
use postern_tests_kit::{
    Ask, Call, Cluster, HOME, PATIENCE, PgBouncer, PostgresLine, Server, World, befriend, eventually, postern,
};
use reqwest::StatusCode;
use tokio::{task::JoinHandle, time::timeout};
use tokio_postgres::Client;

/// The time within which everything is answered, whatever the database does.
const SECONDS: Duration = Duration::from_secs(40);
/// Far longer than what needs no waiting takes on a busy machine, and shorter than any bound of the servers under test.
const AT_ONCE: Duration = Duration::from_secs(15);

/// A world with one server, whose statements PostgreSQL gives up after so many seconds, that reaches it over a line which
/// can fall silent.
async fn world_on_a_line(statement_seconds: &str) -> (World, PostgresLine) {
    let mut world = World::builder().servers(0).start().await;
    let line = PostgresLine::start(&world.cluster).await;
    // However long new connections take, the requests wait for them.
    let server = Server::builder(&world.cluster)
        .database(&line.server_url())
        .env("POSTERN_DATABASE_WAIT_SECONDS", "20")
        .env("POSTERN_DATABASE_STATEMENT_TIMEOUT_SECONDS", statement_seconds);
    world.servers.push(server.start().await);
    world.stock(50).await;
    (world, line)
}

/// A request that asks the database each time.
fn asking() -> Call {
    Call::get("/as/registration")
}

/// Sends a request until it succeeds, for at most [`SECONDS`] each.
async fn insist(world: &World, call: Call) {
    let mut failures = 0;
    loop {
        let reply = timeout(SECONDS, world.send(&call.wire())).await.expect("it is answered in seconds");
        if reply.status.is_success() {
            return;
        }
        failures += 1;
        reply.assert_problem("a silent database", ProblemType::Unavailable);
        assert!(failures < 20, "it does not come back");
    }
}

/// The number of requests that were given up on a connection that did not answer. A new connection, which some have to wait for,
/// may take too long on a busy machine: that is no silence.
fn given_up(world: &World) -> usize {
    let told = "a request could not be served: PostgreSQL did not answer within";
    world.server().log().matches(told).count()
}

/// By default it would wait for the lock for eight minutes.
#[tokio::test]
async fn a_chore_is_given_up_after_the_time_that_the_operator_set() {
    let world = World::start().await;
    world.admin.batch_execute("BEGIN; LOCK TABLE rendezvous.meetings").await.unwrap();
    let server = Server::builder(&world.cluster).env("POSTERN_DATABASE_CHORE_STATEMENT_TIMEOUT_SECONDS", "1");
    let server = server.start().await;
    let given_up = async || server.log().contains("could not delete rendezvous that are over").then_some(());
    eventually("the chore is given up", given_up).await;
    world.admin.batch_execute("COMMIT").await.unwrap();
}

/// By default PostgreSQL would work on the chore for ten minutes, and the line acknowledges all that is sent.
#[tokio::test(flavor = "multi_thread")]
async fn chores_go_on_soon_after_their_connection_alone_fell_silent_in_the_middle_of_one() {
    let mut world = World::builder().servers(0).start().await;
    let line = PostgresLine::start(&world.cluster).await;
    let mut locking = world.cluster.admin().await;
    let lock = locking.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE rendezvous.meetings").await.unwrap();
    let server = Server::builder(&world.cluster).database(&line.server_url());
    world.servers.push(server.start().await);
    let chores = "pg_stat_activity WHERE usename = 'postern_server' AND query LIKE '%rendezvous.clean_up()%'";
    let waiting = format!("{chores} AND wait_event_type = 'Lock'");
    eventually("the chore waits", async || (world.count(&waiting).await == 1).then_some(())).await;
    line.fall_silent_for("rendezvous.clean_up()").await;
    lock.rollback().await.unwrap();
    let over = format!("{chores} AND state = 'idle'");
    eventually("the chore is over", async || (world.count(&over).await > 0).then_some(())).await;
    // The server does not know. What expires now is for the next time.
    let expired = "INSERT INTO rendezvous.meetings (number, expires, owner_key)
                   VALUES (123456, 0, decode(repeat('00', 32), 'hex'))";
    world.admin.batch_execute(expired).await.unwrap();
    insist(&world, asking()).await;
    assert_eq!(given_up(&world), 0, "no other connection fell silent");
    eventually("the chore is done again", async || {
        (world.count("rendezvous.meetings").await == 0).then_some(())
    })
    .await;
    world.close();
}

#[tokio::test]
async fn chores_are_done_where_nobody_may_look_at_sessions() {
    let cluster = Cluster::start().await;
    let revoke = "REVOKE SELECT ON pg_catalog.pg_stat_activity FROM PUBLIC";
    cluster.admin().await.batch_execute(revoke).await.unwrap();
    let settings = DatabaseConfig::default();
    let database = Database::new(&ConnectionString::new(cluster.server_url()), &settings).unwrap();
    let look = "SELECT FROM pg_catalog.pg_stat_activity LIMIT 1";
    database.query(look, &[]).await.expect_err("it may not");
    let done = database.for_chores().query_one("SELECT 1", &[]).await;
    assert_eq!(done.expect("it is done").get::<_, i32>(0), 1);
}

#[tokio::test]
async fn a_chore_whose_session_cannot_be_looked_at_for_a_fault_fails_and_is_done_when_that_is_over() {
    let cluster = Cluster::start().await;
    let settings = DatabaseConfig::default();
    let database = Database::new(&ConnectionString::new(cluster.server_url()), &settings).unwrap();
    let chore = async || database.for_chores().query_one("SELECT 1", &[]).await;
    let admin = cluster.admin().await;
    let rename = async |from: &str, to: &str| {
        let rename = format!(
            "SET allow_system_table_mods = on; ALTER VIEW pg_catalog.{from} RENAME TO {to}; RESET allow_system_table_mods"
        );
        admin.batch_execute(&rename).await.unwrap();
    };
    rename("pg_stat_activity", "activity_elsewhere").await;
    chore().await.expect_err("nobody would oversee it");
    rename("activity_elsewhere", "pg_stat_activity").await;
    assert_eq!(chore().await.expect("it is done").get::<_, i32>(0), 1);
}

/// Begins a call that lasts until this session gives a lock up.
async fn long_call(database: &Database, admin: &Client) -> JoinHandle<Result<(), DatabaseError>> {
    admin.batch_execute("SELECT pg_advisory_lock(1)").await.unwrap();
    let database = database.clone();
    let call = async move { database.query_one("SELECT pg_advisory_xact_lock(1)", &[]).await.map(drop) };
    let calling = tokio::spawn(call);
    let waiting = "SELECT count(*) FROM pg_stat_activity
                    WHERE usename = 'postern_server' AND wait_event_type = 'Lock'";
    eventually("the call waits", async || {
        (admin.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
    })
    .await;
    calling
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_call_of_a_chore_is_waited_for_while_postgresql_works_on_it_and_no_longer() {
    let cluster = Cluster::start().await;
    let line = PostgresLine::start(&cluster).await;
    let settings = DatabaseConfig { wait_seconds: 60, ..DatabaseConfig::default() };
    let database = Database::new(&ConnectionString::new(line.server_url()), &settings).unwrap().for_chores();
    let admin = cluster.admin().await;
    let unlock = "SELECT pg_advisory_unlock_all()";
    let may_lock = "GRANT EXECUTE ON FUNCTION pg_advisory_xact_lock(bigint) TO postern_server";
    admin.batch_execute(may_lock).await.unwrap();

    let calling = long_call(&database, &admin).await;
    let before = line.connections();
    eventually("it is looked at again and again", async || (line.connections() > before + 2).then_some(()))
        .await;
    admin.batch_execute(unlock).await.unwrap();
    let called = timeout(PATIENCE, calling).await.expect("PostgreSQL answers").unwrap();
    called.expect("it was waited for");

    // PostgreSQL is done with the call, or its session is gone: no answer comes.
    let end_session = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                        WHERE usename = 'postern_server' AND wait_event_type = 'Lock'";
    for end in [unlock, end_session] {
        let calling = long_call(&database, &admin).await;
        line.fall_silent_for("pg_advisory_xact_lock").await;
        admin.batch_execute(end).await.unwrap();
        let called = timeout(PATIENCE, calling).await.expect("it is given up").unwrap();
        assert!(matches!(called, Err(DatabaseError::Silent(_))), "{end}: {called:?}");
        admin.batch_execute(unlock).await.unwrap();
        let next = async || database.query_one("SELECT 1", &[]).await.ok();
        eventually("the next call has another connection", next).await;
    }

    // Nobody waits for the call any more, and its connection is nobody else's until it has answered.
    let calling = long_call(&database, &admin).await;
    line.fall_silent_for("pg_advisory_xact_lock").await;
    calling.abort();
    admin.batch_execute(unlock).await.unwrap();
    let next = async || database.query_one("SELECT 1", &[]).await.ok();
    eventually("the next call has another connection", next).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_fell_silent_while_idle_cost_a_moment() {
    let (world, line) = world_on_a_line("5").await;
    join_all((0..20).map(|_| insist(&world, asking()))).await;
    let mut silent = String::new();
    for _ in 0..2 {
        silent = world.value("SELECT clock_timestamp()::text").await;
        line.fall_silent();
        // Longer than a connection is trusted without a sign of life.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let begun = Instant::now();
        let call = world.paid(Call::post("/ds/group-ids"));
        tokio::join!(insist(&world, call), join_all((0..20).map(|_| insist(&world, asking()))));
        assert_eq!(given_up(&world), 0, "an idle connection is tried before it is used");
        assert!(begun.elapsed() < SECONDS, "after {:?}", begun.elapsed());
    }
    // The listening connection notices, and another takes its place.
    eventually("it listens again", async || {
        world.server().log().contains("cannot listen for notifications").then_some(())
    })
    .await;
    let listening = format!(
        "SELECT count(*) FROM pg_stat_activity
          WHERE query LIKE 'NOTIFY postern_echo%' AND state = 'idle' AND backend_start > '{silent}'"
    );
    eventually("another connection listens", async || {
        (world.value::<i64>(&listening).await > 0).then_some(())
    })
    .await;
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_falls_silent_is_given_up_and_its_token_is_good_again_or_spent_on_it() {
    let (mut world, line) = world_on_a_line("20").await;
    insist(&world, asking()).await;
    // The call waits in PostgreSQL when the line falls silent, and takes place later.
    let admin = world.cluster.admin().await;
    let mut locking = world.cluster.admin().await;
    let lock = locking.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE ds.reservations IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let (way, call) = (world.way(0), world.paid(Call::post("/ds/group-ids")));
    let sent = call.clone();
    let waiting = tokio::spawn(async move { way.send(&sent.wire()).await });
    // On a connection for those that wait, which it leaves after 16 seconds: on the first one it waits for a moment only.
    let waits = "SELECT count(*) FROM pg_stat_activity
                  WHERE wait_event_type = 'Lock' AND clock_timestamp() - query_start > interval '400 milliseconds'";
    eventually("the call waits", async || {
        (admin.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) > 0).then_some(())
    })
    .await;
    line.fall_silent();
    lock.rollback().await.unwrap();
    let begun = Instant::now();
    let reply = timeout(SECONDS, waiting).await.expect("it is answered in seconds").unwrap();
    reply.assert_problem("a silent call", ProblemType::Unavailable);
    assert!(begun.elapsed() > Duration::from_secs(2), "it was no error of the lock: {:?}", begun.elapsed());
    assert_eq!(given_up(&world), 1);

    // The same request again: what it finds is the database's to say.
    let reply = eventually("the database says what became of it", async || {
        let reply = timeout(SECONDS, world.send(&call.wire())).await.expect("it is answered in seconds");
        (reply.status != StatusCode::SERVICE_UNAVAILABLE).then_some(reply)
    })
    .await;
    assert!(
        reply.status == StatusCode::CREATED || reply.slug() == "token-spent",
        "{} {}",
        reply.status,
        reply.text()
    );
    insist(&world, asking()).await;
    assert_eq!(given_up(&world), 1, "no other call is made on what fell silent");
    world.reconnect().await;
    assert_eq!(world.count("ds.reservations").await, 1, "it took place once");
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_waits_for_too_long_is_refused_and_its_token_is_unspent() {
    let world = World::builder().tokens(10).start().await;
    let mut locking = world.cluster.admin().await;
    let lock = locking.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE ds.reservations IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let call = world.paid(Call::post("/ds/group-ids"));
    let reply = timeout(SECONDS, world.send(&call.wire())).await.expect("it is answered in seconds");
    reply.assert_problem("a locked table", ProblemType::Unavailable);
    assert_eq!(reply.header("retry-after"), "1");
    lock.rollback().await.unwrap();
    world.send(&call.wire()).await.assert_ok("the same request with the same token");
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_deliveries_leave_connections_to_others() {
    // Every delivery counts as a heavy one. Reading goes on, delivering waits.
    others_go_on_while_deliveries_wait("1", "LOCK TABLE qs.queues IN EXCLUSIVE MODE").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn light_deliveries_that_meet_a_lock_leave_connections_to_others() {
    others_go_on_while_deliveries_wait("1000000000", "SELECT FROM qs.queues FOR UPDATE").await;
}

async fn others_go_on_while_deliveries_wait(heavy_bytes: &str, lock_all: &str) {
    let world = World::builder()
        .setting("POSTERN_DATABASE_HEAVY_BYTES", heavy_bytes)
        .setting("POSTERN_DATABASE_POOL_SIZE", "4")
        // Those that wait, also for a connection, do so for longer than all that follows takes.
        .setting("POSTERN_DATABASE_WAIT_SECONDS", "60")
        .setting("POSTERN_DATABASE_STATEMENT_TIMEOUT_SECONDS", "75")
        .setting("POSTERN_DATABASE_HEAVY_STATEMENT_TIMEOUT_SECONDS", "75")
        .start()
        .await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let group = alice.create_group("heavy").await.unwrap().id().clone();
    befriend(&alice, &bob, &group).await;
    let message = alice.group_with_id(&group).prepare_text("many times").await.unwrap();
    let mut tokens = Vec::new();
    for _ in 0..12 {
        tokens.push(alice.wallet().take().await.unwrap());
    }
    let mut locking = world.cluster.admin().await;
    let lock = locking.transaction().await.unwrap();
    lock.batch_execute(lock_all).await.unwrap();
    let sending = join_all(tokens.into_iter().map(|token| {
        let (http, request) = (alice.http(), message.request.clone().paid_with(token));
        async move { http.send_once(&request).await.is_ok() }
    }));
    let asking = async {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        eventually("deliveries wait", async || (world.value::<i64>(waits).await > 0).then_some(())).await;
        for _ in 0..10 {
            let begun = Instant::now();
            world.send(&asking().wire()).await.assert_ok("a light request beside heavy deliveries");
            assert!(begun.elapsed() < AT_ONCE, "after {:?}", begun.elapsed());
        }
        lock.rollback().await.unwrap();
    };
    tokio::join!(sending, asking);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dear_call_has_a_lane_of_its_own_and_a_transaction_that_was_given_up_is_repeated() {
    let cluster = Cluster::start().await;
    let settings = DatabaseConfig { pool_size: 4, wait_seconds: 60, ..DatabaseConfig::default() };
    let database = Database::new(&ConnectionString::new(cluster.admin_url()), &settings).unwrap();
    let dear = database.for_bytes(u64::MAX);
    let admin = cluster.admin().await;
    // Dear calls fail where two are made at once, and last until all others were answered.
    admin
        .batch_execute(
            "CREATE TABLE public.answered (number integer);
             CREATE FUNCTION public.dear() RETURNS integer LANGUAGE plpgsql AS $$
             BEGIN
                 IF NOT pg_try_advisory_xact_lock(1) THEN
                     RAISE EXCEPTION 'two at once';
                 END IF;
                 WHILE NOT EXISTS (SELECT FROM public.answered) LOOP
                     PERFORM pg_sleep(0.01);
                 END LOOP;
                 RETURN 1;
             END
             $$",
        )
        .await
        .unwrap();
    let calling = join_all((0..4).map(async |_| {
        dear.query_one("SELECT public.dear()", &[]).await.expect("one after the other");
    }));
    let asking = async {
        let under_way = "SELECT count(*) FROM pg_stat_activity
                          WHERE query LIKE '%public.dear()%' AND wait_event = 'PgSleep'";
        eventually("a dear call is under way", async || {
            (admin.query_one(under_way, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
        })
        .await;
        // With a second connection there, one of these would be under way, and fail.
        eventually("the other dear calls wait for its connection", async || {
            let heavy = database.status().into_iter().find(|status| status.lane == "heavy")?;
            (heavy.waiting == 3).then_some(())
        })
        .await;
        for _ in 0..5 {
            database.query_one("SELECT 1", &[]).await.expect("all others are answered before the dear ones");
        }
        admin.batch_execute("INSERT INTO public.answered VALUES (5)").await.unwrap();
    };
    tokio::join!(calling, asking);

    admin
        .batch_execute(
            "CREATE SEQUENCE public.attempts;
             CREATE FUNCTION public.give_up(times integer, code text) RETURNS bigint LANGUAGE plpgsql AS $$
             DECLARE
                 attempt bigint := nextval('public.attempts');
             BEGIN
                 IF attempt <= times THEN
                     RAISE EXCEPTION 'given up' USING ERRCODE = code;
                 END IF;
                 RETURN attempt;
             END
             $$",
        )
        .await
        .unwrap();
    for (times, code, expected) in
        [(3, "40001", Some(4)), (2, "40P01", Some(3)), (100, "40001", None), (1, "23505", None)]
    {
        admin.batch_execute("ALTER SEQUENCE public.attempts RESTART").await.unwrap();
        let row = database.query_one("SELECT public.give_up($1, $2)", &[&times, &code]).await;
        assert_eq!(row.ok().map(|row| row.get::<_, i64>(0)), expected, "{times} × {code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_has_the_settings_that_it_needs_whatever_the_defaults_are() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    cluster.limit_everybody(3).await;
    for setting in [
        "default_transaction_isolation = 'serializable'",
        "default_transaction_read_only = on",
        "TimeZone = 'Pacific/Kiritimati'",
        "DateStyle = 'German'",
        "bytea_output = 'escape'",
        "statement_timeout = '1d'",
        "idle_session_timeout = '3s'",
    ] {
        admin.batch_execute(&format!("ALTER DATABASE postern SET {setting}")).await.unwrap();
        admin.batch_execute(&format!("ALTER ROLE postern_server SET {setting}")).await.unwrap();
        admin
            .batch_execute(&format!("ALTER ROLE postern_server IN DATABASE postern SET {setting}"))
            .await
            .unwrap();
    }
    drop(admin);
    let mut world = World::builder().servers(0).start().await;
    let server = Server::start(&cluster).await;
    (world.cluster, world.servers) = (cluster, vec![server]);
    // A superuser's session is one of the database's, too.
    let sessions =
        Database::new(&ConnectionString::new(world.cluster.server_url()), &DatabaseConfig::default());
    let row = sessions
        .unwrap()
        .query_one(
            "SELECT current_setting('transaction_isolation'), current_setting('TimeZone'),
                    (SELECT string_agg(s.name, ', ') FROM pg_catalog.pg_settings s
                      WHERE s.name IN ('idle_session_timeout', 'transaction_timeout') AND s.setting <> '0')",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, Option<&str>>(2), None, "these limits are for others");
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("read committed", "UTC"));
    world.stock(40).await;
    // Longer than any session would last.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let calls: Vec<Call> = (0..24).map(|_| world.paid(Call::post("/ds/group-ids"))).collect();
    let replies = join_all(calls.iter().map(|call| async { world.send(&call.wire()).await })).await;
    let statuses: Vec<StatusCode> = replies.iter().map(|reply| reply.status).collect();
    assert!(statuses.iter().all(|status| *status == StatusCode::CREATED), "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_in_transaction_mode_is_noticed_and_one_in_session_mode_is_none() {
    let cluster = Cluster::start().await;
    let check = async |url: &str| {
        let mut command = postern();
        command
            .arg("check")
            .env("POSTERN_DOMAIN", HOME)
            .env("POSTERN_DATABASE_URL", url)
            .env("POSTERN_MASTER_KEY", cluster.master_key());
        let output = command.output().await.expect("postern runs");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    for mode in ["transaction", "statement"] {
        let pooler = PgBouncer::start(&cluster, mode).await;
        let (is_well, report) = check(&pooler.server_url()).await;
        assert!(!is_well && report.contains("problem  sessions: "), "{mode}: {report}");
        assert!(report.contains("pool_mode = session"), "{mode}: {report}");
        let refusal = Server::builder(&cluster).database(&pooler.server_url()).try_start().await.err();
        let refusal = refusal.unwrap_or_else(|| panic!("a server starts behind a pooler in mode {mode}"));
        assert!(refusal.contains("pool_mode = session"), "{mode}: {refusal}");
    }
    let pooler = PgBouncer::start(&cluster, "session").await;
    let mut world = World::builder().servers(0).start().await;
    let (is_well, report) = check(&pooler.server_url()).await;
    assert!(is_well, "{report}");
    let server = Server::builder(&cluster).database(&pooler.server_url()).start().await;
    (world.cluster, world.servers) = (cluster, vec![server]);
    world.stock(10).await;
    world.mailbox(QueueKind::Group).await;
}

/// The database has no notification to send: the servers look by themselves.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hears_no_notification_refuses_revoked_keys_within_seconds() {
    let world = World::builder().servers(2).start().await;
    let client = world.client("alice").await;
    let key = world.issuer_key(TokenType::PrivateRistretto255).await;
    let mut tokens = Vec::new();
    for _ in 0..20 {
        tokens.extend(world.tokens(0, &client, &Ask::batch(&key, 100)).await);
    }
    assert_eq!(world.spend(0, &tokens.remove(0)).await.status, StatusCode::CREATED);
    let revoke =
        "UPDATE aas.issuer_keys SET not_before = least(not_before, today), not_after = today, retires = today
                    FROM (SELECT (now() AT TIME ZONE 'UTC')::date AS today) t";
    world.admin.batch_execute(revoke).await.unwrap();
    let (begun, tokens) = (Instant::now(), Mutex::new(tokens));
    for server in [0, 1] {
        eventually("the token is refused", async || {
            // One that no server has seen: a spent one is known for that first.
            tokio::time::sleep(Duration::from_millis(100)).await;
            let token = tokens.lock().unwrap().pop().expect("it takes seconds");
            let reply = world.way(server).send(&Call::post("/qs/queues").paid_with(token).wire()).await;
            (reply.slug() == "token-required").then_some(())
        })
        .await;
    }
    assert!(begun.elapsed() < SECONDS, "after {:?}", begun.elapsed());

    // The keys of AS and QS, too.
    let sign = "UPDATE auth.signing_keys SET not_after = not_after - 1";
    let seen = async |target: &str| world.send(&Call::get(target).wire()).await.body;
    let before = (seen("/as/keys").await, seen("/qs/keys").await);
    world.admin.batch_execute(sign).await.unwrap();
    eventually("both publish the change", async || {
        (seen("/as/keys").await != before.0 && seen("/qs/keys").await != before.1).then_some(())
    })
    .await;
}
