//! Generations: a database that is put back to an earlier state is noticed, and what was revoked stays so (QS-12).

use std::{fs, path::Path, time::Duration};

use postern_client::{Client, Event};
use postern_protocol::qs::QueueKind;
use postern_tests_kit::{
    Cluster, DataDir, HOME, Server, befriend, connect_to, eventually, in_tree, joined, postern,
};

use super::{fails, hears, into, let_everybody_in, on, patient, succeeds, sync};
use crate::own_address;

#[tokio::test]
async fn a_copy_of_the_cluster_that_is_put_back_is_refused_however_much_is_written_to_it() {
    let dir = DataDir::migrated().await;
    assert!(Server::embedded(&dir).start().await.terminate().await.success());
    let places = tempfile::tempdir().unwrap();
    let copy = places.path().join("cluster");
    let copied = |from: &Path, to: &Path| {
        assert!(std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
    };
    copied(&dir.cluster(), &copy);
    let on_it = |command: &[&str]| {
        let mut postern = postern();
        postern.args(command).args(["--embedded", "--domain", HOME, "--data-dir"]).arg(dir.path());
        postern
    };
    let sql = |sql: &str| {
        let mut psql = on_it(&["psql"]);
        psql.args(["--", "-c", sql]);
        psql
    };
    for decision in ["begin", "keep"] {
        assert!(Server::embedded(&dir).start().await.terminate().await.success());
        fs::remove_dir_all(dir.cluster()).unwrap();
        copied(&copy, &dir.cluster());
        // As an hour of starts that fail, an upgrade, or another application in the same PostgreSQL writes WAL.
        succeeds(&mut sql("CREATE TABLE public.junk AS SELECT generate_series(1, 200000)")).await;
        succeeds(&mut sql("SELECT pg_switch_wal()")).await;
        for attempt in ["the first", "the second"] {
            let refused = Server::embedded(&dir).try_start().await.err().expect("it ends");
            assert!(
                refused.contains("put back to an earlier state")
                    && refused.contains(&format!("`postern generation {decision}`")),
                "{attempt}: {refused}"
            );
        }
        fails(on_it(&["check"]).arg("--start"), "problem  witness: the database was put back").await;
        succeeds(&mut on_it(&["generation", decision])).await;
        succeeds(&mut sql("DROP TABLE public.junk")).await;
    }
    assert!(Server::embedded(&dir).start().await.terminate().await.success());
    // An empty homeserver in the place of one is not one that was put back.
    fs::remove_dir_all(dir.cluster()).unwrap();
    assert!(Server::embedded(&dir).start().await.terminate().await.success());
}

#[tokio::test]
async fn a_database_that_is_put_back_under_a_server_gets_no_session_until_somebody_decides() {
    let cluster = Cluster::start().await;
    let places = tempfile::tempdir().unwrap();
    let witness = places.path().join("witness");
    let server =
        Server::builder(&cluster).env("POSTERN_WITNESS_FILE", witness.to_str().unwrap()).start().await;
    let admin = cluster.admin().await;
    let is_ready = async || {
        let answer = reqwest::get(format!("{}/ready", server.url())).await.expect("it answers");
        answer.status().is_success()
    };
    eventually("it has given a mark", async || {
        let marks = "SELECT count(*) FROM operator.witnesses";
        (witness.exists() && admin.query_one(marks, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
    })
    .await;
    // A snapshot brings back an earlier mark, and ends all sessions.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postern_server'";
    admin
        .batch_execute("UPDATE operator.witnesses SET mark = decode(repeat('00', 16), 'hex')")
        .await
        .unwrap();
    admin.execute(end, &[]).await.unwrap();
    eventually("the server works with it no more", async || (!is_ready().await).then_some(())).await;
    // A look at the database holds for a second.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(!is_ready().await, "nor some time later");
    admin.batch_execute("SELECT operator.keep_generation()").await.unwrap();
    eventually("it goes on by itself", async || is_ready().await.then_some(())).await;
}

#[tokio::test]
async fn a_copy_of_the_database_in_the_same_cluster_is_another_one() {
    let cluster = Cluster::start().await;
    assert!(Server::start(&cluster).await.terminate().await.success());
    let url = cluster.admin_url().replace("dbname=postern", "dbname=postgres");
    let client = connect_to(&url).await.unwrap();
    eventually("nobody uses it", async || {
        client.batch_execute("CREATE DATABASE before TEMPLATE postern").await.ok()
    })
    .await;
    let_everybody_in(&cluster).await;
    let url = cluster.server_url().replace("dbname=postern", "dbname=before");
    let refused = Server::builder(&cluster).database(&url).try_start().await.err().expect("it ends");
    assert!(refused.contains("restored from a dump"), "{refused}");
    drop(Server::start(&cluster).await);
}

#[tokio::test]
async fn a_backup_of_a_time_when_the_clock_was_ahead_is_restored() {
    let cluster = Cluster::start().await;
    drop(Server::start(&cluster).await);
    let admin = cluster.admin().await;
    // A release was migrated to, and a backup made, before the time was synchronised.
    admin.batch_execute("UPDATE operator.schema_state SET applied = current_date + 300").await.unwrap();
    admin.batch_execute("UPDATE operator.last_backup SET day = current_date + 300").await.unwrap();
    let says = "SELECT verdict::text FROM operator.health() WHERE item = 'backup'";
    assert_eq!(admin.query_one(says, &[]).await.unwrap().get::<_, &str>(0), "warning");
    let places = tempfile::tempdir().unwrap();
    let dir = places.path().join("today");
    succeeds(&mut on(&cluster, "backup", &dir)).await;
    let data_dir = DataDir::fresh();
    succeeds(&mut into(&data_dir, &dir, cluster.master_key())).await;
    let server = Server::embedded(&data_dir).env("POSTERN_MASTER_KEY", cluster.master_key()).start().await;
    let number = "SELECT g.generation > (s.applied - date '2020-01-01') * 86400::bigint
                    FROM operator.current_generation() g, operator.schema_state s";
    assert!(data_dir.admin().await.query_one(number, &[]).await.unwrap().get::<_, bool>(0));
    assert!(server.terminate().await.success());
}

/// A virtual machine that is put back as a whole, with what remembers on it how far the database was: only those outside know.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_put_back_is_told_of_by_clients() {
    let dir = DataDir::migrated().await;
    let server = Server::embedded(&dir).listen(own_address()).start().await;
    let address = server.address();
    let homes = tempfile::tempdir().unwrap();
    let register = async |name: &str| {
        let builder = Client::builder(homes.path().join(name)).server(server.url()).options(patient());
        builder.register(name).await.unwrap()
    };
    let (alice, bob) = (register("alice").await, register("bob").await);
    let group = alice.create_group("climbing").await.unwrap().id().clone();
    befriend(&alice, &bob, &group).await;
    joined(&bob, 1).await;
    for client in [&alice, &bob, &alice, &bob] {
        sync(client).await;
    }
    assert!(server.terminate().await.success());
    let places = tempfile::tempdir().unwrap();
    let parts = ["cluster", "witness"];
    let copy = |from: &Path, to: &Path| {
        assert!(std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
    };
    parts.iter().for_each(|part| copy(&dir.path().join(part), &places.path().join(part)));
    let server = Server::embedded(&dir).listen(address).start().await;
    for number in 0..5 {
        alice.group_with_id(&group).send(&format!("lost {number}")).await.unwrap();
    }
    hears(&bob, "lost 4").await;
    sync(&bob).await;
    assert!(server.terminate().await.success());
    fs::remove_dir_all(dir.cluster()).unwrap();
    parts.iter().for_each(|part| copy(&places.path().join(part), &dir.path().join(part)));

    let server = Server::embedded(&dir).metrics().listen(address).start().await;
    let events = sync(&bob).await;
    let replaced = |event: &Event| matches!(event, Event::MailboxReplaced { kind: QueueKind::Group });
    assert!(events.iter().any(replaced), "he is told: {events:?}");
    // As the alert asks for it.
    let metrics = server.metrics().await;
    let labels = ["route=\"/qs/queues/{queue_id}/dequeue\"", "outcome=\"acknowledged-too-much\""];
    let is_series = |line: &str| {
        line.starts_with("postern_requests_total{") && labels.iter().all(|label| line.contains(label))
    };
    assert!(metrics.lines().any(is_series), "{metrics}");
    let rules = fs::read_to_string(in_tree("monitoring/alerts.yaml")).unwrap();
    assert!(rules.contains(&format!("postern_requests_total{{{}}}", labels.join(","))), "{rules}");
    assert!(server.terminate().await.success());
}

#[tokio::test]
async fn keys_that_were_revoked_stay_revoked_and_numbers_grow_whatever_the_clock_says() {
    let cluster = Cluster::start().await;
    // A session of a server that is killed may make another key yet.
    assert!(Server::start(&cluster).await.terminate().await.success());
    let admin = cluster.admin().await;
    let row = admin.query_one("SELECT operator.begin_generation(2000000000)", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 2_000_000_000, "the operator knows of one that was lost");
    // By a clock that goes back by years the old keys are still none.
    let good = "SELECT count(*) FROM aas.issuer_keys WHERE retires > '2000-01-01'";
    assert_eq!(admin.query_one(good, &[]).await.unwrap().get::<_, i64>(0), 0);
    // The database knows a later day than the clock.
    for later in ["operator.schema_state SET applied", "operator.calendar SET day"] {
        let known = format!("BEGIN; UPDATE {later} = current_date + 3; SELECT operator.begin_generation()");
        let error = admin.batch_execute(&known).await.unwrap_err();
        let hint = error.as_db_error().unwrap().hint();
        assert_eq!(hint, Some("set the clock right first, or give at_least"), "{later}");
        admin.batch_execute("ROLLBACK").await.unwrap();
    }
    // A number that the operator gives is taken for what it is.
    admin.batch_execute("UPDATE operator.schema_state SET applied = current_date + 3").await.unwrap();
    let row = admin.query_one("SELECT operator.begin_generation(1)", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 2_000_000_001, "and never a smaller one");
}
