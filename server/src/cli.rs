//! The command line: `postern serve`, `migrate` and `check`. It puts configuration, database and server together
//! and turns signals into a shutdown; the work itself is done by the modules it calls.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand, parser::ValueSource};
use postern_cluster::{ClusterOptions, PrivateCluster};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use crate::{
    check,
    config::{Config, ConnectionString, LogConfig, LogFormat, Settings},
    database::Database,
    master_key::{self, MasterKey},
    migrate, serve,
};

const EXAMPLES: &str = "\
Examples:
  postern serve --embedded --domain example.org          everything in one process and one directory
  postern migrate --database-admin-url postgresql://postgres@db/postern
  postern serve --config /etc/postern.toml --listen 127.0.0.1:8008
  postern check --config /etc/postern.toml               what is wrong, and how to mend it

Each setting may stand in the configuration file (TOML; --database-url is `url` in [database], limits and logs
likewise), in the environment variable named beside it, or in the flag: the later of these wins.";

/// An MLS homeserver: end-to-end encrypted messaging for one domain.
#[derive(Parser)]
#[command(name = "postern", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the home domain until SIGTERM or SIGINT
    #[command(after_help = EXAMPLES)]
    Serve(Settings),
    /// Create or update what Postern keeps in the database; safe while servers are running
    #[command(after_help = EXAMPLES)]
    Migrate(Settings),
    /// Check configuration and database, and say how to mend what is wrong
    #[command(after_help = EXAMPLES)]
    Check(Settings),
}

/// Where the configuration came from.
pub struct Sources {
    pub file: Option<PathBuf>,
    pub environment: Vec<String>,
    pub flags: Vec<String>,
    /// Environment variables named `POSTERN_…` that mean nothing to this program.
    pub unknown_environment: Vec<String>,
}

pub fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failure(&error.into()),
    };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Serve(settings) => serve(Config::load(&settings)?).await,
            Command::Migrate(settings) => migrate(Config::load(&settings)?).await,
            Command::Check(settings) => {
                let sources = Sources::of(&settings, matches.subcommand());
                return Ok(match check::run(&settings, &sources).await {
                    true => ExitCode::SUCCESS,
                    false => ExitCode::FAILURE,
                });
            }
        }
        .map(|()| ExitCode::SUCCESS)
    });
    // Blocking work that a client abandoned must not hold up the end of the process.
    runtime.shutdown_background();
    result.unwrap_or_else(|error| failure(&error))
}

fn failure(error: &anyhow::Error) -> ExitCode {
    eprintln!("postern: {error:#}");
    ExitCode::FAILURE
}

async fn serve(mut config: Config) -> anyhow::Result<()> {
    start_logging(&config.log)?;
    let shutdown = Shutdown::on_signals()?;
    let cluster = start_cluster(&mut config, PrivateCluster::start).await?;
    let served = serve_with_database(config, shutdown).await;
    let stopped = stop_cluster(cluster).await;
    served.and(stopped)
}

async fn serve_with_database(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    if config.embedded {
        migrate::run(admin_url(&config)?).await?;
    }
    let master_key = master_key(&config)?;
    let url = config.database.url.as_ref().context(
        "no database: give --database-url URL, or --embedded for a private cluster in the data directory",
    )?;
    let database = Database::new(url, config.database.pool_size)?;
    migrate::expect_current(&database).await?;
    claim_home_domain(&database, &config.domain).await?;
    serve::run(config, database, master_key, shutdown.requested()).await
}

/// OPS-2: the database remembers whose it is, so that a server configured for another domain does not start.
async fn claim_home_domain(database: &Database, domain: &str) -> anyhow::Result<()> {
    let row =
        database.query_one("SELECT outcome, home FROM operator.claim_home_domain($1)", &[&domain]).await?;
    match row.get("outcome") {
        "claimed" | "same" => Ok(()),
        "different" => bail!(
            "this database is the home of {}, and the home domain never changes: set the domain to that, or use another database for {domain}",
            row.get::<_, &str>("home"),
        ),
        _ => bail!(
            "{domain} is not a domain name: it takes at least two labels of letters, digits and inner hyphens (an international name in its xn-- form)"
        ),
    }
}

async fn migrate(mut config: Config) -> anyhow::Result<()> {
    start_logging(&config.log)?;
    let cluster = start_cluster(&mut config, PrivateCluster::start_or_join).await?;
    let migrated = async {
        let report = migrate::run(admin_url(&config)?).await?;
        println!("postern: {report}");
        Ok(())
    }
    .await;
    let stopped = stop_cluster(cluster).await;
    migrated.and(stopped)
}

fn admin_url(config: &Config) -> anyhow::Result<&ConnectionString> {
    config.database.admin_url.as_ref().context(
        "no superuser's connection: give --database-admin-url URL, or --embedded for a private cluster in the data directory",
    )
}

