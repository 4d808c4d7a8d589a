//! `POST /qs/queues/{queue_id}/keys` (QS-7)

use postern_protocol::{
    HpkePublicKey, Payload,
    chain::HpkePrivateKey,
    key::SigningKey,
    problem::ProblemType,
    qs::{Dequeued, NewOwner, QueueKind, QueuePayload, RotateKeys},
};
use postern_tests_kit::{World, depositing, hpke_key};
use reqwest::StatusCode;

use super::add_addresses::other_queues;
use crate::every_route::Valid;

pub async fn valid(world: &World) -> Vec<Valid> {
    let mailbox = world.mailbox(QueueKind::Group).await;
    let hpke = mailbox.rotating(&RotateKeys { owner: None, hpke_key: Some(hpke_key()) });
    let mailbox = world.mailbox(QueueKind::Group).await;
    let new = SigningKey::generate();
    let owner = Some(NewOwner::sign(&mailbox.id, mailbox.owner.public_key(), &new));
    let both = mailbox.rotating(&RotateKeys { owner, hpke_key: Some(hpke_key()) });
    vec![
        Valid {
            stranger: Some(ProblemType::NotFound),
            cut: vec![("hpke_key", ProblemType::MalformedBody)],
            targets: other_queues("keys"),
            // Without any, there is nothing to rotate.
            ..Valid::new(hpke, StatusCode::NO_CONTENT)
        },
        Valid {
            // The new owner's proof names the owner so far.
            stranger: Some(ProblemType::NotAllowed),
            optional: &["owner", "hpke_key"],
            ..Valid::new(both, StatusCode::NO_CONTENT)
        },
    ]
}

fn deposit(text: &[u8]) -> QueuePayload {
    QueuePayload::Deposit(Payload::new(text.to_vec()))
}

#[tokio::test]
async fn what_comes_after_a_new_hpke_key_is_sealed_to_it_and_what_came_before_to_the_old_one() {
    let world = World::start().await;
    let mut mailbox = world.mailbox(QueueKind::Contact).await;
    let address = world.address(&mailbox).await;
    world.pay(&depositing(address, b"before")).await.assert_ok("a deposit");
    let new = HpkePrivateKey::generate().unwrap();
    let rotation = RotateKeys { owner: None, hpke_key: Some(new.public_key().unwrap()) };
    world.pay(&mailbox.rotating(&rotation)).await.assert_ok("rotating");
    for text in [b"after", b"later"] {
        world.pay(&depositing(address, text)).await.assert_ok("a deposit");
    }
    let mut before: Dequeued = world.pay(&mailbox.asking(0)).await.decode();
    let after = Dequeued { messages: before.messages.split_off(1), ..before.clone() };
    assert_eq!(mailbox.open(&before), [deposit(b"before")]);
    assert!(after.messages[0].chain_header.is_some(), "a new chain begins at once");
    assert!(after.messages[1].chain_header.is_none(), "and goes on");
    mailbox.hpke = new;
    assert_eq!(mailbox.open(&after), [deposit(b"after"), deposit(b"later")]);
    world.close();
}

#[tokio::test]
async fn a_new_owner_has_to_prove_its_key_and_the_old_one_has_nothing_to_say_any_more() {
    let world = World::start().await;
    let mut mailbox = world.mailbox(QueueKind::Contact).await;
    let other = world.mailbox(QueueKind::Contact).await;
    let (old, new, eve) = (mailbox.owner.clone(), SigningKey::generate(), SigningKey::generate());
    let proof = NewOwner::sign(&mailbox.id, old.public_key(), &new);
    let claimed = NewOwner { public_key: eve.public_key(), signature: proof.signature.clone() };
    let rotating = |owner| mailbox.rotating(&RotateKeys { owner: Some(owner), hpke_key: None });
    for (what, owner) in [
        ("a key without a proof of its own", claimed),
        ("a proof for another queue", NewOwner::sign(&other.id, old.public_key(), &new)),
        ("a proof to another owner", NewOwner::sign(&mailbox.id, other.owner.public_key(), &new)),
    ] {
        world.assert_refuses(what, &rotating(owner), ProblemType::NotAllowed).await;
    }
    let useless = RotateKeys { owner: Some(proof.clone()), hpke_key: Some(HpkePublicKey::new([0; 32])) };
    world.assert_refuses("a useless HPKE key", &mailbox.rotating(&useless), ProblemType::MalformedBody).await;
    let nothing = RotateKeys { owner: None, hpke_key: None };
    world.assert_refuses("nothing", &mailbox.rotating(&nothing), ProblemType::MalformedBody).await;

    world.pay(&rotating(proof)).await.assert_ok("rotating");
    world.assert_refuses("the old owner", &mailbox.asking(0), ProblemType::NotFound).await;
    mailbox.owner = new;
    world.pay(&mailbox.asking(0)).await.assert_ok("the new owner");
    world.close();
}
