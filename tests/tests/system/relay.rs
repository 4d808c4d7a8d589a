//! The harness's own promise: between accept and answer, time can be stopped.

use postern_tests_kit::{Cluster, HOME, PostgresRelay, Server, eventually};

#[tokio::test]
async fn a_server_killed_between_accept_and_answer_leaves_what_was_accepted() {
    let cluster = Cluster::start().await;
    let relay = PostgresRelay::start(&cluster);
    relay.pause_at("operator.claim_home_domain");

    // It waits for the answer for as long as this takes.
    let patient = Server::builder(&cluster).env("POSTERN_DATABASE_STATEMENT_TIMEOUT_SECONDS", "60");
    let starting = tokio::spawn(patient.through(&relay).try_start());
    relay.paused().await;
    let admin = cluster.admin().await;
    eventually("the domain is claimed", || async {
        let claimed = admin
            .query_opt("SELECT home_domain::text FROM operator.settings WHERE home_domain IS NOT NULL", &[])
            .await
            .ok()??;
        assert_eq!(claimed.get::<_, &str>(0), HOME);
        Some(())
    })
    .await;
    assert!(!starting.is_finished(), "the server does not know yet");
    starting.abort();
    assert!(starting.await.is_err(), "it never became ready");

    relay.resume();
    Server::builder(&cluster).through(&relay).start().await;
    let answered = relay.take_statements();
    assert!(
        answered.iter().any(|statement| statement.contains("operator.claim_home_domain")),
        "{answered:?}"
    );
}
