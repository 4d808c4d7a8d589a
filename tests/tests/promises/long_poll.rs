//! A waiting reader is woken, on whichever process, and whatever of the machinery between dies (QS-4, QS-9).

use std::time::{Duration, Instant};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use postern_protocol::{Address, problem::ProblemType, qs::QueueKind};
use postern_tests_kit::{
    Answer, Call, Chance, Mailbox, PATIENCE, Payer, PostgresRelay, Reply, Server, Way, World, deposited,
    depositing, eventually, postern, refusal,
};
use rand::Rng;
use tokio::{task::JoinHandle, time::timeout};

use crate::world::{insist_paid, two_servers_and_tokens};

/// The longest time of a wake-up on a busy machine, from the answer to the deposit on: far less than the 20 seconds after
/// which a server looks again by itself, so what keeps this again and again was not found by that.
const AT_ONCE: Duration = Duration::from_secs(6);
const WAIT: u16 = 30;
/// The time that a server has to end.
const GRACE: Duration = Duration::from_secs(30);

/// A server whose every statement can be seen, so a test knows when it waits.
struct Watched {
    server: Server,
    way: Way,
    relay: PostgresRelay,
}

impl Watched {
    async fn start(world: &World) -> Self {
        let relay = PostgresRelay::start(&world.cluster);
        // Requests that wait for a lock of the test are not given up meanwhile, and a shutdown that took all its time would
        // be noticed.
        let server = Server::builder(&world.cluster)
            .through(&relay)
            .env("POSTERN_DATABASE_STATEMENT_TIMEOUT_SECONDS", "60")
            .env("POSTERN_SHUTDOWN_GRACE_SECONDS", &GRACE.as_secs().to_string())
            .metrics()
            .start()
            .await;
        Self { way: world.way_to(&server), server, relay }
    }

    /// Starts a long-poll, and returns when it waits: it has registered, looked, and found nothing.
    async fn wait(&self, payer: &Payer, mailbox: &Mailbox) -> Poll {
        self.relay.take_statements();
        let call = payer.paid(mailbox.waiting(WAIT));
        let way = self.way.clone();
        let answer = tokio::spawn(async move { way.try_send(&call).await });
        eventually("it has looked", async || {
            let seen = self.relay.take_statements();
            seen.iter().any(|statement| statement.contains("qs.dequeue(")).then_some(())
        })
        .await;
        assert!(!answer.is_finished(), "there is nothing yet");
        Poll(answer)
    }

    /// Whether somebody who waited here was woken, as [`woke_after`] finds it.
    async fn woke_after(&self, took: Duration) -> bool {
        woke_after(&self.server, took).await
    }
}

/// Whether somebody who waited at a server for so long was woken: it came at once, or, on a slow machine, the server, which
/// shows metrics, has not found it by a look of its own.
async fn woke_after(server: &Server, took: Duration) -> bool {
    took < AT_ONCE || server.metrics().await.lines().any(|line| line == "postern_wakeups_missed_total 0.0")
}

impl Watched {
    /// A message sent as soon as the database is back reaches the reader who waited here soon, though the wait may
    /// have ended early.
    async fn finds_after_a_crash(
        &self,
        sender: &Way,
        payer: &Payer,
        (mailbox, address): (&mut Mailbox, Address),
        poll: Poll,
        text: &str,
    ) {
        let call = payer.paid(depositing(address, text.as_bytes()));
        eventually("the database is back", async || {
            let answer = sender.try_send(&call).await;
            // Spent: it had arrived, and the answer was lost with the database.
            (answer.is_ok() || refusal(&answer) == Some(ProblemType::TokenSpent)).then_some(())
        })
        .await;
        let start = Instant::now();
        let (answer, _) = poll.answer().await;
        let mut found = mailbox.open(&answer.decode());
        while found.is_empty() {
            let call = payer.paid(mailbox.waiting(WAIT));
            let answer =
                eventually("the database is back", async || self.way.try_send(&call).await.ok()).await;
            found = mailbox.open(&answer.decode());
        }
        assert_eq!(found.iter().map(deposited).collect::<Vec<_>>(), [text]);
        // A listener waits a second before it connects again.
        assert!(start.elapsed() < 2 * AT_ONCE, "it took {:?}", start.elapsed());
    }
}

