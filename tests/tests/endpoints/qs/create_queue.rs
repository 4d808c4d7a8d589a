//! `POST /qs/queues` (QS-1)

use ciborium::Value;
use postern_protocol::{
    HpkePublicKey,
    key::SigningKey,
    problem::ProblemType,
    qs::{CreateQueue, QueueCreated, QueueKind},
};
use reqwest::StatusCode;

use crate::{
    road::Valid,
    world::{Call, World, hpke_key},
};

pub fn valid() -> Valid {
    let body = CreateQueue { kind: QueueKind::Group, hpke_key: hpke_key() };
    let call = Call::post("/qs/queues").with(&body).signed_by(&SigningKey::generate());
    Valid { cut: vec![("hpke_key", ProblemType::MalformedBody)], ..Valid::new(call, StatusCode::CREATED) }
}

#[tokio::test]
async fn whoever_signs_owns_the_queue_and_nothing_joins_two_queues() {
    let world = World::start().await;
    let (one, two) = (world.mailbox(QueueKind::Contact).await, world.mailbox(QueueKind::Group).await);
    assert_ne!(one.id, two.id);
    world.pay(&one.asking(0)).await.assert_ok("the owner");
    let stranger = one.asking(0).signed_by(&two.owner);
    world.assert_refuses("another owner", &stranger, ProblemType::NotFound).await;

    // The same key may own more than one; ids are the server's.
    let body = CreateQueue { kind: QueueKind::Contact, hpke_key: hpke_key() };
    let again = Call::post("/qs/queues").with(&body).signed_by(&one.owner);
    let created: QueueCreated = world.pay(&again).await.decode();
    assert_ne!(created.queue_id, one.id);
    world.close();
}

#[tokio::test]
async fn a_kind_that_there_is_not_and_a_key_that_nothing_can_be_sealed_to_are_refused() {
    let world = World::start().await;
    let call = valid().call;
    for kind in ["", "Contact", "groups", "push"] {
        let wrong = call.with_field("kind", Value::from(kind));
        world.assert_refuses(&format!("the kind {kind:?}"), &wrong, ProblemType::MalformedBody).await;
    }
    // Of small order: everything would be sealed under a secret that everyone knows.
    let body = CreateQueue { kind: QueueKind::Contact, hpke_key: HpkePublicKey::new([0; 32]) };
    let call = call.with(&body);
    world.assert_refuses("an HPKE key of zeros", &call, ProblemType::MalformedBody).await;
    world.close();
}
