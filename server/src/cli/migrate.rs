//! `postern migrate`: brings the database to the state that this program expects.

use anyhow::Context;
use postern_cluster::PrivateCluster;

use super::private_cluster;
use crate::{
    config::{Config, ConnectionString},
    database::migrate,
    telemetry,
};

pub async fn run(mut config: Config) -> anyhow::Result<()> {
    telemetry::start_logging(&config.log)?;
    let cluster = private_cluster::start(&mut config, PrivateCluster::start_or_join).await?;
    let migrated = async {
        let report = migrate::run(admin_url(&config)?).await?;
        println!("postern: {report}");
        Ok(())
    }
    .await;
    let stopped = private_cluster::stop(cluster).await;
    migrated.and(stopped)
}

pub(super) fn admin_url(config: &Config) -> anyhow::Result<&ConnectionString> {
    config.database.admin_url.as_ref().context(
        "there is no connection string for a superuser: give --database-admin-url URL, or --embedded for a private cluster in the data directory",
    )
}
