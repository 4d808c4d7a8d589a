//! `POST /aas/token-request` (AAS-2, AAS-3)

use postern_protocol::{
    key::SigningKey,
    problem::ProblemType,
    token::{self, BATCH_REQUEST_MEDIA_TYPE},
};
use postern_tests_kit::{Ask, Commit, World, asking_for_tokens};
use reqwest::StatusCode;

use crate::{auth::commit_identity::random_user, every_route::Valid};

pub async fn valid(world: &World) -> Valid {
    let user = random_user(world).await;
    let ask = Ask::batch(world.token_key(), 10);
    let stranger = Some(ProblemType::NotAllowed);
    Valid { stranger, ..Valid::new(ask.call(&user.device.key), StatusCode::OK) }
}

/// The tokens that the AAS has counted.
async fn issued(world: &World) -> i64 {
    world.value("SELECT coalesce(sum(tokens), 0) FROM aas.issued").await
}

#[tokio::test]
async fn batches_of_1_10_and_100_tokens_are_issued_and_each_token_pays() {
    let world = World::start().await;
    let alice = world.user("alice").await;
    for size in token::BATCH_SIZES {
        let tokens = world.tokens(0, &alice.device.key, &Ask::batch(world.token_key(), size)).await;
        // The first and the last, which are the same in a batch of one.
        for token in tokens.iter().take(1).chain(tokens.iter().skip(1).last()) {
            let call = crate::ds::reserve_group_id::valid().call.paid_with(token.clone());
            world.send(&call.wire()).await.assert_ok("a token of the batch");
            assert!(world.is_spent(&token[2..34]).await);
        }
    }
    world.close();
}

#[tokio::test]
async fn a_token_request_that_is_not_one_is_refused_and_takes_nothing_from_the_allowance() {
    let world = World::start().await;
    let alice = world.user("alice").await;
    let key = world.token_key();
    let whole = Ask::batch(key, 10).body;
    let mut cases: Vec<(String, Vec<u8>, ProblemType)> = Vec::new();
    for size in [2, 9, 11, 99, 101, 1000] {
        let body = Ask::batch(key, size).body;
        cases.push((format!("a batch of {size}"), body, ProblemType::InvalidTokenRequest));
    }
    cases.push((
        "an empty batch".to_owned(),
        vec![whole[0], whole[1], whole[2], 0],
        ProblemType::InvalidTokenRequest,
    ));
    let changed = |place: usize, value: u8| {
        let mut body = whole.clone();
        body[place] = value;
        body
    };
    cases.push(("another issuer's key".to_owned(), changed(2, whole[2] ^ 1), ProblemType::UnknownTokenKey));
    cases.push(("another token type".to_owned(), changed(1, 3), ProblemType::UnknownTokenKey));
    cases.push(("a token type that there is not".to_owned(), changed(0, 0xff), ProblemType::UnknownTokenKey));
    let element = whole.len() - 32;
    for (what, bytes) in [("no group element", [0xff; 32]), ("the identity", [0; 32])] {
        let mut body = whole.clone();
        body[element..].copy_from_slice(&bytes);
        cases.push((what.to_owned(), body, ProblemType::InvalidTokenRequest));
    }
    let before = issued(&world).await;
    for (what, body, expected) in cases {
        world
            .assert_refused(
                &what,
                &asking_for_tokens(&alice.device.key, BATCH_REQUEST_MEDIA_TYPE, body).wire(),
                expected,
            )
            .await;
    }
    assert_eq!(issued(&world).await, before);
    world.close();
}

/// A hundred elements take milliseconds: they are looked at only for somebody who may have tokens.
#[tokio::test]
async fn a_strangers_token_request_is_refused_before_its_elements_are_looked_at() {
    let world = World::start().await;
    let alice = world.user("alice").await;
    let mut body = Ask::batch(world.token_key(), 100).body;
    let element = body.len() - 32;
    body[element..].fill(0xff);
    let by = |key: &SigningKey| asking_for_tokens(key, BATCH_REQUEST_MEDIA_TYPE, body.clone()).wire();
    world.assert_refused("by a client", &by(&alice.device.key), ProblemType::InvalidTokenRequest).await;
    world.assert_refused("by a stranger", &by(&SigningKey::generate()), ProblemType::NotAllowed).await;
    world.close();
}

