//! A reader gets what it has not acknowledged again, and what it has acknowledged never, whatever dies when
//! (QS-4, PRIV-3).

use nix::sys::signal::Signal;
use postern_protocol::qs::{Dequeued, QueueKind};
use postern_tests_kit::{deposited, depositing, eventually};

use crate::world::{insist_paid, two_servers_and_tokens};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_acknowledged_comes_again_and_what_was_never_does() {
    let mut world = two_servers_and_tokens().await;
    let ways = world.ways();
    let mut mailbox = world.mailbox(QueueKind::Contact).await;
    let address = world.address(&mailbox).await;
    let mut read = 0;
    for round in 0..4 {
        let sent: Vec<String> = (0..3).map(|number| format!("{round}.{number}")).collect();
        for text in &sent {
            insist_paid(&world, &ways[0], depositing(address, text.as_bytes())).await;
        }
        // It got them, and crashed before it had them safe; so does something else.
        let first: Dequeued = insist_paid(&world, &ways[0], mailbox.waiting(0)).await.decode();
        if round % 2 == 0 {
            world.cluster.kill_postgres();
            world.cluster.restart().await;
        } else {
            world.replace(0, Signal::SIGKILL).await;
        }
        let answer = insist_paid(&world, &ways[1], mailbox.waiting(0)).await;
        let again: Dequeued = answer.decode();
        assert_eq!(again.messages, first.messages, "the very same");
        let found: Vec<String> = mailbox.open(&answer.decode()).iter().map(deposited).collect();
        assert_eq!(found, sent);
        read += sent.len() as u64;

        // It acknowledges; right after the answer everything dies.
        let answer = insist_paid(&world, &ways[0], mailbox.waiting(0)).await;
        assert!(mailbox.open(&answer.decode()).is_empty());
        world.cluster.kill_postgres();
        world.cluster.restart().await;
        world.replace(0, Signal::SIGKILL).await;
        // Even a reader that forgot what it had read gets none of it again.
        for after in [0, read - 1] {
            let answer = insist_paid(&world, &ways[1], mailbox.asking(after)).await;
            let dequeued: Dequeued = answer.decode();
            assert_eq!((dequeued.messages, dequeued.expired_up_to), (vec![], None), "after {after}");
        }
    }
}

/// Also where others' messages keep the table from shrinking: no byte of it is in the table's files.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_physically_gone_after_vacuum_and_upkeep() {
    let world = two_servers_and_tokens().await;
    let mut mailbox = world.mailbox(QueueKind::Contact).await;
    let address = world.address(&mailbox).await;
    let others = world.mailbox(QueueKind::Contact).await;
    let others_address = world.address(&others).await;
    let put = async |address, len: usize| {
        world.pay(&depositing(address, &vec![b'x'; len])).await.assert_ok("a deposit");
    };
    // Small ones, and those that PostgreSQL keeps in pieces elsewhere.
    for len in [100, 1000, 12_000, 3000, 16_000] {
        put(address, len).await;
        put(others_address, len).await;
    }
    let dequeued: Dequeued = world.pay(&mailbox.asking(0)).await.decode();
    assert_eq!(mailbox.open(&dequeued).len(), 5);
    let theirs: Dequeued = world.pay(&others.asking(0)).await.decode();

    let admin = &world.admin;
    let files = admin
        .query(
            "SELECT pg_relation_filepath(c.oid) FROM pg_class c, pg_class m
              WHERE m.oid = 'qs.messages'::regclass AND c.oid IN (m.oid, m.reltoastrelid)",
            &[],
        )
        .await
        .unwrap();
    // For each message: how many of some parts of its ciphertext the files hold.
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
    world.pay(&mailbox.waiting(0)).await.assert_ok("acknowledging");

    eventually("nothing is left", async || {
        // A transaction that a server has open at this moment keeps the rows for the next VACUUM.
        admin.batch_execute("VACUUM qs.messages").await.unwrap();
        admin.batch_execute("UPDATE qs.sweep SET scrub_day = 'epoch'").await.unwrap();
        eventually("upkeep is done", async || {
            let outcome = admin.query_one("SELECT outcome::text FROM qs.keep_up()", &[]).await.unwrap();
            (outcome.get::<_, &str>(0) == "done").then_some(())
        })
        .await;
        (found(&dequeued).await == [0; 5]).then_some(())
    })
    .await;
    assert_eq!(found(&theirs).await, [3; 5], "what others wait for is untouched");
    let again: Dequeued = world.pay(&others.asking(0)).await.decode();
    assert_eq!(again.messages, theirs.messages);
}
