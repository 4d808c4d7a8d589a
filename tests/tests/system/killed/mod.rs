//! Commands that are killed (SIGKILL) between their steps. The same command, given again, does its work or says what to do;
//! what is not whole is taken for nothing, and what was accepted stays (OPS-5, OPS-7).
//!
//! Elsewhere: a restore that makes indexes (backup/), `upgrade-cluster` (upgrade_cluster.rs).

mod master_key;
mod migrate;
mod setup;

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use nix::sys::signal::Signal;
use postern_tests_kit::{
    Cluster, DataDir, HOME, Killer, Server, ServerBuilder, connect_to, eventually, postern, process, program,
};
use tokio::process::Command;

use crate::{
    backup::{BackedUp, end, fails, into, into_database, on, succeeds},
    bad_days::Talk,
};

/// An operator's own things in Postern's database, of the kinds that a restore meets.
const OPERATORS: &str = "
    CREATE SCHEMA ops;
    CREATE TYPE ops.watch AS (name text, hours integer);
    CREATE TABLE ops.watches (number integer GENERATED ALWAYS AS IDENTITY, watch ops.watch);
    INSERT INTO ops.watches (watch) VALUES (('night', 8));
    CREATE TYPE public.mood AS ENUM ('calm', 'busy');
    CREATE TYPE public.span AS RANGE (subtype = integer);
    CREATE DOMAIN public.line AS text CHECK (length(VALUE) < 100);
    CREATE TABLE public.notes (number serial PRIMARY KEY, mood public.mood, text public.line);
    INSERT INTO public.notes (mood, text) VALUES ('calm', 'one'), ('busy', 'two');
    CREATE VIEW public.calm AS SELECT n.number FROM public.notes n WHERE n.mood = 'calm';
    CREATE STATISTICS public.notes_moods ON mood, text FROM public.notes;
    CREATE FUNCTION public.notes_in_all() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM public.notes; END;
    CREATE SEQUENCE public.tickets;
    CREATE FUNCTION public.watch() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN NULL; END $$;
    CREATE EVENT TRIGGER watches ON sql_drop EXECUTE FUNCTION public.watch();
    CREATE PUBLICATION notes FOR TABLE public.notes;
    CREATE SUBSCRIPTION far CONNECTION 'host=far.invalid' PUBLICATION far WITH (connect = false, slot_name = NONE);
    COMMENT ON SUBSCRIPTION far IS 'A restore does not bring it';
    SELECT lo_create(4711)";

/// People talk by the server that runs, and by one that starts in its place.
async fn people_go_on(server: Server, next: ServerBuilder, talk: &mut Talk, after: &str) -> Server {
    talk.goes_on(&format!("said after {after}")).await;
    let address = server.address();
    assert!(server.terminate().await.success());
    let server = next.listen(address).start().await;
    talk.goes_on(&format!("said after {after} to the next server")).await;
    server
}

fn names_in(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// PostgreSQL's programs for dumps, one of which is a script. `{real}` in it is the program whose name it has. Returns the
/// pg_config that names them.
fn programs(place: &Path, name: &str, script: &str) -> PathBuf {
    let write = |name: &str, script: &str| {
        let path = place.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        path
    };
    for program_name in ["pg_dump", "pg_restore"] {
        let real = program(program_name).display().to_string();
        let script = match program_name == name {
            true => {
                format!("[ \"$*\" != --version ] || exec {real} \"$@\"\n{}", script.replace("{real}", &real))
            }
            false => format!("exec {real} \"$@\""),
        };
        write(program_name, &script);
    }
    write("pg_config", &format!("echo {}", place.display()))
}

/// Runs a command that kills itself.
async fn is_killed(command: &mut Command) -> String {
    let output = command.output().await.expect("it runs");
    let said =
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(9), "{said}");
    said
}

