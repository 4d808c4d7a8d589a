//! `postern migrate`, killed: each step is whole or not there (OPS-6), servers serve as before, and the same command goes on.

use std::fs;

use postern_tests::next;
use postern_tests_kit::{Cluster, DataDir, HOME, Killer, Server, command, in_tree, postern};

use super::people_go_on;
use crate::{backup::succeeds, bad_days::Talk, own_address};

/// The number of migrations that are done, if there are any.
async fn migrated(cluster: &Cluster) -> usize {
    let admin = cluster.admin().await;
    let exists = "SELECT to_regclass('public.refinery_schema_history') IS NOT NULL";
    if !admin.query_one(exists, &[]).await.unwrap().get::<_, bool>(0) {
        return 0;
    }
    let sql = "SELECT count(*) FROM public.refinery_schema_history";
    usize::try_from(admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_migration_that_is_killed_between_two_steps_is_done_by_the_same_command() {
    let cluster = Cluster::fresh().await;
    let migrate = || {
        let mut command = postern();
        command.arg("migrate").env("POSTERN_DOMAIN", HOME);
        command.env("POSTERN_DATABASE_ADMIN_URL", cluster.admin_url());
        command
    };
    let all = fs::read_dir(in_tree("migrations")).unwrap().count();
    // In the order in which they come, each on what the one before left: roles; each migration, when it has done its work and
    // has not noted that; owners, the first and one in the middle; functions, one in the middle and the last step.
    let mut steps = vec![("'postern_owner', 'Owns everything".to_owned(), 0)];
    steps.extend((1..=all).map(|number| (format!("checksum) VALUES ({number},"), number - 1)));
    for text in [
        "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA postern FROM PUBLIC",
        "ALTER TABLE qs.queues OWNER TO postern_owner",
        "FUNCTION ds.submit_message(",
        "INSERT INTO operator.schema_state",
    ] {
        steps.push((text.to_owned(), all));
    }
    let killer = Killer::compiled();
    for (text, done) in &steps {
        killer.kill(&mut migrate(), "write", text).await;
        assert_eq!(migrated(&cluster).await, *done, "{text}");
        let refusal = Server::builder(&cluster).try_start().await.err().expect("it ends");
        assert!(refusal.contains("was `postern migrate` run on it?"), "{text}: {refusal}");
    }
    // All of it is done, and not said.
    killer.kill(&mut migrate(), "write", "postern: functions updated").await;
    let said = succeeds(&mut migrate()).await;
    assert!(said.contains("the database is up to date"), "{said}");
    let server = Server::start(&cluster).await;
    let mut talk = Talk::begin(&server).await;
    talk.goes_on("said after all of it").await;
    assert!(server.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_to_the_next_release_that_is_killed_between_two_steps_costs_nobody_a_word() {
    let cluster = Cluster::start().await;
    cluster.offer_next_extension().await;
    let start = || Server::builder(&cluster);
    let mut server = start().listen(own_address()).start().await;
    let mut talk = Talk::begin(&server).await;
    let migrate = || {
        let mut command = command("postern-next");
        command.args(["migrate", "--domain", HOME, "--database-admin-url", &cluster.admin_url()]);
        command
    };
    let before = migrated(&cluster).await;
    let all = next::MIGRATIONS.len();
    let mut steps = [
        "'postern_owner', 'Owns everything",
        "ALTER EXTENSION postern UPDATE",
        // It is the next one, and not committed.
        "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA postern FROM PUBLIC",
    ]
    .map(|text| (text.to_owned(), 0))
    .to_vec();
    steps.extend((0..all).map(|number| (format!("checksum) VALUES ({},", 1000 + number), number)));
    for text in [
        // Now it is about owners.
        "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA postern FROM PUBLIC",
        "FUNCTION aas.issuing_keys(",
        "INSERT INTO operator.schema_state",
        // All of it is done, and not said.
        "postern: functions updated",
    ] {
        steps.push((text.to_owned(), all));
    }
    let killer = Killer::compiled();
    for (text, done) in &steps {
        killer.kill(&mut migrate(), "write", text).await;
        assert_eq!(migrated(&cluster).await - before, *done, "{text}");
        server = people_go_on(server, start(), &mut talk, text).await;
    }
    let said = succeeds(&mut migrate()).await;
    assert!(said.contains("the database is up to date"), "{said}");
    talk.goes_on("said after all of it").await;
    let log = server.log();
    assert!(log.contains("which works with this program until the release after"), "{log}");
    assert!(server.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_of_a_private_cluster_that_is_killed_is_done_by_the_next_start_of_a_server() {
    let data_dir = DataDir::fresh();
    let migrate = || {
        let mut command = postern();
        command.args(["migrate", "--embedded", "--domain", HOME, "--data-dir"]).arg(data_dir.path());
        command
    };
    let killer = Killer::compiled();
    for (step, path) in [
        // There is a cluster, but for its name.
        ("rename", "cluster.new>"),
        ("write", "checksum) VALUES (3,"),
        ("write", "INSERT INTO operator.schema_state"),
    ] {
        killer.kill(&mut migrate(), step, path).await;
    }
    let server = Server::embedded(&data_dir).start().await;
    let mut talk = Talk::begin(&server).await;
    let said = succeeds(&mut migrate()).await;
    assert!(said.contains("the database is up to date"), "{said}");
    talk.goes_on("said after all of it").await;
    assert!(server.terminate().await.success());
    assert_eq!(data_dir.postmaster(), None, "also what the killed ones had started");
}
