//! The database that a restore goes into is empty and nobody uses it, or it has what an interrupted restore left, which is
//! removed.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio_postgres::Client;

use crate::{
    cli::{manifest::Manifest, roles::execute},
    database::{
        DatabaseError,
        generation::{self, BEGUN, RESTORING},
        schemas,
    },
};

/// Time in which sessions end that were closed just now.
const CLOSING: Duration = Duration::from_secs(5);
/// The advisory lock of the session of a restore: another one must not take its work for what was interrupted.
const LOCK: i64 = 0x706f_7374_6572_6e01; // "postern", 1
/// The step at which a removal failed, for its error.
const CANNOT_REMOVE: &str = "cannot remove what was restored";

/// Refuses a database into which another restore is under way, and keeps others away as long as the session lives. The
/// session of one that was killed just now has a moment to end.
pub(super) async fn expect_alone(client: &Client) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let row = client
            .query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK])
            .await
            .map_err(DatabaseError::from)?;
        if row.get(0) {
            return Ok(());
        }
        if begun.elapsed() > CLOSING {
            break;
        }
        tokio::time::sleep(CLOSING / 25).await;
    }
    let holder = client
        .query_opt(
            "SELECT a.pid, to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI')
               FROM pg_locks l
               JOIN pg_stat_activity a ON a.pid = l.pid
              WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
                AND (l.classid::bigint << 32 | l.objid::bigint) = $1
                AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())",
            &[&LOCK],
        )
        .await
        .map_err(DatabaseError::from)?;
    match holder {
        Some(row) => bail!(
            "a restore into this database is under way since {} (UTC), in the session {}: wait for its end, or end it with pg_terminate_backend",
            row.get::<_, &str>(1),
            row.get::<_, i32>(0)
        ),
        None => bail!("a restore into this database was under way just now: try again"),
    }
}

/// The remains of an interrupted restore in a database, which is marked with the backup's id and what was there before, and
/// with the id and [`BEGUN`] once another generation has begun.
pub(super) enum Left {
    Nothing,
    Part,
    /// A database of Postern's, as a restore or somebody else made it.
    Done,
    /// All of a backup.
    Whole {
        of: String,
        begun: bool,
    },
}

impl Left {
    pub(super) async fn of(client: &Client) -> anyhow::Result<Self> {
        let (mark, has_generation) =
            generation::marks_of_restore(client).await.map_err(DatabaseError::from)?;
        match (mark.is_empty(), has_generation == Some(true)) {
            (true, true) => return Ok(Self::Done),
            (true, false) => return Ok(Self::Nothing),
            // All of it was there, and somebody has dropped it: what is there is not the restore's.
            (false, false) if mark.ends_with(BEGUN) => return Ok(Self::Nothing),
            (false, false) => return Ok(Self::Part),
            (false, true) => {}
        }
        let of = mark.split(' ').next().unwrap_or_default().to_owned();
        Ok(Self::Whole { of, begun: mark.ends_with(BEGUN) })
    }
}

/// Removes what a restore has made, and ends its sessions: the programs that had them are gone. What was there before it began
/// stays, as far as an empty database has anything, and roles do: they belong to the whole cluster.
pub(super) async fn remove(client: &Client) -> anyhow::Result<()> {
    client
        .batch_execute(END_SESSIONS)
        .await
        .map_err(DatabaseError::from)
        .context("cannot end the sessions of the restore")?;
    // An event trigger of the backup's may refuse that the others go.
    let triggers = drops(client, "f.classid = 'pg_event_trigger'::regclass", i64::MAX).await?;
    // In one transaction: without its generation nothing that is left is taken for all of a backup.
    client
        .batch_execute(&format!(
            "{}
             DROP SCHEMA IF EXISTS {} CASCADE;
             DROP EXTENSION IF EXISTS postern CASCADE;
             DROP TABLE IF EXISTS public.refinery_schema_history",
            triggers.concat(),
            schemas().join(", ")
        ))
        .await
        .map_err(DatabaseError::from)
        .context(CANNOT_REMOVE)?;
    // The objects that operators made in the database that was backed up go one by one: a transaction for each needs no more
    // locks than PostgreSQL has.
    while let Some(drop) = drops(client, "true", 1).await?.first() {
        client.batch_execute(drop).await.map_err(DatabaseError::from).context(CANNOT_REMOVE)?;
    }
    mark(client, None).await
}

