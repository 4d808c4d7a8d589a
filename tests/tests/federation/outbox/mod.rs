//! The outbox (FED-4): what waits for a neighbour comes once and in order, whatever crashes, and in bounds.

mod breaks;
mod broken;
mod clocks;
mod in_its_place;
mod lanes;
mod retried;
mod room;
mod rules;
mod slow;
mod wallet;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use postern_protocol::{
    MlsMessage, ds::MessageAccepted, problem::ProblemType, qs::QueuePayload, token::TOKEN_TYPE,
};
use postern_tests_kit::{Group, Mailbox, Neighbours, Weather, World, bytes_of, dump, eventually};
use tokio_postgres::Client;

use self::lanes::{HOLDER, NO_ATTEMPT, REASONS, SETTLE_FIRST, add_second};
pub use self::lanes::{attempts_ended, claimed, close_unseen, due_unseen, make_due, put_in};

/// A group at the first domain with a member there, who speaks, and one at the second, over a line that can be bad.
struct Talk {
    neighbours: Neighbours,
    group: Group,
    /// The messages that were said and did not come yet.
    said: Vec<MlsMessage>,
}

impl Talk {
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The servers have these settings.
    async fn start_with(settings: &[(&str, &str)]) -> Self {
        let builder = Neighbours::builder().bad_lines().tokens(300);
        let builder = settings.iter().fold(builder, |builder, (name, value)| builder.setting(name, value));
        let neighbours = builder.start().await;
        let mut group = neighbours[0].group(1).await;
        neighbours.add(&mut group, 1, neighbours[1].candidate().await).await;
        let talk = Self { neighbours, group, said: Vec::new() };
        talk.drained().await;
        talk
    }

    fn sender(&self) -> &World {
        &self.neighbours[0]
    }

    fn receiver(&self) -> &World {
        &self.neighbours[1]
    }

    fn line(&self, weather: Weather) {
        self.neighbours.line(0, 1).set(weather);
    }