/// The key from where the configuration says; a private cluster gets a key of its own at the first start.
fn master_key(config: &Config) -> Result<MasterKey, master_key::MasterKeyError> {
    match &config.master_key_file {
        None if config.embedded && std::env::var_os(master_key::ENVIRONMENT).is_none() => {
            MasterKey::from_file_or_new(&config.embedded_master_key_file())
        }
        file => MasterKey::load(file.as_deref()),
    }
}

/// Starts the private cluster, if one is wanted, and points the configuration at it.
pub(crate) async fn start_cluster(
    config: &mut Config,
    start: fn(&ClusterOptions) -> anyhow::Result<PrivateCluster>,
) -> anyhow::Result<Option<PrivateCluster>> {
    if !config.embedded {
        return Ok(None);
    }
    let options = ClusterOptions::new(&config.data_dir, &config.extension_dir);
    let cluster = tokio::task::spawn_blocking(move || start(&options)).await??;
    config.database.url = Some(ConnectionString::new(cluster.server_url()));
    config.database.admin_url = Some(ConnectionString::new(cluster.admin_url()));
    Ok(Some(cluster))
}

pub(crate) async fn stop_cluster(cluster: Option<PrivateCluster>) -> anyhow::Result<()> {
    match cluster {
        Some(cluster) => tokio::task::spawn_blocking(move || cluster.stop()).await?,
        None => Ok(()),
    }
}

fn start_logging(config: &LogConfig) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.filter)
        .with_context(|| format!("`{}` is not a log filter", config.filter))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.format {
        LogFormat::Text => subscriber.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => subscriber.json().init(),
    }
    Ok(())
}

/// The first SIGTERM or SIGINT asks for a shutdown; a second one ends the process at once.
struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    fn on_signals() -> anyhow::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (requested, receiver) = watch::channel(false);
        tokio::spawn(async move {
            next_of(&mut terminate, &mut interrupt).await;
            tracing::info!("shutting down; once more to stop at once");
            requested.send_replace(true);
            let number = next_of(&mut terminate, &mut interrupt).await;
            std::process::exit(128 + number);
        });
        Ok(Self(receiver))
    }

    async fn requested(mut self) {
        // An error means that the sender is gone, and with it whoever could ask.
        if self.0.wait_for(|requested| *requested).await.is_err() {
            std::future::pending().await
        }
    }
}

async fn next_of(terminate: &mut Signal, interrupt: &mut Signal) -> i32 {
    tokio::select! {
        _ = terminate.recv() => SignalKind::terminate(),
        _ = interrupt.recv() => SignalKind::interrupt(),
    }
    .as_raw_value()
}

impl Sources {
    fn of(settings: &Settings, command: Option<(&str, &ArgMatches)>) -> Self {
        let mut sources = Self {
            file: Config::file(settings),
            environment: vec![],
            flags: vec![],
            unknown_environment: vec![],
        };
        let definition = Cli::command();
        let Some((definition, matches)) =
            command.and_then(|(name, matches)| Some((definition.find_subcommand(name)?, matches)))
        else {
            return sources;
        };
        let mut known = vec![master_key::ENVIRONMENT.to_owned()];
        for argument in definition.get_arguments() {
            let variable = argument.get_env().map(|name| name.to_string_lossy().into_owned());
            known.extend(variable.clone());
            match matches.value_source(argument.get_id().as_str()) {
                Some(ValueSource::EnvVariable) => sources.environment.extend(variable),
                Some(ValueSource::CommandLine) => {
                    sources.flags.push(format!("--{}", argument.get_long().unwrap_or_default()))
                }
                _ => {}
            }
        }
        sources.unknown_environment = std::env::vars_os()
            .map(|(name, _)| name.to_string_lossy().into_owned())
            .filter(|name| name.starts_with("POSTERN_") && !known.contains(name))
            .collect();
        sources
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_names_the_true_defaults() {
        let Config { listen, limits, log, .. } = Config::default();
        let help = Cli::command().find_subcommand_mut("serve").unwrap().render_long_help().to_string();
        for (flag, default) in [
            ("--listen", listen.to_string()),
            ("--max-body-bytes", limits.max_body_bytes.to_string()),
            ("--long-poll-max-seconds", limits.long_poll_max_seconds.to_string()),
            ("--header-timeout-seconds", limits.header_timeout_seconds.to_string()),
            ("--shutdown-grace-seconds", limits.shutdown_grace_seconds.to_string()),
            ("--log-filter", log.filter),
        ] {
            let about = help.split(flag).nth(1).unwrap_or_default().split("[env").next().unwrap_or_default();
            assert!(about.contains(&format!("[default: {default}]")), "{flag}: {about}");
        }
    }
}
