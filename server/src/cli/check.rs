//! `postern check`: checks everything that a start depends on and says, one line for each, whether it is well and
//! otherwise how to mend it. It changes nothing.

use std::path::Path;

use postern_cluster::{ClusterOptions, PrivateCluster};

use super::{private_cluster, sources::Sources};
use crate::{
    config::{Config, DatabaseConfig, Settings},
    database::{
        Database, DatabaseError,
        migrate::{self, SchemaState},
    },
    keys::{
        master_key::{self, MasterKey},
        master_keys::Sources as KeySources,
    },
};

/// The result of one check: the state of a thing, or the problem with it and how to mend that.
type Finding = Result<String, Problem>;

struct Problem {
    what: String,
    mend: String,
}

fn problem(what: impl ToString, mend: impl Into<String>) -> Problem {
    Problem { what: what.to_string(), mend: mend.into() }
}

/// Prints findings as they come.
struct Report {
    all_well: bool,
}

impl Report {
    fn line(&mut self, item: &str, finding: Finding) -> bool {
        match finding {
            Ok(text) => {
                println!("ok       {item}: {text}");
                true
            }
            Err(Problem { what, mend }) => {
                println!("problem  {item}: {what}\n         to mend: {mend}");
                self.all_well = false;
                false
            }
        }
    }
}

/// Runs all checks, and returns whether all is well.
pub async fn run(settings: &Settings, sources: &Sources) -> bool {
    let mut report = Report { all_well: true };
    let config = match Config::load(settings) {
        Ok(config) => config,
        Err(error) => {
            report.line("configuration", Err(problem(format!("{error:#}"), "see `postern check --help`")));
            return false;
        }
    };
    report.line("configuration", Ok(describe(sources)));
    if !sources.unknown_environment.is_empty() {
        let names = sources.unknown_environment.join(", ");
        println!("note     configuration: {names} in the environment: not a setting of postern, ignored");
    }
    report.line("master key", master_key(&config));
    database(&mut report, config).await;
    report.all_well
}

fn describe(sources: &Sources) -> String {
    let file =
        sources.file.as_deref().map_or("no file".to_owned(), |file| format!("file {}", file.display()));
    let mut parts = vec![file];
    parts.extend(
        (!sources.environment.is_empty()).then(|| format!("environment {}", sources.environment.join(" "))),
    );
    parts.extend((!sources.flags.is_empty()).then(|| format!("flags {}", sources.flags.join(" "))));
    parts.join(", ")
}

fn master_key(config: &Config) -> Finding {
    let mend = "a file that only the server's user can read, with the output of `openssl rand -hex 32`";
    let well = |path: &Path| format!("{}, readable by its owner only", path.display());
    match config.master_key_file() {
        Some(own) if config.embedded && config.master_key_file.is_none() && !own.exists() => {
            Ok(format!("none yet: the first start makes {}", own.display()))
        }
        Some(path) => MasterKey::from_file(&path).map(|_| well(&path)),
        None => MasterKey::load(None).map(|_| format!("from {}", master_key::ENVIRONMENT)),
    }
    .map_err(|error| problem(error, mend))
}

async fn database(report: &mut Report, mut config: Config) {
    let options = ClusterOptions::new(&config.data_dir, &config.extension_dir);
    if config.embedded && !options.cluster_exists() {
        let text = format!(
            "none yet: the first `postern serve --embedded` makes it in {}",
            config.data_dir.display()
        );
        report.line("private cluster", Ok(text));
        return;
    }
    let cluster = match private_cluster::start(&mut config, PrivateCluster::start_or_join).await {
        Ok(cluster) => cluster,
        Err(error) => {
            report.line("private cluster", Err(problem(format!("{error:#}"), "do what the message says")));
            return;
        }
    };
    if let Some(cluster) = &cluster {
        let text = format!("in {}, socket in {}", config.data_dir.display(), cluster.socket_dir().display());
        report.line("private cluster", Ok(text));
    }
    if let Some(database) = connect(report, &config).await {
        items(report, &config, &database).await;
    }
    if let Err(error) = private_cluster::stop(cluster).await {
        report.line("private cluster", Err(problem(format!("{error:#}"), "look at its postgres.log")));
    }
}