/// The statements that remove what a restore made and a condition is true for, each with what depends on it; so many at most.
/// There are none where the mark does not say what was there before.
async fn drops(client: &Client, condition: &str, most: i64) -> anyhow::Result<Vec<String>> {
    let made = format!(
        "WITH found AS ({FOUND}), before AS (
             SELECT string_to_array(nullif(split_part(c.setting, ' ', 2), ''), ',') AS addresses
               FROM pg_db_role_setting s
               JOIN pg_database d ON d.oid = s.setdatabase AND d.datname = current_database()
              CROSS JOIN LATERAL unnest(s.setconfig) AS c (setting)
              WHERE s.setrole = 0 AND starts_with(c.setting, '{RESTORING}=') AND c.setting NOT LIKE '%{BEGUN}'
         ), made AS (
             SELECT f.classid, f.objid
               FROM found f
               JOIN before b ON f.address <> ALL (b.addresses)
              WHERE {condition}
              ORDER BY f.classid <> 'pg_namespace'::regclass, f.classid <> 'pg_extension'::regclass, f.objid
              LIMIT $1
         )
         SELECT CASE WHEN m.classid = 'pg_largeobject'::regclass THEN format('SELECT pg_catalog.lo_unlink(%s);', m.objid)
                     ELSE format('DROP %s %s CASCADE;',
                                 CASE i.type WHEN 'foreign-data wrapper' THEN 'FOREIGN DATA WRAPPER'
                                             WHEN 'statistics object' THEN 'STATISTICS'
                                             ELSE i.type END,
                                 i.identity)
                 END
           FROM made m
          CROSS JOIN LATERAL pg_identify_object(m.classid, m.objid, 0) i"
    );
    let rows = client.query(&made, &[&most]).await.map_err(DatabaseError::from).context(CANNOT_REMOVE)?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Marks the database as one that a restore fills from now on, with what is there before.
pub(super) async fn mark_beginning(client: &Client, id: &str) -> anyhow::Result<()> {
    let before = format!("SELECT coalesce(string_agg(f.address, ','), '') FROM ({FOUND}) f");
    let row = client.query_one(&before, &[]).await.map_err(DatabaseError::from)?;
    mark(client, Some(&format!("{id} {}", row.get::<_, &str>(0)))).await
}

/// Marks the database as one that is being restored, or takes the mark away.
pub(super) async fn mark(client: &Client, mark: Option<&str>) -> anyhow::Result<()> {
    let database: String =
        client.query_one("SELECT current_database()::text", &[]).await.map_err(DatabaseError::from)?.get(0);
    let done = match mark {
        Some(mark) => {
            execute(client, &format!("ALTER DATABASE %I SET {RESTORING} = %L"), &[&database, mark]).await
        }
        None => execute(client, &format!("ALTER DATABASE %I RESET {RESTORING}"), &[&database]).await,
    };
    done.context("cannot mark the database")
}

