//! A reader gets what it has not acknowledged again, and what it has acknowledged never, whatever dies when
//! (QS-4, PRIV-3).

use nix::sys::signal::Signal;
use postern_client::{Client, Http, Request};
use postern_protocol::qs::{Dequeued, QueueKind};
use postern_tests::eventually;

use crate::{
    mailbox::{Mailbox, content, deposit},
    world::{World, insist, paid},
};

/// Paid anew each time, since the answer, and whether the token was spent, may be lost in a crash.
async fn insist_paid(way: &Http, payer: &Client, request: Request) -> postern_client::Response {
    eventually("it is answered", async || {
        let token = insist("there are tokens", || payer.wallet().take()).await;
        way.send_once(&request.clone().paid_with(token)).await.ok()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_acknowledged_comes_again_and_what_was_never_does() {
    let mut world = World::start().await;
    let payer = world.person("payer", 1).await;
    let ways = world.ways();
    let mut mailbox = Mailbox::create(&payer, QueueKind::Contact).await;
    let mut read = 0;
    for round in 0..4 {
        let sent: Vec<String> = (0..3).map(|number| format!("{round}.{number}")).collect();
        for text in &sent {
            insist_paid(&ways[0], &payer, deposit(mailbox.address, text)).await;
        }
        // It got them, and crashed before it had them safe; so does something else.
        let first: Dequeued = insist_paid(&ways[0], &payer, mailbox.dequeue(0)).await.decode().unwrap();
        if round % 2 == 0 {
            world.cluster.kill_postgres();
            world.cluster.restart().await;
        } else {
            world.replace(0, Signal::SIGKILL).await;
        }
        let answer = insist_paid(&ways[1], &payer, mailbox.dequeue(0)).await;
        let again: Dequeued = answer.decode().unwrap();
        assert_eq!(again.messages, first.messages, "the very same");
        let found: Vec<String> = mailbox.open(&answer).iter().map(content).collect();
        assert_eq!(found, sent);
        read += sent.len() as u64;

        // It acknowledges; right after the answer everything dies.
        let answer = insist_paid(&ways[0], &payer, mailbox.dequeue(0)).await;
        assert!(mailbox.open(&answer).is_empty());
        world.cluster.kill_postgres();
        world.cluster.restart().await;
        world.replace(0, Signal::SIGKILL).await;
        // Even a reader that forgot what it had read gets none of it again.
        for after in [0, read - 1] {
            let answer = insist_paid(&ways[1], &payer, mailbox.dequeue_after(after, 0)).await;
            let dequeued: Dequeued = answer.decode().unwrap();
            assert_eq!((dequeued.messages, dequeued.expired_up_to), (vec![], None), "after {after}");
        }
    }
}

/// Also where others' messages keep the table from shrinking: no byte of it is in the table's files.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_physically_gone_after_vacuum_and_upkeep() {
    let world = World::start().await;
    let payer = world.person("payer", 0).await;
    let way = &world.ways()[0];
    let mut mailbox = Mailbox::create(&payer, QueueKind::Contact).await;
    let others = Mailbox::create(&payer, QueueKind::Contact).await;
    let put = async |mailbox: &Mailbox, len: usize| {
        let request = paid(&payer, deposit(mailbox.address, &"x".repeat(len))).await;
        way.send_once(&request).await.unwrap();
    };
    // Small ones, and those that PostgreSQL keeps in pieces elsewhere.
    for len in [100, 1000, 12_000, 3000, 16_000] {
        put(&mailbox, len).await;
        put(&others, len).await;
    }
    let answer = way.send_once(&paid(&payer, mailbox.dequeue(0)).await).await.unwrap();
    let dequeued: Dequeued = answer.decode().unwrap();
    assert_eq!(mailbox.open(&answer).len(), 5);
    let theirs = way.send_once(&paid(&payer, others.dequeue(0)).await).await.unwrap();
    let theirs: Dequeued = theirs.decode().unwrap();

    let admin = world.cluster.admin().await;
    let files = admin
        .query(
            "SELECT pg_relation_filepath(c.oid) FROM pg_class c, pg_class m
              WHERE m.oid = 'qs.messages'::regclass AND c.oid IN (m.oid, m.reltoastrelid)",
            &[],
        )
        .await
        .unwrap();
    // Of each message, how many of some parts of its ciphertext the files hold.
    let found = async |dequeued: &Dequeued| {
        admin.batch_execute("CHECKPOINT").await.unwrap();
        let files: Vec<Vec<u8>> = files
            .iter()
            .map(|file| {
                let path = world.cluster.data_dir().join("cluster").join(file.get::<_, &str>(0));
                std::fs::read(path).unwrap()
            })
            .collect();
        let holds = |part: &[u8]| files.iter().any(|file| file.windows(part.len()).any(|w| w == part));
        let parts = |message: &postern_protocol::qs::QueuedMessage| {
            let ciphertext = message.ciphertext.as_bytes();
            [0, ciphertext.len() / 2, ciphertext.len() - 24]
                .into_iter()
                .filter(|at| holds(&ciphertext[*at..at + 24]))
                .count()
        };
        dequeued.messages.iter().map(parts).collect::<Vec<_>>()
    };
    assert_eq!(found(&dequeued).await, [3; 5], "this is how it would look");
    way.send_once(&paid(&payer, mailbox.dequeue(0)).await).await.unwrap();

    admin.batch_execute("VACUUM qs.messages").await.unwrap();
    admin.batch_execute("UPDATE qs.sweep SET scrub_day = 'epoch'").await.unwrap();
    eventually("upkeep is done", async || {
        let outcome = admin.query_one("SELECT outcome::text FROM qs.keep_up()", &[]).await.unwrap();
        (outcome.get::<_, &str>(0) == "done").then_some(())
    })
    .await;
    assert_eq!(found(&dequeued).await, [0; 5]);
    assert_eq!(found(&theirs).await, [3; 5], "what others wait for is untouched");
    let again = way.send_once(&paid(&payer, others.dequeue(0)).await).await.unwrap();
    assert_eq!(again.decode::<Dequeued>().unwrap().messages, theirs.messages);
}
