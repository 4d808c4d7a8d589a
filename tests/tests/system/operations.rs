//! An operator's work with `postern`: start, stop, crash, configure, migrate, check (OPS-2, OPS-6).

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
    process::{Output, Stdio},
    time::Instant,
};

use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};
use postern_server::{config::ConnectionString, database::migrate::Release};
use postern_tests_kit::{Cluster, DataDir, HOME, PATIENCE, Server, connect_to, eventually, in_tree, postern};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::timeout,
};
use tokio_postgres::error::SqlState;

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

async fn run(command: &mut Command) -> Output {
    command.output().await.expect("postern runs")
}

async fn assert_healthy(server: &Server) {
    eventually("the server is ready", async || {
        let answer = reqwest::get(format!("{}/ready", server.url())).await.expect("the server answers");
        answer.status().is_success().then_some(())
    })
    .await;
}

fn check(cluster: &Cluster) -> Command {
    let mut command = postern();
    command
        .arg("check")
        .env("POSTERN_DOMAIN", HOME)
        .env("POSTERN_DATABASE_URL", cluster.server_url())
        .env("POSTERN_MASTER_KEY", cluster.master_key());
    command
}

/// The line of `postern check` about an item, and the next.
fn line<'a>(report: &'a str, item: &str) -> Option<&'a str> {
    let start = report.find(&format!(" {item}: "))?;
    let start = report[..start].rfind('\n').map_or(0, |newline| newline + 1);
    let end = report[start..].match_indices('\n').nth(1).map_or(report.len(), |(end, _)| start + end);
    Some(&report[start..end])
}

async fn assert_problem(command: &mut Command, item: &str, expected: &str) {
    let output = run(command).await;
    let report = text(&output);
    assert_eq!(output.status.code(), Some(1), "{report}");
    let line = line(&report, item).unwrap_or_else(|| panic!("nothing about {item} in:\n{report}"));
    assert!(line.starts_with("problem") && line.contains(expected) && line.contains("to mend: "), "{report}");
}

#[tokio::test]
async fn the_first_embedded_start_makes_all_it_needs_and_a_stop_leaves_nothing_running() {
    let dir = DataDir::fresh();
    let server = Server::embedded(&dir).start().await;
    assert_healthy(&server).await;
    assert_eq!(fs::metadata(dir.path().join("master.key")).unwrap().mode() & 0o777, 0o600);
    assert!(dir.postmaster().is_some());

    assert!(server.terminate().await.success());
    assert_eq!(dir.postmaster(), None);

    let again = Server::embedded(&dir).start().await;
    assert_healthy(&again).await;
    assert!(again.terminate().await.success());
}

#[tokio::test]
async fn a_new_homeserver_is_open_to_whom_its_first_start_says_and_later_to_whom_the_database_says() {
    let dir = DataDir::fresh();
    let start = |policy| Server::embedded(&dir).env("POSTERN_REGISTRATION", policy);
    let policy = async || -> String {
        let row = dir.admin().await.query_one("SELECT operator.registration_policy()", &[]).await;
        row.unwrap().get(0)
    };
    let refusal = start("closed").try_start().await.err().expect("it ends");
    assert!(refusal.contains("POSTERN_REGISTRATION is closed"), "{refusal}");
    let server = start("invite").start().await;
    assert_eq!(policy().await, "invite");
    dir.admin().await.batch_execute("SELECT operator.set_registration_policy('open')").await.unwrap();
    assert!(server.terminate().await.success());
    let server = start("invite").start().await;
    assert_eq!(policy().await, "open", "what the operator said since");
    assert!(server.terminate().await.success());
}

#[tokio::test]
async fn a_master_key_that_is_gone_is_missed_and_no_other_is_made() {
    let dir = DataDir::fresh();
    assert!(Server::embedded(&dir).start().await.terminate().await.success());
    let (key, away) = (dir.path().join("master.key"), dir.path().join("away"));
    fs::rename(&key, &away).unwrap();
    let refusal = Server::embedded(&dir).try_start().await.err().expect("it ends");
    assert!(refusal.contains(key.to_str().unwrap()) && !key.exists(), "{refusal}");
    fs::rename(&away, &key).unwrap();
    assert!(Server::embedded(&dir).start().await.terminate().await.success());
}

