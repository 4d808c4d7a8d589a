//! The outbox shares attempts and room out (FED-4): between families of names, between the lanes of one homeserver, and
//! between strangers.

use postern_tests_kit::World;

use crate::outbox::{claimed, close_unseen, due_unseen, make_due, put_in};

#[tokio::test(flavor = "multi_thread")]
async fn a_family_that_has_its_share_of_attempts_is_passed_over() {
    let world = due_unseen("'x' || n || '.evil.example'", 3, "good").await;
    make_due(&world, "'y.good.example'", 1, "good").await;
    let claim = async |busy: &str| -> Option<String> {
        let sql = format!(
            "SELECT domain
               FROM federation.claim_lane('good', uuid_send(gen_random_uuid()), 10, 64, 786432, '', '{busy}')"
        );
        world.value(&sql).await
    };
    assert_eq!(claim("{evil.example}").await.as_deref(), Some("y.good.example"));
    assert_eq!(claim("{evil.example}").await, None, "the others are of the family that has its share");
    assert!(claim("{}").await.is_some_and(|domain| domain.ends_with(".evil.example")), "it has less again");
    close_unseen(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_homeserver_that_failed_or_is_a_stranger_is_tried_by_one_lane_at_a_time() {
    let world = World::start().await;
    for (standing, lanes) in [("prompt", 2), ("good", 2), ("slow", 2), ("failing", 1), ("stranger", 1)] {
        world.admin.batch_execute("BEGIN").await.unwrap();
        make_due(&world, "'x.example'", 1, standing).await;
        let another_lane = "INSERT INTO federation.outgoing_lanes
                                (domain, lane, instance, next_number, waiting, waiting_bytes, is_stranger, last_used)
                            SELECT l.domain, 1, uuid_send(gen_random_uuid()), 2, 1, 9, l.is_stranger, l.last_used
                              FROM federation.outgoing_lanes l;
                            INSERT INTO federation.outbox (id, domain, lane, number, sealed, day)
                            SELECT uuid_send(gen_random_uuid()), o.domain, 1, 1, o.sealed, o.day FROM federation.outbox o;
                            INSERT INTO federation.due (domain, lane, family, standing, due)
                            SELECT d.domain, 1, d.family, d.standing, d.due FROM federation.due d";
        world.admin.batch_execute(another_lane).await.unwrap();
        let mut attempts = 0;
        for _ in 0..3 {
            attempts += usize::from(claimed(&world, standing, "").await.0.is_some());
        }
        assert_eq!(attempts, lanes, "{standing}");
        world.admin.batch_execute("ROLLBACK").await.unwrap();
    }
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_for_a_homeserver_that_failed_waits_for_its_next_attempt() {
    let world = World::start().await;
    world.admin.batch_execute("BEGIN").await.unwrap();
    let failed = "INSERT INTO federation.neighbours (domain, first_success, last_success)
                  VALUES ('b.example', current_date, current_date);
                  INSERT INTO federation.attempts (domain, state, reason, failures, next_try)
                  VALUES ('b.example', 'failing', 'silent', 3, now() + interval '5 minutes')";
    world.admin.batch_execute(failed).await.unwrap();
    assert_eq!(put_in(&world, "'b.example'", 1, 1).await, 1);
    let waits = "SELECT d.due = a.next_try AND d.standing = 'failing'
                   FROM federation.due d
                   JOIN federation.attempts a ON a.domain = d.domain";
    assert!(world.value::<bool>(waits).await);
    assert_eq!(claimed(&world, "failing", "").await.0, None, "each message would be another attempt");
    world.admin.batch_execute("ROLLBACK").await.unwrap();
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_share_the_room_of_one_homeserver_but_those_that_the_operator_allowed() {
    let world = World::start().await;
    world.admin.batch_execute("BEGIN").await.unwrap();
    world.admin.execute("SELECT operator.set_federation_limit('outbox_mib', 1)", &[]).await.unwrap();
    let one = put_in(&world, "'x.made-up.example'", 3, 60_000).await;
    assert_eq!(one, 2, "an eighth of outbox_mib");
    let others = put_in(&world, "'x.made-up-' || n || '.example'", 20, 120_000).await;
    assert_eq!(others, 7, "outbox_mib, with the first");
    world.admin.execute("SELECT operator.allow_domain('x.made-up-20.example')", &[]).await.unwrap();
    let allowed = put_in(&world, "'x.made-up-20.example'", 3, 120_000).await;
    assert_eq!(allowed, 3, "it has room of its own");
    world.admin.batch_execute("ROLLBACK").await.unwrap();
    world.close();
}
