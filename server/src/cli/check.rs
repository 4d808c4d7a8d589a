//! `postern check`: checks everything that a start depends on and says, one line for each, whether it is well and
//! otherwise how to mend it. It changes nothing: of a private cluster that is stopped it says what it could not look at,
//! unless it is told to start it for the look.

use std::path::{Path, PathBuf};

use postern_cluster::Stopped;

use super::{
    certificate,
    private_cluster::{self, Found},
    setup,
    sources::Sources,
    status,
    user::load_to_look,
};
use crate::{
    body_limits,
    config::{self, Config, DatabaseConfig, Settings},
    database::{
        Database, DatabaseError, Way, roles,
        schema_state::{self, SchemaState},
        schemas,
        witness::{DECIDE, PUT_BACK, Witness},
    },
    health::{self, Verdict},
    keys::{
        master_key::{self, MasterKey},
        master_keys::Sources as KeySources,
    },
    say::print,
    service_manager,
};

/// The variable in which a unit names the file of the master key.
const KEY_FILE: &str = "POSTERN_MASTER_KEY_FILE";

/// The result of one check: the state of a thing, or the problem with it and how to mend that.
type Finding = Result<String, Problem>;

pub(super) struct Problem {
    pub what: String,
    pub mend: String,
}

pub(super) fn problem(what: impl ToString, mend: impl Into<String>) -> Problem {
    Problem { what: what.to_string(), mend: mend.into() }
}

/// Prints a remark on something that is well.
fn note(item: &str, text: &str) {
    print(format_args!("note     {item}: {text}"));
}

/// Prints findings as they come.
struct Report {
    all_well: bool,
    /// Whether the master key can be looked at.
    has_key: bool,
}

impl Report {
    fn line(&mut self, item: &str, finding: Finding) -> bool {
        match finding {
            Ok(text) => {
                print(format_args!("ok       {item}: {text}"));
                true
            }
            Err(Problem { what, mend }) => {
                print(format_args!("problem  {item}: {what}\n         to mend: {mend}"));
                self.all_well = false;
                false
            }
        }
    }

    /// Prints a verdict. A warning is no problem.
    fn verdict(&mut self, health::Line { item, verdict, says, mend }: health::Line) {
        let mend = mend.unwrap_or_default();
        match verdict {
            Verdict::Warning => warning(&item, &says, &mend),
            Verdict::Ok | Verdict::Problem => {
                let finding = if verdict == Verdict::Ok { Ok(says) } else { Err(problem(says, mend)) };
                self.line(&item, finding);
            }
        }
    }
}

