//! `postern psql`: PostgreSQL's own client on the servers' database, as a superuser. A private cluster that no server runs is
//! started for it, and stopped afterwards: nothing else leads into that.

use std::ffi::OsString;

use anyhow::{Context, ensure};
use clap::Args;
use postern_cluster::dump_programs;
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
};

use super::{
    migrate::{admin_url, connect},
    private_cluster,
    user::load,
};
use crate::{
    config::{Config, Settings},
    database::{DatabaseError, Way, without_password},
    telemetry,
};

#[derive(Args)]
pub struct Psql {
    #[command(flatten)]
    settings: Settings,
    /// Arguments for psql
    #[arg(last = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

pub async fn run(command: Psql) -> anyhow::Result<()> {
    let config = load(&command.settings)?;
    telemetry::start_logging(&config.log)?;
    // Ctrl-C ends a query, and is psql's alone.
    let _interrupts = signal(SignalKind::interrupt())?;
    private_cluster::during(config, async |config| psql(config, &command.arguments).await).await
}

async fn psql(config: &Config, arguments: &[OsString]) -> anyhow::Result<()> {
    let url = admin_url(config)?;
    let version = "SELECT current_setting('server_version_num')::int / 10000";
    let major: i32 =
        connect(url, "psql").await?.query_one(version, &[]).await.map_err(DatabaseError::from)?.get(0);
    let mut psql = Command::new(dump_programs(u32::try_from(major)?)?.join("psql"));
    psql.arg("--no-password").arg(format!("--dbname={}", without_password(url))).args(arguments);
    // Not among the arguments, which everybody on this machine can see.
    if let Some(password) = Way::of(url)?.config.get_password() {
        psql.env("PGPASSWORD", String::from_utf8(password.to_vec()).context("the password is no text")?);
    }
    let status = psql.status().await.context("cannot run psql")?;
    ensure!(status.success(), "psql ended with {status}");
    Ok(())
}
