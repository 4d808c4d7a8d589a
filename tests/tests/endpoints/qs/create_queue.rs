//! `POST /qs/queues` (QS-1)

use std::collections::BTreeSet;

use ciborium::Value;
use postern_protocol::{
    HpkePublicKey,
    key::SigningKey,
    problem::ProblemType,
    push::Urgency,
    qs::{CreateQueue, QueueCreated, QueueKind},
};
use postern_tests_kit::{
    Call, PushService, World, depositing,
    dump::{Row, joins, rows},
    hpke_key,
};
use reqwest::StatusCode;

use super::{set_push_policy::policy, subscribe_push::subscribe};
use crate::every_route::Valid;

pub fn valid() -> Valid {
    let body = CreateQueue { kind: QueueKind::Group, hpke_key: hpke_key() };
    let call = Call::post("/qs/queues").with(&body).signed_by(&SigningKey::generate());
    Valid { cut: vec![("hpke_key", ProblemType::MalformedBody)], ..Valid::new(call, StatusCode::CREATED) }
}

/// No value leads from one of two queues to the other, with all that comes to lie about them.
async fn assert_apart(world: &World) {
    let service = PushService::start().await;
    let kept = async || rows(&world.cluster.dump().await).into_iter().collect::<BTreeSet<Row>>();
    let mut before = kept().await;
    let mut queues = Vec::new();
    for path in ["/one", "/two"] {
        let mailbox = world.mailbox(QueueKind::Contact).await;
        let address = world.address(&mailbox).await;
        let (_, key) = subscribe(world, &service, &mailbox, path).await;
        let policy = policy(address, Urgency::Normal, &key);
        world.pay(&mailbox.setting_push_policy(vec![policy])).await.assert_ok("a push policy");
        world.pay(&depositing(address, b"hello")).await.assert_ok("a deposit");
        let after = kept().await;
        let of_the_qs = after.difference(&before).filter(|row| row.schema() == "qs");
        queues.push(of_the_qs.cloned().collect::<Vec<_>>());
        before = after;
    }
    for table in ["qs.addresses", "qs.messages", "qs.push_subscriptions", "qs.queues"] {
        let has = |rows: &Vec<Row>| rows.iter().any(|row| row.table.starts_with(table));
        assert!(queues.iter().all(has), "{table} has rows to search");
    }
    let [one, two] = [&queues[0], &queues[1]].map(|rows| rows.iter().collect::<Vec<_>>());
    assert_eq!(joins(&one, &two), []);
}

#[tokio::test]
async fn whoever_signs_owns_the_queue_and_nothing_joins_two_queues() {
    let world = World::start().await;
    let (one, two) = (world.mailbox(QueueKind::Contact).await, world.mailbox(QueueKind::Group).await);
    assert_ne!(one.id, two.id);
    world.pay(&one.asking(0)).await.assert_ok("the owner");
    let stranger = one.asking(0).signed_by(&two.owner);
    world.assert_refuses("another owner", &stranger, ProblemType::NotFound).await;

    assert_apart(&world).await;

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
    // The key has a small order: everything would be sealed under a secret that everyone knows.
    let body = CreateQueue { kind: QueueKind::Contact, hpke_key: HpkePublicKey::new([0; 32]) };
    let call = call.with(&body);
    world.assert_refuses("an HPKE key of zeros", &call, ProblemType::MalformedBody).await;
    world.close();
}