/// Runs all checks, and returns whether none of them found a problem. A private cluster that is stopped is started for them
/// if `start` says so.
pub async fn run(settings: &Settings, start: bool, sources: &Sources) -> bool {
    let mut report = Report { all_well: true, has_key: true };
    // As the user that began this, whom systemd answers also where no bus runs; from here on it may be the server's.
    let of_service = config::installed_file().and_then(|_| service_manager::credential(KEY_FILE));
    let mut config = match load_to_look(settings) {
        Ok(config) => config,
        Err(error) => {
            report.line("configuration", Err(problem(format!("{error:#}"), "see `postern check --help`")));
            return false;
        }
    };
    report.line("configuration", Ok(describe(sources)));
    if !sources.unknown_environment.is_empty() {
        let names = sources.unknown_environment.join(", ");
        note("configuration", &format!("{names} in the environment: not a setting of postern, ignored"));
    }
    match take_key_of_service(of_service, settings, &mut config) {
        Some(file) => {
            report.has_key = false;
            let says = format!(
                "systemd hands it to the service alone, as {}: not looked at, which root can while the service runs",
                file.display()
            );
            note("master key", &says);
        }
        None => {
            report.line("master key", master_key(&config));
        }
    }
    tls(&mut report, &config);
    tls_to_postgresql(&mut report, &config);
    admin_url(&config);
    metrics(&mut report, &config).await;
    if let Some(line) = status::room(&config) {
        report.verdict(line);
    }
    database(&mut report, config, start).await;
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

/// Takes the master key from where the package's server has it, if its unit names a credential for it and nobody names another
/// file here. Returns the credential if it is out of reach, as while the service is stopped.
fn take_key_of_service(
    of_service: Option<PathBuf>,
    settings: &Settings,
    config: &mut Config,
) -> Option<PathBuf> {
    let is_named = settings.master_key_file.is_some() || std::env::var_os(master_key::ENVIRONMENT).is_some();
    let file = of_service.filter(|_| !is_named)?;
    if !file.exists() {
        return Some(file);
    }
    config.master_key_file = Some(file);
    None
}

fn master_key(config: &Config) -> Finding {
    let mend = "a file that only the server's user can read, with the output of `openssl rand -hex 32`";
    let well = |path: &Path| match service_manager::is_credential(path) {
        true => format!("{}, which systemd hands to the service alone", path.display()),
        false => format!("{}, readable by its owner only", path.display()),
    };
    match config.master_key_file() {
        Some(own) if config.embedded && config.master_key_file.is_none() && !own.exists() => {
            Ok(format!("none yet: the first start makes {}", own.display()))
        }
        Some(path) => MasterKey::from_file(&path).map(|_| well(&path)),
        None => MasterKey::load(None).map(|_| format!("from {}", master_key::ENVIRONMENT)),
    }
    .map_err(|error| problem(error, mend))
}

/// Checks the server's certificate as clients and other servers will (OPS-8).
fn tls(report: &mut Report, config: &Config) {
    const ITEM: &str = "TLS";
    let (Some(certificate), Some(key)) = (&config.tls.certificate, &config.tls.key) else {
        report.line(ITEM, plain_http(config));
        return;
    };
    let host = certificate::host(config);
    let looked_at = certificate::look(config, certificate, key);
    let left = looked_at.as_ref().ok().copied();
    report.line(ITEM, looked_at.map(|days| format!("certificate for {host}, valid for {days} days")));
    if let Some(days) = left.filter(|days| *days < certificate::ENDING) {
        note(ITEM, &format!("the certificate ends in {days} days: renew it; servers take the new file over"));
    }
    if host != config.domain {
        let text = format!("https://{}/.well-known/postern has to lead to this server, too", config.domain);
        note(ITEM, &text);
    }
}

/// Looks at the certificate that servers show to PostgreSQL, if there is one.
fn tls_to_postgresql(report: &mut Report, config: &Config) {
    const ITEM: &str = "TLS to PostgreSQL";
    let Some(looked_at) = certificate::look_at_postgresqls(config) else { return };
    let left = looked_at.as_ref().ok().copied();
    report.line(ITEM, looked_at.map(|days| format!("certificate of sslcert, valid for {days} days")));
    if let Some(days) = left.filter(|days| *days < certificate::ENDING) {
        note(
            ITEM,
            &format!(
                "the certificate of sslcert ends in {days} days: renew it; servers take the new file over"
            ),
        );
    }
}

/// Looks at the connection string of commands, as far as they take it. No server uses it, and its files may be for another user.
fn admin_url(config: &Config) {
    if let Some(Err(error)) = config.database.admin_url.as_ref().map(Way::of) {
        let mend = "a connection string as operate/configure.md of the documentation has them; migrate, backup and restore need it";
        warning("database.admin_url", &error.to_string(), mend);
    }
}

fn plain_http(config: &Config) -> Finding {
    let plain = format!("none: plain HTTP at {}", config.listen);
    match config.listen.ip().is_loopback() || !config.proxy.addresses.is_empty() {
        true => Ok(plain),
        false => Err(problem(
            plain,
            "tls.certificate and tls.key; or listen on 127.0.0.1 only; or a proxy with TLS before it, in proxy.addresses",
        )),
    }
}

/// Tells where metrics are, and who gets there.
async fn metrics(report: &mut Report, config: &Config) {
    const ITEM: &str = "metrics";
    let Some(address) = config.metrics.listen else {
        report.line(ITEM, Ok("none: metrics.listen is not set".to_owned()));
        return;
    };
    let reached = status::reachable(address);
    if status::is_taken(reached).await && status::metrics_at(reached).await.is_none() {
        let says = format!("another program listens at {address}: a server serves without metrics meanwhile");
        warning(ITEM, &says, "end that program, or name another port in metrics.listen");
    } else {
        report.line(ITEM, Ok(format!("plain HTTP at {address}")));
    }
    if !address.ip().is_loopback() {
        note(
            ITEM,
            "whoever reaches that address learns figures, and the domains of neighbours: a firewall before it",
        );
    }
}

/// Prints what works, and needs somebody soon.
fn warning(item: &str, says: &str, mend: &str) {
    print(format_args!("warning  {item}: {says}\n         to mend: {mend}"));
}

async fn database(report: &mut Report, mut config: Config, start: bool) {
    const ITEM: &str = "private cluster";
    let dir = config.data_dir.display().to_string();
    if let Err(error) = setup::expect_done(&config) {
        report.line(ITEM, Err(problem(error, "do what the message says")));
        return;
    }
    let cluster = match private_cluster::look(&mut config, start).await {
        Ok(Found::There(cluster)) => cluster,
        Ok(Found::Stopped(cluster)) => {
            stopped(report, ITEM, &dir, cluster);
            return;
        }
        Ok(Found::Missing) => {
            let found = match config.create_cluster {
                true => Ok(format!("none yet: the first `postern serve --embedded` makes it in {dir}")),
                false => Err(problem(
                    format!("there is none in {dir}, where one was before (create_cluster = false)"),
                    "mount its disk, or bring it back from a backup (`postern restore`)",
                )),
            };
            report.line(ITEM, found);
            return;
        }
        Err(error) => {
            report.line(ITEM, Err(problem(format!("{error:#}"), "do what the message says")));
            return;
        }
    };
    if let Some(cluster) = &cluster {
        report.line(ITEM, Ok(format!("in {dir}, socket in {}", cluster.socket_dir().display())));
    }
    if let Some(database) = connect(report, &config).await {
        items(report, &config, &database).await;
    }
    if let Err(error) = private_cluster::stop(cluster).await {
        report.line(ITEM, Err(problem(format!("{error:#}"), "look at its postgres.log")));
    }
}

/// Tells of a cluster that is stopped what its files show, and what was not looked at.
fn stopped(report: &mut Report, item: &str, dir: &str, Stopped { major, obstacle }: Stopped) {
    let is = format!("PostgreSQL {major} in {dir} is stopped");
    match obstacle {
        Some(obstacle) => {
            let what = format!("{is}, and would not start: {obstacle:#}");
            report.line(item, Err(problem(what, "do what the message says")));
        }
        None => warning(
            item,
            &format!(
                "{is}: not looked at are database, extension, schema, health, role, home domain, secrets, registration, limits"
            ),
            &format!(
                "{}, then check again; or --start, which starts PostgreSQL for the look and stops it again",
                private_cluster::how_to_start()
            ),
        ),
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
    let version = flatten(version(database).await);
    let older = version.as_ref().ok().filter(|_| config.embedded);
    let older = older.and_then(|running| private_cluster::older_than_installed(running));
    report.line("PostgreSQL", version);
    if let Some((says, mend)) = older {
        warning("PostgreSQL", &says, mend);
    }
    match extension(database).await {
        Ok(None) => {}
        Ok(Some(problem)) => {
            report.line("extension", Err(problem));
            return;
        }
        Err(error) => {
            report.line("extension", flatten(Err(error)));
            return;
        }
    }
    if !report.line("schema", schema(database).await) {
        return;
    }
    health(report, database).await;
    if let Some(file) = config.witness_file() {
        let finding = match Witness::new(file).is_behind(database).await {
            Ok(false) => None,
            Ok(true) => Some(Err(problem(PUT_BACK, DECIDE))),
            Err(error) => Some(flatten(Err(error))),
        };
        if let Some(finding) = finding {
            report.line("witness", finding);
        }
    }
    report.line("role", flatten(role(database).await));
    report.line("home domain", flatten(home_domain(database, &config.domain).await));
    match report.has_key {
        true => {
            report.line("secrets", flatten(secrets(database, config).await));
        }
        false => note("secrets", "not looked at, since the master key is not"),
    }
    report.line("registration", flatten(registration(database, config).await));
    report.line("limits", limits(database, config).await);
}

/// Tells what the database says of itself.
async fn health(report: &mut Report, database: &Database) {
    let lines = match health::look(database).await {
        Ok(found) => found.lines,
        Err(error) => {
            report.line("health", Err(problem(error, "run `postern migrate`")));
            return;
        }
    };
    for line in lines {
        report.verdict(line);
    }
}

/// Checks that servers let through what the limits in the database allow (DS-13).
async fn limits(database: &Database, config: &Config) -> Finding {
    let mend = "limits.max_body_bytes in the configuration, or operator.set_group_limit and set_user_limit";
    let checked = body_limits::check(database, &config.limits).await;
    checked
        .map(|()| format!("bodies of {} bytes hold what they allow", config.limits.max_body_bytes))
        .map_err(|error| problem(format!("{error:#}"), mend))
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
        Some(previous) if !is_held(previous) => Err(problem(
            "some are sealed under the old master key, which is not here",
            "run `postern master-key change` to its end, with the old key and the new one",
        )),
        _ => Ok("sealed under the master key".to_owned()),
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

/// The problem of a database without the extension. Which version it has is an item of its health.
async fn extension(database: &Database) -> Result<Option<Problem>, DatabaseError> {
    let row = database
        .query_one(
            "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'postern'),
                    EXISTS (SELECT FROM pg_available_extensions WHERE name = 'postern')",
            &[],
        )
        .await?;
    let (is_created, is_available): (bool, bool) = (row.get(0), row.get(1));
    Ok(match (is_created, is_available) {
        (true, _) => None,
        (false, true) => Some(problem("not created in this database", "run `postern migrate`")),
        (false, false) => Some(problem(
            "not installed on the database server",
            "install Postern's extension for this PostgreSQL, then run `postern migrate`",
        )),
    })
}

async fn schema(database: &Database) -> Finding {
    let mend = "run `postern migrate`";
    match schema_state::state(database).await {
        Ok(SchemaState::Current) => Ok("up to date".to_owned()),
        Ok(SchemaState::OtherFunctions) => Err(problem("its functions are another version's", mend)),
        Ok(SchemaState::Newer { found }) => Ok(format!("at migration {found}, newer than this program")),
        Ok(SchemaState::Following { release }) => {
            Ok(format!("of {release}, which works with this program until the release after: replace it"))
        }
        Ok(SchemaState::Foreign { release }) => {
            Err(problem(schema_state::foreign(&release), "the release that the message names"))
        }
        Ok(SchemaState::Older { found, expected }) => {
            Err(problem(format!("at migration {found}, this program needs {expected}"), mend))
        }
        Err(error) => Err(problem(error, mend)),
    }
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
                      WHERE n.nspname = ANY ($1::text[])
                        AND (c.relkind IN ('r', 'p', 'v', 'm')
                             AND (has_table_privilege(c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE')
                                  OR has_any_column_privilege(c.oid, 'SELECT, INSERT, UPDATE'))
                             OR c.relkind = 'S' AND has_sequence_privilege(c.oid, 'SELECT, USAGE, UPDATE')))",
            &[&schemas()],
        )
        .await?;
    let (name, superuser, executes): (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
    let tables: Option<String> = row.get(3);
    let lost = roles::missing_settings(database).await?;
    let connect_as = "connect as postern_server in database.url";
    Ok(match tables {
        _ if superuser => Err(problem(format!("{name} is a superuser"), connect_as)),
        _ if !executes => Err(problem(format!("{name} may not execute the API functions"), connect_as)),
        Some(tables) => Err(problem(
            format!("{name} can reach tables: {tables}"),
            "revoke that, or connect as postern_server",
        )),
        None if !lost.is_empty() => Err(problem(
            format!("the settings of postern_server in this database are lost: {}", lost.join(", ")),
            "run `postern migrate`",
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
