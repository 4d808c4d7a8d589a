//! `postern restore`: makes a database of a backup, where there is none (OPS-5), and begins another generation in it, so
//! that clients go on (QS-12). No server can come in before that is done: the row of the generation, without which none
//! starts and nothing migrates, is the last of all that is restored. What an interrupted restore left, the next one removes;
//! if only its last steps are left to do, it does those. A private cluster is nobody else's until a restore into it succeeded,
//! however many fail.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail, ensure};
use clap::Args;
use postern_cluster::{PrivateCluster, dump_programs};
use tokio::task::spawn_blocking;
use tokio_postgres::Client;

use super::{
    backup,
    dump::{Program, Progress, connect},
    interruption::unless_interrupted,
    manifest::{DATABASE, Manifest, State},
    migrate::admin_url,
    private_cluster,
    roles::execute,
    setup,
    user::load,
};
use crate::{
    clock,
    config::{Config, ConnectionString, Settings},
    database::{
        DatabaseError,
        generation::{self, BEGUN},
        migrate,
        release::Version,
        schemas,
    },
    keys::master_keys::Sources,
    telemetry,
};

const PURPOSE: &str = "postern restore";
/// Time in which sessions end that were closed just now.
const CLOSING: Duration = Duration::from_secs(5);
/// The entry of a dump that makes a database whole: the row of its generation.
const WHOLE: &str = " TABLE DATA operator generation ";
/// The advisory lock of the session of a restore: another one must not take its work for what was interrupted.
const LOCK: i64 = 0x706f_7374_6572_6e01; // "postern", 1
/// The second from which generations are counted: 2020-01-01, since 1970.
const EPOCH: u64 = 1_577_836_800;
const DAY: i64 = 24 * 60 * 60;
/// The comment of a role that exists for the time of a restore only.
const FOR_A_RESTORE: &str = "Made by postern restore, which drops it";

#[derive(Args)]
pub struct Restore {
    /// Directory with a backup
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Tables and indexes that are made at once [default: one for each core, 4 at most]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: Option<u16>,
    /// Restore a backup that was taken without the master key at hand: whoever could write to it then commands the database
    #[arg(long)]
    unauthenticated: bool,
    /// Least number of the generation that begins, in seconds since 2020, where the clock is or was wrong: greater than any that
    /// was in use before [default: by the clock, which must not be behind the backup]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=2_147_483_647))]
    at_least: Option<i64>,
    #[command(flatten)]
    settings: Settings,
}

pub async fn run(restore: Restore) -> anyhow::Result<()> {
    let mut config = load(&restore.settings)?;
    telemetry::start_logging(&config.log)?;
    let jobs = backup::jobs(restore.jobs);
    println!("postern: verifying the backup");
    let (dir, manifest) = backup::verify(restore.dir).await?;
    let least = expect_fitting(&manifest, &config, restore.at_least)?;
    private_cluster::expect_place_for_restore(&config)?;
    if !restore.unauthenticated {
        // A backup of a database that no server has used yet needs no key; it says so itself.
        manifest.expect_authentic(&dir, &Sources::of(&config).at_hand()?)?;
    }
    let (mut cluster, makes) = private_cluster::start_restore(&mut config).await?.unzip();
    let mut goes_on = makes == Some(false);
    let work = Work { dir: &dir, manifest: &manifest, jobs, least };
    let mut done = work.restore_into(admin_url(&config), goes_on).await;
    if matches!(done, Err(Failure::Part)) {
        println!("postern: removing what an interrupted restore left");
        // The whole cluster, with what the dump has of the operator's own.
        if let Some(cluster) = cluster.take() {
            spawn_blocking(move || cluster.remove()).await??;
        }
        cluster = private_cluster::start_restore(&mut config).await?.map(|(cluster, _)| cluster);
        goes_on = false;
        done = work.restore_into(admin_url(&config), goes_on).await;
    }
    let (emptied, stopped) = leave(cluster, &config.data_dir, goes_on, &done).await;
    let Restored { left_out, without_password } = match done {
        Ok(restored) => restored,
        Err(Failure::Untouched(error) | Failure::Removed(error)) => {
            stopped?;
            return Err(error);
        }
        Err(Failure::Part) => bail!("what an interrupted restore left is there still: restore again"),
        // Its whole cluster is gone.
        Err(Failure::Remains(error)) if emptied && stopped.is_ok() => return Err(error),
        Err(Failure::Remains(error)) => {
            return Err(
                error.context("what was restored could not be removed: restore again, which removes it")
            );
        }
        Err(Failure::Done) => bail!(
            "an interrupted restore into {} had come to its end, and left only its mark, which is gone now: `postern check` says how it is. For another backup choose another --data-dir",
            config.data_dir.display()
        ),
        Err(Failure::Whole(error)) => {
            return Err(error.context(
                "everything was restored, and another generation began; only the last step failed: run `postern migrate` and `postern check`",
            ));
        }
    };
    stopped?;
    for what in left_out {
        println!("postern: left out: {what}");
    }
    println!("postern: restored: {}", backup::describe(&manifest));
    println!(
        "postern: what came since is lost. Clients learn of it with their next request and fetch new tokens, since spent ones cannot be told from others; docs/operate/back-up.md says what else to look at"
    );
    if !without_password.is_empty() {
        println!("postern: a backup has no passwords: set those of {}", without_password.join(", "));
    }
    Ok(())
}

