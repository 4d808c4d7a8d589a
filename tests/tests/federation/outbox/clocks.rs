//! Clocks that are, or were, ahead: nothing is lost by them, and nothing put off for long.

use postern_protocol::federation::{Description, HomeserverShown, KnownKeys};
use postern_tests_kit::{Call, Weather, World, eventually, now};

use super::{Talk, put_in};

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_ahead_for_hours_expires_nothing() {
    let mut talk = Talk::start().await;
    talk.line(Weather::Cut);
    talk.say("yesterday's").await;
    let waits = async |talk: &Talk| {
        while talk.sender().value::<bool>("SELECT federation.expire_deliveries()").await {}
        talk.sender().count("federation.outbox").await == 1
    };
    let earlier = async |talk: &Talk, days: i32| {
        let sql = format!(
            "UPDATE operator.days SET day = day - 1000; UPDATE operator.days SET day = day + 1000 - {days};
             UPDATE federation.outbox SET day = day - {days};"
        );
        talk.sender().admin.batch_execute(&sql).await.unwrap();
    };
    assert!(waits(&talk).await, "a common day");
    // The days before lead nowhere near this one.
    earlier(&talk, 30).await;
    assert!(waits(&talk).await, "the clock is ahead");
    assert!(waits(&talk).await, "whoever asks");
    earlier(&talk, 1).await;
    assert!(waits(&talk).await, "and after midnight");
    // It is right again: those days are forgotten, and this one is the day.
    let right = "DELETE FROM operator.days;
                 INSERT INTO operator.days VALUES (current_date - 2), (current_date - 1), (current_date + 30);
                 UPDATE federation.outbox SET day = current_date - 13";
    talk.sender().admin.batch_execute(right).await.unwrap();
    assert!(waits(&talk).await, "the clock is right again");
    assert_eq!(talk.sender().count("operator.days WHERE day > current_date").await, 0);
    earlier(&talk, 1).await;
    assert!(waits(&talk).await, "not yet");
    earlier(&talk, 1).await;
    assert!(!waits(&talk).await, "days that follow each other count");
    talk.said.clear();
    talk.neighbours.close();
}

