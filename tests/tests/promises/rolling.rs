//! A release takes over from the one before while everybody talks (OPS-6): the database becomes the later one's under
//! servers of both, no request fails, and what was accepted arrives. The releases are made up, on top of this one.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nix::sys::signal::Signal;
use postern_client::Http;
use postern_protocol::qs::QueueKind;
use postern_tests::next;
use postern_tests_kit::{
    Chance, Cluster, HOME, PATIENCE, PostgresRelay, Server, World, command, connect_to, depositing,
    eventually,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    cast::Cast,
    load::Load,
    world::{client_ways, two_servers_and_tokens},
};

/// Attempts to hand something in while nothing is upgraded, and after it.
const SOME: usize = 60;
/// Time for which somebody goes on to read the hot tables once a migration waits for them. If it waited until it has their
/// locks, it would keep requests waiting for as long.
const READS_FOR: Duration = Duration::from_secs(4);
/// The tables that every message needs, as CONTRIBUTING.md names them.
const HOT_TABLES: [&str; 5] = ["qs.queues", "qs.messages", "ds.groups", "aas.spent", "auth.users"];
/// Time for which a migration is in the way of requests at most, by [`Waits`]: it waits for a lock for a third of a second, and
/// holds it for milliseconds.
const HOT_TABLES_ARE_CLOSED_FOR: Duration = Duration::from_secs(1);
/// Pause between two looks at who waits.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Messages that wait in a mailbox through all migrations.
const UNREAD: usize = 5;
/// Far longer than a request takes on a busy machine, and shorter than the patience of a client.
const PROMPT: Duration = Duration::from_secs(20);

/// Six people in three groups that overlap.
const GROUPS: [&[usize]; 3] = [&[0, 1, 2, 3, 4, 5], &[1, 3, 5], &[4, 2, 0, 1]];

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_two_releases_serve_everybody_through_migrations_and_nothing_is_lost() {
    let chance = Chance::new();
    let mut world = two_servers_and_tokens().await;
    let mut mailbox = world.mailbox(QueueKind::Contact).await;
    let address = world.address(&mailbox).await;
    for _ in 0..UNREAD {
        world.pay(&depositing(address, b"for the next release")).await.assert_ok("a deposit");
    }
    let cast = Arc::new(Cast::assemble(&world, 6, &GROUPS).await);
    world.cluster.offer_next_extension().await;
    let relay = PostgresRelay::translating(&world.cluster, next::translate);
    let (this, mut logs) = (env!("CARGO_PKG_VERSION"), String::new());

    // The database becomes the next release's, under servers of this one, and behind somebody who reads as a backup does.
    for table in HOT_TABLES {
        assert!(world.count(table).await > 0, "{table} has rows");
    }
    let waits = talk(&cast, client_ways(&world), &chance, async |load| {
        let reader = read_until_a_migration_waits(&world.cluster).await;
        let waits = Waits::watch(&world.cluster);
        let report = migrate_in_the_end(&world.cluster, "next").await;
        assert!(report.contains("functions updated"), "{report}");
        reader.await.expect("the reader is done");
        load.attempts(SOME).await;
        waits.longest().await
    })
    .await;
    assert!(waits > Duration::ZERO, "requests met the migration's locks");
    assert!(waits < HOT_TABLES_ARE_CLOSED_FOR, "requests waited for {waits:?} behind the migration");
    let applied = "SELECT string_agg(format('V%s__%s', version, name), ', ' ORDER BY version)
                     FROM public.refinery_schema_history WHERE version >= 1000";
    let expected: Vec<&str> = next::MIGRATIONS.iter().map(|(name, _)| *name).collect();
    assert_eq!(world.value::<String>(applied).await, expected.join(", "));
    // Rows of before have the columns, and so have those that servers of this release write.
    let unread = i64::try_from(UNREAD).expect("it is small");
    assert!(world.count("qs.messages WHERE weight = 1").await >= unread);
    for rows in
        ["qs.messages WHERE weight <> 1", "aas.spent WHERE rate <> 1", "auth.users WHERE language <> 'en'"]
    {
        assert_eq!(world.count(rows).await, 0, "{rows}");
    }

    // One server is replaced: both releases serve everybody, on one database.
    logs += &replace(&mut world, 1, "next", &relay).await;
    talk(&cast, client_ways(&world), &chance, async |load| load.attempts(3 * SOME).await).await;
    let reads = "SELECT sum(reads)::bigint FROM qs.queues";
    assert!(world.value::<i64>(reads).await > 0, "the later release calls what is new");
    let greeted = "SELECT count(*) FROM ds.groups WHERE greeting = 'again from the next version'";
    assert!(world.value::<i64>(greeted).await > 0, "here, too");

    // The release after the next keeps nothing of this one.
    let refused = migrate(&world.cluster, next::LATER).await.unwrap_err();
    assert!(refused.contains(&format!("servers of {this} use this database")), "{refused}");
    logs += &replace(&mut world, 0, "next", &relay).await;
    talk(&cast, client_ways(&world), &chance, async |load| {
        migrate(&world.cluster, next::LATER).await.unwrap();
        load.attempts(SOME).await;
    })
    .await;
    let signatures =
        "SELECT count(*) FROM pg_proc WHERE proname IN ('dequeue', 'submit_message', 'load_issuer_keys')";
    assert_eq!(world.value::<i64>(signatures).await, 2, "one of each that there is");

    // It writes groups as the next one reads them.
    logs += &replace(&mut world, 1, next::LATER, &relay).await;
    let format = format!("SELECT count(*) FROM ds.groups WHERE get_byte(tree, 0) = {}", next::NEW_FORMAT);
    talk(&cast, client_ways(&world), &chance, async |load| {
        // Each group has the format of the server that wrote it last.
        let is_written = async || (world.value::<i64>(&format).await > 0).then_some(());
        eventually("groups have the new format", is_written).await;
        load.attempts(3 * SOME).await;
    })
    .await;
    let refused = Server::builder(&world.cluster).try_start().await.err().expect("it does not start");
    assert!(refused.contains("does not keep what this program"), "{refused}");

    cast.tell("through two migrations");
    cast.check(&world).await;
    assert_eq!(world.read(&mut mailbox).await.len(), UNREAD, "what waited is read");
    for trouble in ["panicked", "ERROR", "could not be served"] {
        assert!(!logs.contains(trouble), "a server's log:\n{logs}");
    }
    world.close();
}

