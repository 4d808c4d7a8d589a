//! `POST /qs/queues/{queue_id}/dequeue` (QS-4)

use std::time::{Duration, Instant};

use postern_protocol::{
    Address, Payload,
    ds::MessageAccepted,
    problem::ProblemType,
    qs::{Dequeue, Dequeued, Lost, QueueKind, QueuePayload},
};
use postern_tests_kit::{Commit, Group, Mailbox, Party, World, depositing, dump, home};
use reqwest::StatusCode;

use super::{add_addresses::other_queues, deposit::lost};
use crate::every_route::Valid;

/// The longest time of a wake-up on a busy machine: less than the 20 seconds after which a server looks again by itself.
const AT_ONCE: Duration = Duration::from_secs(10);

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
async fn an_acknowledgement_does_not_wait_for_a_delivery_and_comes_again_with_the_next() {
    let world = World::start().await;
    let mailbox = world.mailbox(QueueKind::Contact).await;
    let address = world.address(&mailbox).await;
    for payload in [b"one", b"two"] {
        world.pay(&depositing(address, payload)).await.assert_ok("a deposit");
    }
    let kept = "SELECT count(*) FROM qs.messages";
    let mut delivering = world.cluster.admin().await;
    let delivery = delivering.transaction().await.unwrap();
    delivery.batch_execute("SELECT FROM qs.queues FOR UPDATE").await.unwrap();
    // A request that waited for the queue would get no answer before it is unlocked.
    assert_eq!(seqs(&world.pay(&mailbox.asking(1)).await.decode()), [2]);
    assert_eq!(world.value::<i64>(kept).await, 2);
    delivery.rollback().await.unwrap();
    assert_eq!(seqs(&world.pay(&mailbox.asking(1)).await.decode()), [2]);
    assert_eq!(world.value::<i64>(kept).await, 1);
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
    let spent = "SELECT count(*) FROM aas.spent";
    let before: i64 = world.value(spent).await;
    let waiting = async { (world.pay(&waiting).await, Instant::now()) };
    let ((dequeued, came), left) = tokio::join!(waiting, async {
        // The poll has paid: it waits.
        postern_tests_kit::eventually("the poll waits", || async {
            (world.value::<i64>(spent).await > before).then_some(())
        })
        .await;
        world.pay(&depositing(address, b"hello")).await.assert_ok("a deposit");
        Instant::now()
    });
    let took = came.saturating_duration_since(left);
    assert!(took < AT_ONCE, "it came at once: {took:?}");
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
    assert!(begun.elapsed() < AT_ONCE, "it came at once: {:?}", begun.elapsed());
    let dequeued: Dequeued = world.pay(&mailbox.asking(4)).await.decode();
    assert_eq!((seqs(&dequeued), dequeued.expired_up_to), (vec![], None));
    world.close();
}

/// The first member says so many things; returns how many of them did not come to the second.
async fn say(world: &World, group: &mut Group, times: usize) -> usize {
    let mut undelivered = 0;
    for _ in 0..times {
        let spoken = group.party(0).say(b"hello");
        let accepted: MessageAccepted = world.pay(&group.submit(0, &spoken, None)).await.decode();
        undelivered += accepted.undelivered as usize;
    }
    undelivered
}

/// A group of two, the second of which has read all so far.
async fn conversation(world: &World) -> Group {
    let mut group = world.group(2).await;
    assert!(world.receive(&mut group.members[1]).await.is_empty());
    group
}

/// Lets somebody with a mailbox into another group, and reads the Welcome; returns the address that it has there.
async fn another_group(world: &World, mailbox: &mut Mailbox) -> (Group, Address) {
    let mut group = world.group(1).await;
    let address = world.address(mailbox).await;
    let mut joiner = Party::newcomer();
    joiner.leaf = joiner.leaf_at(&home(), address);
    let (_, call) = group.make(0, Commit { add: vec![joiner.key_package()], ..Commit::default() });
    let accepted: MessageAccepted = world.pay(&call).await.decode();
    assert_eq!(accepted.undelivered, 0);
    group.party(0).merge();
    assert!(matches!(world.read(mailbox).await.as_slice(), [QueuePayload::Welcome(_)]));
    assert!(world.read(mailbox).await.is_empty());
    (group, address)
}

fn kinds(payloads: &[QueuePayload]) -> String {
    let kind = |payload: &QueuePayload| match payload {
        payload if payload.is_handshake() => 'c',
        QueuePayload::Lost(Lost { address: Some(_) }) => '!',
        QueuePayload::Lost(_) => '?',
        _ => 'm',
    };
    payloads.iter().map(kind).collect()
}

