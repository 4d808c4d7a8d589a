//! A release takes over from the one before while everybody talks (OPS-6): the database becomes the later one's under
//! servers of both, no request fails, and what was accepted arrives. The releases are made up, on top of this one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nix::sys::signal::Signal;
use postern_client::Http;
use postern_tests::next;
use postern_tests_kit::{
    Chance, Cluster, HOME, PATIENCE, PostgresRelay, Server, World, command, connect_to, eventually,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    cast::Cast,
    load::Load,
    world::{client_ways, two_servers},
};

/// Attempts to hand something in while nothing is upgraded, and after it.
const SOME: usize = 60;
/// Time for which somebody goes on to read the hot tables once a migration waits for them. If it waited until it has their
/// locks, it would keep requests waiting for as long.
const READS_FOR: Duration = Duration::from_secs(4);
/// A lock of a migration is never in the way of requests for longer: it waits for a third of a second, and is held for
/// milliseconds where the machine is not busy.
const HOT_TABLES_ARE_LOCKED_FOR: f64 = 3.0;
/// Far longer than a request takes on a busy machine, and shorter than the patience of a client.
const PROMPT: Duration = Duration::from_secs(20);

/// Six people in three groups that overlap.
const GROUPS: [&[usize]; 3] = [&[0, 1, 2, 3, 4, 5], &[1, 3, 5], &[4, 2, 0, 1]];

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_two_releases_serve_everybody_through_migrations_and_nothing_is_lost() {
    let chance = Chance::new();
    let mut world = two_servers().await;
    let cast = Arc::new(Cast::assemble(&world, 6, &GROUPS).await);
    world.cluster.offer_next_extension().await;
    let relay = PostgresRelay::translating(&world.cluster, next::translate);
    let (this, mut logs) = (env!("CARGO_PKG_VERSION"), String::new());

    // The database becomes the next release's, under servers of this one, and behind somebody who reads as a backup does.
    let waits = talk(&cast, client_ways(&world), &chance, async |load| {
        let reader = read_until_a_migration_waits(&world.cluster).await;
        let waits = Waits::watch(&world.cluster);
        let report = migrate(&world.cluster, "next").await.unwrap();
        assert!(report.contains("V1000__count_reads, V1001__greet, V1002__fall_asleep"), "{report}");
        reader.await.expect("the reader is done");
        load.attempts(SOME).await;
        waits.longest().await
    })
    .await;
    assert!(waits > 0.0, "requests met the migration's locks");
    assert!(waits < HOT_TABLES_ARE_LOCKED_FOR, "requests waited for {waits} s behind the migration");

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
    talk(&cast, client_ways(&world), &chance, async |load| load.attempts(3 * SOME).await).await;
    let format = format!("SELECT count(*) FROM ds.groups WHERE get_byte(tree, 0) = {}", next::NEW_FORMAT);
    assert!(world.value::<i64>(&format).await > 0, "groups have the new format");
    let refused = Server::builder(&world.cluster).try_start().await.err().expect("it does not start");
    assert!(refused.contains("does not keep what this program"), "{refused}");

    cast.tell("through two migrations");
    cast.check(&world).await;
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

/// Ends a server, and starts one of a later release in its place. Returns the log of the one that ended.
async fn replace(world: &mut World, server: usize, release: &str, relay: &PostgresRelay) -> String {
    let old = &mut world.servers[server];
    let address = old.address();
    old.signal(Signal::SIGTERM);
    assert!(old.ended().await.success(), "a server that is told to end ends well");
    let log = old.log();
    *old = eventually("the server's port is free again", async || {
        let next = Server::of("postern-next", &world.cluster).env(next::WHICH, release).through(relay);
        next.listen(address).try_start().await.ok()
    })
    .await;
    log
}

/// Reads the hot tables in one transaction, until a migration waits for them, and `READS_FOR` longer.
async fn read_until_a_migration_waits(cluster: &Cluster) -> JoinHandle<()> {
    let (mut session, observer) = (cluster.admin().await, cluster.admin().await);
    let (locked, is_locked) = tokio::sync::oneshot::channel();
    let reading = tokio::spawn(async move {
        let reader = session.transaction().await.expect("it can be begun");
        reader
            .batch_execute("LOCK TABLE qs.queues, ds.groups IN ACCESS SHARE MODE")
            .await
            .expect("it is free");
        locked.send(()).expect("the test waits");
        let waiting = "SELECT count(*)
                         FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                        WHERE NOT l.granted AND l.relation IN ('qs.queues'::regclass, 'ds.groups'::regclass)
                          AND a.application_name = 'postern migrate'";
        let deadline = Instant::now() + PATIENCE;
        while observer.query_one(waiting, &[]).await.expect("an admin can look").get::<_, i64>(0) == 0 {
            assert!(Instant::now() < deadline, "no migration waits for the tables");
            sleep(Duration::from_millis(5)).await;
        }
        sleep(READS_FOR).await;
        reader.rollback().await.expect("it can be ended");
    });
    is_locked.await.expect("it locks");
    reading
}

/// Watches how long servers' sessions wait for tables.
struct Waits {
    stop: Arc<AtomicBool>,
    watching: JoinHandle<f64>,
}

impl Waits {
    fn watch(cluster: &Cluster) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (url, stopped) = (cluster.admin_url(), Arc::clone(&stop));
        let watching = tokio::spawn(async move {
            let client = connect_to(&url).await.expect("an admin can look");
            let sql = "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - l.waitstart)), 0)::float8
                         FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                        WHERE NOT l.granted AND l.locktype = 'relation' AND a.usename = 'postern_server'";
            let mut longest: f64 = 0.0;
            while !stopped.load(Ordering::Relaxed) {
                longest = longest.max(client.query_one(sql, &[]).await.expect("an admin can look").get(0));
                sleep(Duration::from_millis(20)).await;
            }
            longest
        });
        Self { stop, watching }
    }

    /// The longest wait, in seconds.
    async fn longest(self) -> f64 {
        self.stop.store(true, Ordering::Relaxed);
        self.watching.await.expect("watching does not panic")
    }
}
