//! Deliveries that were set aside and are tried again by servers: what that costs in tokens is bounded.

use postern_tests_kit::World;

use super::{HOLDER, close_unseen, due_unseen, make_due};

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_is_retried_is_claimed_alone() {
    let world = due_unseen("'b.example'", 1, "good").await;
    let more = "INSERT INTO federation.outbox (id, domain, lane, number, sealed, day, retried)
                SELECT uuid_send(gen_random_uuid()), 'b.example', 0, n.number, m.key_id || '\\x00'::bytea, current_date,
                       n.retried
                  FROM (VALUES (2, 0), (3, 1), (4, 2), (5, 0), (6, 0)) AS n (number, retried), operator.master_key m;
                UPDATE federation.outgoing_lanes SET waiting = 6, waiting_bytes = 54, next_number = 7";
    world.admin.batch_execute(more).await.unwrap();
    let mut claims = Vec::new();
    for (last, together) in [(2, 2), (3, 1), (4, 1), (6, 2)] {
        let claim = format!(
            "SELECT cardinality(ids), is_last_try AND is_apart AND is_last_break
               FROM federation.claim_lane('good', {HOLDER}, 10, 64, 786432, '', '{{}}')"
        );
        let row = world.admin.query_one(&claim, &[]).await.unwrap();
        claims.push((row.get::<_, i32>(0), row.get::<_, bool>(1)));
        assert_eq!(claims.last(), Some(&(together, together == 1)), "up to {last}: {claims:?}");
        let taken = format!(
            "DELETE FROM federation.outbox WHERE number <= {last};
             UPDATE federation.due SET due = now() - interval '1 second', holder = NULL"
        );
        world.admin.batch_execute(&taken).await.unwrap();
    }
    close_unseen(world).await;
}

/// Connections break when a homeserver starts anew, say: that says nothing of the delivery.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_under_what_is_retried_changes_neither_its_reason_nor_the_days() {
    let world = World::start().await;
    let (refused, too_large, broken) =
        ("refused: status 500", "too large for its homeserver", "breaks the connection");
    for (before, now, expected) in [
        (refused, broken, refused),
        (too_large, broken, too_large),
        (broken, broken, broken),
        (broken, refused, refused),
        (refused, too_large, too_large),
    ] {
        world.admin.batch_execute("BEGIN").await.unwrap();
        make_due(&world, "'b.example'", 1, "good").await;
        let aside = format!(
            "INSERT INTO federation.set_aside (id, domain, lane, number, sealed, reason, day, retried)
             SELECT o.id, o.domain, o.lane, o.number, o.sealed, '{before}', operator.today() - 8, 3
               FROM federation.outbox o;
             DELETE FROM federation.outbox;
             UPDATE federation.outgoing_lanes SET waiting = 0, waiting_bytes = 0, aside_bytes = 9"
        );
        world.admin.batch_execute(&aside).await.unwrap();
        assert!(world.value::<bool>("SELECT federation.retry_refused()").await);
        let settle = format!(
            "SELECT s.outcome::text
               FROM federation.outgoing_lanes l, federation.outbox o,
                    LATERAL federation.settle_lane(
                        'b.example', 0::smallint, '\\x01', l.instance, o.number - l.instance_start, o.id, ARRAY[o.id],
                        ARRAY['{now}'], '{{}}', '{{}}', '{{}}', true, false) s"
        );
        assert_eq!(world.value::<String>(&settle).await, "settled");
        let set_aside = "SELECT reason || ' ' || retried FROM federation.set_aside";
        assert_eq!(world.value::<String>(set_aside).await, format!("{expected} 4"), "{before}, then {now}");
        world.admin.batch_execute("ROLLBACK").await.unwrap();
    }
    world.close();
}

/// One that is too large costs tokens each time, and a member of a group can send many.
#[tokio::test]
async fn what_is_too_large_or_breaks_connections_is_retried_ever_more_seldom_and_what_is_refused_each_day() {
    let world = World::builder().servers(0).start().await;
    let (too_large, refused) = ("too large for its homeserver", "refused: status 500");
    let broken = "breaks the connection";
    for (reason, retried, days, expected) in [
        (too_large, 0, 0, false),
        (too_large, 0, 1, true),
        (too_large, 1, 1, false),
        (too_large, 1, 2, true),
        (too_large, 3, 7, false),
        (too_large, 3, 8, true),
        // Longer than a delivery waits at all.
        (too_large, 4, 1000, false),
        (too_large, 32_767, 1000, false),
        (broken, 0, 0, false),
        (broken, 0, 1, true),
        (broken, 1, 1, false),
        (broken, 3, 8, true),
        (broken, 4, 1000, false),
        (refused, 0, 0, false),
        (refused, 0, 1, true),
        (refused, 13, 1, true),
        (refused, 14, 1, false),
        ("damaged", 0, 1, false),
        ("expired", 0, 1, false),
    ] {
        let sql = format!(
            "SELECT federation.is_retried('{reason}', operator.today() - {days}, {retried}::smallint)"
        );
        assert_eq!(world.value::<bool>(&sql).await, expected, "{reason}, {retried} times, after {days} days");
    }
    world.close();
}
