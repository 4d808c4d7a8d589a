//! The outbox shares attempts and room out (FED-4): between families of names, between the lanes of one homeserver and on its
//! line, and between strangers.

use postern_protocol::federation::Deliveries;
use postern_tests_kit::World;
use tokio_postgres::Client;

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

/// Further lanes of x.evil.example are due, each later than the one before, with a delivery of so many bytes.
async fn add_lanes(world: &World, bytes: &[usize]) {
    for (lane, bytes) in (1..).zip(bytes) {
        let lane: i16 = lane;
        let sql = format!(
            "INSERT INTO federation.outgoing_lanes
                 (domain, lane, instance, next_number, waiting, waiting_bytes, is_stranger, last_used)
             SELECT l.domain, {lane}, uuid_send(gen_random_uuid()), 2, 1, {bytes}, l.is_stranger, l.last_used
               FROM federation.outgoing_lanes l
              WHERE l.domain = 'x.evil.example' AND l.lane = 0;
             INSERT INTO federation.outbox (id, domain, lane, number, sealed, day)
             SELECT uuid_send(gen_random_uuid()), 'x.evil.example', {lane}, 1,
                    m.key_id || decode(repeat('00', {bytes} - octet_length(m.key_id)), 'hex'), current_date
               FROM operator.master_key m;
             INSERT INTO federation.due (domain, lane, family, standing, due)
             SELECT d.domain, {lane}, d.family, d.standing, d.due + {lane} * interval '1 second'
               FROM federation.due d
              WHERE d.domain = 'x.evil.example' AND d.lane = 0"
        );
        world.admin.batch_execute(&sql).await.unwrap();
    }
}

/// The lanes that are claimed for ten minutes by this session, among slow ones, until there is no room.
async fn slow_ones(session: &Client) -> Vec<(String, i16)> {
    let sql = "SELECT domain, lane
                 FROM federation.claim_lane('slow', uuid_send(gen_random_uuid()), 600, 64, 98304, '', '{}')
                WHERE outcome = 'claimed'";
    let mut claimed = Vec::new();
    while let Some(row) = session.query_opt(sql, &[]).await.unwrap() {
        claimed.push((row.get(0), row.get(1)));
    }
    claimed
}

/// The claims of lanes of x.evil.example, in the order of the lanes.
fn lanes(lanes: impl IntoIterator<Item = i16>) -> Vec<(String, i16)> {
    lanes.into_iter().map(|lane| ("x.evil.example".to_owned(), lane)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_lanes_are_tried_at_once_as_have_their_share_of_a_slow_line() {
    const SMALL: usize = 9;
    const LARGE: usize = Deliveries::MOST_BESIDE + 1;
    let world = World::start().await;
    let most = i16::try_from(Deliveries::LANES_AT_ONCE).unwrap();
    let over = async |lanes: &str| {
        let over =
            format!("DELETE FROM federation.due WHERE domain = 'x.evil.example' AND lane IN ({lanes})");
        assert_ne!(world.admin.execute(&over, &[]).await.unwrap(), 0, "{lanes}");
    };
    let start = async |bytes: &[usize]| {
        world.admin.batch_execute("BEGIN").await.unwrap();
        make_due(&world, "'x.evil.example'", 1, "slow").await;
        add_lanes(&world, bytes).await;
    };

    start(&[SMALL; Deliveries::LANES_AT_ONCE + 1]).await;
    assert_eq!(slow_ones(&world.admin).await, lanes(0..most));
    // Another homeserver of the family has another line.
    make_due(&world, "'y.evil.example'", 1, "slow").await;
    assert_eq!(slow_ones(&world.admin).await, [("y.evil.example".to_owned(), 0)]);
    over("0").await;
    assert_eq!(slow_ones(&world.admin).await, lanes([most]));
    // The process ended that had one.
    let ended = "UPDATE federation.due SET due = now() - interval '1 second' WHERE lane = 1";
    world.admin.execute(ended, &[]).await.unwrap();
    assert_eq!(slow_ones(&world.admin).await, lanes([most + 1]));
    world.admin.batch_execute("ROLLBACK").await.unwrap();

    // Deliveries that fit beside others.
    start(&[Deliveries::MOST_BESIDE; Deliveries::LANES_AT_ONCE]).await;
    assert_eq!(slow_ones(&world.admin).await, lanes(0..most));
    world.admin.batch_execute("ROLLBACK").await.unwrap();

    // A delivery that does not fit waits until it is alone, and no later one goes before it.
    start(&[SMALL, LARGE, SMALL]).await;
    assert_eq!(slow_ones(&world.admin).await, lanes([0, 1]));
    over("0").await;
    assert_eq!(slow_ones(&world.admin).await, lanes([]));
    over("1").await;
    assert_eq!(slow_ones(&world.admin).await, lanes([2]));
    over("2").await;
    assert_eq!(slow_ones(&world.admin).await, lanes([3]));
    world.admin.batch_execute("ROLLBACK").await.unwrap();
    world.close();
}

/// Neither process sees what the other one is about to claim.
#[tokio::test(flavor = "multi_thread")]
async fn claims_at_the_same_time_do_not_take_the_same_room_on_a_slow_line() {
    let mut world = World::start().await;
    // Its own server would claim them.
    assert!(world.servers.remove(0).terminate().await.success());
    make_due(&world, "'x.evil.example'", 1, "slow").await;
    add_lanes(&world, &[9; Deliveries::LANES_AT_ONCE]).await;
    let slow = "INSERT INTO federation.attempts (domain, state, reason, failures, next_try)
                VALUES ('x.evil.example', 'slow', 'it takes long', 0, now())";
    world.admin.execute(slow, &[]).await.unwrap();
    let another = world.cluster.admin().await;
    world.admin.batch_execute("BEGIN").await.unwrap();
    let most = i16::try_from(Deliveries::LANES_AT_ONCE).unwrap();
    assert_eq!(slow_ones(&world.admin).await, lanes(0..most));
    assert_eq!(slow_ones(&another).await, lanes([]), "it does not know yet whether there is room");
    world.admin.batch_execute("COMMIT").await.unwrap();
    assert_eq!(slow_ones(&another).await, lanes([]), "there is none");
    world.admin.execute("DELETE FROM federation.due WHERE lane = 0", &[]).await.unwrap();
    assert_eq!(slow_ones(&another).await, lanes([most]));
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
