//! `POST /qs/queues/{queue_id}/dequeue` (QS-4)

use std::time::Instant;

use postern_protocol::{
    Payload,
    problem::ProblemType,
    qs::{Dequeue, Dequeued, QueueKind, QueuePayload},
};
use postern_tests_kit::{PATIENCE, World, depositing};
use reqwest::StatusCode;

use super::add_addresses::other_queues;
use crate::road::Valid;

pub async fn valid(world: &World) -> Valid {
    let mailbox = world.mailbox(QueueKind::Contact).await;
    let address = world.address(&mailbox).await;
    for payload in [b"one", b"two"] {
        world.pay(&depositing(address, payload)).await.assert_ok("a deposit");
    }
    let call = mailbox.dequeue(&Dequeue { after: 1, max_messages: Some(10), wait: 0 });
    Valid {
        stranger: Some(ProblemType::NotFound),
        optional: &["max_messages", "wait"],
        targets: other_queues("dequeue"),
        ..Valid::new(call, StatusCode::OK)
    }
}

fn seqs(dequeued: &Dequeued) -> Vec<u64> {
    dequeued.messages.iter().map(|message| message.seq).collect()
}

#[tokio::test]
async fn messages_come_in_order_without_gaps_until_they_are_acknowledged() {
    let world = World::start().await;
    let mut mailbox = world.mailbox(QueueKind::Contact).await;
    let address = world.address(&mailbox).await;
    let empty: Dequeued = world.pay(&mailbox.asking(0)).await.decode();
    assert!(empty.messages.is_empty());
    for number in 1..=5u8 {
        world.pay(&depositing(address, &[number])).await.assert_ok("a deposit");
    }
    let ask = |after, max_messages| mailbox.dequeue(&Dequeue { after, max_messages, wait: 0 });
    let twice: [Dequeued; 2] =
        [world.pay(&ask(0, Some(2))).await.decode(), world.pay(&ask(0, Some(2))).await.decode()];
    assert_eq!(twice[0].messages, twice[1].messages, "at least once until acknowledged");
    assert_eq!(seqs(&twice[0]), [1, 2]);
    assert_eq!(seqs(&world.pay(&ask(0, Some(0))).await.decode()), [1], "at least one");
    assert_eq!(seqs(&world.pay(&ask(0, Some(u16::MAX))).await.decode()), [1, 2, 3, 4, 5]);
    assert_eq!(seqs(&world.pay(&ask(2, None)).await.decode()), [3, 4, 5]);
    assert_eq!(
        world.value::<i64>("SELECT count(*) FROM qs.messages").await,
        3,
        "what was acknowledged is deleted"
    );
    assert_eq!(
        seqs(&world.pay(&ask(0, None)).await.decode()),
        [3, 4, 5],
        "an older acknowledgement undoes nothing"
    );
    let opened = mailbox.open(&twice[0]);
    assert_eq!(opened, [1, 2].map(|number| QueuePayload::Deposit(Payload::new(vec![number]))));
    assert_eq!(world.read(&mut mailbox).await.len(), 3);
    assert!(world.read(&mut mailbox).await.is_empty());
    assert_eq!(world.value::<i64>("SELECT count(*) FROM qs.messages").await, 0);
    world.close();
}

#[tokio::test]
async fn acknowledging_what_never_came_is_refused() {
    let world = World::start().await;
    let mailbox = world.mailbox(QueueKind::Contact).await;
    let address = world.address(&mailbox).await;
    world.assert_refuses("an empty queue", &mailbox.asking(1), ProblemType::AcknowledgedTooMuch).await;
    world.pay(&depositing(address, b"hello")).await.assert_ok("a deposit");
    for after in [2, 3, 1 << 32, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX] {
        let what = format!("acknowledging {after}");
        world.assert_refuses(&what, &mailbox.asking(after), ProblemType::AcknowledgedTooMuch).await;
    }
    world.pay(&mailbox.asking(1)).await.assert_ok("what did come");
    world.close();
}

#[tokio::test]
async fn a_long_poll_ends_when_something_comes_or_its_wait_is_over() {
    let world = World::start().await;
    let mut mailbox = world.mailbox(QueueKind::Contact).await;
    let address = world.address(&mailbox).await;
    let waiting = mailbox.dequeue(&Dequeue { after: 0, max_messages: None, wait: u16::MAX });
    let begun = Instant::now();
    let spent = "SELECT count(*) FROM aas.spent";
    let before: i64 = world.value(spent).await;
    let (dequeued, ()) = tokio::join!(world.pay(&waiting), async {
        // The poll has paid: it waits.
        postern_tests_kit::eventually("the poll waits", || async {
            (world.value::<i64>(spent).await > before).then_some(())
        })
        .await;
        world.pay(&depositing(address, b"hello")).await.assert_ok("a deposit");
    });
    assert!(begun.elapsed() < PATIENCE / 3, "it came at once: {:?}", begun.elapsed());
    assert_eq!(mailbox.open(&dequeued.decode()), [QueuePayload::Deposit(Payload::new(b"hello".to_vec()))]);

    let begun = Instant::now();
    let waiting = mailbox.dequeue(&Dequeue { after: 1, max_messages: None, wait: 1 });
    assert!(world.pay(&waiting).await.decode::<Dequeued>().messages.is_empty());
    assert!(begun.elapsed().as_secs_f64() > 0.9, "it waited: {:?}", begun.elapsed());
    world.close();
}

#[tokio::test]
async fn what_expired_unread_is_told_until_it_is_acknowledged() {
    let world = World::start().await;
    let mut mailbox = world.mailbox(QueueKind::Contact).await;
    let address = world.address(&mailbox).await;
    world.admin.batch_execute("UPDATE qs.settings SET chain_messages = 2").await.unwrap();
    for number in 1..=4u8 {
        world.pay(&depositing(address, &[number])).await.assert_ok("a deposit");
    }
    let expire = async |seqs: &str| {
        let aged = format!("UPDATE qs.messages SET enqueued = enqueued - 31 WHERE seq IN ({seqs})");
        // A day of its own each time: a sweep is made once a day.
        let sweep = "UPDATE qs.sweep SET day = 'epoch', position = NULL; SELECT qs.keep_up()";
        world.admin.batch_execute(&format!("{aged}; {sweep}")).await.unwrap();
    };
    expire("1, 2").await;
    for _ in 0..2 {
        let dequeued: Dequeued = world.pay(&mailbox.asking(0)).await.decode();
        assert_eq!((seqs(&dequeued), dequeued.expired_up_to), (vec![3, 4], Some(2)));
    }
    mailbox.position = 2;
    let opened = world.read(&mut mailbox).await;
    assert_eq!(opened, [3, 4].map(|number| QueuePayload::Deposit(Payload::new(vec![number]))));
    let dequeued: Dequeued = world.pay(&mailbox.asking(2)).await.decode();
    assert_eq!((seqs(&dequeued), dequeued.expired_up_to), (vec![3, 4], None));

    // Nobody waits for what will not come.
    expire("3, 4").await;
    let begun = Instant::now();
    let waiting = mailbox.dequeue(&Dequeue { after: 2, max_messages: None, wait: u16::MAX });
    let dequeued: Dequeued = world.pay(&waiting).await.decode();
    assert_eq!((seqs(&dequeued), dequeued.expired_up_to), (vec![], Some(4)));
    assert!(begun.elapsed() < PATIENCE / 3, "it came at once: {:?}", begun.elapsed());
    let dequeued: Dequeued = world.pay(&mailbox.asking(4)).await.decode();
    assert_eq!((seqs(&dequeued), dequeued.expired_up_to), (vec![], None));
    world.close();
}
