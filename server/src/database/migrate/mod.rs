//! Brings a database to the state this program expects: `migrations/` once each, in order, and `sql/` as a whole
//! whenever it changed. Both are part of the program. Their content belongs to the services; this module applies them:
//! one process at a time, safely under running servers of this release and the one before (OPS-6), with ownership and
//! privileges that no file has to set (OPS-3).

mod error;
mod functions;

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail, ensure};
use refinery::Runner;
use tokio::time::sleep;
use tokio_postgres::Client;

use self::error::{located, postgres_error, waited_in_vain};
pub use super::release::Release;
use super::{SCHEMAS, SERVERS, connect_as_superuser, generation, release::Version, roles};
use crate::config::ConnectionString;

/// The table of applied migrations. It is named with its schema, as everything else is: the search path leads to
/// PostgreSQL's own names only.
const HISTORY: &str = "public.refinery_schema_history";

/// The advisory lock held while migrating, so that a second process waits and then finds nothing to do.
const LOCK: i64 = 0x706f_7374_6572_6e00; // "postern"

/// Time that a statement waits for a lock. Everyone who needs the same table waits behind it, so it is shorter than
/// anybody notices.
const LOCK_TIMEOUT: Duration = Duration::from_millis(300);
/// Time until a step that met a lock is tried again: those who waited behind it go first.
const PAUSE: Duration = Duration::from_millis(500);
/// Time for which such a step is tried.
const PATIENCE: Duration = Duration::from_secs(10);

/// Time in which the sessions of servers end that have just ended.
const FAREWELL: Duration = Duration::from_secs(2);

/// Says what to do about a lock that did not come.
const LOCKED: &str = "another session holds a lock, which did not come within 10 seconds of trying; the step that needs it \
                      changed nothing. End that session (pg_locks and pg_blocking_pids tell which it is), or wait until it \
                      is done, and run `postern migrate` again";

/// The policy of registration (AS-1) that a migration sets. It comes with the functions, in the transaction before which no
/// server starts on a new database: so nobody who is killed in between leaves a homeserver with another policy.
#[derive(Debug, Clone, Copy)]
pub struct RegistrationChoice {
    /// The name that the database has for it.
    pub policy: &'static str,
    /// Whether a database keeps the policy that it has once a server has used it.
    pub only_for_new: bool,
}

/// The changes that a migration made.
pub struct Report {
    migrations: Vec<String>,
    functions_changed: bool,
    settings_changed: bool,
    registration_set: bool,
}

impl Report {
    /// Whether the policy of registration is the one that was chosen.
    pub fn has_set_registration(&self) -> bool {
        self.registration_set
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.migrations.as_slice(), self.functions_changed, self.settings_changed) {
            ([], false, false) => f.write_str("the database is up to date"),
            ([], false, true) => {
                f.write_str("the settings of postern_server in this database were lost, and are set")
            }
            ([], true, _) => f.write_str("functions updated"),
            (migrations, ..) => write!(f, "migrated: {}, and functions updated", migrations.join(", ")),
        }
    }
}

/// Migrates as a superuser, to the release of this process, and sets the policy of registration if one is chosen.
///
/// # Errors
/// As [`Release::migrate`].
pub async fn run(
    admin_url: &ConnectionString,
    registration: Option<RegistrationChoice>,
) -> anyhow::Result<Report> {
    Release::of_this_process().migrate_with(admin_url, registration).await
}

impl Release {
    /// Migrates as a superuser.
    ///
    /// # Errors
    /// Servers on this database that are older than the release before, a lock that does not come, SQL that fails.
    pub async fn migrate(&self, admin_url: &ConnectionString) -> anyhow::Result<Report> {
        self.migrate_with(admin_url, None).await
    }

    async fn migrate_with(
        &self,
        admin_url: &ConnectionString,
        registration: Option<RegistrationChoice>,
    ) -> anyhow::Result<Report> {
        let mut client = connect_as_superuser(admin_url, "postern migrate").await?;
        client
            .batch_execute(
                // No object in another schema can pass for one of PostgreSQL's.
                "SET search_path = pg_catalog, pg_temp;
                 SET client_min_messages = warning;
                 -- An autovacuum that is in the way ends then, which is before the lock is given up.
                 SET deadlock_timeout = '100ms';
                 -- Another process that migrates is done by then.
                 SET lock_timeout = '60s'",
            )
            .await?;
        client.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await.context(
            "cannot take the migration lock: another process migrates, or a session holds it (pg_locks, locktype advisory)",
        )?;
        client.batch_execute(&format!("SET lock_timeout = {}", LOCK_TIMEOUT.as_millis())).await?;
        let is_marked = expect_whole(&client).await?;
        self.expect_no_later_release(&client).await?;
        self.expect_servers_to_go_on(&client).await?;
        let report =
            self.apply(&mut client, registration).await.map_err(|error| match waited_in_vain(&error) {
                true => error.context(LOCKED),
                false => error,
            })?;
        if is_marked {
            client.batch_execute(&unmarking()).await.context("cannot take the mark of a restore away")?;
        }
        Ok(report)
    }