/// The result of a restore.
struct Restored {
    /// Parts of roles that the database refused, in words.
    left_out: Vec<String>,
    /// The roles that can log in and have no password.
    without_password: Vec<String>,
}

enum Failure {
    /// It changed nothing.
    Untouched(anyhow::Error),
    /// A private cluster has what an interrupted restore left.
    Part,
    /// It removed what it had made.
    Removed(anyhow::Error),
    /// Parts of what it made are there still.
    Remains(anyhow::Error),
    /// Servers may have come in: everything stays.
    Whole(anyhow::Error),
    /// An interrupted restore had left nothing to do.
    Done,
}

/// Ends with a restore's private cluster, and returns whether it was deleted, and how that went. Of a restore that failed
/// nothing stays but the data directory's mark, with which nobody makes another homeserver there. Where a setup was
/// interrupted before, one that succeeded is its end: the backup has a policy of registration.
async fn leave(
    cluster: Option<PrivateCluster>,
    data_dir: &Path,
    goes_on: bool,
    done: &Result<Restored, Failure>,
) -> (bool, anyhow::Result<()>) {
    let Some(cluster) = cluster else { return (false, Ok(())) };
    match done {
        Ok(_) | Err(Failure::Whole(_) | Failure::Done) => {
            let ended = setup::end(data_dir).and_then(|()| cluster.end_restore());
            (false, private_cluster::stop(Some(cluster)).await.and(ended))
        }
        // It has all of a backup, perhaps.
        Err(Failure::Untouched(_)) if goes_on => (false, private_cluster::stop(Some(cluster)).await),
        Err(_) => {
            let removed = spawn_blocking(move || cluster.remove()).await;
            (true, removed.map_err(anyhow::Error::from).flatten())
        }
    }
}

/// The second in which a backup was begun, as generations are counted.
fn second_of(manifest: &Manifest) -> anyhow::Result<i64> {
    Ok(i64::try_from(manifest.taken.saturating_sub(EPOCH))?)
}

/// Refuses a backup that does not belong to this configuration. Returns the least number of the generation to begin.
fn expect_fitting(manifest: &Manifest, config: &Config, at_least: Option<i64>) -> anyhow::Result<i64> {
    let State { domain, migration, master_key, previous_master_key, .. } = &manifest.database;
    if let Some(domain) = domain {
        ensure!(
            *domain == config.domain,
            "the backup is of {domain}, and the configuration says {}: set the domain to that",
            config.domain
        );
    }
    let release = migrate::Release::of_this_process();
    let newer = manifest.postern.parse::<Version>().map_or(true, |version| version > release.version());
    ensure!(
        !newer && *migration <= release.newest_migration(),
        "the backup was taken by Postern {}, which is newer than this program: use that version, or a later one",
        manifest.postern
    );
    let second = second_of(manifest)?;
    ensure!(
        at_least.is_some() || clock::now() >= manifest.taken,
        "the backup was taken later than now, by this machine's clock: set that right first, or numbers are given out twice. If it is right, and was ahead then, --at-least {}",
        second + DAY
    );
    // Greater than any number that was given out before the backup, also where the clock was set back.
    let least = at_least.unwrap_or(0).max(second + 1);
    let Some(wanted) = master_key else { return Ok(least) };
    let sources = Sources::of(config);
    let place =
        config.master_key_file().map_or("POSTERN_MASTER_KEY".to_owned(), |file| file.display().to_string());
    let wants = format!("the backup is sealed under the master key with the id {wanted}");
    let key = sources.key().map_err(|error| anyhow!("{wants}: put that into {place} ({error})"))?;
    let held: Vec<String> = [Some(key), sources.next_key()?]
        .into_iter()
        .flatten()
        .map(|key| hex::encode(key.id().as_bytes()))
        .collect();
    ensure!(
        held.contains(wanted),
        "{wants}, and the one in {place} is another ({}): nothing in it would open",
        held.join(", ")
    );
    if let Some(previous) = previous_master_key
        && !held.contains(previous)
    {
        bail!(
            "the backup was taken while the master key changed, and needs the old one, too: the one with the id {previous}"
        );
    }
    Ok(least)
}

