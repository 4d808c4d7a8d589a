//! Brings a database to the state this program expects: `migrations/` once each, in order, and `sql/` as a whole
//! whenever it changed. Both are part of the program. Their content belongs to the services; this module applies them:
//! one process at a time, safely under running servers (OPS-6), with ownership and privileges that no file has to set
//! (OPS-3).

use std::{collections::BTreeMap, fmt, path::Path, str::FromStr};

use anyhow::{Context, anyhow, bail};
use aws_lc_rs::digest::{self, SHA256};
use include_dir::{Dir, include_dir};
use refinery::{Migration, Runner};
use tokio_postgres::{
    Client, NoTls, Transaction,
    error::{ErrorPosition, SqlState},
};

use super::{Database, DatabaseError};
use crate::config::ConnectionString;

mod embedded {
    refinery::embed_migrations!("../migrations");
}

static SQL: Dir = include_dir!("$CARGO_MANIFEST_DIR/../sql");

const GRANTS: &str = "sql/grants.sql";

/// The table of applied migrations. It is named with its schema, as everything else is: the search path leads to
/// PostgreSQL's own names only.
const HISTORY: &str = "public.refinery_schema_history";

/// The advisory lock held while migrating, so that a second process waits and then finds nothing to do.
const LOCK: i64 = 0x706f_7374_6572_6e00; // "postern"

/// Says what to do about a lock that did not come.
const LOCKED: &str = "another session holds a lock, which did not come within 10 seconds; the step that needs it changed \
                      nothing. End that session (pg_locks and pg_blocking_pids tell which it is), or wait until it is \
                      done, and run `postern migrate` again";

/// The migrations and functions of one version of this program.
#[derive(Clone)]
pub struct Release {
    migrations: Vec<Migration>,
    /// The files of `sql/`: text by path from the root of the tree.
    files: BTreeMap<String, String>,
}

/// The changes that a migration made.
pub struct Report {
    migrations: Vec<String>,
    functions_changed: bool,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.migrations.as_slice(), self.functions_changed) {
            ([], false) => f.write_str("the database is up to date"),
            ([], true) => f.write_str("functions updated"),
            (migrations, _) => write!(f, "migrated: {}, and functions updated", migrations.join(", ")),
        }
    }
}

/// Migrates as a superuser, to this program's release.
pub async fn run(admin_url: &ConnectionString) -> anyhow::Result<Report> {
    Release::embedded().migrate(admin_url).await
}

impl Release {
    /// The release of this program.
    pub fn embedded() -> Self {
        let mut files = BTreeMap::new();
        collect(&SQL, &mut files);
        Self { migrations: embedded::migrations::runner().get_migrations().clone(), files }
    }

    /// A later release, which has one migration more; its name is as a file's in `migrations/`, without `.sql`.
    pub fn with_migration(mut self, name: &str, sql: &str) -> anyhow::Result<Self> {
        self.migrations.push(Migration::unapplied(name, sql)?);
        Ok(self)
    }

