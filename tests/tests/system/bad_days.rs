//! Bad days (OPS-9): PostgreSQL, a server or the disk fails, or a clock is wrong. Clients are told so, go on once it is
//! over, and read everything that was accepted, once and in order. `postern status` and metrics tell the operator of each
//! meanwhile (views.rs), and that it is over.
//!
//! Elsewhere: anything killed under load (promises/crash.rs), a database that falls silent (database.rs), a standby that is
//! promoted while people talk (recovery.rs), a server's clock, alone or with its database's (clocks.rs), certificates that are
//! of no use (tls.rs), a year that passes (year.rs).

use std::{
    collections::HashSet,
    fs,
    sync::Mutex,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use postern_client::{Client, Event, Options};
use postern_protocol::{ds::GroupId, problem::ProblemType};
use postern_tests_kit::{
    Ask, Authority, Call, Cluster, DataDir, Front, HOME, MovedClock, PATIENCE, Reply, Server, World,
    befriend, eventually, joined, now, postern, process,
};
use tempfile::TempDir;

use crate::{
    metrics::Scrape,
    own_address,
    views::{View, Views},
};

/// Two people and what one says to the other, whose server may be away.
pub struct Talk {
    alice: Client,
    bob: Client,
    group: GroupId,
    said: Vec<String>,
    heard: Mutex<Vec<String>>,
    /// The problems that they were told of.
    told: Mutex<HashSet<Option<ProblemType>>>,
    _homes: TempDir,
}

impl Talk {
    pub async fn begin(server: &Server) -> Self {
        Self::begin_at(server.url()).await
    }

    /// The same on a way to a server.
    pub async fn begin_at(url: &str) -> Self {
        let homes = tempfile::tempdir().expect("/tmp is writable");
        let options = Options { accept_contacts: true, durable: false, ..Options::default() };
        let register = async |name: &str| {
            let builder = Client::builder(homes.path().join(name)).server(url);
            builder.options(options.clone()).register(name).await.expect("anyone may")
        };
        let (alice, bob) = (register("alice").await, register("bob").await);
        let group = alice.create_group("talk").await.expect("a group can be made").id().clone();
        befriend(&alice, &bob, &group).await;
        joined(&bob, 1).await;
        let (said, heard, told) = (Vec::new(), Mutex::default(), Mutex::default());
        let mut talk = Self { alice, bob, group, said, heard, told, _homes: homes };
        talk.goes_on("hello").await;
        talk
    }

    /// Says something, without a look at what becomes of it.
    pub fn keep(&mut self, text: &str) {
        self.alice.group_with_id(&self.group).keep(text).expect("there is room");
        self.said.push(text.to_owned());
    }

    /// Attempts to send what was said, once; returns whether it is accepted.
    pub async fn is_delivered(&self) -> bool {
        let sent = self.alice.group_with_id(&self.group).deliver().await;
        self.note(sent)
    }

    /// Reads what waits, once, and returns whether that was all.
    pub async fn is_heard(&self) -> bool {
        self.hear(Duration::ZERO).await && *self.heard.lock().unwrap() == self.said
    }

    /// Reads what waits, and waits for it for so long at most; returns whether it can be read.
    async fn hear(&self, wait: Duration) -> bool {
        let read = self.bob.sync(wait).await;
        let texts = read.iter().flatten().filter_map(|event| match event {
            Event::Message { text, .. } => Some(text.clone()),
            _ => None,
        });
        self.heard.lock().unwrap().extend(texts);
        self.note(read.map(drop))
    }

    fn note(&self, result: Result<(), postern_client::Error>) -> bool {
        let Err(error) = result else { return true };
        let is_open = error.is_passing() || error.problem() == Some(ProblemType::SignatureRequired);
        assert!(is_open, "something was lost: {error}");
        self.told.lock().unwrap().insert(error.problem());
        false
    }

    /// Says something, and insists until it is heard; all that was said before is heard before it.
    pub async fn goes_on(&mut self, text: &str) {
        self.keep(text);
        let begun = Instant::now();
        eventually("it is delivered", async || self.is_delivered().await.then_some(())).await;
        eventually("it is heard", async || self.is_heard().await.then_some(())).await;
        eprintln!("{text}: after {:.1} s", begun.elapsed().as_secs_f64());
    }

    /// Takes the problems that they were told of; `None` stands for an answer that did not come.
    pub fn take_told(&self) -> Vec<Option<ProblemType>> {
        std::mem::take(&mut *self.told.lock().unwrap()).into_iter().collect()
    }

    /// Nothing but that the server is away was told.
    pub fn assert_told_unavailable_at_most(&self) {
        let told = self.take_told();
        let is_away =
            |problem: &Option<ProblemType>| matches!(problem, None | Some(ProblemType::Unavailable));
        assert!(told.iter().all(is_away), "{told:?}");
    }
}

/// Nothing failed in a server. One whose clock, or whose database's, is far away, or whose keys end all at once, may say that no
/// key of its own is valid then.
pub fn assert_nothing_failed(server: &Server) {
    let log = server.log();
    let is_fault = |line: &str| line.contains("ERROR") && !line.ends_with("no signing key is valid now");
    assert!(!log.contains("panicked") && !log.lines().any(is_fault), "{log}");
}

async fn readiness(server: &Server) -> Reply {
    let answer = reqwest::get(format!("{}/ready", server.url())).await.expect("the server answers");
    Reply::read(answer).await.expect("it is whole")
}

pub async fn is_ready(server: &Server) -> Option<()> {
    readiness(server).await.status.is_success().then_some(())
}

/// Waits until a server says that it has no database: a look at it holds for a second.
async fn says_that_its_database_is_away(server: &Server) {
    let unready = eventually("the server is not ready", async || {
        let answer = readiness(server).await;
        (!answer.status.is_success()).then_some(answer)
    });
    unready.await.assert_problem("without a database", ProblemType::Unavailable);
}

/// The exit code and text of `postern status` for a server that runs its cluster itself, and is known to show no metrics.
async fn status(server: &Server, dir: &DataDir) -> (Option<i32>, String) {
    let mut command = postern();
    command.args(["status", "--embedded", "--domain", HOME, "--data-dir"]).arg(dir.path());
    command.env("POSTERN_LISTEN", server.address().to_string());
    let output = command.output().await.expect("postern runs");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Waits for another postmaster than one that is gone.
async fn another_postmaster(dir: &DataDir, old: u32) -> u32 {
    eventually("PostgreSQL runs again", async || dir.postmaster().filter(|new| *new != old)).await
}

fn count(log: &str, what: &str) -> usize {
    log.matches(what).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_postgresql_that_is_killed_is_started_again_while_people_talk() {
    let dir = DataDir::migrated().await;
    let server = Server::embedded(&dir).metrics().start().await;
    let views = Views::of_embedded(&server, &dir).await;
    let mut talk = Talk::begin(&server).await;

    // All of it at once, as if the machine had ended it.
    let first = dir.postmaster().expect("it runs");
    dir.kill_postgres();
    let told = readiness(&server).await;
    // It may run again by now.
    if !told.status.is_success() {
        told.assert_problem("without a database", ProblemType::Unavailable);
    }
    talk.goes_on("after the first crash").await;
    let second = another_postmaster(&dir, first).await;

    // The postmaster alone: its sessions notice, and no second postmaster starts while one of them works.
    let admin = dir.admin().await;
    let busy = tokio::spawn(async move { admin.batch_execute("SELECT pg_sleep(600)").await });
    eventually("a session works", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        let row = dir.try_admin().await?.query_one(sql, &[]).await.ok()?;
        (row.get::<_, i64>(0) == 1).then_some(())
    })
    .await;
    let sessions = process::children(second);
    process::signal(&[second], Signal::SIGKILL);
    let third = another_postmaster(&dir, second).await;
    let left: Vec<_> = sessions.iter().filter(|session| process::is_alive(**session)).collect();
    assert!(left.is_empty(), "sessions of the old postmaster beside the new one: {left:?}");
    assert!(busy.await.expect("no panic").is_err());
    talk.goes_on("after the second crash").await;

    // A session: PostgreSQL ends all others by itself, and recovers.
    let session = dir.admin().await;
    let sql = "SELECT pid FROM pg_stat_activity WHERE usename = 'postern_server' LIMIT 1";
    let pid: i32 = session.query_one(sql, &[]).await.unwrap().get(0);
    process::signal(&[u32::try_from(pid).unwrap()], Signal::SIGKILL);
    talk.goes_on("after a session's crash").await;
    assert_eq!(dir.postmaster(), Some(third), "the supervisor left it alone");
    talk.assert_told_unavailable_at_most();

    eventually("it is told that PostgreSQL runs again", async || {
        (count(&server.log(), "PostgreSQL runs again, after") == 2).then_some(())
    })
    .await;
    let log = server.log();
    assert_eq!(count(&log, "PostgreSQL ended: starting it again"), 2, "{log}");
    assert!(!log.contains("panicked") && !log.contains("a request failed"), "{log}");
    views.until("all is well after three crashes", View::is_well).await;

    // It is killed whenever it runs again, until everybody has seen that it is away: one that ends soon after its start has a
    // pause before the next one.
    let begun = Instant::now();
    loop {
        dir.kill_postgres();
        talk.keep("said while it is away");
        let (view, is_accepted) = tokio::join!(views.look(), talk.is_delivered());
        if !is_accepted && view.is_without_database() {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "nobody sees that it is away: {}", view.status);
    }
    let told = talk.take_told();
    assert!(told.contains(&Some(ProblemType::Unavailable)), "{told:?}");
    talk.goes_on("after the last crash").await;
    talk.assert_told_unavailable_at_most();
    views.until("all is well again", View::is_well).await;
    assert!(!server.log().contains("panicked"), "{}", server.log());
    assert!(server.terminate().await.success());
    assert_eq!(dir.postmaster(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_postgresql_that_does_not_answer_is_ended_and_started_again() {
    let dir = DataDir::migrated().await;
    let server = Server::embedded(&dir).metrics().start().await;
    let views = Views::of_embedded(&server, &dir).await;
    let mut talk = Talk::begin(&server).await;
    views.until("all is well", View::is_well).await;
    let (mut admin, first) = (dir.admin().await, dir.postmaster().expect("it runs"));
    let begun = Instant::now();
    process::signal(&[first], Signal::SIGSTOP);
    // Sessions that are there go on without it.
    talk.goes_on("beside a postmaster that hangs").await;

    // Once they end there are no others.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postern_server'";
    let mut hanging = first;
    loop {
        let _ = admin.batch_execute(end).await;
        talk.keep("said while it takes no session");
        let mut is_seen = false;
        while !is_seen && dir.postmaster() == Some(hanging) {
            let (view, is_accepted) = tokio::join!(views.look(), talk.is_delivered());
            is_seen = !is_accepted && view.is_without_database();
            assert!(is_seen || begun.elapsed() < 2 * PATIENCE, "nobody sees that it hangs: {}", view.status);
        }
        if is_seen {
            break;
        }
        // It was ended before everybody had looked: the next one hangs, too.
        (admin, hanging) = (dir.admin().await, dir.postmaster().expect("it runs"));
        process::signal(&[hanging], Signal::SIGSTOP);
    }
    while dir.postmaster() == Some(first) {
        assert!(begun.elapsed() < Duration::from_secs(150), "it still hangs");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(begun.elapsed() > Duration::from_secs(15), "a busy one gets more time: {:?}", begun.elapsed());
    another_postmaster(&dir, first).await;
    talk.goes_on("after it").await;
    talk.assert_told_unavailable_at_most();
    views.until("all is well again", View::is_well).await;
    eventually("it is told that PostgreSQL runs again", async || {
        server.log().contains("PostgreSQL runs again").then_some(())
    })
    .await;
    let log = server.log();
    assert!(log.contains("PostgreSQL has not answered for 30 seconds: ending it"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_postgresql_that_does_not_start_is_tried_again_until_it_does() {
    let dir = DataDir::migrated().await;
    let server = Server::embedded(&dir).metrics().start().await;
    let views = Views::of_embedded(&server, &dir).await;
    let mut talk = Talk::begin(&server).await;
    let settings = dir.cluster().join("postgresql.auto.conf");
    let good = fs::read_to_string(&settings).unwrap();
    let spoil = || fs::write(&settings, "shared_buffers = 'much'\n").unwrap();
    spoil();
    dir.kill_postgres();
    eventually("the log says so", async || {
        let log = server.log();
        (log.contains("attempt 2: PostgreSQL does not start") && log.contains("shared_buffers")).then_some(())
    })
    .await;
    says_that_its_database_is_away(&server).await;
    views.until("its database is away", View::is_without_database).await;
    // Without metrics its port is all that tells of it.
    let (code, text) = status(&server, &dir).await;
    assert!(code == Some(2) && text.contains("problem  database: "), "{text}");
    assert!(text.contains("ok       server: it listens"), "{text}");
    talk.keep("said while it is away");
    assert!(!talk.is_delivered().await);
    fs::write(&settings, good).unwrap();
    talk.goes_on("after it").await;
    assert_eq!(talk.take_told(), [Some(ProblemType::Unavailable)]);
    views.until("all is well again", View::is_well).await;

    // A server that is told to stop does, in whatever state its database is.
    spoil();
    dir.kill_postgres();
    eventually("it is tried again", async || {
        (count(&server.log(), "PostgreSQL ended: starting it again") == 2).then_some(())
    })
    .await;
    assert!(server.terminate().await.success());
    assert_eq!(dir.postmaster(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_with_its_database_or_without_it_loses_nothing() {
    let dir = DataDir::migrated().await;
    // Its addresses are its own: no other program listens there once it is gone.
    let metrics = own_address().to_string();
    let builder = Server::embedded(&dir).listen(own_address()).env("POSTERN_METRICS_LISTEN", &metrics);
    let mut server = builder.start().await;
    let address = server.address();
    let views = Views::of_embedded(&server, &dir).await;
    let mut talk = Talk::begin(&server).await;
    views.until("all is well", View::is_well).await;
    for with_database in [false, true] {
        server.kill().await;
        if with_database {
            dir.kill_postgres();
        }
        talk.assert_told_unavailable_at_most();
        talk.keep("said to nobody");
        assert!(!talk.is_delivered().await);
        assert_eq!(talk.take_told(), [None], "there is no answer");
        // A database of which the server alone is gone is looked at as ever.
        let of_database = match with_database {
            true => "problem  database: the private cluster in ",
            false => "ok       durability: what was accepted is on disk",
        };
        let is_seen = |view: &View| view.is_without_server() && view.status.contains(of_database);
        views.until("the server is gone", is_seen).await;
        let builder = Server::embedded(&dir).listen(address).env("POSTERN_METRICS_LISTEN", views.metrics());
        server = builder.start().await;
        talk.goes_on("to the next one").await;
        views.until("all is well again", View::is_well).await;
    }
    assert!(server.terminate().await.success());
}

mod as_root {
    use super::*;
    use crate::expect_root;

    /// A disk that is full first refuses new pages, then the write-ahead log, which ends PostgreSQL; and it recovers only once
    /// there is room.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_full_disk_refuses_what_it_cannot_keep_and_loses_nothing() {
        expect_root("make a small disk");
        let dir = DataDir::on_a_disk_of(200).await;
        let server = Server::embedded(&dir).metrics().start().await;
        let views = Views::of_embedded(&server, &dir).await;
        let mut talk = Talk::begin(&server).await;
        let admin = dir.admin().await;
        // The log has a file of its own that is nearly empty.
        for sql in ["SELECT pg_switch_wal()", "CHECKPOINT"] {
            admin.batch_execute(sql).await.unwrap();
        }

        dir.disk().fill(0);
        // Tables have free places, in which some messages find room.
        let mut number = 0;
        while number == 0 || talk.is_delivered().await {
            number += 1;
            assert!(number < 500, "the disk is not full");
            talk.keep(&format!("{number} {}", "x".repeat(8000)));
        }
        assert_eq!(talk.take_told(), [Some(ProblemType::Unavailable)]);
        let log = server.log();
        assert!(log.contains("PostgreSQL error 53100"), "{log}");
        assert!(!log.contains("a request failed"), "{log}");
        let refused = |scrape: &Scrape| scrape.sum("postern_requests_total", &["outcome=\"unavailable\""]);
        let is_seen =
            |view: &View| view.has_little_room() && view.scrape.as_ref().is_some_and(|it| refused(it) >= 1.0);
        views.until("the disk is full, and requests are refused for it", is_seen).await;
        let (_, checked) = views.said("check").await;
        assert!(checked.contains("warning  room: "), "{checked}");

        // PostgreSQL ends once its log needs another file, and cannot recover without one. New sessions do not even start.
        let first = dir.postmaster().expect("it runs");
        let next_file = "SELECT pg_logical_emit_message(false, 'bad day', 'x'); SELECT pg_switch_wal()";
        for _ in 0..20 {
            if admin.batch_execute(next_file).await.is_err() {
                break;
            }
        }
        eventually("the supervisor says what is wrong", async || {
            let log = server.log();
            (log.contains("the disk of") && log.contains("is full")).then_some(())
        })
        .await;
        says_that_its_database_is_away(&server).await;
        let is_seen = |view: &View| view.is_without_database() && view.has_little_room();
        let view = views.until("its database is away, and why", is_seen).await;
        assert!(view.status.contains("a full disk stops PostgreSQL"), "{}", view.status);
        dir.disk().make_room();
        another_postmaster(&dir, first).await;
        eventually("the server is ready again", async || is_ready(&server).await).await;
        talk.goes_on("there is room again").await;
        talk.assert_told_unavailable_at_most();
        views.until("all is well again", View::is_well).await;
    }
}

/// As a timer renews it at night.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_renewed_while_people_talk_costs_them_nothing() {
    let cluster = Cluster::start().await;
    let authority = Authority::new();
    let names = [HOME, "127.0.0.1"];
    let files = authority.certify_for_days(&names, 5);
    let server = Server::builder(&cluster).tls(&files).metrics().start().await;
    let front = Front::to(server.address(), &authority.pem());
    let mut talk = Talk::begin_at(&front.url()).await;
    let views = Views::of(&server, &cluster.server_url())
        .await
        .with("POSTERN_FEDERATION_TRUSTED_ROOTS", authority.file())
        .with("POSTERN_TLS_CERTIFICATE", &files.certificate)
        .with("POSTERN_TLS_KEY", &files.key);
    let end = async || {
        let scrape = Scrape::of(&server).await;
        scrape.value("postern_certificate_end_timestamp_seconds{of=\"listener\"}")
    };
    let first = end().await;
    let ends = "warning  certificate: the one for home.example ends in 4 days";
    views.until(ends, |view| view.status.contains(ends)).await;

    talk.assert_told_unavailable_at_most();
    authority.certify_for_days(&names, 90).replace(&files);
    let begun = Instant::now();
    let mut number = 0;
    while end().await == first {
        assert!(begun.elapsed() < PATIENCE, "it is not taken over");
        number += 1;
        talk.goes_on(&format!("{number}: said meanwhile")).await;
    }
    talk.goes_on("said under the new one").await;
    assert_eq!(talk.take_told(), [], "nobody was told of anything");
    let days = (end().await - first) / DAY as f64;
    assert!((84.0..86.0).contains(&days), "{days} days more");
    let valid = "ok       certificate: the one for home.example is valid for 89 days";
    views.until(valid, |view| view.is_well() && view.status.contains(valid)).await;
    // A newcomer is served with it.
    let root = reqwest::Certificate::from_pem(authority.pem().as_bytes()).expect("it is a certificate");
    let newcomer = reqwest::Client::builder().tls_certs_only([root]).build().expect("there is TLS");
    let answer = newcomer.get(format!("{}/health", server.url())).send().await.expect("it is trusted");
    assert!(answer.status().is_success());
}

/// As an administrator restarts it, or a package's upgrade does.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_restarted_in_order_costs_a_moment() {
    let builder = World::builder().servers(1).setting("POSTERN_METRICS_LISTEN", "127.0.0.1:0");
    let mut world = builder.start().await;
    let views = Views::of(world.server(), &world.cluster.server_url()).await;
    let mut talk = Talk::begin(world.server()).await;
    for round in 0..3 {
        talk.keep(&format!("said before restart {round}"));
        let waiting = talk.hear(Duration::from_secs(2));
        tokio::join!(waiting, talk.is_delivered(), world.cluster.restart());
        talk.goes_on(&format!("said after restart {round}")).await;
    }
    talk.assert_told_unavailable_at_most();
    views.until("all is well after three restarts", View::is_well).await;
    assert_nothing_failed(world.server());

    // One that takes its time.
    world.cluster.stop().await;
    views.until("the database is away", View::is_without_database).await;
    talk.keep("said while it is away");
    assert!(!talk.is_delivered().await);
    assert_eq!(talk.take_told(), [Some(ProblemType::Unavailable)]);
    world.cluster.restart().await;
    talk.goes_on("said once it runs again").await;
    talk.assert_told_unavailable_at_most();
    views.until("all is well again", View::is_well).await;
    assert!(!world.server().log().contains("panicked"), "{}", world.server().log());
}

pub const DAY: i64 = 24 * 60 * 60;

/// Seconds from now to the second day of 1970, where a machine without a battery begins.
pub fn to_1970() -> i64 {
    DAY - i64::try_from(now()).expect("it is a time")
}

/// Does at once what servers do by the clock with what expires.
pub async fn everything_due(world: &World) {
    // Each is a transaction, as servers do them: one that waits for a server's has no lock of another chore's.
    for chore in [
        "aas.clean_up()",
        &format!("aas.forget_signatures({})", now()),
        &format!("auth.clean_up({})", now()),
        "auth.drop_signing_keys()",
        "ds.clean_up()",
        "federation.clean_up()",
        "rendezvous.clean_up()",
    ] {
        world.admin.batch_execute(&format!("SELECT {chore}")).await.expect("a superuser may");
    }
    while world.value::<bool>("SELECT auth.expire()").await {}
    while world.value::<bool>("SELECT federation.expire_deliveries()").await {}
    while world.value::<String>("SELECT aas.drop_retired_key()::text").await == "dropped" {}
    eventually("the sweep is finished", async || {
        let outcome: String = world.value("SELECT qs.keep_up()::text").await;
        (outcome == "done").then_some(())
    })
    .await;
}

/// The verdict that the database has on its clock after a leap of so many seconds, as a figure and as a word; none after a
/// short one, on which it may have any.
pub fn verdict_on(leap: i64) -> Option<(f64, &'static str)> {
    (leap.abs() >= 60 * DAY).then_some(if leap > 0 { (1.0, "warning") } else { (2.0, "problem") })
}

/// Whether the operator sees this verdict on the database's clock.
pub fn has_verdict(view: &View, verdict: Option<(f64, &str)>) -> bool {
    verdict.is_none_or(|(figure, word)| {
        view.figure("postern_health{item=\"clock\"}") == Some(figure)
            && view.status.lines().any(|line| line.starts_with(&format!("{word:<9}clock: ")))
    })
}

/// Waits until the operator sees that the database's clock is so many seconds ahead of the server's, or behind it, and which
/// verdict the database has on it.
async fn assert_clock_is_seen(views: &Views, ahead: i64, verdict: Option<(f64, &str)>) {
    let told = "problem  server clock: the clock here is ";
    let side = if ahead > 0 { " behind the database's" } else { " ahead of the database's" };
    let is_seen = |view: &View| {
        let offset = view.figure("postern_clock_offset_seconds");
        let mut lines = view.status.lines();
        offset.is_some_and(|offset| (offset + ahead as f64).abs() < 60.0)
            && view.figure("postern_health{item=\"server clock\"}") == Some(2.0)
            && lines.any(|line| line.starts_with(told) && line.ends_with(side))
            && has_verdict(view, verdict)
    };
    views.until(&format!("a clock that is {ahead} seconds ahead"), is_seen).await;
}

async fn verdict(world: &World, item: &str) -> String {
    world.value(&format!("SELECT verdict::text FROM operator.health() WHERE item = '{item}'")).await
}

/// PostgreSQL's machine alone has another time. What waits, and what comes meanwhile, is read; no token is good twice; and
/// everything goes on as soon as the clock is right, however far it was away.
#[tokio::test(flavor = "multi_thread")]
async fn a_databases_clock_that_leaps_costs_no_message_and_no_token_is_good_twice() {
    let clock = MovedClock::of_others();
    let world = World::builder().listen(vec![own_address()]).database_by(&clock).tokens(40);
    let mut world = world.setting("POSTERN_METRICS_LISTEN", "127.0.0.1:0").start().await;
    let mut talk = Talk::begin(world.server()).await;
    let spent = world.paid(Call::post("/ds/group-ids")).wire();
    world.send(&spent).await.assert_ok("a token");
    everything_due(&world).await;
    // Days pass between the leaps, so that what a leap dated would expire.
    let mut right = 0;
    for (number, leap) in
        [3600, -3600, DAY, -DAY, 60 * DAY, -60 * DAY, 400 * DAY, to_1970()].into_iter().enumerate()
    {
        eprintln!("{leap} seconds");
        talk.keep(&format!("{number}: said before"));
        eventually("it is delivered", async || talk.is_delivered().await.then_some(())).await;
        clock.move_to(right + leap);
        everything_due(&world).await;
        let far = verdict_on(leap);
        if let Some((_, expected)) = far {
            assert_eq!(verdict(&world, "clock").await, expected, "{leap}");
        }
        // Further ahead than keys are valid nothing is accepted.
        if leap < 400 * DAY {
            talk.keep(&format!("{number}: said meanwhile"));
            eventually("it is delivered", async || talk.is_delivered().await.then_some(())).await;
        }
        // Servers that see this day, and one that starts on it.
        assert!(world.replace(0, Signal::SIGTERM).await.success());
        everything_due(&world).await;
        let views = Views::of(world.server(), &world.cluster.server_url()).await;
        assert_clock_is_seen(&views, right + leap, far).await;
        clock.move_to(right);
        for _ in 0..3 {
            everything_due(&world).await;
            right += DAY;
            clock.move_to(right);
        }
        everything_due(&world).await;
        talk.goes_on(&format!("{number}: said when it is right again")).await;
        let refused = world.send(&spent).await;
        refused.assert_problem("a token that was spent", ProblemType::TokenSpent);
        eventually("keys issue and sign again", async || {
            let directory = world.directory(0).await;
            let issues =
                directory.token_keys.iter().any(|key| key.not_before.is_none_or(|begin| begin <= now()));
            let keys = [verdict(&world, "issuer keys").await, verdict(&world, "signing keys").await];
            (issues && keys.iter().all(|verdict| verdict == "ok")).then_some(())
        })
        .await;
        world.person(&format!("newcomer{number}")).await;
        assert_eq!(verdict(&world, "clock").await, "ok");
        // The server's clock stands on the day on which all of this began.
        assert_clock_is_seen(&views, right, Some((0.0, "ok"))).await;
    }
    talk.assert_told_unavailable_at_most();
    assert_nothing_failed(world.server());
}

/// PostgreSQL's machine alone has another time for a moment. Who recorded a request that spends no token sends it again in
/// vain: one that was used before the leap, and one that was used meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_databases_clock_that_leaps_makes_no_signature_good_again() {
    let clock = MovedClock::of_others();
    let world = World::builder().database_by(&clock).tokens(10).start().await;
    let user = world.user("alice").await;
    let used = async |when: &str| {
        let wire = Ask::batch(world.token_key(), 10).call(&user.device.key).wire();
        world.send(&wire).await.assert_ok(when);
        wire
    };
    // More often than spans of signatures follow each other.
    let forget = async || {
        for _ in 0..4 {
            let now = i64::try_from(now()).expect("it is a time");
            let sql = "SELECT aas.forget_signatures($1)";
            world.admin.execute(sql, &[&now]).await.expect("a superuser may");
        }
    };
    for leap in [1200, -1200, 3600, -3600, DAY, -DAY] {
        let mut recorded = vec![("used before", used("before the leap").await)];
        clock.move_to(leap);
        forget().await;
        recorded.push(("used meanwhile", used("after the leap").await));
        for ahead in [leap, 0] {
            clock.move_to(ahead);
            forget().await;
            for (when, wire) in &recorded {
                let again = world.send(wire).await;
                again.assert_problem(&format!("{when}, {leap} seconds"), ProblemType::SignatureUsed);
            }
        }
    }
    assert_nothing_failed(world.server());
}
