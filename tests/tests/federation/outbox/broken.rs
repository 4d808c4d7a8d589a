//! Deliveries under which the connection breaks, as with a proxy that ends one that carries more than it likes: they hold
//! nobody up. On a line that breaks others, too, they wait.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use postern_tests_kit::{Weather, World, eventually};

use super::{Talk, make_due};

/// Bytes of a body beyond which it is a large one here.
const LARGE: usize = 40_000;

impl Talk {
    /// Connections break in the middle of requests, by what came of the bodies. Returns the number of those.
    async fn breaking(&self, breach: impl Fn(&[u8]) -> bool + Send + Sync + 'static) -> Arc<AtomicUsize> {
        let broken = Arc::new(AtomicUsize::new(0));
        let count = broken.clone();
        self.neighbours.line(0, 1).break_off(&self.neighbours.authority.pem(), move |body| {
            let breaks = breach(body);
            count.fetch_add(usize::from(breaks), Ordering::SeqCst);
            breaks
        });
        self.operate("retry_now('b.example')").await;
        broken
    }
}

async fn broken_often(broken: &AtomicUsize, times: usize) {
    eventually("connections break again and again", async || {
        (broken.load(Ordering::SeqCst) >= times).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_its_connection_while_small_ones_are_taken_is_set_aside_and_the_others_come_in_order() {
    let mut talk = Talk::start().await;
    talk.operate("set_federation_limit('retry_seconds', 1)").await;
    talk.line(Weather::Cut);
    talk.say("small").await;
    let (large, _) = talk.submit(&vec![b'x'; 60_000]).await;
    talk.say("after it").await;
    talk.say(vec![b'y'; 1000]).await;
    talk.attempts_ended().await;
    let broken = talk.breaking(|body| body.len() > LARGE).await;
    talk.assert_heard("those that are small, in the same lane").await;
    // All four, the first two, and the last three of them; then the large one alone, twice in each of three attempts.
    let times = broken.load(Ordering::SeqCst);
    assert!(times >= 3 + 3 * 2, "{times} connections broke");
    let reasons = "SELECT array_agg(reason || ' ' || deliveries) FROM operator.set_aside()";
    assert_eq!(talk.sender().value::<Vec<String>>(reasons).await, ["breaks the connection 1"]);
    assert_eq!(talk.neighbour::<i64>("refused").await, 0);
    let retry = async |talk: &Talk, days: i32| {
        let pass = format!("UPDATE federation.set_aside SET day = day - {days}");
        talk.sender().admin.execute(&pass, &[]).await.unwrap();
        while talk.sender().value::<bool>("SELECT federation.retry_refused()").await {}
    };
    retry(&talk, 0).await;
    assert_eq!(talk.sender().count("federation.set_aside").await, 1, "not on the same day");
    let before = broken.load(Ordering::SeqCst);
    retry(&talk, 1).await;
    eventually("it is tried once more, and set aside again", async || {
        (talk.sender().count("federation.set_aside").await == 1).then_some(())
    })
    .await;
    assert!(broken.load(Ordering::SeqCst) >= before + 2);
    // The proxy takes more.
    talk.reconnect().await;
    retry(&talk, 1).await;
    assert_eq!(talk.sender().count("federation.set_aside").await, 1, "it is tried ever more seldom");
    retry(&talk, 1).await;
    talk.said.push(large);
    talk.assert_heard("late, and once").await;
    talk.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_set_aside_on_a_line_that_breaks_all_connections_or_some_of_small_deliveries_too() {
    let mut talk = Talk::start().await;
    talk.operate("set_federation_limit('retry_seconds', 1)").await;
    talk.operate("set_federation_limit('refused_attempts', 1)").await;
    talk.line(Weather::Cut);
    talk.say(vec![b'x'; 60_000]).await;
    let broken = talk.breaking(|body| !body.is_empty()).await;
    broken_often(&broken, 8).await;
    assert_eq!(talk.sender().count("federation.set_aside").await, 0, "it takes nothing");
    talk.is_in_state("failing").await;
    talk.reconnect().await;
    talk.assert_heard("once it takes some").await;

    // Each third attempt ends with a small delivery whose connection breaks: then the two before count no more.
    talk.line(Weather::Cut);
    talk.say(vec![b'x'; 60_000]).await;
    let (large, is_next) = (AtomicUsize::new(0), AtomicBool::new(false));
    let broken = talk
        .breaking(move |body| {
            if body.len() > LARGE {
                let times = large.fetch_add(1, Ordering::SeqCst) + 1;
                is_next.store(times.is_multiple_of(6), Ordering::SeqCst);
                return true;
            }
            // Not a request for tokens.
            let is_delivery = body.windows(8).any(|window| window == b"instance");
            is_delivery && is_next.swap(false, Ordering::SeqCst)
        })
        .await;
    broken_often(&broken, 3 * 7).await;
    assert_eq!(talk.sender().count("federation.set_aside").await, 0, "it is the line that is bad");
    talk.reconnect().await;
    talk.assert_heard("once the line is good").await;
    talk.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_breaks_its_connection_is_set_aside_at_the_third_attempt_in_a_row_if_it_is_large() {
    let world = World::start().await;
    let holder = "'\\x01010101010101010101010101010101'";
    let claim = format!(
        "SELECT is_last_break FROM federation.claim_lane('good', {holder}, 10, 64, 786432, '', '{{}}')"
    );
    let breaks = format!("SELECT federation.note_refusal('b.example', 0::smallint, {holder}, true)");
    let refused = format!("SELECT federation.note_refusal('b.example', 0::smallint, {holder}, false)");
    let failed = format!("SELECT federation.note_failed_attempt('b.example', {holder}, 'failing', 'silent')");
    let attempt = async |end: &str| -> bool {
        let is_last_break = world.value(&claim).await;
        world.admin.execute(end, &[]).await.unwrap();
        let due = "UPDATE federation.due SET due = now(), standing = 'good'";
        world.admin.execute(due, &[]).await.unwrap();
        is_last_break
    };
    for (bytes, expected) in [(1, 10), (40_000, 3)] {
        world.admin.batch_execute("BEGIN").await.unwrap();
        make_due(&world, "'b.example'", 1, "good").await;
        let size =
            format!("UPDATE federation.outbox SET sealed = sealed || decode(repeat('00', {bytes}), 'hex')");
        world.admin.execute(&size, &[]).await.unwrap();
        // These begin anew.
        for end in [&failed, &refused] {
            for end in [&breaks, &breaks, end] {
                attempt(end).await;
            }
        }
        let mut attempts = 1;
        while !attempt(&breaks).await {
            attempts += 1;
        }
        assert_eq!(attempts, expected, "{bytes} bytes");
        world.admin.batch_execute("ROLLBACK").await.unwrap();
    }
    world.close();
}