/// AAS-8: who asks again and again for what is refused is refused before the elements are looked at.
#[tokio::test]
async fn after_a_hundred_refusals_in_an_hour_nothing_is_computed_for_the_signer_any_more() {
    let world = World::start().await;
    let (alice, bob) = (world.user("alice").await, world.user("bob").await);
    let mut body = Ask::batch(world.token_key(), 10).body;
    let element = body.len() - 32;
    body[element..].fill(0xff);
    let by = |key: &SigningKey| asking_for_tokens(key, BATCH_REQUEST_MEDIA_TYPE, body.clone()).wire();
    for _ in 0..100 {
        world
            .send(&by(&alice.device.key))
            .await
            .assert_problem("an invalid one", ProblemType::InvalidTokenRequest);
    }
    let reply = world.send(&by(&alice.device.key)).await;
    reply.assert_problem("one too many", ProblemType::AllowanceUsedUp);
    assert!(reply.header("ratelimit").starts_with(r#""hourly";r=0;t="#), "{}", reply.header("ratelimit"));
    world.send(&by(&bob.device.key)).await.assert_problem("another's", ProblemType::InvalidTokenRequest);
    world.admin.execute("UPDATE operator.attempts SET hour = hour - 1", &[]).await.unwrap();
    world
        .send(&by(&alice.device.key))
        .await
        .assert_problem("the next hour", ProblemType::InvalidTokenRequest);
    let operator = world.cluster.connect_as("postern_operator").await;
    operator.execute("SELECT operator.set_refusals_per_hour(1)", &[]).await.unwrap();
    let reply = world.send(&by(&alice.device.key)).await;
    reply.assert_problem("one too many, as the operator says", ProblemType::AllowanceUsedUp);
    assert_eq!(reply.header("ratelimit-policy"), r#""hourly";q=1;w=3600"#);
    world.close();
}

#[tokio::test]
async fn an_allowance_is_for_a_user_and_a_day_and_then_used_up() {
    let world = World::start().await;
    let mut alice = world.user("alice").await;
    let second = world.add_device(&mut alice).await;
    let bob = world.user("bob").await;
    world.admin.batch_execute("UPDATE aas.settings SET daily_allowance = 111").await.unwrap();
    let key = world.token_key();
    let asking = |size| Ask::batch(key, size).call(&alice.device.key);
    let issue = async |client: &SigningKey, size| {
        world.tokens(0, client, &Ask::batch(key, size)).await;
    };
    issue(&alice.device.key, 100).await;
    world.assert_refused("beyond the allowance", &asking(100).wire(), ProblemType::AllowanceUsedUp).await;
    issue(&alice.device.key, 10).await;
    // The allowance is the user's, on whichever client.
    issue(&second.key, 1).await;
    world.assert_refused("one too many", &asking(1).wire(), ProblemType::AllowanceUsedUp).await;
    let of_second = Ask::batch(key, 1).call(&second.key);
    world
        .assert_refused("one too many by another client", &of_second.wire(), ProblemType::AllowanceUsedUp)
        .await;
    issue(&bob.device.key, 100).await;

    let retry = world.send(&asking(1).wire()).await.headers.get("retry-after").cloned();
    let seconds: u64 = retry.expect("the problem promises Retry-After").to_str().unwrap().parse().unwrap();
    assert!((1..=86_400).contains(&seconds), "until the next day begins (UTC): {seconds}");

    world.admin.batch_execute("UPDATE aas.issued SET day = day - 1").await.unwrap();
    issue(&alice.device.key, 100).await;

    let removal = Commit { remove: vec![second.public_key()], ..Default::default() };
    world.commit_identity(&mut alice, removal).await;
    world.assert_refused("a removed client", &of_second.wire(), ProblemType::NotAllowed).await;
    world.close();
}
