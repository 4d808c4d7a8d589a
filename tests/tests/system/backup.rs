//! Backup and restore by `postern`, and the clients of a server that was restored: they go on, also where they are ahead of
//! it (OPS-5, QS-12).

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use postern_client::{Client, DeviceState, Error, Event, Options};
use postern_protocol::{ds::GroupId, problem::ProblemType, qs::QueueKind};
use postern_tests_kit::{
    Call, Cluster, DataDir, HOME, KeptOrder, PATIENCE, Server, World, befriend, eventually, in_tree, joined,
    postern, program,
};
use tempfile::TempDir;
use tokio::process::Command;
use tokio_postgres::NoTls;

use crate::bad_days::Talk;

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

pub async fn succeeds(command: &mut Command) -> String {
    let output = command.output().await.expect("it runs");
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

pub async fn fails(command: &mut Command, expected: &str) {
    let output = command.output().await.expect("it runs");
    let said = said(&output);
    assert!(!output.status.success() && said.contains(expected), "{expected:?} in:\n{said}");
}

/// `postern backup` or `restore`, of a directory, on the cluster.
pub fn on(cluster: &Cluster, command: &str, dir: &Path) -> Command {
    let mut postern = postern();
    postern
        .arg(command)
        .arg(dir)
        .env("POSTERN_DOMAIN", HOME)
        .env("POSTERN_DATABASE_ADMIN_URL", cluster.admin_url())
        .env("POSTERN_MASTER_KEY", cluster.master_key());
    postern
}

/// `postern restore` into a private cluster that it makes.
pub fn into(data_dir: &DataDir, dir: &Path, master_key: &str) -> Command {
    let mut postern = postern();
    postern
        .arg("restore")
        .arg(dir)
        .args(["--embedded", "--domain", HOME, "--data-dir"])
        .arg(data_dir.path())
        .env("POSTERN_MASTER_KEY", master_key);
    postern
}

/// Lets this machine's users into all databases of a cluster, as any role.
async fn let_everybody_in(cluster: &Cluster) {
    let rules = cluster.data_dir().join("cluster/pg_hba.conf");
    let text = fs::read_to_string(&rules).unwrap() + "local all all trust\n";
    fs::write(&rules, text).unwrap();
    cluster.reload().await;
}

/// A world whose server is to be restored, and the backup of a moment of it.
struct Lost {
    world: World,
    backups: TempDir,
}

impl Lost {
    async fn of(world: World) -> Self {
        let backups = tempfile::tempdir().unwrap();
        let lost = Self { world, backups };
        let said = succeeds(&mut on(&lost.world.cluster, "backup", &lost.dir())).await;
        assert!(said.contains("verified") && said.contains("the master key is not in it"), "{said}");
        assert_without_key(&lost.dir(), lost.world.cluster.master_key()).await;
        lost
    }

    fn dir(&self) -> std::path::PathBuf {
        self.backups.path().join("today")
    }

    /// Everything is destroyed, and restored elsewhere; the server comes back at its address.
    async fn restored(mut self) -> (World, DataDir) {
        let address = self.world.server().address();
        for server in self.world.servers.drain(..) {
            server.kill().await;
        }
        self.world.cluster.kill_postgres();
        let data_dir = DataDir::fresh();
        let said = succeeds(&mut into(&data_dir, &self.dir(), self.world.cluster.master_key())).await;
        assert!(said.contains("generation ") && said.contains("restored: "), "{said}");
        let server = Server::embedded(&data_dir)
            .env("POSTERN_MASTER_KEY", self.world.cluster.master_key())
            .listen(address);
        self.world.servers.push(server.start().await);
        (self.world, data_dir)
    }
}

/// Asserts that neither the files of a backup nor what the dump in it says hold the master key.
async fn assert_without_key(dir: &Path, key: &str) {
    let mut places = vec![dir.to_owned()];
    let mut contents = Vec::new();
    while let Some(place) = places.pop() {
        match place.is_dir() {
            true => places.extend(fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path())),
            false => contents.push(fs::read(&place).unwrap()),
        }
    }
    assert!(contents.len() > 2, "a manifest, what vouches for it, and the dump");
    // It is compressed, and has bytes in hex.
    let dump = Command::new(program("pg_restore")).arg("--file=-").arg(dir.join("database")).output().await;
    let dump = dump.expect("it runs");
    assert!(dump.status.success() && dump.stdout.len() > 100_000, "all of it is read");
    contents.push(dump.stdout);
    for wanted in [hex::decode(key).unwrap(), key.as_bytes().to_vec(), key.to_uppercase().into_bytes()] {
        let holds = |content: &Vec<u8>| content.windows(wanted.len()).any(|part| part == wanted);
        assert!(!contents.iter().any(holds), "the master key is in the backup");
    }
}

fn patient() -> Options {
    Options { accept_contacts: true, durable: false, return_after: Duration::ZERO, ..Options::default() }
}

async fn person(world: &World, name: &str) -> Client {
    let client = world.person(name).await;
    let directory = client.directory().to_owned();
    drop(client);
    Client::builder(directory).options(patient()).open().unwrap()
}

async fn sync(client: &Client) -> Vec<Event> {
    client.sync(Duration::ZERO).await.unwrap()
}

async fn hears(client: &Client, words: &str) -> Vec<Event> {
    let heard = |event: &Event| matches!(event, Event::Message { text, .. } if text == words);
    let events = client.sync_until(PATIENCE, heard).await.unwrap();
    assert!(events.iter().any(heard), "{} hears {words:?}: {events:?}", client.user());
    events
}

/// Everyone says something, and everyone else hears it.
async fn all_hear_each_other(people: &[&Client], group: &GroupId) {
    for speaker in people {
        let words = format!("{} speaks", speaker.user());
        speaker.group_with_id(group).send(&words).await.unwrap_or_else(|error| panic!("{words}: {error}"));
        for listener in people.iter().filter(|listener| listener.user() != speaker.user()) {
            hears(listener, &words).await;
        }
    }
}

/// The queues of which a client was told that they were restored.
fn restored(events: &[Event]) -> Vec<QueueKind> {
    let kind = |event: &Event| match event {
        Event::Restored { kind } => Some(*kind),
        _ => None,
    };
    events.iter().filter_map(kind).collect()
}

/// The roles of a cluster but superusers, each with what it may, until when, and its memberships.
const ROLES: &str = "
    SELECT format('%s: login %s, inherits %s, makes databases %s, makes roles %s, %s connections, until %s, in %s',
                  r.rolname, r.rolcanlogin, r.rolinherit, r.rolcreatedb, r.rolcreaterole, r.rolconnlimit,
                  coalesce(extract(epoch FROM r.rolvaliduntil)::text, 'never'),
                  (SELECT string_agg(DISTINCT format('%s (admin %s)', g.rolname, m.admin_option), ' ')
                     FROM pg_auth_members m
                     JOIN pg_roles g ON g.oid = m.roleid
                    WHERE m.member = r.oid))
      FROM pg_roles r
     WHERE NOT r.rolsuper AND r.rolname !~ '^pg_'
     ORDER BY r.rolname";