async fn connect(report: &mut Report, config: &Config) -> Option<Database> {
    let Some(url) = &config.database.url else {
        let mend = "--database-url, POSTERN_DATABASE_URL or `url` in [database]; or --embedded";
        report.line("database", Err(problem("no connection string", mend)));
        return None;
    };
    let connected = async {
        let database = Database::new(url, &DatabaseConfig { pool_size: 1, ..config.database.clone() })?;
        // Before anything is prepared, which a pooler may lose.
        let keeps_sessions = database.keeps_sessions().await?;
        Ok::<_, DatabaseError>((database, keeps_sessions))
    };
    match connected.await {
        Ok((database, keeps_sessions)) => {
            report.line("database", Ok("reachable".to_owned()));
            report.line("sessions", sessions(keeps_sessions)).then_some(database)
        }
        Err(error) => {
            let mend = "check that PostgreSQL is running, database.url is right, pg_hba.conf lets role postern_server in, and `postern migrate` was run";
            report.line("database", Err(problem(error, mend)));
            None
        }
    }
}

/// Prepared statements and notifications need one session of PostgreSQL for each connection.
fn sessions(kept: bool) -> Finding {
    match kept {
        true => Ok("each connection keeps its own".to_owned()),
        false => Err(problem(
            "a connection changes its session with each transaction, as behind a pooler in transaction mode",
            "connect to PostgreSQL itself, or through a pooler in session mode (PgBouncer: pool_mode = session)",
        )),
    }
}

async fn items(report: &mut Report, config: &Config, database: &Database) {
    report.line("PostgreSQL", flatten(version(database).await));
    if !report.line("extension", flatten(extension(database).await)) {
        return;
    }
    if !report.line("schema", schema(database).await) {
        return;
    }
    report.line("wake-ups", flatten(wake_ups(database).await));
    report.line("role", flatten(role(database).await));
    report.line("home domain", flatten(home_domain(database, &config.domain).await));
    report.line("secrets", flatten(secrets(database, config).await));
    report.line("registration", flatten(registration(database, config).await));
}

/// Checks that the database's secrets are sealed under the configured master key.
async fn secrets(database: &Database, config: &Config) -> Result<Finding, DatabaseError> {
    let row =
        database.query_one("SELECT key_id, previous_id FROM operator.current_master_key()", &[]).await?;
    let (current, previous): (Option<&[u8]>, Option<&[u8]>) = (row.get(0), row.get(1));
    let Some(current) = current else { return Ok(Ok("none yet: the first start makes them".to_owned())) };
    let sources = KeySources::of(config);
    let held: Vec<_> = sources.key().into_iter().chain(sources.next_key().ok().flatten()).collect();
    let is_held = |id: &[u8]| held.iter().any(|key| key.id().as_bytes() == id);
    Ok(match previous {
        _ if !is_held(current) => Err(problem(
            "they are sealed under another master key",
            "configure that one; if it was changed, the new one",
        )),
        Some(previous) => Err(problem(
            match is_held(previous) {
                true => "a change of the master key is under way",
                false => "a change of the master key is under way, and the old one is not here",
            },
            "run `postern master-key change` to its end, with the old key and the new one",
        )),
        None => Ok("sealed under the master key".to_owned()),
    })
}

/// A query that failed is a problem like any other.
fn flatten(finding: Result<Finding, DatabaseError>) -> Finding {
    finding.unwrap_or_else(|error| {
        Err(problem(error, "run `postern migrate`; if that does not help, look at PostgreSQL's log"))
    })
}

async fn version(database: &Database) -> Result<Finding, DatabaseError> {
    let row = database
        .query_one(
            "SELECT current_setting('server_version'), current_setting('server_version_num')::int / 10000",
            &[],
        )
        .await?;
    let (text, major): (String, i32) = (row.get(0), row.get(1));
    Ok(match major {
        15..=18 => Ok(text),
        _ => Err(problem(format!("version {text}"), "use PostgreSQL 15, 16, 17 or 18")),
    })
}

async fn extension(database: &Database) -> Result<Finding, DatabaseError> {
    let row = database
        .query_one(
            "SELECT (SELECT extversion FROM pg_extension WHERE extname = 'postern'),
                    (SELECT default_version FROM pg_available_extensions WHERE name = 'postern')",
            &[],
        )
        .await?;
    let (installed, available): (Option<String>, Option<String>) = (row.get(0), row.get(1));
    Ok(match (installed, available) {
        (Some(installed), Some(available)) if installed == available => Ok(format!("postern {installed}")),
        (Some(installed), Some(available)) => Err(problem(
            format!("the database has version {installed}, the database server has {available}"),
            "run `postern migrate`",
        )),
        (Some(_), None) => Err(problem(
            "its files are gone from the database server",
            "install Postern's extension for this PostgreSQL",
        )),
        (None, Some(_)) => Err(problem("not created in this database", "run `postern migrate`")),
        (None, None) => Err(problem(
            "not installed on the database server",
            "install Postern's extension for this PostgreSQL, then run `postern migrate`",
        )),
    })
}

