//! `POST /qs/queues/{queue_id}/delete` (QS-7)

use postern_protocol::{
    ds::MessageAccepted,
    problem::ProblemType,
    qs::{Dequeue, Dequeued, QueueKind},
};
use postern_tests_kit::{World, depositing, eventually, fresh_address};
use reqwest::StatusCode;

use super::add_addresses::other_queues;
use crate::every_route::Valid;

pub async fn valid(world: &World) -> Valid {
    let mailbox = world.mailbox(QueueKind::Contact).await;
    let call = mailbox.deleting(vec![world.address(&mailbox).await]);
    Valid {
        stranger: Some(ProblemType::NotFound),
        optional: &["addresses"],
        targets: other_queues("delete"),
        ..Valid::new(call, StatusCode::NO_CONTENT)
    }
}

#[tokio::test]
async fn nothing_is_left_of_a_deleted_queue() {
    let world = World::start().await;
    let (mailbox, other) = (world.mailbox(QueueKind::Contact).await, world.mailbox(QueueKind::Contact).await);
    let (known, forgotten) = (world.address(&mailbox).await, world.address(&mailbox).await);
    let others = world.address(&other).await;
    for address in [known, forgotten, others] {
        world.pay(&depositing(address, b"hello")).await.assert_ok("a deposit");
    }
    let stranger = mailbox.deleting(vec![known]).signed_by(&other.owner);
    world.assert_refuses("another owner", &stranger, ProblemType::NotFound).await;

    let call = mailbox.deleting(vec![known, others, fresh_address()]);
    world.pay(&call).await.assert_ok("deleting");
    let rows = "SELECT array[(SELECT count(*) FROM qs.queues), (SELECT count(*) FROM qs.messages),
                             (SELECT count(*) FROM qs.addresses)]";
    assert_eq!(world.value::<Vec<i64>>(rows).await, [1, 1, 2], "the other's, and a forgotten address");
    world.assert_refuses("again", &mailbox.deleting(Vec::new()), ProblemType::NotFound).await;
    world.assert_refuses("its owner", &mailbox.asking(0), ProblemType::NotFound).await;
    world.assert_refuses("its address", &depositing(known, b"hello"), ProblemType::Undeliverable).await;
    world.pay(&depositing(others, b"hello")).await.assert_ok("the other's address");

    // A forgotten address goes when somebody uses it.
    world.pay(&depositing(forgotten, b"hello")).await.assert_problem("gone", ProblemType::Undeliverable);
    assert_eq!(world.value::<Vec<i64>>(rows).await, [1, 2, 1]);
    world.close();
}

#[tokio::test]
async fn a_group_goes_on_without_a_member_who_deleted_its_queue() {
    let world = World::start().await;
    let mut group = world.group(3).await;
    let gone = &group.members[1];
    world.pay(&gone.mailbox.deleting(Vec::new())).await.assert_ok("deleting");
    for _ in 0..2 {
        let message = group.party(0).say(b"who is there?");
        let accepted: MessageAccepted = world.pay(&group.submit(0, &message, None)).await.decode();
        assert_eq!(accepted.undelivered, 1);
    }
    let texts = world.receive(&mut group.members[2]).await;
    assert_eq!(texts.len(), 2, "the others get everything");
    world.close();
}

#[tokio::test]
async fn a_long_poll_of_a_queue_that_is_deleted_ends() {
    let world = World::start().await;
    let mailbox = world.mailbox(QueueKind::Contact).await;
    let waiting = mailbox.dequeue(&Dequeue { after: 0, max_messages: None, wait: 3 });
    let spent = "SELECT count(*) FROM aas.spent";
    let before: i64 = world.value(spent).await;
    let (dequeued, ()) = tokio::join!(world.pay(&waiting), async {
        eventually("the poll waits", || async { (world.value::<i64>(spent).await > before).then_some(()) })
            .await;
        world.pay(&mailbox.deleting(Vec::new())).await.assert_ok("deleting");
    });
    assert!(dequeued.decode::<Dequeued>().messages.is_empty());
    world.close();
}