/// A restore's task: the backup, and the way to put it back.
struct Work<'a> {
    dir: &'a Path,
    manifest: &'a Manifest,
    /// Tables and indexes that are made at once.
    jobs: u16,
    /// Least number of the generation that begins.
    least: i64,
}

impl Work<'_> {
    /// Restores into a database. `goes_on`: an interrupted restore made its cluster.
    async fn restore_into(
        &self,
        admin_url: anyhow::Result<&ConnectionString>,
        goes_on: bool,
    ) -> Result<Restored, Failure> {
        let prepared = async {
            let url = admin_url?;
            let client = connect(url, PURPOSE).await?;
            expect_alone(&client).await?;
            let left = Left::of(&client).await?;
            anyhow::Ok((url, client, left))
        };
        let (url, client, left) = prepared.await.map_err(Failure::Untouched)?;
        let left_out = match left {
            Left::Whole { of, begun } => {
                println!("postern: everything was restored by an interrupted restore: doing its last steps");
                self.finish(&client, &of, begun).await.map_err(Failure::Untouched)?;
                Vec::new()
            }
            Left::Part if goes_on => return Err(Failure::Part),
            Left::Part => {
                println!("postern: removing what an interrupted restore left");
                remove(&client).await.map_err(Failure::Remains)?;
                self.restore_anew(&client, url).await?
            }
            Left::Done if goes_on => return Err(Failure::Done),
            Left::Done | Left::Nothing => self.restore_anew(&client, url).await?,
        };
        // From here on servers can come in, and nothing is removed.
        let opened = async {
            println!("postern: {}", migrate::run(url, None).await?);
            mark(&client, None).await?;
            without_password(&client).await
        };
        let without_password = opened.await.map_err(Failure::Whole)?;
        Ok(Restored { left_out, without_password })
    }

    /// Restores into a database where nothing is, up to another generation, and returns what had to be left out of the roles.
    async fn restore_anew(&self, client: &Client, url: &ConnectionString) -> Result<Vec<String>, Failure> {
        let prepared = async {
            let major = expect_place(client, self.manifest).await?;
            let bin = dump_programs(major)?;
            mark(client, Some(&self.manifest.id())).await?;
            anyhow::Ok(bin)
        };
        let bin = prepared.await.map_err(Failure::Removed)?;
        let filled = async {
            let left_out = fill(client, url, &bin, self.dir, self.manifest, self.jobs).await?;
            self.begin(client).await?;
            anyhow::Ok(left_out)
        };
        let error = match unless_interrupted(filled).await {
            Ok(left_out) => return Ok(left_out),
            Err(error) => error,
        };
        // A transaction may be open. Without a connection nothing is removed either.
        let _no_connection = client.batch_execute("ROLLBACK").await;
        // Nothing of the database's was there before.
        Err(match remove(client).await {
            Ok(()) => Failure::Removed(error),
            Err(_) => Failure::Remains(error),
        })
    }

    /// Does what was left to do in a database that has everything of a backup.
    async fn finish(&self, client: &Client, of: &str, begun: bool) -> anyhow::Result<()> {
        ensure!(
            self.manifest.id() == of,
            "the database has everything of another backup, whose restore was interrupted at its last step: restore that one again, or name an empty database"
        );
        match begun {
            true => Ok(()),
            false => self.begin(client).await,
        }
    }

    /// Begins another generation, so that clients go on (QS-12).
    async fn begin(&self, client: &Client) -> anyhow::Result<()> {
        let run = async |sql: &str| client.batch_execute(sql).await.map_err(DatabaseError::from);
        // With the mark, or not at all: a second one would only cost clients their tokens, but none would cost messages.
        run("BEGIN").await?;
        let begun = async {
            let begin = "SELECT operator.begin_generation($1)";
            let row = client.query_one(begin, &[&self.least]).await.map_err(DatabaseError::from)?;
            mark(client, Some(&format!("{}{BEGUN}", self.manifest.id()))).await?;
            run("COMMIT").await?;
            anyhow::Ok(row.get::<_, i64>(0))
        };
        println!("postern: generation {} begins", begun.await?);
        Ok(())
    }
}