    /// A later release, in which one file of `sql/` is new or changed.
    pub fn with_file(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.to_owned(), text.to_owned());
        self
    }

    /// Migrates as a superuser.
    pub async fn migrate(&self, admin_url: &ConnectionString) -> anyhow::Result<Report> {
        let mut client = connect(admin_url).await?;
        client
            .batch_execute(
                // No object in another schema can pass for one of PostgreSQL's.
                "SET search_path = pg_catalog, pg_temp;
                 SET client_min_messages = warning;
                 -- Another process that migrates is done by then.
                 SET lock_timeout = '60s'",
            )
            .await?;
        client.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await.context(
            "cannot take the migration lock: another process migrates, or a session holds it (pg_locks, locktype advisory)",
        )?;
        // A statement that waits for a lock makes everyone behind it wait: better to fail, and be tried again.
        client.batch_execute("SET lock_timeout = '10s'").await?;
        self.apply(&mut client).await.map_err(|error| match waited_in_vain(&error) {
            true => error.context(LOCKED),
            false => error,
        })
    }

    async fn apply(&self, client: &mut Client) -> anyhow::Result<Report> {
        update_extension(client).await.context("cannot update the extension")?;
        let migrations = self.apply_migrations(client).await?;
        adopt(client)
            .await
            .context("cannot make postern_owner the owner of the objects that migrations created")?;
        let functions_changed = self.apply_functions(client, !migrations.is_empty()).await?;
        Ok(Report { migrations, functions_changed })
    }

    async fn apply_migrations(&self, client: &mut Client) -> anyhow::Result<Vec<String>> {
        let mut runner = Runner::new(&self.migrations);
        runner.set_migration_table_name(HISTORY);
        let report = runner.run_async(client).await.map_err(|error| {
            let text = error.to_string();
            let failed = self.migrations.iter().find(|migration| text.contains(&migration.to_string()));
            match (failed, postgres_error(&error)) {
                (Some(migration), Some(source)) => located(
                    &format!("migrations/{migration}.sql"),
                    migration.sql().unwrap_or_default(),
                    source,
                ),
                _ => anyhow!(error),
            }
        })?;
        Ok(report.applied_migrations().iter().map(ToString::to_string).collect())
    }

    async fn apply_functions(&self, client: &mut Client, migrated: bool) -> anyhow::Result<bool> {
        let transaction = client.transaction().await?;
        let (migration, hash) = self.state();
        let found =
            transaction.query_opt("SELECT migration, functions_hash FROM operator.schema_state", &[]).await?;
        // The migrations of an earlier run may be there that came no further.
        let unchanged =
            found.is_some_and(|row| row.get::<_, i32>(0) >= migration && row.get::<_, &[u8]>(1) == hash);
        if unchanged && !migrated {
            return Ok(false);
        }

        transaction
            .batch_execute("SET LOCAL ROLE postern_owner; SET LOCAL check_function_bodies = off")
            .await?;
        self.apply_files(&transaction).await?;
        // Applied once more: now that all functions exist, each body is checked against the others.
        transaction.batch_execute("SET LOCAL check_function_bodies = on").await?;
        self.apply_files(&transaction).await?;
        drop_obsolete(&transaction).await?;
        let comments: Vec<String> =
            self.files.iter().filter_map(|(path, text)| comment(path, text)).collect();
        transaction.batch_execute(&comments.join(";")).await.context("cannot comment on functions")?;
        transaction
            .batch_execute(
                "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA auth, aas, ds, qs, rendezvous, federation, operator
                     FROM PUBLIC, postern_server, postern_operator, postern_monitor;
                 REVOKE ALL ON ALL FUNCTIONS IN SCHEMA postern FROM postern_server, postern_operator, postern_monitor",
            )
            .await?;
        let grants =
            self.files.get(GRANTS).with_context(|| format!("{GRANTS} is not part of this program"))?;
        transaction.batch_execute(grants).await.map_err(|error| located(GRANTS, grants, &error))?;
        transaction
            .execute(
                "INSERT INTO operator.schema_state (migration, functions_hash, applied)
                     VALUES ($1, $2, (now() AT TIME ZONE 'UTC')::date)
                 ON CONFLICT (singleton) DO UPDATE
                     SET (migration, functions_hash, applied) = ROW(excluded.migration, excluded.functions_hash, excluded.applied)",
                &[&migration, &hash],
            )
            .await?;
        transaction.commit().await?;
        Ok(true)
    }

    async fn apply_files(&self, transaction: &Transaction<'_>) -> anyhow::Result<()> {
        for (path, text) in self.files.iter().filter(|(path, _)| *path != GRANTS) {
            transaction.batch_execute(text).await.map_err(|error| located(path, text, &error))?;
        }
        Ok(())
    }

    /// The number of the release's last migration, and the hash of its `sql/`.
    fn state(&self) -> (i32, Vec<u8>) {
        let migration = self.migrations.iter().map(Migration::version).max();
        let mut hash = digest::Context::new(&SHA256);
        for part in self.files.iter().flat_map(|(path, text)| [path, text]) {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        (migration.unwrap_or_default(), hash.finish().as_ref().to_vec())
    }
}

