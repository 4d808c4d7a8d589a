//! A server whose clock is wrong refuses nearly everything, and nothing else tells so: metrics, `postern status` and
//! `postern check` do (OPS-4, OPS-9).

use postern_protocol::problem::ProblemType;
use postern_tests_kit::{MovedClock, World, eventually};

use crate::{
    bad_days::{Talk, assert_nothing_failed},
    metrics::Scrape,
    views::Views,
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
