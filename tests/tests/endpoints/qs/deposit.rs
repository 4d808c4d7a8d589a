//! `POST /qs/deposits` (QS-2)

use postern_protocol::{
    Address, Payload,
    problem::ProblemType,
    qs::{Deposit, QueueKind, QueuePayload},
};
use reqwest::StatusCode;

use crate::{
    road::Valid,
    world::{Call, World, fresh_address},
};

pub fn depositing(address: Address, payload: &[u8]) -> Call {
    Call::post("/qs/deposits").with(&Deposit { address, payload: Payload::new(payload.to_vec()) })
}

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

    world.admin().batch_execute("UPDATE qs.settings SET contact_queue_depth = 2").await.unwrap();
    for _ in 0..2 {
        world.pay(&depositing(contact, b"hello")).await.assert_ok("a deposit");
    }
    world.assert_refuses("a full queue", &depositing(contact, b"hello"), ProblemType::Undeliverable).await;
    world.pay(&mailbox.asking(1)).await.assert_ok("acknowledging");
    world.pay(&depositing(contact, b"hello")).await.assert_ok("there is room again");
    world.close();
}