#[tokio::test]
async fn a_backup_that_is_killed_between_two_steps_is_none_and_the_same_command_makes_one() {
    let cluster = Cluster::start().await;
    drop(Server::start(&cluster).await);
    let places = tempfile::tempdir().unwrap();
    let place = |name: &str| places.path().join(name);
    let backup = |name: &str| on(&cluster, "backup", &place(name));
    let killer = Killer::compiled();
    succeeds(&mut backup("first")).await;
    // In the order in which they come, each on what the one before left.
    for (step, path, is_marked) in [
        // Before anything is in it.
        ("fsync", "today.partial/database", false),
        // The dump is there.
        ("open", "manifest.mac", false),
        ("open", "manifest.json.new", false),
        ("rename", "manifest.json.new>", false),
        // All of it is there, but for its name.
        ("rename", "today.partial>", true),
    ] {
        killer.kill(&mut backup("today"), step, path).await;
        assert_eq!(names_in(places.path()), ["first", "today.partial"], "{step} {path}");
        assert_eq!(place("today.partial/manifest.json").exists(), is_marked, "{step} {path}");
        fails(&mut on(&cluster, "restore", &place("today")), "there is no backup").await;
    }
    succeeds(&mut backup("today")).await;
    succeeds(postern().args(["backup", "--verify"]).arg(place("today"))).await;
    assert_eq!(names_in(places.path()), ["first", "today"]);

    // It has its name, and older ones are about to go: it is there, and says so; the next one does the rest.
    killer.kill(backup("later").args(["--keep", "1"]), "rename", "/today>").await;
    assert_eq!(names_in(places.path()), ["first", "later", "today"]);
    fails(&mut backup("later"), "exists already, a backup that is whole").await;
    succeeds(backup("last").args(["--keep", "1"])).await;
    assert_eq!(names_in(places.path()), ["last"]);
}

#[tokio::test]
async fn a_backup_that_is_killed_takes_its_programs_with_it_or_keeps_its_place_as_long_as_one_works() {
    let cluster = Cluster::start().await;
    drop(Server::start(&cluster).await);
    let places = tempfile::tempdir().unwrap();
    let today = places.path().join("today");
    let backup = || on(&cluster, "backup", &today);

    // It waits for a table, and so does pg_dump.
    let (admin, other) = (cluster.admin().await, cluster.admin().await);
    admin.batch_execute("BEGIN; LOCK TABLE qs.messages").await.unwrap();
    let mut waiting = backup().kill_on_drop(true).spawn().unwrap();
    eventually("pg_dump waits for the table", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity
                    WHERE application_name = 'postern backup' AND wait_event_type = 'Lock'";
        (other.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) > 0).then_some(())
    })
    .await;
    let children = process::children(waiting.id().expect("it runs"));
    assert!(!children.is_empty());
    waiting.kill().await.unwrap();
    process::wait_until_gone(&children);
    admin.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(names_in(places.path()), ["today.partial"]);
    succeeds(&mut backup()).await;
    fs::remove_dir_all(&today).unwrap();

    // A child of the program outlives both, and may write still.
    let bin = tempfile::tempdir().unwrap();
    let pid = bin.path().join("pid");
    let script = format!("sleep 600 &\necho $! >{0}.new\nmv {0}.new {0}\nwait", pid.display());
    let pg_config = programs(bin.path(), "pg_dump", &script);
    let mut writing = backup().env("PG_CONFIG", pg_config).kill_on_drop(true).spawn().unwrap();
    let writer: u32 =
        eventually("it writes", async || fs::read_to_string(&pid).ok()?.trim().parse().ok()).await;
    writing.kill().await.unwrap();
    fails(&mut backup(), "is in use by another backup, or by the pg_dump of one that was killed").await;
    assert_eq!(names_in(places.path()), ["today.partial"]);
    process::signal(&[writer], Signal::SIGKILL);
    process::wait_until_gone(&[writer]);
    succeeds(&mut backup()).await;
    succeeds(postern().args(["backup", "--verify"]).arg(&today)).await;
    assert_eq!(names_in(places.path()), ["today"]);
}