/// The definitions in a database, with its cluster's roles and their privileges and settings; without the spent tokens of each
/// issuer key, which go with the key. Rights and settings come last, because PostgreSQL keeps them in the order in which
/// they were given.
async fn definitions(socket_dir: &Path) -> Vec<String> {
    let dump = succeeds(
        Command::new(program("pg_dump"))
            .args(["--schema-only", "--create", "--exclude-table=aas.spent_*"])
            .args(["--username=postern_admin", "--dbname=postern", "--host"])
            .arg(socket_dir),
    )
    .await;
    let lines = dump.lines().filter(|line| !line.contains("restrict ")).map(str::to_owned);
    let is_given = |line: &String| {
        line.starts_with("GRANT ") || line.starts_with("ALTER ROLE ") || line.starts_with("ALTER DATABASE ")
    };
    let (mut given, mut all): (Vec<_>, Vec<_>) = lines.partition(is_given);
    given.sort();
    all.append(&mut given);
    let url = format!("host={} user=postern_admin dbname=postern", socket_dir.display());
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let roles = client.query(ROLES, &[]).await.unwrap();
    all.extend(roles.iter().map(|row| row.get::<_, String>(0)));
    all
}

/// The KeyPackages that a server would hand out, and the friendships whose they are.
async fn stock(dir: &DataDir) -> BTreeSet<(Vec<u8>, Vec<u8>)> {
    let rows =
        dir.admin().await.query("SELECT friendship_id, sealed FROM qs.key_packages", &[]).await.unwrap();
    let stock: BTreeSet<_> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert!(!stock.is_empty(), "there are some");
    stock
}

/// Ends a session, and waits until the server has ended it, too: a restore finds nobody there.
async fn end(admin: &tokio_postgres::Client, client: tokio_postgres::Client) {
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    drop(client);
    eventually("the session is over", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1";
        (admin.query_one(sql, &[&pid]).await.unwrap().get::<_, i64>(0) == 0).then_some(())
    })
    .await;
}