#[tokio::test]
async fn the_next_start_takes_over_the_cluster_of_a_killed_server() {
    let dir = DataDir::migrated().await;
    let server = Server::embedded(&dir).start().await;
    server.kill().await;
    assert!(dir.postmaster().is_some(), "PostgreSQL outlives a killed server");

    let next = Server::embedded(&dir).start().await;
    assert_healthy(&next).await;
    assert!(next.terminate().await.success());
    assert_eq!(dir.postmaster(), None);
}

#[tokio::test]
async fn the_next_start_recovers_a_crashed_cluster() {
    let dir = DataDir::migrated().await;
    let server = Server::embedded(&dir).start().await;
    server.kill().await;
    dir.kill_postgres();
    assert!(dir.cluster().join("postmaster.pid").exists());
    assert_healthy(&Server::embedded(&dir).start().await).await;
}

#[tokio::test]
async fn a_postmaster_pid_that_names_another_process_is_no_obstacle() {
    let dir = DataDir::migrated().await;
    let cluster = dir.cluster();
    let ours = std::process::id();
    fs::write(cluster.join("postmaster.pid"), format!("{ours}\n{}\n", cluster.display())).unwrap();
    assert_healthy(&Server::embedded(&dir).start().await).await;
}

#[tokio::test]
async fn a_second_server_on_a_data_directory_is_told_so() {
    let dir = DataDir::migrated().await;
    let first = Server::embedded(&dir).start().await;
    let refusal = Server::embedded(&dir).try_start().await.err().expect("it ends");
    assert!(refusal.contains("another `postern` runs the private cluster in"), "{refusal}");
    assert_healthy(&first).await;
}

