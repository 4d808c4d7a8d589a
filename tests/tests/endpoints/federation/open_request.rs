//! `POST /gateway` (FED-5). What comes through relays is in `tests/tests/federation/pipe.rs`.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use postern_protocol::{key::SigningKey, problem::ProblemType};
use postern_server::routes;
use postern_tests_kit::{Call, Capsule, Reply, World};
use reqwest::StatusCode;

use super::pinned;
use crate::every_route::Valid;

/// A request for what is published, sealed and handed on by a homeserver that is known.
pub async fn valid(world: &World) -> Valid {
    let key = pinned(world).await;
    let capsule = Capsule::seal(&world.gateway_keys().await, &Call::get("/as/keys").wire());
    let call = capsule.call("/gateway").signed_by(&key);
    Valid {
        stranger: Some(ProblemType::NotAllowed),
        malformed: Some(ProblemType::GatewayKeyUnknown),
        ..Valid::new(call, StatusCode::OK)
    }
}

/// The gateway's answer to a request that a known homeserver hands on.
async fn through(world: &World, key: &SigningKey, keys: &[u8], call: &Call) -> Reply {
    let capsule = Capsule::seal(keys, &call.wire());
    let reply = world.send(&capsule.call("/gateway").signed_by(key).wire()).await;
    capsule.open(&reply)
}

#[tokio::test]
async fn what_is_paid_or_published_is_there_and_nothing_else() {
    let world = World::builder().start().await;
    let (key, keys) = (pinned(&world).await, world.gateway_keys().await);
    let mut found = Vec::new();
    for route in routes::all() {
        let path = route.path.replace(['{', '}'], "");
        let what = format!("{} {path}", route.method);
        let reply = through(&world, &key, &keys, &Call::new(route.method.clone(), path)).await;
        if route.is_paid() && route.takes_enclosed() {
            reply.assert_problem(&what, ProblemType::TokenRequired);
            assert!(reply.headers.contains_key("www-authenticate"), "{what}");
        } else if reply.status == StatusCode::OK {
            found.push(route.name);
        } else {
            assert!(!route.takes_enclosed(), "{what}");
            reply.assert_problem(&what, ProblemType::NotFound);
        }
    }
    let published =
        ["auth.published_keys", "qs.published_keys", "aas.issuer_directory", "federation.describe_server"];
    assert_eq!(found, published);
    let another = Call::new(reqwest::Method::DELETE, "/as/keys");
    through(&world, &key, &keys, &another).await.assert_problem("another method", ProblemType::NotFound);
    let head = Call::new(reqwest::Method::HEAD, "/as/keys");
    let head = through(&world, &key, &keys, &head).await;
    assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
    world.close();
}

#[tokio::test]
async fn a_request_is_padded_with_as_many_zeros_as_its_client_likes_and_with_nothing_else() {
    let world = World::builder().start().await;
    let (key, keys) = (pinned(&world).await, world.gateway_keys().await);
    let send = async |behind: &[u8]| {
        let capsule = Capsule::followed(&keys, &Call::get("/as/keys").wire(), behind);
        let reply = world.send(&capsule.call("/gateway").signed_by(&key).wire()).await;
        capsule.open(&reply)
    };
    for zeros in [256, 1024, 4096, 32 * 1024] {
        let mut padding = vec![0; zeros];
        send(&padding).await.assert_ok(&format!("{zeros} zeros more"));
        padding.push(1);
        let reply = send(&padding).await;
        reply.assert_problem("something behind the padding", ProblemType::MalformedRequest);
    }
    world.close();
}

#[tokio::test]
async fn what_is_no_request_for_this_domain_is_told_so_within_the_answer() {
    let world = World::builder().start().await;
    let (key, keys) = (pinned(&world).await, world.gateway_keys().await);
    let other = Call::get("/as/keys").at(&"other.example".parse().unwrap());
    through(&world, &key, &keys, &other).await.assert_problem("another", ProblemType::ForeignDomain);
    for (what, message) in
        [("nothing", Vec::new()), ("no message", vec![9; 300]), ("an answer", vec![1, 0x40, 200])]
    {
        let capsule = Capsule::of(&keys, &message);
        let reply = world.send(&capsule.call("/gateway").signed_by(&key).wire()).await;
        capsule.open(&reply).assert_problem(what, ProblemType::MalformedRequest);
    }
    let large = Call::post("/qs/queues").with_bytes("application/cbor", vec![0; 65 * 1024]);
    through(&world, &key, &keys, &large).await.assert_problem("large", ProblemType::BodyTooLarge);
    world.close();
}