/// Refuses a database into which another restore is under way, and keeps others away as long as the session lives. The
/// session of one that was killed just now has a moment to end.
async fn expect_alone(client: &Client) -> anyhow::Result<()> {
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

/// The remains of an interrupted restore in a database, which is marked with the backup's id, to which [`BEGUN`] is added
/// with another generation.
enum Left {
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
    async fn of(client: &Client) -> anyhow::Result<Self> {
        let (mark, has_generation) =
            generation::marks_of_restore(client).await.map_err(DatabaseError::from)?;
        match (mark.is_empty(), has_generation == Some(true)) {
            (true, true) => return Ok(Self::Done),
            (true, false) => return Ok(Self::Nothing),
            (false, false) => return Ok(Self::Part),
            (false, true) => {}
        }
        Ok(match mark.strip_suffix(BEGUN) {
            Some(of) => Self::Whole { of: of.to_owned(), begun: true },
            None => Self::Whole { of: mark, begun: false },
        })
    }
}

/// Removes what a restore has made, and ends its sessions: the programs that had them are gone. Roles stay: they belong to
/// the whole cluster.
async fn remove(client: &Client) -> anyhow::Result<()> {
    client
        .batch_execute(END_SESSIONS)
        .await
        .map_err(DatabaseError::from)
        .context("cannot end the sessions of the restore")?;
    client
        .batch_execute(&format!(
            "DROP SCHEMA IF EXISTS {} CASCADE;
             DROP EXTENSION IF EXISTS postern CASCADE;
             DROP TABLE IF EXISTS public.refinery_schema_history",
            schemas().join(", ")
        ))
        .await
        .map_err(DatabaseError::from)
        .context("cannot remove what was restored")?;
    mark(client, None).await
}

/// Marks the database as one that is being restored, or takes the mark away.
async fn mark(client: &Client, mark: Option<&str>) -> anyhow::Result<()> {
    let database: String =
        client.query_one("SELECT current_database()::text", &[]).await.map_err(DatabaseError::from)?.get(0);
    let setting = generation::RESTORING;
    let done = match mark {
        Some(mark) => {
            execute(client, &format!("ALTER DATABASE %I SET {setting} = %L"), &[&database, mark]).await
        }
        None => execute(client, &format!("ALTER DATABASE %I RESET {setting}"), &[&database]).await,
    };
    done.context("cannot mark the database")
}

/// Refuses a place where something is, or somebody; returns PostgreSQL's version.
async fn expect_place(client: &Client, manifest: &Manifest) -> anyhow::Result<u32> {
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
        "the extension is not installed on the database server: docs/operate/install.md"
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

/// Fills the database, and returns what had to be left out of the roles. Servers cannot come in.
async fn fill(
    client: &Client,
    url: &ConnectionString,
    bin: &Path,
    dir: &Path,
    manifest: &Manifest,
    jobs: u16,
) -> anyhow::Result<Vec<String>> {
    let mut left_out = manifest.roles.make(client).await?;
    let run = async |what: &str, sql: &str| {
        client.batch_execute(sql).await.map_err(DatabaseError::from).context(what.to_owned())
    };
    run("cannot close the database to servers", CLOSE).await?;
    let absent = absent(client, &manifest.superusers).await?;
    for role in &absent {
        // One of an interrupted restore is there already. Both in one transaction: none stays without the comment.
        let exists = "SELECT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = $1)";
        if !client.query_one(exists, &[role]).await.map_err(DatabaseError::from)?.get::<_, bool>(0) {
            let make = "CREATE ROLE %1$I NOLOGIN; COMMENT ON ROLE %1$I IS %2$L";
            execute(client, make, &[role, FOR_A_RESTORE]).await.context("cannot make a role")?;
        }
    }

    let database = dir.join(DATABASE);
    let signs = &["pg_restore: creating ", "pg_restore: processing data for table "];
    let entries = entries(bin, &database).await?;
    let (last, others): (Vec<&str>, Vec<&str>) = entries.lines().partition(|line| line.contains(WHOLE));
    ensure!(last.len() == 1, "the dump has {} rows of a generation, and not one", last.len());
    let mut progress = Progress::new("tables, functions and indexes", signs, others.len());
    let restored = restore_entries(bin, url, &database, jobs, &others, |line| progress.watch(line)).await;
    for role in &absent {
        // Others are in their place here. Also after a failure: they are not to stay.
        let reassign = "REASSIGN OWNED BY %1$I TO CURRENT_USER; DROP OWNED BY %1$I; DROP ROLE %1$I";
        execute(client, reassign, &[role]).await.context("cannot give a role's objects to another")?;
    }
    restored?;

    println!("postern: gathering statistics");
    run("cannot gather statistics", "ANALYZE").await?;
    left_out.extend(manifest.roles.make_rights(client).await);
    // The database is whole with this, and of a generation of before until another begins.
    restore_entries(bin, url, &database, 1, &last, |_| {}).await?;
    Ok(left_out)
}

/// Restores these entries of a dump. `pg_restore` reads the list once, before it starts its jobs.
async fn restore_entries(
    bin: &Path,
    url: &ConnectionString,
    database: &Path,
    jobs: u16,
    entries: &[&str],
    watch: impl FnMut(&str),
) -> anyhow::Result<()> {
    Program::new(bin, "pg_restore", PURPOSE)
        .database(url)?
        .args(["--exit-on-error", "--verbose", "--use-list=/dev/stdin", &format!("--jobs={jobs}")])
        .args([database])
        .input(entries.join("\n") + "\n")
        .run(watch)
        .await
}

/// The list of a dump's entries, one in each line, without rights on what is PostgreSQL's own: another major version has other
/// functions, and [`migrate`](crate::database::migrate) takes those rights away anew.
async fn entries(bin: &Path, database: &Path) -> anyhow::Result<String> {
    let output = tokio::process::Command::new(bin.join("pg_restore"))
        .arg("--list")
        .arg(database)
        .env("LC_ALL", "C")
        .output()
        .await
        .context("cannot run pg_restore")?;
    ensure!(output.status.success(), "pg_restore cannot list the dump");
    let list = String::from_utf8(output.stdout).context("the dump's list is no text")?;
    let is_taken =
        |line: &&str| !line.starts_with(';') && !line.trim().is_empty() && !line.contains(" ACL pg_catalog ");
    let entries = list.lines().filter(is_taken);
    Ok(entries.collect::<Vec<_>>().join("\n"))
}

/// The names of the roles that are not here, or only since an interrupted restore.
async fn absent(client: &Client, roles: &[String]) -> anyhow::Result<Vec<String>> {
    let rows = client
        .query(
            "SELECT n.name FROM unnest($1::text[]) AS n (name)
              WHERE NOT EXISTS (SELECT FROM pg_roles r
                                 WHERE r.rolname = n.name
                                   AND shobj_description(r.oid, 'pg_authid') IS DISTINCT FROM $2::text)",
            &[&roles, &FOR_A_RESTORE],
        )
        .await
        .map_err(DatabaseError::from)?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The roles of this database that can log in and have no password. Over a socket they need none.
async fn without_password(client: &Client) -> anyhow::Result<Vec<String>> {
    let rows = client
        .query(
            "SELECT a.rolname::text FROM pg_authid a
              WHERE a.rolcanlogin AND NOT a.rolsuper AND a.rolpassword IS NULL AND inet_server_addr() IS NOT NULL
                AND (a.rolname = 'postern_server'
                     OR pg_has_role(a.oid, 'postern_operator', 'MEMBER') OR pg_has_role(a.oid, 'postern_monitor', 'MEMBER')
                     OR pg_has_role(a.oid, 'postern_backup', 'MEMBER'))
              ORDER BY 1",
            &[],
        )
        .await
        .map_err(DatabaseError::from)?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Lets nobody but superusers into the database, until `postern migrate` opens it.
const CLOSE: &str = "
    DO $$
    BEGIN
        EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC, postern_server, postern_operator, postern_monitor, postern_backup',
                       current_database());
    END
    $$";

/// No sessions but a restore's are in the database, which was empty and is closed, or those of roles that the backup lets in by
/// name, at its end.
const END_SESSIONS: &str = "
    SELECT pg_terminate_backend(a.pid, 60000)
      FROM pg_stat_activity a
     WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.backend_type = 'client backend'";