#[tokio::test]
async fn a_start_waits_for_a_command_that_starts_or_stops_postgresql() {
    let dir = DataDir::migrated().await;
    // The locks of a command that starts it; one that stops it has both alone.
    for commands in [FlockArg::LockSharedNonblock, FlockArg::LockExclusiveNonblock] {
        let locked = |name: &str, kind| {
            let file = File::options().write(true).create(true).truncate(false).open(dir.path().join(name));
            Flock::lock(file.unwrap(), kind).expect("nothing runs")
        };
        let (commands, lock) =
            (locked("lock.commands", commands), locked("lock", FlockArg::LockExclusiveNonblock));
        let mut serve = postern();
        serve.args(["serve", "--embedded", "--domain", HOME, "--listen", "127.0.0.1:0", "--data-dir"]);
        serve.arg(dir.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut server = serve.spawn().unwrap();
        let mut said = BufReader::new(server.stderr.take().unwrap()).lines();
        let mut printed = BufReader::new(server.stdout.take().unwrap()).lines();
        timeout(PATIENCE, async {
            loop {
                let line = said.next_line().await.unwrap().expect("it does not end");
                if line.contains("another process starts or stops PostgreSQL in") {
                    break;
                }
            }
        })
        .await
        .expect("the server waits");
        drop((lock, commands));
        timeout(PATIENCE, async {
            loop {
                if printed.next_line().await.unwrap().expect("it does not end").contains("serving") {
                    break;
                }
            }
        })
        .await
        .expect("the server starts");
        kill(Pid::from_raw(server.id().unwrap().cast_signed()), Signal::SIGTERM).unwrap();
        assert!(timeout(PATIENCE, server.wait()).await.expect("the server ends").unwrap().success());
    }
}

#[tokio::test]
async fn check_and_migrate_join_a_running_embedded_server() {
    let dir = DataDir::migrated().await;
    let server = Server::embedded(&dir).start().await;
    for command in ["check", "migrate"] {
        let arguments = [command, "--embedded", "--domain", HOME, "--data-dir"];
        let output = run(postern().args(arguments).arg(dir.path())).await;
        assert!(output.status.success(), "{}", text(&output));
    }
    assert_healthy(&server).await;
}

#[tokio::test]
async fn a_server_that_does_not_let_through_what_the_limits_allow_does_not_start_or_says_so() {
    let cluster = Cluster::start().await;
    let narrow = || Server::builder(&cluster).env("POSTERN_MAX_BODY_BYTES", "557055");
    assert_problem(
        check(&cluster).env("POSTERN_MAX_BODY_BYTES", "557055"),
        "limits",
        "max_commit_bytes is 524288. Set limits.max_body_bytes to 557056 at least",
    )
    .await;
    let said = narrow().try_start().await.err().expect("a group could grow and not go on");
    assert!(said.contains("max_commit_bytes is 524288. Set limits.max_body_bytes to 557056"), "{said}");
    let admin = cluster.admin().await;
    admin.batch_execute("SELECT operator.set_group_limit('max_commit_bytes', 524287)").await.unwrap();
    let server = narrow().start().await;
    admin.batch_execute("SELECT operator.set_group_limit('max_commit_bytes', 600000)").await.unwrap();
    eventually("the operator is told", async || {
        server.log().contains("max_commit_bytes is 600000").then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_interrupt_ends_a_server_in_order() {
    let cluster = Cluster::start().await;
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut server = Server::start(&cluster).await;
        server.signal(signal);
        assert_eq!(server.ended().await.code(), Some(0), "{signal}");
    }
}

#[tokio::test]
async fn flags_win_over_the_environment_and_that_over_the_file() {
    let cluster = Cluster::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("postern.toml");
    fs::write(&file, "domain = \"file.example\"\n[limits]\nmax_body_bytes = 600000\n").unwrap();
    let configured = |environment: Option<&'static str>, flag: Option<&'static str>| {
        let mut command = check(&cluster);
        command.arg("--config").arg(&file).env_remove("POSTERN_DOMAIN");
        command.envs(environment.map(|value| ("POSTERN_DOMAIN", value)));
        command.args(flag.map(|value| format!("--domain={value}")));
        command
    };
    for (environment, flag, domain) in [
        (None, None, "file.example"),
        (Some("environment.example"), None, "environment.example"),
        (Some("environment.example"), Some("flag.example"), "flag.example"),
        (None, Some("flag.example"), "flag.example"),
    ] {
        let output = run(&mut configured(environment, flag)).await;
        let report = text(&output);
        assert!(output.status.success(), "{report}");
        assert!(
            line(&report, "home domain").unwrap().contains(&format!("makes it {domain}, for ever")),
            "{report}"
        );
        assert!(line(&report, "configuration").unwrap().contains(&file.display().to_string()), "{report}");
    }
}

#[tokio::test]
async fn a_file_in_the_working_directory_is_found() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("postern.toml"), "domain = \"a.example\"").unwrap();
    let output = run(postern().arg("check").current_dir(dir.path())).await;
    assert!(
        line(&text(&output), "configuration").unwrap().contains("file postern.toml"),
        "{}",
        text(&output)
    );
}

#[tokio::test]
async fn a_file_in_the_working_directory_that_another_user_can_write_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("postern.toml");
    fs::write(&file, "domain = \"a.example\"").unwrap();
    let refused = async |why: &str| {
        for command in ["check", "migrate", "serve"] {
            let output = run(postern().arg(command).current_dir(dir.path())).await;
            let said = text(&output);
            assert!(!output.status.success(), "{why}: {said}");
            assert!(said.contains("postern.toml is in the working directory"), "{why}: {said}");
        }
        let setup = ["setup", "--non-interactive", "--domain", HOME];
        let output = run(postern().args(setup).current_dir(dir.path())).await;
        assert!(
            text(&output).contains("postern.toml is in the working directory"),
            "{why}: {}",
            text(&output)
        );
        let named = run(postern().args(["check", "--config", "postern.toml"]).current_dir(dir.path())).await;
        assert!(!text(&named).contains("working directory"), "it was named: {}", text(&named));
    };
    fs::set_permissions(&file, Permissions::from_mode(0o666)).unwrap();
    refused("everybody can write it").await;
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    refused("everybody can replace it").await;
    fs::set_permissions(dir.path(), Permissions::from_mode(0o1777)).unwrap();
    let output = run(postern().arg("check").current_dir(dir.path())).await;
    assert!(text(&output).contains("file postern.toml"), "as in /tmp: {}", text(&output));
    if Uid::effective().is_root() {
        chown(&file, Some(12_345), None).unwrap();
        refused("it is another's").await;
    }
}

