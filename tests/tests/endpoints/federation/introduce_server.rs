//! `POST /homeservers` (FED-1)

use postern_protocol::{
    federation::IntroduceServer, key::SigningKey, oblivious::REQUEST_MEDIA_TYPE, problem::ProblemType,
    token::TokenType,
};
use postern_tests_kit::{Ask, Call, HOME, World};
use reqwest::StatusCode;

use super::{BLOCKED, PINNED, block, pinned};
use crate::every_route::Valid;

fn introducing(domain: &str) -> Call {
    Call::post("/homeservers").with(&IntroduceServer { domain: domain.parse().unwrap() })
}

/// An introduction of a homeserver that is known already.
pub async fn valid(world: &World) -> Valid {
    let key = pinned(world).await;
    // A look was made just now, so that a stranger causes none.
    let sql = "INSERT INTO federation.homeservers (domain, description, content, base_url, issued, expires, seen)
               VALUES ($1::text, '{}', sha256('{}'), 'https://pinned.example', 1, extract(epoch FROM now())::bigint + 3600, current_date)
               ON CONFLICT DO NOTHING";
    world.admin.execute(sql, &[&PINNED]).await.expect("it can be kept");
    let sql = "INSERT INTO federation.looks (domain, looked) VALUES ($1::text, now() + interval '1 hour')
               ON CONFLICT DO NOTHING";
    world.admin.execute(sql, &[&PINNED]).await.expect("it can be noted");
    let call = introducing(PINNED).signed_by(&key);
    Valid { stranger: Some(ProblemType::NotAllowed), ..Valid::new(call, StatusCode::NO_CONTENT) }
}

#[tokio::test]
async fn nobody_introduces_this_homeserver_or_one_that_is_blocked_or_cannot_be_found() {
    let world =
        World::builder().setting("POSTERN_FEDERATION_HOSTS", "lost.example=127.0.0.1:1").start().await;
    let key = pinned(&world).await;
    block(&world).await;
    for (domain, expected) in [
        (HOME, ProblemType::NotAllowed),
        (BLOCKED, ProblemType::HomeserverBlocked),
        ("lost.example", ProblemType::HomeserverUnknown),
    ] {
        world.send(&introducing(domain).signed_by(&key).wire()).await.assert_problem(domain, expected);
    }
    world.close();
}

/// The homeserver that is pinned failed ten times, and is not tried for five minutes.
async fn be_away(world: &World, state: &str) {
    let away = "INSERT INTO federation.attempts (domain, state, reason, failures, next_try)
                VALUES ($1::text, $2::text, 'it was away', 10, now() + interval '5 minutes')
                ON CONFLICT (domain) DO UPDATE
                   SET (state, failures, next_try, is_heard)
                     = ROW(excluded.state, excluded.failures, excluded.next_try, excluded.is_heard)";
    world.admin.execute(away, &[&PINNED, &state]).await.expect("it can be away");
}

/// The failures in a row that count, and whether the next attempt is due.
async fn attempts(world: &World) -> (i32, bool) {
    let sql = "SELECT failures, next_try <= clock_timestamp() FROM federation.attempts";
    let row = world.admin.query_one(sql, &[]).await.expect("there is a row");
    (row.get(0), row.get(1))
}

/// An attempt at the homeserver that is pinned fails, after which the next one is due within so many seconds. Returns the
/// failures in a row that count.
async fn fail(world: &World, longest: i32) -> i32 {
    world.admin.batch_execute("BEGIN").await.expect("it can begin");
    let failed = "SELECT federation.note_failed_attempt($1, '\\x00', 'failing', 'its door is shut')";
    world.admin.execute(failed, &[&PINNED]).await.expect("it can fail");
    // In the transaction, whose time is that of the failure.
    let next = "SELECT failures, next_try <= now() + $1 * interval '1 second' FROM federation.attempts";
    let row = world.admin.query_one(next, &[&f64::from(longest)]).await.expect("there is a row");
    let pass = "UPDATE federation.attempts SET next_try = now() - interval '1 ms'";
    world.admin.execute(pass, &[]).await.expect("time can pass");
    world.admin.batch_execute("COMMIT").await.expect("it can end");
    assert!(row.get::<_, bool>(1), "the next one is due within {longest} s");
    row.get(0)
}