#[tokio::test]
async fn a_homeserver_is_taken_by_a_key_that_is_trusted_and_valid_while_the_operator_lets_it() {
    let world = World::builder().servers(2).start().await;
    let operator = world.cluster.connect_as("postern_operator").await;
    let (key, keys) = (pinned(&world).await, world.gateway_keys().await);
    let send = async |server: usize| {
        let capsule = Capsule::seal(&keys, &Call::get("/as/keys").wire());
        world.send_to(&world.servers[server], &capsule.call("/gateway").signed_by(&key).wire()).await
    };
    let set_validity = async |from: i64, to: i64| {
        let sql = "UPDATE federation.homeserver_keys SET (not_before, not_after)
                     = ROW(extract(epoch FROM now())::bigint + $1, extract(epoch FROM now())::bigint + $2)";
        world.admin.execute(sql, &[&from, &to]).await.expect("it can be changed");
    };
    send(0).await.assert_ok("pinned by the operator");
    set_validity(-100, 10_000).await;
    send(1).await.assert_ok("valid");
    for (what, from, to) in [("ended", -1000, -310), ("to come", 400, 10_000)] {
        set_validity(from, to).await;
        send(0).await.assert_problem(what, ProblemType::NotAllowed);
    }
    set_validity(-100, 10_000).await;
    // At once, on every process (FED-2).
    for (what, expected) in [
        ("operator.block_domain('pinned.example')", Some(ProblemType::HomeserverBlocked)),
        ("operator.allow_domain('pinned.example')", None),
        ("operator.distrust_homeserver_key('pinned.example', $1)", Some(ProblemType::NotAllowed)),
        ("operator.trust_homeserver_key('pinned.example', $1)", None),
    ] {
        let public = key.public_key();
        let parameter = public.as_bytes().as_slice();
        let parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
            if what.contains("$1") { &[&parameter] } else { &[] };
        operator.execute(&format!("SELECT {what}"), parameters).await.expect("the operator may");
        for server in [0, 1] {
            match expected {
                Some(expected) => drop(send(server).await.assert_problem(what, expected)),
                None => send(server).await.assert_ok(what),
            }
        }
    }
    world.close();
}

#[tokio::test]
async fn keys_rotate_with_overlap_and_what_is_sealed_for_one_that_is_gone_is_told_so() {
    let world = World::builder().servers(2).start().await;
    let operator = world.cluster.connect_as("postern_operator").await;
    let (key, old) = (pinned(&world).await, world.gateway_keys().await);
    // A server looks for an unknown key once in a second, and not in its first.
    tokio::time::sleep(Duration::from_secs(1)).await;
    operator.execute("SELECT operator.rotate_gateway_keys()", &[]).await.expect("the operator may");
    let new = postern_tests_kit::eventually("there is another key", async || {
        let keys = world.gateway_keys().await;
        (keys.len() == 2 * old.len()).then_some(keys)
    })
    .await;
    let send = async |server: usize, keys: &[u8]| {
        let capsule = Capsule::seal(keys, &Call::get("/as/keys").wire());
        world.send_to(&world.servers[server], &capsule.call("/gateway").signed_by(&key).wire()).await
    };
    for server in [0, 1] {
        // The second server may not have heard of the new one: it looks.
        send(server, &new).await.assert_ok("the new key");
        send(server, &old).await.assert_ok("the old one, within the overlap");
    }
    operator
        .execute("SELECT operator.rotate_gateway_keys(revoke => true)", &[])
        .await
        .expect("the operator may");
    postern_tests_kit::eventually("the old keys are gone", async || {
        send(0, &old).await.is_problem("gateway-key-unknown").then_some(())
    })
    .await;
    let reply = send(0, &old).await;
    let json: serde_json::Value = serde_json::from_slice(&reply.body).expect("it is a problem");
    assert_eq!(json["type"], "https://iana.org/assignments/http-problem-types#ohttp-key", "RFC 9458 §5.3");
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    world.close();
}

