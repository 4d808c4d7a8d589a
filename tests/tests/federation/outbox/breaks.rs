//! Breaks of connections that count against the delivery that was alone on them: when they do, from when on they are counted
//! anew, and which pauses stay after them.

use postern_tests_kit::{Weather, World, eventually};

use super::{HOLDER, SETTLE_FIRST, Talk, add_second, broken::LARGE, close_unseen, due_unseen, make_due};

/// Attempts of the first domain's server under which a connection broke.
async fn broken_attempts(talk: &Talk) -> f64 {
    talk.sender().server().metric("postern_federation_attempts_total{outcome=\"broken\"}").await
}

/// The answer to the first question says nothing of a line that is bad from the second request on.
#[tokio::test(flavor = "multi_thread")]
async fn a_homeserver_is_asked_after_each_break_whether_it_answers_others() {
    let mut talk = Talk::start_with(&[("POSTERN_METRICS_LISTEN", "127.0.0.1:0")]).await;
    let before = broken_attempts(&talk).await;
    // Each request of an attempt costs a token.
    let note = "CREATE TABLE public.requests (holder bytea);
                CREATE FUNCTION public.note_request() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
                BEGIN
                    INSERT INTO public.requests (holder)
                    SELECT d.holder FROM federation.due d WHERE d.holder IS NOT NULL;
                    RETURN NULL;
                END $$;
                CREATE TRIGGER request_is_noted AFTER DELETE ON federation.tokens
                    FOR EACH ROW EXECUTE FUNCTION public.note_request()";
    talk.sender().admin.batch_execute(note).await.unwrap();
    talk.line(Weather::Cut);
    talk.say(vec![b'x'; 60_000]).await;
    talk.say("after it").await;
    talk.breaking(LARGE, false).await;
    // An attempt sends both, asks, sends the first one alone, and asks once more. After a break of its own the first one would come
    // alone.
    let anew = "UPDATE federation.due SET breaks = 0, broken_since = NULL, standing = 'good', due = now()
                 WHERE holder IS NULL AND (breaks > 0 OR standing = 'failing')";
    let most = "SELECT coalesce(max(a.requests), 0)
                  FROM (SELECT count(*) AS requests FROM public.requests r GROUP BY r.holder) a";
    eventually("it is asked twice in an attempt", async || {
        talk.sender().admin.execute(anew, &[]).await.unwrap();
        (talk.sender().value::<i64>(most).await >= 4).then_some(())
    })
    .await;
    // The first of them had no connections of its own.
    assert!(broken_attempts(&talk).await > before, "attempts under which a connection broke are counted");
    talk.reconnect().await;
    talk.assert_heard("over a better line").await;
    talk.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn breaks_count_anew_behind_what_was_taken_and_in_a_numbering_that_begins_anew() {
    let world = World::start().await;
    for end in [SETTLE_FIRST, "SELECT federation.renew_lane('b.example', 0::smallint)"] {
        world.admin.batch_execute("BEGIN").await.unwrap();
        make_due(&world, "'b.example'", 1, "good").await;
        add_second(&world).await;
        let broken = "UPDATE federation.due SET breaks = 4, broken_since = now() - interval '1 hour'";
        world.admin.batch_execute(broken).await.unwrap();
        world.admin.execute(end, &[]).await.unwrap();
        let breaks: i32 = world.value("SELECT breaks FROM federation.due").await;
        assert_eq!(breaks, 0, "the first one is another one now, or nobody knows it: {end}");
        world.admin.batch_execute("ROLLBACK").await.unwrap();
    }
    world.close();
}

/// A clock that was ahead lets no delivery hold its lane up until that time has come.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_break_was_now_at_the_latest() {
    let world = due_unseen("'b.example'", 1, "good").await;
    for (before, is_now) in [("now() + interval '1 day'", true), ("now() - interval '1 minute'", false)] {
        let broken = format!(
            "UPDATE federation.due SET holder = {HOLDER}, breaks = 1, broken_since = {before};
             SELECT federation.note_break('b.example', 0::smallint, {HOLDER}, NULL, true)"
        );
        world.admin.batch_execute(&broken).await.unwrap();
        let since = format!(
            "SELECT broken_since = CASE WHEN {is_now} THEN now() ELSE {before} END FROM federation.due"
        );
        assert!(world.value::<bool>(&since).await, "{before}");
    }
    close_unseen(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_answer_ends_no_pause_after_a_break_or_a_refusal() {
    let world = World::start().await;
    for standing in ["failing", "stranger"] {
        for (counts, is_due) in [
            ("breaks = 2, broken_since = now()", false),
            ("refusals = 2", false),
            // It waited for the homeserver, which answers now.
            ("refusals = 0", true),
        ] {
            world.admin.batch_execute("BEGIN").await.unwrap();
            make_due(&world, "'b.example'", 1, standing).await;
            let slow = format!(
                "UPDATE federation.due SET {counts}, due = now() + interval '4 minutes';
                 SELECT federation.note_slow('b.example')"
            );
            world.admin.batch_execute(&slow).await.unwrap();
            let due: bool = world.value("SELECT due <= now() FROM federation.due").await;
            assert_eq!(due, is_due, "{standing}, {counts}");
            world.admin.batch_execute("ROLLBACK").await.unwrap();
        }
    }
    world.close();
}