/// Refuses a place where something is, or somebody; returns PostgreSQL's version.
pub(super) async fn expect_place(client: &Client, manifest: &Manifest) -> anyhow::Result<u32> {
    let row = client
        .query_one(
            "SELECT current_setting('server_version_num')::int / 10000,
                    EXISTS (SELECT FROM pg_class c WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
                                                     AND c.relpersistence <> 't'
                                                     AND c.relnamespace <> 'information_schema'::regnamespace
                                                     AND NOT EXISTS (SELECT FROM pg_depend d
                                                                      WHERE d.classid = 'pg_class'::regclass
                                                                        AND d.objid = c.oid AND d.deptype = 'e'))
                    OR EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = ANY ($1::text[])),
                    (SELECT e.default_version FROM pg_available_extensions e WHERE e.name = 'postern'),
                    current_database()::text",
            &[&schemas()],
        )
        .await
        .map_err(DatabaseError::from)?;
    let (major, full): (i32, bool) = (row.get(0), row.get(1));
    let (extension, database): (Option<&str>, &str) = (row.get(2), row.get(3));
    ensure!(
        !full,
        "the database {database} is not empty, and a restore overwrites nothing: name another one in database.admin_url (`createdb`)"
    );
    let sessions = sessions_that_stay(client).await?;
    ensure!(sessions == 0, "the database {database} is in use by {sessions} other sessions: end them first");
    ensure!(
        extension.is_some(),
        "the extension is not installed on the database server: operate/install.md of the documentation tells how"
    );
    let major = u32::try_from(major)?;
    let of = manifest.database.postgresql;
    ensure!(major >= of, "the backup is of PostgreSQL {of}, and this is {major}: use {of} or a later one");
    Ok(major)
}

/// Counts the other sessions in the database, once those had a moment to end that were closed just now.
async fn sessions_that_stay(client: &Client) -> Result<i64, DatabaseError> {
    let sql = "SELECT count(*) FROM pg_stat_activity a
                WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.backend_type = 'client backend'";
    let begun = Instant::now();
    loop {
        let sessions: i64 = client.query_one(sql, &[]).await?.get(0);
        if sessions == 0 || begun.elapsed() > CLOSING {
            return Ok(sessions);
        }
        tokio::time::sleep(CLOSING / 25).await;
    }
}

/// No sessions but a restore's are in the database, which was empty and is closed, or those of roles that the backup lets in by
/// name, at its end.
const END_SESSIONS: &str = "
    SELECT pg_terminate_backend(a.pid, 60000)
      FROM pg_stat_activity a
     WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.backend_type = 'client backend'";

/// The objects in a database that a dump may bring and that go by themselves: schemas, extensions, what is in schemas or in none.
/// Members of an extension, and parts of one of these (the multirange type of a range type), go with it. An address is a
/// catalog's number and the object's. Subscriptions are not restored; transforms, default privileges that are no schema's, and
/// settings and rights of the database itself stay after a restore that failed.
const FOUND: &str = "
    SELECT o.classid, o.objid, format('%s.%s', o.classid, o.objid) AS address
      FROM (SELECT 'pg_namespace'::regclass::oid AS classid, n.oid AS objid
              FROM pg_namespace n
             WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'public')
             UNION ALL
            SELECT 'pg_extension'::regclass, e.oid FROM pg_extension e
             UNION ALL
            SELECT 'pg_event_trigger'::regclass, t.oid FROM pg_event_trigger t
             UNION ALL
            SELECT 'pg_publication'::regclass, p.oid FROM pg_publication p
             UNION ALL
            SELECT 'pg_foreign_data_wrapper'::regclass, w.oid FROM pg_foreign_data_wrapper w
             UNION ALL
            SELECT 'pg_foreign_server'::regclass, s.oid FROM pg_foreign_server s
             UNION ALL
            SELECT 'pg_largeobject'::regclass, l.oid FROM pg_largeobject_metadata l
             UNION ALL
            SELECT 'pg_cast'::regclass, c.oid FROM pg_cast c WHERE c.oid >= 16384
             UNION ALL
            SELECT 'pg_language'::regclass, l.oid FROM pg_language l WHERE l.oid >= 16384
             UNION ALL
            SELECT 'pg_am'::regclass, a.oid FROM pg_am a WHERE a.oid >= 16384
             UNION ALL
            SELECT d.classid, d.objid
              FROM pg_depend d
              JOIN pg_namespace n ON n.oid = d.refobjid
             WHERE d.refclassid = 'pg_namespace'::regclass AND d.deptype = 'n'
               AND d.classid <> 'pg_extension'::regclass
               AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema') o
     WHERE NOT EXISTS (SELECT FROM pg_depend m
                        WHERE m.classid = o.classid AND m.objid = o.objid AND m.deptype IN ('e', 'i'))";
