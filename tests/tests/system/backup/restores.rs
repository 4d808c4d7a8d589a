//! Restores that are refused, that fail or are killed on their way, and one into a later PostgreSQL.

use std::{
    fs,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::Stdio,
};

use postern_tests_kit::{Cluster, DataDir, HOME, Killer, Server, connect_to, eventually, postern};

use super::{
    A_LINE, BackedUp, assert_tells_progress, end, fails, into, into_database, let_everybody_in, on, said,
    succeeds,
};
use crate::{bad_days::Talk, own_address};

/// The lock of `postern migrate`.
const MIGRATING: i64 = 0x706f_7374_6572_6e00;

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_refuses_what_does_not_fit_and_leaves_everything_as_it_was() {
    let BackedUp { admin, cluster, places, dir, elsewhere } = BackedUp::start().await;
    succeeds(postern().args(["backup", "--verify"]).arg(&dir)).await;
    let restore = |dir: &Path| into_database(&cluster, dir, &elsewhere);
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

    let client = connect_to(&elsewhere).await.unwrap();
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
    let client = connect_to(&elsewhere).await.unwrap();
    assert_eq!(client.query_one(found, &[]).await.unwrap().get::<_, i64>(0), 0, "nothing was left");
    end(&admin, client).await;

    let said = succeeds(&mut restore(&dir)).await;
    assert!(said.contains("restored: "), "{said}");
    let client = connect_to(&elsewhere).await.unwrap();
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
    let elsewhere = other.another_database("elsewhere").await;
    let restore = || into_database(&cluster, &dir, &elsewhere);
    // An event trigger kills it when the first index is made: all data that come before are there.
    let client = connect_to(&elsewhere).await.unwrap();
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
    let client = connect_to(&elsewhere).await.unwrap();
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

#[tokio::test]
async fn a_restore_whose_last_step_fails_removes_nothing_for_servers_may_have_come_in() {
    let BackedUp { admin, cluster, places: _places, dir, elsewhere } = BackedUp::start().await;
    // An event trigger keeps it at its first index until somebody has an advisory lock.
    let client = connect_to(&elsewhere).await.unwrap();
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
    let mut restoring = into_database(&cluster, &dir, &elsewhere);
    restoring.stdout(Stdio::piped()).stderr(Stdio::piped());
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
    let holder = connect_to(&elsewhere).await.unwrap();
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
    end(&admin, holder).await;

    let mut migrate = postern();
    migrate.arg("migrate").env("POSTERN_DOMAIN", HOME).env("POSTERN_DATABASE_ADMIN_URL", &elsewhere);
    let marks = "SELECT count(*) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
                  WHERE d.datname = 'elsewhere' AND s.setconfig::text LIKE '%postern_restore%'";
    let marks = async || -> i64 { admin.query_one(marks, &[]).await.unwrap().get(0) };
    assert_eq!(marks().await, 1, "the same command would end it, too");
    succeeds(&mut migrate).await;
    assert_eq!(marks().await, 0, "it is no restore's any more");
    let_everybody_in(&cluster).await;
    let url = cluster.server_url().replace("dbname=postern", "dbname=elsewhere");
    drop(Server::builder(&cluster).database(&url).start().await);
    let client = connect_to(&elsewhere).await.unwrap();
    let open = "SELECT generation > 0 AND undecided = 'no'
                       AND has_database_privilege('postern_server', current_database(), 'CONNECT')
                  FROM operator.current_generation()";
    assert!(client.query_one(open, &[]).await.unwrap().get::<_, bool>(0), "it is whole, and open to servers");
    end(&admin, client).await;
    fails(&mut into_database(&cluster, &dir, &elsewhere), "is not empty").await;
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
async fn settings_of_a_private_cluster_come_back_and_those_that_it_does_not_start_with_are_put_aside() {
    let dir = DataDir::migrated().await;
    let server = Server::embedded(&dir).start().await;
    let admin = dir.admin().await;
    let key = fs::read_to_string(dir.path().join("master.key")).unwrap();
    let set = async |setting: &str| {
        admin.batch_execute(&format!("ALTER SYSTEM SET {setting}")).await.unwrap();
    };
    let places = tempfile::tempdir().unwrap();
    let back_up = async |name: &str| {
        let place = places.path().join(name);
        let mut backup = postern();
        backup.arg("backup").arg(&place).args(["--embedded", "--domain", HOME, "--data-dir"]);
        succeeds(backup.arg(dir.path())).await;
        place
    };
    // They are not in effect: PostgreSQL was neither told nor started anew.
    set("work_mem = '5MB'").await;
    set("max_connections = 110").await;
    set("archive_mode = on").await;
    set("archive_command = 'true ''%p'' \"a\\b\"'").await;
    set("synchronous_standby_names = 'ANY 1 (standby1)'").await;
    set("primary_conninfo = 'host=nowhere password=secret'").await;
    let good = back_up("good").await;
    let manifest = fs::read_to_string(good.join("manifest.json")).unwrap();
    assert!(manifest.contains("max_connections") && !manifest.contains("secret"), "{manifest}");
    set("shared_preload_libraries = 'nowhere'").await;
    let bad = back_up("bad").await;
    drop(admin);
    assert!(server.terminate().await.success());

    // Killed once it has tried them, it has them from the next one, which has nothing else to do and says which they are,
    // whatever backup it names.
    let killed = DataDir::fresh();
    Killer::compiled().kill(&mut into(&killed, &good, key.trim()), "unlink", "/restoring").await;
    let output = into(&killed, &bad, key.trim()).output().await.expect("it runs");
    let told = said(&output);
    for part in [
        "had come to its end",
        "were taken over as they were: work_mem, max_connections, archive_mode, archive_command.",
    ] {
        assert!(!output.status.success() && told.contains(part), "{part} in {told}");
    }
    let whole = DataDir::fresh();
    let said = succeeds(&mut into(&whole, &good, key.trim())).await;
    for part in [
        "were taken over as they were: work_mem, max_connections, archive_mode, archive_command.",
        "left out: the setting synchronous_standby_names = \"ANY 1 (standby1)\"",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let aside = |dir: &DataDir| dir.cluster().join("postgresql.auto.conf.restored");
    for dir in [&killed, &whole] {
        let server = Server::embedded(dir).env("POSTERN_MASTER_KEY", key.trim()).start().await;
        let settings = "SELECT ARRAY(SELECT current_setting(s.name)
                                       FROM unnest('{work_mem,max_connections,archive_mode,archive_command,
                                                     synchronous_standby_names,primary_conninfo}'::text[]) AS s (name))";
        let settings: Vec<String> = dir.admin().await.query_one(settings, &[]).await.unwrap().get(0);
        assert_eq!(settings, ["5MB", "110", "on", "true '%p' \"a\\b\"", "", ""]);
        assert!(!aside(dir).exists());
        assert!(server.terminate().await.success());
    }

    let without = DataDir::fresh();
    let said = succeeds(&mut into(&without, &bad, key.trim())).await;
    for part in ["PostgreSQL does not start here", "could not access file", "postgresql.auto.conf.restored"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(fs::read_to_string(aside(&without)).unwrap().contains("shared_preload_libraries = 'nowhere'"));
    let restored = Server::embedded(&without).env("POSTERN_MASTER_KEY", key.trim()).start().await;
    assert!(restored.terminate().await.success());

    // A PostgreSQL of one's own is nobody's to set.
    let own = Cluster::fresh().await;
    let said = succeeds(on(&own, "restore", &good).env("POSTERN_MASTER_KEY", key.trim())).await;
    assert!(
        said.contains("are yours to make") && said.contains("had set work_mem, max_connections"),
        "{said}"
    );
}

/// As when the terminal is closed. SIGHUP ends it as long as it removes what it made; from the generation on it has to come to its
/// end, or its mark stays.
#[tokio::test]
async fn a_restore_that_nobody_listens_to_any_more_comes_to_its_end() {
    let cluster = Cluster::start().await;
    drop(Server::start(&cluster).await);
    let places = tempfile::tempdir().unwrap();
    let dir = places.path().join("good");
    succeeds(&mut on(&cluster, "backup", &dir)).await;
    let data_dir = DataDir::fresh();
    let (nobody, terminal) = UnixStream::pair().unwrap();
    drop(nobody);
    let mut restore = into(&data_dir, &dir, cluster.master_key());
    restore.stdout(Stdio::from(OwnedFd::from(terminal))).stderr(Stdio::piped());
    let output = restore.spawn().unwrap().wait_with_output().await.unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let server = Server::embedded(&data_dir).env("POSTERN_MASTER_KEY", cluster.master_key()).start().await;
    assert!(server.terminate().await.success());
}

/// The way to a later PostgreSQL by a dump, as for a database of one's own (OPS-5, OPS-7).
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs two versions of PostgreSQL: make test-majors"]
async fn a_backup_of_the_oldest_postgresql_is_restored_into_each_later_one() {
    let all = std::env::var("POSTERN_PG_CONFIGS").expect("make test-majors says which there are");
    let (old, newer) = all.split_once(':').expect("there is more than one version of PostgreSQL");
    for new in newer.split(':') {
        let (dir, backups) = (DataDir::fresh(), tempfile::tempdir().unwrap());
        let server = Server::embedded(&dir).env("PG_CONFIG", old).listen(own_address()).start().await;
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
