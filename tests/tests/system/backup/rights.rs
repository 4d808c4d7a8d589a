//! Roles, rights and settings: a restore brings them back, and takes them for nothing but text.

use std::{fs, path::Path};

use postern_tests_kit::{Cluster, DataDir, HOME, Server, connect_to, postern, program};
use tokio::process::Command;

use super::{BackedUp, fails, into, into_database, on, succeeds};

/// The roles of a cluster but superusers, each with what it may, until when, its settings in all databases, and its memberships.
const ROLES: &str = "
    SELECT format('%s: login %s, inherits %s, makes databases %s, makes roles %s, replicates %s, sees all rows %s, %s connections, '
                  'until %s, sets %s, in %s',
                  r.rolname, r.rolcanlogin, r.rolinherit, r.rolcreatedb, r.rolcreaterole, r.rolreplication, r.rolbypassrls,
                  r.rolconnlimit, coalesce(extract(epoch FROM r.rolvaliduntil)::text, 'never'),
                  (SELECT s.setconfig FROM pg_db_role_setting s WHERE s.setrole = r.oid AND s.setdatabase = 0),
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
pub async fn definitions(socket_dir: &Path) -> Vec<String> {
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
    let client = connect_to(&url).await.unwrap();
    let roles = client.query(ROLES, &[]).await.unwrap();
    all.extend(roles.iter().map(|row| row.get::<_, String>(0)));
    all
}

/// Asserts that the same is defined; a failure shows the first line that differs.
pub fn assert_same(before: &[String], after: &[String]) {
    let differing = before.iter().zip(after).find(|(before, after)| before != after);
    assert_eq!(differing, None, "roles, rights and settings are the same");
    assert_eq!(before.len(), after.len(), "nothing came or went");
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
             ALTER ROLE grafana SET search_path FROM CURRENT;
             ALTER ROLE grafana SET application_name = '$do$ %s \\ '' \"';
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
    assert!(!said.contains("left out") && !said.contains("no passwords"), "{said}");
    let server = Server::embedded(&data_dir).env("POSTERN_MASTER_KEY", cluster.master_key()).start().await;
    let restored = data_dir.admin().await;
    let row = restored
        .query_one(
            "SELECT (SELECT rolsuper FROM pg_roles WHERE rolname = 'grafana'),
                    (SELECT setconfig FROM pg_db_role_setting WHERE setrole = 'grafana'::regrole AND setdatabase <> 0)",
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
                  CREATE ROLE watchers CREATEROLE NOINHERIT BYPASSRLS; GRANT postern_monitor TO watchers;
                  CREATE ROLE grafana LOGIN CREATEDB REPLICATION; GRANT watchers TO grafana;
                  ALTER ROLE grafana SET statement_timeout = '5s';
                  ALTER ROLE watchers SET search_path = \"$user\", 'with space', public;
                  ALTER ROLE postern_operator SET work_mem = '5MB'";
    cluster.admin().await.batch_execute(people).await.unwrap();
    let before = definitions(cluster.socket_dir()).await;
    let places = tempfile::tempdir().unwrap();
    let dir = places.path().join("good");
    succeeds(&mut on(&cluster, "backup", &dir)).await;

    let own = Cluster::fresh().await;
    // Not in the database that is restored, which nobody is to use.
    let url = own.admin_url().replace("dbname=postern", "dbname=postgres");
    let client = connect_to(&url).await.unwrap();
    let roles = "SELECT count(*) FROM pg_roles WHERE NOT rolsuper AND rolname !~ '^pg_'";
    assert_eq!(client.query_one(roles, &[]).await.unwrap().get::<_, i64>(0), 0, "it has no role");
    let said = succeeds(&mut into_database(&cluster, &dir, &own.admin_url())).await;
    assert!(said.contains("restored: ") && !said.contains("left out"), "{said}");
    // The restore came over a socket, and servers may not.
    assert!(said.contains("no passwords: set those of grafana, o'neil, postern_server, unless"), "{said}");
    assert_same(&before, &definitions(own.socket_dir()).await);
    drop(Server::builder(&cluster).database(&own.server_url()).start().await);
}

#[tokio::test]
async fn a_role_that_is_there_stays_as_it_is_and_one_that_a_killed_restore_made_gets_all_its_settings() {
    let people = "CREATE ROLE grafana LOGIN BYPASSRLS IN ROLE postern_monitor; CREATE ROLE alice IN ROLE postern_operator;
                  ALTER ROLE grafana SET statement_timeout = '5s'; ALTER ROLE alice SET work_mem = '5MB'";
    let BackedUp { admin, cluster, places: _places, dir, elsewhere } = BackedUp::start_with(people).await;
    // Somebody changed one since, and a restore was killed before the other had its settings.
    let since = "ALTER ROLE grafana NOBYPASSRLS; ALTER ROLE grafana SET statement_timeout = '7s';
                 ALTER ROLE alice RESET ALL;
                 COMMENT ON ROLE alice IS 'Made by postern restore, which gives it its settings'";
    admin.batch_execute(since).await.unwrap();
    succeeds(&mut into_database(&cluster, &dir, &elsewhere)).await;
    let found = "SELECT (SELECT rolbypassrls FROM pg_roles WHERE rolname = 'grafana'),
                        (SELECT setconfig FROM pg_db_role_setting WHERE setrole = 'grafana'::regrole AND setdatabase = 0),
                        (SELECT setconfig FROM pg_db_role_setting WHERE setrole = 'alice'::regrole AND setdatabase = 0),
                        shobj_description('alice'::regrole, 'pg_authid')";
    let row = admin.query_one(found, &[]).await.unwrap();
    assert!(!row.get::<_, bool>(0));
    assert_eq!(row.get::<_, Vec<String>>(1), ["statement_timeout=7s"]);
    assert_eq!(row.get::<_, Vec<String>>(2), ["work_mem=5MB"]);
    assert_eq!(row.get::<_, Option<String>>(3), None, "it is finished");
}

#[tokio::test]
async fn superusers_are_told_as_left_out_settings_of_all_roles_come_back_and_no_tablespace_is_needed() {
    let dir = DataDir::migrated().await;
    let server = Server::embedded(&dir).start().await;
    let admin = dir.admin().await;
    // One by one: a tablespace is made in no transaction.
    for statement in [
        "CREATE ROLE dba SUPERUSER LOGIN",
        "CREATE TABLE public.notes (word text)",
        "ALTER TABLE public.notes OWNER TO dba",
        "ALTER ROLE ALL SET work_mem = '7MB'",
        "SET allow_in_place_tablespaces = on",
        "CREATE TABLESPACE apart LOCATION ''",
        "ALTER TABLE qs.messages SET TABLESPACE apart",
        "ALTER ROLE ALL SET default_transaction_read_only = on",
        // This stands for a library that only this machine has: its sessions load another, and a restore makes no settings of a
        // superuser.
        "ALTER ROLE postern_admin SET session_preload_libraries = 'plpgsql'",
        "ALTER ROLE postern_server SET session_preload_libraries = 'plpgsql'",
        "ALTER ROLE ALL SET session_preload_libraries = 'nowhere'",
    ] {
        admin.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    let key = fs::read_to_string(dir.path().join("master.key")).unwrap();
    let places = tempfile::tempdir().unwrap();
    let place = places.path().join("good");
    let mut backup = postern();
    backup.arg("backup").arg(&place).args(["--embedded", "--domain", HOME, "--data-dir"]);
    succeeds(backup.arg(dir.path())).await;
    drop(admin);
    assert!(server.terminate().await.success());

    let whole = DataDir::fresh();
    let said = succeeds(&mut into(&whole, &place, key.trim())).await;
    let left_out: Vec<&str> = said.lines().filter(|line| line.contains("left out: ")).collect();
    assert_eq!(left_out.len(), 2, "{said}");
    for what in [
        "left out: the superuser \"dba\" ",
        "left out: the setting \"session_preload_libraries\" of all roles (no session begins with it: ",
    ] {
        assert!(left_out.iter().any(|line| line.contains(what)), "{what} in {said}");
    }
    let server = Server::embedded(&whole).env("POSTERN_MASTER_KEY", key.trim()).start().await;
    let found = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'dba'),
                        (SELECT setconfig FROM pg_db_role_setting WHERE setrole = 0 AND setdatabase = 0),
                        (SELECT relowner::regrole::text FROM pg_class WHERE oid = 'public.notes'::regclass),
                        (SELECT reltablespace = 0 FROM pg_class WHERE oid = 'qs.messages'::regclass)";
    let row = whole.admin().await.query_one(found, &[]).await.unwrap();
    assert!(!row.get::<_, bool>(0), "a restore makes nobody a superuser");
    assert_eq!(row.get::<_, Vec<String>>(1), ["work_mem=7MB", "default_transaction_read_only=on"]);
    assert_eq!(row.get::<_, &str>(2), "postern_admin");
    assert!(row.get::<_, bool>(3), "it is where the database is");
    assert!(server.terminate().await.success());

    // A PostgreSQL of one's own is nobody's to set.
    let own = Cluster::fresh().await;
    let said = succeeds(on(&own, "restore", &place).env("POSTERN_MASTER_KEY", key.trim())).await;
    assert!(said.contains("left out: the setting \"work_mem\" of all roles"), "{said}");
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
