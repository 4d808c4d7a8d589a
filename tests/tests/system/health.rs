//! `operator.health` finds what is wrong with the database, and says how to mend it (OPS-1, OPS-4).

use std::{collections::BTreeSet, fs};

use postern_tests_kit::{Cluster, MovedClock, Server, World, eventually};
use tokio_postgres::Client;

/// Items that no transaction can break for itself: tests of their own break a whole PostgreSQL.
const OF_POSTGRESQL: [&str; 5] = ["wake-ups", "connections", "transactions", "WAL", "standbys"];

/// The verdict on an item, and what there is to say of it.
async fn verdict(client: &Client, item: &str) -> (String, String) {
    let sql = "SELECT verdict::text, says, mend FROM operator.health() WHERE item = $1";
    let row = client.query_one(sql, &[&item]).await.unwrap_or_else(|error| panic!("{item}: {error:?}"));
    let (verdict, mend): (String, Option<String>) = (row.get(0), row.get(2));
    assert_eq!(mend.is_some(), verdict != "ok", "{item}: {mend:?}");
    assert!(mend.is_none_or(|mend| mend.len() > 10), "{item}");
    (verdict, row.get(1))
}

async fn all_ok(client: &Client) {
    let sql = "SELECT item || ': ' || says FROM operator.health() WHERE verdict <> 'ok'";
    let found: Vec<String> = client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(found, Vec::<String>::new());
}

#[tokio::test]
async fn health_is_ok_before_and_after_the_first_start() {
    let cluster = Cluster::start().await;
    let monitor = cluster.connect_as("postern_monitor").await;
    all_ok(&monitor).await;
    let server = Server::start(&cluster).await;
    all_ok(&monitor).await;
    assert!(server.terminate().await.success());
    all_ok(&monitor).await;
    let keys = verdict(&monitor, "signing keys").await;
    assert!(keys.1.starts_with("AS, QS and homeserver have some until "), "{keys:?}");
}

#[tokio::test]
async fn a_backup_takes_its_hours_and_nobody_is_told_to_end_it() {
    let clock = MovedClock::of_others();
    let cluster = Cluster::start_with(clock.calendar()).await;
    let (admin, session) = (cluster.admin().await, cluster.admin().await);
    session.batch_execute("SET application_name = 'postern backup'").await.unwrap();
    session.batch_execute("BEGIN").await.unwrap();
    clock.move_to(2 * 60 * 60);
    let backup = verdict(&admin, "transactions").await;
    assert_eq!(backup.0, "ok", "{backup:?}");
    session.batch_execute("SET application_name = 'psql'").await.unwrap();
    let other = verdict(&admin, "transactions").await;
    assert!(other.0 == "warning" && other.1.contains("open since 2 hours"), "{other:?}");
}