#[tokio::test]
async fn a_mistake_in_the_file_is_named_with_its_key_and_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("my.toml");
    for (mistake, key) in [
        ("domain = \"a.example\"\nlimit = 5", "limit"),
        ("domain = \"a.example\"\n[limits]\nmax_body_byte = 5", "limits.max_body_byte"),
        ("domain = \"a.example\"\n[limits]\nmax_body_bytes = \"much\"", "limits.max_body_bytes"),
        ("domain = \"a.example", "line 1"),
    ] {
        fs::write(&file, mistake).unwrap();
        let output = run(postern().arg("serve").arg("--config").arg(&file)).await;
        let message = text(&output);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains(&file.display().to_string()) && message.contains(key), "{message}");
    }
    let output = run(postern().args(["serve", "--config", "/nowhere/postern.toml"])).await;
    assert!(text(&output).contains("/nowhere/postern.toml"), "{}", text(&output));
}

#[tokio::test]
async fn check_is_content_with_a_database_that_is_well() {
    let cluster = Cluster::start().await;
    let server = Server::start(&cluster).await;
    let output = run(&mut check(&cluster)).await;
    let report = text(&output);
    assert!(output.status.success(), "{report}");
    assert!(report.lines().all(|line| line.starts_with("ok ")), "{report}");
    assert!(line(&report, "home domain").unwrap().contains(HOME), "{report}");
    assert_healthy(&server).await;
}

#[tokio::test]
async fn check_finds_a_master_key_that_others_can_read() {
    let cluster = Cluster::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("master.key");
    fs::write(&file, cluster.master_key()).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let with_key = |path: &Path| {
        let mut command = check(&cluster);
        command.arg("--master-key-file").arg(path);
        command
    };
    assert_problem(&mut with_key(&file), "master key", "chmod 600").await;
    assert_problem(&mut with_key(Path::new("/nowhere/key")), "master key", "/nowhere/key").await;
    assert_problem(check(&cluster).env("POSTERN_MASTER_KEY", "short"), "master key", "32 bytes").await;
    assert_problem(check(&cluster).env_remove("POSTERN_MASTER_KEY"), "master key", "no master key").await;
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    assert!(run(&mut with_key(&file)).await.status.success());
}

#[tokio::test]
async fn check_finds_what_is_wrong_with_the_database() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let with_url = |url: String| {
        let mut command = check(&cluster);
        command.env("POSTERN_DATABASE_URL", url);
        command
    };
    let as_admin = cluster.admin_url();

    assert_problem(&mut with_url("host=/nowhere user=postern_server".to_owned()), "database", "No such file")
        .await;
    assert_problem(&mut with_url("postgresql://%zz".to_owned()), "database", "").await;

    let bare = cluster.another_database("bare").await;
    assert_problem(&mut with_url(bare), "extension", "not created in this database").await;

    assert_problem(&mut with_url(as_admin), "role", "is a superuser").await;

    admin.batch_execute("GRANT SELECT ON operator.settings TO postern_server").await.unwrap();
    assert_problem(&mut check(&cluster), "role", "operator.settings").await;
    admin.batch_execute("REVOKE SELECT ON operator.settings FROM postern_server").await.unwrap();

    admin.batch_execute("SELECT operator.set_registration_policy('oidc')").await.unwrap();
    assert_problem(&mut check(&cluster), "registration", "no identity provider").await;
    admin.batch_execute("SELECT operator.set_registration_policy('open')").await.unwrap();

    admin.batch_execute("UPDATE operator.settings SET home_domain = 'other.example'").await.unwrap();
    assert_problem(&mut check(&cluster), "home domain", "the home of other.example").await;

    admin.batch_execute("UPDATE operator.schema_state SET functions_hash = sha256('')").await.unwrap();
    assert_problem(&mut check(&cluster), "schema", "another version's").await;
    admin.batch_execute("UPDATE operator.schema_state SET migration = 0").await.unwrap();
    assert_problem(&mut check(&cluster), "schema", "at migration 0").await;

    admin.batch_execute("DROP EXTENSION postern CASCADE").await.unwrap();
    assert_problem(&mut check(&cluster), "extension", "not created in this database").await;
}

