//! A token pays once, even if it is presented at once or at several servers; a fault of ours leaves it unspent (AAS-4).

use postern_protocol::{
    HpkePublicKey,
    ds::GroupIdReserved,
    key::SigningKey,
    problem::ProblemType,
    qs::{CreateQueue, QueueKind},
};
use postern_tests_kit::{Answer, Call, Failure, Way, World, deposited, depositing, eventually, refusal};

use crate::world::{send_at_once, two_servers_and_tokens};

const ROUNDS: usize = 60;

/// Costs a token and nothing else.
fn something() -> Call {
    Call::post("/ds/group-ids")
}

/// Exactly one of the answers is a success, the others say that the token is spent.
fn assert_paid_once(answers: &[Answer]) {
    let paid = answers.iter().filter(|answer| answer.is_ok()).count();
    let spent = answers.iter().filter(|answer| refusal(answer) == Some(ProblemType::TokenSpent)).count();
    assert_eq!((paid, spent), (1, answers.len() - 1), "{answers:?}");
}

async fn reservations(world: &World) -> i64 {
    let count = "SELECT count(*) FROM ds.reservations";
    world.cluster.admin().await.query_one(count, &[]).await.expect("an admin can look").get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_presented_to_two_servers_at_the_same_instant_pays_once() {
    let world = two_servers_and_tokens().await;
    let [one, two] = [world.way(0), world.way(1)];
    let before = reservations(&world).await;
    for _ in 0..ROUNDS {
        let request = world.paid(something());
        // Both on each server, too.
        let ways = [&one, &two, &one, &two];
        assert_paid_once(&send_at_once(ways.map(|way| (way.clone(), request.clone()))).await);
        let again = two.try_send(&request).await;
        assert_eq!(refusal(&again), Some(ProblemType::TokenSpent), "the token does not pay later, either");
    }
    assert_eq!(reservations(&world).await - before, ROUNDS as i64);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_token_for_two_different_requests_at_the_same_instant_pays_for_one() {
    let world = two_servers_and_tokens().await;
    let [one, two] = [world.way(0), world.way(1)];
    let mut mailbox = world.mailbox(QueueKind::Contact).await;
    let address = world.address(&mailbox).await;
    let mut paid = Vec::new();
    for round in 0..ROUNDS {
        let token = world.token();
        let text = format!("round {round}");
        let first = (one.clone(), depositing(address, text.as_bytes()).paid_with(token.clone()));
        let second = (two.clone(), mailbox.waiting(0).paid_with(token));
        let answers = send_at_once([first, second]).await;
        assert_paid_once(&answers);
        match &answers[1] {
            Err(_) => paid.push(text),
            Ok(answer) => {
                // Its messages were not acknowledged yet.
                answer.decode::<postern_protocol::qs::Dequeued>();
            }
        }
    }
    let request = world.paid(mailbox.waiting(0));
    let answer = one.try_send(&request).await.expect("the mailbox is there");
    let found: Vec<String> = mailbox.open(&answer.decode()).iter().map(deposited).collect();
    assert_eq!(found, paid, "exactly what was paid for");
}

/// Not by luck: the second comes while the first one's transaction is under way.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_whose_first_use_is_under_way_waits_for_its_end() {
    let world = two_servers_and_tokens().await;
    let [one, two] = [world.way(0), world.way(1)];

    // The first use ends well.
    let token = world.paid(something());
    let mut stop = Stop::reservations(&world).await;
    let first = spawn(&one, &token);
    stop.caught("relation").await;
    let second = spawn(&two, &token);
    stop.caught("transactionid").await;
    stop.release().await;
    let answers = [first.await.expect("no panic"), second.await.expect("no panic")];
    assert!(answers[0].is_ok(), "{answers:?}");
    assert_paid_once(&answers);

    // The first use dies: what it spent is unspent, and the second pays with it.
    let token = world.paid(something());
    let before = reservations(&world).await;
    let mut stop = Stop::reservations(&world).await;
    let first = spawn(&one, &token);
    let session = stop.caught("relation").await;
    let second = spawn(&two, &token);
    stop.caught("transactionid").await;
    stop.terminate(session).await;
    let first = first.await.expect("no panic");
    assert_eq!(refusal(&first), Some(ProblemType::Unavailable), "our fault, not the token's: {first:?}");
    stop.release().await;
    let second = second.await.expect("no panic");
    assert!(second.is_ok(), "{second:?}");
    // The pool may not have noticed yet that a session is gone.
    assert_eq!(refusal(&first_answer(&one, &token).await), Some(ProblemType::TokenSpent));
    assert_eq!(reservations(&world).await, before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_refused_early_spends_its_token() {
    let world = two_servers_and_tokens().await;
    let [one, two] = [world.way(0), world.way(1)];
    let owner = SigningKey::generate();
    let create = CreateQueue { kind: QueueKind::Group, hpke_key: HpkePublicKey::new([9; 32]) };
    let queues = || Call::post("/qs/queues");
    let long = vec![0; 2 * 1024 * 1024];
    let unknown = format!("/qs/queues/{}/dequeue", postern_protocol::QueueId::new([7; 16]).to_base64url());
    let dequeue = postern_protocol::qs::Dequeue { after: 0, max_messages: None, wait: 5 };
    let refused = [
        (queues().with_bytes("application/cbor", vec![0xff]).signed_by(&owner), ProblemType::MalformedBody),
        (queues().with_bytes("text/plain", vec![]).signed_by(&owner), ProblemType::UnsupportedMediaType),
        (queues().with_bytes("application/cbor", long).signed_by(&owner), ProblemType::BodyTooLarge),
        (queues().with(&create), ProblemType::SignatureRequired),
        (Call::post("/ds/groups/x/messages").with(&create).signed_by(&owner), ProblemType::MalformedRequest),
        (Call::post(unknown).with(&dequeue).signed_by(&owner), ProblemType::NotFound),
        (Call::get("/as/users/nobody@home.example"), ProblemType::NotFound),
        (depositing(postern_protocol::Address::new([8; 32]), b"lost"), ProblemType::Undeliverable),
    ];
    for (request, expected) in refused {
        let token = world.token();
        let answer = one.try_send(&request.clone().paid_with(token.clone())).await;
        assert_eq!(refusal(&answer), Some(expected), "{answer:?}");
        let used = two.try_send(&something().paid_with(token)).await;
        assert_eq!(refusal(&used), Some(ProblemType::TokenSpent), "after {expected:?}: {used:?}");

        // At the same instant on both servers: one is told why, the other that the token is gone.
        let request = request.paid_with(world.token());
        let answers = send_at_once([(one.clone(), request.clone()), (two.clone(), request)]).await;
        let mut told: Vec<_> =
            answers.iter().map(|answer| refusal(answer).expect("it is refused").slug()).collect();
        told.sort_unstable();
        let mut both = [expected.slug(), ProblemType::TokenSpent.slug()];
        both.sort_unstable();
        assert_eq!(told, both);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_ours_leaves_the_token_unspent() {
    let mut world = two_servers_and_tokens().await;
    let ways = world.ways();
    let mut mailbox = world.mailbox(QueueKind::Contact).await;
    let address = world.address(&mailbox).await;
    let valid = [something(), depositing(address, b"it arrives"), mailbox.waiting(0)];
    // Refused, but nobody could spend its token then.
    let invalid = depositing(postern_protocol::Address::new([8; 32]), b"lost");
    let malformed = Call::post("/qs/deposits").with_bytes("application/cbor", vec![0xff]);
    let mut requests = Vec::new();
    for request in valid.iter().chain([&invalid, &malformed]) {
        requests.push(world.paid(request.clone()));
    }

    world.cluster.kill_postgres();
    for way in &ways {
        for request in &requests {
            let answer = way.try_send(request).await;
            assert_eq!(refusal(&answer), Some(ProblemType::Unavailable), "{answer:?}");
        }
    }
    world.cluster.restart().await;
    for (index, request) in requests.iter().enumerate() {
        let answer = first_answer(&ways[index % 2], request).await;
        match index {
            0..3 => assert!(answer.is_ok(), "{answer:?}"),
            3 => assert_eq!(refusal(&answer), Some(ProblemType::Undeliverable)),
            _ => assert_eq!(refusal(&answer), Some(ProblemType::MalformedBody)),
        }
        let again = first_answer(&ways[1], request).await;
        assert_eq!(refusal(&again), Some(ProblemType::TokenSpent), "and now it is spent");
    }
    let answer = first_answer(&ways[0], &world.paid(mailbox.waiting(0))).await.expect("the mailbox is there");
    assert_eq!(mailbox.open(&answer.decode()).iter().map(deposited).collect::<Vec<_>>(), ["it arrives"]);
}

/// The first answer that is about the request.
async fn first_answer(way: &Way, request: &Call) -> Answer {
    eventually("the database is back", async || {
        let answer = way.try_send(request).await;
        (!answer.as_ref().is_err_and(Failure::is_passing)).then_some(answer)
    })
    .await
}

fn spawn(way: &Way, request: &Call) -> tokio::task::JoinHandle<Answer> {
    let (way, request) = (way.clone(), request.clone());
    tokio::spawn(async move { way.try_send(&request).await })
}

/// Holds transactions where they have spent their token and go on to do what it pays for.
struct Stop {
    holder: tokio_postgres::Client,
    observer: tokio_postgres::Client,
}

impl Stop {
    async fn reservations(world: &World) -> Self {
        let (holder, observer) = (world.cluster.admin().await, world.cluster.admin().await);
        holder
            .batch_execute("BEGIN; LOCK TABLE ds.reservations IN SHARE MODE")
            .await
            .expect("it can be locked");
        Self { holder, observer }
    }

    /// Returns the session of the request that waits for such a lock, once there is one. One that waited for a second is
    /// where it goes on waiting: at first requests wait for a moment only, in another session.
    async fn caught(&mut self, lock: &str) -> i32 {
        let waiting = "SELECT pid FROM pg_stat_activity
                        WHERE usename = 'postern_server' AND wait_event_type = 'Lock' AND wait_event = $1
                          AND query LIKE '%reserve_group_id%' AND clock_timestamp() - query_start > interval '1 second'";
        eventually("a session waits", async || {
            let rows = self.observer.query(waiting, &[&lock]).await.expect("an admin can look");
            rows.first().map(|row| row.get(0))
        })
        .await
    }

    async fn terminate(&self, session: i32) {
        let terminate = "SELECT pg_terminate_backend($1)";
        self.observer.execute(terminate, &[&session]).await.expect("an admin can");
    }

    async fn release(self) {
        self.holder.batch_execute("COMMIT").await.expect("nothing was changed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_database_opens_no_token_again() {
    let mut world = two_servers_and_tokens().await;
    let ways = world.ways();
    for _ in 0..3 {
        let mut spent = Vec::new();
        for way in ways.iter().cycle().take(10) {
            let request = world.paid(something());
            let reserved: GroupIdReserved = first_answer(way, &request).await.expect("it pays").decode();
            spent.push((request, reserved));
        }
        // Right after the last answer.
        world.cluster.kill_postgres();
        world.cluster.restart().await;
        for (request, _) in &spent {
            let answer = first_answer(&ways[0], request).await;
            assert_eq!(refusal(&answer), Some(ProblemType::TokenSpent), "{answer:?}");
        }
        let admin = world.cluster.admin().await;
        for (_, reserved) in &spent {
            let kept = "SELECT EXISTS (SELECT FROM ds.reservations WHERE group_id = $1)";
            let kept: bool = admin
                .query_one(kept, &[&reserved.group_id.id().as_slice()])
                .await
                .expect("an admin can look")
                .get(0);
            assert!(kept, "what the token paid for is there, too");
        }
    }
}
