//! Deliveries under which connections break, as with a proxy that ends one that carries more than it likes, and answers
//! nothing: they hold their lanes up for minutes, and what was on these connections with them comes. Where nothing is answered,
//! all of it waits.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use postern_protocol::MlsMessage;
use postern_tests_kit::{Group, Weather, World, eventually};

use super::{HOLDER, REASONS, Talk, close_unseen, due_unseen, heard, make_due, slow::ended};

/// Bytes of a body beyond which it is a large one here.
pub(super) const LARGE: usize = 40_000;

impl Talk {
    /// Connections break under bodies of more bytes than these, or before the answers to them. Returns the number of these.
    pub(super) async fn breaking(&self, most: usize, answers_only: bool) -> Arc<AtomicUsize> {
        let authority = self.neighbours.authority.pem();
        let line = self.neighbours.line(0, 1);
        self.between_attempts(|| line.narrow(&authority, most, answers_only)).await
    }

    /// A delivery breaks its own connection so often. Nobody waits for its next attempt.
    pub(super) async fn breaks(&self, times: i32) {
        eventually("it breaks its connection again and again", async || {
            self.hurry().await;
            let breaks = "SELECT coalesce(max(breaks), 0) FROM federation.due";
            (self.sender().value::<i32>(breaks).await >= times).then_some(())
        })
        .await;
    }

    /// A lane whose first delivery breaks its connection is due.
    pub(super) async fn hurry(&self) {
        let hurry =
            "UPDATE federation.due SET due = now() WHERE breaks > 0 AND due > now() AND holder IS NULL";
        self.sender().admin.execute(hurry, &[]).await.unwrap();
    }

    /// Ten minutes have passed.
    pub(super) async fn age(&self) {
        let age =
            "UPDATE federation.due SET broken_since = broken_since - interval '10 minutes' WHERE breaks > 0";
        assert_eq!(
            self.sender().admin.execute(age, &[]).await.unwrap(),
            1,
            "one delivery breaks connections"
        );
    }