/// Everybody talks while something is done; no request may fail, or take long.
async fn talk<T>(
    cast: &Arc<Cast>,
    ways: [Http; 2],
    chance: &Chance,
    meanwhile: impl AsyncFnOnce(&Load) -> T,
) -> T {
    let load = Load::start(cast, ways, chance);
    load.attempts(SOME).await;
    let done = meanwhile(&load).await;
    let (lost, slowest) = (load.lost(), load.slowest());
    load.stop().await;
    assert_eq!(lost, 0, "requests failed");
    assert!(slowest < PROMPT, "a request took {slowest:?}");
    done
}

/// Runs `postern migrate` of a release; returns its output, or as an error.
async fn migrate(cluster: &Cluster, release: &str) -> Result<String, String> {
    let mut migrate = command("postern-next");
    migrate
        .args(["migrate", "--domain", HOME, "--database-admin-url", &cluster.admin_url()])
        .env(next::WHICH, release);
    let output = migrate.output().await.expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// The same, again as long as a session of the load keeps a lock for longer than a migration tries to get it, which is where
/// the machine is slow: it changed nothing then, and says that it is to be run again.
async fn migrate_in_the_end(cluster: &Cluster, release: &str) -> String {
    eventually("the migration comes to its end", async || match migrate(cluster, release).await {
        Ok(report) => Some(report),
        Err(error) => {
            assert!(error.contains("another session holds a lock"), "{error}");
            eprintln!("once more: {error}");
            None
        }
    })
    .await
}

/// Ends a server, and starts one of a later release in its place. Returns the log of the one that ended.
async fn replace(world: &mut World, server: usize, release: &str, relay: &PostgresRelay) -> String {
    let old = &mut world.servers[server];
    let address = old.address();
    old.signal(Signal::SIGTERM);
    assert!(old.ended().await.success(), "a server that is told to end ends well");
    let log = old.log();
    *old = eventually("the server's port is free again", async || {
        let next = Server::of("postern-next", &world.cluster).env(next::WHICH, release).through(relay);
        // It is as patient as the one before.
        let next = next.env("POSTERN_DATABASE_STATEMENT_TIMEOUT_SECONDS", "60");
        next.listen(address).try_start().await.ok()
    })
    .await;
    log
}

/// Reads the hot tables in one transaction, until a migration waits for them, and `READS_FOR` longer.
async fn read_until_a_migration_waits(cluster: &Cluster) -> JoinHandle<()> {
    let (mut session, observer) = (cluster.admin().await, cluster.admin().await);
    let tables = HOT_TABLES.join(", ");
    let (locked, is_locked) = tokio::sync::oneshot::channel();
    let reading = tokio::spawn(async move {
        let reader = session.transaction().await.expect("it can be begun");
        let lock = format!("LOCK TABLE {tables} IN ACCESS SHARE MODE");
        reader.batch_execute(&lock).await.expect("it is free");
        locked.send(()).expect("the test waits");
        let waiting = "SELECT count(*)
                         FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                        WHERE NOT l.granted AND l.relation = ANY ($1::text[]::regclass[])
                          AND a.application_name = 'postern migrate'";
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = observer.query_one(waiting, &[&HOT_TABLES.as_slice()]).await;
            if found.expect("an admin can look").get::<_, i64>(0) > 0 {
                break;
            }
            assert!(Instant::now() < deadline, "no migration waits for the tables");
            sleep(Duration::from_millis(5)).await;
        }
        sleep(READS_FOR).await;
        reader.rollback().await.expect("it can be ended");
    });
    is_locked.await.expect("it locks");
    reading
}

