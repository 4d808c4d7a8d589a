//! Mailboxes over time, and as the operator bounds and sees them (QS-2, QS-8).

use std::time::Duration;

use postern_client::{Client, Event};
use postern_protocol::{ds::GroupId, qs::QueueKind};
use postern_tests_kit::{Cluster, PATIENCE, Server, World, eventually};
use tokio_postgres::types::FromSql;

/// Alice and Bob in a group; neither has anything to fetch.
struct Conversation {
    alice: Client,
    bob: Client,
    group: GroupId,
    world: World,
}

const AGED: &str = "UPDATE qs.messages SET enqueued = enqueued - 31;
                    UPDATE qs.sweep SET day = 'epoch', position = NULL";

impl Conversation {
    async fn start() -> Self {
        let world = World::builder().start().await;
        let (alice, bob, group) = world.friends(["alice", "bob"], "").await;
        let conversation = Self { alice, bob, group, world };
        eventually("nobody has anything to fetch", async || {
            conversation.alice.sync(Duration::ZERO).await.unwrap();
            conversation.bob.sync(Duration::ZERO).await.unwrap();
            (conversation.waiting().await == 0).then_some(())
        })
        .await;
        // The worker of the server's start is gone: while it ends, another one would leave the work to it.
        let is_over = "SELECT coalesce(swept = (now() AT TIME ZONE 'UTC')::date AND finished, false)
                              AND NOT EXISTS (SELECT FROM pg_locks
                                               WHERE locktype = 'advisory' AND classid = 'qs.sweep'::regclass)
                         FROM operator.upkeep()";
        eventually("the upkeep of the day is over", async || {
            conversation.value::<bool>(is_over).await.then_some(())
        })
        .await;
        conversation
    }

    async fn say(&self, texts: &[&str]) {
        for text in texts {
            self.alice.group_with_id(&self.group).send(text).await.unwrap();
        }
    }

    /// Bob's events until he reads a text.
    async fn bob_reads(&self, last: &str) -> Vec<Event> {
        let is_last = |event: &Event| matches!(event, Event::Message { text, .. } if text == last);
        self.bob.sync_until(PATIENCE, is_last).await.unwrap()
    }

    /// Bob notices that his group queue is gone, and goes on with another one.
    async fn bob_comes_back(&self) {
        let is_back = |event: &Event| matches!(event, Event::Returned { .. });
        let events = self.bob.sync_until(PATIENCE, is_back).await.unwrap();
        let replaced = |event: &Event| matches!(event, Event::MailboxReplaced { kind: QueueKind::Group });
        assert!(events.iter().any(is_back) && events.iter().any(replaced), "{events:?}");
    }

    async fn value<T: for<'a> FromSql<'a>>(&self, sql: &str) -> T {
        self.world.value(sql).await
    }

    async fn waiting(&self) -> i64 {
        self.world.count("qs.messages").await
    }

    async fn gone(&self, what: &str, sql: &str) {
        eventually(what, async || (self.value::<i64>(sql).await == 0).then_some(())).await;
    }
}

fn expired(events: &[Event]) -> Vec<u64> {
    let number = |event: &Event| match event {
        Event::Expired { messages } => Some(*messages),
        _ => None,
    };
    events.iter().filter_map(number).collect()
}

