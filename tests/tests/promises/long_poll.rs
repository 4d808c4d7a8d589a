//! Who waits is woken, on whichever process, and whatever of the machinery between dies (QS-4, QS-9).

use std::time::{Duration, Instant};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use postern_client::{Client, Http, Response, api::Error};
use postern_protocol::{problem::ProblemType, qs::QueueKind};
use postern_tests::{PATIENCE, PostgresRelay, Server, eventually};
use rand::Rng;
use tokio::{task::JoinHandle, time::timeout};

use crate::{
    mailbox::{Mailbox, content, deposit},
    world::{Chance, World, paid, problem, way},
};

/// What a wake-up may take on a busy machine: far less than the 20 seconds after which a server looks again by
/// itself, so nothing that keeps this was found by that.
const AT_ONCE: Duration = Duration::from_secs(2);
const WAIT: u16 = 30;

/// A server whose every statement can be seen, so a test knows when it waits.
struct Watched {
    server: Server,
    way: Http,
    relay: PostgresRelay,
}

impl Watched {
    async fn start(world: &World) -> Self {
        let relay = PostgresRelay::start(&world.cluster);
        let server = Server::builder(&world.cluster).through(&relay).start().await;
        Self { way: way(&server), server, relay }
    }

    /// Starts a long-poll, and returns when it waits: it has registered, looked, and found nothing.
    async fn wait(&self, payer: &Client, mailbox: &Mailbox) -> Poll {
        self.relay.take_statements();
        let request = paid(payer, mailbox.dequeue(WAIT)).await;
        let way = self.way.clone();
        let answer = tokio::spawn(async move { way.send_once(&request).await });
        eventually("it has looked", async || {
            let seen = self.relay.take_statements();
            seen.iter().any(|statement| statement.contains("qs.dequeue(")).then_some(())
        })
        .await;
        assert!(!answer.is_finished(), "there is nothing yet");
        Poll(answer)
    }
}

impl Watched {
    /// What somebody else sends as soon as the database is back reaches who waited here soon, though the wait may
    /// have ended early.
    async fn finds_after_a_crash(
        &self,
        sender: &Http,
        payer: &Client,
        mailbox: &mut Mailbox,
        poll: Poll,
        text: &str,
    ) {
        let request = paid(payer, deposit(mailbox.address, text)).await;
        eventually("the database is back", async || {
            let answer = sender.send_once(&request).await;
            // Spent: it had arrived, and the answer was lost with the database.
            (answer.is_ok() || problem(&answer) == Some(ProblemType::TokenSpent)).then_some(())
        })
        .await;
        let start = Instant::now();
        let (answer, _) = poll.answer().await;
        let mut found = mailbox.open(&answer);
        while found.is_empty() {
            let request = paid(payer, mailbox.dequeue(WAIT)).await;
            let answer =
                eventually("the database is back", async || self.way.send_once(&request).await.ok()).await;
            found = mailbox.open(&answer);
        }
        assert_eq!(found.iter().map(content).collect::<Vec<_>>(), [text]);
        // A listener waits a second before it connects again.
        assert!(start.elapsed() < 2 * AT_ONCE, "it took {:?}", start.elapsed());
    }
}

struct Poll(JoinHandle<Result<Response, Error>>);

impl Poll {
    /// The answer, and when it came.
    async fn answer(self) -> (Response, Instant) {
        let answer = timeout(PATIENCE, self.0).await.expect("the wait ends").expect("no panic");
        (answer.expect("a wait ends well"), Instant::now())
    }

    async fn finds(self, mailbox: &mut Mailbox, text: &str) -> Instant {
        let (answer, at) = self.answer().await;
        assert_eq!(mailbox.open(&answer).iter().map(content).collect::<Vec<_>>(), [text]);
        at
    }
}

