//! Rules of the operator for other domains, as the outbox keeps them.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
    mpsc,
};

use postern_tests_kit::{Weather, World, eventually};
use tokio::task::block_in_place;

use super::{HOLDER, Talk, attempts_ended, claimed, close_unseen, due_unseen, make_due};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_rule_refuses_costs_no_claim_and_goes_on_once_it_is_allowed() {
    let world = due_unseen("'x' || n || '.evil.example'", 300, "good").await;
    make_due(&world, "'good.example'", 1, "good").await;
    let rules =
        "SELECT operator.set_federation_policy('allow_list'); SELECT operator.allow_domain('good.example')";
    world.admin.batch_execute(rules).await.unwrap();
    let (domain, _) = claimed(&world, "good", "").await;
    assert_eq!(domain.as_deref(), Some("good.example"));
    let refused = "federation.due WHERE standing = 'refused'";
    assert_eq!(world.count(refused).await, 100, "so many at a time");
    for _ in 0..3 {
        claimed(&world, "good", "").await;
    }
    assert_eq!(world.count(refused).await, 300);
    world.admin.execute("SELECT operator.allow_domain('x7.evil.example')", &[]).await.unwrap();
    let restored = "SELECT operator.set_federation_policy('open')";
    world.admin.execute(restored, &[]).await.unwrap();
    assert_eq!(world.count(refused).await, 0);
    // A rule that changed at the very moment of a claim is seen within a minute.
    world.admin.execute("UPDATE federation.due SET standing = 'refused', due = now()", &[]).await.unwrap();
    world.admin.execute("SELECT federation.find_due()", &[]).await.unwrap();
    assert_eq!(world.count(refused).await, 201);
    close_unseen(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_of_a_family_of_names_is_for_all_of_them_but_those_with_rules_of_their_own() {
    let world = World::start().await;
    let allowed = async |domain: &str| -> bool {
        world.value(&format!("SELECT federation.is_allowed('{domain}')")).await
    };
    let operate = async |what: &str| {
        world.admin.execute(&format!("SELECT operator.{what}"), &[]).await.unwrap();
    };
    operate("block_domain('evil.example', with_below => true)").await;
    operate("allow_domain('good.evil.example')").await;
    for (domain, is_allowed) in [
        ("evil.example", false),
        ("x1.evil.example", false),
        ("a.b.evil.example", false),
        ("good.evil.example", true),
        ("notevil.example", true),
        ("example", true),
    ] {
        assert_eq!(allowed(domain).await, is_allowed, "{domain}");
    }
    operate("block_domain('evil.example')").await;
    assert!(allowed("x1.evil.example").await && !allowed("evil.example").await, "that one alone");
    operate("allow_domain('evil.example')").await;
    assert!(allowed("evil.example").await);
    world.close();
}

/// A refusal for the size has the deliveries halved: the other homeserver is asked whether it takes any, and gets each half.
#[tokio::test(flavor = "multi_thread")]
async fn a_block_ends_an_attempt_that_is_under_way_and_what_waits_stays() {
    let mut talk = Talk::start().await;
    talk.line(Weather::Cut);
    talk.say("one").await;
    talk.say("two").await;
    let sent = Arc::new(AtomicUsize::new(0));
    let (blocks, blocked) = mpsc::channel::<()>();
    let (count, blocked) = (sent.clone(), Mutex::new(blocked));
    talk.refusing(move |body| {
        if body.is_empty() {
            return None;
        }
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            // Its answer comes once the operator has blocked the domain.
            let blocked = blocked.lock().expect("no panic holds it");
            block_in_place(|| blocked.recv()).expect("the operator blocks it");
        }
        Some(413)
    })
    .await;
    eventually("deliveries are sent", async || (sent.load(Ordering::SeqCst) == 1).then_some(())).await;
    talk.operate("block_domain('b.example')").await;
    blocks.send(()).expect("the answer waits for it");
    attempts_ended(talk.sender()).await;
    assert_eq!(sent.load(Ordering::SeqCst), 1, "neither a question nor a half");
    assert_eq!(talk.neighbour::<String>("state").await, "blocked");
    assert_eq!(talk.neighbour::<i64>("queued").await, 2);
    let failing = "federation.attempts WHERE state = 'failing'";
    assert_eq!(talk.sender().count(failing).await, 0, "that says nothing of the other homeserver");
    talk.operate("drop_domain_rule('b.example')").await;
    talk.reconnect().await;
    talk.assert_heard("once it is not blocked").await;
    talk.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_sees_when_a_domain_is_tried_next_why_it_failed_and_what_is_at_hand() {
    let world = due_unseen("'b.example'", 1, "good").await;
    let change = async |sql: &str| {
        world.admin.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    };
    let next = async || -> Option<i32> {
        world.value("SELECT next_try_seconds FROM operator.neighbours() WHERE domain = 'b.example'").await
    };
    assert_eq!(next().await, Some(0), "it is due");
    // One that refuses a delivery has no failed attempt: its lane waits by itself.
    change("UPDATE federation.due SET refusals = 3, due = now() + interval '100 seconds'").await;
    assert_eq!(next().await, Some(100), "one lane waits");
    change(
        "INSERT INTO federation.due (domain, lane, family, standing, due)
         SELECT domain, 1, family, standing, now() + interval '40 seconds' FROM federation.due",
    )
    .await;
    assert_eq!(next().await, Some(40), "the other one is due sooner");
    change(&format!("UPDATE federation.due SET holder = {HOLDER} WHERE lane = 1")).await;
    assert_eq!(next().await, Some(100), "an attempt at it is under way");
    change(&format!("UPDATE federation.due SET holder = {HOLDER}")).await;
    assert_eq!(next().await, Some(0), "attempts at both are under way");

    change(&format!(
        "SELECT federation.note_failed_attempt('b.example', {HOLDER}, 'failing', 'it is away');
         UPDATE federation.due SET due = now() + interval '70 seconds';
         INSERT INTO federation.tokens (id, domain, issuer_key_id, sealed, day)
         SELECT uuid_send(gen_random_uuid()), 'b.example', decode(repeat('00', 32), 'hex'), m.key_id || '\\x00'::bytea,
                current_date
           FROM generate_series(1, 3), operator.master_key m"
    ))
    .await;
    let shown = async || -> String {
        let sql = "SELECT concat_ws(' ', coalesce(rule, 'no rule'), state, last_success = current_date, reason, tokens, refused)
                     FROM operator.neighbours() WHERE domain = 'b.example'";
        world.value(sql).await
    };
    assert_eq!(shown().await, "no rule failing t it is away 3 1");
    assert_eq!(next().await, Some(70));
    change("SELECT operator.allow_domain('b.example')").await;
    assert_eq!(shown().await, "allowed failing t it is away 3 1");
    change("SELECT operator.block_domain('b.example')").await;
    assert_eq!(shown().await, "blocked blocked t it is away 3 1");
    assert_eq!(next().await, None, "it is not tried");
    close_unseen(world).await;
}