#[tokio::test]
async fn a_restore_that_is_killed_between_two_steps_serves_nobody_and_the_same_command_ends_it() {
    let BackedUp { admin, cluster, places, dir, elsewhere } = BackedUp::start_with(OPERATORS).await;
    // A database that a restore takes for empty has this: it is not the restore's.
    let before = "CREATE SCHEMA tools; CREATE FUNCTION tools.mine() RETURNS integer LANGUAGE sql RETURN 1;
                  CREATE FUNCTION public.mine() RETURNS integer LANGUAGE sql RETURN 2";
    let client = connect_to(&elsewhere).await.unwrap();
    client.batch_execute(before).await.unwrap();
    end(&admin, client).await;
    let restore = |dir: &Path| into_database(&cluster, dir, &elsewhere);
    let migrate = || {
        let mut command = postern();
        command.arg("migrate").env("POSTERN_DOMAIN", HOME).env("POSTERN_DATABASE_ADMIN_URL", &elsewhere);
        command
    };
    // Each of its calls of pg_restore, in their order: the list, everything but the last row, that row. Each attempt
    // finds what the one before left.
    let last = "case \"$*\" in *--jobs=1*) ;; *) exec {real} \"$@\";; esac";
    // One that fails has removed everything that it made, and that an operator did.
    let bin = tempfile::tempdir().unwrap();
    let pg_config = programs(bin.path(), "pg_restore", &format!("{last}\nexit 1"));
    fails(restore(&dir).args(["--jobs", "2"]).env("PG_CONFIG", pg_config), "pg_restore failed").await;
    let client = connect_to(&elsewhere).await.unwrap();
    let left = "SELECT coalesce(string_agg(o.what, ' ' ORDER BY o.what), '')
                  FROM (SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace
                         UNION ALL SELECT t.typname FROM pg_type t WHERE t.typnamespace = 'public'::regnamespace
                         UNION ALL SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace
                         UNION ALL SELECT s.stxname FROM pg_statistic_ext s
                         UNION ALL SELECT e.evtname FROM pg_event_trigger e
                         UNION ALL SELECT p.pubname FROM pg_publication p
                         UNION ALL SELECT s.subname FROM pg_subscription s
                                     JOIN pg_database d ON d.oid = s.subdbid AND d.datname = current_database()
                         UNION ALL SELECT 'large object' FROM pg_largeobject_metadata
                         UNION ALL SELECT n.nspname FROM pg_namespace n
                                    WHERE n.oid >= 16384 AND n.nspname !~ '^pg_') o (what)";
    let left: String = client.query_one(left, &[]).await.unwrap().get(0);
    assert_eq!(left, "mine tools", "only what was there before");
    end(&admin, client).await;
    for (step, script) in [
        ("nothing is there", "kill -9 $PPID".to_owned()),
        ("the last row is missing", format!("{last}\nkill -9 $PPID")),
        ("another generation is missing", format!("{last}\n{{real}} \"$@\"\nkill -9 $PPID")),
    ] {
        let bin = tempfile::tempdir().unwrap();
        let pg_config = programs(bin.path(), "pg_restore", &script);
        let said = is_killed(restore(&dir).args(["--jobs", "2"]).env("PG_CONFIG", pg_config)).await;
        assert_eq!(
            said.contains("removing what an interrupted restore left"),
            step != "nothing is there",
            "{said}"
        );
        fails(&mut migrate(), "is not whole").await;
    }
    // Another backup is not taken for the one that is there.
    let other = places.path().join("other");
    succeeds(&mut on(&cluster, "backup", &other)).await;
    fails(&mut restore(&other), "has everything of another backup").await;
    let of = "SELECT split_part(c.setting, '=', 2)
                FROM pg_db_role_setting s
                JOIN pg_database d ON d.oid = s.setdatabase AND d.datname = 'elsewhere'
               CROSS JOIN LATERAL unnest(s.setconfig) AS c (setting)
               WHERE s.setrole = 0 AND c.setting LIKE 'postern_restore.%'";
    let mark: String = admin.query_one(of, &[]).await.unwrap().get(0);
    let said = succeeds(&mut restore(&dir)).await;
    for part in ["doing its last steps", "postern: generation ", "restored: "] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(admin.query_opt(of, &[]).await.unwrap().is_none(), "it is no restore's any more");
    let restored = connect_to(&elsewhere).await.unwrap();
    let state = "SELECT g.generation > 0 AND g.undecided = 'no' FROM operator.current_generation() g";
    assert!(restored.query_one(state, &[]).await.unwrap().get::<_, bool>(0));
    let theirs = "SELECT (SELECT count(*) FROM public.notes), public.notes_in_all(), (SELECT count(*) FROM public.calm),
                         nextval('public.notes_number_seq'), (SELECT count(*) FROM ops.watches),
                         (SELECT count(*) FROM pg_event_trigger), (SELECT count(*) FROM pg_largeobject_metadata),
                         (tools.mine() + public.mine())::bigint,
                         (SELECT count(*) FROM pg_subscription s
                            JOIN pg_database d ON d.oid = s.subdbid AND d.datname = current_database())";
    let theirs = restored.query_one(theirs, &[]).await.unwrap();
    let theirs: Vec<i64> = (0..theirs.len()).map(|column| theirs.get(column)).collect();
    assert_eq!(theirs, [2, 2, 1, 3, 1, 1, 1, 3, 0], "everything is there, once, but for the subscription");
    let number = "SELECT generation FROM operator.current_generation()";
    let generation: i64 = restored.query_one(number, &[]).await.unwrap().get(0);

    // As a kill between the new generation and the opening of the database to servers leaves it.
    let begun = format!(
        "ALTER DATABASE elsewhere SET postern_restore.unfinished = '{} begun'",
        mark.split(' ').next().unwrap()
    );
    let closed = format!("{begun}; REVOKE CONNECT ON DATABASE elsewhere FROM postern_server");
    admin.batch_execute(&closed).await.unwrap();
    let said = succeeds(&mut restore(&dir)).await;
    assert!(said.contains("doing its last steps") && !said.contains("postern: generation "), "{said}");
    assert_eq!(restored.query_one(number, &[]).await.unwrap().get::<_, i64>(0), generation);
    let open = "SELECT has_database_privilege('postern_server', 'elsewhere', 'CONNECT')";
    assert!(admin.query_one(open, &[]).await.unwrap().get::<_, bool>(0));
    drop(restored);
    // A database that is whole is never taken for the remains of a restore.
    fails(&mut restore(&dir), "is not empty").await;
    // One whose mark is old is not either, when somebody has dropped what is Postern's, for another restore.
    let client = connect_to(&elsewhere).await.unwrap();
    let dropped = "DROP SCHEMA postern, auth, aas, ds, qs, rendezvous, federation, operator CASCADE;
                   DROP EXTENSION IF EXISTS postern CASCADE;
                   DROP TABLE public.refinery_schema_history;
                   CREATE TABLE public.later (number integer)";
    client.batch_execute(&format!("{begun}; {dropped}")).await.unwrap();
    end(&admin, client).await;
    fails(&mut restore(&dir), "is not empty").await;
    let client = connect_to(&elsewhere).await.unwrap();
    let kept = "SELECT count(*) + public.notes_in_all() + tools.mine() FROM public.later";
    assert_eq!(client.query_one(kept, &[]).await.unwrap().get::<_, i64>(0), 3, "nothing of theirs is gone");
}

