//! `postern generation`: the operator's word on a database that was put back to an earlier state, without which no server
//! starts (QS-12). A private cluster that no server runs can be told in no other way.

use clap::{Args, Subcommand};

use super::{
    migrate::{admin_url, connect},
    private_cluster,
    user::load,
};
use crate::{
    config::{Config, Settings},
    database::DatabaseError,
    say::say,
    telemetry,
};

#[derive(Subcommand)]
pub enum Command {
    /// Begin another generation: the database was put back to an earlier state, and clients are ahead of it
    #[command(after_help = super::EXAMPLES)]
    Begin(Begin),
    /// Say that nothing was lost, although the database is another cluster or timeline, or looks put back
    #[command(after_help = super::EXAMPLES)]
    Keep(Settings),
}

#[derive(Args)]
pub struct Begin {
    /// Least number of the generation, in seconds since 2020, where the clock is or was wrong: greater than any that was in use
    /// before [default: by the clock]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=2_147_483_647))]
    at_least: Option<i64>,
    #[command(flatten)]
    settings: Settings,
}

pub async fn run(command: Command) -> anyhow::Result<()> {
    let (Command::Begin(Begin { settings, .. }) | Command::Keep(settings)) = &command;
    let config = load(settings)?;
    telemetry::start_logging(&config.log)?;
    private_cluster::during(config, async |config| decide(&command, config).await).await
}

async fn decide(command: &Command, config: &Config) -> anyhow::Result<()> {
    let client = connect(admin_url(config)?, "generation").await?;
    match command {
        Command::Begin(Begin { at_least, .. }) => {
            let begin = "SELECT operator.begin_generation($1)";
            let number: i64 = client.query_one(begin, &[at_least]).await.map_err(DatabaseError::from)?.get(0);
            say(format_args!("generation {number} begins: clients learn of it, and fetch new tokens"));
        }
        Command::Keep(_) => {
            let keep = "SELECT operator.keep_generation()";
            let number: i64 = client.query_one(keep, &[]).await.map_err(DatabaseError::from)?.get(0);
            say(format_args!("generation {number} stays: nothing was lost"));
        }
    }
    Ok(())
}
