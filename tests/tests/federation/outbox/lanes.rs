//! Lanes of the outbox, as tests make them, and look at them, in the database.

use postern_tests_kit::{World, eventually};

/// Whether no attempt is under way. None begins until the transaction ends that asks: claims pass over rows that it has, and it
/// passes over those that claims have.
pub(super) const NO_ATTEMPT: &str = "
    SELECT (SELECT count(*) FROM federation.due)
         = (SELECT count(*) FROM (SELECT d.lane FROM federation.due d WHERE d.holder IS NULL FOR UPDATE SKIP LOCKED) idle)";

/// The holder of a lane in the attempts that tests make themselves, as a literal in SQL.
pub(super) const HOLDER: &str = "'\\x01010101010101010101010101010101'";
/// Asks for the reasons why deliveries are set aside, each with their number.
pub(super) const REASONS: &str = "SELECT array_agg(reason || ' ' || deliveries) FROM operator.set_aside()";
/// Settles the first delivery of b.example's lane, which was taken: the outcome.
pub(super) const SETTLE_FIRST: &str = "
    SELECT c.outcome::text
      FROM federation.outgoing_lanes l,
           federation.compare_lane('b.example', 0::smallint, '\\x00', l.instance, 1, 1,
               (SELECT o.id FROM federation.outbox o WHERE o.number = 1)) c";

/// The attempts that began before have ended.
pub async fn attempts_ended(world: &World) {
    let ended = async || world.value::<bool>(NO_ATTEMPT).await.then_some(());
    eventually("no attempt is under way", ended).await;
}

/// Lanes of these domains are due, whose names are an expression of `n`, in this standing.
pub async fn make_due(world: &World, domain: &str, number: usize, standing: &str) {
    let sql = format!(
        "INSERT INTO federation.outgoing_lanes
             (domain, lane, instance, next_number, waiting, waiting_bytes, is_stranger, last_used)
         SELECT {domain}, 0, uuid_send(gen_random_uuid()), 2, 1, 9, '{standing}' = 'stranger', current_date
           FROM generate_series(1, {number}) n;
         INSERT INTO federation.neighbours (domain, first_success, last_success)
         SELECT {domain}, current_date, current_date
           FROM generate_series(1, {number}) n
          WHERE '{standing}' <> 'stranger';
         INSERT INTO federation.outbox (id, domain, lane, number, sealed, day)
         SELECT uuid_send(gen_random_uuid()), {domain}, 0, 1, m.key_id || '\\x00'::bytea, current_date
           FROM generate_series(1, {number}) n, operator.master_key m;
         INSERT INTO federation.due (domain, lane, family, standing, due)
         SELECT {domain}, 0, federation.share({domain}), '{standing}', now() - interval '1 hour'
           FROM generate_series(1, {number}) n;"
    );
    world.admin.batch_execute(&sql).await.unwrap();
}

/// A second delivery waits in b.example's lane, the only one, as [`make_due`] makes it.
pub async fn add_second(world: &World) {
    let sql = "INSERT INTO federation.outbox (id, domain, lane, number, sealed, day)
               SELECT uuid_send(gen_random_uuid()), 'b.example', 0, 2, m.key_id || '\\x00'::bytea, current_date
                 FROM operator.master_key m;
               UPDATE federation.outgoing_lanes SET waiting = 2, waiting_bytes = 18, next_number = 3";
    world.admin.batch_execute(sql).await.unwrap();
}

/// A world in which lanes are due, as [`make_due`] makes them, in a transaction of the superuser: no server sees them.
pub async fn due_unseen(domain: &str, number: usize, standing: &str) -> World {
    let world = World::start().await;
    world.admin.batch_execute("BEGIN").await.unwrap();
    make_due(&world, domain, number, standing).await;
    world
}

/// Closes the world of [`due_unseen`].
pub async fn close_unseen(world: World) {
    world.admin.batch_execute("ROLLBACK").await.unwrap();
    world.close();
}

/// The domain of the next lane that is claimed after this family's turn, and whose turn it was.
pub async fn claimed(world: &World, standing: &str, after: &str) -> (Option<String>, String) {
    let sql = "SELECT domain, family
                 FROM federation.claim_lane($1, uuid_send(gen_random_uuid()), 10, 64, 786432, $2, '{}')";
    let row = world.admin.query_one(sql, &[&standing, &after]).await.unwrap();
    (row.get(0), row.get(1))
}

/// Puts a delivery of so many bytes in for each of these domains, an expression of `n`. Returns how many were put in.
pub async fn put_in(world: &World, domain: &str, number: usize, bytes: usize) -> usize {
    let sql = format!(
        "SELECT federation.enqueue(array_agg(0::smallint), array_agg(({domain})::text),
                                   array_agg(uuid_send(gen_random_uuid())),
                                   array_agg(m.key_id || decode(repeat('00', {bytes}), 'hex')))
           FROM generate_series(1, {number}) n, operator.master_key m"
    );
    match world.value::<Vec<i16>>(&sql).await {
        all if all.is_empty() => number,
        some => some.iter().filter(|result| **result == 0).count(),
    }
}