#[tokio::test]
async fn the_home_domain_is_set_once_and_nobody_can_change_it() {
    let cluster = Cluster::start().await;
    let first = Server::start(&cluster).await;
    assert_healthy(&Server::start(&cluster).await).await;
    let other = Server::builder(&cluster).env("POSTERN_DOMAIN", "other.example").try_start().await;
    let refusal = other.err().expect("it ends");
    assert!(refusal.contains(&format!("the home of {HOME}, and the home domain never changes")), "{refusal}");

    let admin = cluster.admin().await;
    for preparation in ["SET ROLE postern_owner", "RESET ROLE; SET session_replication_role = replica"] {
        admin.batch_execute(preparation).await.unwrap();
        for change in [
            "UPDATE operator.settings SET home_domain = 'other.example'",
            "UPDATE operator.settings SET home_domain = NULL",
            "DELETE FROM operator.settings",
            "TRUNCATE operator.settings",
        ] {
            let error = admin.batch_execute(change).await.expect_err(change);
            assert_eq!(error.code(), Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE), "{change}");
        }
    }
    assert_healthy(&first).await;
}

#[tokio::test]
async fn only_a_domain_name_can_be_a_home() {
    let cluster = Cluster::start().await;
    for name in
        ["localhost", "10.0.0.1", "a..example", "-a.example", "a.example.", "a_b.example", "ex ample.org"]
    {
        let refusal = Server::builder(&cluster).env("POSTERN_DOMAIN", name).try_start().await.err();
        let refusal = refusal.unwrap_or_else(|| panic!("{name} was accepted"));
        assert!(refusal.contains("is not a domain name"), "{name}: {refusal}");
    }
    let server = Server::builder(&cluster).env("POSTERN_DOMAIN", "Xn--Bcher-KVA.Example").start().await;
    let home = cluster
        .admin()
        .await
        .query_one("SELECT home_domain::text FROM operator.settings", &[])
        .await
        .unwrap();
    assert_eq!(home.get::<_, &str>(0), "xn--bcher-kva.example");
    assert_healthy(&server).await;
}

#[tokio::test]
async fn two_migrations_at_once_do_the_work_once_and_a_third_finds_nothing_to_do() {
    let cluster = Cluster::start().await;
    let url = cluster.another_database("fresh").await;
    let migrate = || async {
        let mut command = postern();
        command.arg("migrate").env("POSTERN_DOMAIN", HOME).env("POSTERN_DATABASE_ADMIN_URL", &url);
        let output = run(&mut command).await;
        assert!(output.status.success(), "{}", text(&output));
        text(&output)
    };
    let (one, two) = tokio::join!(migrate(), migrate());
    let migrated = |report: &String| report.contains("V1__foundation");
    let idle = |report: &String| report.contains("the database is up to date");
    assert!(migrated(&one) && idle(&two) || idle(&one) && migrated(&two), "{one}{two}");
    assert!(idle(&migrate().await));
}

#[tokio::test]
async fn changed_functions_are_applied_as_a_whole_and_old_ones_go() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let server = Server::start(&cluster).await;
    admin
        .batch_execute(
            "CREATE FUNCTION operator.of_an_older_version() RETURNS int LANGUAGE sql AS 'SELECT 1';
             GRANT EXECUTE ON FUNCTION operator.refuse_change TO postern_server;
             UPDATE operator.schema_state SET functions_hash = sha256('')",
        )
        .await
        .unwrap();
    let migrate = || async {
        let admin_url = cluster.admin_url();
        let mut command = postern();
        command.arg("migrate").env("POSTERN_DOMAIN", HOME).env("POSTERN_DATABASE_ADMIN_URL", admin_url);
        text(&run(&mut command).await)
    };
    assert!(migrate().await.contains("functions updated"));
    let row = admin
        .query_one(
            "SELECT to_regproc('operator.of_an_older_version') IS NULL,
                    to_regproc('operator.refuse_change') IS NOT NULL,
                    has_function_privilege('postern_server', 'operator.refuse_change()', 'EXECUTE')",
            &[],
        )
        .await
        .unwrap();
    assert!(row.get::<_, bool>(0), "what sql/ does not define is dropped");
    assert!(row.get::<_, bool>(1), "what a trigger uses stays");
    assert!(!row.get::<_, bool>(2), "what grants.sql does not grant is revoked");
    assert_healthy(&server).await;
}