async fn schema(database: &Database) -> Finding {
    let mend = "run `postern migrate`";
    match migrate::state(database).await {
        Ok(SchemaState::Current) => Ok("up to date".to_owned()),
        Ok(SchemaState::OtherFunctions) => Err(problem("its functions are another version's", mend)),
        Ok(SchemaState::Newer { found }) => Ok(format!("at migration {found}, newer than this program")),
        Ok(SchemaState::Older { found, expected }) => {
            Err(problem(format!("at migration {found}, this program needs {expected}"), mend))
        }
        Err(error) => Err(problem(error, mend)),
    }
}

/// Checks that the extension is preloaded. The wake secret is in shared memory, which only a preloaded extension gets;
/// otherwise it is zero.
async fn wake_ups(database: &Database) -> Result<Finding, DatabaseError> {
    let row = database.query_one("SELECT postern.wake_secret()", &[]).await?;
    Ok(match row.get::<_, &[u8]>(0).iter().all(|byte| *byte == 0) {
        false => Ok("the extension is preloaded".to_owned()),
        true => Err(problem(
            "the extension is not preloaded: each delivery notifies by itself, which is slower under load",
            "add postern to shared_preload_libraries and restart PostgreSQL",
        )),
    })
}

/// Checks that the role can execute the API functions and nothing else (OPS-3).
async fn role(database: &Database) -> Result<Finding, DatabaseError> {
    let row = database
        .query_one(
            "SELECT current_user::text,
                    current_setting('is_superuser') = 'on',
                    has_function_privilege('operator.claim_home_domain(text)', 'EXECUTE'),
                    (SELECT string_agg(c.oid::regclass::text, ', ')
                       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                      WHERE n.nspname IN ('postern', 'auth', 'aas', 'ds', 'qs', 'rendezvous', 'federation', 'operator')
                        AND (c.relkind IN ('r', 'p', 'v', 'm')
                             AND (has_table_privilege(c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE')
                                  OR has_any_column_privilege(c.oid, 'SELECT, INSERT, UPDATE'))
                             OR c.relkind = 'S' AND has_sequence_privilege(c.oid, 'SELECT, USAGE, UPDATE')))",
            &[],
        )
        .await?;
    let (name, superuser, executes): (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
    let tables: Option<String> = row.get(3);
    let connect_as = "connect as postern_server in database.url";
    Ok(match tables {
        _ if superuser => Err(problem(format!("{name} is a superuser"), connect_as)),
        _ if !executes => Err(problem(format!("{name} may not execute the API functions"), connect_as)),
        Some(tables) => Err(problem(
            format!("{name} can reach tables: {tables}"),
            "revoke that, or connect as postern_server",
        )),
        None => Ok(format!("{name} executes the API functions and reaches no table")),
    })
}

/// Checks that those can register whom the policy lets (AS-1).
async fn registration(database: &Database, config: &Config) -> Result<Finding, DatabaseError> {
    let row = database.query_one("SELECT auth.registration_terms()", &[]).await?;
    let policy: String = row.get(0);
    Ok(match (policy.as_str(), &config.oidc.issuer) {
        ("oidc", None) => Err(problem(
            "the policy is oidc, and no identity provider is configured: nobody can register",
            "set oidc.issuer and oidc.client_id, or another policy with operator.set_registration_policy",
        )),
        ("oidc", Some(issuer)) => Ok(format!("{policy}, by {issuer}")),
        _ => Ok(policy),
    })
}

async fn home_domain(database: &Database, configured: &str) -> Result<Finding, DatabaseError> {
    let row = database.query_one("SELECT operator.current_home_domain()", &[]).await?;
    Ok(match row.get::<_, Option<&str>>(0) {
        None => Ok(format!("none yet: the first start makes it {configured}, for ever")),
        Some(home) if home == configured => Ok(home.to_owned()),
        Some(home) => Err(problem(
            format!("the database is the home of {home}, the configuration says {configured}"),
            format!("set the domain to {home}, or use another database"),
        )),
    })
}