    async fn operate(&self, what: &str) {
        let sql = format!("SELECT operator.{what}");
        self.sender().admin.execute(&sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Changes something while no attempt is under way, and none begins; then what waits is tried. So an attempt meets what was
    /// before or what is now, not both, and those that meet what is now know all that waits.
    async fn between_attempts<T>(&self, change: impl FnOnce() -> T) -> T {
        self.end_attempts().await;
        let changed = change();
        self.operate("retry_now('b.example')").await;
        self.sender().admin.batch_execute("COMMIT").await.unwrap();
        changed
    }

    /// No attempt is under way, and none begins until the superuser's transaction ends, which this begins.
    async fn end_attempts(&self) {
        let sender = self.sender();
        eventually("no attempt is under way", async || {
            sender.admin.batch_execute("BEGIN").await.unwrap();
            let none = sender.value::<bool>(NO_ATTEMPT).await;
            if !none {
                sender.admin.batch_execute("ROLLBACK").await.unwrap();
            }
            none.then_some(())
        })
        .await;
    }

    /// The line, which was cut, is good again, and is tried.
    async fn reconnect(&self) {
        self.between_attempts(|| self.line(Weather::Fair)).await;
    }

    /// The line is good, and is tried, whatever is under way.
    async fn is_fair(&self) {
        self.line(Weather::Fair);
        self.operate("retry_now('b.example')").await;
    }

    /// The number of deliveries that the other side took.
    async fn taken(&self) -> i64 {
        self.receiver().value("SELECT sum(last_number)::bigint FROM federation.incoming_lanes").await
    }

    /// The sender cannot settle what is taken as long as the session that is returned is in its transaction.
    async fn keep_unsettled(&self) -> Client {
        let blocker = self.sender().cluster.admin().await;
        blocker.batch_execute("BEGIN; SELECT FROM federation.outgoing_lanes FOR UPDATE").await.unwrap();
        blocker
    }

    /// The other side takes so many deliveries that wait, which are kept unsettled.
    async fn take_unsettled(&self, waiting: i64) -> Client {
        let before = self.taken().await;
        let blocker = self.keep_unsettled().await;
        self.reconnect().await;
        eventually("the other side has taken them", async || {
            (self.taken().await == before + waiting).then_some(())
        })
        .await;
        blocker
    }

    /// The other homeserver refuses requests with a status, by their bodies. Returns the number of those.
    async fn refusing(
        &self,
        refuses: impl Fn(&[u8]) -> Option<u16> + Send + Sync + 'static,
    ) -> Arc<AtomicUsize> {
        let refused = Arc::new(AtomicUsize::new(0));
        let count = refused.clone();
        let verdict = move |body: &[u8]| {
            let status = refuses(body)?;
            count.fetch_add(1, Ordering::SeqCst);
            Some(status)
        };
        let authority = self.neighbours.authority.pem();
        self.between_attempts(|| self.neighbours.line(0, 1).judge(&authority, verdict)).await;
        refused
    }

    /// A message that is not noted as said, and the answer.
    async fn submit(&mut self, text: &[u8]) -> (MlsMessage, MessageAccepted) {
        let said = self.group.party(0).say(text);
        let accepted = self.sender().pay(&self.group.submit(0, &said, None)).await.decode();
        (said, accepted)
    }

    async fn say(&mut self, text: impl AsRef<[u8]>) {
        let (said, accepted) = self.submit(text.as_ref()).await;
        assert_eq!(accepted.undelivered, 0);
        self.said.push(said);
    }

    async fn drained(&self) {
        let empty = async || (self.sender().count("federation.outbox").await == 0).then_some(());
        eventually("the outbox is empty", empty).await;
    }

    /// All that was said has come, once and in order.
    async fn assert_heard(&mut self, what: &str) {
        self.drained().await;
        let heard = heard(&self.neighbours[1], &mut self.group.members[1].mailbox).await;
        let said = std::mem::take(&mut self.said);
        let places: Vec<_> = heard.iter().map(|it| said.iter().position(|said| said == it)).collect();
        assert_eq!(places, (0..said.len()).map(Some).collect::<Vec<_>>(), "{what}");
    }

    /// A column of `operator.neighbours()` about the second domain.
    async fn neighbour<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, column: &str) -> T {
        let sql = format!("SELECT {column} FROM operator.neighbours() WHERE domain = 'b.example'");
        self.sender().value(&sql).await
    }

    /// The operator sees that it refuses a delivery, or that one breaks its connections.
    async fn is_seen_to_refuse(&self) {
        let looked = async || (self.neighbour::<i64>("refused").await == 1).then_some(());
        eventually("the operator sees it", looked).await;
    }

    async fn is_in_state(&self, state: &str) {
        let looked = async || (self.neighbour::<String>("state").await == state).then_some(());
        eventually(&format!("it is {state}"), looked).await;
    }
}

/// The messages in a mailbox.
async fn heard(world: &World, mailbox: &mut Mailbox) -> Vec<MlsMessage> {
    let message = |payload| match payload {
        QueuePayload::Message(message) => message,
        other => panic!("{other:?}"),
    };
    let mut all = Vec::new();
    loop {
        let read = world.read(mailbox).await;
        if read.is_empty() {
            return all;
        }
        all.extend(read.into_iter().map(message));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_and_not_settled_comes_once_when_the_sender_is_killed() {
    let mut talk = Talk::start().await;
    for kill in ["the server", "the database"] {
        talk.line(Weather::Cut);
        for number in 0..5 {
            talk.say(&format!("{number} before {kill} is killed")).await;
        }
        let blocker = talk.take_unsettled(5).await;
        assert_eq!(talk.sender().count("federation.outbox").await, 5, "they are not settled");
        if kill == "the server" {
            talk.neighbours[0].replace(0, Signal::SIGKILL).await;
            blocker.batch_execute("ROLLBACK").await.unwrap();
        } else {
            drop(blocker);
            talk.neighbours[0].cluster.kill_postgres();
            talk.neighbours[0].cluster.restart().await;
            talk.neighbours[0].reconnect().await;
        }
        talk.say("after it").await;
        talk.assert_heard(kill).await;
    }
    talk.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_of_either_side_the_numbering_begins_anew_and_nothing_is_lost() {
    let mut talk = Talk::start().await;
    let renewed = "renewed IS NOT NULL";
    // The sender's database was restored: two deliveries later it gives a number that the other side knows already.
    talk.say("one").await;
    talk.assert_heard("one").await;
    let sql = "SELECT next_number, settled_id FROM federation.outgoing_lanes";
    let old = talk.sender().admin.query_one(sql, &[]).await.unwrap();
    let old: (i64, Vec<u8>) = (old.get(0), old.get(1));
    talk.say("two").await;
    talk.say("three").await;
    talk.assert_heard("two and three").await;
    assert!(!talk.neighbour::<bool>(renewed).await);
    talk.line(Weather::Cut);
    let restore = "UPDATE federation.outgoing_lanes SET next_number = $1, settled_id = $2";
    talk.sender().admin.execute(restore, &[&old.0, &old.1]).await.unwrap();
    for text in ["another two", "another three", "four"] {
        talk.say(text).await;
    }
    talk.reconnect().await;
    talk.assert_heard("after the sender's restore").await;
    assert!(talk.neighbour::<bool>(renewed).await, "the operator sees it");

    // The numbering begins anew while it is not known what was taken: what was comes once.
    talk.line(Weather::Cut);
    for text in ["a", "b", "c"] {
        talk.say(text).await;
    }
    let blocker = talk.take_unsettled(3).await;
    talk.line(Weather::Cut);
    let renew = "SELECT federation.renew_lane(domain, lane) FROM federation.outgoing_lanes; COMMIT";
    blocker.batch_execute(renew).await.unwrap();
    talk.say("d").await;
    talk.reconnect().await;
    talk.assert_heard("after a renewal").await;

    // The receiver's was.
    for restored in [
        "UPDATE federation.incoming_lanes SET last_number = last_number - 2, last_id = '\\x01010101010101010101010101010101'",
        "DELETE FROM federation.incoming_lanes",
    ] {
        talk.sender()
            .admin
            .execute("UPDATE federation.outgoing_lanes SET renewed = NULL", &[])
            .await
            .unwrap();
        talk.receiver().admin.execute(restored, &[]).await.unwrap();
        talk.say("five").await;
        talk.say("six").await;
        talk.assert_heard(restored).await;
        assert!(talk.neighbour::<bool>(renewed).await, "{restored}");
    }
    talk.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tokens_deliveries_wait_and_nothing_is_lost() {
    let mut talk = Talk::start().await;
    let allowance = async |talk: &Talk, tokens: i32| {
        let sql = "SELECT operator.set_homeserver_allowance($1)";
        talk.receiver().admin.execute(sql, &[&tokens]).await.unwrap();
    };
    allowance(&talk, 0).await;
    talk.sender().admin.execute("DELETE FROM federation.tokens", &[]).await.unwrap();
    talk.say("one").await;
    talk.say("two").await;
    talk.is_in_state("out_of_tokens").await;
    assert_eq!(talk.neighbour::<i64>("queued").await, 2);
    // Its issuer said that there are none before tomorrow.
    let put_off = "SELECT abs(extract(epoch FROM date_trunc('day', now(), 'UTC') + interval '1 day' - asked) - seconds) < 60
                     FROM federation.refills";
    eventually("nobody asks before", async || talk.sender().value::<bool>(put_off).await.then_some(())).await;
    // Whatever it says, a day is the longest.
    let month = "SELECT federation.put_off_refill('b.example', 31 * 24 * 60 * 60)";
    talk.sender().admin.execute(month, &[]).await.unwrap();
    assert!(talk.sender().value::<bool>("SELECT seconds BETWEEN 1 AND 86400 FROM federation.refills").await);
    allowance(&talk, 1_000_000).await;
    talk.operate("retry_now('b.example')").await;
    talk.assert_heard("with tokens").await;
    talk.is_in_state("idle").await;
    // The issuer's keys are others, as its description says: one that was looked at too early would be good for a minute.
    let keys = async |talk: &Talk| -> Vec<Vec<u8>> {
        let keys = talk.receiver().description().await.issuer.token_keys;
        keys.iter().filter(|key| key.token_type == TOKEN_TYPE).map(bytes_of).collect()
    };
    let revoked = keys(&talk).await;
    talk.receiver().admin.execute("SELECT operator.rotate_issuer_keys(revoke => true)", &[]).await.unwrap();
    eventually("there are others", async || {
        let now = keys(&talk).await;
        (!now.is_empty() && !now.iter().any(|key| revoked.contains(key))).then_some(())
    })
    .await;
    let pass = "UPDATE federation.looks SET looked = looked - interval '2 minutes'";
    talk.sender().admin.execute(pass, &[]).await.unwrap();
    let before = talk.taken().await;
    talk.say("three").await;
    talk.drained().await;
    assert_eq!(talk.taken().await, before + 1, "with another issuer key");
    let dump = talk.sender().cluster.dump().await;
    let tokens = dump::rows(&dump).into_iter().filter(|row| row.table == "federation.tokens").count();
    assert!(tokens >= 50, "the wallet is in the database: {tokens}");
    talk.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_delivery_is_set_aside_with_its_reason_and_the_others_go_on() {
    let mut talk = Talk::start().await;
    talk.line(Weather::Cut);
    talk.say("one").await;
    let (_, lost) = talk.submit(b"damaged").await;
    assert_eq!(lost.undelivered, 0);
    let damage = "UPDATE federation.outbox SET sealed = set_byte(sealed, 100, get_byte(sealed, 100) # 1)
                   WHERE number = (SELECT max(number) FROM federation.outbox)";
    talk.sender().admin.execute(damage, &[]).await.unwrap();
    talk.say("two").await;
    talk.reconnect().await;
    talk.assert_heard("the others").await;
    assert_eq!(talk.sender().value::<Vec<String>>(REASONS).await, ["damaged 1"]);
    assert!(!talk.neighbour::<bool>("renewed IS NOT NULL").await, "no gap is behind the empty one");
    talk.operate("retry_set_aside('b.example')").await;
    eventually("it is set aside again", async || {
        (talk.sender().count("federation.set_aside").await == 1).then_some(())
    })
    .await;
    talk.operate("drop_set_aside('b.example')").await;

    // A message that takes more room than the other operator allows, until that one allows more.
    let limit = async |talk: &Talk, members: i32, bytes: i64| {
        let sql = "UPDATE ds.settings SET max_members = $1, max_delivery_bytes = $2::bigint";
        talk.receiver().admin.execute(sql, &[&members, &bytes]).await.unwrap();
    };
    let before: (i32, i64) = {
        let sql = "SELECT max_members, max_delivery_bytes::bigint FROM ds.settings";
        let row = talk.receiver().admin.query_one(sql, &[]).await.unwrap();
        (row.get(0), row.get(1))
    };
    limit(&talk, 2, 65_536).await;
    talk.operate("set_group_limit('max_message_bytes', 100000)").await;
    talk.line(Weather::Cut);
    talk.say("three").await;
    let (large, _) = talk.submit(&vec![b'x'; 80_000]).await;
    talk.say("four").await;
    talk.reconnect().await;
    talk.assert_heard("those that are small").await;
    assert_eq!(talk.sender().value::<Vec<String>>(REASONS).await, ["too large for its homeserver 1"]);
    limit(&talk, before.0, before.1).await;
    // It is tried again on the next day.
    let pass = "UPDATE federation.set_aside SET day = day - 1";
    talk.sender().admin.execute(pass, &[]).await.unwrap();
    while talk.sender().value::<bool>("SELECT federation.retry_refused()").await {}
    talk.said.push(large);
    talk.say("five").await;
    talk.assert_heard("it goes when it may").await;

    // Deliveries that waited for too long are set aside.
    talk.line(Weather::Cut);
    let mut expired = Vec::new();
    for number in 0..20 {
        expired.push(talk.submit(format!("expired {number}").as_bytes()).await.0);
    }
    talk.sender().admin.execute("UPDATE federation.outbox SET day = day - 15", &[]).await.unwrap();
    talk.say("six").await;
    while talk.sender().value::<bool>("SELECT federation.expire_deliveries()").await {}
    assert_eq!(talk.sender().value::<Vec<String>>(REASONS).await, ["expired 20"]);
    talk.reconnect().await;
    talk.assert_heard("what has not expired").await;
    talk.operate("retry_set_aside('b.example')").await;
    talk.said.extend(expired);
    talk.assert_heard("late is better than never, and in order").await;
    talk.neighbours.close();
}

/// Whether a body has a message in it.
fn has(body: &[u8], message: &[u8]) -> bool {
    // Its end is random to everybody.
    let end = &message[message.len() - 32..];
    body.windows(end.len()).any(|window| window == end)
}

/// The refusals of one that is poisoned are many: when one takes others, it is tried again from time to time.
async fn refused_often(refused: &AtomicUsize, times: usize) {
    eventually("it is refused again and again", async || {
        (refused.load(Ordering::SeqCst) >= times).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_is_refused_while_others_are_taken_is_set_aside_and_the_others_come_in_order() {
    let mut talk = Talk::start().await;
    talk.operate("set_federation_limit('retry_seconds', 1)").await;
    talk.operate("set_federation_limit('refused_attempts', 3)").await;
    for (status, reason) in [
        (500, "refused: status 500 1"),
        (400, "refused: status 400 1"),
        // In the words of a proxy.
        (413, "refused: status 413 1"),
    ] {
        talk.line(Weather::Cut);
        let mut poisoned = None;
        for number in 0..9 {
            if number == 4 {
                poisoned = Some(talk.submit(format!("poisoned with {status}").as_bytes()).await.0);
            }
            talk.say(format!("{number} before {status}")).await;
        }
        let poisoned = poisoned.expect("it was said");
        let bytes = poisoned.as_bytes().to_vec();
        let refused = talk.refusing(move |body| has(body, &bytes).then_some(status)).await;
        talk.assert_heard(&format!("the others, with {status}")).await;
        assert_eq!(talk.sender().value::<Vec<String>>(REASONS).await, [reason]);
        assert_eq!(talk.neighbour::<i64>("refused").await, 0);
        let refused = refused.load(Ordering::SeqCst);
        // The whole, its halves, and as often as it was tried alone.
        assert!(refused <= 12, "it was refused {refused} times");
        // Once it is taken, it is there.
        talk.line(Weather::Fair);
        talk.operate("retry_set_aside('b.example')").await;
        talk.said.push(poisoned);
        talk.assert_heard("late, and once").await;
    }
    talk.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_set_aside_because_a_homeserver_is_away_has_too_much_to_do_or_refuses_everything() {
    let mut talk = Talk::start().await;
    talk.operate("set_federation_limit('retry_seconds', 1)").await;
    talk.operate("set_federation_limit('refused_attempts', 1)").await;
    // A proxy answers every request with a body like that while its homeserver is away.
    for status in [502, 404, 413] {
        talk.line(Weather::Cut);
        for number in 0..3 {
            talk.say(format!("{number} before {status} for all")).await;
        }
        let refused = talk.refusing(move |body| (!body.is_empty()).then_some(status)).await;
        refused_often(&refused, 4).await;
        assert_eq!(talk.sender().count("federation.set_aside").await, 0, "{status}");
        talk.is_in_state("failing").await;
        talk.reconnect().await;
        talk.assert_heard(&format!("after {status} for all")).await;
    }
    // These say nothing of the delivery.
    for status in [503, 429] {
        talk.line(Weather::Cut);
        let text = format!("with {status}");
        talk.say(&text).await;
        let said = talk.said[0].as_bytes().to_vec();
        let refused = talk.refusing(move |body| has(body, &said).then_some(status)).await;
        refused_often(&refused, 4).await;
        assert_eq!(talk.sender().count("federation.set_aside").await, 0, "{status}");
        talk.reconnect().await;
        talk.assert_heard(&text).await;
    }
    talk.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_proxy_refuses_for_its_size_holds_nobody_up_and_is_tried_again_each_day() {
    let mut talk = Talk::start().await;
    talk.line(Weather::Cut);
    talk.say("small").await;
    let (large, _) = talk.submit(&vec![b'x'; 60_000]).await;
    talk.say("after it").await;
    talk.say(vec![b'y'; 1000]).await;
    let all = [&talk.said[0], &large, &talk.said[1], &talk.said[2]].map(|it| it.as_bytes().to_vec());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let noted = requests.clone();
    let refused = talk
        .refusing(move |body| {
            let sent: Vec<usize> = (0..all.len()).filter(|place| has(body, &all[*place])).collect();
            if !sent.is_empty() {
                noted.lock().expect("no panic holds it").push(sent);
            }
            (body.len() > 30_000).then_some(413)
        })
        .await;
    talk.assert_heard("those that are small, in the same lane").await;
    // Requests are halved, and the large one was tried alone once: what comes behind it waited for no other attempt.
    let sent: [&[usize]; 6] = [&[0, 1, 2, 3], &[0, 1], &[0], &[1, 2, 3], &[1], &[2, 3]];
    assert_eq!(*requests.lock().expect("no panic holds it"), sent);
    assert_eq!(talk.sender().value::<Vec<String>>(REASONS).await, ["refused: status 413 1"]);
    let retry = async |talk: &Talk| {
        let before = refused.load(Ordering::SeqCst);
        while talk.sender().value::<bool>("SELECT federation.retry_refused()").await {}
        before
    };
    retry(&talk).await;
    assert_eq!(talk.sender().count("federation.set_aside").await, 1, "not on the same day");
    let pass = "UPDATE federation.set_aside SET day = day - 1";
    talk.sender().admin.execute(pass, &[]).await.unwrap();
    let before = retry(&talk).await;
    eventually("it is refused once, and set aside again", async || {
        (talk.sender().count("federation.set_aside").await == 1).then_some(())
    })
    .await;
    assert_eq!(refused.load(Ordering::SeqCst), before + 1);
    // The proxy takes more.
    talk.reconnect().await;
    talk.sender().admin.execute(pass, &[]).await.unwrap();
    retry(&talk).await;
    talk.said.push(large);
    talk.assert_heard("late, and once").await;
    talk.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_delivery_is_refused_other_lanes_go_on_and_the_operator_sees_it() {
    let mut talk = Talk::start().await;
    let mut others = Vec::new();
    for _ in 0..4 {
        let mut group = talk.neighbours[0].group(1).await;
        talk.neighbours.add(&mut group, 1, talk.neighbours[1].candidate().await).await;
        others.push(group);
    }
    talk.drained().await;
    talk.line(Weather::Cut);
    talk.say("refused for a while").await;
    let said = talk.said[0].as_bytes().to_vec();
    let refused = talk.refusing(move |body| has(body, &said).then_some(500)).await;
    refused_often(&refused, 2).await;
    talk.is_seen_to_refuse().await;
    let lanes: Vec<i16> = talk
        .sender()
        .value("SELECT array_agg(DISTINCT lane) FROM federation.outgoing_lanes WHERE waiting = 0")
        .await;
    assert!(!lanes.is_empty(), "five groups have more than one lane");
    for group in &mut others {
        let said = group.party(0).say(b"we are not");
        talk.sender().pay(&group.submit(0, &said, None)).await.assert_ok("a message");
    }
    let elsewhere =
        "federation.outbox WHERE lane = ANY (ARRAY(SELECT lane FROM federation.due WHERE refusals = 0))";
    eventually("what is in other lanes is taken", async || {
        (talk.sender().count(elsewhere).await == 0).then_some(())
    })
    .await;
    assert_ne!(talk.neighbour::<String>("state").await, "failing");
    // It is taken at last, and nothing was set aside.
    talk.reconnect().await;
    talk.assert_heard("it was a fault for a while").await;
    assert_eq!(talk.sender().count("federation.set_aside").await, 0);
    talk.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_larger_than_homeservers_take_is_refused_before_it_is_accepted_and_the_rest_arrives() {
    let mut talk = Talk::start_with(&[("POSTERN_MAX_BODY_BYTES", "4194304")]).await;
    talk.operate("set_group_limit('max_message_bytes', 3000000)").await;
    talk.say("before").await;
    talk.say(vec![b'x'; 1_900_000]).await;
    talk.say("between").await;
    let large = talk.group.party(0).say(&vec![b'x'; 2_100_000]);
    let refused = talk.group.submit(0, &large, None);
    let refused = talk.sender().pay(&refused).await;
    refused.assert_problem("what nobody takes", ProblemType::DeliveryTooLarge);
    talk.say("after").await;
    talk.assert_heard("a large one among small ones").await;
    assert_eq!(talk.sender().count("federation.set_aside").await, 0);
    // Among people here it goes.
    let mut local = talk.neighbours[0].group(2).await;
    let large = local.party(0).say(&vec![b'x'; 2_100_000]);
    talk.sender().pay(&local.submit(0, &large, None)).await.assert_ok("a large message here");
    talk.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_homeserver_that_lost_addresses_for_a_moment_takes_its_word_back() {
    let mut talk = Talk::start().await;
    talk.neighbours[1]
        .admin
        .batch_execute("CREATE TABLE public.lost AS TABLE qs.addresses; DELETE FROM qs.addresses")
        .await
        .unwrap();
    let (_, accepted) = talk.submit(b"is anybody there?").await;
    assert_eq!(accepted.undelivered, 0);
    let filed = async |talk: &Talk, number| {
        let looked = async || (talk.sender().count("federation.gone").await == number).then_some(());
        eventually(&format!("{number} are filed"), looked).await;
    };
    filed(&talk, 1).await;
    talk.neighbours[1]
        .admin
        .batch_execute("INSERT INTO qs.addresses SELECT * FROM public.lost; DROP TABLE public.lost")
        .await
        .unwrap();
    talk.say("there it is again").await;
    talk.assert_heard("it is there again").await;
    filed(&talk, 0).await;
    talk.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_attempt_keeps_its_lane() {
    let mut talk = Talk::start().await;
    talk.line(Weather::Silent);
    talk.say("slowly").await;
    let holder = async |talk: &Talk| -> Option<Vec<u8>> {
        talk.sender().value("SELECT (SELECT holder FROM federation.due WHERE due > now())").await
    };
    let first = eventually("an attempt is under way", async || holder(&talk).await).await;
    // Longer than an attempt has a lane that nobody keeps, and shorter than one takes.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(13) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let holder = "SELECT (SELECT holder FROM federation.due)";
        let holder: Option<Vec<u8>> = talk.sender().value(holder).await;
        assert_eq!(holder.as_ref(), Some(&first), "nobody else has it after {:?}", begun.elapsed());
    }
    talk.is_fair().await;
    talk.assert_heard("as soon as it gets through").await;
    talk.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_though_its_answer_was_lost_is_refused_no_more() {
    let world = due_unseen("'b.example'", 1, "good").await;
    add_second(&world).await;
    world.admin.batch_execute("UPDATE federation.due SET refusals = 9").await.unwrap();
    assert_eq!(world.value::<String>(SETTLE_FIRST).await, "settled");
    let refusals = "SELECT refusals FROM federation.due";
    assert_eq!(world.value::<i32>(refusals).await, 0, "the next one is another one");
    close_unseen(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_is_refused_holds_its_lane_up_for_refused_attempts() {
    let world = due_unseen("'b.example'", 1, "good").await;
    let mut tried = 0;
    loop {
        let claim = format!(
            "SELECT is_last_try FROM federation.claim_lane('good', {HOLDER}, 10, 64, 786432, '', '{{}}')"
        );
        tried += 1;
        if world.value::<bool>(&claim).await {
            break;
        }
        let refuse = format!("SELECT federation.note_refusal('b.example', 0::smallint, {HOLDER})");
        world.admin.execute(&refuse, &[]).await.unwrap();
        world.admin.execute("UPDATE federation.due SET due = now()", &[]).await.unwrap();
    }
    assert_eq!(tried, 10, "refused_attempts");
    close_unseen(world).await;
}