#[tokio::test]
async fn whatever_a_neighbour_asks_makes_what_waits_for_it_due_and_pauses_begin_anew() {
    // Where nobody listens.
    let host = format!("{PINNED}=127.0.0.1:1");
    let world = World::builder().setting("POSTERN_FEDERATION_HOSTS", &host).start().await;
    let key = pinned(&world).await;
    let of_batch = world.issuer_key(TokenType::PrivateRistretto255).await;
    let ask = Ask::batch(&of_batch, 1);
    for (what, call) in [
        ("its introduction", introducing(PINNED)),
        ("a request for its people", Call::post("/gateway").with_bytes(REQUEST_MEDIA_TYPE, vec![7; 100])),
        (
            "a request for tokens",
            Call::post("/aas/token-request").with_bytes(ask.media_type, ask.body.clone()),
        ),
    ] {
        for state in ["failing", "out_of_tokens"] {
            be_away(&world, state).await;
            assert_eq!(attempts(&world).await, (10, false), "{what}, {state}");
            let _ = world.send(&call.clone().signed_by(&key).wire()).await;
            assert_eq!(attempts(&world).await, (0, true), "{what}, {state}");
            // It called before its own door was open.
            assert_eq!(fail(&world, 2).await, 1, "{what}, {state}");
            assert_eq!(fail(&world, 4).await, 2, "{what}, {state}");
        }
    }
    // A signature of somebody else is none of its.
    be_away(&world, "failing").await;
    let _ = world.send(&introducing(PINNED).signed_by(&SigningKey::generate()).wire()).await;
    assert_eq!(attempts(&world).await, (10, false), "a stranger");
    world.close();
}

#[tokio::test]
async fn a_neighbour_that_calls_all_the_time_and_takes_nothing_is_tried_some_times_in_a_minute() {
    const UNTIL_ANEW: i32 = 7;
    let world = World::start().await;
    let key = pinned(&world).await;
    let call = async || {
        let _ = world.send(&introducing(PINNED).signed_by(&key).wire()).await;
    };
    be_away(&world, "failing").await;
    call().await;
    assert_eq!(attempts(&world).await, (0, true));
    for failures in 1..=UNTIL_ANEW {
        assert_eq!(fail(&world, 1 << failures).await, failures, "calls change nothing");
        // Its pause, whatever it was by chance.
        let later = "UPDATE federation.attempts SET next_try = now() + interval '5 minutes'";
        world.admin.execute(later, &[]).await.expect("it can be put off");
        call().await;
        let expected = if failures < UNTIL_ANEW { (failures, false) } else { (0, true) };
        assert_eq!(attempts(&world).await, expected);
        // The pause is over.
        world
            .admin
            .execute("UPDATE federation.attempts SET next_try = now() - interval '1 ms'", &[])
            .await
            .expect("time can pass");
    }
    world.close();
}

#[tokio::test]
async fn looks_at_strangers_are_limited_by_their_network_and_leave_nothing_behind() {
    let strangers: Vec<_> = (0..9).map(|number| format!("stranger{number}.example")).collect();
    // Where nobody listens.
    let all = strangers.iter().map(String::as_str).chain([PINNED]);
    let hosts: Vec<_> = all.map(|domain| format!("{domain}=127.0.0.1:1")).collect();
    let world = World::builder()
        .setting("POSTERN_FEDERATION_HOSTS", &hosts.join(","))
        .setting("POSTERN_PROXY_ADDRESSES", "127.0.0.1")
        .setting("POSTERN_PROXY_SOURCE", "x-forwarded-for")
        .start()
        .await;
    for (limit, value) in [("introductions_per_source", 3), ("introductions_per_hour", 8)] {
        let sql = "SELECT operator.set_federation_limit($1, $2)";
        world.admin.execute(sql, &[&limit, &value]).await.expect("the operator may");
    }
    let (key, stranger) = (pinned(&world).await, SigningKey::generate());
    let before = world.count("aas.used_signatures").await;
    let introduce = async |from: &str, domain: &str, key: &SigningKey| {
        let mut wire = introducing(domain).signed_by(key).wire();
        wire.set("x-forwarded-for", from);
        let reply = world.send(&wire).await;
        if reply.status.is_success() { "known" } else { reply.slug() }
    };
    let mut answers = Vec::new();
    for stranger_of in &strangers[..5] {
        answers.push(introduce("192.0.2.1", stranger_of, &stranger).await);
    }
    let (looked, refused) = ("homeserver-unknown", "too-many-attempts");
    assert_eq!(answers, [looked, looked, looked, refused, refused]);
    // A name that was looked at a moment ago costs nobody anything, and a neighbour's next key neither.
    assert_eq!(introduce("192.0.2.1", &strangers[0], &stranger).await, looked);
    assert_eq!(introduce("192.0.2.1", PINNED, &stranger).await, looked);
    assert_eq!(introduce("198.51.100.1", &strangers[5], &stranger).await, looked, "another network");
    assert_eq!(
        introduce("198.51.100.1", &strangers[6], &stranger).await,
        refused,
        "half is for new networks"
    );
    assert_eq!(introduce("203.0.113.1", &strangers[7], &stranger).await, looked, "such as this one");
    assert_eq!(world.count("aas.used_signatures").await, before, "strangers leave nothing");
    assert_eq!(introduce("192.0.2.1", PINNED, &key).await, "known", "one that is known");
    world.close();
}
