//! `postern setup`, killed: no server starts that lets in others than setup was told (AS-1), and the same command goes on.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::PathBuf,
};

use nix::unistd::{Uid, User};
use postern_tests_kit::{Cluster, DataDir, HOME, Killer, Server, connect_to, eventually, postern};
use tempfile::TempDir;
use tokio::process::Command;

use crate::backup::{fails, into, on, succeeds};

/// The place of a file that setup has to write, and the command.
fn setup() -> (TempDir, PathBuf, impl Fn() -> Command) {
    setup_for(User::from_uid(Uid::effective()).unwrap().expect("we have a name"))
}

/// The same for a server that runs as this user.
fn setup_for(user: User) -> (TempDir, PathBuf, impl Fn() -> Command) {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let file = dir.path().join("etc/postern.toml");
    let path = file.clone();
    let command = move || {
        let mut command = postern();
        command.arg("setup").arg("--config").arg(&path).args(["--user", &user.name]);
        command.args(["--non-interactive", "--domain", HOME]);
        command.args(["--proxy-addresses", "127.0.0.1", "--proxy-source", "x-forwarded-for"]);
        command
    };
    (dir, file, command)
}

#[tokio::test]
async fn a_setup_that_is_killed_between_two_steps_is_done_by_the_same_command() {
    let cluster = Cluster::start().await;
    // An empty database.
    let (admin_url, server_url) = (cluster.admin_url(), cluster.server_url());
    let elsewhere = connect_to(&admin_url.replace("dbname=postern", "dbname=postgres")).await.unwrap();
    elsewhere.batch_execute("DROP DATABASE postern WITH (FORCE)").await.unwrap();
    elsewhere.batch_execute("CREATE DATABASE postern").await.unwrap();
    let (dir, file, setup) = setup();
    let setup = || {
        let mut command = setup();
        command.args(["--registration", "invite"]);
        command.args(["--database-url", &server_url, "--database-admin-url", &admin_url]);
        command
    };
    let key = file.with_file_name("master.key");
    let killer = Killer::compiled();
    // In the order in which they come, each on what the one before left.
    for (step, path, written) in [
        ("mkdir", "/etc", [false, false]),
        ("open", "postern.toml.new", [false, false]),
        ("rename", "postern.toml.new>", [false, false]),
        ("open", "master.key.new", [true, false]),
        ("link", "master.key.new", [true, false]),
    ] {
        killer.kill(&mut setup(), step, path).await;
        assert_eq!([file.exists(), key.exists()], written, "{step} {path}");
    }
    // In the middle of the migrations, at the first function.
    let database = connect_to(&admin_url).await.unwrap();
    database
        .batch_execute(
            "CREATE FUNCTION public.wait() RETURNS event_trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM pg_sleep(600); END $$;
             CREATE EVENT TRIGGER waits ON ddl_command_start WHEN TAG IN ('CREATE FUNCTION')
                 EXECUTE FUNCTION public.wait()",
        )
        .await
        .unwrap();
    let mut migrating = setup().kill_on_drop(true).spawn().unwrap();
    eventually("it migrates", async || {
        let sql =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = 'postern' AND wait_event = 'PgSleep'";
        (elsewhere.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) > 0).then_some(())
    })
    .await;
    migrating.kill().await.unwrap();
    let made = fs::read(&key).unwrap();
    let end = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    elsewhere.batch_execute(end).await.unwrap();
    database.batch_execute("DROP EVENT TRIGGER waits; DROP FUNCTION public.wait()").await.unwrap();
    drop(database);

    let said = succeeds(&mut setup()).await;
    assert!(said.contains("it says so already") && said.contains("ok       registration: invite"), "{said}");
    assert_eq!(fs::read(&key).unwrap(), made, "it is the key of before");
    let server = Server::builder(&cluster).arg("--config").arg(file.to_str().unwrap());
    let server = server.env("POSTERN_MASTER_KEY", String::from_utf8_lossy(&made).trim()).start().await;
    assert!(server.terminate().await.success());
    drop(dir);
}

#[tokio::test]
async fn a_setup_that_is_killed_leaves_no_server_that_admits_others_than_it_was_told() {
    let killer = Killer::compiled();
    // The policy is asked for, or is the one of a new homeserver.
    for asked in [&["--registration", "invite"][..], &[]] {
        let cluster = Cluster::fresh().await;
        let (admin_url, server_url) = (cluster.admin_url(), cluster.server_url());
        let (dir, file, setup) = setup();
        let setup = || {
            let mut command = setup();
            command.args(asked);
            command.args(["--database-url", &server_url, "--database-admin-url", &admin_url]);
            command
        };
        let start = || Server::builder(&cluster).arg("--config").arg(file.to_str().expect("it is text"));
        // The functions are being made; they are made, and the policy is not set.
        for text in ["INSERT INTO operator.schema_state", "SELECT operator.set_registration_policy("] {
            killer.kill(&mut setup(), "write", text).await;
            assert!(file.exists(), "{text}");
            let refusal = start().try_start().await.err().expect("it ends");
            assert!(refusal.contains("was `postern migrate` run on it?"), "{text}: {refusal}");
        }
        // All of it is done, and not said.
        killer.kill(&mut setup(), "write", "postern: functions updated").await;
        let server = start().start().await;
        let admin = cluster.admin().await;
        let policy = admin.query_one("SELECT operator.registration_policy()", &[]).await.unwrap();
        assert_eq!(policy.get::<_, &str>(0), "invite", "{asked:?}");
        assert!(server.terminate().await.success());
        let said = succeeds(&mut setup()).await;
        assert!(said.contains("ok       registration: invite"), "{said}");
        drop(dir);
    }
}