    /// Refuses to take from a database what a later release brought.
    async fn expect_no_later_release(&self, client: &Client) -> anyhow::Result<()> {
        let exists = "SELECT to_regclass('operator.schema_state') IS NOT NULL";
        if !client.query_one(exists, &[]).await?.get::<_, bool>(0) {
            return Ok(());
        }
        let row = client.query_opt("SELECT release FROM operator.schema_state", &[]).await?;
        let version = self.version();
        match row.and_then(|row| row.get::<_, &str>(0).parse::<Version>().ok()) {
            Some(release) if release > version => {
                bail!(
                    "the database is of {release}, this program is of {version}: a later release migrated it"
                )
            }
            _ => Ok(()),
        }
    }

    /// Refuses to change a database under servers that would not work on it any more.
    async fn expect_servers_to_go_on(&self, client: &Client) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let strangers = self.servers_that_would_fail(client).await?;
            if strangers.is_empty() {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < FAREWELL,
                "servers of {} use this database, and would not work any more: {} works beside {} only. Stop them, or \
                 upgrade them to the release before {1} first",
                strangers.join(", "),
                self.version(),
                self.previous().map_or_else(|| "itself".to_owned(), |previous| previous.to_string()),
            );
            sleep(PAUSE).await;
        }
    }

    /// The releases of connected servers other than this one and the one before.
    async fn servers_that_would_fail(&self, client: &Client) -> anyhow::Result<Vec<String>> {
        let rows = client
            .query(
                "SELECT DISTINCT substr(a.application_name, length($1) + 1)
                   FROM pg_stat_activity a
                  WHERE a.datname = current_database() AND a.usename = 'postern_server'
                    AND starts_with(a.application_name, $1)",
                &[&SERVERS],
            )
            .await?;
        let goes_on = |name: &str| {
            let version = name.parse().ok();
            version.is_some() && [Some(self.version()), self.previous()].contains(&version)
        };
        let names = rows.iter().map(|row| row.get::<_, String>(0));
        Ok(names.filter(|name| !goes_on(name)).collect())
    }

    async fn apply(
        &self,
        client: &mut Client,
        registration: Option<RegistrationChoice>,
    ) -> anyhow::Result<Report> {
        let settings_changed = patiently(async || {
            roles::set_up(client).await.context("cannot make the roles and their settings")
        })
        .await?;
        patiently(async || update_extension(client).await.context("cannot update the extension")).await?;
        let migrations = self.apply_migrations(client).await?;
        patiently(async || {
            adopt(client)
                .await
                .context("cannot make postern_owner the owner of the objects that migrations created")
        })
        .await?;
        let migrated = !migrations.is_empty();
        let applied = patiently(async || self.apply_functions(client, migrated, registration).await).await?;
        Ok(Report {
            migrations,
            functions_changed: applied.functions_changed,
            settings_changed,
            registration_set: applied.registration_set,
        })
    }

    /// Applies the migrations that are missing, each in a transaction of its own.
    async fn apply_migrations(&self, client: &mut Client) -> anyhow::Result<Vec<String>> {
        let mut applied = Vec::new();
        patiently(async || {
            let mut runner = Runner::new(&self.migrations);
            runner.set_migration_table_name(HISTORY);
            let result = runner.run_async(client).await;
            let report = result.as_ref().map_or_else(|error| error.report(), Some);
            let names = report.into_iter().flat_map(refinery::Report::applied_migrations);
            applied.extend(names.map(ToString::to_string));
            result.map(drop).map_err(|error| self.failed_migration(&error))
        })
        .await?;
        Ok(applied)
    }

    fn failed_migration(&self, error: &refinery::Error) -> anyhow::Error {
        let text = error.to_string();
        let failed = self.migrations.iter().find(|migration| text.contains(&migration.to_string()));
        match (failed, postgres_error(error)) {
            (Some(migration), Some(source)) => {
                located(&format!("migrations/{migration}.sql"), migration.sql().unwrap_or_default(), source)
            }
            (_, Some(source)) => located("migrations", "", source),
            _ => anyhow!(text),
        }
    }
}

