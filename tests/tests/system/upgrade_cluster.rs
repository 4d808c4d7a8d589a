//! A private cluster goes from one major version of PostgreSQL to another, and the same people go on (OPS-7). Needs more
//! than one version: `make test-majors` names them in POSTERN_PG_CONFIGS, the oldest first.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Output,
};

use postern_tests_kit::{DataDir, HOME, Killer, Server, eventually, postern};

use crate::{bad_days::Talk, own_address};

/// A command on the data directory, with these versions of PostgreSQL (none: as the cluster was made); returns what it
/// printed, and whether it succeeded.
async fn run(command: &str, more: &[&str], dir: &DataDir, pg_configs: &str) -> (bool, String) {
    let arguments = [command, "--domain", HOME, "--data-dir"];
    let mut command = postern();
    command.args(arguments).arg(dir.path()).args(more);
    if !pg_configs.is_empty() {
        command.env("PG_CONFIG", pg_configs);
    }
    let Output { status, stdout, stderr } = command.output().await.expect("postern runs");
    let text = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (status.success(), text)
}

fn version(cluster: &Path) -> String {
    fs::read_to_string(cluster.join("PG_VERSION")).expect("it is a cluster").trim().to_owned()
}

fn major(pg_config: &Path) -> String {
    let output = std::process::Command::new(pg_config).arg("--version").output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.chars().filter(|c| c.is_ascii_digit() || *c == '.').take_while(|c| *c != '.').collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs two versions of PostgreSQL: make test-majors"]
async fn people_go_on_after_their_private_cluster_went_to_a_newer_postgresql() {
    let all = std::env::var_os("POSTERN_PG_CONFIGS").expect("make test-majors says which there are");
    let all: Vec<PathBuf> = std::env::split_paths(&all).collect();
    let (old, newer) = all.split_first().expect("there is one");
    assert!(!newer.is_empty(), "there is one version of PostgreSQL only");
    for new in newer {
        upgrade(old, new).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs two versions of PostgreSQL: make test-majors"]
async fn an_upgrade_that_is_killed_between_two_steps_is_done_by_the_same_command() {
    let all = std::env::var_os("POSTERN_PG_CONFIGS").expect("make test-majors says which there are");
    let all: Vec<PathBuf> = std::env::split_paths(&all).collect();
    let [old, .., new] = all.as_slice() else { panic!("there is one version of PostgreSQL only") };
    let (from, to) = (major(old), major(new));
    let (old, new) = (old.to_str().expect("it is text"), new.to_str().expect("it is text"));
    let both = format!("{old}:{new}");
    let dir = DataDir::fresh();
    let server = Server::embedded(&dir).env("PG_CONFIG", old).listen(own_address()).start().await;
    let address = server.address();
    let mut talk = Talk::begin(&server).await;
    // As in the other test.
    let before_november = "UPDATE pg_attribute
                              SET attoptions = nullif(ARRAY(SELECT o FROM unnest(attoptions) o WHERE o NOT LIKE 'pg_attver=%'), '{}')
                            WHERE attoptions::text LIKE '%pg_attver=%'";
    dir.admin().await.batch_execute(before_november).await.unwrap();
    assert!(server.terminate().await.success());
    talk.keep("said before the upgrade");
    let upgrade = || {
        let mut command = postern();
        command.args(["upgrade-cluster", "--domain", HOME, "--data-dir"]).arg(dir.path());
        command.env("PG_CONFIG", &both);
        command
    };

    // While pg_upgrade is at work in the directory that is made for it.
    let mut upgrading = upgrade().kill_on_drop(true).spawn().expect("postern runs");
    eventually("pg_upgrade is at work", async || dir.path().join("upgrade").exists().then_some(())).await;
    upgrading.kill().await.expect("it runs");
    // Nothing has changed place: the old one serves, and takes more.
    let server = Server::embedded(&dir).env("PG_CONFIG", old).listen(address).start().await;
    talk.goes_on("said after a kill").await;
    assert!(server.terminate().await.success());
    // The new cluster is whole; it waits beside the old one; it waits alone. Each attempt finds what the one before left.
    let killer = Killer::compiled();
    let kept = format!(">{}/cluster.{from}", dir.path().display());
    let last = format!("cluster.upgraded>{}/cluster<", dir.path().display());
    for (step, is_there, waits) in
        [("cluster.new>", true, false), (kept.as_str(), true, true), (last.as_str(), false, true)]
    {
        killer.kill(&mut upgrade(), "rename", step).await;
        let upgraded = dir.path().join("cluster.upgraded");
        assert_eq!((dir.cluster().exists(), upgraded.exists()), (is_there, waits), "{step}");
        if is_there {
            assert_eq!(version(&dir.cluster()), from);
        }
    }
    let (done, text) = run("upgrade-cluster", &[], &dir, &both).await;
    assert!(done && text.contains(&format!("the private cluster is PostgreSQL {to}'s")), "{text}");
    assert_eq!(version(&dir.cluster()), to);
    assert_eq!(dir.postmaster(), None);
    let server = Server::embedded(&dir).env("PG_CONFIG", new).listen(address).start().await;
    talk.goes_on("said after the upgrade").await;
    assert!(server.terminate().await.success());
}

/// A table of the operator's own, of which nobody counts the rows under a limit of time.
const COUNTED_WITHOUT_LIMITS: &str = "
    CREATE SCHEMA own;
    CREATE FUNCTION own.without_limits(value integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN
        IF current_setting('statement_timeout') <> '0' OR current_setting('lock_timeout') <> '0' THEN
            RAISE EXCEPTION 'there is a limit of time';
        END IF;
        RETURN value;
    END
    $$;
    CREATE TABLE own.counted (value integer);
    INSERT INTO own.counted VALUES (1);
    CREATE INDEX ON own.counted (own.without_limits(value))";

async fn upgrade(old: &Path, new: &Path) {
    let (from, to) = (major(old), major(new));
    let (old, new) = (old.to_str().expect("it is text"), new.to_str().expect("it is text"));
    let both = format!("{old}:{new}");
    let dir = DataDir::fresh();
    let server = Server::embedded(&dir).env("PG_CONFIG", old).listen(own_address()).start().await;
    let address = server.address();
    let mut talk = Talk::begin(&server).await;
    let admin = dir.admin().await;
    // Settings of roles and of the cluster, which a dump of the database alone does not have.
    admin.batch_execute("ALTER SYSTEM SET work_mem = '5MB'").await.unwrap();
    // Commits wait for a standby, which follows no cluster that is being changed.
    admin.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (standby1)'").await.unwrap();
    // And sessions have limits, but for the one that counts the rows.
    admin.batch_execute(COUNTED_WITHOUT_LIMITS).await.unwrap();
    for limit in ["statement_timeout", "lock_timeout"] {
        admin.batch_execute(&format!("ALTER SYSTEM SET {limit} = '1min'")).await.unwrap();
    }
    admin.batch_execute("ALTER ROLE postern_server SET application_name = 'mine'").await.unwrap();
    admin.batch_execute("CREATE ROLE alice LOGIN IN ROLE postern_operator").await.unwrap();
    let settings = "SELECT array_agg(concat_ws(' ', setdatabase <> 0, r.rolname, setconfig::text) ORDER BY r.rolname, setconfig)
                      FROM pg_db_role_setting LEFT JOIN pg_roles r ON r.oid = setrole";
    let before: Vec<String> = admin.query_one(settings, &[]).await.unwrap().get(0);
    // Since November 2026 PostgreSQL writes versions of attributes, which newer major versions of before do not know: the
    // cluster becomes one of before.
    let before_november = "UPDATE pg_attribute
                              SET attoptions = nullif(ARRAY(SELECT o FROM unnest(attoptions) o WHERE o NOT LIKE 'pg_attver=%'), '{}')
                            WHERE attoptions::text LIKE '%pg_attver=%'";
    admin.batch_execute(before_november).await.unwrap();
    // As if the database were restored from a dump by hand.
    admin.batch_execute("UPDATE operator.generation SET origin = '1/1'").await.unwrap();
    drop(admin);

    let (done, text) = run("upgrade-cluster", &[], &dir, &both).await;
    assert!(!done && text.contains("another `postern` runs the private cluster"), "{text}");
    // Its last end was a crash.
    server.kill().await;
    dir.kill_postgres();
    talk.keep("said before the upgrade");

    // A program that has the newer version only says what to do, and changes nothing.
    let refusal = Server::embedded(&dir).env("PG_CONFIG", new).try_start().await.err().expect("it ends");
    assert!(refusal.contains(&format!("the private cluster is PostgreSQL {from}'s")), "{refusal}");
    assert!(refusal.contains("postern upgrade-cluster"), "{refusal}");
    let (done, text) = run("upgrade-cluster", &[], &dir, new).await;
    assert!(!done && text.contains(&format!("the upgrade needs PostgreSQL {from}, too")), "{text}");
    assert_eq!(version(&dir.cluster()), from);

    let (done, text) = run("upgrade-cluster", &[], &dir, &both).await;
    assert!(done && text.contains(&format!("the private cluster is PostgreSQL {to}'s now")), "{text}");
    assert!(!text.contains("your settings"), "{text}");
    // The old version may have no server any more that could be told.
    assert!(text.contains("until you say whether it lost something"), "{text}");
    assert_eq!(dir.postmaster(), None);
    let kept = dir.path().join(format!("cluster.{from}"));
    assert_eq!((version(&dir.cluster()), version(&kept)), (to.clone(), from.clone()));
    let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let names: Vec<_> = names.filter_map(|name| name.into_string().ok()).collect();
    assert!(!names.iter().any(|name| name.contains("new") || name.contains("upgrade")), "{names:?}");
    assert_eq!(fs::metadata(dir.cluster()).unwrap().mode() & 0o777, 0o700);

    // A server's commits would wait.
    let reset = ["--embedded", "--", "-c", "ALTER SYSTEM RESET synchronous_standby_names"];
    let (done, text) = run("psql", &reset, &dir, new).await;
    assert!(done, "{text}");
    let refusal =
        Server::embedded(&dir).env("PG_CONFIG", new).try_start().await.err().expect("nobody has decided");
    assert!(refusal.contains("restored from a dump"), "{refusal}");
    let mut keep = postern();
    keep.args(["generation", "keep", "--embedded", "--domain", HOME, "--data-dir"]).arg(dir.path());
    let kept_it = keep.env("PG_CONFIG", new).output().await.expect("postern runs");
    assert!(kept_it.status.success(), "{}", String::from_utf8_lossy(&kept_it.stderr));
    let server = Server::embedded(&dir).env("PG_CONFIG", new).listen(address).start().await;
    talk.goes_on("said after the upgrade").await;
    let admin = dir.admin().await;
    let after: Vec<String> = admin.query_one(settings, &[]).await.unwrap().get(0);
    assert_eq!(after, before, "settings of roles");
    let row = admin
        .query_one(
            "SELECT current_setting('server_version_num')::integer / 10000, current_setting('work_mem'),
                    current_setting('data_checksums'), pg_has_role('alice', 'postern_operator', 'MEMBER'),
                    (SELECT preloaded FROM operator.wakeups()),
                    (SELECT bool_and(EXISTS (SELECT FROM pg_statistic s WHERE s.starelid = c.oid)) FROM pg_class c
                      WHERE c.oid IN ('qs.queues'::regclass, 'auth.users'::regclass)),
                    (SELECT count(*) FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
                      WHERE p.pronamespace = 'pg_catalog'::regnamespace AND a.grantee = 0
                        AND p.proname IN ('pg_logical_emit_message', 'pg_notify', 'lo_create', 'pg_advisory_lock'))",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, i32>(0).to_string(), to);
    assert_eq!((row.get::<_, &str>(1), row.get::<_, &str>(2)), ("5MB", "on"));
    assert!(row.get::<_, bool>(3) && row.get::<_, bool>(4), "roles, and the extension");
    assert!(row.get::<_, bool>(5), "the planner has counted");
    assert_eq!(row.get::<_, i64>(6), 0, "what nobody may execute, nobody may after it");
    admin.batch_execute("DROP SCHEMA own CASCADE").await.unwrap();
    drop(admin);
    let (done, text) = run("check", &["--embedded"], &dir, new).await;
    assert!(done, "{text}");
    // While the server runs on the new one.
    let (done, text) = run("upgrade-cluster", &["--drop-old"], &dir, &both).await;
    assert!(done && text.contains(&format!("deleted {}", kept.display())), "{text}");
    assert!(!kept.exists());
    assert!(server.terminate().await.success());
    let (done, text) = run("upgrade-cluster", &[], &dir, &both).await;
    assert!(done && text.contains("no newer one is here"), "{text}");
    let server = Server::embedded(&dir).env("PG_CONFIG", new).listen(address).start().await;
    talk.goes_on("without the old cluster").await;
    assert!(server.terminate().await.success());
}

/// A PostgreSQL that is installed, but for its programs, which only say their version. Returns its pg_config.
fn installed(place: &Path, version: &str) -> PathBuf {
    let bin = place.join("bin");
    fs::create_dir(&bin).unwrap();
    let program = |name: &str, prints: &str| {
        let path = bin.join(name);
        fs::write(&path, format!("#!/bin/sh\nprintf '{prints}\\n'\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    for name in ["postgres", "initdb", "pg_ctl"] {
        program(name, &format!("{name} (PostgreSQL) {version} (Debian {version}-1)"));
    }
    program("pg_config", &format!("PostgreSQL {version}\\n{}\\n/share\\n/lib", bin.display()))
}

#[tokio::test]
async fn a_minor_version_that_is_installed_and_does_not_run_yet_is_told() {
    let dir = DataDir::migrated().await;
    let server = Server::embedded(&dir).start().await;
    let version = "SELECT split_part(current_setting('server_version'), ' ', 1)";
    let running: String = dir.admin().await.query_one(version, &[]).await.unwrap().get(0);
    let major = running.split('.').next().unwrap();
    for (installed_version, told) in [(format!("{major}.999"), true), (running.clone(), false)] {
        let place = tempfile::tempdir().unwrap();
        let pg_config = installed(place.path(), &installed_version);
        for command in ["check", "status"] {
            let pg_config = pg_config.to_str().expect("it is text");
            let (_, text) = run(command, &["--embedded"], &dir, pg_config).await;
            let says = format!("{running} runs, and {installed_version} is installed");
            assert_eq!(text.contains(&says), told, "{command}: {text}");
        }
    }
    assert!(server.terminate().await.success());
}

#[tokio::test]
async fn an_upgrade_that_was_interrupted_before_its_last_step_is_finished_by_the_next_start() {
    let dir = DataDir::migrated().await;
    let (cluster, upgraded) = (dir.cluster(), dir.path().join("cluster.upgraded"));
    fs::write(cluster.join("mark"), "the upgraded one").unwrap();
    fs::rename(&cluster, &upgraded).unwrap();
    let server = Server::embedded(&dir).start().await;
    assert!(cluster.join("mark").exists() && !upgraded.exists(), "no new cluster was made");
    assert!(server.terminate().await.success());

    // A restore finds that one, too, and leaves it alone; what it is given is no matter.
    fs::rename(&cluster, &upgraded).unwrap();
    let backup = tempfile::tempdir().unwrap();
    let place = backup.path().join("one");
    let place = place.to_str().expect("it is text");
    let other = DataDir::migrated().await;
    let (done, text) = run("backup", &["--embedded", place], &other, "").await;
    assert!(done, "{text}");
    let (done, text) = run("restore", &["--embedded", place], &dir, "").await;
    assert!(!done && text.contains("there is a cluster"), "{text}");
    assert!(upgraded.join("mark").exists() && !cluster.exists(), "{text}");
    // And one that an upgrade kept is not passed over for a new one.
    let kept = dir.path().join("cluster.15");
    fs::rename(&upgraded, &kept).unwrap();
    let (done, text) = run("restore", &["--embedded", place], &dir, "").await;
    assert!(!done && text.contains("there is a cluster"), "{text}");
    let refusal = Server::embedded(&dir).try_start().await.err().expect("it ends");
    assert!(refusal.contains("cluster.15") && !cluster.exists(), "{refusal}");
    fs::rename(&kept, &cluster).unwrap();

    // The directory next to a cluster in use is older than that.
    fs::create_dir(&upgraded).unwrap();
    assert!(Server::embedded(&dir).start().await.terminate().await.success());
    assert!(cluster.join("mark").exists());
    let (done, text) = run("upgrade-cluster", &["--drop-old"], &dir, "/usr/bin/pg_config").await;
    assert!(done && text.contains("no old cluster is kept"), "{text}");
}