/// The commit waits for a standby that is away: the transaction has taken effect, and the restore does not know.
#[tokio::test]
async fn a_restore_that_is_interrupted_while_it_commits_its_generation_comes_to_its_end() {
    let BackedUp { admin, cluster, places: _places, dir, elsewhere } = BackedUp::start_with(OPERATORS).await;
    // The call that restores the last row ends when the test says so.
    let bin = tempfile::tempdir().unwrap();
    let (restored, go_on) = (bin.path().join("restored"), bin.path().join("go-on"));
    let script = format!(
        "case \"$*\" in *--jobs=1*) ;; *) exec {{real}} \"$@\";; esac
         {{real}} \"$@\" || exit 1
         touch {}
         until [ -e {} ]; do sleep 0.05; done",
        restored.display(),
        go_on.display()
    );
    let pg_config = programs(bin.path(), "pg_restore", &script);
    let mut restoring = into_database(&cluster, &dir, &elsewhere);
    restoring.args(["--jobs", "2"]).env("PG_CONFIG", pg_config).stdout(Stdio::piped()).stderr(Stdio::piped());
    let restoring = restoring.kill_on_drop(true).spawn().unwrap();
    eventually("everything is restored", async || restored.exists().then_some(())).await;
    let hanging = async |name: &str| -> i64 {
        let sql =
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND wait_event = 'SyncRep'";
        admin.query_one(sql, &[&name]).await.unwrap().get(0)
    };
    admin.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'gone'").await.unwrap();
    cluster.reload().await;
    // PostgreSQL's checkpointer, which decides, reads its configuration a moment later.
    let probe = cluster.admin().await;
    probe.batch_execute("SET application_name = 'probe'").await.unwrap();
    let probing = tokio::spawn(async move {
        while probe.batch_execute("COMMENT ON DATABASE postern IS 'probed'").await.is_ok() {}
    });
    eventually("commits hang", async || (hanging("probe").await > 0).then_some(())).await;
    fs::write(&go_on, "").unwrap();
    eventually("its own hangs", async || (hanging("postern restore").await > 0).then_some(())).await;
    process::signal(&[restoring.id().expect("it runs")], Signal::SIGINT);
    admin.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await.unwrap();
    cluster.reload().await;
    let output = restoring.wait_with_output().await.unwrap();
    probing.abort();
    let said =
        [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said).into_owned()).concat();
    assert!(output.status.success() && said.contains("restored: "), "{said}");
    let client = connect_to(&elsewhere).await.unwrap();
    let state = "SELECT g.generation > 0 AND g.undecided = 'no' AND public.notes_in_all() = 2
                   FROM operator.current_generation() g";
    assert!(client.query_one(state, &[]).await.unwrap().get::<_, bool>(0));
}