async fn put(way: &Http, payer: &Client, mailbox: &Mailbox, text: &str) -> Instant {
    let request = paid(payer, deposit(mailbox.address, text)).await;
    let start = Instant::now();
    way.send_once(&request).await.expect("it can be deposited");
    start
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_through_one_process_wakes_who_waits_on_another() {
    let world = World::start().await;
    let payer = world.person("payer", 0).await;
    let watched = Watched::start(&world).await;
    let mut mailbox = Mailbox::create(&payer, QueueKind::Contact).await;
    let mut slowest = Duration::ZERO;
    for round in 0..20 {
        let poll = watched.wait(&payer, &mailbox).await;
        let text = format!("round {round}");
        let start = put(&world.ways()[round % 2], &payer, &mailbox, &text).await;
        let took = poll.finds(&mut mailbox, &text).await - start;
        slowest = slowest.max(took);
        assert!(took < AT_ONCE, "it took {took:?}");
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
    let world = World::start().await;
    let payer = world.person("payer", 0).await;
    let ways = world.ways();
    let mut readers = Vec::new();
    let mut addresses = Vec::new();
    for index in 0..READERS {
        let mut mailbox = Mailbox::create(&payer, QueueKind::Contact).await;
        addresses.push(mailbox.address);
        let (way, payer) = (ways[index % 2].clone(), payer.clone());
        readers.push(tokio::spawn(async move {
            let mut arrivals = Vec::new();
            while arrivals.len() < MESSAGES {
                let request = paid(&payer, mailbox.dequeue(WAIT)).await;
                let answer = way.send_once(&request).await.expect("a wait ends well");
                let now = Instant::now();
                arrivals.extend(mailbox.open(&answer).iter().map(|payload| (content(payload), now)));
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
                    let request = paid(&payer, deposit(address, &text)).await;
                    ways[rng.random_range(0..2)].send_once(&request).await.expect("it can be deposited");
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
    assert!(slowest < AT_ONCE, "one took {slowest:?}");
    eprintln!("the slowest of {} took {slowest:?}", READERS * MESSAGES);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_database_costs_who_waits_no_message() {
    let mut world = World::start().await;
    let payer = world.person("payer", 0).await;
    let ways = world.ways();
    let mut mailbox = Mailbox::create(&payer, QueueKind::Contact).await;
    for round in 0..3 {
        let watched = Watched::start(&world).await;
        let poll = watched.wait(&payer, &mailbox).await;
        world.cluster.kill_postgres();
        world.cluster.restart().await;
        watched
            .finds_after_a_crash(&ways[1], &payer, &mut mailbox, poll, &format!("after crash {round}"))
            .await;
    }
}

/// PostgreSQL ends all sessions and recovers, and there is no notifier until somebody needs one.
#[tokio::test(flavor = "multi_thread")]
async fn a_notifier_killed_with_9_costs_who_waits_no_message() {
    let world = World::start().await;
    let payer = world.person("payer", 0).await;
    let ways = world.ways();
    let mut mailbox = Mailbox::create(&payer, QueueKind::Contact).await;
    for round in 0..2 {
        // The one that the last message started may have gone down with the crash.
        eventually("a delivery starts a notifier", async || {
            let request = paid(&payer, deposit(mailbox.address, "start")).await;
            ways[0].send_once(&request).await.ok()
        })
        .await;
        let request = paid(&payer, mailbox.dequeue(0)).await;
        mailbox.open(&ways[0].send_once(&request).await.expect("it is there"));
        let watched = Watched::start(&world).await;
        let poll = watched.wait(&payer, &mailbox).await;
        let notifier: i32 = eventually("there is a notifier", async || {
            let admin = world.cluster.try_admin().await?;
            admin.query_one("SELECT worker_pid FROM postern.wakeups()", &[]).await.ok()?.get(0)
        })
        .await;
        kill(Pid::from_raw(notifier), Signal::SIGKILL).expect("it was there just now");
        watched
            .finds_after_a_crash(&ways[1], &payer, &mut mailbox, poll, &format!("after crash {round}"))
            .await;
    }
}

/// NOTIFY, and so the notifier, is for one database. A cluster may hold several homes.
#[tokio::test(flavor = "multi_thread")]
async fn two_databases_of_one_cluster_each_wake_their_own() {
    let world = World::start().await;
    let other = |url: &str| url.replace("dbname=postern", "dbname=other");
    let admin = world.cluster.admin().await;
    admin.batch_execute("CREATE DATABASE other").await.expect("an admin can");
    let rules = world.cluster.data_dir().join("cluster/pg_hba.conf");
    let allowed = std::fs::read_to_string(&rules).expect("there are rules");
    let other_too = allowed.clone() + &allowed.replace("local postern ", "local other ");
    std::fs::write(&rules, other_too).expect("they can be changed");
    admin.batch_execute("SELECT pg_reload_conf()").await.expect("an admin can");
    let mut migrate = postern_tests::postern();
    migrate.args(["migrate", "--domain", "other.example", "--database-admin-url"]);
    migrate.arg(other(&world.cluster.admin_url()));
    assert!(migrate.status().await.expect("postern runs").success());

    let homes = tempfile::tempdir().expect("/tmp is writable");
    let mut payers = vec![world.person("payer", 0).await];
    let mut watched = vec![Watched::start(&world).await];
    let relay = PostgresRelay::start(&world.cluster);
    let server = Server::builder(&world.cluster)
        .env("POSTERN_DOMAIN", "other.example")
        .env("POSTERN_DATABASE_URL", &other(&relay.server_url()))
        .start()
        .await;
    payers.push(crate::world::person(homes.path(), "payer", &server).await);
    watched.push(Watched { way: way(&server), server, relay });
    let mut mailboxes = Vec::new();
    for payer in &payers {
        mailboxes.push(Mailbox::create(payer, QueueKind::Contact).await);
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
        let start = put(&watched[first].way, &payers[first], &mailboxes[first], &text).await;
        let took = earlier.finds(&mut mailboxes[first], &text).await - start;
        assert!(took < AT_ONCE, "it took {took:?}");
        assert!(!later.0.is_finished(), "nothing came for the other");
        let start = put(&watched[second].way, &payers[second], &mailboxes[second], &text).await;
        let took = later.finds(&mut mailboxes[second], &text).await - start;
        assert!(took < AT_ONCE, "it took {took:?}");
    }
    let notifiers =
        "SELECT count(DISTINCT datid) FROM pg_stat_activity WHERE backend_type = 'postern notifier'";
    assert_eq!(admin.query_one(notifiers, &[]).await.expect("an admin can look").get::<_, i64>(0), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_told_to_end_answers_who_waits_and_finishes_what_is_under_way() {
    let world = World::start().await;
    let payer = world.person("payer", 0).await;
    let mut watched = Watched::start(&world).await;
    let mut polls = Vec::new();
    for _ in 0..4 {
        let mailbox = Mailbox::create(&payer, QueueKind::Contact).await;
        polls.push((watched.wait(&payer, &mailbox).await, mailbox));
    }
    // Under way: it spent its token and waits to be done.
    let admin = world.cluster.admin().await;
    admin.batch_execute("BEGIN; LOCK TABLE ds.reservations IN SHARE MODE").await.expect("it can be locked");
    let request = paid(&payer, postern_client::Request::post("/ds/group-ids")).await;
    let under_way = tokio::spawn({
        let way = watched.way.clone();
        async move { way.send_once(&request).await }
    });
    let observer = world.cluster.admin().await;
    eventually("it is under way", async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'postern_server' AND wait_event_type = 'Lock'";
        (observer.query_one(waiting, &[]).await.expect("an admin can look").get::<_, i64>(0) == 1).then_some(())
    })
    .await;

    let start = Instant::now();
    watched.server.signal(Signal::SIGTERM);
    for (poll, mut mailbox) in polls {
        let (answer, at) = poll.answer().await;
        assert!(mailbox.open(&answer).is_empty());
        assert!(at - start < AT_ONCE, "it took {:?}", at - start);
    }
    assert!(!under_way.is_finished());
    admin.batch_execute("COMMIT").await.expect("nothing was changed");
    assert!(under_way.await.expect("no panic").is_ok(), "what was under way is answered");
    assert!(watched.server.ended().await.success());
    assert!(start.elapsed() < 2 * AT_ONCE, "it took {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notifier_that_died_is_replaced_by_the_next_message() {
    let world = World::start().await;
    let payer = world.person("payer", 0).await;
    let watched = Watched::start(&world).await;
    let mut mailbox = Mailbox::create(&payer, QueueKind::Contact).await;
    let admin = world.cluster.admin().await;
    let notifier = async || -> Option<i32> {
        admin
            .query_one("SELECT worker_pid FROM postern.wakeups()", &[])
            .await
            .expect("an admin can look")
            .get(0)
    };
    put(&watched.way, &payer, &mailbox, "the first starts one").await;
    let request = paid(&payer, mailbox.dequeue(WAIT)).await;
    mailbox.open(&watched.way.send_once(&request).await.expect("it is there"));
    for round in 0..3 {
        let before = eventually("there is a notifier", &notifier).await;
        let poll = watched.wait(&payer, &mailbox).await;
        admin.execute("SELECT pg_terminate_backend($1)", &[&before]).await.expect("an admin can");
        eventually("it is gone", async || (notifier().await != Some(before)).then_some(())).await;
        let text = format!("round {round}");
        let start = put(&world.ways()[0], &payer, &mailbox, &text).await;
        let took = poll.finds(&mut mailbox, &text).await - start;
        assert!(took < AT_ONCE, "it took {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_was_cut_off_is_back_soon_and_missed_nothing() {
    let world = World::start().await;
    let payer = world.person("payer", 0).await;
    let watched = Watched::start(&world).await;
    let mut mailbox = Mailbox::create(&payer, QueueKind::Contact).await;
    let admin = world.cluster.admin().await;
    for round in 0..3 {
        let poll = watched.wait(&payer, &mailbox).await;
        let listeners = "SELECT pid FROM pg_stat_activity
                          WHERE usename = 'postern_server' AND query LIKE '%postern.wake_secret%'";
        let cut = admin
            .query(&format!("SELECT pg_terminate_backend(pid) FROM ({listeners}) listeners"), &[])
            .await
            .expect("an admin can");
        assert!(cut.len() >= 3, "all three servers' listeners, not {}", cut.len());
        // While nobody listens.
        let text = format!("round {round}");
        let start = put(&world.ways()[0], &payer, &mailbox, &text).await;
        let took = poll.finds(&mut mailbox, &text).await - start;
        assert!(took < 2 * AT_ONCE, "it took {took:?}");
        eventually("they listen again", async || {
            (admin.query(listeners, &[]).await.expect("an admin can look").len() == 3).then_some(())
        })
        .await;
    }
}
