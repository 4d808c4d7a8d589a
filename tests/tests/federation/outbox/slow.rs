//! Slow attempts: they wait apart, and hold nobody up.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, Instant},
};

use postern_protocol::{federation::Deliveries, qs::QueuePayload};
use postern_tests_kit::{Group, Neighbours, Weather, eventually};

use super::{HOLDER, Talk, close_unseen, due_unseen};

/// So many attempts at a domain are under way, at least.
async fn are_under_way(talk: &Talk, number: i64, domain: &str) {
    let attempts = format!("federation.due WHERE domain = '{domain}' AND holder IS NOT NULL");
    eventually("attempts are under way", async || {
        (talk.sender().count(&attempts).await >= number).then_some(())
    })
    .await;
}

/// Groups in so many lanes of the second domain, one in each.
async fn in_lanes(talk: &Talk, number: usize) -> Vec<Group> {
    let lanes = "SELECT count(DISTINCT lane) FROM federation.outgoing_lanes WHERE domain = 'b.example'";
    let mut groups = Vec::new();
    while groups.len() < number {
        let before: i64 = talk.sender().value(lanes).await;
        let mut group = talk.neighbours[0].group(1).await;
        talk.neighbours.add(&mut group, 1, talk.neighbours[1].candidate().await).await;
        talk.drained().await;
        if talk.sender().value::<i64>(lanes).await > before {
            groups.push(group);
        }
    }
    groups
}