#[tokio::test]
async fn health_says_what_is_wrong_with_postgresql_itself() {
    let mut cluster = Cluster::start().await;
    let settings = ["archive_mode = on", "archive_command = '/bin/false'", "max_connections = 20"];
    for setting in settings.into_iter().chain(["shared_preload_libraries = 'auto_explain'"]) {
        cluster.admin().await.batch_execute(&format!("ALTER SYSTEM SET {setting}")).await.unwrap();
    }
    cluster.restart().await;
    let admin = cluster.admin().await;
    let wakeups = verdict(&admin, "wake-ups").await;
    assert!(wakeups.0 == "problem" && wakeups.1.contains("is not preloaded"), "{wakeups:?}");

    // PostgreSQL keeps 3 of its 20 for superusers.
    let mut sessions = Vec::new();
    for (number, expected) in [(14, "warning"), (16, "problem")] {
        while sessions.len() < number {
            sessions.push(cluster.admin().await);
        }
        let connections = verdict(&admin, "connections").await;
        assert!(connections.0 == expected && connections.1.ends_with(" of 17 are taken"), "{connections:?}");
    }
    drop(sessions);

    admin.batch_execute("SELECT pg_logical_emit_message(false, 'postern', 'full')").await.unwrap();
    admin.batch_execute("SELECT pg_switch_wal()").await.unwrap();
    eventually("archiving fails", async || {
        let (verdict, says) = verdict(&admin, "WAL").await;
        (verdict == "problem" && says.contains("archiving fails")).then_some(())
    })
    .await;

    admin.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'gone'").await.unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    eventually("commits hang", async || {
        let (verdict, says) = verdict(&admin, "standbys").await;
        (verdict == "problem" && says.contains("they wait for 1 more standbys")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn health_says_that_nothing_archives_and_that_wal_waits_for_a_command_that_hangs() {
    const COMMAND: &str = "ALTER SYSTEM SET archive_command = 'while test -e hold; do sleep 0.1; done'";
    // Times of files stay the system's.
    let clock = MovedClock::of_others();
    let mut cluster = Cluster::start_with(clock.calendar()).await;
    cluster.admin().await.batch_execute("ALTER SYSTEM SET archive_mode = on").await.unwrap();
    cluster.restart().await;
    let monitor = cluster.connect_as("postern_monitor").await;
    let idle = verdict(&monitor, "WAL").await;
    assert!(idle.0 == "problem" && idle.1.starts_with("nothing archives it"), "{idle:?}");

    // In PostgreSQL's data directory, where the command runs.
    let hold = cluster.data_dir().join("cluster/hold");
    fs::write(&hold, "").unwrap();
    let admin = cluster.admin().await;
    admin.batch_execute(COMMAND).await.unwrap();
    cluster.reload().await;
    eventually("there is a command", async || (verdict(&monitor, "WAL").await.0 == "ok").then_some(())).await;
    admin.batch_execute("SELECT pg_logical_emit_message(false, 'postern', 'full')").await.unwrap();
    admin.batch_execute("SELECT pg_switch_wal()").await.unwrap();
    for (minutes, expected) in [(12, "warning"), (61, "problem")] {
        clock.move_to(minutes * 60);
        eventually(expected, async || {
            let (verdict, says) = verdict(&monitor, "WAL").await;
            (verdict == expected && says.starts_with("some has waited to be archived for ")).then_some(())
        })
        .await;
    }
    let archiver = "SELECT archived_count + failed_count FROM pg_stat_archiver";
    let counted: i64 = admin.query_one(archiver, &[]).await.unwrap().get(0);
    assert_eq!(counted, 0, "PostgreSQL counts nothing of a command that hangs");

    fs::remove_file(&hold).unwrap();
    eventually("it is archived", async || {
        let (verdict, says) = verdict(&monitor, "WAL").await;
        (verdict == "ok" && says.starts_with("it is archived, last ")).then_some(())
    })
    .await;
}

/// Archiving is judged by what is archived, where a clock that was ahead dated the last failure or the last success.
#[tokio::test]
async fn health_is_not_led_astray_by_times_of_archiving_that_a_clock_ahead_gave() {
    const COMMAND: &str = "ALTER SYSTEM SET archive_command = 'test ! -e broken'";
    const AHEAD: u32 = 300;
    let clock = MovedClock::of_others();
    let mut cluster = Cluster::start_with(clock.calendar()).await;
    for setting in ["ALTER SYSTEM SET archive_mode = on", COMMAND] {
        cluster.admin().await.batch_execute(setting).await.unwrap();
    }
    cluster.restart().await;
    let admin = cluster.admin().await;
    // In PostgreSQL's data directory, where the command runs.
    let broken = cluster.data_dir().join("cluster/broken");
    // It also wakes the archiver, whose own waits are by the clock.
    let finish_a_segment = async || {
        admin.batch_execute("SELECT pg_logical_emit_message(false, 'postern', 'full')").await.unwrap();
        admin.batch_execute("SELECT pg_switch_wal()").await.unwrap();
    };
    let count = async |what: &str| -> i64 {
        admin.query_one(&format!("SELECT {what} FROM pg_stat_archiver"), &[]).await.unwrap().get(0)
    };
    let more = async |what: &str, before: i64| {
        eventually(what, async || (count(what).await > before).then_some(())).await;
    };
    let assert_fails = async |when: &str| {
        let (verdict, says) = verdict(&admin, "WAL").await;
        assert!(verdict == "problem" && says.contains("archiving fails"), "{when}: {says}");
    };
    let waits = async || -> i64 {
        let sql = "SELECT count(*) FROM pg_ls_archive_statusdir() f WHERE f.name LIKE '%.ready'";
        admin.query_one(sql, &[]).await.unwrap().get(0)
    };
    finish_a_segment().await;
    more("archived_count", 0).await;

    // It fails while the clock is ahead, and the clock is set right before it succeeds.
    clock.move_to_day(AHEAD);
    fs::write(&broken, "").unwrap();
    finish_a_segment().await;
    more("failed_count", 0).await;
    assert_fails("while the clock is ahead").await;
    clock.move_to_day(0);
    assert_fails("after the clock was set right").await;
    fs::remove_file(&broken).unwrap();
    finish_a_segment().await;
    eventually("all is archived", async || (waits().await == 0).then_some(())).await;
    eventually("it is ok", async || (verdict(&admin, "WAL").await.0 == "ok").then_some(())).await;

    // It succeeds while the clock is ahead, and fails after the clock was set right.
    clock.move_to_day(AHEAD);
    let (archived, failed) = (count("archived_count").await, count("failed_count").await);
    finish_a_segment().await;
    more("archived_count", archived).await;
    clock.move_to_day(0);
    let (verdict, says) = verdict(&admin, "WAL").await;
    assert!(verdict == "ok" && !says.contains('-'), "no time that is to come: {says}");
    fs::write(&broken, "").unwrap();
    finish_a_segment().await;
    more("failed_count", failed).await;
    assert_fails("though the last success is of the future").await;
}

#[tokio::test]
async fn health_says_what_is_wrong_of_each_item() {
    let world = World::builder().start().await;
    let admin = world.cluster.admin().await;
    all_ok(&admin).await;
    let mut broken = BTreeSet::from(OF_POSTGRESQL);
    // In a transaction each, which is rolled back: the server sees nothing of them.
    for (item, breaking, expected, says) in [
        (
            "extension",
            "UPDATE pg_extension SET extversion = '0.0.9' WHERE extname = 'postern'",
            "problem",
            "the database has version 0.0.9, the database server has",
        ),
        (
            "chains",
            // There are a thousand places at least.
            "CREATE OR REPLACE FUNCTION postern.chains() RETURNS TABLE (room bigint, kept bigint, evicted bigint)
             LANGUAGE sql AS 'SELECT 1024::bigint, 1024::bigint, 7::bigint'",
            "warning",
            "1024 of 1024 places are taken; 7 chains made room for others",
        ),
        ("durability", "SET LOCAL synchronous_commit = off", "problem", "makes spent tokens good again"),
        (
            "master key change",
            "UPDATE operator.master_key SET previous_id = '\\x0102030405060708'",
            "warning",
            "a change of the master key is under way",
        ),
        (
            "issuer keys",
            "UPDATE aas.issuer_keys SET not_before = current_date - 9, not_after = current_date WHERE token_type = 5",
            "problem",
            "none issues tokens of type 5 today",
        ),
        (
            "issuer keys",
            "UPDATE aas.issuer_keys SET not_after = current_date + 1 WHERE token_type = 2",
            "warning",
            "for each token type one issues until",
        ),
        (
            "signing keys",
            "UPDATE auth.signing_keys SET not_before = current_date - 9, not_after = current_date - 1
              WHERE service = 'qs'",
            "problem",
            "none of the QS is valid today",
        ),
        (
            "signing keys",
            "UPDATE auth.key_settings SET root_key = decode(repeat('01', 32), 'hex')",
            "problem",
            "no credential can be signed",
        ),
        (
            "gateway keys",
            "UPDATE federation.gateway_keys SET not_after = current_date - 1",
            "problem",
            "one is valid until",
        ),
        (
            "upkeep",
            "UPDATE operator.schema_state SET applied = current_date - 9;
             UPDATE qs.sweep SET day = current_date - 2, position = NULL",
            "warning",
            "is finished",
        ),
        (
            "upkeep",
            "UPDATE operator.schema_state SET applied = current_date - 9;
             UPDATE qs.sweep SET day = current_date - 5, position = '\\x00'",
            "problem",
            "is under way",
        ),
        (
            "neighbours",
            "INSERT INTO federation.outgoing_lanes
                    (domain, lane, instance, is_stranger, last_used, waiting, next_number)
             VALUES ('b.example', 0, decode(repeat('01', 16), 'hex'), true, current_date, 1, 2);
             INSERT INTO federation.outbox (id, domain, lane, number, sealed, day)
             SELECT decode(repeat('02', 16), 'hex'), 'b.example', 0, 1, m.key_id, current_date - 3
               FROM operator.master_key m",
            "warning",
            "deliveries to 1 wait, some since 3 days",
        ),
        (
            "neighbours",
            "INSERT INTO federation.set_aside (id, domain, lane, number, sealed, reason, day)
             SELECT decode(repeat('02', 16), 'hex'), 'b.example', 0, 1, m.key_id, 'damaged', current_date
               FROM operator.master_key m",
            "warning",
            "1 deliveries were set aside",
        ),
        (
            "neighbours",
            "INSERT INTO federation.outgoing_lanes
                    (domain, lane, instance, is_stranger, last_used, waiting, next_number)
             VALUES ('b.example', 0, decode(repeat('01', 16), 'hex'), true, current_date, 1, 2);
             INSERT INTO federation.due (domain, lane, family, standing, due, breaks, broken_since)
             VALUES ('b.example', 0, 'b.example', 'stranger', now() + interval '1 minute', 1, now())",
            "warning",
            "1 deliveries are refused, or break their connections",
        ),
        (
            "generation",
            "UPDATE operator.generation SET origin = regexp_replace(origin, '/[0-9A-F]{8}/', '/99999999/')",
            "problem",
            "the database was recovered up to an earlier moment",
        ),
        (
            "generation",
            "UPDATE operator.generation SET origin = '1/1'",
            "problem",
            "was restored from a dump",
        ),
        ("generation", "DELETE FROM operator.generation", "problem", "a restore did not come to its end"),
        (
            "clock",
            "DELETE FROM operator.days; INSERT INTO operator.days VALUES (current_date - 9), (current_date - 8), (current_date)",
            "warning",
            "goes in two days",
        ),
        (
            "upkeep",
            "UPDATE operator.schema_state SET applied = current_date + 300; UPDATE qs.sweep SET day = current_date - 9",
            "problem",
            "the sweep of",
        ),
        (
            "clock",
            "UPDATE operator.calendar SET day = current_date + 9",
            "problem",
            "the database was in use on",
        ),
        (
            "backup",
            "UPDATE operator.last_backup SET since = since - 3",
            "warning",
            "none was made yet, 3 days after the database",
        ),
        (
            "backup",
            "UPDATE operator.last_backup SET since = since - 15",
            "problem",
            "none was made yet, 15 days after the database",
        ),
        (
            "backup",
            "SELECT operator.note_backup(); UPDATE operator.last_backup SET day = day - 3",
            "warning",
            "3 days ago",
        ),
        (
            "backup",
            "SELECT operator.note_backup(); UPDATE operator.last_backup SET day = day + 60",
            "warning",
            "by a clock that was ahead",
        ),
        (
            "backup",
            "SELECT operator.set_backup_warning(7); UPDATE operator.last_backup SET day = current_date - 50",
            "problem",
            "50 days ago",
        ),
    ] {
        admin.batch_execute("BEGIN").await.unwrap();
        admin.batch_execute(breaking).await.unwrap_or_else(|error| panic!("{item}: {breaking}: {error:?}"));
        let (verdict, said) = verdict(&admin, item).await;
        assert_eq!(verdict, expected, "{item}: {said}");
        assert!(said.contains(says), "{item}: {said}");
        admin.batch_execute("ROLLBACK").await.unwrap();
        assert!(!OF_POSTGRESQL.contains(&item), "{item} has one place");
        broken.insert(item);
    }
    let items = admin.query("SELECT item FROM operator.health()", &[]).await.unwrap();
    let items: BTreeSet<&str> = items.iter().map(|row| row.get(0)).collect();
    assert_eq!(broken, items, "each item was made to say something");
    // Items that need somebody come first.
    admin
        .batch_execute("BEGIN; UPDATE federation.gateway_keys SET not_after = current_date - 1")
        .await
        .unwrap();
    let first = admin.query("SELECT item FROM operator.health()", &[]).await.unwrap();
    assert_eq!(first[0].get::<_, &str>(0), "gateway keys");
    admin.batch_execute("ROLLBACK").await.unwrap();
    all_ok(&admin).await;
    world.close();
}