#[tokio::test]
async fn a_full_queue_tells_its_owner_where_something_is_missing() {
    let world = World::start().await;
    let mut group = conversation(&world).await;
    let limit = async |sql: &str| world.admin.batch_execute(sql).await.unwrap();
    limit("UPDATE qs.settings SET group_queue_depth = 3").await;
    assert_eq!(say(&world, &mut group, 3).await, 0);
    assert_eq!(say(&world, &mut group, 3).await, 3, "the sender is told");
    limit("UPDATE qs.settings SET group_queue_depth = 10000").await;
    assert_eq!(say(&world, &mut group, 1).await, 0);

    // In the database nothing says whose it was (PRIV-1).
    let address = group.members[1].address;
    let dump = world.cluster.dump().await;
    let rows = dump::rows(&dump);
    let holds = |bytes: &[u8], table: &str| {
        let of_table = rows.iter().filter(|row| row.table == table);
        of_table.flat_map(|row| &row.values).any(|value| value.windows(bytes.len()).any(|part| part == bytes))
    };
    assert!(holds(&address.lookup()[..8], "qs.addresses"), "an address that is in the dump is found");
    for table in ["qs.queues", "qs.messages"] {
        assert!(!holds(&address.lookup()[..8], table) && !holds(address.as_bytes(), table), "{table}");
    }

    let mailbox = &mut group.members[1].mailbox;
    let read = world.read(mailbox).await;
    assert_eq!(kinds(&read), "mmm!m", "in its place, once");
    assert_eq!(read[3], lost(address));
    assert!(world.read(mailbox).await.is_empty());
    world.close();
}

#[tokio::test]
async fn one_group_cannot_fill_a_queue_for_the_others() {
    let world = World::start().await;
    let mut group = conversation(&world).await;
    let address = group.members[1].address;
    let (mut quiet, other) = another_group(&world, &mut group.members[1].mailbox).await;
    world.admin.batch_execute("UPDATE qs.settings SET group_queue_depth = 8").await.unwrap();
    assert_eq!(say(&world, &mut group, 20).await, 14, "three quarters of the queue");
    assert_eq!(say(&world, &mut quiet, 3).await, 1, "the others have the rest");
    let mailbox = &mut group.members[1].mailbox;
    let read = world.read(mailbox).await;
    assert_eq!(kinds(&read), "mmmmmm!mm!");
    assert_eq!([&read[6], &read[9]], [&lost(address), &lost(other)]);
    assert!(world.read(mailbox).await.is_empty());
    assert_eq!(say(&world, &mut group, 6).await, 0, "once it is read, there is room again");
    world.close();
}

#[tokio::test]
async fn a_queue_full_of_messages_has_room_for_commits_and_welcomes() {
    let world = World::start().await;
    let mut group = conversation(&world).await;
    let limits = "UPDATE qs.settings SET group_queue_depth = 3, handshake_reserve_percent = 60";
    world.admin.batch_execute(limits).await.unwrap();
    assert_eq!(say(&world, &mut group, 4).await, 1);
    let commit = async |group: &mut Group| {
        let (_, call) = group.make(0, Commit { update: true, ..Commit::default() });
        let accepted: MessageAccepted = world.pay(&call).await.decode();
        group.party(0).merge();
        accepted.undelivered
    };
    assert_eq!(commit(&mut group).await, 0);
    let mut other = world.group(1).await;
    let mut joiner = Party::newcomer();
    joiner.leaf = joiner.leaf_at(&home(), world.address(&group.members[1].mailbox).await);
    let (_, call) = other.make(0, Commit { add: vec![joiner.key_package()], ..Commit::default() });
    let accepted: MessageAccepted = world.pay(&call).await.decode();
    assert_eq!(accepted.undelivered, 0, "an invitation");
    assert_eq!(say(&world, &mut group, 1).await, 1, "a message has no part in it");
    assert_eq!(commit(&mut group).await, 1, "it has an end, too");
    let read = world.read(&mut group.members[1].mailbox).await;
    assert_eq!(kinds(&read), "mmm!cc!");
    world.close();
}

#[tokio::test]
async fn a_queue_is_bounded_in_bytes_too_and_reading_makes_room() {
    let world = World::start().await;
    let mut group = conversation(&world).await;
    world.admin.batch_execute("UPDATE qs.settings SET group_queue_kib = 2").await.unwrap();
    let waiting = async || {
        let (counted, stored): (i64, i64) = (
            world.value("SELECT max(waiting_bytes)::bigint FROM qs.queues").await,
            world.value("SELECT coalesce(sum(octet_length(ciphertext)), 0)::bigint FROM qs.messages").await,
        );
        assert_eq!(counted, stored);
        counted
    };
    let lost = say(&world, &mut group, 20).await;
    assert!(0 < lost && lost < 20, "{lost} of 20");
    assert!((1000..=2048 + 100).contains(&waiting().await), "{} bytes", waiting().await);
    let mailbox = &mut group.members[1].mailbox;
    let read = world.read(mailbox).await;
    assert_eq!(kinds(&read), "m".repeat(20 - lost) + "!");
    world.pay(&mailbox.asking(mailbox.position - 1)).await.assert_ok("acknowledging");
    assert!((1..100).contains(&waiting().await), "the marker");
    world.pay(&mailbox.asking(mailbox.position)).await.assert_ok("acknowledging");
    assert_eq!(waiting().await, 0);
    assert_eq!(say(&world, &mut group, 1).await, 0);
    world.close();
}