fn collect(dir: &Dir, files: &mut BTreeMap<String, String>) {
    for file in dir.files() {
        // An editor's backup of a file is none.
        let is_sql = file.path().extension().is_some_and(|extension| extension == "sql");
        if let Some(text) = file.contents_utf8().filter(|_| is_sql) {
            files.insert(Path::new("sql").join(file.path()).display().to_string(), text.to_owned());
        }
    }
    dir.dirs().for_each(|dir| collect(dir, files));
}

/// The statement by which a file's header explains its function in `\df+`; none for a file that defines no function.
fn comment(path: &str, text: &str) -> Option<String> {
    let (schema, name) = path.strip_prefix("sql/")?.strip_suffix(".sql")?.split_once('/')?;
    let header = header(text);
    let explanation = header.strip_prefix(&format!("{schema}.{name}: ")).unwrap_or(&header);
    let mut letters = explanation.chars();
    let capital: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    let explanation = format!("{capital}{}", letters.as_str()).replace('\'', "''");
    Some(format!("COMMENT ON FUNCTION {schema}.{name} IS '{explanation}'"))
}

/// The text of the comment that a file begins with, each paragraph in one line. A line that is indented by two spaces
/// begins an item of a list, which has a line of its own.
fn header(text: &str) -> String {
    let mut header = String::new();
    for line in text.lines().map_while(|line| line.strip_prefix("--")) {
        let line = line.strip_prefix(' ').unwrap_or(line);
        let separator = match line {
            "" => "\n\n",
            _ if header.is_empty() || header.ends_with('\n') => "",
            _ if line.starts_with("  ") && !line.starts_with("   ") => "\n",
            _ => " ",
        };
        header.push_str(separator);
        header.push_str(line.trim());
    }
    header
}

async fn connect(admin_url: &ConnectionString) -> anyhow::Result<Client> {
    let mut config = tokio_postgres::Config::from_str(admin_url.as_str())
        .context("database.admin_url is not a valid connection string")?;
    config.application_name("postern migrate");
    let (client, connection) = config
        .connect(NoTls)
        .await
        .map_err(DatabaseError::from)
        .context("cannot connect as a superuser (database.admin_url)")?;
    tokio::spawn(connection);
    Ok(client)
}

/// Updates the extension, if the first migration created it already. This comes before the
/// migrations, which may use its new functions.
async fn update_extension(client: &Client) -> Result<(), tokio_postgres::Error> {
    let outdated = "SELECT FROM pg_available_extensions
                     WHERE name = 'postern' AND installed_version <> default_version";
    if client.query_opt(outdated, &[]).await?.is_some() {
        client.batch_execute("ALTER EXTENSION postern UPDATE").await?;
    }
    Ok(())
}

fn postgres_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a tokio_postgres::Error> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|error| error.downcast_ref())
}