/// Times are noted while a clock is months ahead; then it is right again.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_ahead_puts_no_delivery_off() {
    let mut talk = Talk::start().await;
    talk.line(Weather::Cut);
    talk.say("meanwhile").await;
    eventually("an attempt failed", async || {
        (talk.sender().count("federation.attempts").await == 1).then_some(())
    })
    .await;
    let noted = "UPDATE federation.attempts SET next_try = now() + interval '60 days';
                 UPDATE federation.due SET due = now() + interval '60 days', holder = NULL;
                 UPDATE federation.refills SET asked = now() + interval '60 days'";
    talk.sender().admin.batch_execute(noted).await.unwrap();
    talk.line(Weather::Fair);
    // Nobody asks for an attempt.
    talk.drained().await;
    talk.assert_heard("afterwards").await;
    talk.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_put_in_while_a_clock_was_ahead_is_not_lost_and_keeps_nothing_for_long() {
    let talk = Talk::start().await;
    talk.line(Weather::Cut);
    let count =
        async |rows: &str| talk.sender().count(&format!("{rows} WHERE domain = 'made-up.example'")).await;
    assert_eq!(put_in(talk.sender(), "'made-up.example'", 3, 1).await, 3);
    let days = "UPDATE federation.outbox o
                   SET day = CASE WHEN o.number = n.middle THEN current_date + 400 ELSE current_date - 20 END
                  FROM (SELECT min(f.number) + 1 AS middle FROM federation.outbox f WHERE f.domain = 'made-up.example') n
                 WHERE o.domain = 'made-up.example'";
    assert_eq!(talk.sender().admin.execute(days, &[]).await.unwrap(), 3);
    while talk.sender().value::<bool>("SELECT federation.expire_deliveries()").await {}
    assert_eq!(count("federation.set_aside").await, 1);
    assert_eq!(count("federation.outbox").await, 2);
    // Now it counts as one of today, and goes when those of today do, with what is behind it.
    let later = "UPDATE federation.outbox SET day = day - 20 WHERE domain = 'made-up.example'";
    talk.sender().admin.execute(later, &[]).await.unwrap();
    while talk.sender().value::<bool>("SELECT federation.expire_deliveries()").await {}
    assert_eq!(count("federation.set_aside").await, 3);
    assert_eq!(count("federation.outbox").await, 0);
    talk.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn looks_that_failed_while_a_clock_was_ahead_are_made_again() {
    let world = World::start().await;
    for ahead in ["11 seconds", "110 minutes", "3 hours"] {
        let note = format!(
            "DELETE FROM federation.looks;
             INSERT INTO federation.looks (domain, looked, failures)
             VALUES ('b.example', now() + interval '{ahead}', 3)"
        );
        world.admin.batch_execute(&note).await.unwrap();
        let found = "SELECT outcome::text FROM federation.find_homeserver('b.example', false)";
        assert_eq!(world.value::<String>(found).await, "due", "{ahead}");
        world.admin.execute("SELECT federation.heard('b.example')", &[]).await.unwrap();
        assert_eq!(world.count("federation.looks").await, 0, "{ahead}");
    }
    world.close();
}

/// The clocks of both homeservers were ahead when one looked at the other. Then they are right again.
#[tokio::test(flavor = "multi_thread")]
async fn a_description_that_was_seen_while_clocks_were_ahead_is_none_once_they_are_right() {
    let mut talk = Talk::start().await;
    for ahead in ["110 minutes", "365 days"] {
        // No key of that time serves now, and people were shown what was seen.
        let seen = format!(
            "UPDATE federation.homeservers
                SET description = '{{}}', content = sha256('{{}}'),
                    issued = issued + extract(epoch FROM interval '{ahead}')::bigint,
                    expires = expires + extract(epoch FROM interval '{ahead}')::bigint;
             DELETE FROM federation.shown;
             INSERT INTO federation.shown (domain, day, description, content, issued, expires)
             SELECT h.domain, (now() AT TIME ZONE 'UTC')::date, h.description, h.content, h.issued, h.expires
               FROM federation.homeservers h;
             UPDATE federation.looks SET looked = now() + interval '{ahead}';
             DELETE FROM federation.tokens;
             DELETE FROM federation.refills"
        );
        talk.sender().admin.batch_execute(&seen).await.unwrap();
        // It needs tokens first.
        talk.say(ahead).await;
        talk.assert_heard(ahead).await;
        let domain = talk.receiver().domain();
        let reply = talk.sender().pay(&Call::get(format!("/homeservers/{domain}"))).await;
        let shown: HomeserverShown = reply.decode();
        let shown = Description::from_json(shown.description.as_bytes()).expect("it is a description");
        shown.verify(domain, &KnownKeys::default(), now()).expect("people take it");
    }
    assert_eq!(talk.sender().count("federation.set_aside").await, 0);
    talk.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_description_of_a_time_to_come_is_newer_than_others_as_long_as_clocks_may_differ_so_much() {
    let world = World::start().await;
    for (ahead, expected) in [
        (365 * 24 * 3600, "kept"),
        // Clocks are right again.
        (0, "kept"),
        (-60, "outdated"),
        (290, "kept"),
        (0, "outdated"),
        (3600, "kept"),
        (0, "kept"),
    ] {
        let keep = format!(
            "SELECT k.outcome::text
               FROM (SELECT extract(epoch FROM now())::bigint + ({ahead}) AS issued) d,
                    federation.keep_homeserver('b.example', '{{}}', sha256('{{}}'), 'https://b.example', d.issued,
                                               d.issued + 86400, '{{}}', '{{}}', '{{}}', '{{}}') k"
        );
        assert_eq!(world.value::<String>(&keep).await, expected, "{ahead} seconds ahead");
    }
    world.close();
}