/// Refuses to open a database to servers that a restore has not filled to the end: it lacks the row of its generation,
/// which comes last, and perhaps its keys; or another generation has not begun in it. Returns whether the database has the mark
/// of a restore still.
async fn expect_whole(client: &Client) -> anyhow::Result<bool> {
    let (mark, has_generation) = generation::marks_of_restore(client).await?;
    if !mark.is_empty() && !mark.ends_with(generation::BEGUN) {
        bail!(
            "the database is not whole: a restore did not come to its end; restore once more, which does the rest, or name another database"
        );
    }
    if has_generation == Some(false) {
        bail!(
            "the database is not whole: a restore did not come to its end; restore once more, into an empty one"
        );
    }
    Ok(!mark.is_empty())
}

/// Takes the mark of a restore away that did all but open the database. A later restore would take for its own what servers and
/// operators have written since.
fn unmarking() -> String {
    format!(
        "DO $$
         BEGIN
             EXECUTE format('ALTER DATABASE %I RESET {}', current_database());
         END $$",
        generation::RESTORING
    )
}

/// Tries a step again that met a lock.
async fn patiently<T>(mut step: impl AsyncFnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let begun = Instant::now();
    loop {
        match step().await {
            Err(error) if waited_in_vain(&error) && begun.elapsed() < PATIENCE => sleep(PAUSE).await,
            result => return result,
        }
    }
}

/// Lets postern_owner execute the extension's functions, and pass some on (sql/grants.sql).
const EXTENSION_IS_FOR_OWNER: &str = "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA postern FROM PUBLIC;
     GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA postern TO postern_owner WITH GRANT OPTION;
     GRANT USAGE ON SCHEMA postern TO postern_owner WITH GRANT OPTION";

/// Updates the extension, if the first migration created it already. This comes before the migrations, which may use its
/// new functions: in defaults, too, which the functions of the release before meet as postern_owner.
async fn update_extension(client: &mut Client) -> Result<(), tokio_postgres::Error> {
    let outdated = "SELECT FROM pg_available_extensions
                     WHERE name = 'postern' AND installed_version <> default_version";
    if client.query_opt(outdated, &[]).await?.is_some() {
        let transaction = client.transaction().await?;
        transaction.batch_execute("ALTER EXTENSION postern UPDATE").await?;
        transaction.batch_execute(EXTENSION_IS_FOR_OWNER).await?;
        transaction.commit().await?;
    }
    Ok(())
}

/// Lets postern_owner execute the extension's functions, and makes it the owner of everything that a superuser's migration
/// created in our schemas. This has a transaction of its own, because [`Release::apply_functions`] keeps functions that
/// its own transaction touched.
async fn adopt(client: &mut Client) -> anyhow::Result<()> {
    let transaction = client.transaction().await?;
    transaction.batch_execute(EXTENSION_IS_FOR_OWNER).await?;
    let statements = transaction
        .query(
            "WITH ours AS (SELECT oid FROM pg_namespace WHERE nspname = ANY ($1::text[])),
                   owner AS (SELECT oid FROM pg_roles WHERE rolname = 'postern_owner')
              SELECT format('ALTER %s %s OWNER TO postern_owner',
                            CASE c.relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW'
                                           WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END,
                            c.oid::regclass)
                FROM pg_class c, owner
               WHERE c.relnamespace IN (SELECT oid FROM ours) AND c.relowner <> owner.oid
                 AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
                 -- A sequence that belongs to a column follows its table.
                 AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                                    AND c.relkind = 'S' AND d.deptype IN ('a', 'i'))
              UNION ALL
              SELECT format('ALTER ROUTINE %s OWNER TO postern_owner', p.oid::regprocedure)
                FROM pg_proc p, owner
               WHERE p.pronamespace IN (SELECT oid FROM ours) AND p.proowner <> owner.oid
              UNION ALL
              SELECT format('ALTER TYPE %s OWNER TO postern_owner', t.oid::regtype)
                FROM pg_type t, owner
               WHERE t.typnamespace IN (SELECT oid FROM ours) AND t.typowner <> owner.oid
                 AND t.typtype IN ('d', 'e', 'c') AND t.typelem = 0
                 AND (t.typrelid = 0 OR EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c'))",
            &[&SCHEMAS.as_slice()],
        )
        .await?;
    for row in statements {
        let statement: &str = row.get(0);
        transaction.batch_execute(statement).await.with_context(|| statement.to_owned())?;
    }
    transaction.commit().await?;
    Ok(())
}
