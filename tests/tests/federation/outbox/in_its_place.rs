//! Empty deliveries that go in the place of others, and deliveries that were taken, when the sender settles neither: nothing is
//! lost, and nothing that was taken is told as refused.

use std::sync::atomic::Ordering;

use postern_tests_kit::{Weather, eventually};

use super::{REASONS, Talk, broken::LARGE, has, refused_often};

impl Talk {
    /// The sender's database refuses whatever is being settled, which waits for a lock, and no attempt is under way then. The
    /// refusal is in its log: nothing is asserted of that.
    async fn refuse_to_settle(&self) {
        let refuse = "SELECT count(pg_cancel_backend(s.pid))
                        FROM pg_stat_activity s
                       WHERE s.wait_event_type = 'Lock' AND s.query LIKE '%federation.settle_lane%'";
        eventually("the attempt ends", async || {
            let _refused: i64 = self.sender().value(refuse).await;
            let under_way = "federation.due WHERE holder IS NOT NULL";
            (self.sender().count(under_way).await == 0).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_empty_one_went_for_is_set_aside_or_comes_though_that_one_was_not_settled() {
    for is_mended in [false, true] {
        let mut talk = Talk::start().await;
        talk.line(Weather::Cut);
        let (large, _) = talk.submit(&vec![b'x'; 60_000]).await;
        talk.say("after it").await;
        talk.breaking(LARGE, false).await;
        talk.breaks(5).await;
        let taken = talk.taken().await;
        let blocker = talk.keep_unsettled().await;
        talk.age().await;
        eventually("the other side has taken an empty one", async || {
            talk.hurry().await;
            (talk.taken().await == taken + 1).then_some(())
        })
        .await;
        if is_mended {
            talk.line(Weather::Cut);
        }
        talk.refuse_to_settle().await;
        assert_eq!(talk.sender().count("federation.outbox").await, 2, "nothing is settled");
        blocker.batch_execute("ROLLBACK").await.unwrap();
        if is_mended {
            talk.reconnect().await;
            talk.said.insert(0, large);
            talk.assert_heard("nobody has it yet").await;
            assert_eq!(talk.sender().count("federation.set_aside").await, 0);
        } else {
            eventually("it is set aside", async || {
                talk.hurry().await;
                (talk.sender().count("federation.set_aside").await == 1).then_some(())
            })
            .await;
            assert_eq!(talk.sender().value::<Vec<String>>(REASONS).await, ["breaks the connection 1"]);
            talk.assert_heard("what is behind it").await;
            talk.reconnect().await;
            talk.retry_after(1).await;
            talk.said.push(large);
            talk.assert_heard("late, and once").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_and_not_settled_is_settled_when_it_is_refused_the_next_time() {
    let mut talk = Talk::start().await;
    talk.operate("set_group_limit('max_message_bytes', 100000)").await;
    for (attempts, is_too_large) in [(1, false), (10, false), (1, true)] {
        talk.operate(&format!("set_federation_limit('refused_attempts', {attempts})")).await;
        talk.line(Weather::Cut);
        talk.say(vec![b'x'; 80_000]).await;
        let said = talk.said[0].as_bytes().to_vec();
        let blocker = talk.take_unsettled(1).await;
        talk.line(Weather::Cut);
        talk.refuse_to_settle().await;
        assert_eq!(talk.sender().count("federation.outbox").await, 1, "it is not settled");
        blocker.batch_execute("ROLLBACK").await.unwrap();
        if is_too_large {
            // In the homeserver's own words.
            let limit = "UPDATE ds.settings SET max_members = 2, max_delivery_bytes = 65536";
            talk.receiver().admin.execute(limit, &[]).await.unwrap();
            talk.reconnect().await;
        } else {
            let refused = talk.refusing(move |body| has(body, &said).then_some(500)).await;
            refused_often(&refused, 1).await;
            talk.drained().await;
            let refused = refused.load(Ordering::SeqCst);
            assert!(refused < 10, "it is asked at the first refusal, not after the last: {refused}");
        }
        talk.assert_heard("once").await;
        assert_eq!(talk.sender().count("federation.set_aside").await, 0, "it is there");
    }
}
