//! `postern migrate`: brings the database to the state that this program expects.

use anyhow::Context;
use tokio_postgres::Client;

use super::{private_cluster, registration::Registration, setup};
use crate::{
    config::{Config, ConnectionString},
    database::{DatabaseError, connect_as_superuser, migrate},
    say::say,
    telemetry,
};

pub async fn run(config: Config) -> anyhow::Result<()> {
    telemetry::start_logging(&config.log)?;
    setup::expect_done(&config)?;
    let registration = Registration::for_new_of_environment()?;
    private_cluster::during(config, async |config| {
        let report = migrate::run(admin_url(config)?, registration).await?;
        say(&report);
        anyhow::Ok(())
    })
    .await
}

pub(super) fn admin_url(config: &Config) -> anyhow::Result<&ConnectionString> {
    config.database.admin_url.as_ref().context(
        "there is no connection string for a superuser: give --database-admin-url URL, or --embedded for a private cluster in the data directory",
    )
}

/// A superuser's session, for the command of this name.
pub(super) async fn connect(admin_url: &ConnectionString, command: &str) -> anyhow::Result<Client> {
    let client = connect_as_superuser(admin_url, &format!("postern {command}")).await?;
    client
        .batch_execute("SET search_path = pg_catalog, pg_temp; SET lock_timeout = '10s'")
        .await
        .map_err(DatabaseError::from)?;
    Ok(client)
}