fn texts(events: &[Event]) -> Vec<&str> {
    let mut texts = Vec::new();
    for event in events {
        if let Event::Message { text, .. } = event {
            texts.push(text.as_str());
        }
    }
    texts
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_too_long_is_removed_and_its_reader_told_how_much_it_was() {
    let talk = Conversation::start().await;
    talk.say(&["one", "two", "three"]).await;
    assert_eq!(talk.waiting().await, 3);
    talk.world.admin.batch_execute(AGED).await.unwrap();
    // Any server that starts asks for the worker.
    let _another = Server::start(&talk.world.cluster).await;
    talk.gone("the worker has been there", "SELECT count(*) FROM qs.messages").await;

    talk.say(&["four"]).await;
    let events = talk.bob_reads("four").await;
    assert_eq!(expired(&events), [3], "no more and no less, and no alarm");
    assert_eq!(texts(&events), ["four"]);
    talk.say(&["five"]).await;
    let events = talk.bob_reads("five").await;
    assert_eq!(expired(&events), [0; 0], "told once");

    let monitor = talk.world.cluster.connect_as("postern_monitor").await;
    let removed = monitor.query_one("SELECT * FROM operator.removed_messages()", &[]).await.unwrap();
    let figures: [i64; 4] = ["inactive_queues", "their_messages", "expired_messages", "purged_messages"]
        .map(|name| removed.get(name));
    assert_eq!(figures, [0, 0, 3, 0]);
    let state = "SELECT swept = (now() AT TIME ZONE 'UTC')::date AND finished FROM operator.upkeep()";
    eventually("the sweep has come to its end", async || {
        monitor.query_one(state, &[]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_whose_owners_do_not_come_are_removed_with_all_they_hold() {
    let talk = Conversation::start().await;
    talk.say(&["one", "two"]).await;
    let queues: i64 = talk.value("SELECT count(*) FROM qs.queues").await;
    assert_eq!(queues, 4, "two people with two each");
    talk.world
        .admin
        .batch_execute(
            "UPDATE qs.queues SET last_active = last_active - 91
              WHERE queue_id IN (SELECT queue_id FROM qs.messages);
             UPDATE qs.sweep SET day = 'epoch', position = NULL",
        )
        .await
        .unwrap();
    let _another = Server::start(&talk.world.cluster).await;
    eventually("Bob's queue is gone", async || {
        (talk.value::<i64>("SELECT count(*) FROM qs.queues").await == 3).then_some(())
    })
    .await;
    assert_eq!(talk.waiting().await, 0);
    talk.bob_comes_back().await;
    let removed = "SELECT inactive_queues * 10 + their_messages FROM operator.removed_messages()";
    assert_eq!(talk.value::<i64>(removed).await, 12);
    // Nobody who still has a queue is harmed.
    talk.say(&["three"]).await;
    assert_eq!(texts(&talk.bob_reads("three").await), ["three"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_worker_to_spare_a_server_removes_it_itself() {
    let mut talk = Conversation::start().await;
    talk.say(&["one", "two", "three"]).await;
    talk.world.admin.batch_execute("ALTER SYSTEM SET max_worker_processes = 0").await.unwrap();
    talk.world.cluster.kill_postgres();
    talk.world.cluster.restart().await;
    talk.world.reconnect().await;
    talk.world.admin.batch_execute(AGED).await.unwrap();
    let another = Server::start(&talk.world.cluster).await;
    talk.gone("the server has done it", "SELECT count(*) FROM qs.messages").await;
    assert!(another.log().contains("no free background worker"), "{}", another.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_how_full_mailboxes_are_and_empties_or_removes_one() {
    let talk = Conversation::start().await;
    let said: Vec<String> = (0..12).map(|number| number.to_string()).collect();
    talk.say(&said.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let monitor = talk.world.cluster.connect_as("postern_monitor").await;
    let operator = talk.world.cluster.connect_as("postern_operator").await;

    let bytes = "SELECT sum(bytes)::bigint FROM operator.queue_depths()";
    let bytes: i64 = monitor.query_one(bytes, &[]).await.unwrap().get(0);
    let stored = "SELECT sum(octet_length(ciphertext))::bigint FROM qs.messages";
    assert_eq!(bytes, talk.value::<i64>(stored).await);
    let depths = "SELECT kind, waiting, queues, messages, oldest = (now() AT TIME ZONE 'UTC')::date
                    FROM operator.queue_depths()";
    let depths: Vec<_> = monitor
        .query(depths, &[])
        .await
        .unwrap()
        .iter()
        .map(|row| {
            let text = |column| row.get::<_, String>(column);
            (text(0), text(1), row.get::<_, i64>(2), row.get::<_, i64>(3), row.get::<_, Option<bool>>(4))
        })
        .collect();
    let class = |kind: &str, waiting: &str, queues, messages, today| {
        (kind.to_owned(), waiting.to_owned(), queues, messages, today)
    };
    let expected = [
        class("contact", "0", 2, 0, None),
        class("group", "0", 1, 0, None),
        class("group", "10-99", 1, 12, Some(true)),
    ];
    assert_eq!(depths, expected);

    let busiest = operator
        .query_one("SELECT queue_id, kind, waiting, waiting_bytes FROM operator.busiest_queues(1)", &[])
        .await
        .unwrap();
    let queue: Vec<u8> = busiest.get(0);
    assert_eq!((busiest.get(1), busiest.get(2), busiest.get(3)), ("group", 12i64, bytes));

    let purge = "SELECT operator.purge_queue($1)";
    assert_eq!(operator.query_one(purge, &[&queue]).await.unwrap().get::<_, i64>(0), 12);
    assert_eq!(operator.query_one(purge, &[&queue]).await.unwrap().get::<_, i64>(0), 0);
    talk.say(&["after"]).await;
    let events = talk.bob_reads("after").await;
    assert_eq!((expired(&events), texts(&events)), (vec![12], vec!["after"]));

    talk.say(&["one more"]).await;
    let drop = "SELECT operator.drop_queue($1)";
    assert_eq!(operator.query_one(drop, &[&queue]).await.unwrap().get::<_, i64>(0), 1);
    talk.bob_comes_back().await;
    talk.say(&["and another"]).await;
    assert_eq!(texts(&talk.bob_reads("and another").await), ["and another"]);
    for call in [purge, drop] {
        assert!(operator.query_one(call, &[&queue]).await.is_err(), "{call}: there is none any more");
    }
    assert_eq!(talk.value::<i64>("SELECT purged_messages FROM operator.removed_messages()").await, 13);

    eventually("the notifier runs, and has sent some", async || {
        let wakeups = "SELECT preloaded AND worker_pid IS NOT NULL AND sent > 0 FROM operator.wakeups()";
        monitor.query_one(wakeups, &[]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_read_and_set_with_checks_and_hold_within_minutes() {
    let talk = Conversation::start().await;
    let operator = talk.world.cluster.connect_as("postern_operator").await;
    let limits =
        operator.query("SELECT name, value, meaning FROM operator.queue_limits()", &[]).await.unwrap();
    let value = |name: &str| {
        let row = limits.iter().find(|row| row.get::<_, &str>(0) == name);
        row.unwrap_or_else(|| panic!("{name} is a limit")).get::<_, i32>(1)
    };
    let named =
        ["message_days", "queue_days", "deposits_per_day", "contact_queue_depth", "group_queue_depth"];
    assert_eq!(named.map(value), [30, 90, 200, 1000, 10_000]);
    let shared =
        ["group_queue_kib", "contact_queue_kib", "handshake_reserve_percent", "address_share_percent"];
    assert_eq!(shared.map(value), [102_400, 8192, 10, 75]);
    assert!(limits.iter().all(|row| row.get::<_, &str>(2).len() > 10), "each says what it means");

    for refused in [
        "'message_days', 0",
        "'queue_days', NULL",
        "'group_queue_depth', -1",
        "'key_packages_per_stock', 201",
        "'chain_hours', 25",
        "'singleton', 0",
        "'message_days = 1, queue_days', 1",
        "NULL, 1",
    ] {
        let call = format!("SELECT operator.set_queue_limit({refused})");
        assert!(operator.batch_execute(&call).await.is_err(), "{refused}");
    }
    let longer =
        operator.batch_execute("SELECT operator.set_queue_limit('chain_hours', 720)").await.unwrap_err();
    let hint = longer.as_db_error().and_then(|error| error.hint()).expect("the operator is told why");
    assert!(hint.contains("stay for as long as its chain"), "{hint}");
    talk.say(&["one"]).await;
    talk.world.admin.batch_execute("UPDATE qs.messages SET enqueued = enqueued - 7").await.unwrap();
    operator.batch_execute("SELECT operator.set_queue_limit('message_days', 6)").await.unwrap();
    // As each server does every few minutes.
    let server = talk.world.cluster.connect_as("postern_server").await;
    let started = server.query_one("SELECT outcome::text FROM qs.start_upkeep()", &[]).await.unwrap();
    assert_eq!(started.get::<_, &str>(0), "started");
    talk.gone("it is removed by the new limit", "SELECT count(*) FROM qs.messages").await;
}

/// Among many queues those that matter are found in bounded time, however often the others were used.
#[tokio::test]
async fn the_queues_in_which_most_waits_are_found_among_many_in_bounded_time() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    admin
        .batch_execute(
            "INSERT INTO qs.queues (queue_id, kind, owner_key, hpke_key, next_seq, acked_seq, last_active)
             SELECT substr(sha256(n::text::bytea), 1, 16), 'group', sha256('o'), sha256('h'), 1000000, 999999 - n % 7,
                    date '2026-01-01'
               FROM generate_series(1, 25000) n;
             UPDATE qs.queues SET next_seq = 5002, acked_seq = 1
              WHERE queue_id = substr(sha256('25000'::bytea), 1, 16)",
        )
        .await
        .unwrap();
    let operator = cluster.connect_as("postern_operator").await;
    let busiest = "SELECT array_agg(waiting ORDER BY place), bool_and(all_seen), count(DISTINCT queue_id)
                     FROM operator.busiest_queues(3, 60) WITH ORDINALITY
                          AS b (queue_id, kind, waiting, waiting_bytes, messages, last_active, all_seen, place)";
    let row = operator.query_one(busiest, &[]).await.unwrap();
    assert_eq!(
        (row.get::<_, Vec<i64>>(0), row.get::<_, bool>(1), row.get::<_, i64>(2)),
        (vec![5000, 6, 6], true, 3)
    );
    for refused in ["0", "1001", "NULL", "1, 0", "1, 61", "1, NULL"] {
        let call = format!("SELECT operator.busiest_queues({refused})");
        assert!(operator.batch_execute(&call).await.is_err(), "{refused}");
    }
}

#[tokio::test]
async fn a_generation_is_told_once_nothing_of_the_one_before_is_left() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    // Five messages of the first queue wait, and none of the second.
    admin
        .batch_execute(
            "CREATE TABLE public.ids AS SELECT n, substr(sha256(int4send(n)), 1, 16) AS id FROM generate_series(1, 2) n;
             INSERT INTO qs.queues (queue_id, kind, owner_key, hpke_key, next_seq, acked_seq, last_active)
             SELECT id, 'group', sha256('o'), sha256('h'), 11, 5 * n, current_date FROM public.ids;
             INSERT INTO qs.messages (queue_id, seq, chain, chain_index, ciphertext)
             SELECT id, seq, 1, seq - 6, 'x' FROM public.ids, generate_series(6, 10) seq WHERE n = 1",
        )
        .await
        .unwrap();
    let begin = "SELECT operator.begin_generation() << 22";
    let first: i64 = admin.query_one(begin, &[]).await.unwrap().get(0);
    assert!(first < 1 << 53, "every client reads such numbers");
    let next = async |queue: i32, after: i64| -> (Vec<i64>, Option<i64>, Option<i64>) {
        let sql = "SELECT n.seqs, n.expired_up_to, n.restored_up_to
                     FROM public.ids, qs.next_messages(id, sha256('o'), $2, 3, 1000) n WHERE ids.n = $1";
        let row = admin.query_one(sql, &[&queue, &after]).await.unwrap();
        (row.get(0), row.get(1), row.get(2))
    };
    let deliver = "INSERT INTO qs.messages (queue_id, seq, chain, chain_index, ciphertext)
                   SELECT queue_id, next_seq, last_chain + 1, 0, 'x' FROM qs.queues;
                   UPDATE qs.queues SET next_seq = next_seq + 1, last_chain = last_chain + 1";
    let waiting = async || -> i64 {
        let sql = "SELECT sum(messages)::bigint FROM operator.queue_depths()";
        admin.query_one(sql, &[]).await.unwrap().get(0)
    };

    assert_eq!(next(1, 5).await, (vec![6, 7, 8], None, None), "what is left comes first");
    assert_eq!(next(1, 8).await, (vec![9, 10], None, None));
    for (queue, after) in [(1, 10), (1, 15), (2, 10), (2, 3)] {
        assert_eq!(next(queue, after).await, (vec![], None, Some(first)), "queue {queue} after {after}");
    }
    assert_eq!(waiting().await, 5, "numbers that no message has do not count");
    let counted = "SELECT (SELECT value FROM operator.counts() WHERE figure = 'queued_messages' AND label = 'group'),
                          (SELECT value FROM operator.counts() WHERE figure = 'full_queues' AND label = 'group')";
    let row = admin.query_one(counted, &[]).await.unwrap();
    assert_eq!((row.get::<_, f64>(0), row.get::<_, f64>(1)), (5.0, 0.0), "and figures say the same");
    admin.batch_execute(deliver).await.unwrap();
    assert_eq!(next(1, 9).await, (vec![10], None, None), "one generation at a time");
    assert_eq!(next(1, 10).await, (vec![first + 1], None, Some(first)));
    assert_eq!(next(2, 7).await, (vec![first + 1], None, Some(first)));
    assert_eq!(next(2, first).await, (vec![first + 1], None, None), "told until it is acknowledged");
    assert_eq!(waiting().await, 7);

    // Another restore before the first reader came, within the same second.
    let second: i64 = admin.query_one(begin, &[]).await.unwrap().get(0);
    assert!(second > first + 1);
    admin.batch_execute(deliver).await.unwrap();
    assert_eq!(next(1, 10).await, (vec![first + 1], None, Some(first)));
    assert_eq!(next(1, first + 1).await, (vec![second + 1], None, Some(second)));
    assert_eq!(waiting().await, 9);

    // Messages that are too old go, in whatever generation they came.
    admin
        .batch_execute(
            "UPDATE qs.messages SET enqueued = enqueued - 31 WHERE seq < (SELECT max(seq) FROM qs.messages);
             SELECT qs.remove_expired(current_date)",
        )
        .await
        .unwrap();
    assert_eq!(next(1, 7).await, (vec![second + 1], Some(second), Some(second)));
    assert_eq!(waiting().await, 2);
    let left = "SELECT count(*) FROM qs.queues WHERE skipped <> 0";
    assert_eq!(admin.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
}
