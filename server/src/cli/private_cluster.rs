//! The private cluster of a command (`--embedded`), started before the command's work and stopped after it.

use postern_cluster::{ClusterOptions, PrivateCluster};

use crate::config::{Config, ConnectionString};

/// Starts the private cluster, if one is wanted, and points the configuration at it.
pub async fn start(
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

pub async fn stop(cluster: Option<PrivateCluster>) -> anyhow::Result<()> {
    match cluster {
        Some(cluster) => tokio::task::spawn_blocking(move || cluster.stop()).await?,
        None => Ok(()),
    }
}