/// Asserts that the same is defined; a failure shows the first line that differs.
fn assert_same(before: &[String], after: &[String]) {
    let differing = before.iter().zip(after).find(|(before, after)| before != after);
    assert_eq!(differing, None, "roles, rights and settings are the same");
    assert_eq!(before.len(), after.len(), "nothing came or went");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_clients_go_on_at_a_server_that_was_restored_elsewhere() {
    let world = World::builder().start().await;
    let (alice, bob, group) = world.friends(["alice", "bob"], "climbing").await;
    world
        .admin
        .batch_execute("CREATE ROLE \"o'neil\" LOGIN; GRANT postern_operator TO \"o'neil\"")
        .await
        .unwrap();
    alice.group_with_id(&group).send("before the backup").await.unwrap();
    let before = definitions(world.cluster.socket_dir()).await;
    let lost = Lost::of(world).await;
    fails(&mut on(&lost.world.cluster, "backup", &lost.dir()), "exists already").await;
    let (world, data_dir) = lost.restored().await;
    assert_same(&before, &definitions(&data_dir.path().join("run")).await);
    let of_before = stock(&data_dir).await;

    let events = hears(&bob, "before the backup").await;
    assert_eq!(
        restored(&events).len(),
        2,
        "what was there is read, and both queues are restored: {events:?}"
    );
    alice.group_with_id(&group).send("after the restore").await.unwrap();
    let events = hears(&bob, "after the restore").await;
    assert_eq!(restored(&events), [], "told once");
    bob.group_with_id(&group).send("and back").await.unwrap();
    hears(&alice, "and back").await;
    let came_back = |event: &Event| matches!(event, Event::CannotFollow { .. } | Event::Returned { .. });
    assert!(!sync(&bob).await.iter().chain(&events).any(came_back), "nobody was ahead");

    // Some of the KeyPackages of before may have been handed out in the lost time.
    eventually("both have published others", async || {
        sync(&alice).await;
        sync(&bob).await;
        let now = stock(&data_dir).await;
        let owners = |stock: &BTreeSet<(Vec<u8>, Vec<u8>)>| {
            stock.iter().map(|(friendship, _)| friendship.clone()).collect::<BTreeSet<_>>()
        };
        (owners(&now) == owners(&of_before) && now.is_disjoint(&of_before)).then_some(())
    })
    .await;

    let check = ["check", "--embedded", "--domain", HOME, "--data-dir"];
    let key = "POSTERN_MASTER_KEY";
    let report =
        succeeds(postern().args(check).arg(data_dir.path()).env(key, world.cluster.master_key())).await;
    assert!(report.contains("ok       generation: ") && report.contains("since a restore"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_are_ahead_of_a_restored_server_come_back_and_say_what_may_be_missing() {
    let world = World::builder().tokens(10).start().await;
    let (alice, bob) = (person(&world, "alice").await, person(&world, "bob").await);
    let carol = person(&world, "carol").await;
    let climbing = &alice.create_group("climbing").await.unwrap().id().clone();
    let attic = &alice.create_group("attic").await.unwrap().id().clone();
    for friend in [&bob, &carol] {
        befriend(&alice, friend, climbing).await;
        joined(friend, 1).await;
        alice.group_with_id(attic).invite(friend.user()).await.unwrap();
        let added = |event: &Event| matches!(event, Event::Added { group, .. } if group == attic);
        alice.sync_until(PATIENCE, added).await.unwrap();
        joined(friend, 1).await;
    }
    for client in [&alice, &bob, &carol, &alice, &bob, &carol] {
        sync(client).await;
    }
    let lost = Lost::of(world).await;

    // All of this is forgotten: words, commits, a removal, a device, acknowledgements, a spent token. Carol sees nothing of
    // it.
    for client in [&alice, &bob] {
        client.group_with_id(climbing).update().await.unwrap();
        client.group_with_id(climbing).send("forgotten").await.unwrap();
    }
    alice.group_with_id(attic).remove(carol.user()).await.unwrap();
    for client in [&alice, &bob, &alice, &bob] {
        sync(client).await;
    }
    let laptop = lost.world.device(&alice, "laptop").await;
    sync(&laptop).await;
    let spent = lost.world.paid(Call::post("/ds/group-ids")).wire();
    lost.world.send(&spent).await.assert_ok("a token");
    let (world, _data_dir) = lost.restored().await;
    let refused = world.send(&spent).await;
    refused.assert_problem("a token that was spent in the lost time", ProblemType::TokenRequired);

    let mut events = vec![Vec::new(); 3];
    for _ in 0..4 {
        for (client, events) in [&alice, &bob, &carol].into_iter().zip(&mut events) {
            events.extend(sync(client).await);
        }
    }
    for events in &events {
        let mut kinds = restored(events);
        kinds.sort_by_key(|kind| kind.as_str());
        assert_eq!(kinds, [QueueKind::Contact, QueueKind::Group], "each says so once: {events:?}");
    }
    for events in &events[..2] {
        let back = |event: &&Event| matches!(event, Event::Returned { group, .. } if group == climbing);
        assert_eq!(events.iter().filter(back).count(), 1, "those that were ahead came back: {events:?}");
    }
    all_hear_each_other(&[&alice, &bob, &carol], climbing).await;

    // The identity goes on where it was, by the same commits.
    eventually("the laptop is one of alice's devices again", async || {
        let _not_yet = laptop.sync(Duration::ZERO).await;
        sync(&alice).await;
        let devices = alice.devices().await.ok()?;
        (devices.len() == 2 && devices.iter().all(|it| it.state == DeviceState::Confirmed)).then_some(())
    })
    .await;
    let seen = bob.look_up(alice.user()).await.unwrap();
    assert_eq!(seen.clients.len(), 2, "nobody sees another history: {seen:?}");

    // Members that were removed are back, and nobody takes that for granted.
    for (client, events) in [&alice, &bob].into_iter().zip(&events) {
        let strangers = |event: &Event| matches!(event, Event::Strangers { group, .. } if group == attic);
        assert!(events.iter().any(strangers), "a person decides: {events:?}");
        let Err(Error::Strangers(differences)) = client.group_with_id(attic).rejoin().await else {
            panic!("nobody knows why carol is there");
        };
        assert_eq!(differences.strangers.len(), 1, "{differences:?}");
        client.group_with_id(attic).rejoin_accepting(&differences).await.unwrap();
    }
    sync(&alice).await;
    alice.group_with_id(attic).remove(carol.user()).await.unwrap();
    sync(&bob).await;
    alice.group_with_id(attic).send("without carol").await.unwrap();
    hears(&bob, "without carol").await;
    // New people are added by KeyPackages that nobody used.
    let dave = person(&world, "dave").await;
    befriend(&bob, &dave, &bob.create_group("cellar").await.unwrap().id().clone()).await;
    joined(&dave, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_refuses_what_does_not_fit_and_leaves_everything_as_it_was() {
    let cluster = Cluster::start().await;
    drop(Server::start(&cluster).await);
    let places = tempfile::tempdir().unwrap();
    let dir = places.path().join("good");
    succeeds(&mut on(&cluster, "backup", &dir)).await;
    succeeds(postern().args(["backup", "--verify"]).arg(&dir)).await;
    let admin = cluster.admin().await;
    admin.batch_execute("CREATE DATABASE elsewhere").await.unwrap();
    let elsewhere = cluster.admin_url().replace("dbname=postern", "dbname=elsewhere");
    let restore = |dir: &Path| {
        let mut command = on(&cluster, "restore", dir);
        command.env("POSTERN_DATABASE_ADMIN_URL", &elsewhere);
        command
    };
    let copy = |name: &str, change: &dyn Fn(&Path)| {
        let to = places.path().join(name);
        let copied = std::process::Command::new("cp").arg("-a").arg(&dir).arg(&to).status().unwrap();
        assert!(copied.success());
        change(&to);
        to
    };
    let largest = |dir: &Path| {
        let files = fs::read_dir(dir.join("database")).unwrap().map(|entry| entry.unwrap().path());
        files.max_by_key(|file| fs::metadata(file).unwrap().len()).unwrap()
    };
    let truncated = copy("truncated", &|dir| {
        let file = fs::File::options().write(true).open(largest(dir)).unwrap();
        file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    });
    // A thief of a backup's disk can make its checksums right, but not what vouches for it.
    let replace = |dir: &Path, from: &str, to: &str| {
        let file = dir.join("manifest.json");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        fs::write(file, text.replacen(from, to, 1)).unwrap();
    };
    let forged = copy("forged", &|dir| replace(dir, "\"superusers\": [", "\"superusers\": [\"mallory\", "));
    let anonymous = copy("anonymous", &|dir| fs::remove_file(dir.join("manifest.mac")).unwrap());
    let version = format!("\"postern\": \"{}\"", env!("CARGO_PKG_VERSION"));
    let newer = copy("newer", &|dir| replace(dir, &version, "\"postern\": \"999.0.0\""));
    let of_the_future = copy("of_the_future", &|dir| replace(dir, "\"taken\": ", "\"taken\": 9"));
    let unfinished = copy("unfinished", &|dir| fs::remove_file(dir.join("manifest.json")).unwrap());
    for (command, expected) in [
        (&mut restore(&truncated), "is broken: "),
        (postern().args(["backup", "--verify"]).arg(&truncated), "is broken: "),
        (&mut restore(&unfinished), "is not whole"),
        (&mut restore(&forged), "somebody without the master key"),
        (&mut restore(&anonymous), "--unauthenticated"),
        (&mut restore(&newer), "newer than this program"),
        (&mut restore(&of_the_future), "If it is right, and was ahead then, --at-least"),
        (&mut restore(&places.path().join("nothing")), "there is no backup"),
        (restore(&dir).env("POSTERN_DOMAIN", "other.example"), "the backup is of home.example"),
        (restore(&dir).env("POSTERN_MASTER_KEY", "ab".repeat(32)), "is another"),
        (restore(&dir).env_remove("POSTERN_MASTER_KEY"), "put that into"),
        (&mut on(&cluster, "restore", &dir), "is not empty"),
        (&mut on(&cluster, "backup", &dir), "exists already"),
    ] {
        fails(command, expected).await;
    }
    // No superuser is needed; and a role that may not read is told so.
    let session =
        "CREATE ROLE nightly LOGIN IN ROLE postern_backup; CREATE ROLE nobody LOGIN IN ROLE postern_monitor";
    admin.batch_execute(session).await.unwrap();
    let_everybody_in(&cluster).await;
    let as_role = |role: &str, name: &str| {
        let mut backup = on(&cluster, "backup", &places.path().join(name));
        backup.env("POSTERN_DATABASE_ADMIN_URL", cluster.admin_url().replace("postern_admin", role));
        backup
    };
    fails(&mut as_role("nobody", "by_nobody"), "a member of postern_backup").await;
    let said = succeeds(&mut as_role("nightly", "by_night")).await;
    assert!(said.contains("verified"), "{said}");
    // A backup that is whole, though something after it failed, has a status of its own: it is not made again.
    let told = "FUNCTION operator.note_backup";
    admin.batch_execute(&format!("REVOKE EXECUTE ON {told} FROM postern_backup")).await.unwrap();
    let output = as_role("nightly", "untold").output().await.expect("it runs");
    assert_eq!(output.status.code(), Some(3), "{}", self::said(&output));
    succeeds(on(&cluster, "backup", &places.path().join("untold")).arg("--verify")).await;
    admin.batch_execute(&format!("GRANT EXECUTE ON {told} TO postern_backup")).await.unwrap();
    // Without the key at hand a backup is one that no restore takes.
    let without_key = places.path().join("without_key");
    let mut backup = on(&cluster, "backup", &without_key);
    backup.env_remove("POSTERN_MASTER_KEY");
    fails(&mut backup, "nothing vouches for the backup").await;
    assert!(!without_key.exists(), "it is refused before the work");
    succeeds(backup.arg("--unauthenticated")).await;
    let verify = |dir: &Path| {
        let mut verify = on(&cluster, "backup", dir);
        verify.arg("--verify");
        verify
    };
    assert!(succeeds(&mut verify(&without_key)).await.contains("nobody vouches for it"));
    let said = succeeds(&mut verify(&dir)).await;
    assert!(
        said.contains("opens with the master key with the id") && said.contains("at hand vouches"),
        "{said}"
    );
    fails(verify(&dir).env("POSTERN_MASTER_KEY", "ab".repeat(32)), "or is of another one").await;
    let used = DataDir::migrated().await;
    fails(&mut into(&used, &dir, cluster.master_key()), "overwrites nothing").await;

    let (client, connection) = tokio_postgres::connect(&elsewhere, NoTls).await.unwrap();
    tokio::spawn(connection);
    fails(&mut restore(&dir), "is in use").await;
    let found = "SELECT count(*) FROM pg_namespace WHERE nspname IN ('postern', 'qs')";
    assert_eq!(client.query_one(found, &[]).await.unwrap().get::<_, i64>(0), 0, "nothing was left");
    // A restore that fails on its way removes what it made.
    client
        .batch_execute("CREATE FUNCTION public.in_the_way() RETURNS integer LANGUAGE sql RETURN 1")
        .await
        .unwrap();
    let broken = copy("failing", &|_| {});
    admin
        .batch_execute("CREATE FUNCTION public.in_the_way() RETURNS integer LANGUAGE sql RETURN 1")
        .await
        .unwrap();
    fs::remove_dir_all(&broken).unwrap();
    succeeds(&mut on(&cluster, "backup", &broken)).await;
    end(&admin, client).await;
    fails(&mut restore(&broken), "in_the_way").await;
    let (client, connection) = tokio_postgres::connect(&elsewhere, NoTls).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(client.query_one(found, &[]).await.unwrap().get::<_, i64>(0), 0, "nothing was left");
    end(&admin, client).await;

    let said = succeeds(&mut restore(&dir)).await;
    assert!(said.contains("restored: "), "{said}");
    let (client, connection) = tokio_postgres::connect(&elsewhere, NoTls).await.unwrap();
    tokio::spawn(connection);
    let row = client
        .query_one(
            "SELECT (SELECT array_length(s.setconfig, 1) FROM pg_db_role_setting s
                       JOIN pg_database d ON d.oid = s.setdatabase AND d.datname = 'elsewhere'
                      WHERE s.setrole = 'postern_server'::regrole),
                    has_database_privilege('public', 'elsewhere', 'CONNECT'),
                    has_database_privilege('postern_server', 'elsewhere', 'CONNECT'),
                    (SELECT undecided FROM operator.current_generation()),
                    (SELECT count(*) FROM aas.issuer_keys WHERE retires > current_date)",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, i32>(0), 6);
    assert_eq!((row.get::<_, bool>(1), row.get::<_, bool>(2)), (false, true));
    assert_eq!(row.get::<_, &str>(3), "no");
    assert_eq!(row.get::<_, i64>(4), 0, "all issuer keys are revoked");
    // A wrong hand: a dump that was restored without another generation is refused by servers.
    admin.batch_execute("UPDATE operator.generation SET origin = '1/1'").await.unwrap();
    let refused = Server::builder(&cluster).try_start().await.err().expect("it ends");
    assert!(refused.contains("restored from a dump") && refused.contains("begin_generation()"), "{refused}");
    admin.batch_execute("SELECT operator.keep_generation()").await.unwrap();
    drop(Server::start(&cluster).await);
}

#[tokio::test]
async fn what_a_role_calls_itself_or_sets_for_itself_is_only_text_to_a_restore() {
    let cluster = Cluster::start().await;
    drop(Server::start(&cluster).await);
    let admin = cluster.admin().await;
    let hostile = "x;ALTER/**/ROLE/**/grafana/**/SUPERUSER";
    admin
        .batch_execute(&format!(
            "CREATE ROLE grafana LOGIN; CREATE ROLE \"a$$b\" LOGIN; CREATE ROLE \"c$do$d\" LOGIN;
             CREATE ROLE \"e%I'f\" LOGIN IN ROLE postern_monitor CONNECTION LIMIT 3 VALID UNTIL '2050-01-01 00:00:00+00';
             -- As itself: every role may do this in every database of its cluster.
             SET SESSION AUTHORIZATION grafana;
             SELECT set_config('search_path', '{hostile}', false);
             ALTER ROLE grafana IN DATABASE postern SET search_path FROM CURRENT;
             ALTER ROLE grafana IN DATABASE postern SET application_name = '$do$ %s \\ '' \"';
             RESET SESSION AUTHORIZATION; RESET search_path;
             ALTER ROLE \"a$$b\" IN DATABASE postern SET search_path = \"$user\", 'with space', public;
             ALTER ROLE \"c$do$d\" IN DATABASE postern SET statement_timeout = '90s'"
        ))
        .await
        .unwrap();
    let before = definitions(cluster.socket_dir()).await;
    let places = tempfile::tempdir().unwrap();
    let dir = places.path().join("good");
    succeeds(&mut on(&cluster, "backup", &dir)).await;
    let data_dir = DataDir::fresh();
    // More jobs than this machine has cores.
    let said = succeeds(into(&data_dir, &dir, cluster.master_key()).args(["--jobs", "4"])).await;
    assert!(!said.contains("left out"), "{said}");
    let server = Server::embedded(&data_dir).env("POSTERN_MASTER_KEY", cluster.master_key()).start().await;
    let restored = data_dir.admin().await;
    let row = restored
        .query_one(
            "SELECT (SELECT rolsuper FROM pg_roles WHERE rolname = 'grafana'),
                    (SELECT setconfig FROM pg_db_role_setting WHERE setrole = 'grafana'::regrole)",
            &[],
        )
        .await
        .unwrap();
    assert!(!row.get::<_, bool>(0), "it is no superuser");
    let settings: Vec<String> = row.get(1);
    assert!(settings.contains(&format!("search_path={hostile}")), "{settings:?}");
    assert_same(&before, &definitions(&data_dir.path().join("run")).await);
    drop(server);
}

#[tokio::test]
async fn a_postgresql_of_ones_own_that_never_saw_postern_is_restored_with_roles_rights_and_settings() {
    let cluster = Cluster::start().await;
    drop(Server::start(&cluster).await);
    let people = "CREATE ROLE \"o'neil\" LOGIN CONNECTION LIMIT 5 VALID UNTIL '2050-01-01 00:00:00+00';
                  GRANT postern_operator TO \"o'neil\" WITH ADMIN OPTION;
                  CREATE ROLE watchers CREATEROLE NOINHERIT; GRANT postern_monitor TO watchers;
                  CREATE ROLE grafana LOGIN CREATEDB; GRANT watchers TO grafana";
    cluster.admin().await.batch_execute(people).await.unwrap();
    let before = definitions(cluster.socket_dir()).await;
    let places = tempfile::tempdir().unwrap();
    let dir = places.path().join("good");
    succeeds(&mut on(&cluster, "backup", &dir)).await;

    let own = Cluster::fresh().await;
    // Not in the database that is restored, which nobody is to use.
    let url = own.admin_url().replace("dbname=postern", "dbname=postgres");
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let roles = "SELECT count(*) FROM pg_roles WHERE NOT rolsuper AND rolname !~ '^pg_'";
    assert_eq!(client.query_one(roles, &[]).await.unwrap().get::<_, i64>(0), 0, "it has no role");
    let mut restore = on(&cluster, "restore", &dir);
    let said = succeeds(restore.env("POSTERN_DATABASE_ADMIN_URL", own.admin_url())).await;
    assert!(said.contains("restored: ") && !said.contains("left out"), "{said}");
    assert_same(&before, &definitions(own.socket_dir()).await);
    drop(Server::builder(&cluster).database(&own.server_url()).start().await);
}

#[tokio::test]
async fn a_restore_that_was_killed_serves_nobody_and_the_next_one_begins_anew() {
    let cluster = Cluster::start().await;
    drop(Server::start(&cluster).await);
    let places = tempfile::tempdir().unwrap();
    let dir = places.path().join("good");
    // A superuser that the other PostgreSQL does not have: what it owns is somebody else's there.
    let boss =
        "CREATE ROLE boss SUPERUSER; CREATE TABLE operator.mine (); ALTER TABLE operator.mine OWNER TO boss";
    cluster.admin().await.batch_execute(boss).await.unwrap();
    succeeds(&mut on(&cluster, "backup", &dir)).await;
    let other = Cluster::start().await;
    let admin = other.admin().await;
    let bosses = async || -> i64 {
        let sql = "SELECT count(*) FROM pg_roles WHERE rolname = 'boss'";
        admin.query_one(sql, &[]).await.unwrap().get(0)
    };
    admin.batch_execute("CREATE DATABASE elsewhere").await.unwrap();
    let elsewhere = other.admin_url().replace("dbname=postern", "dbname=elsewhere");
    let restore = || {
        let mut command = on(&cluster, "restore", &dir);
        command.env("POSTERN_DATABASE_ADMIN_URL", &elsewhere);
        command
    };
    // An event trigger kills it when the first index is made: all data that come before are there.
    let (client, connection) = tokio_postgres::connect(&elsewhere, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
        .batch_execute(
            "CREATE FUNCTION public.wait() RETURNS event_trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM pg_sleep(600); END $$;
             CREATE EVENT TRIGGER waits ON ddl_command_start WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION public.wait()",
        )
        .await
        .unwrap();
    end(&admin, client).await;
    let mut restoring = restore().args(["--jobs", "1"]).kill_on_drop(true).spawn().unwrap();
    eventually("it makes indexes", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'elsewhere' AND query LIKE 'CREATE%INDEX%'";
        (admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) > 0).then_some(())
    })
    .await;
    // A second one takes nothing of it for the remains of an interrupted one.
    fails(&mut restore(), "a restore into this database is under way since").await;
    assert!(restoring.try_wait().unwrap().is_none(), "it goes on");
    restoring.kill().await.unwrap();
    assert_eq!(bosses().await, 1, "the one that it made is left");

    let terminate =
        "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = 'elsewhere'";
    admin.batch_execute(terminate).await.unwrap();
    let (client, connection) = tokio_postgres::connect(&elsewhere, NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("DROP EVENT TRIGGER waits").await.unwrap();
    let let_in = "SELECT count(*) FROM pg_roles r
                   WHERE r.rolname IN ('postern_server', 'postern_operator', 'postern_monitor', 'postern_backup')
                     AND has_database_privilege(r.oid, 'elsewhere', 'CONNECT')";
    assert_eq!(
        client.query_one(let_in, &[]).await.unwrap().get::<_, i64>(0),
        0,
        "it is closed to all of them"
    );
    for function in ["begin_generation", "keep_generation"] {
        let error = client.batch_execute(&format!("SELECT operator.{function}()")).await.unwrap_err();
        let error = error.as_db_error().unwrap().message().to_owned();
        assert!(error.contains("the database is not whole"), "{error}");
    }
    end(&admin, client).await;
    let mut migrate = postern();
    migrate.arg("migrate").env("POSTERN_DOMAIN", HOME).env("POSTERN_DATABASE_ADMIN_URL", &elsewhere);
    fails(&mut migrate, "is not whole").await;
    eventually("its sessions are over", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'elsewhere'";
        (admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0).then_some(())
    })
    .await;

    let said = succeeds(&mut restore()).await;
    assert!(
        said.contains("removing what an interrupted restore left") && said.contains("restored: "),
        "{said}"
    );
    assert_eq!(bosses().await, 0, "the next restore knows it, and drops it");
    // A database that is whole is never taken for the remains of a restore.
    fails(&mut restore(), "is not empty").await;
}

/// Time after which a backup or a restore that goes on tells how far it is.
const A_LINE: Duration = Duration::from_secs(6);

/// Asserts that there is a line such as "postern: tables: 3 of 66".
fn assert_tells_progress(said: &str, what: &str) {
    let progress = said.lines().filter_map(|line| line.strip_prefix(&format!("postern: {what}: ")));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_progress = |line: &str| {
        let (done, all) = line.split_once(" of ").unwrap_or_default();
        is_number(done) && is_number(all.split(',').next().unwrap_or_default())
    };
    assert!(progress.into_iter().any(is_progress), "{what} in:\n{said}");
}

/// The lock of `postern migrate`.
const MIGRATING: i64 = 0x706f_7374_6572_6e00;

#[tokio::test]
async fn a_restore_whose_last_step_fails_removes_nothing_for_servers_may_have_come_in() {
    let cluster = Cluster::start().await;
    drop(Server::start(&cluster).await);
    let places = tempfile::tempdir().unwrap();
    let dir = places.path().join("good");
    succeeds(&mut on(&cluster, "backup", &dir)).await;
    let admin = cluster.admin().await;
    admin.batch_execute("CREATE DATABASE elsewhere").await.unwrap();
    let admin_url = cluster.admin_url().replace("dbname=postern", "dbname=elsewhere");
    // An event trigger keeps it at its first index until somebody has an advisory lock.
    let (client, connection) = tokio_postgres::connect(&admin_url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
        .batch_execute(
            "CREATE FUNCTION public.wait() RETURNS event_trigger LANGUAGE plpgsql AS $$
             BEGIN
                 WHILE NOT EXISTS (SELECT FROM pg_locks l
                                    WHERE l.locktype = 'advisory' AND l.granted
                                      -- The low half of MIGRATING; the restore has another lock.
                                      AND l.objid = x'65726e00'::integer::oid
                                      AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = 'elsewhere'))
                 LOOP
                     PERFORM pg_sleep(0.05);
                 END LOOP;
             END $$;
             CREATE EVENT TRIGGER waits ON ddl_command_start WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION public.wait()",
        )
        .await
        .unwrap();
    end(&admin, client).await;
    let mut restoring = on(&cluster, "restore", &dir);
    restoring.env("POSTERN_DATABASE_ADMIN_URL", &admin_url).stdout(Stdio::piped()).stderr(Stdio::piped());
    let restoring = restoring.kill_on_drop(true).spawn().unwrap();
    eventually("it has looked who is there", async || {
        let marked = "SELECT count(*) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
                       WHERE d.datname = 'elsewhere' AND s.setconfig::text LIKE '%postern_restore%'";
        (admin.query_one(marked, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
    })
    .await;
    eventually("it makes its first index", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'elsewhere' AND query LIKE 'CREATE%INDEX%'";
        (admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) > 0).then_some(())
    })
    .await;
    tokio::time::sleep(A_LINE).await;
    // The migration, which opens the database, waits for this, and fails.
    let (holder, connection) = tokio_postgres::connect(&admin_url, NoTls).await.unwrap();
    let session = tokio::spawn(connection);
    holder.query_one("SELECT pg_advisory_lock($1)", &[&MIGRATING]).await.unwrap();
    holder.batch_execute("DROP EVENT TRIGGER waits").await.unwrap();
    eventually("the migration has failed", async || {
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                    WHERE datname = 'elsewhere' AND application_name = 'postern migrate' AND wait_event_type = 'Lock'";
        (admin.query_one(end, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
    })
    .await;
    let output = restoring.wait_with_output().await.unwrap();
    let said = said(&output);
    assert!(
        !output.status.success() && said.contains("everything was restored, and another generation began"),
        "{said}"
    );
    assert_tells_progress(&said, "tables, functions and indexes");
    drop(holder);
    session.await.unwrap().unwrap();

    let mut migrate = postern();
    migrate.arg("migrate").env("POSTERN_DOMAIN", HOME).env("POSTERN_DATABASE_ADMIN_URL", &admin_url);
    succeeds(&mut migrate).await;
    let_everybody_in(&cluster).await;
    let url = cluster.server_url().replace("dbname=postern", "dbname=elsewhere");
    drop(Server::builder(&cluster).database(&url).start().await);
    let (client, connection) = tokio_postgres::connect(&admin_url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let open = "SELECT generation > 0 AND undecided = 'no'
                       AND has_database_privilege('postern_server', current_database(), 'CONNECT')
                  FROM operator.current_generation()";
    assert!(client.query_one(open, &[]).await.unwrap().get::<_, bool>(0), "it is whole, and open to servers");
}

#[tokio::test]
async fn a_backup_has_its_name_once_all_of_it_is_on_disk() {
    let cluster = Cluster::start().await;
    drop(Server::start(&cluster).await);
    let places = tempfile::tempdir().unwrap();
    let (dir, partial) = (places.path().join("today"), places.path().join("today.partial"));
    let order = KeptOrder::begin();
    succeeds(on(&cluster, "backup", &dir).envs(order.environment())).await;
    let sync = |path: &Path| order.place(&format!("sync {}", path.display()));
    let rename = |from: &Path, to: &Path| order.place(&format!("rename {} {}", from.display(), to.display()));
    let manifest = rename(&partial.join("manifest.new"), &partial.join("manifest.json"));
    // PostgreSQL's program syncs the files of its dump itself.
    for before in ["database", "manifest.mac", "manifest.new"] {
        assert!(sync(&partial.join(before)) < manifest, "{before}");
    }
    let named = rename(&partial, &dir);
    assert!(manifest < sync(&partial) && sync(&partial) < named, "the manifest's name");
    assert!(named < sync(places.path()), "the backup's own");
}

#[tokio::test]
async fn restores_into_a_private_cluster_that_fail_leave_no_place_for_an_empty_homeserver() {
    let cluster = Cluster::start().await;
    drop(Server::start(&cluster).await);
    let places = tempfile::tempdir().unwrap();
    let admin = cluster.admin().await;
    let id = "SELECT system_identifier FROM pg_control_system()";
    let id: i64 = admin.query_one(id, &[]).await.unwrap().get(0);
    // A table of the operator's own, whose rows are checked when they are restored: in another cluster that takes long, or fails.
    let mut backups = Vec::new();
    for (name, elsewhere) in
        [("slow", "PERFORM pg_sleep(600)"), ("bad", "RAISE 'no good here'"), ("good", "NULL")]
    {
        admin
            .batch_execute(&format!(
                "CREATE OR REPLACE FUNCTION public.is_good(number integer) RETURNS boolean LANGUAGE plpgsql AS $$
                 BEGIN
                     IF (SELECT c.system_identifier FROM pg_control_system() c) <> {id} THEN {elsewhere}; END IF;
                     RETURN true;
                 END $$;
                 CREATE TABLE IF NOT EXISTS public.notes (number integer CHECK (public.is_good(number)));
                 INSERT INTO public.notes VALUES (1)"
            ))
            .await
            .unwrap();
        let dir = places.path().join(name);
        succeeds(&mut on(&cluster, "backup", &dir)).await;
        backups.push(dir);
    }
    let [slow, bad, good] = &backups[..] else { panic!("there are three") };
    let data_dir = DataDir::fresh();
    let restore = |dir: &Path| into(&data_dir, dir, cluster.master_key());
    let mut restoring = restore(slow).kill_on_drop(true).spawn().unwrap();
    eventually("it restores the table", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY public.notes%'";
        let found = data_dir.try_admin().await?.query_one(sql, &[]).await.ok()?;
        (found.get::<_, i64>(0) > 0).then_some(())
    })
    .await;
    restoring.kill().await.unwrap();
    let starts_nothing = async || {
        let refusal = Server::embedded(&data_dir).try_start().await.err().expect("it ends");
        assert!(refusal.contains("did not come to its end: run it again"), "{refusal}");
    };
    starts_nothing().await;
    fails(&mut restore(bad), "no good here").await;
    assert!(!data_dir.cluster().exists(), "nothing of it is left");
    starts_nothing().await;
    assert!(!data_dir.cluster().exists(), "and nothing else was made");
    let said = succeeds(&mut restore(good)).await;
    assert!(said.contains("restored: "), "{said}");
    let server = Server::embedded(&data_dir).env("POSTERN_MASTER_KEY", cluster.master_key()).start().await;
    let notes = "SELECT count(*) FROM public.notes";
    assert_eq!(data_dir.admin().await.query_one(notes, &[]).await.unwrap().get::<_, i64>(0), 3);
    assert!(server.terminate().await.success());
}

#[tokio::test]
async fn a_backup_that_fails_leaves_nothing_and_no_clock_costs_a_good_one() {
    let cluster = Cluster::start().await;
    drop(Server::start(&cluster).await);
    let places = tempfile::tempdir().unwrap();
    let place = |name: &str| places.path().join(name);
    let there = || {
        let names = fs::read_dir(places.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    };
    let keep = |name: &str, number: &str| {
        let mut command = on(&cluster, "backup", &place(name));
        command.args(["--keep", number]);
        command
    };
    // The clock was a year ahead, as names show, and went back.
    succeeds(&mut keep("2030-01-01", "2")).await;
    succeeds(&mut keep("2026-01-01", "2")).await;
    assert_eq!(there(), ["2026-01-01", "2030-01-01"]);
    for name in ["2026-01-02", "2026-01-03"] {
        let mut failing = keep(name, "2");
        fails(
            failing.env("POSTERN_DATABASE_ADMIN_URL", "host=/nowhere user=postern_admin dbname=postern"),
            "connect",
        )
        .await;
    }
    // One that was killed.
    fs::create_dir_all(place("2026-01-04.partial/database")).unwrap();
    // Not ours.
    fs::create_dir_all(place("photos.partial/summer")).unwrap();
    succeeds(&mut keep("2026-01-05", "2")).await;
    assert_eq!(
        there(),
        ["2026-01-01", "2026-01-05", "photos.partial"],
        "the oldest by the order of making went"
    );
    succeeds(&mut keep("2026-01-06", "1")).await;
    assert_eq!(there(), ["2026-01-06", "photos.partial"]);
    let noted = "SELECT day = (now() AT TIME ZONE 'UTC')::date FROM operator.last_backup";
    assert!(cluster.admin().await.query_one(noted, &[]).await.unwrap().get::<_, bool>(0));

    // A table that is locked: a signal ends the backup, and takes everything away.
    let admin = cluster.admin().await;
    admin.batch_execute("BEGIN; LOCK TABLE qs.messages").await.unwrap();
    let mut waiting = keep("2026-01-07", "1").spawn().unwrap();
    let looking = cluster.admin().await;
    eventually("it waits for the table", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        let waits = looking.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) > 0;
        (waits && place("2026-01-07.partial").exists()).then_some(())
    })
    .await;
    let pid = nix::unistd::Pid::from_raw(waiting.id().unwrap() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    assert!(!waiting.wait().await.unwrap().success());
    assert_eq!(there(), ["2026-01-06", "photos.partial"]);
    admin.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test]
async fn a_server_starts_while_a_backup_runs_on_the_postgresql_that_the_backup_started() {
    let dir = DataDir::migrated().await;
    let server = Server::embedded(&dir).start().await;
    // Sessions begin slowly, so that there is time to take a lock before the backup does.
    dir.admin().await.batch_execute("ALTER SYSTEM SET post_auth_delay = '3s'").await.unwrap();
    assert!(server.terminate().await.success());
    let places = tempfile::tempdir().unwrap();
    let place = places.path().join("today");
    let mut backup = postern();
    backup.args(["backup", "--embedded", "--domain", HOME, "--data-dir"]).arg(dir.path()).arg(&place);
    let backup = backup.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let admin = eventually("PostgreSQL runs", async || dir.try_admin().await).await;
    // As if there were much to dump.
    admin.batch_execute("BEGIN; LOCK TABLE auth.former_names").await.unwrap();
    let setting = dir.admin().await;
    setting.batch_execute("ALTER SYSTEM RESET post_auth_delay").await.unwrap();
    setting.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    // A session in a transaction sees the others as they were when it looked first.
    eventually("the backup waits for the table", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity
                    WHERE application_name = 'postern backup' AND wait_event_type = 'Lock'";
        (setting.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) > 0).then_some(())
    })
    .await;
    drop(setting);
    let (postmaster, busy) = (dir.postmaster(), postern_busy(&dir).await);
    assert!(busy.contains("a command, such as `postern backup`"), "{busy}");
    let server = Server::embedded(&dir).start().await;
    assert_eq!(dir.postmaster(), postmaster, "PostgreSQL goes on");
    tokio::time::sleep(A_LINE).await;
    admin.batch_execute("ROLLBACK").await.unwrap();
    drop(admin);
    let output = backup.wait_with_output().await.unwrap();
    assert!(output.status.success());
    assert_tells_progress(&said(&output), "tables");
    succeeds(postern().args(["backup", "--verify"]).arg(&place)).await;
    assert!(server.terminate().await.success(), "it runs PostgreSQL, and stops it");
    assert_eq!(dir.postmaster(), None);
}

/// Runs an upgrade of the cluster that finds it busy; returns what it says.
async fn postern_busy(dir: &DataDir) -> String {
    let mut upgrade = postern();
    upgrade.args(["upgrade-cluster", "--domain", HOME, "--data-dir"]).arg(dir.path());
    said(&upgrade.output().await.expect("it runs"))
}

#[tokio::test]
async fn a_copy_of_the_cluster_that_is_put_back_is_refused_however_much_is_written_to_it() {
    let dir = DataDir::migrated().await;
    assert!(Server::embedded(&dir).start().await.terminate().await.success());
    let places = tempfile::tempdir().unwrap();
    let copy = places.path().join("cluster");
    let copied = |from: &Path, to: &Path| {
        assert!(std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
    };
    copied(&dir.cluster(), &copy);
    let on_it = |command: &[&str]| {
        let mut postern = postern();
        postern.args(command).args(["--embedded", "--domain", HOME, "--data-dir"]).arg(dir.path());
        postern
    };
    let sql = |sql: &str| {
        let mut psql = on_it(&["psql"]);
        psql.args(["--", "-c", sql]);
        psql
    };
    for decision in ["begin", "keep"] {
        assert!(Server::embedded(&dir).start().await.terminate().await.success());
        fs::remove_dir_all(dir.cluster()).unwrap();
        copied(&copy, &dir.cluster());
        // As an hour of starts that fail, an upgrade, or another application in the same PostgreSQL writes WAL.
        succeeds(&mut sql("CREATE TABLE public.junk AS SELECT generate_series(1, 200000)")).await;
        succeeds(&mut sql("SELECT pg_switch_wal()")).await;
        for attempt in ["the first", "the second"] {
            let refused = Server::embedded(&dir).try_start().await.err().expect("it ends");
            assert!(
                refused.contains("put back to an earlier state")
                    && refused.contains(&format!("`postern generation {decision}`")),
                "{attempt}: {refused}"
            );
        }
        fails(on_it(&["check"]).arg("--start"), "problem  witness: the database was put back").await;
        succeeds(&mut on_it(&["generation", decision])).await;
        succeeds(&mut sql("DROP TABLE public.junk")).await;
    }
    assert!(Server::embedded(&dir).start().await.terminate().await.success());
    // An empty homeserver in the place of one is not one that was put back.
    fs::remove_dir_all(dir.cluster()).unwrap();
    assert!(Server::embedded(&dir).start().await.terminate().await.success());
}

#[tokio::test]
async fn a_database_that_is_put_back_under_a_server_gets_no_session_until_somebody_decides() {
    let cluster = Cluster::start().await;
    let places = tempfile::tempdir().unwrap();
    let witness = places.path().join("witness");
    let server =
        Server::builder(&cluster).env("POSTERN_WITNESS_FILE", witness.to_str().unwrap()).start().await;
    let admin = cluster.admin().await;
    let is_ready = async || {
        let answer = reqwest::get(format!("{}/ready", server.url())).await.expect("it answers");
        answer.status().is_success()
    };
    eventually("it has given a mark", async || {
        let marks = "SELECT count(*) FROM operator.witnesses";
        (witness.exists() && admin.query_one(marks, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
    })
    .await;
    // What a snapshot brings back: an earlier mark, and the end of all sessions.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postern_server'";
    admin
        .batch_execute("UPDATE operator.witnesses SET mark = decode(repeat('00', 16), 'hex')")
        .await
        .unwrap();
    admin.execute(end, &[]).await.unwrap();
    eventually("the server works with it no more", async || (!is_ready().await).then_some(())).await;
    assert!(!is_ready().await, "nor some time later");
    admin.batch_execute("SELECT operator.keep_generation()").await.unwrap();
    eventually("it goes on by itself", async || is_ready().await.then_some(())).await;
}

#[tokio::test]
async fn a_copy_of_the_database_in_the_same_cluster_is_another_one() {
    let cluster = Cluster::start().await;
    assert!(Server::start(&cluster).await.terminate().await.success());
    let url = cluster.admin_url().replace("dbname=postern", "dbname=postgres");
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    eventually("nobody uses it", async || {
        client.batch_execute("CREATE DATABASE before TEMPLATE postern").await.ok()
    })
    .await;
    let_everybody_in(&cluster).await;
    let url = cluster.server_url().replace("dbname=postern", "dbname=before");
    let refused = Server::builder(&cluster).database(&url).try_start().await.err().expect("it ends");
    assert!(refused.contains("restored from a dump"), "{refused}");
    drop(Server::start(&cluster).await);
}

#[tokio::test]
async fn a_backup_of_a_time_when_the_clock_was_ahead_is_restored() {
    let cluster = Cluster::start().await;
    drop(Server::start(&cluster).await);
    let admin = cluster.admin().await;
    // A release was migrated to, and a backup made, before the time was synchronised.
    admin.batch_execute("UPDATE operator.schema_state SET applied = current_date + 300").await.unwrap();
    admin.batch_execute("UPDATE operator.last_backup SET day = current_date + 300").await.unwrap();
    let says = "SELECT verdict::text FROM operator.health() WHERE item = 'backup'";
    assert_eq!(admin.query_one(says, &[]).await.unwrap().get::<_, &str>(0), "warning");
    let places = tempfile::tempdir().unwrap();
    let dir = places.path().join("today");
    succeeds(&mut on(&cluster, "backup", &dir)).await;
    let data_dir = DataDir::fresh();
    succeeds(&mut into(&data_dir, &dir, cluster.master_key())).await;
    let server = Server::embedded(&data_dir).env("POSTERN_MASTER_KEY", cluster.master_key()).start().await;
    let number = "SELECT g.generation > (s.applied - date '2020-01-01') * 86400::bigint
                    FROM operator.current_generation() g, operator.schema_state s";
    assert!(data_dir.admin().await.query_one(number, &[]).await.unwrap().get::<_, bool>(0));
    assert!(server.terminate().await.success());
}

/// A virtual machine that is put back as a whole, with what remembers on it how far the database was: only those outside know.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_put_back_is_told_of_by_clients() {
    let dir = DataDir::migrated().await;
    let server = Server::embedded(&dir).start().await;
    let address = server.address();
    let homes = tempfile::tempdir().unwrap();
    let register = async |name: &str| {
        let builder = Client::builder(homes.path().join(name)).server(server.url()).options(patient());
        builder.register(name).await.unwrap()
    };
    let (alice, bob) = (register("alice").await, register("bob").await);
    let group = alice.create_group("climbing").await.unwrap().id().clone();
    befriend(&alice, &bob, &group).await;
    joined(&bob, 1).await;
    for client in [&alice, &bob, &alice, &bob] {
        sync(client).await;
    }
    assert!(server.terminate().await.success());
    let places = tempfile::tempdir().unwrap();
    let parts = ["cluster", "witness"];
    let copy = |from: &Path, to: &Path| {
        assert!(std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
    };
    parts.iter().for_each(|part| copy(&dir.path().join(part), &places.path().join(part)));
    let server = Server::embedded(&dir).listen(address).start().await;
    for number in 0..5 {
        alice.group_with_id(&group).send(&format!("lost {number}")).await.unwrap();
    }
    hears(&bob, "lost 4").await;
    sync(&bob).await;
    assert!(server.terminate().await.success());
    fs::remove_dir_all(dir.cluster()).unwrap();
    parts.iter().for_each(|part| copy(&places.path().join(part), &dir.path().join(part)));

    let server = Server::embedded(&dir).metrics().listen(address).start().await;
    let events = sync(&bob).await;
    let replaced = |event: &Event| matches!(event, Event::MailboxReplaced { kind: QueueKind::Group });
    assert!(events.iter().any(replaced), "he is told: {events:?}");
    // As the alert asks for it.
    let metrics = server.metrics().await;
    let labels = ["route=\"/qs/queues/{queue_id}/dequeue\"", "outcome=\"acknowledged-too-much\""];
    let is_series = |line: &str| {
        line.starts_with("postern_requests_total{") && labels.iter().all(|label| line.contains(label))
    };
    assert!(metrics.lines().any(is_series), "{metrics}");
    let rules = fs::read_to_string(in_tree("monitoring/alerts.yaml")).unwrap();
    assert!(rules.contains(&format!("postern_requests_total{{{}}}", labels.join(","))), "{rules}");
    assert!(server.terminate().await.success());
}

#[tokio::test]
async fn keys_that_were_revoked_stay_revoked_and_numbers_grow_whatever_the_clock_says() {
    let cluster = Cluster::start().await;
    drop(Server::start(&cluster).await);
    let admin = cluster.admin().await;
    let row = admin.query_one("SELECT operator.begin_generation(2000000000)", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 2_000_000_000, "the operator knows of one that was lost");
    // By a clock that goes back by years the old keys are still none.
    let good = "SELECT count(*) FROM aas.issuer_keys WHERE retires > '2000-01-01'";
    assert_eq!(admin.query_one(good, &[]).await.unwrap().get::<_, i64>(0), 0);
    // The database knows a later day than the clock.
    for later in ["operator.schema_state SET applied", "operator.calendar SET day"] {
        let known = format!("BEGIN; UPDATE {later} = current_date + 3; SELECT operator.begin_generation()");
        let error = admin.batch_execute(&known).await.unwrap_err();
        let hint = error.as_db_error().unwrap().hint();
        assert_eq!(hint, Some("set the clock right first, or give at_least"), "{later}");
        admin.batch_execute("ROLLBACK").await.unwrap();
    }
    // A number that the operator gives is taken for what it is.
    admin.batch_execute("UPDATE operator.schema_state SET applied = current_date + 3").await.unwrap();
    let row = admin.query_one("SELECT operator.begin_generation(1)", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 2_000_000_001, "and never a smaller one");
}

#[tokio::test]
async fn settings_of_the_servers_role_that_are_lost_are_noticed_and_set_again() {
    let cluster = Cluster::start().await;
    drop(Server::start(&cluster).await);
    let admin = cluster.admin().await;
    let check = || {
        let mut check = postern();
        check
            .arg("check")
            .env("POSTERN_DOMAIN", HOME)
            .env("POSTERN_DATABASE_URL", cluster.server_url())
            .env("POSTERN_MASTER_KEY", cluster.master_key());
        check
    };
    succeeds(&mut check()).await;
    for (loss, lost) in [
        ("RESET ALL", "search_path, idle_in_transaction_session_timeout, plan_cache_mode, enable_seqscan"),
        ("SET enable_seqscan = on", "are lost: enable_seqscan"),
    ] {
        admin.batch_execute(&format!("ALTER ROLE postern_server IN DATABASE postern {loss}")).await.unwrap();
        fails(&mut check(), lost).await;
        let mut migrate = postern();
        migrate
            .arg("migrate")
            .env("POSTERN_DOMAIN", HOME)
            .env("POSTERN_DATABASE_ADMIN_URL", cluster.admin_url());
        let said = succeeds(&mut migrate).await;
        assert!(
            said.contains("the settings of postern_server in this database were lost, and are set"),
            "{said}"
        );
        succeeds(&mut check()).await;
        assert!(succeeds(&mut migrate).await.contains("up to date"));
    }
    // Rights of everybody come back, too.
    let open = "GRANT CONNECT ON DATABASE postern TO PUBLIC; GRANT EXECUTE ON FUNCTION pg_notify TO PUBLIC;
                REVOKE CONNECT ON DATABASE postern FROM postern_server";
    admin.batch_execute(open).await.unwrap();
    let mut migrate = postern();
    migrate.arg("migrate").env("POSTERN_DOMAIN", HOME).env("POSTERN_DATABASE_ADMIN_URL", cluster.admin_url());
    succeeds(&mut migrate).await;
    let rights = "SELECT has_database_privilege('public', 'postern', 'CONNECT')
                         OR has_function_privilege('public', 'pg_notify(text, text)', 'EXECUTE'),
                         has_database_privilege('postern_server', 'postern', 'CONNECT')";
    let row = admin.query_one(rights, &[]).await.unwrap();
    assert_eq!((row.get::<_, bool>(0), row.get::<_, bool>(1)), (false, true));
}

/// The way to a later PostgreSQL by a dump, as for a database of one's own (OPS-5, OPS-7).
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs two versions of PostgreSQL: make test-majors"]
async fn a_backup_of_the_oldest_postgresql_is_restored_into_each_later_one() {
    let all = std::env::var("POSTERN_PG_CONFIGS").expect("make test-majors says which there are");
    let (old, newer) = all.split_once(':').expect("there is more than one version of PostgreSQL");
    for new in newer.split(':') {
        let (dir, backups) = (DataDir::fresh(), tempfile::tempdir().unwrap());
        let server = Server::embedded(&dir).env("PG_CONFIG", old).start().await;
        let address = server.address();
        let mut talk = Talk::begin(&server).await;
        let backup = backups.path().join("today");
        let mut command = postern();
        command.arg("backup").arg(&backup).args(["--embedded", "--domain", HOME, "--data-dir"]);
        succeeds(command.arg(dir.path()).env("PG_CONFIG", old)).await;
        let key = fs::read_to_string(dir.path().join("master.key")).unwrap();
        assert!(server.terminate().await.success());

        let elsewhere = DataDir::fresh();
        succeeds(into(&elsewhere, &backup, key.trim()).env("PG_CONFIG", new)).await;
        let server = Server::embedded(&elsewhere).env("PG_CONFIG", new).env("POSTERN_MASTER_KEY", key.trim());
        let server = server.listen(address).start().await;
        let version = "SELECT current_setting('server_version_num')::integer / 10000";
        let major: i32 = elsewhere.admin().await.query_one(version, &[]).await.unwrap().get(0);
        talk.goes_on(&format!("said at PostgreSQL {major}")).await;
        assert!(server.terminate().await.success());
    }
}
