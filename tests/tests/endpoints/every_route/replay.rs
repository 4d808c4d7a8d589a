//! Requests that somebody recorded on their way (AAS-4): a token pays once, and where none is spent, a signature is good
//! once, on all servers together.

use postern_protocol::problem::ProblemType;
use postern_tests_kit::{Ask, Wire, World, eventually, now};

use super::{Entry, every_request};

/// Two servers, and two hundred tokens at hand.
async fn world() -> World {
    World::builder().servers(2).pushing().tokens(200).start().await
}

/// The requests that are signed, but for those that register a user and reset an account: their repeat gets the first
/// answer again.
async fn signed(world: &World) -> Vec<Entry> {
    let repeated = ["/as/users", "/as/account/end", "/as/account/reset"];
    let mut entries = every_request(world).await;
    entries.retain(|entry| {
        let call = &entry.valid.call;
        call.signer.is_some() && !repeated.contains(&call.target.as_str())
    });
    assert!(entries.len() >= 10, "{}", entries.len());
    entries
}

async fn set_prices(world: &World, price: i32) {
    let sql = "SELECT operator.set_price(endpoint, $1) FROM operator.prices()";
    world.admin.execute(sql, &[&price]).await.expect("they are in the list");
}

async fn assert_used(world: &World, entry: &Entry, server: usize, wire: &Wire) {
    let before = world.snapshot().await;
    let reply = world.send_to(&world.servers[server], wire).await;
    reply.assert_problem(&entry.name, ProblemType::SignatureUsed);
    world.snapshot().await.assert_same(&before, &entry.name);
    if let Some(nonce) = &wire.nonce {
        assert!(!world.is_spent(nonce).await, "{}: the token is its owner's", entry.name);
    }
}

#[tokio::test]
async fn a_signed_request_that_spends_no_token_is_good_once_on_all_servers() {
    let world = world().await;
    let entries = signed(&world).await;
    set_prices(&world, 0).await;
    for entry in &entries {
        let call = entry.paid(&world);
        let wire = call.wire();
        let reply = world.send(&wire).await;
        assert_eq!(reply.status, entry.valid.status, "{}: {reply:?}", entry.name);
        for server in [1, 0, 1] {
            assert_used(&world, entry, server, &wire).await;
        }
        let again = world.send(&call.wire()).await;
        assert!(!again.is_problem("signature-used"), "{}, signed anew: {again:?}", entry.name);
    }
    // At its price again, what was recorded for nothing does not even cost its owner the token.
    let call = entries[0].paid(&world);
    let wire = call.wire();
    world.send(&wire).await;
    set_prices(&world, 1).await;
    assert_used(&world, &entries[0], 1, &wire).await;
    world.close();
}

/// A refusal that comes before the API function is one, too.
#[tokio::test]
async fn a_refused_request_that_spends_no_token_is_not_tried_again_by_others() {
    let world = world().await;
    set_prices(&world, 0).await;
    for entry in signed(&world).await {
        if !entry.paid || !entry.has_fields() {
            continue;
        }
        let call = entry.paid(&world).with_fields(Vec::new());
        let wire = call.wire();
        let first = world.send(&wire).await;
        if first.status.is_client_error() {
            assert_used(&world, &entry, 1, &wire).await;
        }
    }
    world.close();
}

#[tokio::test]
async fn what_ended_with_a_fault_of_ours_is_signed_anew_and_worthless_to_others() {
    let world = world().await;
    for entry in signed(&world).await {
        let Some(endpoint) = entry.endpoint else { continue };
        let call = entry.paid(&world);
        let wire = call.wire();
        let delete = "DELETE FROM aas.prices WHERE endpoint = $1";
        world.admin.execute(delete, &[&endpoint]).await.expect("it can be deleted");
        world.send(&wire).await.assert_problem(&entry.name, ProblemType::Fault);
        let insert = "INSERT INTO aas.prices (endpoint, price) VALUES ($1, 1)";
        world.admin.execute(insert, &[&endpoint]).await.expect("it can be listed again");
        assert_used(&world, &entry, 1, &wire).await;
        let again = world.send(&call.wire()).await;
        assert_eq!(again.status, entry.valid.status, "{}, signed anew: {again:?}", entry.name);
    }
}