#[tokio::test]
async fn a_setup_of_a_private_cluster_that_is_killed_is_done_by_the_same_command() {
    let data_dir = DataDir::fresh();
    let (dir, file, setup) = setup();
    let setup = || {
        let mut command = setup();
        command.args(["--registration", "invite", "--data-dir"]).arg(data_dir.path());
        command
    };
    let config = file.to_str().expect("it is text");
    let undone = "`postern setup` did not come to its end";
    let killer = Killer::compiled();
    // Nothing tells of a cluster yet.
    for (step, path) in [("open", "/setup"), ("rename", "postern.toml.new>")] {
        killer.kill(&mut setup(), step, path).await;
        assert!(data_dir.path().join("setup").exists() && !file.exists(), "{step} {path}");
    }
    // In the order in which they come, each on what the one before left. A server would migrate the cluster by itself, and
    // everybody could register.
    for (step, path, is_made) in [
        // The file says that there is a cluster, and nothing of one is there.
        ("open", "/lock", false),
        // There is one, but for its name.
        ("rename", "cluster.new>", false),
        ("write", "checksum) VALUES (3,", true),
        ("write", "SELECT operator.set_registration_policy(", true),
        ("write", "postern: functions updated", true),
        // It was never made.
        ("link", "master.key.new", true),
        // Nothing is left to do.
        ("unlink", "/setup", true),
    ] {
        killer.kill(&mut setup(), step, path).await;
        assert_eq!(data_dir.cluster().exists(), is_made, "{step} {path}");
        assert_eq!(data_dir.path().join("master.key").exists(), step == "unlink", "{step} {path}");
        let refusal = Server::embedded(&data_dir).arg("--config").arg(config).try_start().await;
        let refusal = refusal.err().expect("it ends");
        assert!(refusal.contains(undone), "{step} {path}: {refusal}");
        fails(postern().args(["migrate", "--config", config]), undone).await;
        fails(
            postern().args(["check", "--config", config]),
            "problem  private cluster: `postern setup` did not",
        )
        .await;
    }
    let said = succeeds(&mut setup()).await;
    assert!(said.contains("it says so already") && said.contains("ok       registration: invite"), "{said}");
    assert_eq!(data_dir.postmaster(), None, "also what the killed one had started");
    let server = Server::embedded(&data_dir).arg("--config").arg(config).start().await;
    assert!(server.terminate().await.success());
    drop(dir);
}

#[tokio::test]
async fn a_restore_where_a_setup_was_killed_makes_a_homeserver_that_serves_with_the_policy_of_its_backup() {
    let cluster = Cluster::start().await;
    assert!(Server::start(&cluster).await.terminate().await.success());
    let invite = "SELECT operator.set_registration_policy('invite')";
    cluster.admin().await.execute(invite, &[]).await.unwrap();
    let backups = tempfile::tempdir().unwrap();
    let today = backups.path().join("today");
    succeeds(&mut on(&cluster, "backup", &today)).await;
    let data_dir = DataDir::fresh();
    let (dir, file, setup) = setup();
    let mut setup = setup();
    setup.args(["--registration", "open", "--data-dir"]).arg(data_dir.path());
    Killer::compiled().kill(&mut setup, "open", "/lock").await;
    let mark = data_dir.path().join("setup");
    assert!(mark.exists() && file.exists());
    succeeds(&mut into(&data_dir, &today, cluster.master_key())).await;
    assert!(!mark.exists());
    let server = Server::embedded(&data_dir).env("POSTERN_MASTER_KEY", cluster.master_key()).start().await;
    let policy = "SELECT operator.registration_policy()";
    let policy = data_dir.admin().await.query_one(policy, &[]).await.unwrap();
    assert_eq!(policy.get::<_, &str>(0), "invite");
    assert!(server.terminate().await.success());
    drop(dir);
}

mod as_root {
    use super::*;
    use crate::expect_root;

    #[tokio::test]
    async fn a_setup_that_is_killed_before_it_gives_the_data_directory_away_goes_on_with_an_empty_one() {
        expect_root("set up a server of another user");
        let nobody = User::from_name("nobody").unwrap().expect("every system has one");
        let (owner, group) = (nobody.uid.as_raw(), nobody.gid.as_raw());
        let (dir, file, setup) = setup_for(nobody);
        let data_dir = dir.path().join("srv/postern/data");
        let setup = || {
            let mut command = setup();
            command.arg("--data-dir").arg(&data_dir);
            command
        };
        let its_owner = || fs::metadata(&data_dir).unwrap().uid();
        let killer = Killer::compiled();
        killer.kill(&mut setup(), "chown", "/postern/data").await;
        assert_eq!((its_owner(), file.exists()), (0, false));
        // It has the directory, and is about to make the cluster in it, as its user.
        killer.kill(&mut setup(), "open", "/postern/data/lock").await;
        assert_eq!((its_owner(), file.exists()), (owner, true));

        // Root's with something in it is another matter, and so is an empty one that others can look into.
        let refused = "belongs to another user than nobody";
        chown(&data_dir, Some(0), Some(0)).unwrap();
        fails(&mut setup(), refused).await;
        fs::remove_dir_all(&data_dir).unwrap();
        fs::create_dir(&data_dir).unwrap();
        fs::set_permissions(&data_dir, Permissions::from_mode(0o755)).unwrap();
        fails(setup().args(["--new-cluster"]), refused).await;
        assert_eq!((its_owner(), fs::read_dir(&data_dir).unwrap().count()), (0, 0));
        chown(&data_dir, Some(owner), Some(group)).unwrap();
        killer.kill(setup().arg("--new-cluster"), "open", "/postern/data/lock").await;
    }
}
