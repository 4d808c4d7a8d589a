//! `POST /qs/deposits` (QS-2)

use postern_protocol::{
    Address, Payload,
    problem::ProblemType,
    qs::{Lost, QueueKind, QueuePayload},
};
use postern_tests_kit::{World, depositing, fresh_address};
use reqwest::StatusCode;

use crate::every_route::Valid;

pub async fn valid(world: &World) -> Valid {
    let mailbox = world.mailbox(QueueKind::Contact).await;
    let call = depositing(world.address(&mailbox).await, b"nice to meet you");
    Valid { cut: vec![("address", ProblemType::MalformedBody)], ..Valid::new(call, StatusCode::ACCEPTED) }
}

/// The word of the QS that an address lost something here.
pub fn lost(address: Address) -> QueuePayload {
    QueuePayload::Lost(Lost { address: Some(address) })
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
    let mut mailbox = world.mailbox(QueueKind::Contact).await;
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
    let hello = depositing(contact, b"hello");
    for _ in 0..2 {
        world.pay(&hello).await.assert_ok("a deposit");
    }
    // The owner is told, once: that is the one thing that a refusal leaves.
    world.pay(&hello).await.assert_problem("a full queue", ProblemType::Undeliverable);
    world.assert_refuses("a full queue", &hello, ProblemType::Undeliverable).await;
    let deposit = QueuePayload::Deposit(Payload::new(b"hello".to_vec()));
    assert_eq!(world.read(&mut mailbox).await, [deposit.clone(), deposit, lost(contact)]);
    world.pay(&mailbox.asking(1)).await.assert_ok("acknowledging");
    world.pay(&depositing(contact, b"hello")).await.assert_ok("there is room again");
    world.close();
}

#[tokio::test]
async fn a_deposit_is_as_large_as_the_operator_allows_and_no_less_than_clients_letters() {
    let world = World::start().await;
    let mut mailbox = world.mailbox(QueueKind::Contact).await;
    let address = world.address(&mailbox).await;
    let operator = world.cluster.connect_as("postern_operator").await;
    let set = async |limit: i32| {
        operator.execute("SELECT operator.set_queue_limit('max_deposit_bytes', $1)", &[&limit]).await
    };
    let largest = vec![7; 20_000];
    let deposit = depositing(address, &largest);
    world.assert_refuses("more than by default", &deposit, ProblemType::BodyTooLarge).await;
    let detail = world.pay(&deposit).await.problem("more than by default").detail;
    assert_eq!(detail.as_deref(), Some("a deposit can have at most 16384 bytes"));
    set(20_000).await.unwrap();
    world.pay(&deposit).await.assert_ok("as much as the operator allows");
    assert_eq!(world.read(&mut mailbox).await, [QueuePayload::Deposit(Payload::new(largest))]);
    let more = depositing(address, &vec![7; 20_001]);
    world.assert_refuses("a byte too much", &more, ProblemType::BodyTooLarge).await;
    let nobodys = depositing(fresh_address(), &vec![7; 20_001]);
    world.assert_refuses("the same to nobody", &nobodys, ProblemType::BodyTooLarge).await;

    set(45_056).await.unwrap();
    world.pay(&depositing(address, &vec![7; 45_056]).in_json()).await.assert_ok("what a body has room for");
    for wrong in [16_383, 45_057] {
        let refused = set(wrong).await.unwrap_err();
        let refused = refused.as_db_error().expect("PostgreSQL refuses it");
        let hint = refused.hint().expect("the operator is told why");
        assert!(hint.starts_with("Clients send letters of up to 16384 bytes, "), "{wrong}: {hint}");
    }
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

/// Deposits to an address until one is refused; returns how many were not.
async fn deposits(world: &World, address: Address) -> usize {
    let mut taken = 0;
    loop {
        let reply = world.pay(&depositing(address, b"hello")).await;
        if reply.status != StatusCode::ACCEPTED {
            reply.assert_problem("one too many", ProblemType::Undeliverable);
            return taken;
        }
        taken += 1;
    }
}

#[tokio::test]
async fn strangers_close_an_address_for_a_while_and_no_other_and_its_owner_opens_it() {
    let world = World::start().await;
    let mut mailbox = world.mailbox(QueueKind::Contact).await;
    let (published, friends) = (world.address(&mailbox).await, world.address(&mailbox).await);
    world
        .admin
        .batch_execute("UPDATE qs.settings SET deposits_per_day = 3, deposit_refills = 2")
        .await
        .unwrap();
    assert_eq!(deposits(&world, published).await, 3, "nobody reads them");
    world.pay(&depositing(friends, b"hello")).await.assert_ok("friends have a way in");
    let told = |read: &[QueuePayload]| read.iter().filter(|payload| **payload == lost(published)).count();
    assert_eq!(told(&world.read(&mut mailbox).await), 1, "the owner is told which address lost something");
    world.pay(&mailbox.asking(mailbox.position)).await.assert_ok("acknowledging");

    // Reading opens it, so many times a day, however many tokens a stranger has.
    for reading in 1..=2 {
        assert_eq!(deposits(&world, published).await, 3, "after {reading}");
        assert_eq!(told(&world.read(&mut mailbox).await), 1, "after {reading}");
        world.pay(&mailbox.asking(mailbox.position)).await.assert_ok("acknowledging");
    }
    // That was enough for today. What comes now costs the owner nothing, not even a word of it.
    let more = depositing(published, b"hello");
    world.assert_refuses("the next", &more, ProblemType::Undeliverable).await;

    // So does another address.
    world.pay(&mailbox.revoking(vec![published])).await.assert_ok("revoking");
    let next = world.address(&mailbox).await;
    assert_eq!(deposits(&world, next).await, 3);
    world.pay(&depositing(friends, b"hello")).await.assert_ok("friends still have theirs");
    world.close();
}

#[tokio::test]
async fn a_contact_queue_of_strangers_letters_has_room_for_friends() {
    let world = World::start().await;
    let mailbox = world.mailbox(QueueKind::Contact).await;
    let (published, friends) = (world.address(&mailbox).await, world.address(&mailbox).await);
    world.admin.batch_execute("UPDATE qs.settings SET contact_queue_depth = 8").await.unwrap();
    assert_eq!(deposits(&world, published).await, 6, "three quarters of it");
    assert_eq!(deposits(&world, friends).await, 2);
    world
        .admin
        .batch_execute("UPDATE qs.settings SET contact_queue_depth = 1000, contact_queue_kib = 8")
        .await
        .unwrap();
    let other = world.mailbox(QueueKind::Contact).await;
    let address = world.address(&other).await;
    world.pay(&depositing(address, &[7; 4096])).await.assert_ok("a deposit");
    let large = depositing(address, &[7; 4096]);
    world.pay(&large).await.assert_problem("a byte too much", ProblemType::Undeliverable);
    world.pay(&depositing(address, &[7; 3900])).await.assert_ok("it fits");
    world.close();
}