/// Attempts of all processes of the first domain that ended so.
pub(super) async fn ended(talk: &Talk, outcome: &str) -> f64 {
    let series = format!("postern_federation_attempts_total{{outcome=\"{outcome}\"}}");
    let mut attempts = 0.0;
    for server in &talk.sender().servers {
        attempts += server.metric(&series).await;
    }
    attempts
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_attempts_at_a_domain_leave_places_to_others() {
    // More lanes than places.
    let builder = Neighbours::builder().domains(3).bad_lines().tokens(400);
    let neighbours = builder.setting("POSTERN_FEDERATION_DELIVERIES_AT_ONCE", "8").start().await;
    let mut group = neighbours[0].group(1).await;
    neighbours.add(&mut group, 2, neighbours[2].candidate().await).await;
    let mut talk = Talk { neighbours, group, said: Vec::new() };
    let mut slow = Vec::new();
    for _ in 0..24 {
        let mut group = talk.neighbours[0].group(1).await;
        talk.neighbours.add(&mut group, 1, talk.neighbours[1].candidate().await).await;
        slow.push(group);
    }
    talk.drained().await;
    talk.line(Weather::Slow(Duration::from_secs(20)));
    for group in &mut slow {
        let said = group.party(0).say(b"slowly");
        talk.sender().pay(&group.submit(0, &said, None)).await.assert_ok("a message");
    }
    // A family of names has places for two, until the first ones count as slow.
    are_under_way(&talk, 2, "b.example").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let said = talk.group.party(0).say(b"in time");
    talk.sender().pay(&talk.group.submit(0, &said, None)).await.assert_ok("a message");
    let begun = Instant::now();
    let heard = talk.neighbours.await_payloads(2, &mut talk.group.members[1]).await;
    assert_eq!(heard, [QueuePayload::Message(said)]);
    // The slow ones wait for half a minute.
    assert!(begun.elapsed() < Duration::from_secs(15), "it waited {:?}", begun.elapsed());
    talk.line(Weather::Cut);
    talk.reconnect().await;
    talk.drained().await;
    talk.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_is_put_off_while_it_gets_tokens_has_them_the_next_time() {
    /// Time within which it has them: where they are lost, nobody asks for others for a minute.
    const SOON: Duration = Duration::from_secs(55);
    let builder = Neighbours::builder().domains(3).bad_lines().tokens(300);
    let neighbours = builder.setting("POSTERN_FEDERATION_DELIVERIES_AT_ONCE", "1").start().await;
    let mut group = neighbours[0].group(1).await;
    neighbours.add(&mut group, 1, neighbours[1].candidate().await).await;
    let mut silent = neighbours[0].group(1).await;
    neighbours.add(&mut silent, 2, neighbours[2].candidate().await).await;
    let mut talk = Talk { neighbours, group, said: Vec::new() };
    talk.drained().await;
    talk.neighbours.line(0, 2).set(Weather::Silent);
    let said = silent.party(0).say(b"to one that is silent");
    talk.sender().pay(&silent.submit(0, &said, None)).await.assert_ok("a message");
    // Until that has the only place for an attempt that takes long.
    are_under_way(&talk, 1, "c.example").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let spend = "DELETE FROM federation.tokens WHERE domain = 'b.example'";
    talk.sender().admin.execute(spend, &[]).await.unwrap();
    talk.line(Weather::Slow(Duration::from_millis(1500)));
    let begun = Instant::now();
    let (said, _) = talk.submit(b"in time").await;
    let heard = talk.neighbours.await_payloads(1, &mut talk.group.members[1]).await;
    assert_eq!(heard, [QueuePayload::Message(said)]);
    assert!(begun.elapsed() < SOON, "it waited {:?}", begun.elapsed());
    talk.line(Weather::Fair);
    talk.neighbours.line(0, 2).set(Weather::Fair);
    talk.operate("retry_now('c.example')").await;
    talk.drained().await;
    let failed = "federation.attempts WHERE domain = 'b.example' AND state <> 'slow'";
    assert_eq!(talk.sender().count(failed).await, 0, "it was slow, and did not fail");
    talk.neighbours.close();
}

/// It takes longer than an ordinary request may, than others' bodies may, and than a connection may give no sign of life.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_large_comes_over_a_slow_line_and_what_is_behind_it() {
    /// Bytes that the line carries in a second: twice as many as the slowest one does for which there is time.
    const RATE: usize = 2 * Deliveries::LEAST_RATE;
    const LARGE: usize = 800_000;
    let settings = [("POSTERN_MAX_BODY_BYTES", "4194304"), ("POSTERN_BODY_TIMEOUT_SECONDS", "20")];
    let mut talk = Talk::start_with(&settings).await;
    talk.operate("set_group_limit('max_message_bytes', 3000000)").await;
    talk.line(Weather::Trickle(RATE));
    // The sender has seen that.
    talk.sender().admin.execute("SELECT federation.note_slow('b.example')", &[]).await.unwrap();
    let begun = Instant::now();
    talk.say(vec![b'x'; LARGE]).await;
    talk.say("behind it").await;
    talk.assert_heard("all of it").await;
    let least = Duration::from_secs((LARGE / RATE) as u64);
    assert!(begun.elapsed() > least, "the line is slow");
    assert_eq!(talk.sender().count("federation.set_aside").await, 0);
    talk.line(Weather::Fair);
    talk.neighbours.close();
}

/// Once one lane has shown that something comes over the line, all are tried: each sends no more than fits beside the others.
#[tokio::test(flavor = "multi_thread")]
async fn lanes_that_share_a_slow_line_send_little_at_once() {
    /// Bytes that the line carries in a second: with each of these messages it is busy for longer than a prompt answer takes.
    const RATE: usize = 4 * Deliveries::LEAST_RATE;
    const LARGE: usize = 90_000;
    let talk = Talk::start_with(&[("POSTERN_METRICS_LISTEN", "127.0.0.1:0")]).await;
    for limit in ["set_group_limit('max_message_bytes', 100000)", "set_federation_limit('retry_seconds', 1)"]
    {
        talk.operate(limit).await;
    }
    let mut groups = in_lanes(&talk, 5).await;
    let (before, taken) = (ended(&talk, "done").await, talk.taken().await);
    talk.line(Weather::Cut);
    for group in &mut groups {
        for _ in 0..2 {
            let said = group.party(0).say(&[b'x'; LARGE]);
            talk.sender().pay(&group.submit(0, &said, None)).await.assert_ok("a message");
        }
    }
    let others = "federation.due WHERE standing <> 'failing' OR holder IS NOT NULL";
    eventually("all lanes fail", async || (talk.sender().count(others).await == 0).then_some(())).await;
    talk.line(Weather::Trickle(RATE));
    talk.drained().await;
    let messages = 2 * groups.len();
    assert_eq!(talk.taken().await, taken + messages as i64);
    eventually("each came in a request of its own", async || {
        (ended(&talk, "done").await >= before + messages as f64).then_some(())
    })
    .await;
    talk.line(Weather::Fair);
    talk.neighbours.close();
}

/// Each has its share of the line, on which frames of a request come seldom: that is no stall. More at once would take longer than
/// each has time for.
#[tokio::test(flavor = "multi_thread")]
async fn lanes_of_all_processes_share_the_slowest_line() {
    /// Bytes that are on a connection of their own, in several frames.
    const LARGE: usize = 40_000;
    const LANES: usize = Deliveries::LANES_AT_ONCE + 2;
    let builder = Neighbours::builder().bad_lines().processes(2).tokens(300);
    let neighbours = builder.setting("POSTERN_METRICS_LISTEN", "127.0.0.1:0").start().await;
    let mut group = neighbours[0].group(1).await;
    neighbours.add(&mut group, 1, neighbours[1].candidate().await).await;
    let talk = Talk { neighbours, group, said: Vec::new() };
    let mut groups = in_lanes(&talk, LANES).await;
    let (failing, broken) = (ended(&talk, "failing").await, ended(&talk, "broken").await);
    let taken = talk.taken().await;
    talk.line(Weather::Trickle(Deliveries::LEAST_RATE));
    // The sender has seen that.
    talk.sender().admin.execute("SELECT federation.note_slow('b.example')", &[]).await.unwrap();
    for group in &mut groups {
        let said = group.party(0).say(&[b'x'; LARGE]);
        talk.sender().pay(&group.submit(0, &said, None)).await.assert_ok("a message");
    }
    let under_way = "federation.due WHERE domain = 'b.example' AND holder IS NOT NULL AND due > now()";
    let most = AtomicI64::new(0);
    eventually("all of it comes", async || {
        most.fetch_max(talk.sender().count(under_way).await, Ordering::SeqCst);
        (talk.sender().count("federation.outbox").await == 0).then_some(())
    })
    .await;
    let most = most.load(Ordering::SeqCst);
    assert!((2..=Deliveries::LANES_AT_ONCE as i64).contains(&most), "{most} lanes at once");
    assert_eq!(talk.taken().await, taken + LANES as i64);
    assert_eq!(ended(&talk, "failing").await, failing, "none has taken too long");
    assert_eq!(ended(&talk, "broken").await, broken, "no connection was given up");
    talk.line(Weather::Fair);
    talk.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_finds_no_place_to_be_slow_is_no_failure() {
    let world = due_unseen("'b.example'", 1, "good").await;
    let holder = format!("UPDATE federation.due SET holder = {HOLDER}, due = now() + interval '10 s'");
    world.admin.execute(&holder, &[]).await.unwrap();
    let put_off = |is_slow: bool| {
        format!("SELECT federation.put_off('b.example', 0::smallint, {HOLDER}, {is_slow}, 2)")
    };
    // A thing that this server lacks says nothing of the other one.
    world.admin.execute(&put_off(false), &[]).await.unwrap();
    let as_before =
        "SELECT standing = 'good' AND holder IS NULL AND due <= now() + interval '2 s' FROM federation.due";
    assert!(world.value::<bool>(as_before).await);
    assert_eq!(world.count("federation.attempts").await, 0);
    world.admin.execute(&holder, &[]).await.unwrap();
    world.admin.execute(&put_off(true), &[]).await.unwrap();
    let soon =
        "SELECT standing = 'slow' AND holder IS NULL AND due <= now() + interval '2 s' FROM federation.due";
    assert!(world.value::<bool>(soon).await);
    let shown = "SELECT state = 'slow' AND next_try_seconds <= 2 FROM operator.neighbours()";
    assert!(world.value::<bool>(shown).await);
    assert_eq!(world.value::<i32>("SELECT failures FROM federation.attempts").await, 0);
    // Once it is prompt again, so is its standing.
    world.admin.execute("SELECT federation.recover('b.example')", &[]).await.unwrap();
    assert_eq!(world.value::<String>("SELECT standing FROM federation.due").await, "good");
    close_unseen(world).await;
}
