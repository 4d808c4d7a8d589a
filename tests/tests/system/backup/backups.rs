//! Backups that come to their end, and some that do not.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
};

use postern_tests_kit::{
    Cluster, DataDir, HOME, KeptOrder, PATIENCE, Server, connect_to, eventually, postern, program,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::timeout,
};

use super::{A_LINE, BackedUp, assert_tells_progress, fails, into_database, on, said, succeeds};

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
    let manifest = rename(&partial.join("manifest.json.new"), &partial.join("manifest.json"));
    // PostgreSQL's program syncs the files of its dump itself.
    for before in ["database", "manifest.mac", "manifest.json.new"] {
        assert!(sync(&partial.join(before)) < manifest, "{before}");
    }
    let named = rename(&partial, &dir);
    assert!(manifest < sync(&partial) && sync(&partial) < named, "the manifest's name");
    assert!(named < sync(places.path()), "the backup's own");
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
    dir.admin().await.batch_execute("ALTER SYSTEM SET max_prepared_transactions = 1").await.unwrap();
    assert!(server.terminate().await.success());
    // As if there were much to dump: a transaction that is prepared has its lock also after PostgreSQL's next start.
    let server = Server::embedded(&dir).start().await;
    let lock = "BEGIN; LOCK TABLE auth.former_names; PREPARE TRANSACTION 'lock'";
    dir.admin().await.batch_execute(lock).await.unwrap();
    assert!(server.terminate().await.success());
    let places = tempfile::tempdir().unwrap();
    let place = places.path().join("today");
    let mut backup = postern();
    backup.args(["backup", "--embedded", "--domain", HOME, "--data-dir"]).arg(dir.path()).arg(&place);
    let backup = backup.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let admin = dir.admin().await;
    eventually("the backup waits for the table", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity
                    WHERE application_name = 'postern backup' AND wait_event_type = 'Lock'";
        (admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) > 0).then_some(())
    })
    .await;
    let (postmaster, busy) = (dir.postmaster(), postern_busy(&dir).await);
    assert!(busy.contains("a command, such as `postern backup`"), "{busy}");
    let server = Server::embedded(&dir).start().await;
    assert_eq!(dir.postmaster(), postmaster, "PostgreSQL goes on");
    tokio::time::sleep(A_LINE).await;
    admin.batch_execute("ROLLBACK PREPARED 'lock'").await.unwrap();
    drop(admin);
    let output = backup.wait_with_output().await.unwrap();
    assert!(output.status.success());
    assert_tells_progress(&said(&output), "tables");
    succeeds(postern().args(["backup", "--verify"]).arg(&place)).await;
    assert!(server.terminate().await.success(), "it runs PostgreSQL, and stops it");
    assert_eq!(dir.postmaster(), None);
}

/// A server has its lock before PostgreSQL takes sessions, and until it has ended.
#[tokio::test]
async fn a_backup_waits_for_a_server_that_starts_or_stops_postgresql() {
    let dir = DataDir::migrated().await;
    assert!(Server::embedded(&dir).start().await.terminate().await.success());
    let lock = File::options().write(true).open(dir.path().join("lock")).unwrap();
    lock.lock().unwrap();
    let places = tempfile::tempdir().unwrap();
    let place = places.path().join("today");
    let mut backup = postern();
    backup.args(["backup", "--embedded", "--domain", HOME, "--data-dir"]).arg(dir.path()).arg(&place);
    let mut backup = backup.stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(backup.stderr.take().unwrap()).lines();
    let mut said = String::new();
    timeout(PATIENCE, async {
        while !said.contains("another process starts or stops PostgreSQL") {
            let line = lines.next_line().await.unwrap();
            let line = line.unwrap_or_else(|| panic!("it ended: {said}"));
            said += &line;
        }
    })
    .await
    .expect("it waits");
    drop(lock);
    assert!(timeout(PATIENCE, backup.wait()).await.expect("it ends").unwrap().success());
    succeeds(postern().args(["backup", "--verify"]).arg(&place)).await;
    assert_eq!(dir.postmaster(), None);
}

/// Runs an upgrade of the cluster that finds it busy; returns what it says.
async fn postern_busy(dir: &DataDir) -> String {
    let mut upgrade = postern();
    upgrade.args(["upgrade-cluster", "--domain", HOME, "--data-dir"]).arg(dir.path());
    said(&upgrade.output().await.expect("it runs"))
}

/// PostgreSQL's programs, of which those that connect wait for so many seconds first; returns their `pg_config`.
fn waiting_programs(place: &Path, seconds: u32) -> PathBuf {
    let script = |name: &str, text: String| {
        let (source, path) = (place.join("source"), place.join(name));
        fs::write(&source, format!("#!/bin/sh\n{text}\n")).unwrap();
        // Not by this process: a child of another test could hold it open for writing when it is run.
        let installed = std::process::Command::new("install").arg(&source).arg(&path).status().unwrap();
        assert!(installed.success());
        path
    };
    fs::create_dir(place).unwrap();
    for name in ["pg_dump", "pg_restore"] {
        let wait = format!("case \"$*\" in *--dbname=*) sleep {seconds};; esac");
        script(name, format!("{wait}\nexec {} \"$@\"", program(name).display()));
    }
    script("pg_config", format!("echo {}", place.display()))
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_time_that_hold_for_everybody_end_no_backup_and_no_restore() {
    // All that takes long takes longer than a limit: the programs, making an index, its statistics.
    let slow = "CREATE FUNCTION public.slowly(integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE
                    AS 'BEGIN PERFORM pg_catalog.pg_sleep(6); RETURN $1; END';
                CREATE TABLE public.slow (number integer); INSERT INTO public.slow VALUES (7);
                CREATE INDEX ON public.slow (public.slowly(number))";
    let BackedUp { admin, cluster, places, elsewhere, .. } = BackedUp::start_with(slow).await;
    let programs = waiting_programs(&places.path().join("waiting"), 6);
    cluster.limit_everybody(4).await;
    // The restored database is to be read-only by default, too.
    admin.batch_execute("ALTER DATABASE postern SET default_transaction_read_only = on").await.unwrap();

    let dir = places.path().join("limited");
    let said = succeeds(on(&cluster, "backup", &dir).env("PG_CONFIG", &programs)).await;
    assert!(said.contains("verified"), "{said}");
    let said = succeeds(into_database(&cluster, &dir, &elsewhere).env("PG_CONFIG", &programs)).await;
    assert!(said.contains("restored: "), "{said}");
    let client = connect_to(&elsewhere).await.unwrap();
    let found = "SELECT (SELECT number FROM public.slow), current_setting('default_transaction_read_only'),
                        (SELECT undecided FROM operator.current_generation())";
    let row = client.query_one(found, &[]).await.unwrap();
    assert_eq!((row.get::<_, i32>(0), row.get::<_, &str>(1), row.get::<_, &str>(2)), (7, "on", "no"));
}