#[tokio::test]
async fn a_lock_that_another_session_holds_ends_a_migration_in_time_and_unharmed() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let server = Server::start(&cluster).await;
    let state = async || {
        let sql = "SELECT (SELECT count(*) FROM public.refinery_schema_history), migration,
                          to_regclass('auth.more')::text, functions_hash
                     FROM operator.schema_state";
        let row = admin.query_one(sql, &[]).await.unwrap();
        let state: (i64, i32, Option<String>, Vec<u8>) = (row.get(0), row.get(1), row.get(2), row.get(3));
        state
    };
    let release = Release::embedded()
        .with_migration(
            "V1000__more",
            "CREATE TABLE auth.more (); ALTER TABLE auth.users ADD COLUMN more text",
        )
        .unwrap();
    let url = ConnectionString::new(cluster.admin_url());
    let migrate = async || {
        let begun = Instant::now();
        let report = release.migrate(&url).await;
        (report.map_err(|error| format!("{error:#}")), begun.elapsed())
    };
    let before = state().await;
    // A back-up reads; then somebody looks at the state of the schema.
    for (lock, migrated) in [
        ("LOCK TABLE auth.users IN ACCESS SHARE MODE", 0),
        ("SELECT FROM operator.schema_state FOR UPDATE", 1),
    ] {
        let mut holder = cluster.admin().await;
        let holder = holder.transaction().await.unwrap();
        holder.batch_execute(lock).await.unwrap();
        let (report, time) = migrate().await;
        let said = report.err().expect("it ends");
        for part in ["another session holds a lock", "postern migrate", "lock timeout"] {
            assert!(said.contains(part), "{said}");
        }
        // It tries for ten seconds, and a step takes longer on a busy machine.
        assert!((8..120).contains(&time.as_secs()), "{time:?}");
        let after = state().await;
        assert_eq!((after.0, after.1), (before.0 + migrated, before.1), "each step is whole or not there");
        assert_eq!(after.2.is_some(), migrated == 1);
        assert_eq!(after.3, before.3);
        holder.rollback().await.unwrap();
        assert_healthy(&server).await;
    }
    // A step that was done is not done again, and one that is missing is.
    let (report, _) = migrate().await;
    assert_eq!(report.unwrap().to_string(), "functions updated");
    assert_eq!(state().await.1, 1000);
    let (report, _) = migrate().await;
    assert_eq!(report.unwrap().to_string(), "the database is up to date");
}

#[tokio::test]
async fn a_migration_takes_as_long_as_it_needs_whatever_limits_of_time_hold_for_everybody() {
    let cluster = Cluster::start().await;
    cluster.limit_everybody(3).await;
    let slow = "DO $$ BEGIN PERFORM pg_catalog.pg_sleep(5); END $$";
    let release = Release::embedded().with_migration("V1000__slow", slow).unwrap();
    let report = release.migrate(&ConnectionString::new(cluster.admin_url())).await.unwrap().to_string();
    assert_eq!(report, "migrated: V1000__slow, and functions updated");
}

