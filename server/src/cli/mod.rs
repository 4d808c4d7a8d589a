//! The command line: `postern serve`, `migrate`, `check`, `master-key` and `root`. It puts configuration, database and server together
//! and turns signals into a shutdown; the work itself is done by the modules it calls.

mod check;
mod master_key;
mod migrate;
mod private_cluster;
mod root;
mod serve;
mod sources;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::{Config, Settings};
use sources::Sources;

const EXAMPLES: &str = "\
Examples:
  postern serve --embedded --domain example.org          a server with a private PostgreSQL in one directory
  postern migrate --domain example.org --database-admin-url postgresql://postgres@db/postern
  postern serve --config /etc/postern.toml --listen 127.0.0.1:8008
  postern check --config /etc/postern.toml               finds problems, and says how to mend them
  postern master-key change --config /etc/postern.toml   seals the database's secrets under another master key

A setting comes from the configuration file (TOML), from the environment variable shown with it, or from the flag; the
later of these wins. docs/operate/configure.md has the names in the file: --database-url is `url` in [database].";

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
    /// Create or update Postern's tables and functions in the database; safe while servers are running
    #[command(after_help = EXAMPLES)]
    Migrate(Settings),
    /// Check the configuration and the database, and say how to mend each problem
    #[command(after_help = EXAMPLES)]
    Check(Settings),
    /// Change the master key
    #[command(subcommand)]
    MasterKey(master_key::Command),
    /// Make the domain's root, and certify signing keys of the AS with it; offline
    #[command(subcommand)]
    Root(root::Command),
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
            Command::Serve(settings) => serve::run(Config::load(&settings)?).await,
            Command::Migrate(settings) => migrate::run(Config::load(&settings)?).await,
            Command::MasterKey(command) => master_key::run(command).await,
            Command::Root(command) => root::run(&command),
            Command::Check(settings) => {
                let sources = Sources::of(&settings, &Cli::command(), matches.subcommand());
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

#[cfg(test)]
pub fn outcomes() -> Vec<crate::database::outcome::Declared> {
    use crate::database::outcome::declared;
    vec![
        declared::<master_key::BeginMasterKeyChangeOutcome>(),
        declared::<master_key::EndMasterKeyChangeOutcome>(),
        declared::<serve::ClaimHomeDomainOutcome>(),
        declared::<crate::keys::master_keys::ClaimMasterKeyOutcome>(),
    ]
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
        let Config { listen, database, limits, log, .. } = Config::default();
        let help = Cli::command().find_subcommand_mut("serve").unwrap().render_long_help().to_string();
        for (flag, default) in [
            ("--listen", listen.to_string()),
            ("--max-body-bytes", limits.max_body_bytes.to_string()),
            ("--long-poll-max-seconds", limits.long_poll_max_seconds.to_string()),
            ("--header-timeout-seconds", limits.header_timeout_seconds.to_string()),
            ("--max-header-bytes", limits.max_header_bytes.to_string()),
            ("--body-timeout-seconds", limits.body_timeout_seconds.to_string()),
            ("--body-bytes-per-second", limits.body_bytes_per_second.to_string()),
            ("--bodies-bytes", limits.bodies_bytes.to_string()),
            ("--answers-bytes", limits.answers_bytes.to_string()),
            ("--idle-timeout-seconds", limits.idle_timeout_seconds.to_string()),
            ("--http2-streams", limits.http2_streams.to_string()),
            ("--http2-ping-seconds", limits.http2_ping_seconds.to_string()),
            ("--database-wait-seconds", database.wait_seconds.to_string()),
            ("--database-statement-timeout-seconds", database.statement_timeout_seconds.to_string()),
            ("--database-heavy-bytes", database.heavy_bytes.to_string()),
            (
                "--database-heavy-statement-timeout-seconds",
                database.heavy_statement_timeout_seconds.to_string(),
            ),
            ("--shutdown-grace-seconds", limits.shutdown_grace_seconds.to_string()),
            ("--log-filter", log.filter),
        ] {
            let about = help.split(flag).nth(1).unwrap_or_default().split("[env").next().unwrap_or_default();
            assert!(about.contains(&format!("[default: {default}]")), "{flag}: {about}");
        }
    }
}