    /// Servers try again by themselves what was set aside so many days ago.
    pub(super) async fn retry_after(&self, days: i32) {
        let pass = format!("UPDATE federation.set_aside SET day = day - {days}");
        self.sender().admin.execute(&pass, &[]).await.unwrap();
        while self.sender().value::<bool>("SELECT federation.retry_refused()").await {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_its_connections_is_set_aside_and_nothing_that_was_on_them_with_it() {
    let mut talk = Talk::start().await;
    let mut others: Vec<(Group, Option<MlsMessage>)> = Vec::new();
    for _ in 0..4 {
        let mut group = talk.neighbours[0].group(1).await;
        talk.neighbours.add(&mut group, 1, talk.neighbours[1].candidate().await).await;
        others.push((group, None));
    }
    talk.drained().await;
    let lanes: i64 = talk.sender().value("SELECT count(DISTINCT lane) FROM federation.outgoing_lanes").await;
    assert!(lanes > 1, "five groups have more than one lane");
    talk.line(Weather::Cut);
    talk.say("before it").await;
    let (large, _) = talk.submit(&vec![b'x'; 60_000]).await;
    talk.say("after it").await;
    for (group, said) in &mut others {
        let message = group.party(0).say(b"meanwhile");
        talk.sender().pay(&group.submit(0, &message, None)).await.assert_ok("a message");
        *said = Some(message);
    }
    // All lanes are tried at once, on one connection.
    let broken = talk.breaking(LARGE, false).await;
    talk.breaks(1).await;
    let elsewhere = "federation.outbox
                      WHERE lane <> (SELECT lane FROM federation.outbox ORDER BY octet_length(sealed) DESC LIMIT 1)";
    eventually("what is in other lanes is taken", async || {
        (talk.sender().count(elsewhere).await == 0).then_some(())
    })
    .await;
    talk.is_seen_to_refuse().await;
    talk.breaks(6).await;
    assert_eq!(talk.sender().count("federation.set_aside").await, 0, "it may still be a bad moment");
    let waits = "federation.outbox WHERE octet_length(sealed) > 60000";
    assert_eq!(talk.sender().count(waits).await, 1, "it waits");
    talk.age().await;
    eventually("it is set aside", async || {
        talk.hurry().await;
        (talk.sender().count("federation.set_aside").await == 1).then_some(())
    })
    .await;
    talk.assert_heard("those that are small, in the same lane").await;
    for (group, said) in &mut others {
        let heard = heard(&talk.neighbours[1], &mut group.members[1].mailbox).await;
        assert_eq!(heard, [said.take().expect("it was said")], "in any lane");
    }
    assert_eq!(talk.sender().value::<Vec<String>>(REASONS).await, ["breaks the connection 1"]);
    assert_eq!(talk.neighbour::<i64>("refused").await, 0);

    // It is tried again, on a connection of its own: once, and ever more seldom.
    talk.retry_after(0).await;
    assert_eq!(talk.sender().count("federation.set_aside").await, 1, "not on the same day");
    let before = broken.load(Ordering::SeqCst);
    talk.retry_after(1).await;
    eventually("it is tried once more, and set aside again", async || {
        (talk.sender().count("federation.set_aside").await == 1).then_some(())
    })
    .await;
    assert_eq!(broken.load(Ordering::SeqCst), before + 1);
    // The proxy takes more.
    talk.reconnect().await;
    talk.retry_after(1).await;
    assert_eq!(talk.sender().count("federation.set_aside").await, 1, "two days have to pass");
    talk.retry_after(1).await;
    talk.said.push(large);
    talk.assert_heard("late, and once").await;
    talk.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_set_aside_for_a_homeserver_under_which_all_connections_break() {
    let mut talk = Talk::start().await;
    talk.operate("set_federation_limit('retry_seconds', 1)").await;
    talk.line(Weather::Cut);
    talk.say("small").await;
    talk.say(vec![b'x'; 60_000]).await;
    let broken = talk.breaking(0, false).await;
    eventually("connections break again and again", async || {
        (broken.load(Ordering::SeqCst) >= 24).then_some(())
    })
    .await;
    talk.is_in_state("failing").await;
    assert_eq!(talk.sender().count("federation.due WHERE breaks > 0").await, 0, "it is away");
    assert_eq!(talk.sender().count("federation.set_aside").await, 0);
    talk.reconnect().await;
    talk.assert_heard("once it is back").await;
    talk.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_though_connections_broke_before_the_answers_is_not_set_aside() {
    let mut talk = Talk::start().await;
    talk.line(Weather::Cut);
    talk.say(vec![b'x'; 60_000]).await;
    let broken = talk.breaking(LARGE, true).await;
    // The homeserver says that it has it, at the first break of a connection of its own.
    talk.drained().await;
    assert!(broken.load(Ordering::SeqCst) < 5, "nobody waits for ten minutes");
    assert_eq!(talk.sender().count("federation.set_aside").await, 0);
    talk.assert_heard("once").await;
    talk.neighbours.close();
}

/// Nothing else is on that connection: the attempt goes on, as with any other that a delivery has for itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_break_under_what_is_large_for_a_slow_line_costs_no_attempt() {
    /// Bytes of a delivery, of which each alone comes through, and two together do not. They are more than share a connection.
    const EACH: usize = 12_000;
    let mut talk = Talk::start_with(&[("POSTERN_METRICS_LISTEN", "127.0.0.1:0")]).await;
    talk.line(Weather::Cut);
    for _ in 0..2 {
        talk.say(vec![b'x'; EACH]).await;
    }
    let authority = talk.neighbours.authority.pem();
    talk.end_attempts().await;
    let before = ended(&talk, "broken").await;
    let broken = talk.neighbours.line(0, 1).narrow(&authority, 2 * EACH, false);
    talk.operate("retry_now('b.example')").await;
    // The line may have been cut under one of them, after which it would have a connection for itself for that.
    let slow = "SELECT federation.note_slow('b.example');
                UPDATE federation.due SET apart_to = 0, breaks = 0, broken_since = NULL;
                COMMIT";
    talk.sender().admin.batch_execute(slow).await.unwrap();
    talk.assert_heard("both").await;
    assert_eq!(broken.load(Ordering::SeqCst), 1, "they went together first");
    assert_eq!(ended(&talk, "broken").await, before, "the rest of the attempt took one of them");
    assert_eq!(talk.sender().count("federation.set_aside").await, 0);
    talk.neighbours.close();
}

/// Whether the next claim has connections of its own, and sets its delivery aside if they break once more.
async fn claim(world: &World) -> Vec<bool> {
    let claim = format!(
        "SELECT ARRAY[is_apart, is_last_break] FROM federation.claim_lane('good', {HOLDER}, 10, 64, 786432, '', '{{}}')"
    );
    world.value(&claim).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_is_set_aside_at_its_fifth_break_and_ten_minutes_after_the_first_at_the_earliest() {
    let world = due_unseen("'b.example'", 1, "good").await;
    for (breaks, minutes, expected) in
        [(1, 60, false), (3, 60, false), (4, 9, false), (4, 10, true), (50, 9, false)]
    {
        let broken = format!(
            "UPDATE federation.due
                SET due = now(), holder = NULL, apart_to = 1, breaks = {breaks},
                    broken_since = now() - interval '{minutes} minutes'"
        );
        world.admin.execute(&broken, &[]).await.unwrap();
        assert_eq!(claim(&world).await, [true, expected], "{breaks} times in {minutes} minutes");
    }
    close_unseen(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn breaks_count_on_own_connections_only_and_anew_after_an_attempt_that_failed() {
    let world = due_unseen("'b.example'", 1, "good").await;
    let broke = |is_alone: bool| {
        format!(
            "SELECT federation.note_break('b.example', 0::smallint, {HOLDER}, (SELECT o.id FROM federation.outbox o), {is_alone})"
        )
    };
    let failed = format!("SELECT federation.note_failed_attempt('b.example', {HOLDER}, 'failing', 'silent')");
    let attempt = async |end: &str| -> (bool, i32) {
        let is_apart = claim(&world).await[0];
        world.admin.execute(end, &[]).await.unwrap();
        world.admin.execute("UPDATE federation.due SET due = now(), standing = 'good'", &[]).await.unwrap();
        (is_apart, world.value("SELECT breaks FROM federation.due").await)
    };
    for (end, expected) in [
        (broke(false), (false, 0)),
        (broke(false), (true, 0)),
        (broke(true), (true, 1)),
        (broke(true), (true, 2)),
        (failed, (true, 0)),
        (broke(true), (true, 1)),
    ] {
        assert_eq!(attempt(&end).await, expected, "{end}");
    }
    let since = "SELECT broken_since = now() FROM federation.due";
    assert!(world.value::<bool>(since).await);
    // The deliveries behind it share a connection again.
    let next =
        "UPDATE federation.outbox SET number = 2; UPDATE federation.outgoing_lanes SET next_number = 3";
    world.admin.batch_execute(next).await.unwrap();
    assert!(!claim(&world).await[0]);
    close_unseen(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pause_of_what_breaks_connections_is_five_minutes_or_retry_seconds_at_most() {
    let world = due_unseen("'b.example'", 1, "good").await;
    for (retry_seconds, breaks, least, most) in [
        (1, 0, 0.5, 1.0),
        (1, 50, 0.5, 1.0),
        (300, 0, 2.0, 4.0),
        (300, 50, 150.0, 300.0),
        (86_400, 50, 150.0, 300.0),
    ] {
        let broken = format!(
            "SELECT operator.set_federation_limit('retry_seconds', {retry_seconds});
             UPDATE federation.due
                SET holder = {HOLDER}, breaks = {breaks}, broken_since = CASE WHEN {breaks} > 0 THEN now() END;
             SELECT federation.note_break('b.example', 0::smallint, {HOLDER}, NULL, true)"
        );
        world.admin.batch_execute(&broken).await.unwrap();
        let pause: f64 =
            world.value("SELECT extract(epoch FROM due - now())::float8 FROM federation.due").await;
        assert!((least..=most).contains(&pause), "{pause} s with {retry_seconds} after {breaks}");
        // It is not taken for one of a clock that is wrong.
        world.admin.execute("SELECT federation.find_due()", &[]).await.unwrap();
        assert!(world.value::<bool>("SELECT due > now() FROM federation.due").await);
    }
    close_unseen(world).await;
}

/// The stranger takes nothing, answers what changes nothing, and ends all other connections, or refuses.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_ends_no_lanes_pause_by_an_answer_in_another_one_and_grows_no_younger() {
    let world = World::start().await;
    let pauses = async || -> Vec<bool> {
        world.value("SELECT array_agg(due > now() ORDER BY lane) FROM federation.due").await
    };
    for (counts, ends) in [
        (
            "breaks = 2, broken_since = now()",
            format!("federation.note_break('evil.example', 0::smallint, {HOLDER}, NULL, true)"),
        ),
        ("refusals = 2", format!("federation.note_refusal('evil.example', 0::smallint, {HOLDER})")),
    ] {
        world.admin.batch_execute("BEGIN").await.unwrap();
        make_due(&world, "'evil.example'", 1, "stranger").await;
        let lanes = format!(
            "INSERT INTO federation.due (domain, lane, family, standing, due)
             SELECT d.domain, 1, d.family, d.standing, d.due FROM federation.due d;
             UPDATE federation.due SET {counts}, due = now() + interval '4 minutes';
             UPDATE federation.due SET holder = {HOLDER} WHERE lane = 0;
             INSERT INTO federation.attempts (domain, state, reason, failures, next_try)
             VALUES ('evil.example', 'failing', 'silent', 5, now() - interval '1 second')"
        );
        world.admin.batch_execute(&lanes).await.unwrap();
        world.admin.execute(&format!("SELECT {ends}"), &[]).await.unwrap();
        assert_eq!(pauses().await, [true, true], "{ends}");
        let failures = "SELECT coalesce(max(failures), 0) FROM federation.attempts";
        assert_eq!(world.value::<i32>(failures).await, 5, "it took nothing: {ends}");
        for call in ["heard", "recover", "heard"] {
            world.admin.execute(&format!("SELECT federation.{call}('evil.example')"), &[]).await.unwrap();
            assert_eq!(pauses().await, [true, true], "{call} after {ends}");
        }
        world.admin.execute("SELECT operator.retry_now('evil.example')", &[]).await.unwrap();
        assert_eq!(pauses().await, [false, false], "the operator may");
        world.admin.batch_execute("ROLLBACK").await.unwrap();
    }
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_more_often_a_stranger_failed_the_longer_is_the_pause_after_a_break() {
    let world = due_unseen("'evil.example'", 1, "stranger").await;
    for (failures, least) in [(0, 2.0), (3, 16.0), (30, 150.0)] {
        let broken = format!(
            "DELETE FROM federation.attempts;
             INSERT INTO federation.attempts (domain, state, reason, failures, next_try)
             VALUES ('evil.example', 'failing', 'silent', {failures}, now());
             UPDATE federation.due SET holder = {HOLDER}, breaks = 0, broken_since = NULL;
             SELECT federation.note_break('evil.example', 0::smallint, {HOLDER}, NULL, true)"
        );
        world.admin.batch_execute(&broken).await.unwrap();
        let pause: f64 =
            world.value("SELECT extract(epoch FROM due - now())::float8 FROM federation.due").await;
        assert!((least..=2.0 * least).contains(&pause), "{pause} s after {failures}");
    }
    close_unseen(world).await;
}

/// Halving takes a request and a question for each step: where connections break late there is no time for that.
#[tokio::test(flavor = "multi_thread")]
async fn after_an_attempt_that_failed_those_that_go_apart_come_one_by_one() {
    let world = World::start().await;
    for (standing, apart_to, expected) in [
        ("good", 3, 3),
        ("slow", 3, 3),
        ("failing", 3, 1),
        ("failing", 1, 1),
        // Nothing broke under these.
        ("failing", 0, 3),
        ("stranger", 2, 1),
        ("stranger", 0, 3),
    ] {
        world.admin.batch_execute("BEGIN").await.unwrap();
        make_due(&world, "'b.example'", 1, standing).await;
        let more = format!(
            "INSERT INTO federation.outbox (id, domain, lane, number, sealed, day)
             SELECT uuid_send(gen_random_uuid()), o.domain, o.lane, n.number, o.sealed, o.day
               FROM federation.outbox o, (VALUES (2), (3)) AS n (number);
             UPDATE federation.outgoing_lanes SET waiting = 3, waiting_bytes = 27, next_number = 4;
             UPDATE federation.due SET apart_to = {apart_to}"
        );
        world.admin.batch_execute(&more).await.unwrap();
        let claim = format!(
            "SELECT cardinality(ids) FROM federation.claim_lane('{standing}', {HOLDER}, 10, 64, 786432, '', '{{}}')"
        );
        assert_eq!(world.value::<i32>(&claim).await, expected, "{standing}, apart up to {apart_to}");
        world.admin.batch_execute("ROLLBACK").await.unwrap();
    }
    world.close();
}