#[tokio::test]
async fn a_crash_of_the_database_reopens_no_signature() {
    let mut world = world().await;
    let user = world.user("alice").await;
    let wire = Ask::batch(world.token_key(), 10).call(&user.device.key).wire();
    world.send(&wire).await.assert_ok("a token request");
    world.cluster.kill_postgres();
    world.cluster.restart().await;
    world.reconnect().await;
    let answer = eventually("the server answers", async || {
        let answer = world.send(&wire).await;
        (!answer.status.is_server_error()).then_some(answer)
    });
    answer.await.assert_problem("the same after a crash", ProblemType::SignatureUsed);
}

/// Seconds that pass by the clock of a server and by the database's, and the signatures that are kept after them.
const PASSING: [(i64, i64, &[&str]); 9] = [
    (0, 0, &["one"]),
    // One of the two clocks leaps ahead.
    (599, 100_000, &["one"]),
    (100_000, 0, &["one"]),
    // A span is over, and another signature is used in the next one.
    (600, 600, &["one", "two"]),
    (599, 100_000, &["one", "two"]),
    (100_000, 0, &["one", "two"]),
    // Both are set back, as from far ahead: the span begins anew.
    (-100_000, -100_000, &["one", "two"]),
    (600, 600, &["two"]),
    (600, 600, &[]),
];

#[tokio::test]
async fn signatures_are_kept_for_ten_minutes_by_two_clocks_and_forgotten_after_twenty() {
    let world = World::builder().servers(0).start().await;
    let use_up = async |signature: &str| {
        let sql = "SELECT aas.use_signature(sha256($1::text::bytea))";
        world.admin.execute(sql, &[&signature]).await.expect("it can be used");
    };
    use_up("one").await;
    for (step, (by_server, by_database, kept)) in PASSING.into_iter().enumerate() {
        let clock = i64::try_from(now()).expect("it is a time");
        let pass = "UPDATE aas.signature_span
                       SET begun_by_server = $1, begun_by_database = floor(extract(epoch FROM clock_timestamp()))::bigint - $2";
        world.admin.execute(pass, &[&(clock - by_server), &by_database]).await.expect("time can pass");
        let forget = "SELECT aas.forget_signatures($1)";
        world.admin.execute(forget, &[&clock]).await.expect("they can be forgotten");
        if step == 3 {
            use_up("two").await;
        }
        for signature in ["one", "two"] {
            let is_kept = format!("aas.used_signatures WHERE digest = sha256('{signature}')");
            let expected = i64::from(kept.contains(&signature));
            assert_eq!(world.count(&is_kept).await, expected, "{signature} after step {step}");
        }
    }
}

/// It refuses everybody meanwhile, and does its chores.
#[tokio::test]
async fn a_server_whose_clock_is_behind_makes_no_span_of_signatures_shorter() {
    let world = World::builder().servers(0).start().await;
    let sql = "SELECT aas.use_signature(sha256('one'))";
    world.admin.execute(sql, &[]).await.expect("it can be used");
    let clock = i64::try_from(now()).expect("it is a time");
    let forget = async |clock: i64| {
        let forget = "SELECT aas.forget_signatures($1)";
        world.admin.execute(forget, &[&clock]).await.expect("they can be forgotten");
    };
    let begin = "UPDATE aas.signature_span SET begun_by_server = $1";
    world.admin.execute(begin, &[&clock]).await.expect("a superuser may");
    // More often than spans follow each other.
    for _ in 0..4 {
        forget(clock - 3600).await;
        // The database's clock alone leaps ahead.
        let leap = "UPDATE aas.signature_span SET begun_by_database = begun_by_database - 100000";
        world.admin.execute(leap, &[]).await.expect("a superuser may");
        forget(clock).await;
    }
    assert_eq!(world.count("aas.used_signatures").await, 1);
}