#[tokio::test]
async fn a_restore_into_a_private_cluster_that_is_killed_makes_no_other_homeserver() {
    let cluster = Cluster::start().await;
    drop(Server::start(&cluster).await);
    let places = tempfile::tempdir().unwrap();
    let dir = places.path().join("good");
    succeeds(&mut on(&cluster, "backup", &dir)).await;
    let data_dir = DataDir::fresh();
    let restore = || into(&data_dir, &dir, cluster.master_key());
    let killer = Killer::compiled();
    let exists = || data_dir.cluster().exists();

    killer.kill(&mut restore(), "open", "/restoring").await;
    let again = format!("a restore into {} did not come to its end: run it again", data_dir.path().display());
    let refusal = Server::embedded(&data_dir).try_start().await.err().expect("it ends");
    assert!(refusal.contains(&again) && !exists(), "{refusal}");
    let mut check = postern();
    check.args(["check", "--embedded", "--domain", HOME, "--data-dir"]).arg(data_dir.path());
    fails(&mut check, &again).await;
    let mut upgrade = postern();
    upgrade.args(["upgrade-cluster", "--domain", HOME, "--data-dir"]).arg(data_dir.path());
    fails(&mut upgrade, &again).await;
    // There is a cluster, but for its name.
    killer.kill(&mut restore(), "rename", "cluster.new>").await;
    let refusal = Server::embedded(&data_dir).try_start().await.err().expect("it ends");
    assert!(refusal.contains(&again) && !exists(), "{refusal}");
    // Everything is done, but for the mark.
    killer.kill(&mut restore(), "unlink", "/restoring").await;
    fails(&mut restore(), "had come to its end").await;
    fails(&mut restore(), "there is a cluster").await;
    let server = Server::embedded(&data_dir).env("POSTERN_MASTER_KEY", cluster.master_key()).start().await;
    let state = "SELECT g.generation > 0 AND g.undecided = 'no' FROM operator.current_generation() g";
    assert!(data_dir.admin().await.query_one(state, &[]).await.unwrap().get::<_, bool>(0));
    assert!(server.terminate().await.success());
}
