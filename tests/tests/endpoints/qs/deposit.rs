//! `POST /qs/deposits` (QS-2)

use postern_protocol::{
    Address, Payload,
    problem::ProblemType,
    qs::{QueueKind, QueuePayload},
};
use postern_tests_kit::{World, depositing, fresh_address};
use reqwest::StatusCode;

use crate::road::Valid;

pub async fn valid(world: &World) -> Valid {
    let mailbox = world.mailbox(QueueKind::Contact).await;
    let call = depositing(world.address(&mailbox).await, b"nice to meet you");
    Valid { cut: vec![("address", ProblemType::MalformedBody)], ..Valid::new(call, StatusCode::ACCEPTED) }
}

#[tokio::test]
async fn anyone_with_a_token_deposits_and_only_the_owner_can_read_it() {
    let world = World::start().await;
    let mut mailbox = world.mailbox(QueueKind::Contact).await;
    let (one, two) = (world.address(&mailbox).await, world.address(&mailbox).await);
    let largest = vec![7; 16 * 1024];
    for (address, payload) in [(one, &b"first"[..]), (two, b""), (one, &largest)] {
        world.pay(&depositing(address, payload)).await.assert_ok("a deposit");
    }
    let deposit = |payload: &[u8]| QueuePayload::Deposit(Payload::new(payload.to_vec()));
    assert_eq!(world.read(&mut mailbox).await, [deposit(b"first"), deposit(b""), deposit(&largest)]);
    let dump = world.cluster.dump().await;
    assert!(
        !dump.contains(&hex::encode(b"first")) && !dump.contains(&"07".repeat(64)),
        "what is stored is sealed"
    );
    world.close();
}

#[tokio::test]
async fn a_deposit_that_no_contact_queue_takes_is_refused() {
    let world = World::start().await;
    let mailbox = world.mailbox(QueueKind::Contact).await;
    let contact = world.address(&mailbox).await;
    let group = world.group(2).await;
    let unused = world.candidate().await;
    for (what, address) in [
        ("an unknown address", fresh_address()),
        ("a group queue's address", group.members[0].address),
        ("a group queue's address that no group used", unused.address),
        ("a queue's id for an address", {
            let mut bytes = [0; 32];
            bytes[..16].copy_from_slice(mailbox.id.as_bytes());
            Address::new(bytes)
        }),
    ] {
        world.assert_refuses(what, &depositing(address, b"hello"), ProblemType::Undeliverable).await;
    }
    let large = depositing(contact, &vec![0; 16 * 1024 + 1]);
    world.assert_refuses("a byte too much", &large, ProblemType::BodyTooLarge).await;

    world.admin.batch_execute("UPDATE qs.settings SET contact_queue_depth = 2").await.unwrap();
    for _ in 0..2 {
        world.pay(&depositing(contact, b"hello")).await.assert_ok("a deposit");
    }
    world.assert_refuses("a full queue", &depositing(contact, b"hello"), ProblemType::Undeliverable).await;
    world.pay(&mailbox.asking(1)).await.assert_ok("acknowledging");
    world.pay(&depositing(contact, b"hello")).await.assert_ok("there is room again");
    world.close();
}

/// The refusals of addresses tell nothing to somebody who tries them: not which exist, and of those that
/// do, not whether the queue is full or got enough for today (QS-2).
#[tokio::test]
async fn every_refused_deposit_is_answered_alike() {
    let world = World::start().await;
    let setting = async |sql: &str| world.admin.batch_execute(sql).await.unwrap();
    let group = world.mailbox(QueueKind::Group).await;
    let mut refused = vec![("unknown", fresh_address()), ("a group's", world.address(&group).await)];
    let mut answers = Vec::new();

    let revoked = world.mailbox(QueueKind::Contact).await;
    refused.push(("revoked", world.address(&revoked).await));
    setting("DELETE FROM qs.addresses WHERE ctid = (SELECT max(ctid) FROM qs.addresses)").await;

    // Its address is still known, but leads nowhere.
    let gone = world.mailbox(QueueKind::Contact).await;
    let address = world.address(&gone).await;
    refused.push(("an expired queue's", address));
    let drop = "SELECT operator.drop_queue($1)";
    world.admin.execute(drop, &[&gone.id.as_bytes().as_slice()]).await.unwrap();

    for (what, address) in refused {
        answers.push((what, world.pay(&depositing(address, b"hello")).await));
    }
    let full = world.mailbox(QueueKind::Contact).await;
    let address = world.address(&full).await;
    setting("UPDATE qs.settings SET contact_queue_depth = 1").await;
    world.pay(&depositing(address, b"hello")).await.assert_ok("a deposit");
    answers.push(("full", world.pay(&depositing(address, b"hello")).await));
    setting("UPDATE qs.settings SET contact_queue_depth = 1000, deposits_per_day = 1").await;
    answers.push(("too many today", world.pay(&depositing(address, b"hello")).await));

    let alike = |reply: &postern_tests_kit::Reply| {
        let mut headers: Vec<_> = reply.headers.clone().into_iter().collect();
        headers.retain(|(name, _)| name.as_ref().is_none_or(|name| name != "date"));
        (reply.status, format!("{headers:?}"), reply.body.clone())
    };
    answers[0].1.assert_problem("unknown", ProblemType::Undeliverable);
    for (what, answer) in &answers {
        assert_eq!(alike(answer), alike(&answers[0].1), "{what}");
    }
    world.close();
}

#[tokio::test]
async fn a_contact_queue_takes_so_many_deposits_a_day_read_or_not() {
    let world = World::start().await;
    let mut mailbox = world.mailbox(QueueKind::Contact).await;
    let (one, two) = (world.address(&mailbox).await, world.address(&mailbox).await);
    world.admin.batch_execute("UPDATE qs.settings SET deposits_per_day = 3").await.unwrap();
    for address in [one, two, one] {
        world.pay(&depositing(address, b"hello")).await.assert_ok("a deposit");
    }
    assert_eq!(world.read(&mut mailbox).await.len(), 3);
    world.pay(&mailbox.asking(3)).await.assert_ok("acknowledging");
    for address in [one, two] {
        world.assert_refuses("the fourth", &depositing(address, b"hello"), ProblemType::Undeliverable).await;
    }
    let other = world.mailbox(QueueKind::Contact).await;
    world.pay(&depositing(world.address(&other).await, b"hello")).await.assert_ok("another queue's first");
    world.admin.batch_execute("UPDATE qs.queues SET deposit_day = deposit_day - 1").await.unwrap();
    world.pay(&depositing(two, b"hello")).await.assert_ok("another day's first");
    world.close();
}
