//! A server whose clock is wrong refuses nearly everything, and nothing else tells so: metrics, `postern status` and
//! `postern check` do (OPS-4, OPS-9). Where its database is on the same machine, no other clock is there to compare with.

use postern_protocol::problem::ProblemType;
use postern_tests_kit::{MovedClock, World, eventually};

use crate::{
    bad_days::{
        DAY, Talk, assert_nothing_failed, everything_due, has_verdict, is_ready, to_1970, verdict_on,
    },
    metrics::Scrape,
    views::{View, Views},
};

const HOUR: i32 = 60 * 60;
const YEAR: i32 = 365 * 24 * HOUR;

/// Requests that were refused for their signature.
fn refused(scrape: &Scrape) -> f64 {
    scrape.sum("postern_requests_total", &["outcome=\"signature-required\""])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_servers_clock_that_is_wrong_is_told_everywhere_and_people_go_on_once_it_is_right() {
    // PostgreSQL and the people have the right time; the server, and who looks after it at its machine, have another.
    let clock = MovedClock::of_others();
    let builder = World::builder().setting("POSTERN_METRICS_LISTEN", "127.0.0.1:0");
    let builder = clock.calendar().iter().fold(builder, |world, (name, value)| world.setting(name, value));
    let world = builder.start().await;
    let mut talk = Talk::begin(world.server()).await;
    let views = Views::of(world.server(), &world.cluster.server_url()).await;
    let views = clock.calendar().into_iter().fold(views, |views, (name, value)| views.with(name, value));
    let right = "ok       server clock: it is the database's time here";
    views.until("all is well", |view| view.code == Some(0) && view.status.contains(right)).await;

    for (ahead, says) in [
        (HOUR, "60 minutes ahead of"),
        (-HOUR, "60 minutes behind"),
        (YEAR, "365 days ahead of"),
        (-YEAR, "365 days behind"),
    ] {
        let before = refused(&Scrape::of(world.server()).await);
        // Problems told under the clock before are dropped.
        talk.take_told();
        // A little more than that, whatever the look takes.
        clock.move_to(i64::from(ahead + 30 * ahead.signum()));
        talk.keep(&format!("said {ahead} seconds away"));
        assert!(!talk.is_delivered().await);
        // A year away, no key of the server's issues tokens now: then nothing is asked at all.
        let told = talk.take_told();
        let asked = told == [Some(ProblemType::SignatureRequired)];
        assert!(asked || ahead.abs() == YEAR && told == [None], "{ahead} seconds: {told:?}");
        eventually("metrics tell", async || {
            let scrape = Scrape::of(world.server()).await;
            let apart = scrape.known("postern_clock_offset_seconds")? - f64::from(ahead);
            let is_problem = scrape.known("postern_health{item=\"server clock\"}") == Some(2.0);
            (apart.abs() < 40.0 && is_problem && (refused(&scrape) > before || !asked)).then_some(())
        })
        .await;
        let told = format!("problem  server clock: the clock here is {says} the database's");
        for command in ["status", "check"] {
            eventually(&told, async || {
                let (code, text) = views.said(command).await;
                (code != Some(0) && text.contains(&told)).then_some(())
            })
            .await;
        }
        clock.move_to(0);
        talk.goes_on("at the same time again").await;
        views
            .until(right, |view| {
                let is_right = view.figure("postern_health{item=\"server clock\"}") == Some(0.0);
                is_right && view.status.contains(right)
            })
            .await;
    }
    assert_nothing_failed(world.server());
}

/// Requests for messages that were refused for their signature: the series of `PosternSignaturesRefused`.
fn refused_for_signature(scrape: &Scrape) -> f64 {
    let labels = ["route=\"/qs/queues/{queue_id}/dequeue\"", "outcome=\"signature-required\""];
    scrape.sum("postern_requests_total", &labels)
}

/// Server and PostgreSQL are on one machine, which has another time than clients: their signatures are too old for it, or not
/// made yet. The two clocks agree, so that refused signatures tell, and after a leap of days the database's verdict on its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_servers_clock_that_leaps_refuses_signatures_and_nothing_is_lost_when_it_is_right_again() {
    const REFUSED: Option<ProblemType> = Some(ProblemType::SignatureRequired);
    let clock = MovedClock::of_others();
    let world = World::builder().by(&clock).setting("POSTERN_METRICS_LISTEN", "127.0.0.1:0").start().await;
    let mut talk = Talk::begin(world.server()).await;
    let views = Views::of(world.server(), &world.cluster.server_url()).await;
    // The operator looks after the server at its machine.
    let views = clock.calendar().into_iter().fold(views, |views, (name, value)| views.with(name, value));
    let agree = "ok       server clock: it is the database's time here";
    for ahead in [3600, -3600, DAY, -DAY, 60 * DAY, -60 * DAY, 400 * DAY, -400 * DAY, to_1970()] {
        // It waits for its reader meanwhile.
        talk.keep(&format!("said before {ahead} seconds"));
        eventually("it is delivered", async || talk.is_delivered().await.then_some(())).await;
        clock.move_to(ahead);
        everything_due(&world).await;
        let before = refused_for_signature(&Scrape::of(world.server()).await);
        // Problems told before the leap are dropped.
        talk.take_told();
        talk.keep(&format!("said {ahead} seconds away"));
        assert!(!talk.is_delivered().await);
        let told = talk.take_told();
        assert!(!talk.is_heard().await);
        let told_reader = talk.take_told();
        for told in [&told, &told_reader] {
            // Further away than keys are valid, the server may have no key that is good for anything by the time of clients:
            // then nothing is asked, or it says that it has none.
            let is_away =
                |problem: &Option<ProblemType>| matches!(problem, None | Some(ProblemType::Unavailable));
            let is_far = ahead.abs() == 400 * DAY;
            let is_told = is_far && told.iter().all(|problem| is_away(problem) || *problem == REFUSED);
            assert!(is_told || *told == [REFUSED], "{ahead} seconds: {told:?}");
        }
        let is_counted =
            |view: &View| view.scrape.as_ref().is_some_and(|it| refused_for_signature(it) > before);
        views
            .until(&format!("a machine that is {ahead} seconds ahead"), |view| {
                let offset = view.figure("postern_clock_offset_seconds");
                offset.is_some_and(|offset| offset.abs() < 30.0)
                    && view.figure("postern_health{item=\"server clock\"}") == Some(0.0)
                    && view.status.contains(agree)
                    && (is_counted(view) || !told_reader.contains(&REFUSED))
                    && has_verdict(view, verdict_on(ahead))
            })
            .await;
        eventually("the server is ready by its own clock", async || is_ready(world.server()).await).await;
        clock.move_to(0);
        talk.goes_on("at the same time again").await;
    }
    assert_nothing_failed(world.server());
}
