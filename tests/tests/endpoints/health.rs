//! The server says to anyone how it is, and what its problems mean.

use postern_protocol::problem::ProblemType;
use postern_tests_kit::{Call, World, eventually};
use reqwest::StatusCode;

use crate::every_route::Valid;

pub fn valid() -> Valid {
    Valid::new(Call::get("/health"), StatusCode::NO_CONTENT)
}

pub fn readiness() -> Valid {
    Valid::new(Call::get("/ready"), StatusCode::NO_CONTENT)
}

pub fn explanation() -> Valid {
    let targets =
        [("/problems/none-of-ours", ProblemType::NotFound), ("/problems/%00", ProblemType::NotFound)];
    let targets = targets.map(|(target, expected)| (target.to_owned(), expected)).to_vec();
    Valid { targets, ..Valid::new(Call::get("/problems/token-spent"), StatusCode::OK) }
}

#[tokio::test]
async fn every_problem_type_is_explained_at_its_own_path() {
    let world = World::start().await;
    for kind in ProblemType::ALL {
        let reply = world.send(&Call::get(kind.path()).wire()).await;
        assert_eq!(
            (reply.status, reply.content_type()),
            (StatusCode::OK, "text/plain; charset=utf-8"),
            "{kind:?}"
        );
        let text = String::from_utf8(reply.body).unwrap();
        assert!(text.contains(kind.title()) && text.contains(kind.meaning()), "{text}");
    }
    world.close();
}

#[tokio::test]
async fn a_server_without_its_database_says_so_and_spends_no_token() {
    let mut world = World::start().await;
    let call = crate::ds::reserve_group_id::valid().call.paid_with(world.token());
    world.cluster.kill_postgres();
    // A look at the database holds for a moment.
    let not_ready = eventually("the server is not ready", async || {
        let reply = world.send(&Call::get("/ready").wire()).await;
        (!reply.status.is_success()).then_some(reply)
    })
    .await;
    for reply in [not_ready, world.send(&call.clone().wire()).await] {
        let problem = reply.assert_problem("without a database", ProblemType::Unavailable);
        assert_eq!(problem.detail, None, "what is wrong is the operator's to know");
    }
    // None of them needs the database.
    world.send(&Call::get("/health").wire()).await.assert_ok("a server that is alive");
    world.send(&Call::get("/as/keys").wire()).await.assert_ok("published keys");
    world.send(&Call::get("/problems/unavailable").wire()).await.assert_ok("an explanation");

    world.cluster.restart().await;
    eventually("the server is ready again", || async {
        world.send(&Call::get("/ready").wire()).await.status.is_success().then_some(())
    })
    .await;
    world.send(&call.wire()).await.assert_ok("the same request with the same token");
}

#[tokio::test]
async fn a_server_with_an_older_schema_is_not_ready() {
    let world = World::builder().start().await;
    world.send(&Call::get("/ready").wire()).await.assert_ok("a server that is ready");
    world.admin.batch_execute("UPDATE operator.schema_state SET migration = migration - 1").await.unwrap();
    eventually("the server says so", || async {
        let reply = world.send(&Call::get("/ready").wire()).await;
        (!reply.status.is_success()).then(|| reply.assert_problem("/ready", ProblemType::Unavailable))
    })
    .await;
    world.send(&Call::get("/health").wire()).await.assert_ok("it is alive");
    world.admin.batch_execute("UPDATE operator.schema_state SET migration = migration + 1").await.unwrap();
    eventually("the server is ready again", || async {
        world.send(&Call::get("/ready").wire()).await.status.is_success().then_some(())
    })
    .await;
    world.close();
}
