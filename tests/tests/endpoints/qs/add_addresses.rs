//! `POST /qs/queues/{queue_id}/addresses` (QS-3)

use ciborium::Value;
use postern_protocol::{
    QueueId,
    ds::MessageAccepted,
    problem::ProblemType,
    qs::{QueueKind, QueuePayload},
};
use postern_tests_kit::{Commit, Member, Party, World, fresh_address, home, random_id};
use reqwest::StatusCode;

use crate::every_route::Valid;

/// Targets of the same form with ids that are none, or nobody's.
pub fn other_queues(operation: &str) -> Vec<(String, ProblemType)> {
    let unknown = QueueId::new(random_id()).to_base64url();
    let mut targets = vec![(format!("/qs/queues/{unknown}/{operation}"), ProblemType::NotFound)];
    let long = format!("{unknown}AA");
    for malformed in
        [&unknown[..20], &long, "*", "%00", "%ff", "AAAAAAAAAAAAAAAAAAAAAA==", "+++++++++++++++++++++A"]
    {
        targets.push((format!("/qs/queues/{malformed}/{operation}"), ProblemType::MalformedRequest));
    }
    targets
}

pub async fn valid(world: &World) -> Valid {
    let mailbox = world.mailbox(QueueKind::Group).await;
    let call = mailbox.adding_both(vec![fresh_address(), fresh_address()], vec![fresh_address()]);
    Valid {
        stranger: Some(ProblemType::NotFound),
        optional: &["last_resort"],
        targets: other_queues("addresses"),
        ..Valid::new(call, StatusCode::NO_CONTENT)
    }
}

#[tokio::test]
async fn addresses_are_added_all_or_none_and_lead_to_one_queue() {
    let world = World::start().await;
    let (one, two) = (world.mailbox(QueueKind::Group).await, world.mailbox(QueueKind::Contact).await);
    let known = world.address(&one).await;
    let fresh = fresh_address();
    for (what, mailbox, addresses) in [
        ("an address of another queue", &two, vec![known]),
        ("one of another queue among fresh ones", &two, vec![fresh, known, fresh_address()]),
        ("an address twice in a request", &one, vec![fresh, fresh]),
        ("a known address twice in a request", &one, vec![known, known]),
    ] {
        world.assert_refuses(what, &mailbox.adding(addresses), ProblemType::AddressExists).await;
    }
    world
        .pay(&two.adding(vec![fresh]))
        .await
        .assert_ok("an address that was refused with others is still free");
    world.pay(&one.adding(Vec::new())).await.assert_ok("no address at all");

    let count: i32 = world.value("SELECT sum(address_count)::integer FROM qs.queues").await;
    assert_eq!(count, 2);
    // As after an answer that was lost.
    let more = fresh_address();
    for _ in 0..2 {
        world.pay(&one.adding(vec![more, known])).await.assert_ok("addresses that the queue has already");
    }
    let count: i32 = world.value("SELECT sum(address_count)::integer FROM qs.queues").await;
    assert_eq!((count, world.count("qs.addresses").await), (3, 3));
    let dump = world.cluster.dump().await;
    assert!(!dump.contains(&hex::encode(known.as_bytes())), "only hashes of addresses are kept");
    world.close();
}

#[tokio::test]
async fn a_request_adds_at_most_256_addresses_and_a_queue_has_as_many_as_the_operator_lets_it() {
    let world = World::start().await;
    let mailbox = world.mailbox(QueueKind::Group).await;
    let many = |number| (0..number).map(|_| fresh_address()).collect::<Vec<_>>();
    world.assert_refuses("257 at once", &mailbox.adding(many(257)), ProblemType::TooManyAddresses).await;
    world.pay(&mailbox.adding(many(256))).await.assert_ok("256 at once");
    world.admin.batch_execute("UPDATE qs.settings SET addresses_per_queue = 258").await.unwrap();
    world
        .assert_refuses("more than a queue has", &mailbox.adding(many(3)), ProblemType::TooManyAddresses)
        .await;
    world.pay(&mailbox.adding(many(2))).await.assert_ok("as many as a queue has");
    world.assert_refuses("one more", &mailbox.adding(many(1)), ProblemType::TooManyAddresses).await;
    let few = many(2);
    world.admin.batch_execute("UPDATE qs.settings SET addresses_per_queue = 260").await.unwrap();
    world.pay(&mailbox.adding(few.clone())).await.assert_ok("two more");
    world.admin.batch_execute("UPDATE qs.settings SET addresses_per_queue = 1").await.unwrap();
    world.pay(&mailbox.adding(few.clone())).await.assert_ok("the same again, whatever the limit is by now");
    let more = mailbox.adding([few, many(1)].concat());
    world.assert_refuses("with another one", &more, ProblemType::TooManyAddresses).await;

    let call = mailbox.adding(many(1));
    for (what, wrong) in [
        ("a short address", Value::Array(vec![Value::Bytes(vec![7; 31])])),
        ("a long address", Value::Array(vec![Value::Bytes(vec![7; 33])])),
        ("an address that is text", Value::Array(vec![Value::from("x".repeat(32))])),
        ("an address in place of a list", Value::Bytes(vec![7; 32])),
    ] {
        world.assert_refuses(what, &call.with_field("addresses", wrong), ProblemType::MalformedBody).await;
    }
    world.close();
}

#[tokio::test]
async fn an_address_of_last_resort_serves_several_groups_and_a_queue_has_few_of_them() {
    let world = World::start().await;
    // A KeyPackage of last resort, in two groups: the leaf is the same, address included.
    let mailbox = world.mailbox(QueueKind::Group).await;
    let address = fresh_address();
    world.pay(&mailbox.adding_both(Vec::new(), vec![address])).await.assert_ok("adding it");
    let mut joiner = Member { party: Party::new(random_id()), mailbox, address, domain: home() };
    joiner.party.leaf = joiner.party.leaf_at(&home(), address);
    for _ in 0..2 {
        let mut group = world.group(1).await;
        let add = vec![joiner.party.key_package()];
        let (_, call) = group.make(0, Commit { add, ..Default::default() });
        let accepted: MessageAccepted = world.pay(&call).await.decode();
        assert_eq!(accepted.undelivered, 0, "it is bound to no group");
        let received = world.read(&mut joiner.mailbox).await;
        assert!(matches!(received.as_slice(), [QueuePayload::Welcome(_)]), "{received:?}");
    }

    let mailbox = joiner.mailbox;
    world.pay(&mailbox.adding(vec![address])).await.assert_ok("renewing it as another");
    let of_last_resort: i64 = world.count("qs.addresses WHERE last_resort").await;
    assert_eq!(of_last_resort, 1, "it stays what it is");
    let fresh = fresh_address();
    let call = mailbox.adding_both(vec![fresh], vec![fresh]);
    world.assert_refuses("one as both", &call, ProblemType::AddressExists).await;
    let few = |number| (0..number).map(|_| fresh_address()).collect::<Vec<_>>();
    let call = mailbox.adding_both(Vec::new(), few(16));
    world.assert_refuses("seventeen", &call, ProblemType::TooManyAddresses).await;
    world.pay(&mailbox.adding_both(few(20), few(15))).await.assert_ok("sixteen");
    let call = mailbox.adding_both(Vec::new(), few(1));
    world.assert_refuses("one more", &call, ProblemType::TooManyAddresses).await;
    world.admin.batch_execute("UPDATE qs.settings SET last_resort_addresses_per_queue = 1").await.unwrap();
    world.pay(&mailbox.adding_both(Vec::new(), vec![address])).await.assert_ok("one that it has");
    world.close();
}
