//! The command line: `postern serve` and the other commands, one file or folder each. Other files are for several of them:
//! `private_cluster` starts and stops PostgreSQL for a command, `user` loads its configuration as the right system user,
//! `certificate` looks at the server's certificate, `manifest`, `dump` and `roles` are the parts of a backup, `say` prints what is
//! to end no work.

mod backup;
mod certificate;
mod check;
mod dump;
mod generation;
mod interruption;
mod manifest;
mod master_key;
mod migrate;
mod own_settings;
mod private_cluster;
mod psql;
mod registration;
mod restore;
mod roles;
mod root;
mod serve;
mod setup;
mod sources;
mod status;
mod upgrade_cluster;
mod user;

use std::process::ExitCode;

use anyhow::anyhow;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::{config::Settings, database::release::Release, say::complain};
use sources::Sources;
use user::{load, load_to_look};

const EXAMPLES: &str = "\
Examples:
  postern serve --embedded --domain example.org          a server with a private PostgreSQL in one directory
  postern migrate --domain example.org --database-admin-url postgresql://postgres@db/postern
  postern setup                                          asks, writes the configuration file, and makes all else ready
  postern serve --config postern.toml --listen 127.0.0.1:8008
  postern check --config postern.toml                    finds problems, and says how to mend them
  postern status --config postern.toml                   how it is, on one screen
  postern psql --config postern.toml -- -c 'SELECT * FROM operator.health()'
                                                         opens the database, also where no server runs the private PostgreSQL
  postern master-key change --config postern.toml        seals the database's secrets under another master key
  postern upgrade-cluster --config postern.toml          changes the private cluster to a newer PostgreSQL

A setting comes from the configuration file (TOML), from the environment variable shown with it, or from the flag; the
later of these wins. operate/configure.md of the documentation has the names in the file: --database-url is `url` in [database].";

/// An MLS homeserver: end-to-end encrypted messaging for one domain.
#[derive(Parser)]
#[command(name = "postern", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Ask for what a server needs, write the configuration file, make the database ready, and check all of it
    #[command(after_help = setup::EXAMPLES)]
    Setup(setup::Setup),
    /// Serve the home domain until SIGTERM or SIGINT
    #[command(after_help = EXAMPLES)]
    Serve(Settings),
    /// Create or update Postern's tables and functions in the database; safe while servers are running
    #[command(after_help = EXAMPLES)]
    Migrate(Settings),
    /// Check the configuration and the database, and say how to mend each problem; changes nothing
    #[command(after_help = EXAMPLES)]
    Check(Look),
    /// Show how the server and its database are, on one screen; exits with 0 if all is well, 1 with a warning, 2 with a
    /// problem; changes nothing
    #[command(after_help = EXAMPLES)]
    Status(Status),
    /// Back the database up into a new directory, while servers run, and verify it
    #[command(after_help = backup::EXAMPLES)]
    Backup(backup::Backup),
    /// Make a database of a backup, where there is none
    #[command(after_help = backup::EXAMPLES)]
    Restore(restore::Restore),
    /// Say what became of a database that was put back to an earlier state, without which no server starts
    #[command(subcommand)]
    Generation(generation::Command),
    /// Open psql on the database as a superuser, also where no server runs the private cluster; what follows `--` is for psql
    #[command(after_help = EXAMPLES)]
    Psql(psql::Psql),
    /// Change the master key
    #[command(subcommand)]
    MasterKey(master_key::Command),
    /// Change the private cluster to the newest PostgreSQL that is installed; no server may run on it meanwhile
    #[command(after_help = EXAMPLES)]
    UpgradeCluster(upgrade_cluster::Command),
    /// Make the domain's root, and certify signing keys of the AS with it; offline
    #[command(subcommand)]
    Root(root::Command),
}

/// The option of commands that look at the database and change nothing.
#[derive(Args)]
struct Look {
    /// Start a private cluster that is stopped for the look, and stop it again. As with any start, its settings are
    /// written anew, and a newer PostgreSQL or extension is copied
    #[arg(long)]
    start: bool,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args)]
struct Status {
    /// Ask the server only whether it is ready, as /ready says: for a health check. Prints nothing but the reason why it is not,
    /// and exits with 1 then
    #[arg(long, conflicts_with = "start")]
    ready: bool,
    #[command(flatten)]
    look: Look,
}

/// Runs the program as the release that it is built of.
pub fn main() -> ExitCode {
    main_of(Release::embedded())
}

/// Runs the program as a release, which tests make up (OPS-6).
pub fn main_of(release: Release) -> ExitCode {
    release.rule_this_process();
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failure(&error.into()),
    };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Setup(setup) => return setup::run(setup).await.map(exit),
            Command::Serve(settings) => serve::run(load(&settings)?).await,
            Command::Migrate(settings) => migrate::run(load(&settings)?).await,
            Command::Backup(command) => return backup::run(command).await,
            Command::Restore(command) => restore::run(command).await,
            Command::Generation(command) => generation::run(command).await,
            Command::Psql(command) => psql::run(command).await,
            Command::MasterKey(command) => master_key::run(command).await,
            Command::UpgradeCluster(command) => upgrade_cluster::run(command).await,
            Command::Root(command) => root::run(&command),
            Command::Status(Status { ready: true, look }) => {
                status::ready(&load_to_look(&look.settings)?).await.map_err(|reason| anyhow!(reason))
            }
            Command::Status(Status { look: Look { start, settings }, .. }) => match load_to_look(&settings) {
                Ok(config) => return Ok(status::run(config, start).await),
                Err(error) => {
                    failure(&error);
                    return Ok(ExitCode::from(2));
                }
            },
            Command::Check(Look { start, settings }) => {
                let sources = Sources::of(&settings, &Cli::command(), matches.subcommand());
                return Ok(exit(check::run(&settings, start, &sources).await));
            }
        }
        .map(|()| ExitCode::SUCCESS)
    });
    // Blocking work that a client abandoned must not hold up the end of the process.
    runtime.shutdown_background();
    result.unwrap_or_else(|error| failure(&error))
}

fn exit(all_well: bool) -> ExitCode {
    if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn failure(error: &anyhow::Error) -> ExitCode {
    complain(format_args!("{error:#}"));
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
        declared::<crate::database::witness::NoteMarkOutcome>(),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::Config;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
        // A release build asserts nothing of that; and of two arguments with one id, each sets both.
        let mut commands = vec![Cli::command()];
        while let Some(command) = commands.pop() {
            let mut ids = BTreeSet::new();
            for argument in command.get_arguments() {
                let id = argument.get_id();
                assert!(ids.insert(id.clone()), "postern {}: {id} twice", command.get_name());
            }
            commands.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn help_names_the_true_defaults() {
        let Config { listen, database, limits, metrics, log, .. } = Config::default();
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
            ("--metrics-neighbours", metrics.neighbours.to_string()),
            ("--metrics-count-seconds", metrics.count_seconds.to_string()),
            ("--log-filter", log.filter),
        ] {
            let about = help.split(flag).nth(1).unwrap_or_default().split("[env").next().unwrap_or_default();
            assert!(about.contains(&format!("[default: {default}]")), "{flag}: {about}");
        }
    }
}