/// The next release is this one with a migration and a function more. Each of its parts uses the one before.
#[tokio::test]
async fn an_upgrade_brings_the_extension_then_migrations_then_functions_under_a_running_server() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let server = Server::start(&cluster).await;
    let next = cluster.offer_next_extension().await;
    let grants = fs::read_to_string(in_tree("sql/grants.sql")).unwrap();
    let release = Release::embedded()
        .with_migration(
            "V1000__greetings",
            "CREATE TABLE operator.greetings (greeting text PRIMARY KEY DEFAULT postern.greeting());
             INSERT INTO operator.greetings DEFAULT VALUES",
        )
        .unwrap()
        .with_file(
            "sql/operator/greet.sql",
            "-- operator.greet: says where it's from, in a header
             -- of two lines.
             --
             --   loudly: whether to shout
             CREATE OR REPLACE FUNCTION operator.greet(loudly boolean) RETURNS text
             LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
                 SELECT CASE WHEN loudly THEN upper(g.greeting) ELSE g.greeting END FROM operator.greetings g
             $$"
            .replace("\n             ", "\n")
            .as_str(),
        )
        .with_file(
            "sql/grants.sql",
            &(grants + "\nGRANT EXECUTE ON FUNCTION operator.greet TO postern_monitor;\n"),
        );
    let report = release.migrate(&ConnectionString::new(cluster.admin_url())).await.unwrap().to_string();
    assert_eq!(report, "migrated: V1000__greetings, and functions updated");
    let row = admin
        .query_one(
            "SELECT (SELECT extversion FROM pg_extension WHERE extname = 'postern'),
                    (SELECT relowner::regrole::text FROM pg_class WHERE oid = 'operator.greetings'::regclass),
                    obj_description('operator.greet(boolean)'::regprocedure, 'pg_proc')",
            &[],
        )
        .await
        .unwrap();
    assert_eq!((row.get(0), row.get(1)), (next.as_str(), "postern_owner"));
    assert_eq!(
        row.get::<_, &str>(2),
        "Says where it's from, in a header of two lines.\n\nloudly: whether to shout"
    );
    let greet = "SELECT operator.greet(false)";
    let greeted = cluster.connect_as("postern_monitor").await.query_one(greet, &[]).await.unwrap();
    assert_eq!(greeted.get::<_, &str>(0), "from the next version");
    let denied = cluster.connect_as("postern_server").await.query_one(greet, &[]).await.unwrap_err();
    assert_eq!(denied.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));

    // The migration is done once; the older program goes on, and says that the database is newer.
    let report = release.migrate(&ConnectionString::new(cluster.admin_url())).await.unwrap().to_string();
    assert_eq!(report, "the database is up to date");
    assert_healthy(&server).await;
    let output = run(&mut check(&cluster)).await;
    assert!(output.status.success(), "{}", text(&output));
    let report = text(&output);
    assert!(
        line(&report, "schema").unwrap().contains("at migration 1000, newer than this program"),
        "{report}"
    );
    assert!(line(&report, "extension").unwrap().contains(&next), "{report}");

    // A file that changed is applied again, with all others.
    let changed = Release::embedded().with_file(
        "sql/operator/upkeep.sql",
        &fs::read_to_string(in_tree("sql/operator/upkeep.sql"))
            .unwrap()
            .replace("-- operator.upkeep: shows", "-- operator.upkeep: tells"),
    );
    let fresh = Cluster::start().await;
    let report = changed.migrate(&ConnectionString::new(fresh.admin_url())).await.unwrap().to_string();
    assert_eq!(report, "functions updated");
    let described = "SELECT obj_description('operator.upkeep()'::regprocedure, 'pg_proc')";
    let described = fresh.admin().await.query_one(described, &[]).await.unwrap();
    assert!(described.get::<_, &str>(0).starts_with("Tells whether"), "{described:?}");
}

#[tokio::test]
async fn a_server_comes_back_to_its_database_after_a_crash() {
    let mut cluster = Cluster::start().await;
    let server = Server::start(&cluster).await;
    cluster.kill_postgres();
    cluster.restart().await;
    eventually("the server is ready again", || async {
        let answer = reqwest::get(format!("{}/ready", server.url())).await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
    let client = connect_to(&cluster.server_url()).await.unwrap();
    let row = client.query_one("SELECT operator.current_home_domain()", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), HOME);
}

#[tokio::test]
async fn help_names_every_setting_with_its_environment_variable() {
    for command in ["serve", "migrate", "check", "master-key change"] {
        let help = text(&run(postern().args(command.split(' ')).arg("--help")).await);
        for setting in ["--config", "--domain", "--embedded", "--max-body-bytes", "--log-format"] {
            assert!(help.contains(setting), "{setting} in:\n{help}");
        }
        // `--start` is a word for this once, and no setting.
        let flags = help.matches("\n      --").count() - help.matches("\n      --start").count();
        assert_eq!(help.matches("[env: POSTERN_").count(), flags, "{help}");
        assert!(help.contains("Examples:"), "{help}");
    }
}
