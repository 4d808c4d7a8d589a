//! The policy of a server about others (FED-2): every way between two domains asks it, in either direction, and a
//! change holds at once.

use postern_protocol::{federation::IntroduceServer, key::SigningKey, qs::QueuePayload, token::TokenType};
use postern_tests_kit::{Ask, Call, Capsule, Commit, Neighbours, Reply, World, challenge, eventually};

use crate::groups::{drained, operate};

/// The fate of a crossing.
fn outcome(reply: &Reply) -> &'static str {
    if reply.status.is_success() { "let through" } else { reply.slug() }
}

/// A request of somebody here to the gateway there.
async fn through(from: &World, to: &World) -> &'static str {
    let capsule = Capsule::seal(&to.gateway_keys().await, &Call::get("/qs/keys").at(to.domain()).wire());
    outcome(&from.pay(&capsule.call(format!("/relay/{}", to.domain()))).await)
}

/// Tokens of the issuer there for somebody here.
async fn tokens(from: &World, to: &World) -> &'static str {
    let key = to.issuer_key(TokenType::PrivateRistretto255).await;
    let ask = Ask::batch_for(&key, 1, &challenge(to.domain()));
    let call = Call::post(format!("/relay/{}/token-request", to.domain()));
    outcome(&from.pay(&call.with_bytes(ask.media_type, ask.body.clone())).await)
}

/// Somebody from there comes into a group here.
async fn membership(here: &World, there: &World) -> &'static str {
    let mut group = here.group(1).await;
    let add = vec![there.candidate().await.party.key_package()];
    let (_, call) = group.make(0, Commit { add, ..Default::default() });
    outcome(&here.pay(&call).await)
}

/// All ways between here and there, and what becomes of each.
async fn crossings(here: &World, there: &World) -> Vec<(&'static str, &'static str)> {
    let look = Call::get(format!("/homeservers/{}", there.domain()));
    let introduction = IntroduceServer { domain: there.domain().clone() };
    let introduction =
        Call::post("/homeservers").with(&introduction).signed_by(&SigningKey::generate()).at(here.domain());
    vec![
        ("a look", outcome(&here.pay(&look).await)),
        ("the relay", through(here, there).await),
        ("the attester", tokens(here, there).await),
        ("a group", membership(here, there).await),
        ("the gateway", through(there, here).await),
        ("the issuer", tokens(there, here).await),
        ("an introduction", outcome(&here.send(&introduction.wire()).await)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_between_two_domains_asks_the_operator_at_once() {
    let neighbours = Neighbours::builder().tokens(400).start().await;
    let [here, there] = [&neighbours[0], &neighbours[1]];
    for (what, is_open) in [
        ("set_federation_policy('open')", true),
        ("set_federation_policy('allow_list')", false),
        ("allow_domain('b.example')", true),
        ("block_domain('b.example')", false),
        ("set_federation_policy('open')", false),
        ("drop_domain_rule('b.example')", true),
    ] {
        operate(here, what).await;
        for (way, came) in crossings(here, there).await {
            let expected: &[&str] = match (is_open, way) {
                (false, _) => &["homeserver-blocked"],
                // Nobody is another homeserver by a key of its own.
                (true, "an introduction") => &["not-allowed"],
                (true, _) => &["let through"],
            };
            assert!(expected.contains(&came), "{way} after {what}: {came}");
        }
    }
    neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_of_a_domain_that_is_not_on_the_list_wait_there_until_it_is() {
    let neighbours = Neighbours::builder().tokens(200).start().await;
    let [here, there] = [&neighbours[0], &neighbours[1]];
    operate(here, "set_federation_policy('allow_list')").await;
    let mut group = there.group(1).await;
    let mut joiner = here.candidate().await;
    let (_, call) = group.make(0, Commit { add: vec![joiner.party.key_package()], ..Default::default() });
    there.pay(&call).await.assert_ok("the other side deals with this one");
    eventually("it is refused", async || (there.count("federation.attempts").await == 1).then_some(())).await;
    assert_eq!(there.count("federation.outbox").await, 1, "it waits there");
    assert!(here.read(&mut joiner.mailbox).await.is_empty());
    operate(here, "allow_domain('b.example')").await;
    operate(there, "retry_now('a.example')").await;
    let received = neighbours.await_payloads(0, &mut joiner).await;
    assert!(matches!(received[..], [QueuePayload::Welcome(_)]), "{received:?}");
    drained(there).await;
    neighbours.close();
}
