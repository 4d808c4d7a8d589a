//! The commands of docs/operate/back-up.md for archived WAL and standbys, run as they stand there (OPS-5, AAS-4), and the
//! page's table of what is yesterday's after a restore.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::unistd::{Uid, User};
use postern_client::Event;
use postern_protocol::problem::ProblemType;
use postern_tests_kit::{
    Call, Cluster, DataDir, HOME, PATIENCE, Server, World, binary, connect_to, eventually, in_tree, postern,
    program,
};
use tokio::process::Command;
use tokio_postgres::Client;

use crate::{bad_days::Talk, own_address, views::Views};

const PAGE: &str = "docs/operate/back-up.md";

fn page() -> String {
    fs::read_to_string(in_tree(PAGE)).expect("the page is there")
}

/// The page's commands, each a block.
fn commands(page: &str) -> Vec<&str> {
    page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

/// The page's command that contains a text. It is the only one.
fn command(text: &str) -> String {
    let page = page();
    let found: Vec<&str> = commands(&page).into_iter().filter(|block| block.contains(text)).collect();
    let [command] = found[..] else { panic!("{text:?} is in {} commands of {PAGE}", found.len()) };
    command.to_owned()
}

/// A place for PostgreSQL's user, with the variables that the page's commands take.
struct Places {
    /// PostgreSQL in its `cluster` ends with it.
    root: DataDir,
    variables: Vec<(&'static str, String)>,
}

impl Places {
    fn beside(cluster: &Cluster) -> Self {
        Self::of(cluster.data_dir(), cluster.socket_dir())
    }

    /// With the programs of this private cluster.
    fn of(data_dir: &Path, socket_dir: &Path) -> Self {
        let root = DataDir::fresh();
        let variables = vec![
            ("PGHOST", socket_dir.display().to_string()),
            ("PGUSER", "postern_admin".to_owned()),
            ("PGDATABASE", "postern".to_owned()),
            ("PATH", path_to_programs(data_dir)),
            // As long as everything else here is waited for, in seconds.
            ("PGCTLTIMEOUT", PATIENCE.as_secs().to_string()),
            ("SOCKETS", root.path().join("s").display().to_string()),
        ];
        let places = Self { root, variables };
        for place in ["", "s", "wal"] {
            fs::create_dir(places.at(place)).unwrap();
            fs::set_permissions(places.at(place), fs::Permissions::from_mode(0o777)).unwrap();
        }
        places
    }

    fn set(&mut self, name: &'static str, value: impl ToString) {
        self.variables.push((name, value.to_string()));
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A program as PostgreSQL's user.
    fn program(&self, name: &str) -> Command {
        let mut program = Command::new(if Uid::effective().is_root() { "/usr/sbin/runuser" } else { name });
        if Uid::effective().is_root() {
            program.args(["-u", "postgres", "--", name]);
        }
        program.env_clear().envs(self.variables.iter().cloned()).current_dir("/");
        program
    }

    /// Runs a command of the page.
    async fn run(&self, text: &str) -> String {
        self.run_lines(text, |_| true).await
    }

    /// Runs those lines of a command of the page that somebody did not forget.
    async fn run_lines(&self, text: &str, is_run: impl Fn(&str) -> bool) -> String {
        let command = command(text);
        let lines: Vec<&str> = command.lines().filter(|line| is_run(line)).collect();
        assert!(!lines.is_empty(), "nothing is left of {command}");
        let script = format!("umask 077\n{}\n", lines.join("\n"));
        let output = self.program("bash").args(["-euc", &script]).output().await.expect("bash runs");
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}: {said}");
        said
    }

    /// Runs `pg_ctl` on the cluster.
    async fn pg_ctl(&self, arguments: &[&str]) {
        let mut pg_ctl = self.program("pg_ctl");
        pg_ctl.args(arguments).args(["--silent", "--wait", "--pgdata"]).arg(self.at("cluster"));
        assert!(pg_ctl.status().await.expect("it runs").success(), "pg_ctl {arguments:?}");
    }

    /// The URL of the cluster's database, for a role.
    fn url(&self, user: &str) -> String {
        format!("host={} user={user} dbname=postern", self.at("s").display())
    }

    /// Starts the cluster as usual.
    async fn start(&self) {
        let sockets = format!("-k {}", self.at("s").display());
        let mut start = self.program("pg_ctl");
        start.args(["start", "--silent", "--wait", "--options", &sockets, "--log"]).arg(self.at("wal/log"));
        assert!(start.arg("--pgdata").arg(self.at("cluster")).status().await.expect("it runs").success());
    }
}

/// The programs of a private cluster, before those of the system.
fn path_to_programs(data_dir: &Path) -> String {
    let system = program("psql").parent().expect("it is in a directory").to_owned();
    let private = data_dir.join("installation").join(system.strip_prefix("/").unwrap());
    format!("{}:{}:/usr/bin:/bin", private.display(), system.display())
}

async fn connect(socket_dir: &Path, user: &str) -> Client {
    let url = format!("host={} user={user} dbname=postern", socket_dir.display());
    connect_to(&url).await.expect("it takes connections")
}

/// The user who runs the page's commands: [`Places::program`].
fn owner() -> User {
    let own = Uid::effective();
    let found = if own.is_root() { User::from_name("postgres") } else { User::from_uid(own) };
    found.expect("users can be looked up").expect("there is one")
}

/// Gives everything there to the user who runs the page's commands.
fn give_to_owner(path: &Path) {
    let owner = owner();
    let given = std::process::Command::new("chown").args(["-R", &owner.name]).arg(path).status();
    assert!(given.expect("chown runs").success(), "{} becomes {}'s", path.display(), owner.name);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_made_verified_and_restored_by_the_pages_own_commands() {
    let dir = DataDir::migrated().await;
    give_to_owner(dir.path());
    let server = Server::embedded(&dir).listen(own_address()).start().await;
    let address = server.address();
    let mut talk = Talk::begin(&server).await;

    let mut places = Places::of(dir.path(), &dir.path().join("run"));
    let (config, key, backups) = (places.at("postern.toml"), places.at("master.key"), places.at("backups"));
    let text = format!("domain = '{HOME}'\nembedded = true\ndata_dir = '{}'\n", dir.path().display());
    fs::write(&config, text).unwrap();
    fs::copy(dir.path().join("master.key"), &key).unwrap();
    fs::create_dir(&backups).unwrap();
    for path in [&config, &key, &backups] {
        give_to_owner(path);
    }
    let programs = binary("postern").parent().expect("it is in a directory").to_owned();
    places.set("PATH", format!("{}:{}", programs.display(), path_to_programs(dir.path())));
    places.set("CONFIG", config.display());
    places.set("BACKUPS", backups.display());
    let said = places.run("postern backup \"$BACKUPS").await;
    assert!(said.contains("verified"), "{said}");
    let said = places.run("--verify \"$BACKUPS").await;
    assert!(said.contains("is whole"), "{said}");

    assert!(server.terminate().await.success());
    fs::remove_dir_all(dir.cluster()).unwrap();
    let new = places.at("new");
    places.set("NEW", new.display());
    places.set("KEY", key.display());
    places.set("OWNER", owner().name);
    let said = places.run("install -d -o").await;
    assert!(said.contains("restored: "), "{said}");
    let builder = Server::embedded(&dir).env("POSTERN_DATA_DIR", &new.display().to_string());
    let server = builder.listen(address).start().await;
    talk.goes_on("said after the restore").await;
    assert!(server.terminate().await.success());
}

/// A part of each command of the page, by which a test of this file runs it.
const COMMANDS: [&str; 9] = [
    "postern backup \"$BACKUPS",
    "--verify \"$BACKUPS",
    "install -d -o",
    "archive_mode = on",
    "pg_verifybackup",
    "recovery_target_time",
    "--write-recovery-conf",
    "synchronous_standby_names = 'ANY 1",
    "pg_ctl promote",
];

#[test]
fn every_command_of_the_page_is_run_by_a_test() {
    let page = page();
    for block in commands(&page) {
        let known = COMMANDS.iter().filter(|part| block.contains(**part)).count();
        assert_eq!(known, 1, "no test runs this, or it is not clear which does:\n{block}");
    }
    assert_eq!(commands(&page).len(), COMMANDS.len());
    let tests = fs::read_to_string(in_tree("tests/tests/system/recovery.rs")).expect("it is there");
    for part in COMMANDS {
        assert!(tests.contains(&format!(".run({part:?})")), "no test runs {part}");
    }
    for other in ["```bash", "```console", "```shell"] {
        assert!(!page.contains(other), "a block that no test sees: {other}");
    }
}

async fn check(cluster: &Cluster, url: &str) -> String {
    let mut check = postern();
    check
        .arg("check")
        .env("POSTERN_DOMAIN", HOME)
        .env("POSTERN_DATABASE_URL", url)
        .env("POSTERN_MASTER_KEY", cluster.master_key());
    String::from_utf8(check.output().await.expect("it runs").stdout).expect("it is text")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synchronous_standby_that_is_promoted_knows_every_spent_token() {
    let mut world = World::builder().listen(vec![own_address()]).tokens(20).start().await;
    let mut places = Places::beside(&world.cluster);
    let sockets = places.at("s");
    places.set("PRIMARY", world.cluster.socket_dir().display());
    places.set("STANDBY", places.at("cluster").display());
    places.run("--write-recovery-conf").await;
    let url = world.cluster.server_url();
    let asynchronous = eventually("it streams", async || {
        let report = check(&world.cluster, &url).await;
        report.contains("no commit waits for standby1").then_some(report)
    })
    .await;
    assert!(asynchronous.contains("tokens that were spent last are good once more"), "{asynchronous}");
    let shown = places.run("synchronous_standby_names = 'ANY 1").await;
    assert!(shown.contains("standby1"), "{shown}");
    eventually("commits wait for it", async || {
        check(&world.cluster, &url).await.contains("commits wait for standby1").then_some(())
    })
    .await;

    // With a quorum, the standby that is there may be the one that lacks something.
    let quorum = async |names: &str| {
        let alter = format!("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 ({names})'");
        world.admin.batch_execute(&alter).await.unwrap();
        world.admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    };
    quorum("standby1, standby2").await;
    eventually("one that is away is told", async || {
        let report = check(&world.cluster, &url).await;
        report.contains("warning  standbys: commits wait for 1 of 2 standbys, and 1 stream").then_some(())
    })
    .await;
    let of_some = "SELECT waited_for = 'some commits' FROM operator.standbys()";
    assert!(world.value::<bool>(of_some).await);
    quorum("standby1").await;
    eventually("each commit waits for it again", async || {
        check(&world.cluster, &url).await.contains("commits wait for standby1").then_some(())
    })
    .await;

    let spent: Vec<_> = (0..5).map(|_| world.paid(Call::post("/ds/group-ids")).wire()).collect();
    for wire in &spent {
        world.send(wire).await.assert_ok("a token");
    }
    let address = world.server().address();
    world.cluster.kill_postgres();
    for server in world.servers.drain(..) {
        server.kill().await;
    }
    places.run("pg_ctl promote").await;
    let url = format!("host={} user=postern_server dbname=postern", sockets.display());
    let report = check(&world.cluster, &url).await;
    assert!(report.contains("ok       generation: the first"), "{report}");
    world.servers.push(Server::builder(&world.cluster).database(&url).listen(address).start().await);
    for wire in &spent {
        world.send(wire).await.assert_problem("a spent token", ProblemType::TokenSpent);
    }
    world.pay(&Call::post("/ds/group-ids")).await.assert_ok("one that was not");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_goes_back_to_a_moment_and_begins_another_generation() {
    let mut world = World::builder().listen(vec![own_address()]).tokens(20).start().await;
    let mut places = Places::beside(&world.cluster);
    let sockets = places.at("s");
    places.set("ARCHIVE", places.at("wal").display());
    places.set("BASE", places.at("base").display());
    places.set("RECOVERED", places.at("cluster").display());
    // A crash in the middle of archiving left half a segment, which has no name yet: it is made whole.
    let current: String = world.value("SELECT pg_walfile_name(pg_current_wal_lsn())").await;
    let half = places.at("wal").join(format!("{current}.new"));
    fs::write(&half, "half a segment").unwrap();
    fs::set_permissions(&half, fs::Permissions::from_mode(0o666)).unwrap();
    places.run("archive_mode = on").await;
    world.cluster.restart().await;
    world.reconnect().await;
    places.run("pg_verifybackup").await;

    eventually("the server has a database again", async || {
        world.send(&Call::get("/as/registration").wire()).await.status.is_success().then_some(())
    })
    .await;
    world.pay(&Call::post("/ds/group-ids")).await.assert_ok("a token");
    let kept: i64 = world.count("ds.reservations").await;
    places.set("TARGET", world.value::<String>("SELECT clock_timestamp()::text").await);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let late = world.paid(Call::post("/ds/group-ids")).wire();
    world.send(&late).await.assert_ok("a token");
    assert_eq!(world.count("ds.reservations").await, kept + 1);
    let file: String = world.value("SELECT pg_walfile_name(pg_switch_wal())").await;
    eventually("the WAL is archived", async || places.at("wal").join(&file).exists().then_some(())).await;
    let address = world.server().address();
    for server in world.servers.drain(..) {
        server.kill().await;
    }
    world.cluster.kill_postgres();

    places.run("recovery_target_time").await;
    places.start().await;
    let admin = connect(&sockets, "postern_admin").await;
    let row = admin
        .query_one(
            "SELECT (SELECT count(*) FROM ds.reservations), generation > 0, undecided, current_setting('archive_mode')
               FROM operator.current_generation()",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), kept, "it is that moment");
    assert_eq!((row.get::<_, bool>(1), row.get::<_, &str>(2), row.get::<_, &str>(3)), (true, "no", "off"));
    // Another timeline is noticed until the operator decides.
    admin
        .batch_execute(
            "UPDATE operator.generation SET origin = regexp_replace(origin, '/[0-9A-F]{8}/', '/00000001/')",
        )
        .await
        .unwrap();
    let url = format!("host={} user=postern_server dbname=postern", sockets.display());
    let report = check(&world.cluster, &url).await;
    assert!(
        report.contains("problem  generation: the database was recovered up to an earlier moment"),
        "{report}"
    );
    let refused = Server::builder(&world.cluster).database(&url).try_start().await.err().expect("it ends");
    assert!(
        refused.contains("clients are ahead of it") && refused.contains("begin_generation()"),
        "{refused}"
    );
    admin.batch_execute("SELECT operator.begin_generation()").await.unwrap();
    let server = Server::builder(&world.cluster).database(&url).listen(address).start().await;
    world.servers.push(server);
    world.send(&late).await.assert_problem("a token of before", ProblemType::TokenRequired);

    // A private cluster's server starts PostgreSQL itself, in the new data directory, with the master key in it.
    drop(admin);
    for server in world.servers.drain(..) {
        server.kill().await;
    }
    places.pg_ctl(&["stop"]).await;
    let key = places.at("master.key");
    fs::write(&key, world.cluster.master_key()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    world.servers.push(Server::embedded(&places.root).listen(address).start().await);
    world.send(&late).await.assert_problem("a token of before", ProblemType::TokenRequired);
    let reservations = "SELECT count(*) FROM ds.reservations";
    let found = places.root.admin().await.query_one(reservations, &[]).await.unwrap();
    assert_eq!(found.get::<_, i64>(0), kept, "it is that moment still");
    for server in world.servers.drain(..) {
        assert!(server.terminate().await.success());
    }
}

/// The world's database is archived from now on, as the page says, and has a base backup.
async fn archived(world: &mut World) -> Places {
    let mut places = Places::beside(&world.cluster);
    places.set("ARCHIVE", places.at("wal").display());
    places.set("BASE", places.at("base").display());
    places.set("RECOVERED", places.at("cluster").display());
    places.run("archive_mode = on").await;
    world.cluster.restart().await;
    world.reconnect().await;
    places.run("pg_verifybackup").await;
    eventually("the server has a database again", async || {
        world.send(&Call::get("/as/registration").wire()).await.status.is_success().then_some(())
    })
    .await;
    places
}

/// `postern generation begin`, on a database.
async fn begin_generation(places: &Places) -> String {
    let mut begin = postern();
    begin.args(["generation", "begin"]).env("POSTERN_DOMAIN", HOME);
    let output = begin.env("POSTERN_DATABASE_ADMIN_URL", places.url("postern_admin")).output().await.unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    said
}

/// A recovery to a point in time whose last line was forgotten, and one to the newest WAL: no server deletes what a client
/// that is ahead acknowledges, and once the operator has decided, clients are told.
#[tokio::test(flavor = "multi_thread")]
async fn no_message_is_deleted_unread_where_a_recovery_was_not_told_of() {
    for with_target in [true, false] {
        let mut world = World::builder().listen(vec![own_address()]).tokens(40).start().await;
        let mut places = archived(&mut world).await;
        let (alice, bob, group) = world.friends(["alice", "bob"], "climbing").await;
        let heard = |words: &'static str| move |event: &Event| matches!(event, Event::Message { text, .. } if text == words);
        alice.group_with_id(&group).send("kept").await.unwrap();
        bob.sync_until(PATIENCE, heard("kept")).await.unwrap();
        bob.sync(Duration::ZERO).await.unwrap();
        places.set("TARGET", world.value::<String>("SELECT clock_timestamp()::text").await);
        tokio::time::sleep(Duration::from_millis(50)).await;
        world.pay(&Call::post("/ds/group-ids")).await.assert_ok("something after that moment");
        let file: String = world.value("SELECT pg_walfile_name(pg_switch_wal())").await;
        eventually("the WAL is archived", async || places.at("wal").join(&file).exists().then_some(())).await;
        // The messages that bob reads and acknowledges now are in no archive.
        for number in 0..20 {
            alice.group_with_id(&group).send(&format!("lost {number}")).await.unwrap();
        }
        bob.sync_until(PATIENCE, heard("lost 19")).await.unwrap();
        bob.sync(Duration::ZERO).await.unwrap();
        let address = world.server().address();
        for server in world.servers.drain(..) {
            server.kill().await;
        }
        // It cannot archive what is left, as if its disk were gone.
        world.cluster.kill_postgres();

        places
            .run_lines("recovery_target_time", |line| {
                !line.contains("begin_generation")
                    && (with_target || !line.starts_with("recovery_target_time"))
            })
            .await;
        places.start().await;
        let url = places.url("postern_server");
        let builder = || Server::builder(&world.cluster).database(&url).listen(address);
        let refused = builder().try_start().await.err().expect("nobody has decided");
        assert!(
            refused.contains("clients are ahead of it") && refused.contains("begin_generation()"),
            "{refused}"
        );
        let said = begin_generation(&places).await;
        assert!(said.contains("begins: clients learn of it"), "{said}");
        world.servers.push(builder().start().await);
        // More than bob is ahead by: they have the numbers of those that he acknowledged.
        for number in 0..60 {
            alice.group_with_id(&group).send(&format!("new {number}")).await.unwrap();
        }
        let events = bob.sync_until(PATIENCE, heard("new 59")).await.unwrap();
        let new = |event: &&Event| matches!(event, Event::Message { text, .. } if text.starts_with("new "));
        assert_eq!(events.iter().filter(new).count(), 60, "none is deleted unread: {events:?}");
        assert!(events.iter().any(|event| matches!(event, Event::Restored { .. })), "he is told: {events:?}");
    }
}

/// A standby of the world's database, which streams; without more, no commit waits for it.
async fn with_standby(world: &World) -> Places {
    let mut places = Places::beside(&world.cluster);
    places.set("PRIMARY", world.cluster.socket_dir().display());
    places.set("STANDBY", places.at("cluster").display());
    places.run("--write-recovery-conf").await;
    eventually("it streams", async || {
        (world.count("operator.standbys() WHERE state = 'streaming'").await == 1).then_some(())
    })
    .await;
    places
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asynchronous_standby_that_is_promoted_serves_nobody_before_the_operator_decides() {
    let mut world = World::builder().listen(vec![own_address()]).start().await;
    let places = with_standby(&world).await;
    let address = world.server().address();
    for server in world.servers.drain(..) {
        server.kill().await;
    }
    world.cluster.kill_postgres();
    places.pg_ctl(&["promote"]).await;
    let url = places.url("postern_server");
    let builder = || Server::builder(&world.cluster).database(&url).listen(address);
    let refused = builder().try_start().await.err().expect("nobody has decided");
    assert!(refused.contains("promoted though commits had not waited for it"), "{refused}");
    begin_generation(&places).await;
    world.servers.push(builder().start().await);
    // It is put back while a server runs: that one gets no session any more.
    let admin = connect(&places.at("s"), "postern_admin").await;
    let other = "UPDATE operator.generation SET origin = '1/1'";
    admin.batch_execute(other).await.unwrap();
    let is_ready = async || {
        let answer = reqwest::get(format!("{}/ready", world.server().url())).await.expect("it answers");
        answer.status().is_success()
    };
    eventually("the server works with it no more", async || (!is_ready().await).then_some(())).await;
    admin.batch_execute("SELECT operator.keep_generation()").await.unwrap();
    eventually("it goes on by itself", async || is_ready().await.then_some(())).await;
}

/// The text at a path of a server's listener of metrics.
async fn of_metrics(server: &Server, path: &str) -> String {
    let url = server.metrics_url().await.replace("/metrics", path);
    reqwest::get(url).await.expect("the listener answers").text().await.expect("it is text")
}

/// The server cannot have what people say accepted, for this reason, which everything tells, long before anybody gives up;
/// and no request hangs.
async fn assert_told(server: &Server, talk: &mut Talk, views: &Views, ready: &str, standbys: &str) {
    let begun = Instant::now();
    eventually(ready, async || of_metrics(server, "/ready").await.contains(ready).then_some(())).await;
    assert!(begun.elapsed() < Duration::from_secs(60), "{ready}: after {:?}", begun.elapsed());
    let answer = |path: &str| reqwest::get(format!("{}{path}", server.url()));
    assert_eq!(answer("/ready").await.unwrap().status(), 503);
    assert_eq!(answer("/health").await.unwrap().status(), 204, "it is alive");
    // Until then nothing else was wrong.
    talk.assert_told_unavailable_at_most();
    let begun = Instant::now();
    talk.keep(ready);
    assert!(!talk.is_delivered().await);
    assert_eq!(talk.take_told(), [Some(ProblemType::Unavailable)]);
    assert!(begun.elapsed() < Duration::from_secs(60), "it hung for {:?}", begun.elapsed());
    let told = [format!("problem  server: not ready: {ready}"), format!("problem  standbys: {standbys}")];
    let figures = [("postern_ready", 0.0), ("postern_health{item=\"standbys\"}", 2.0)];
    views
        .until("status and metrics tell of it", |view| {
            told.iter().all(|told| view.status.contains(told))
                && figures.iter().all(|(series, value)| view.figure(series) == Some(*value))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_that_hang_and_a_standby_in_the_primarys_place_are_told_and_people_go_on_after_the_promotion()
{
    let world = World::builder().servers(0).start().await;
    let places = with_standby(&world).await;
    // A name that leads to the one or the other, as an address does that moves.
    let name = places.at("db");
    let lead_to = |sockets: &Path| {
        let _none = fs::remove_file(&name);
        symlink(sockets, &name).expect("it is our directory");
    };
    lead_to(world.cluster.socket_dir());
    let url = format!("host={} user=postern_server dbname=postern", name.display());
    let server = Server::builder(&world.cluster).database(&url).metrics().start().await;
    let views = Views::of(&server, &url).await;
    let mut talk = Talk::begin(&server).await;
    places.run("synchronous_standby_names = 'ANY 1").await;
    eventually("each commit waits, and the database knows it", async || {
        let waits =
            "operator.generation g, operator.standbys() s WHERE g.waited AND s.waited_for = 'each commit'";
        (world.count(waits).await == 1).then_some(())
    })
    .await;
    talk.goes_on("said while each commit waits").await;

    places.pg_ctl(&["stop", "--mode=immediate"]).await;
    let hang = "commits hang: they wait for a synchronous standby that is away";
    assert_told(&server, &mut talk, &views, hang, "commits hang: they wait for 1 more standbys").await;
    // Once that is known requests do not wait for it any more, and leave no sessions that do.
    let begun = Instant::now();
    for _ in 0..5 {
        assert!(!talk.is_delivered().await);
    }
    // Each of the attempts at them, four a time, would wait for five seconds.
    assert!(begun.elapsed() < Duration::from_secs(75), "{:?}", begun.elapsed());
    assert_eq!(talk.take_told(), [Some(ProblemType::Unavailable)]);
    let hung: i64 = world.count("pg_stat_activity WHERE wait_event = 'SyncRep'").await;
    assert!(hung < 30, "{hung} sessions hang");
    places.start().await;
    talk.goes_on("said when it is back").await;

    // The primary's place is the standby's, by mistake.
    lead_to(&places.at("s"));
    world.end_sessions().await;
    let takes_none = "the database is a standby, and takes no changes";
    assert_told(&server, &mut talk, &views, takes_none, "this database is a standby itself").await;
    let refused = Server::builder(&world.cluster).database(&url).try_start().await.err().expect("it ends");
    assert!(refused.contains("is a standby") && refused.contains("name the primary"), "{refused}");

    // It becomes the primary, and has everything: people go on, though nobody is awake to say so.
    world.cluster.kill_postgres();
    places.pg_ctl(&["promote"]).await;
    let admin = connect(&places.at("s"), "postern_admin").await;
    admin.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await.unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    talk.goes_on("said after the promotion").await;
    let told = "problem  generation: the database was recovered or promoted";
    views
        .until(told, |view| {
            view.status.contains("ok       server: it is ready")
                && view.status.contains(told)
                && view.figure("postern_ready") == Some(1.0)
                && view.figure("postern_health{item=\"generation\"}") == Some(2.0)
        })
        .await;
    // The next promotion is another: commits wait for nobody now.
    eventually("servers note that commits wait for nobody", async || {
        let noted = "SELECT NOT waited AND followed = operator.origin() FROM operator.generation";
        admin.query_one(noted, &[]).await.unwrap().get::<_, Option<bool>>(0).filter(|noted| *noted)
    })
    .await;
    let undecided = async || -> String {
        let undecided = "SELECT undecided FROM operator.current_generation()";
        admin.query_one(undecided, &[]).await.unwrap().get(0)
    };
    assert_eq!(undecided().await, "timeline");
    let as_on_the_next_timeline = "BEGIN; UPDATE operator.generation SET followed = regexp_replace(followed, '/[0-9A-F]{8}/', '/00000001/')";
    admin.batch_execute(as_on_the_next_timeline).await.unwrap();
    assert_eq!(undecided().await, "recovered");
    admin.batch_execute("ROLLBACK").await.unwrap();
    let log = server.log();
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
}

#[tokio::test]
async fn a_restore_by_the_page_replaces_no_master_key_that_is_there() {
    let places = tempfile::tempdir().unwrap();
    let (new, key) = (places.path().join("new"), places.path().join("key"));
    fs::write(&key, "the copy").unwrap();
    let command = command("postern restore");
    let lines: Vec<&str> = command.lines().filter(|line| !line.contains("postern restore")).collect();
    let install = async || {
        let mut bash = Command::new("bash");
        bash.args(["-euc", &lines.join("\n")]).env("NEW", &new).env("KEY", &key);
        bash.env("OWNER", User::from_uid(Uid::effective()).unwrap().expect("we have a name").name);
        assert!(bash.status().await.expect("bash runs").success());
        fs::read_to_string(new.join("master.key")).expect("there is a key")
    };
    assert_eq!(install().await, "the copy");
    fs::write(new.join("master.key"), "the present one").unwrap();
    assert_eq!(install().await, "the present one");
}

#[tokio::test]
async fn the_page_says_of_every_table_what_a_restore_makes_of_it() {
    let cluster = Cluster::start().await;
    let rows = cluster
        .admin()
        .await
        .query(
            "SELECT c.relnamespace::regnamespace || '.' || c.relname, c.relpersistence = 'u'
               FROM pg_class c
              WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
                AND c.relnamespace::regnamespace::text
                    IN ('auth', 'aas', 'ds', 'qs', 'rendezvous', 'federation', 'operator')",
            &[],
        )
        .await
        .unwrap();
    let page = page();
    let section =
        page.split("## What is yesterday's").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
    let (unlogged, table) = section.split_once("| tables |").expect("there is a table");
    let names = |text: &str| -> BTreeSet<String> {
        let spans = text.split('`').skip(1).step_by(2);
        spans.filter(|span| !span.contains([' ', '(']) && span.contains('.')).map(str::to_owned).collect()
    };
    let first_cells: String = table.lines().filter_map(|line| line.split('|').nth(1)).collect();
    let actual = |is_unlogged: bool| -> BTreeSet<String> {
        rows.iter().filter(|row| row.get::<_, bool>(1) == is_unlogged).map(|row| row.get(0)).collect()
    };
    assert_eq!(names(&first_cells), actual(false));
    assert_eq!(names(unlogged), actual(true));
}