/// Lets postern_owner execute the extension's functions and pass some on (sql/grants.sql), and makes it the owner of
/// everything that a superuser's migration created in our schemas. This has a transaction of its own, because
/// [`drop_obsolete`] keeps functions that its own transaction touched.
async fn adopt(client: &mut Client) -> anyhow::Result<()> {
    let transaction = client.transaction().await?;
    let statements = transaction
        .query(
            "SELECT 'REVOKE ALL ON ALL FUNCTIONS IN SCHEMA postern FROM PUBLIC'
             UNION ALL
             SELECT 'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA postern TO postern_owner WITH GRANT OPTION'
             UNION ALL
             SELECT 'GRANT USAGE ON SCHEMA postern TO postern_owner WITH GRANT OPTION'
             UNION ALL
             (WITH ours AS (SELECT oid FROM pg_namespace WHERE nspname IN ('auth', 'aas', 'ds', 'qs', 'rendezvous', 'federation', 'operator')),
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
                 AND (t.typrelid = 0 OR EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c')))",
            &[],
        )
        .await?;
    for row in statements {
        let statement: &str = row.get(0);
        transaction.batch_execute(statement).await.with_context(|| statement.to_owned())?;
    }
    transaction.commit().await?;
    Ok(())
}

/// Drops functions that no file defines any more, except those that a table, trigger or type still uses: they belong
/// to migrations.
async fn drop_obsolete(transaction: &Transaction<'_>) -> anyhow::Result<()> {
    let functions: Option<String> = transaction
        .query_one(
            "SELECT string_agg(p.oid::regprocedure::text, ', ')
               FROM pg_proc p
              WHERE p.pronamespace IN (SELECT oid FROM pg_namespace
                                        WHERE nspname IN ('auth', 'aas', 'ds', 'qs', 'rendezvous', 'federation', 'operator'))
                AND p.xmin <> pg_current_xact_id()::xid
                AND NOT EXISTS (SELECT FROM pg_depend d
                                 WHERE d.refclassid = 'pg_proc'::regclass AND d.refobjid = p.oid
                                   AND d.classid <> 'pg_proc'::regclass)",
            &[],
        )
        .await?
        .get(0);
    if let Some(functions) = functions {
        transaction
            .batch_execute(&format!("DROP ROUTINE {functions}"))
            .await
            .with_context(|| format!("cannot drop functions that sql/ no longer defines: {functions}"))?;
    }
    Ok(())
}

/// An error of PostgreSQL's with the file and line where it arose.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Located {
    text: String,
    code: SqlState,
}

/// Whether a lock did not come in time.
fn waited_in_vain(error: &anyhow::Error) -> bool {
    let code = error.chain().find_map(|error| {
        let located = error.downcast_ref::<Located>().map(|located| &located.code);
        located.or_else(|| postgres_error(error)?.code())
    });
    code == Some(&SqlState::LOCK_NOT_AVAILABLE)
}

fn located(path: &str, text: &str, error: &tokio_postgres::Error) -> anyhow::Error {
    let Some(error) = error.as_db_error() else {
        return anyhow!("{path}: {error}");
    };
    let line = match error.position() {
        // The position counts characters, from 1.
        Some(ErrorPosition::Original(position)) => {
            let before = text.chars().take((*position as usize).saturating_sub(1));
            format!(":{}", before.filter(|c| *c == '\n').count() + 1)
        }
        _ => String::new(),
    };
    let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
    Located { text: format!("{path}{line}: {}{hint}", error.message()), code: error.code().clone() }.into()
}

/// The texts of all migrations.
#[cfg(test)]
pub(crate) fn migrations() -> Vec<String> {
    let runner = embedded::migrations::runner();
    runner.get_migrations().iter().filter_map(|migration| migration.sql().map(str::to_owned)).collect()
}

/// The state of a database in comparison with this program.
#[derive(Debug, PartialEq, Eq)]
pub enum SchemaState {
    Current,
    /// The same tables, other functions: this program is older or newer.
    OtherFunctions,
    /// A newer program migrated. This one starts with a warning; whether it works with that
    /// database depends on the migrations (OPS-6).
    Newer {
        found: i32,
    },
    Older {
        found: i32,
        expected: i32,
    },
}

/// Reads the state as `postern_server`.
pub async fn state(database: &Database) -> Result<SchemaState, DatabaseError> {
    let row = database
        .query_opt("SELECT migration, functions_hash FROM operator.current_schema_state()", &[])
        .await?;
    let (expected, hash) = Release::embedded().state();
    let Some(row) = row else {
        return Ok(SchemaState::Older { found: 0, expected });
    };
    Ok(match row.get::<_, i32>(0) {
        found if found < expected => SchemaState::Older { found, expected },
        found if found > expected => SchemaState::Newer { found },
        _ if row.get::<_, &[u8]>(1) != hash => SchemaState::OtherFunctions,
        _ => SchemaState::Current,
    })
}

/// Refuses a database that this program cannot work with.
pub async fn expect_current(database: &Database) -> anyhow::Result<()> {
    match state(database).await.context("cannot use the database (was `postern migrate` run on it?)")? {
        SchemaState::Current => {}
        SchemaState::OtherFunctions => {
            tracing::warn!(
                "the functions in the database are another version's: if this program is the newer one, run `postern migrate`"
            );
        }
        SchemaState::Newer { found } => {
            tracing::warn!(
                "the database is at migration {found}, newer than this program, which may not work with it: use the program that migrated it"
            );
        }
        SchemaState::Older { found, expected } => {
            bail!(
                "the database is at migration {found}, this program needs {expected}: run `postern migrate`"
            )
        }
    }
    Ok(())
}
