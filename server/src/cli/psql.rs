//! `postern psql`: PostgreSQL's own client on the servers' database, as a superuser. A private cluster that no server runs is
//! started for it, and stopped afterwards: nothing else leads into that.

use std::ffi::{OsStr, OsString};

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
    database::{DatabaseError, Way},
    telemetry,
};

/// Variables of libpq and psql that say how a session is, and not where.
const OF_SESSIONS: [&str; 7] =
    ["PGAPPNAME", "PGCLIENTENCODING", "PGCONNECT_TIMEOUT", "PGDATESTYLE", "PGGEQO", "PGOPTIONS", "PGTZ"];

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
    let way = Way::of(url)?;
    for (name, _) in std::env::vars_os().filter(|(name, _)| leads_elsewhere(name)) {
        psql.env_remove(name);
    }
    psql.arg("--no-password").arg(format!("--dbname={}", way.for_program(&[], "")?)).args(arguments);
    // Not among the arguments, which everybody on this machine can see.
    if let Some(password) = way.password() {
        psql.env("PGPASSWORD", password);
    }
    let status = psql.status().await.context("cannot run psql")?;
    ensure!(status.success(), "psql ended with {status}");
    Ok(())
}

/// Whether a variable of the environment would tell libpq another way than the connection string.
fn leads_elsewhere(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("PG") && !name.starts_with("PG_") && !OF_SESSIONS.contains(&&*name)
}