struct Poll(JoinHandle<Answer>);

impl Poll {
    /// The answer, and when it came.
    async fn answer(self) -> (Reply, Instant) {
        let answer = timeout(PATIENCE, self.0).await.expect("the wait ends").expect("no panic");
        (answer.expect("a wait ends well"), Instant::now())
    }

    async fn finds(self, mailbox: &mut Mailbox, text: &str) -> Instant {
        let (answer, at) = self.answer().await;
        assert_eq!(mailbox.open(&answer.decode()).iter().map(deposited).collect::<Vec<_>>(), [text]);
        at
    }
}

/// Deposits something. Returns when it was accepted.
async fn put(way: &Way, payer: &Payer, address: Address, text: &str) -> Instant {
    let call = payer.paid(depositing(address, text.as_bytes()));
    way.try_send(&call).await.expect("it can be deposited");
    Instant::now()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_through_one_process_wakes_who_waits_on_another() {
    let world = two_servers_and_tokens().await;
    let payer = world.payer().await.clone();
    let watched = Watched::start(&world).await;
    let mut mailbox = world.mailbox(QueueKind::Contact).await;
    let address = world.address(&mailbox).await;
    let mut slowest = Duration::ZERO;
    for round in 0..20 {
        let poll = watched.wait(&payer, &mailbox).await;
        let text = format!("round {round}");
        let accepted = put(&world.way(round % 2), &payer, address, &text).await;
        let took = poll.finds(&mut mailbox, &text).await.saturating_duration_since(accepted);
        slowest = slowest.max(took);
        assert!(watched.woke_after(took).await, "it took {took:?}");
    }
    eprintln!("the slowest of 20 took {slowest:?}");
}

/// No wake-up is lost in the gap between looking and waiting: readers that poll all the time, each message at a
/// moment of its own.
#[tokio::test(flavor = "multi_thread")]
async fn no_moment_is_a_bad_one_for_a_message_to_come() {
    const READERS: usize = 6;
    const MESSAGES: usize = 60;
    let chance = Chance::new();
    let world = World::builder().servers(2).tokens(200).patient();
    let world = world.setting("POSTERN_METRICS_LISTEN", "127.0.0.1:0").start().await;
    world.restock(4 * READERS * MESSAGES).await;
    let payer = world.payer().await.clone();
    let ways = world.ways();
    let mut readers = Vec::new();
    let mut addresses = Vec::new();
    for index in 0..READERS {
        let mut mailbox = world.mailbox(QueueKind::Contact).await;
        addresses.push(world.address(&mailbox).await);
        let (way, payer) = (ways[index % 2].clone(), payer.clone());
        readers.push(tokio::spawn(async move {
            let mut arrivals = Vec::new();
            while arrivals.len() < MESSAGES {
                let call = payer.paid(mailbox.waiting(WAIT));
                let answer = way.try_send(&call).await.expect("a wait ends well");
                let now = Instant::now();
                let found = mailbox.open(&answer.decode());
                arrivals.extend(found.iter().map(|payload| (deposited(payload), now)));
            }
            arrivals
        }));
    }
    let writers: Vec<_> = addresses
        .into_iter()
        .enumerate()
        .map(|(index, address)| {
            let (ways, payer, mut rng) = (ways.clone(), payer.clone(), chance.of(index as u64));
            tokio::spawn(async move {
                let mut departures = Vec::new();
                for number in 0..MESSAGES {
                    // Some right after the reader's last answer, some in the middle of its wait.
                    tokio::time::sleep(Duration::from_micros(rng.random_range(0..30_000))).await;
                    let text = number.to_string();
                    let call = payer.paid(depositing(address, text.as_bytes()));
                    ways[rng.random_range(0..2)].try_send(&call).await.expect("it can be deposited");
                    departures.push((text, Instant::now()));
                }
                departures
            })
        })
        .collect();
    let mut slowest = Duration::ZERO;
    for (reader, writer) in readers.into_iter().zip(writers) {
        let departures = writer.await.expect("no panic");
        let arrivals = timeout(PATIENCE, reader).await.expect("all arrive").expect("no panic");
        for ((sent, departure), (found, arrival)) in departures.into_iter().zip(arrivals) {
            assert_eq!(sent, found, "in order");
            slowest = slowest.max(arrival.saturating_duration_since(departure));
        }
    }
    for server in &world.servers {
        assert!(woke_after(server, slowest).await, "one took {slowest:?}");
    }
    eprintln!("the slowest of {} took {slowest:?}", READERS * MESSAGES);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_database_costs_who_waits_no_message() {
    let mut world = two_servers_and_tokens().await;
    let payer = world.payer().await.clone();
    let ways = world.ways();
    let mut mailbox = world.mailbox(QueueKind::Contact).await;
    let address = world.address(&mailbox).await;
    for round in 0..3 {
        let watched = Watched::start(&world).await;
        let poll = watched.wait(&payer, &mailbox).await;
        world.cluster.kill_postgres();
        world.cluster.restart().await;
        watched
            .finds_after_a_crash(
                &ways[1],
                &payer,
                (&mut mailbox, address),
                poll,
                &format!("after crash {round}"),
            )
            .await;
    }
}

/// PostgreSQL ends all sessions and recovers, and there is no notifier until somebody needs one.
#[tokio::test(flavor = "multi_thread")]
async fn a_notifier_killed_with_9_costs_who_waits_no_message() {
    let world = two_servers_and_tokens().await;
    let payer = world.payer().await.clone();
    let ways = world.ways();
    let mut mailbox = world.mailbox(QueueKind::Contact).await;
    let address = world.address(&mailbox).await;
    for round in 0..2 {
        // The one that the last message started may have gone down with the crash.
        insist_paid(&world, &ways[0], depositing(address, b"start")).await;
        mailbox.open(&world.pay(&mailbox.waiting(0)).await.decode());
        let watched = Watched::start(&world).await;
        let poll = watched.wait(&payer, &mailbox).await;
        let notifier: i32 = eventually("there is a notifier", async || {
            let admin = world.cluster.try_admin().await?;
            admin.query_one("SELECT worker_pid FROM postern.wakeups()", &[]).await.ok()?.get(0)
        })
        .await;
        kill(Pid::from_raw(notifier), Signal::SIGKILL).expect("it was there just now");
        watched
            .finds_after_a_crash(
                &ways[1],
                &payer,
                (&mut mailbox, address),
                poll,
                &format!("after crash {round}"),
            )
            .await;
    }
}

/// NOTIFY, and so the notifier, is for one database. A cluster may hold several homes.
#[tokio::test(flavor = "multi_thread")]
async fn two_databases_of_one_cluster_each_wake_their_own() {
    let world = two_servers_and_tokens().await;
    let admin = world.cluster.admin().await;
    let admin_url = world.cluster.another_database("other").await;
    let rules = world.cluster.data_dir().join("cluster/pg_hba.conf");
    let allowed = std::fs::read_to_string(&rules).expect("there are rules");
    let other_too = allowed.clone() + &allowed.replace("local postern ", "local other ");
    std::fs::write(&rules, other_too).expect("they can be changed");
    world.cluster.reload().await;
    let mut migrate = postern();
    migrate.args(["migrate", "--domain", "other.example", "--database-admin-url"]);
    migrate.arg(admin_url);
    assert!(migrate.status().await.expect("postern runs").success());

    let mut payers = vec![world.payer().await.clone()];
    let mut watched = vec![Watched::start(&world).await];
    let relay = PostgresRelay::start(&world.cluster);
    let server = Server::builder(&world.cluster)
        .env("POSTERN_DOMAIN", "other.example")
        .env("POSTERN_DATABASE_URL", &relay.server_url().replace("dbname=postern", "dbname=other"))
        .metrics()
        .start()
        .await;
    let way = world.way_to(&server);
    payers.push(Payer::register(&way, &"other.example".parse().expect("it is a domain"), "payer").await);
    payers[1].stock(100).await;
    watched.push(Watched { way, server, relay });
    let (mut mailboxes, mut addresses) = (Vec::new(), Vec::new());
    for payer in &payers {
        let mailbox = payer.mailbox(QueueKind::Contact).await;
        addresses.push(payer.address(&mailbox).await);
        mailboxes.push(mailbox);
    }

    for round in 0..6 {
        let mut polls = Vec::new();
        for home in 0..2 {
            polls.push(watched[home].wait(&payers[home], &mailboxes[home]).await);
        }
        // The later one waits on while the earlier one is served.
        let (first, second) = (round % 2, (round + 1) % 2);
        let text = format!("round {round}");
        let (later, earlier) = match second {
            0 => (polls.remove(0), polls.remove(0)),
            _ => (polls.remove(1), polls.remove(0)),
        };
        let accepted = put(&watched[first].way, &payers[first], addresses[first], &text).await;
        let took = earlier.finds(&mut mailboxes[first], &text).await.saturating_duration_since(accepted);
        assert!(watched[first].woke_after(took).await, "it took {took:?}");
        assert!(!later.0.is_finished(), "nothing came for the other");
        let accepted = put(&watched[second].way, &payers[second], addresses[second], &text).await;
        let took = later.finds(&mut mailboxes[second], &text).await.saturating_duration_since(accepted);
        assert!(watched[second].woke_after(took).await, "it took {took:?}");
    }
    let notifiers =
        "SELECT count(DISTINCT datid) FROM pg_stat_activity WHERE backend_type = 'postern notifier'";
    assert_eq!(admin.query_one(notifiers, &[]).await.expect("an admin can look").get::<_, i64>(0), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_told_to_end_answers_who_waits_and_finishes_what_is_under_way() {
    let world = two_servers_and_tokens().await;
    let payer = world.payer().await.clone();
    let mut watched = Watched::start(&world).await;
    let mut polls = Vec::new();
    for _ in 0..4 {
        let mailbox = world.mailbox(QueueKind::Contact).await;
        let asked = Instant::now();
        polls.push((watched.wait(&payer, &mailbox).await, mailbox, asked));
    }
    // Under way: it spent its token and waits to be done.
    let admin = world.cluster.admin().await;
    admin.batch_execute("BEGIN; LOCK TABLE ds.reservations IN SHARE MODE").await.expect("it can be locked");
    let call = world.paid(Call::post("/ds/group-ids"));
    let under_way = tokio::spawn({
        let way = watched.way.clone();
        async move { way.try_send(&call).await }
    });
    let observer = world.cluster.admin().await;
    eventually("it is under way", async || {
        // Not one of the servers' chores.
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%reserve_group_id%'";
        (observer.query_one(waiting, &[]).await.expect("an admin can look").get::<_, i64>(0) == 1).then_some(())
    })
    .await;

    let start = Instant::now();
    watched.server.signal(Signal::SIGTERM);
    for (poll, mut mailbox, asked) in polls {
        let (answer, at) = poll.answer().await;
        assert!(mailbox.open(&answer.decode()).is_empty());
        assert!(at - asked < Duration::from_secs(WAIT.into()), "its wait was over after {:?}", at - asked);
    }
    assert!(!under_way.is_finished());
    admin.batch_execute("COMMIT").await.expect("nothing was changed");
    assert!(under_way.await.expect("no panic").is_ok(), "what was under way is answered");
    assert!(watched.server.ended().await.success());
    assert!(start.elapsed() < GRACE, "it took {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notifier_that_died_is_replaced_by_the_next_message() {
    let world = two_servers_and_tokens().await;
    let payer = world.payer().await.clone();
    let watched = Watched::start(&world).await;
    let mut mailbox = world.mailbox(QueueKind::Contact).await;
    let address = world.address(&mailbox).await;
    let admin = world.cluster.admin().await;
    let notifier = async || -> Option<i32> {
        admin
            .query_one("SELECT worker_pid FROM postern.wakeups()", &[])
            .await
            .expect("an admin can look")
            .get(0)
    };
    put(&watched.way, &payer, address, "the first starts one").await;
    let call = payer.paid(mailbox.waiting(WAIT));
    mailbox.open(&watched.way.try_send(&call).await.expect("it is there").decode());
    for round in 0..3 {
        let before = eventually("there is a notifier", &notifier).await;
        let poll = watched.wait(&payer, &mailbox).await;
        admin.execute("SELECT pg_terminate_backend($1)", &[&before]).await.expect("an admin can");
        eventually("it is gone", async || (notifier().await != Some(before)).then_some(())).await;
        let text = format!("round {round}");
        let accepted = put(&world.way(0), &payer, address, &text).await;
        let took = poll.finds(&mut mailbox, &text).await.saturating_duration_since(accepted);
        assert!(watched.woke_after(took).await, "it took {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_was_cut_off_is_back_soon_and_missed_nothing() {
    let world = two_servers_and_tokens().await;
    let payer = world.payer().await.clone();
    let watched = Watched::start(&world).await;
    let mut mailbox = world.mailbox(QueueKind::Contact).await;
    let address = world.address(&mailbox).await;
    let admin = world.cluster.admin().await;
    let listeners = "SELECT pid FROM pg_stat_activity
                      WHERE usename = 'postern_server' AND query LIKE '%postern.wake_secret%'";
    // All three servers' listeners, each in another session than before. One that was told to end may be there for a moment.
    let all_listen = async |before: &[i32]| -> Vec<i32> {
        eventually("they listen", async || {
            let sessions = admin.query(listeners, &[]).await.expect("an admin can look");
            let sessions: Vec<i32> = sessions.iter().map(|row| row.get(0)).collect();
            (sessions.len() == 3 && !sessions.iter().any(|session| before.contains(session)))
                .then_some(sessions)
        })
        .await
    };
    let mut cut: Vec<i32> = Vec::new();
    for round in 0..3 {
        cut = all_listen(&cut).await;
        let poll = watched.wait(&payer, &mailbox).await;
        let terminate = "SELECT pg_terminate_backend(pid) FROM unnest($1::integer[]) AS s (pid)";
        admin.execute(terminate, &[&cut]).await.expect("an admin can");
        // While nobody listens.
        let text = format!("round {round}");
        let accepted = put(&world.way(0), &payer, address, &text).await;
        let took = poll.finds(&mut mailbox, &text).await.saturating_duration_since(accepted);
        assert!(took < 2 * AT_ONCE, "it took {took:?}");
    }
    all_listen(&cut).await;
}

/// Padded long-polls take no memory from bodies that come meanwhile (OPS-9).
#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_holds_no_memory_for_its_body_while_it_waits() {
    // Far longer than the test takes on a slow and busy machine.
    const PATIENT: u16 = 1200;
    // 33 such bodies fill it.
    let world = World::builder()
        .tokens(80)
        .setting("POSTERN_BODIES_BYTES", "2200000")
        .setting("POSTERN_LONG_POLL_MAX_SECONDS", "1200")
        .start()
        .await;
    let mailbox = world.mailbox(QueueKind::Contact).await;
    let padded = |wait: u16| {
        let body = format!("{{\"after\":0,\"wait\":{wait}}}{}", " ".repeat(60_000));
        world.paid(mailbox.waiting(wait).with_bytes("application/json", body.into_bytes()))
    };
    let mut polls = Vec::new();
    for number in 0..36 {
        let (way, call) = (world.way(0), padded(PATIENT));
        let nonce = call.wire().nonce.expect("a token pays");
        polls.push(tokio::spawn(async move { way.try_send(&call).await }));
        eventually("it waits", async || world.is_spent(&nonce).await.then_some(())).await;
        let other = world.way(0).try_send(&padded(0)).await;
        assert!(other.is_ok(), "{} long-polls keep another body out: {:?}", number + 1, other.err());
    }
    assert!(polls.iter().all(|poll| !poll.is_finished()), "they wait all the time");
}