/// The tables for which servers' sessions wait behind a migration, and its transaction: it has the lock, or is the next to get
/// it.
const BEHIND_A_MIGRATION: &str = "
    SELECT DISTINCT l.relation::bigint, m.xact_start::text
      FROM pg_locks l
      JOIN pg_stat_activity a ON a.pid = l.pid AND a.usename = 'postern_server'
      JOIN pg_stat_activity m ON m.pid = ANY (pg_blocking_pids(l.pid)) AND m.application_name = 'postern migrate'
     WHERE NOT l.granted AND l.locktype = 'relation' AND m.xact_start IS NOT NULL";
/// A commit that goes to the disk, as a migration's does.
const COMMITTED: &str = "SELECT pg_logical_emit_message(true, 'a look', 'at who waits')";

/// Watches for how long each transaction of a migration keeps requests waiting for a table, as PostgreSQL sees it.
///
/// A busy machine makes that longer, and says nothing of the migration. So each look does what a migration does with a lock:
/// some statements, and a commit; and a look that took more than twice its pause counts as twice. If all wait for the disk or
/// for a processor, the looks do as well. A migration that waited for its locks for longer, or read a large table under one,
/// would be seen by many looks.
struct Waits {
    stop: Arc<AtomicBool>,
    watching: JoinHandle<Duration>,
}

impl Waits {
    fn watch(cluster: &Cluster) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (url, stopped) = (cluster.admin_url(), Arc::clone(&stop));
        let watching = tokio::spawn(async move {
            let mut client = connect_to(&url).await.expect("an admin can look");
            let mut closed: HashMap<(i64, String), Duration> = HashMap::new();
            let mut begun = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                let look = client.transaction().await.expect("it can be begun");
                let behind = look.query(BEHIND_A_MIGRATION, &[]).await.expect("an admin can look");
                look.execute(COMMITTED, &[]).await.expect("an admin may");
                look.commit().await.expect("it can be ended");
                sleep(LOOK_INTERVAL).await;
                let passed = begun.elapsed().min(2 * LOOK_INTERVAL);
                begun = Instant::now();
                for row in behind {
                    *closed.entry((row.get(0), row.get(1))).or_default() += passed;
                }
            }
            closed.into_values().max().unwrap_or_default()
        });
        Self { stop, watching }
    }

    /// The longest of these times.
    async fn longest(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.watching.await.expect("watching does not panic")
    }
}