#[tokio::test]
async fn a_key_is_good_for_thirty_days_and_its_successor_comes_a_week_before_its_end() {
    let world = World::builder().servers(2).start().await;
    let (key, old) = (pinned(&world).await, world.gateway_keys().await);
    let pass = async |days: i32| {
        let sql = "UPDATE federation.gateway_keys SET not_after = not_after - $1::integer";
        world.admin.execute(sql, &[&days]).await.expect("days can pass");
    };
    let left = "SELECT max(not_after) - (now() AT TIME ZONE 'UTC')::date FROM federation.gateway_keys";
    let send = async |server: usize, keys: &[u8]| {
        let capsule = Capsule::seal(keys, &Call::get("/as/keys").wire());
        world.send_to(&world.servers[server], &capsule.call("/gateway").signed_by(&key).wire()).await
    };
    assert_eq!(world.value::<i32>(left).await, 30);
    pass(22).await;
    // Each server looks whether another one is due once it hears of a change.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.count("federation.gateway_keys").await, 1, "it is good for eight days more");
    pass(1).await;
    let both = postern_tests_kit::eventually("there is a successor", async || {
        let keys = world.gateway_keys().await;
        (keys.len() == 2 * old.len()).then_some(keys)
    })
    .await;
    assert!(both.ends_with(&old), "the newer one is to be used");
    assert_eq!(world.value::<i32>(left).await, 30);
    let new = both[..old.len()].to_vec();
    for days in [0, 7] {
        pass(days).await;
        for server in [0, 1] {
            send(server, &new).await.assert_ok("the new one");
            send(server, &old).await.assert_ok("the old one, up to its last day");
        }
    }
    pass(1).await;
    for server in [0, 1] {
        postern_tests_kit::eventually("the old one is gone", async || {
            send(server, &old).await.is_problem("gateway-key-unknown").then_some(())
        })
        .await;
        send(server, &new).await.assert_ok("the new one");
    }
    assert_eq!(world.gateway_keys().await, new, "nobody is told the old one");
    for (what, rows) in [("clocks differ by a day", 2), ("a day later", 1)] {
        world.admin.execute("SELECT federation.clean_up()", &[]).await.expect("it can be cleaned up");
        assert_eq!(world.count("federation.gateway_keys").await, rows, "{what}");
        pass(1).await;
    }
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_flood_pays_for_is_done_at_its_pace_and_takes_nothing_from_another_homeserver() {
    const FLOOD: usize = 100;
    let world = World::builder()
        .setting("POSTERN_FEDERATION_GATEWAY_PER_SECOND", "5")
        .setting("POSTERN_FEDERATION_AT_ONCE_PER_DOMAIN", "2")
        .tokens(2 * FLOOD)
        .start()
        .await;
    let (flooding, keys) = (pinned(&world).await, world.gateway_keys().await);
    let another = SigningKey::generate();
    let sql = "SELECT operator.trust_homeserver_key('another.example', $1)";
    world.admin.execute(sql, &[&another.public_key().as_bytes().as_slice()]).await.expect("the operator may");
    let send = async |key: &SigningKey| {
        let call = world.paid(Call::post("/ds/group-ids")).wire();
        let capsule = Capsule::seal(&keys, &call);
        let reply = world.send(&capsule.call("/gateway").signed_by(key).wire()).await;
        let inner = reply.status.is_success().then(|| capsule.open(&reply));
        (call.nonce.expect("it has a token"), reply, inner)
    };
    // Its key is known by now, so that what comes next is counted.
    send(&flooding).await.1.assert_ok("the first one");
    let garbage = async || {
        let capsule = Capsule::of(&keys, b"");
        let mut call = capsule.call("/gateway");
        // Its header is 39 bytes, the tag 16.
        call.body.truncate(50);
        world.send(&call.signed_by(&flooding).wire()).await
    };
    let flood = join_all((0..FLOOD).map(|_| send(&flooding)));
    let rubbish = join_all((0..FLOOD / 2).map(|_| garbage()));
    let others = async {
        let mut slowest = Duration::ZERO;
        for number in 0..6 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let begun = Instant::now();
            let (_, _, inner) = send(&another).await;
            slowest = slowest.max(begun.elapsed());
            assert_eq!(inner.expect("nobody else sends too much").status, StatusCode::CREATED, "{number}");
        }
        slowest
    };
    let (flood, rubbish, slowest) = tokio::join!(flood, rubbish, others);
    let (mut done, mut refused) = (0, 0);
    for (nonce, reply, inner) in flood {
        match inner {
            Some(inner) => {
                assert_eq!(inner.status, StatusCode::CREATED);
                done += 1;
            }
            None => {
                reply.assert_problem("too much", ProblemType::Unavailable);
                assert!(!world.is_spent(&nonce).await, "nobody opened it");
                refused += 1;
            }
        }
    }
    assert!(done > 0 && refused > FLOOD / 4, "{done} done, {refused} refused");
    let kinds = ["unavailable", "gateway-key-unknown"];
    assert!(rubbish.iter().all(|reply| kinds.contains(&reply.slug())), "{rubbish:?}");
    assert!(slowest < Duration::from_secs(15), "another homeserver waits for {slowest:?}");
    world.close();
}

#[tokio::test]
async fn a_homeserver_that_sends_too_much_in_a_second_is_told_so() {
    const MANY: usize = 100;
    let world = World::builder().setting("POSTERN_FEDERATION_GATEWAY_PER_SECOND", "3").start().await;
    let (key, keys) = (pinned(&world).await, world.gateway_keys().await);
    let send = async || {
        let capsule = Capsule::seal(&keys, &Call::get("/as/keys").wire());
        world.send(&capsule.call("/gateway").signed_by(&key).wire()).await
    };
    // Its key is known by now, so that what comes next is counted.
    send().await.assert_ok("the first one");
    // All at once: one after the other they could take a second for every three of them.
    let replies = join_all((0..MANY).map(|_| send())).await;
    let refused: Vec<_> = replies.iter().filter(|reply| !reply.status.is_success()).collect();
    for reply in &refused {
        reply.assert_problem("too many", ProblemType::Unavailable);
        assert_eq!(reply.header("retry-after"), "1");
    }
    assert!((1..MANY).contains(&refused.len()), "{}", refused.len());
    world.close();
}
